//! The options of a rootfs mount: those that containerd's own mount code carries out (`loop`, `uidmap=`, `gidmap=`,
//! `direct-io`), taken out of the list, and the rest, which is the kernel's.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::engine::error::Error;
use crate::engine::userns::Mapping;
use crate::oci::mount_options::MountOptions;

pub struct Asked {
    pub options: MountOptions,
    pub mapping: Option<Mapping>,
    /// The source is a file, to be mounted through a loop device.
    pub on_loop: bool,
    /// Without the page cache of the loop device's file.
    pub direct: bool,
}

impl Asked {
    /// # Errors
    /// Names the option and how it is written.
    pub fn parse(words: &[String]) -> Result<Self, Error> {
        let value = |key: &str| words.iter().rev().find_map(|word| word.strip_prefix(key));
        let mapping = match (value("uidmap="), value("gidmap=")) {
            (None, None) => None,
            (Some(uids), Some(gids)) => {
                Some(Mapping { uids: table("uidmap", uids)?, gids: table("gidmap", gids)? })
            }
            _ => return Err(Error::Spec("uidmap= and gidmap= come together: give both".into())),
        };
        let on_loop = words.iter().any(|word| word == "loop");
        let direct = on_loop && words.iter().any(|word| word == "direct-io");
        if let Some(internal) = words.iter().find(|word| word.starts_with("X-containerd.")) {
            return Err(Error::Spec(format!("option {internal:?} is for containerd's mount manager only")));
        }
        let taken = |word: &&String| {
            word.starts_with("uidmap=")
                || word.starts_with("gidmap=")
                || on_loop && (*word == "loop" || *word == "direct-io")
        };
        let rest: Vec<_> = words.iter().filter(|word| !taken(word)).collect();
        Ok(Self { options: MountOptions::parse(&rest), mapping, on_loop, direct })
    }

    pub fn read_only(&self) -> bool {
        self.options.attributes.set & libc::MOUNT_ATTR_RDONLY != 0
    }
}

/// `container:host:size[,container:host:size…]`.
fn table(key: &str, text: &str) -> Result<Vec<LinuxIdMapping>, Error> {
    let refused = || Error::Spec(format!("option {key}={text:?} must be container:host:size[,…] in numbers"));
    let range = |range: &str| {
        let numbers: Vec<u32> = range.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [container, host, size] = numbers[..] else { return None };
        LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build().ok()
    };
    text.split(',').map(|part| range(part).ok_or_else(refused)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, Error> {
        Asked::parse(&words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn mappings_are_taken_out_with_all_their_ranges() {
        let asked = parse(&["uidmap=0:1000:1,1:100000:65535", "gidmap=0:5:1", "lowerdir=/a:/b"]).unwrap();
        let mapping = asked.mapping.unwrap();
        assert_eq!(
            (mapping.uids.len(), mapping.uids[1].host_id(), mapping.gids[0].host_id()),
            (2, 100_000, 5)
        );
        assert_eq!(asked.options.data, ["lowerdir=/a:/b"]);
    }

    #[test]
    fn half_a_mapping_and_a_garbled_one_are_refused() {
        for words in
            [&["uidmap=0:0:1"][..], &["uidmap=0:0", "gidmap=0:0:1"], &["uidmap=0:x:1", "gidmap=0:0:1"]]
        {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn loop_and_direct_io_are_containerds_words() {
        let asked = parse(&["ro", "loop", "direct-io"]).unwrap();
        assert!(asked.on_loop && asked.direct && asked.read_only() && asked.options.data.is_empty());
        assert_eq!(parse(&["direct-io"]).unwrap().options.data, ["direct-io"]);
    }
}
