//! Where the shim stands among the host's processes: OOM score, cgroup, core scheduling.
//!
//! Applied to the `start` process; the shim inherits all three by fork. See proc_pid_oom_score_adj(5), cgroups(7).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::sys;

const MAX_OOM_SCORE: i32 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    #[error("SCHED_CORE is set, but this kernel cannot give the shim a core scheduling cookie: {0}")]
    SchedCore(sys::Error),
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("ShimCgroup {0:?}: no cgroup hierarchy is mounted")]
    NoHierarchy(String),
    #[error("ShimCgroup {0:?}: the path must not contain \"..\"")]
    Outside(String),
}

/// What was made on the way, for a start that fails afterwards.
#[derive(Debug, Default)]
pub struct Placed {
    /// Folders, in the order of their making.
    made: Vec<PathBuf>,
    /// Where this process has gone, and where it may go back to.
    left: Vec<PathBuf>,
}

/// Takes the place containerd and the options ask for.
pub fn apply(shim_cgroup: &str, placed: &mut Placed) -> Result<(), PlacementError> {
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        sched_core()?;
    }
    oom_score()?;
    if shim_cgroup.is_empty() { Ok(()) } else { join(shim_cgroup, placed) }
}

impl Placed {
    /// Leaves the ShimCgroup and removes what of it was made. The failure that brought us here is the one to tell.
    pub fn undo(&mut self) {
        for file in self.left.drain(..) {
            let _ = fs::write(file, "0");
        }
        for dir in self.made.drain(..).rev() {
            let _ = fs::remove_dir(dir);
        }
    }

    /// create_dir_all that remembers.
    fn create(&mut self, mount: &Path, relative: &Path) -> io::Result<()> {
        let mut dir = mount.to_owned();
        for component in relative.components() {
            dir.push(component);
            match fs::create_dir(&dir) {
                Ok(()) => self.made.push(dir.clone()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn sched_core() -> Result<(), PlacementError> {
    match sys::daemon::sched_core_create() {
        // KERNEL: without SMT no core is shared, and there is nothing to protect.
        Err(e) if e.is(libc::ENODEV) => Ok(()),
        other => other.map_err(PlacementError::SchedCore),
    }
}

/// One above containerd's: when memory runs out, the shim goes before the daemon and after the workloads.
fn oom_score() -> Result<(), PlacementError> {
    let parent = format!("/proc/{}/oom_score_adj", std::os::unix::process::parent_id());
    // The parent may be gone, or in another pid namespace; then what was inherited is the best guess.
    let own = Path::new("/proc/self/oom_score_adj");
    let text =
        fs::read_to_string(parent).or_else(|_| fs::read_to_string(own)).map_err(failed("read", own))?;
    let wanted = (text.trim().parse::<i32>().unwrap_or(0) + 1).min(MAX_OOM_SCORE);
    match fs::write(own, wanted.to_string()) {
        // Lowering it takes CAP_SYS_RESOURCE, which a restricted host withholds; a higher score is no reason to fail.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(failed("write", own)),
    }
}

/// A mounted cgroup hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    v2: bool,
    cpuset: bool,
}

/// Moves this process into `cgroup` of every v1 hierarchy, or of the unified one if there is no other.
fn join(cgroup: &str, placed: &mut Placed) -> Result<(), PlacementError> {
    let relative = Path::new(cgroup.trim_start_matches('/'));
    if relative.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(PlacementError::Outside(cgroup.to_owned()));
    }
    let table = Path::new("/proc/self/mountinfo");
    let all = hierarchies(&fs::read_to_string(table).map_err(failed("read", table))?);
    let v1 = all.iter().any(|h| !h.v2);
    if all.is_empty() {
        return Err(PlacementError::NoHierarchy(cgroup.to_owned()));
    }
    all.iter().filter(|h| h.v2 != v1).try_for_each(|h| join_one(h, relative, placed))
}

fn join_one(hierarchy: &Hierarchy, relative: &Path, placed: &mut Placed) -> Result<(), PlacementError> {
    let dir = hierarchy.mount.join(relative);
    placed.create(&hierarchy.mount, relative).map_err(failed("create the ShimCgroup", &dir))?;
    if hierarchy.cpuset {
        inherit_cpuset(&hierarchy.mount, relative)?;
    }
    // A single thread that moves itself by `tasks` is spared the grace period that `cgroup.procs` costs on v1.
    let name = if hierarchy.v2 { "cgroup.procs" } else { "tasks" };
    let file = dir.join(name);
    placed.left.push(home(hierarchy).join(name));
    fs::write(&file, "0").map_err(failed("join the ShimCgroup by", &file))
}

/// Where this process is now. On v1 every cgroup takes processes and the root will do; on v2 one with controllers on
/// does not.
fn home(hierarchy: &Hierarchy) -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|_| hierarchy.v2);
    hierarchy.mount.join(path.unwrap_or_default())
}

/// A new v1 cpuset has neither CPUs nor memory nodes, and refuses members until it has.
fn inherit_cpuset(mount: &Path, relative: &Path) -> Result<(), PlacementError> {
    let mut parent = mount.to_owned();
    for component in relative.components() {
        let child = parent.join(component);
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let file = child.join(name);
            let value = fs::read_to_string(&file).map_err(failed("read", &file))?;
            if value.trim().is_empty() {
                let inherited = fs::read_to_string(parent.join(name)).map_err(failed("read", &file))?;
                fs::write(&file, inherited.trim()).map_err(failed("write", &file))?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// The cgroup mounts in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), each hierarchy once.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(String, Hierarchy)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
        let (&[_, _, device, _, mount, ..], &[kind, _, superblock, ..]) = (&left[..], &right[..]) else {
            continue;
        };
        if !kind.starts_with("cgroup") || found.iter().any(|(d, _)| d == device) {
            continue;
        }
        let cpuset = superblock.split(',').any(|o| o == "cpuset");
        found.push((device.to_owned(), Hierarchy { mount: mount.into(), v2: kind == "cgroup2", cpuset }));
    }
    found.into_iter().map(|(_, h)| h).collect()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlacementError {
    let path = path.to_owned();
    move |source| PlacementError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
28 25 0:26 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
99 98 0:26 / /elsewhere/memory rw - cgroup cgroup rw,memory";

    #[test]
    fn every_hierarchy_is_found_once() {
        let found = hierarchies(HYBRID);
        let mounts: Vec<_> = found.iter().map(|h| h.mount.to_str().unwrap()).collect();
        assert_eq!(mounts, ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/memory"]);
        assert_eq!(
            found.iter().map(|h| (h.v2, h.cpuset)).collect::<Vec<_>>(),
            [(true, false), (false, true), (false, false)]
        );
    }

    #[test]
    fn a_shim_cgroup_cannot_leave_its_hierarchy() {
        assert!(matches!(join("/a/../../b", &mut Placed::default()), Err(PlacementError::Outside(_))));
    }
}
