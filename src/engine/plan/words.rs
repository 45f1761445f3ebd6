//! Bits of the kernel's calls as the words that specs and mount(8) have for them, for plans that people read.

/// Attributes of mount_setattr(2).
const ATTRIBUTES: [(u64, &str, &str); 6] = [
    (libc::MOUNT_ATTR_RDONLY, "ro", "rw"),
    (libc::MOUNT_ATTR_NOSUID, "nosuid", "suid"),
    (libc::MOUNT_ATTR_NODEV, "nodev", "dev"),
    (libc::MOUNT_ATTR_NOEXEC, "noexec", "exec"),
    (libc::MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime"),
    (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow"),
];

const NAMESPACES: [(i32, &str); 8] = [
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWNS, "mount"),
    (libc::CLONE_NEWNET, "network"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWTIME, "time"),
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWUTS, "uts"),
];

/// What is set and cleared, each word after a space.
pub fn attributes(set: u64, clear: u64) -> String {
    let mut words = String::new();
    for (bit, on, off) in ATTRIBUTES {
        let word = if set & bit != 0 { on } else { off };
        if (set | clear) & bit != 0 {
            words += &format!(" {word}");
        }
    }
    // The access-time bits are a number; who sets it clears the whole field first.
    if clear & libc::MOUNT_ATTR__ATIME != 0 {
        words += match set & libc::MOUNT_ATTR__ATIME {
            libc::MOUNT_ATTR_NOATIME => " noatime",
            libc::MOUNT_ATTR_STRICTATIME => " strictatime",
            _ => " relatime",
        };
    }
    words
}

/// `MS_*` of a propagation change.
pub fn propagation(flags: u64) -> String {
    let word = match flags & !libc::MS_REC {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_PRIVATE => "private",
        libc::MS_UNBINDABLE => "unbindable",
        _ => return format!("{flags:#x}"),
    };
    format!("{}{word}", if flags & libc::MS_REC != 0 { "r" } else { "" })
}

/// `CLONE_NEW*`, sorted.
pub fn namespaces(flags: u64) -> String {
    let names: Vec<_> =
        NAMESPACES.iter().filter(|(bit, _)| flags & *bit as u64 != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::mount_options::MountOptions;

    #[test]
    fn attributes_print_as_the_options_they_came_from() {
        for option in ["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "strictatime", "relatime"] {
            let parsed = MountOptions::parse(&[option]).attributes;
            assert_eq!(attributes(parsed.set, parsed.clear), format!(" {option}"));
        }
        assert_eq!(attributes(0, 0), "");
    }

    #[test]
    fn propagation_prints_as_the_option_it_came_from() {
        for option in ["shared", "rshared", "slave", "rprivate", "unbindable"] {
            assert_eq!(propagation(MountOptions::parse(&[option]).propagation[0]), option);
        }
    }

    #[test]
    fn namespaces_have_the_names_of_the_spec() {
        let flags = (libc::CLONE_NEWNET | libc::CLONE_NEWUSER | libc::CLONE_NEWTIME) as u64;
        assert_eq!((namespaces(flags).as_str(), namespaces(0).as_str()), ("network time user", "none"));
    }
}
