//! Removing the container's cgroup and whatever the workload made below it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::{Cgroup, procs, systemd, wait};

impl Cgroup {
    /// Removes the cgroup from every hierarchy. Whoever is in a directory that is busy has until `limit` to leave;
    /// all hierarchies are tried, and every error is told.
    pub fn remove(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let stopped = self.unit().map_or(Ok(()), |unit| systemd::stop(unit, limit / 2));
        let errors: Vec<_> = self.dirs().filter_map(|d| remove_dir(&d.dir, deadline).err()).collect();
        // A systemd that does not answer keeps no container from going: the unit of an empty scope is collected
        // when it comes round. It is to blame only for what stays.
        let blamed = if errors.is_empty() { None } else { stopped.err() };
        Error::collect(blamed.into_iter().chain(errors).collect())
    }
}

fn remove_dir(dir: &Path, deadline: Instant) -> Result<()> {
    loop {
        // KERNEL: a cgroup with children answers EBUSY as one with processes does. A leaf goes at once.
        let Err(e) = fs::remove_dir(dir) else { return Ok(()) };
        match e.raw_os_error() {
            Some(libc::ENOENT) => return Ok(()),
            // KERNEL: a hierarchy that is mounted read-only answers so before it looks.
            Some(libc::EROFS) if !dir.exists() => return Ok(()),
            Some(libc::EBUSY) => {}
            _ => return Err(Error::file("rmdir", dir, &e)),
        }
        let children = procs::children(dir)?;
        for child in &children {
            remove_dir(child, deadline)?;
        }
        if !children.is_empty() && fs::remove_dir(dir).is_ok() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(still_busy(dir, &e));
        }
        wait::until_ended(dir, deadline.min(Instant::now() + wait::ROUND))?;
    }
}

fn still_busy(dir: &Path, e: &std::io::Error) -> Error {
    match procs::below(dir) {
        Ok(pids) if !pids.is_empty() => procs::blame("remove", dir, &pids, &['D']),
        _ => Error::file("rmdir", dir, e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn sub_cgroups_are_removed_depth_first() {
        let Some(cgroup) = testing::cgroup("deep") else { return };
        cgroup.create().unwrap();
        for dir in cgroup.dirs() {
            fs::create_dir_all(dir.dir.join("a/b/c")).unwrap();
            fs::create_dir_all(dir.dir.join("d")).unwrap();
        }
        cgroup.remove(Duration::ZERO).unwrap();
        assert!(cgroup.dirs().all(|d| !d.dir.exists()));
    }

    #[test]
    fn a_process_that_stays_is_named() {
        let Some(cgroup) = testing::cgroup("stays") else { return };
        cgroup.create().unwrap();
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        let e = cgroup.remove(Duration::from_millis(20)).unwrap_err().to_string();
        assert!(e.contains(&format!("process {} (sleep) in state S", sleeper.pid())), "{e}");
        sleeper.end();
        cgroup.remove(Duration::from_secs(2)).unwrap();
    }
}
