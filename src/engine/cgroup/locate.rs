//! Where a container's cgroup lies in each hierarchy: naming only, nothing is made.
//!
//! COMPAT: an absolute path starts at the mount root; a relative one, and the container's id when no path is
//! given, start at the shim's own cgroup (on cgroup2 at its parent, because a cgroup that holds processes
//! cannot hand controllers to children). This is what runc's cgroupfs driver does.

use std::path::{Component, Path, PathBuf};

use super::error::{Error, Result};
use super::host::{Hierarchy, Host};
use super::systemd::{Owner, Unit, manager_cgroup};
use super::{Cgroup, Dir, file};

/// `linux.cgroupsPath` by driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// cgroupfs driver: relative to the mount root.
    Absolute(PathBuf),
    /// cgroupfs driver: relative to the shim's own cgroup.
    Relative(PathBuf),
    /// systemd driver.
    Systemd { slice: String, prefix: String, name: String },
}

impl CgroupsPath {
    /// Reads the spec's path; without one the container's id is the name. `systemd` is the option SystemdCgroup.
    pub fn parse(path: Option<&Path>, id: &str, systemd: bool) -> Result<CgroupsPath> {
        let given = path.filter(|p| !p.as_os_str().is_empty());
        if systemd && given.is_none() {
            // COMPAT: runc's name for a scope that nobody named.
            return Ok(Self::Systemd { slice: String::new(), prefix: "runc".into(), name: id.to_owned() });
        }
        let path = given.unwrap_or(Path::new(id));
        let text = path.to_string_lossy();
        if !text.starts_with('/')
            && let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..]
        {
            let (slice, prefix, name) = (slice.to_owned(), prefix.to_owned(), name.to_owned());
            return Ok(Self::Systemd { slice, prefix, name });
        }
        if systemd {
            let reason =
                "SystemdCgroup is set, and systemd's form is slice:prefix:name; give such a path, or none";
            return Err(Error::Path { path: text.into_owned(), reason });
        }
        let clean = clean(path)?;
        Ok(if path.is_absolute() { Self::Absolute(clean) } else { Self::Relative(clean) })
    }
}

/// The path without `/`, `.` and empty components at either end; `..` and the root itself are refused.
fn clean(path: &Path) -> Result<PathBuf> {
    let refuse = |reason| Error::Path { path: path.to_string_lossy().into_owned(), reason };
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(refuse("'..' is not allowed; give a clean path")),
            _ => {}
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(refuse("a container cannot own the root cgroup; give a path below it"));
    }
    Ok(clean)
}

impl Cgroup {
    /// Names the container's cgroup in every hierarchy of `host`.
    pub fn locate(cgroups_path: Option<&Path>, id: &str, host: &Host, systemd: bool) -> Result<Cgroup> {
        let (inner, own) = match CgroupsPath::parse(cgroups_path, id, systemd)? {
            CgroupsPath::Absolute(inner) => (inner, None),
            CgroupsPath::Relative(inner) => (inner, Some(file::read(Path::new("/proc/self"), "cgroup")?)),
            CgroupsPath::Systemd { slice, prefix, name } => {
                let unit = Unit::new(&slice, &prefix, &name, Owner::of_this_process())?;
                return Self::of_scope(unit, host);
            }
        };
        Ok(Self::at(&inner, own.as_deref(), host))
    }

    /// Where systemd puts the scope's cgroup: below its slice, in every hierarchy alike.
    fn of_scope(unit: Unit, host: &Host) -> Result<Cgroup> {
        if unit.owner == Owner::User && !host.v1_hierarchies().is_empty() {
            let reason = "an ordinary user's systemd has no limits to give on cgroup v1; it needs cgroup v2";
            return Err(Error::Path { path: unit.name, reason });
        }
        let inner = manager_cgroup(unit.owner)?.join(unit.path());
        let all = Self::at(&inner, None, host);
        Ok(Cgroup::of_unit(all.v1().to_vec(), all.unified().cloned(), unit))
    }

    fn at(inner: &Path, own: Option<&str>, host: &Host) -> Cgroup {
        let base = |h: &Hierarchy| own.and_then(|text| member_dir(text, h)).unwrap_or(h.mount.clone());
        let dir = |h: &Hierarchy, base: PathBuf| Dir {
            controllers: h.controllers.clone(),
            mount: h.mount.clone(),
            dir: base.join(inner),
        };
        let v1 = host.v1_hierarchies().iter().map(|h| dir(h, base(h))).collect();
        let unified = host.unified().map(|h| {
            let base = base(h);
            let alone = host.v1_hierarchies().is_empty() && base != h.mount;
            dir(h, if alone { base.parent().unwrap_or(&h.mount).to_owned() } else { base })
        });
        Cgroup::new(v1, unified)
    }
}

