//! The processes of a cgroup and of the cgroups below it, and what an error says of one.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Error, Process, Result};
use super::{Cgroup, file};

impl Cgroup {
    /// Every process of the container, wherever below its cgroup it has moved. A cgroup that is gone is empty.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.census().map_or(Ok(Vec::new()), below)
    }

    /// The hierarchy in which processes are counted: the freezer's on v1, because a list is only worth
    /// something where the listed can be stopped; else the first.
    pub(super) fn census(&self) -> Option<&Path> {
        self.v1_dir("freezer").or_else(|| self.dirs().next().map(|d| &*d.dir))
    }

    /// Whether any process is left. cgroup2 answers without a walk.
    pub(super) fn is_empty(&self) -> Result<bool> {
        if self.v1().is_empty()
            && let Some(dir) = self.unified()
        {
            let events = file::read_if_there(&dir.dir, "cgroup.events")?;
            return Ok(events.is_none_or(|text| file::key(&text, "populated") != Some(1)));
        }
        Ok(self.pids()?.is_empty())
    }
}

/// The processes of `dir` and of every cgroup below it.
pub(super) fn below(dir: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(dir, &mut pids)?;
    Ok(pids)
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    // KERNEL: the process list of a threaded cgroup answers EOPNOTSUPP; its thread list stands in.
    let list = match file::read_if_there(dir, "cgroup.procs")? {
        None => file::read_if_there(dir, "cgroup.threads")?,
        list => list,
    };
    // A process of an outer pid namespace shows as 0, which to kill(2) would mean our own process group.
    pids.extend(list.unwrap_or_default().lines().filter_map(|l| l.parse().ok()).filter(|pid: &i32| *pid > 0));
    children(dir)?.iter().try_for_each(|child| collect(child, pids))
}

/// The cgroups directly below `dir`.
pub(super) fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    // KERNEL: the link count of a cgroup directory is 2 and one per child, so a leaf costs no readdir.
    use std::os::unix::fs::MetadataExt;
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.nlink() == 2 => return Ok(Vec::new()),
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("stat", dir, &e)),
    }
    match fs::read_dir(dir) {
        Ok(entries) => {
            let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            Ok(dirs.map(|e| e.path()).collect())
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(e) => Err(Error::file("readdir", dir, &e)),
    }
}

/// Who a process is, from /proc/pid/stat; one that has just gone keeps its number.
pub fn describe(pid: i32) -> Process {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces and brackets: it ends at the last bracket.
    let parsed = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") "));
    let (comm, state) = parsed.map_or(("?", 'X'), |(comm, rest)| (comm, rest.chars().next().unwrap_or('X')));
    Process { pid, comm: comm.to_owned(), state }
}

/// The process to blame for a timeout: the first in one of `states`, else the first.
pub(super) fn blame(doing: &'static str, path: &Path, pids: &[i32], states: &[char]) -> Error {
    let mut all = pids.iter().map(|pid| describe(*pid));
    let culprit = all.clone().find(|p| states.contains(&p.state)).or_else(|| all.next());
    match culprit {
        Some(process) => Error::Stuck { doing, path: path.to_owned(), process },
        None => Error::TimedOut { doing, path: path.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_by_name_and_state() {
        let me = describe(std::process::id() as i32);
        assert!(!me.comm.is_empty() && "RSD".contains(me.state), "{me}");
        assert_eq!(describe(i32::MAX).comm, "?");
    }
}
