//! How a new process enters the container's cgroup, as open file descriptors.
//!
//! KERNEL: writing a pid to `cgroup.procs` takes the global threadgroup lock and waits for an RCU grace period,
//! about 10 ms. A task that writes "0" for itself to a v1 `tasks` file, or is born into a cgroup2 directory by
//! clone3(CLONE_INTO_CGROUP), skips it. The child is single-threaded when it joins, so `tasks` moves all of it.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Error, Result};
use super::host::Hierarchy;
use super::locate::member_dir;
use super::{Cgroup, Dir, Host, file};

/// What a child needs to enter a container's cgroup. Held open, it keeps no cgroup from being removed.
#[derive(Debug, Clone)]
pub struct Join {
    /// v1: the child writes "0" into each.
    pub tasks: Vec<Arc<OwnedFd>>,
    /// cgroup2: the directory for clone3(CLONE_INTO_CGROUP).
    pub into: Option<Arc<OwnedFd>>,
}

impl Cgroup {
    /// Opens the container's own cgroup for joining.
    pub fn join(&self) -> Result<Join> {
        self.open(self.unified().map(|d| d.dir.clone()))
    }

    /// Opens for joining the cgroup2 cgroup in which process `pid` (the container's init) is, and the container's own in v1
    /// hierarchies. A `pid` outside our subtree is not followed.
    pub fn join_of(&self, pid: i32) -> Result<Join> {
        let into = match (self.unified(), Host::get()?.unified()) {
            (Some(ours), Some(hierarchy)) => Some(init_dir(ours, hierarchy, pid)?),
            _ => None,
        };
        self.open(into)
    }

    fn open(&self, into: Option<PathBuf>) -> Result<Join> {
        let tasks = self.v1().iter().map(|d| open_tasks(&d.dir)).collect::<Result<_>>()?;
        Ok(Join { tasks, into: into.as_deref().map(open_dir).transpose()? })
    }
}

fn init_dir(ours: &Dir, hierarchy: &Hierarchy, pid: i32) -> Result<PathBuf> {
    let text = file::read_if_there(Path::new(&format!("/proc/{pid}")), "cgroup")?.unwrap_or_default();
    let theirs = member_dir(&text, hierarchy).filter(|dir| dir.starts_with(&ours.dir));
    Ok(theirs.unwrap_or_else(|| ours.dir.clone()))
}

fn open_tasks(dir: &Path) -> Result<Arc<OwnedFd>> {
    let path = dir.join("tasks");
    // std opens with O_CLOEXEC.
    OpenOptions::new().write(true).open(&path).map(fd).map_err(|e| Error::file("open", path, &e))
}

fn open_dir(dir: &Path) -> Result<Arc<OwnedFd>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir);
    opened.map(fd).map_err(|e| Error::file("open", dir, &e))
}

fn fd(file: File) -> Arc<OwnedFd> {
    Arc::new(file.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing;
    use super::*;

    #[test]
    fn a_process_that_joined_is_listed_wherever_it_moves_below() {
        let Some(cgroup) = testing::cgroup("join") else { return };
        cgroup.create().unwrap();
        let join = cgroup.join().unwrap();
        assert_eq!(join.tasks.len(), cgroup.v1().len());
        assert_eq!(join.into.is_some(), cgroup.unified().is_some());
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
        let below = cgroup.census().unwrap().join("below");
        std::fs::create_dir(&below).unwrap();
        file::write(&below, "cgroup.procs", &sleeper.pid().to_string()).unwrap();
        assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
        cgroup.join_of(sleeper.pid()).unwrap();
        if cgroup.v1().is_empty() {
            let into =
                init_dir(cgroup.unified().unwrap(), Host::get().unwrap().unified().unwrap(), sleeper.pid());
            assert_eq!(into.unwrap(), below);
        }
        sleeper.end();
        cgroup.remove(Duration::from_secs(2)).unwrap();
    }

    #[test]
    fn a_process_outside_our_cgroup_is_not_followed() {
        let Some(host) = testing::host() else { return };
        let Some(hierarchy) = host.unified() else { return };
        let cgroup = Cgroup::locate(Some(Path::new("/not-there")), "c", host, false).unwrap();
        let ours = cgroup.unified().unwrap();
        assert_eq!(init_dir(ours, hierarchy, std::process::id() as i32).unwrap(), ours.dir);
    }
}
