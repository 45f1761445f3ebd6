//! The options of an OCI mount, from strings to what the mount API takes. The table is also what `features` lists.
//!
//! Decides what each word means; the engine decides in which call it lands. `mount_setattr(2)`, `fsconfig(2)`,
//! `mount(8)`; the words are runc's and crun's.

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

/// Attribute bits to set and to clear, ready for `struct mount_attr`: the last word about a bit wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
}

/// `idmap` or `ridmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idmap {
    pub recursive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Of this mount alone.
    pub attributes: Attributes,
    /// Of this mount and all below it (`rro`, `rnosuid`, …).
    pub recursive: Attributes,
    /// `MS_*` propagation changes, each a call of its own, in order.
    pub propagation: Vec<libc::c_ulong>,
    /// `fsconfig` flags of the VFS for a new superblock (`ro`, `sync`, …). A bind mount has none to change.
    pub superblock: Vec<&'static str>,
    /// What the filesystem itself is told: `key=value` or a flag, in order.
    pub data: Vec<String>,
    pub bind: bool,
    /// With `bind`: take the mounts below as well.
    pub rbind: bool,
    pub remount: bool,
    pub idmap: Option<Idmap>,
    /// Copy what the image has at the destination into the new tmpfs.
    pub tmpcopyup: bool,
    /// Re-create a source that is a symlink as a symlink.
    pub copy_symlink: bool,
    /// Bind the symlink itself, not what it points to.
    pub src_nofollow: bool,
    /// The destination may be a symlink and is mounted on as such.
    pub dest_nofollow: bool,
}

impl MountOptions {
    /// Never fails: a word that is not in the table belongs to the filesystem.
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            let option = option.as_ref();
            match find(option) {
                Some(effect) => parsed.apply(effect),
                None => parsed.data.extend(split_data(option).map(str::to_owned)),
            }
        }
        parsed
    }

    fn apply(&mut self, effect: Effect) {
        use Effect::{
            Bind, Clear, CopySymlink, DestNofollow, Ids, Nothing, Propagate, ReadOnly, ReadWrite,
            RecursiveClear, RecursiveSet, Remount, Set, SrcNofollow, Super, TmpCopyUp,
        };
        match effect {
            Nothing => {}
            Set(bits) => self.attributes.set_bits(bits),
            Clear(bits) => self.attributes.clear_bits(bits),
            RecursiveSet(bits) => self.recursive.set_bits(bits),
            RecursiveClear(bits) => self.recursive.clear_bits(bits),
            // mount(2) took one word for both the mount and its superblock.
            ReadOnly => {
                self.attributes.set_bits(MOUNT_ATTR_RDONLY);
                self.superblock_flag("ro", "rw");
            }
            ReadWrite => {
                self.attributes.clear_bits(MOUNT_ATTR_RDONLY);
                self.superblock_flag("rw", "ro");
            }
            Super(flag, opposite) => self.superblock_flag(flag, opposite),
            Propagate(flags) => self.propagation.push(flags),
            Bind { recursive } => {
                self.bind = true;
                self.rbind |= recursive;
            }
            Ids { recursive } => self.idmap = Some(Idmap { recursive }),
            Remount => self.remount = true,
            TmpCopyUp => self.tmpcopyup = true,
            CopySymlink => self.copy_symlink = true,
            SrcNofollow => self.src_nofollow = true,
            DestNofollow => self.dest_nofollow = true,
        }
    }

    fn superblock_flag(&mut self, flag: &'static str, opposite: &'static str) {
        self.superblock.retain(|present| *present != flag && *present != opposite);
        self.superblock.push(flag);
    }
}

impl Attributes {
    /// KERNEL: the access-time bits are a number, not flags: whoever sets one must clear the whole field first.
    fn set_bits(&mut self, bits: u64) {
        if is_access_time(bits) {
            self.set &= !MOUNT_ATTR__ATIME;
            self.clear |= MOUNT_ATTR__ATIME;
        } else {
            self.clear &= !bits;
        }
        self.set |= bits;
    }

    /// Clearing `noatime` or `strictatime` leaves the default, `relatime`, whose number is 0.
    fn clear_bits(&mut self, bits: u64) {
        if is_access_time(bits) {
            if self.set & MOUNT_ATTR__ATIME == bits {
                self.set &= !MOUNT_ATTR__ATIME;
            }
            self.clear |= MOUNT_ATTR__ATIME;
        } else {
            self.set &= !bits;
            self.clear |= bits;
        }
    }
}

fn is_access_time(bits: u64) -> bool {
    bits & MOUNT_ATTR__ATIME == bits
}

/// Every option of the table, sorted.
pub fn known() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

fn find(option: &str) -> Option<Effect> {
    let at = TABLE.binary_search_by(|(name, _)| (*name).cmp(option)).ok()?;
    Some(TABLE[at].1)
}

