//! Which cgroup hierarchies this host has: v1 (one mount per controller set), hybrid (v1 and an extra cgroup2
//! mount) or unified (cgroup2 alone). cgroups(7), proc_pid_mountinfo(5).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::{Error, Result};
use super::file;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    V1,
    Hybrid,
    Unified,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// What `/proc/<pid>/cgroup` lists for it: controllers, or `name=…`; empty for cgroup2.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// The cgroup that the mount shows as its root: not `/` inside a container without a cgroup namespace.
    pub root: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    mode: Mode,
    v1: Vec<Hierarchy>,
    unified: Option<Hierarchy>,
}

static HOST: OnceLock<Host> = OnceLock::new();

impl Host {
    /// This host, read once.
    pub fn get() -> Result<&'static Host> {
        if let Some(host) = HOST.get() {
            return Ok(host);
        }
        let host = Self::parse(&file::read(Path::new("/proc/self"), "mountinfo")?)?;
        Ok(HOST.get_or_init(|| host))
    }

    /// The host that a mountinfo text describes.
    pub fn parse(mountinfo: &str) -> Result<Host> {
        let (mut v1, mut unified) = (Vec::<Hierarchy>::new(), None::<Hierarchy>);
        for (kind, found) in mountinfo.lines().filter_map(cgroup_mount) {
            if kind == "cgroup2" {
                if unified.as_ref().is_none_or(|known| better(&found, known)) {
                    unified = Some(found);
                }
                continue;
            }
            match v1.iter_mut().find(|known| known.controllers == found.controllers) {
                Some(known) if better(&found, known) => *known = found,
                Some(_) => {}
                None => v1.push(found),
            }
        }
        // COMPAT: cgroup2 on /sys/fs/cgroup itself means unified to runc and containerd, even where some tool
        // has mounted a v1 hierarchy beside it.
        let pure = unified.as_ref().is_some_and(|u| v1.is_empty() || u.mount == Path::new("/sys/fs/cgroup"));
        let mode = match (pure, v1.is_empty(), &unified) {
            (true, ..) => Mode::Unified,
            (_, true, _) => return Err(Error::NoCgroups),
            (_, _, Some(_)) => Mode::Hybrid,
            _ => Mode::V1,
        };
        if pure {
            v1.clear();
        }
        Ok(Host { mode, v1, unified })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn v1_hierarchies(&self) -> &[Hierarchy] {
        &self.v1
    }

    pub fn unified(&self) -> Option<&Hierarchy> {
        self.unified.as_ref()
    }
}

/// Of two mounts of one hierarchy the one under /sys/fs/cgroup is the host's; others are left-over binds.
fn better(new: &Hierarchy, known: &Hierarchy) -> bool {
    let usual = |h: &Hierarchy| h.mount.starts_with("/sys/fs/cgroup");
    usual(new) && !usual(known)
}

/// The hierarchy that one mountinfo line shows, if its file system is a cgroup one.
fn cgroup_mount(line: &str) -> Option<(&str, Hierarchy)> {
    let (mount, fs) = line.split_once(" - ")?;
    let mut fs = fs.split(' ');
    let (kind, options) = (fs.next()?, fs.nth(1).unwrap_or(""));
    if !kind.starts_with("cgroup") {
        return None;
    }
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
    let controllers = if kind == "cgroup" { controllers(options) } else { Vec::new() };
    Some((kind, Hierarchy { controllers, mount: point.into(), root: root.into() }))
}

/// The super block options of a v1 mount without those that are no controller.
fn controllers(options: &str) -> Vec<String> {
    let flags = [
        "rw",
        "ro",
        "xattr",
        "noprefix",
        "clone_children",
        "cpuset_v2_mode",
        "favordynmods",
        "nofavordynmods",
        "seclabel",
    ];
    let known = options.split(',').filter(|o| !flags.contains(o) && !o.starts_with("release_agent="));
    known.map(str::to_owned).collect()
}

/// Undoes mountinfo's octal escapes (`\040`).
pub fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => (out.push(byte), rest = &tail[3..]).1,
            None => (out.push(*first), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
        39 31 0:30 / /mnt/left\\040over rw - cgroup cgroup rw,memory\n\
        33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n";

    #[test]
    fn co_mounted_controllers_are_one_hierarchy_and_the_usual_mount_wins() {
        let host = Host::parse(V1).unwrap();
        assert_eq!(host.mode(), Mode::V1);
        let all: Vec<_> =
            host.v1_hierarchies().iter().map(|h| (h.controllers.join(","), h.mount.clone())).collect();
        assert_eq!(
            all,
            [
                ("cpu,cpuacct".to_owned(), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")),
                ("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory")),
                ("name=systemd".to_owned(), PathBuf::from("/sys/fs/cgroup/systemd")),
            ]
        );
    }

    #[test]
    fn a_second_cgroup2_mount_makes_it_hybrid() {
        let host = Host::parse(&format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"))
            .unwrap();
        assert_eq!(host.mode(), Mode::Hybrid);
        assert_eq!(host.unified().unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn cgroup2_on_its_usual_place_is_unified_whatever_else_is_mounted() {
        let line = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let host = Host::parse(&format!("{line}42 1 0:39 / /mnt rw - cgroup cgroup rw,name=x\n")).unwrap();
        assert_eq!((host.mode(), host.v1_hierarchies().len()), (Mode::Unified, 0));
        assert!(matches!(Host::parse("1 1 0:1 / / rw - ext4 a rw\n"), Err(Error::NoCgroups)));
    }

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c\\9"), "/a b\\c\\9");
    }
}