/// The directory of the cgroup that a `/proc/<pid>/cgroup` text names for a hierarchy, if the mount shows it.
pub(super) fn member_dir(text: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let controllers = hierarchy.controllers.join(",");
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (list, path) = rest.split_once(':')?;
        same_set(list, &controllers).then_some(path)
    })?;
    let inside = Path::new(path).strip_prefix(&hierarchy.root).ok()?;
    let named = inside.components().all(|c| matches!(c, Component::Normal(_)));
    named.then(|| {
        if inside.as_os_str().is_empty() { hierarchy.mount.clone() } else { hierarchy.mount.join(inside) }
    })
}

/// Whether two comma lists name the same hierarchy: any shared controller does, for one controller is in one.
fn same_set(a: &str, b: &str) -> bool {
    if a.is_empty() || b.is_empty() { a == b } else { a.split(',').any(|c| b.split(',').any(|d| c == d)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "1 0 0:1 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        2 0 0:2 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
        3 0 0:3 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    const UNIFIED: &str = "3 0 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    fn dirs(cgroup: &Cgroup) -> Vec<String> {
        cgroup.dirs().map(|d| d.dir.display().to_string()).collect()
    }

    #[test]
    fn an_absolute_path_starts_at_every_mount_root() {
        let host = Host::parse(HYBRID).unwrap();
        let cgroup = Cgroup::locate(Some(Path::new("/default//./c1")), "c1", &host, false).unwrap();
        assert_eq!(
            dirs(&cgroup),
            ["/cg/cpu,cpuacct/default/c1", "/cg/systemd/default/c1", "/cg/unified/default/c1"]
        );
    }

    #[test]
    fn a_relative_path_starts_at_the_own_cgroup_of_each_v1_hierarchy() {
        let host = Host::parse(HYBRID).unwrap();
        let own = "2:cpuacct,cpu:/a\n1:name=systemd:/s\n0::/u\n";
        let cgroup = Cgroup::at(Path::new("c1"), Some(own), &host);
        assert_eq!(dirs(&cgroup), ["/cg/cpu,cpuacct/a/c1", "/cg/systemd/s/c1", "/cg/unified/u/c1"]);
    }

    #[test]
    fn on_cgroup2_a_relative_path_is_a_sibling_of_the_own_cgroup() {
        let host = Host::parse(UNIFIED).unwrap();
        let place = |own: &str| dirs(&Cgroup::at(Path::new("c1"), Some(own), &host));
        assert_eq!(place("0::/system.slice/x.service\n"), ["/sys/fs/cgroup/system.slice/c1"]);
        assert_eq!(place("0::/\n"), ["/sys/fs/cgroup/c1"]);
    }

    #[test]
    fn a_mount_that_shows_a_sub_tree_hides_what_lies_above() {
        let host = Host::parse("1 0 0:1 /docker/x /cg/memory rw - cgroup cgroup rw,memory\n").unwrap();
        let h = &host.v1_hierarchies()[0];
        assert_eq!(member_dir("4:memory:/docker/x/y\n", h), Some("/cg/memory/y".into()));
        assert_eq!(member_dir("4:memory:/docker/x\n", h), Some("/cg/memory".into()));
        assert_eq!(member_dir("4:memory:/other\n", h), None);
        assert_eq!(member_dir("4:memory:/docker/x/../..\n", h), None);
    }

    #[test]
    fn dot_dot_and_the_root_are_refused() {
        let host = Host::parse(HYBRID).unwrap();
        for bad in ["/a/../b", "/", ".."] {
            assert!(Cgroup::locate(Some(Path::new(bad)), "c1", &host, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_systemd_driver_is_known_by_the_form_of_the_path_and_by_the_option() {
        let host = Host::parse(HYBRID).unwrap();
        let place = |path: &str, option| {
            Cgroup::locate(Some(Path::new(path)), "c1", &host, option).map(|cgroup| dirs(&cgroup)[1].clone())
        };
        for option in [false, true] {
            assert_eq!(place("a-b.slice:p:n", option).unwrap(), "/cg/systemd/a.slice/a-b.slice/p-n.scope");
        }
        assert_eq!(place("", true).unwrap(), "/cg/systemd/system.slice/runc-c1.scope");
        assert!(place("/default/c1", true).unwrap_err().to_string().contains("slice:prefix:name"));
        assert!(place("no slice:p:n", false).is_err());
    }
}