/// COMPAT: runc joins what it does not know with commas and the kernel splits it again, outside of quotes.
fn split_data(option: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let outside = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    option.split(outside).filter(|part| !part.is_empty())
}

#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    Set(u64),
    Clear(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    ReadOnly,
    ReadWrite,
    /// A flag of the superblock, and the one it undoes.
    Super(&'static str, &'static str),
    Propagate(libc::c_ulong),
    Bind {
        recursive: bool,
    },
    Ids {
        recursive: bool,
    },
    Remount,
    TmpCopyUp,
    CopySymlink,
    SrcNofollow,
    DestNofollow,
}

/// Sorted by name, for the binary search.
///
/// KERNEL: `iversion` and `silent` were flags of mount(2) only, fsconfig(2) does not know them and filesystems that
/// keep a change counter switch it on by themselves (since 6.1); `relatime` has been the default since 2.6.30.
const TABLE: &[(&str, Effect)] = &[
    ("async", Effect::Super("async", "sync")),
    ("atime", Effect::Clear(MOUNT_ATTR_NOATIME)),
    ("bind", Effect::Bind { recursive: false }),
    ("copy-symlink", Effect::CopySymlink),
    ("defaults", Effect::Nothing),
    ("dest-nofollow", Effect::DestNofollow),
    ("dev", Effect::Clear(MOUNT_ATTR_NODEV)),
    ("diratime", Effect::Clear(MOUNT_ATTR_NODIRATIME)),
    ("dirsync", Effect::Super("dirsync", "")),
    ("exec", Effect::Clear(MOUNT_ATTR_NOEXEC)),
    ("idmap", Effect::Ids { recursive: false }),
    ("iversion", Effect::Nothing),
    ("lazytime", Effect::Super("lazytime", "nolazytime")),
    ("loud", Effect::Nothing),
    ("mand", Effect::Super("mand", "nomand")),
    ("noatime", Effect::Set(MOUNT_ATTR_NOATIME)),
    ("nodev", Effect::Set(MOUNT_ATTR_NODEV)),
    ("nodiratime", Effect::Set(MOUNT_ATTR_NODIRATIME)),
    ("noexec", Effect::Set(MOUNT_ATTR_NOEXEC)),
    ("noiversion", Effect::Nothing),
    ("nolazytime", Effect::Super("nolazytime", "lazytime")),
    ("nomand", Effect::Super("nomand", "mand")),
    ("norelatime", Effect::Nothing),
    ("nostrictatime", Effect::Clear(MOUNT_ATTR_STRICTATIME)),
    ("nosuid", Effect::Set(MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Effect::Set(MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Effect::Propagate(MS_PRIVATE)),
    ("ratime", Effect::RecursiveClear(MOUNT_ATTR_NOATIME)),
    ("rbind", Effect::Bind { recursive: true }),
    ("rdev", Effect::RecursiveClear(MOUNT_ATTR_NODEV)),
    ("rdiratime", Effect::RecursiveClear(MOUNT_ATTR_NODIRATIME)),
    ("relatime", Effect::Set(MOUNT_ATTR_RELATIME)),
    ("remount", Effect::Remount),
    ("rexec", Effect::RecursiveClear(MOUNT_ATTR_NOEXEC)),
    ("ridmap", Effect::Ids { recursive: true }),
    ("rnoatime", Effect::RecursiveSet(MOUNT_ATTR_NOATIME)),
    ("rnodev", Effect::RecursiveSet(MOUNT_ATTR_NODEV)),
    ("rnodiratime", Effect::RecursiveSet(MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", Effect::RecursiveSet(MOUNT_ATTR_NOEXEC)),
    ("rnorelatime", Effect::Nothing),
    ("rnostrictatime", Effect::RecursiveClear(MOUNT_ATTR_STRICTATIME)),
    ("rnosuid", Effect::RecursiveSet(MOUNT_ATTR_NOSUID)),
    ("rnosymfollow", Effect::RecursiveSet(MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Effect::ReadOnly),
    ("rprivate", Effect::Propagate(MS_PRIVATE | MS_REC)),
    ("rrelatime", Effect::RecursiveSet(MOUNT_ATTR_RELATIME)),
    ("rro", Effect::RecursiveSet(MOUNT_ATTR_RDONLY)),
    ("rrw", Effect::RecursiveClear(MOUNT_ATTR_RDONLY)),
    ("rshared", Effect::Propagate(MS_SHARED | MS_REC)),
    ("rslave", Effect::Propagate(MS_SLAVE | MS_REC)),
    ("rstrictatime", Effect::RecursiveSet(MOUNT_ATTR_STRICTATIME)),
    ("rsuid", Effect::RecursiveClear(MOUNT_ATTR_NOSUID)),
    ("rsymfollow", Effect::RecursiveClear(MOUNT_ATTR_NOSYMFOLLOW)),
    ("runbindable", Effect::Propagate(MS_UNBINDABLE | MS_REC)),
    ("rw", Effect::ReadWrite),
    ("shared", Effect::Propagate(MS_SHARED)),
    ("silent", Effect::Nothing),
    ("slave", Effect::Propagate(MS_SLAVE)),
    ("src-nofollow", Effect::SrcNofollow),
    ("strictatime", Effect::Set(MOUNT_ATTR_STRICTATIME)),
    ("suid", Effect::Clear(MOUNT_ATTR_NOSUID)),
    ("symfollow", Effect::Clear(MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", Effect::Super("sync", "async")),
    ("tmpcopyup", Effect::TmpCopyUp),
    ("unbindable", Effect::Propagate(MS_UNBINDABLE)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_option_of_the_table_is_found_and_is_no_data() {
        for name in known() {
            assert!(parse(name).data.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_tmpfs_as_containerd_writes_it() {
        let dev = parse("nosuid strictatime mode=755 size=65536k");
        assert_eq!(dev.attributes.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
        assert_eq!(dev.attributes.clear, MOUNT_ATTR__ATIME);
        assert_eq!(dev.data, ["mode=755", "size=65536k"]);
        assert!(!dev.bind && dev.superblock.is_empty() && dev.propagation.is_empty());
    }

    #[test]
    fn a_volume_as_kubernetes_writes_it() {
        let volume = parse("rbind rprivate ro");
        assert!(volume.bind && volume.rbind);
        assert_eq!(volume.propagation, [MS_PRIVATE | MS_REC]);
        assert_eq!(volume.attributes, Attributes { set: MOUNT_ATTR_RDONLY, clear: 0 });
        assert_eq!(volume.recursive, Attributes::default());
    }

    #[test]
    fn the_last_word_about_a_bit_wins() {
        assert_eq!(parse("ro rw").attributes, Attributes { set: 0, clear: MOUNT_ATTR_RDONLY });
        assert_eq!(parse("rw ro").attributes, Attributes { set: MOUNT_ATTR_RDONLY, clear: 0 });
        assert_eq!(parse("ro rw").superblock, ["rw"]);
        assert_eq!(parse("sync async").superblock, ["async"]);
        assert_eq!(parse("rnosuid rsuid").recursive, Attributes { set: 0, clear: MOUNT_ATTR_NOSUID });
    }

    #[test]
    fn access_times_are_one_field() {
        let expect = |set| Attributes { set, clear: MOUNT_ATTR__ATIME };
        assert_eq!(parse("noatime").attributes, expect(MOUNT_ATTR_NOATIME));
        assert_eq!(parse("noatime relatime").attributes, expect(MOUNT_ATTR_RELATIME));
        assert_eq!(parse("noatime strictatime").attributes, expect(MOUNT_ATTR_STRICTATIME));
        assert_eq!(parse("noatime atime").attributes, expect(0));
        assert_eq!(parse("strictatime atime").attributes, expect(MOUNT_ATTR_STRICTATIME));
        assert_eq!(parse("rnoatime ratime").recursive, expect(0));
        assert_eq!(parse("rrelatime").recursive, expect(0));
        assert_eq!(parse("nodiratime").attributes, Attributes { set: MOUNT_ATTR_NODIRATIME, clear: 0 });
    }

    #[test]
    fn attributes_never_ask_for_what_mount_setattr_refuses() {
        for first in known() {
            for second in known() {
                let both = MountOptions::parse(&[first, second]);
                for attributes in [both.attributes, both.recursive] {
                    let plain = !MOUNT_ATTR__ATIME;
                    assert_eq!(attributes.set & attributes.clear & plain, 0, "{first},{second}");
                    let field = attributes.clear & MOUNT_ATTR__ATIME;
                    assert!(field == 0 || field == MOUNT_ATTR__ATIME, "{first},{second}");
                    assert!(attributes.set & MOUNT_ATTR__ATIME == 0 || field != 0, "{first},{second}");
                }
            }
        }
    }

    #[test]
    fn propagation_changes_keep_their_order() {
        assert_eq!(parse("bind rslave rshared").propagation, [MS_SLAVE | MS_REC, MS_SHARED | MS_REC]);
    }

    #[test]
    fn data_is_split_at_commas_outside_of_quotes() {
        assert_eq!(parse("mode=1777,size=1k").data, ["mode=1777", "size=1k"]);
        let context = r#"context="system_u:object_r:container_file_t:s0:c1,c2""#;
        assert_eq!(parse(context).data, [context]);
        assert_eq!(parse("acl").data, ["acl"]);
    }

    #[test]
    fn extensions_are_recognised() {
        assert_eq!(parse("idmap").idmap, Some(Idmap { recursive: false }));
        assert_eq!(parse("idmap ridmap").idmap, Some(Idmap { recursive: true }));
        let all = parse("tmpcopyup copy-symlink src-nofollow dest-nofollow remount");
        assert!(all.tmpcopyup && all.copy_symlink && all.src_nofollow && all.dest_nofollow && all.remount);
    }
}
