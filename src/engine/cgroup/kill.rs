//! Killing everything in the container's cgroup, and being sure of it.

use std::thread;
use std::time::{Duration, Instant};

use super::error::Result;
use super::{Cgroup, file, procs};
use crate::sys::process;

impl Cgroup {
    /// Kills every process of the container and waits until none is left, `limit` at most; then the error names
    /// one that would not die (in state D as a rule).
    pub fn kill(&self, limit: Duration) -> Result<()> {
        // Nobody there, nobody to fork: the usual case after init's end, and cgroup.kill would wait for a global lock.
        if self.is_empty()? {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(50);
        let killed_by_kernel = self.kill_by_kernel();
        if killed_by_kernel {
            // A task that the v1 freezer holds dies only when it runs again.
            self.thaw_v1()?;
        }
        for round in 0u32.. {
            if self.is_empty()? {
                return Ok(());
            }
            // The kernel's own kill is complete on cgroup2. On a hybrid host a process may be in the v1 cgroups
            // alone: it is looked for after the others had their time to die.
            if !killed_by_kernel || (!self.v1().is_empty() && round >= 5) {
                self.kill_listed(deadline)?;
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        let pids = self.pids()?;
        let dir = self.census().unwrap_or("/".as_ref());
        if self.is_empty()? { Ok(()) } else { Err(procs::blame("kill", dir, &pids, &['D'])) }
    }

    /// KERNEL: cgroup.kill, since 5.14, takes the whole subtree, forks in flight and frozen tasks included.
    fn kill_by_kernel(&self) -> bool {
        self.unified().is_some_and(|d| file::write(&d.dir, "cgroup.kill", "1").is_ok())
    }

    /// Freeze, signal, thaw.
    ///
    /// ORDER: frozen processes neither fork nor exit, so the list is whole and none of its numbers is reused
    /// while it is worked off. Without a freezer the loop in `kill` makes up for it.
    fn kill_listed(&self, deadline: Instant) -> Result<()> {
        let patience = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
        // An error here means no freezer, or a process that will not stop: it is signalled all the same.
        let _ = self.freeze(patience);
        let pids = self.pids();
        let me = std::process::id() as i32;
        for pid in pids.iter().flatten().filter(|pid| **pid != me) {
            // ESRCH: it has ended by itself.
            let _ = process::kill(*pid, libc::SIGKILL);
        }
        // Thawed even when the list could not be read: frozen tasks do not act on SIGKILL on v1.
        let _ = self.thaw();
        pids.map(drop)
    }

    fn thaw_v1(&self) -> Result<()> {
        if self.v1_dir("freezer").is_some() { self.thaw() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn kill_takes_sub_cgroups_and_frozen_processes() {
        let Some(cgroup) = testing::cgroup("kill") else { return };
        cgroup.create().unwrap();
        let mut sleepers: Vec<_> = (0..5).map(|_| testing::Sleeper::inside(&cgroup)).collect();
        let below = cgroup.census().unwrap().join("below");
        std::fs::create_dir(&below).unwrap();
        file::write(&below, "cgroup.procs", &sleepers[0].pid().to_string()).unwrap();
        cgroup.freeze(Duration::from_secs(2)).unwrap();
        cgroup.kill(Duration::from_secs(5)).unwrap();
        assert!(cgroup.pids().unwrap().is_empty());
        assert!(sleepers.iter_mut().all(|s| s.end() == libc::SIGKILL));
        cgroup.remove(Duration::from_secs(2)).unwrap();
        cgroup.kill(Duration::ZERO).unwrap();
    }

    #[test]
    fn without_the_kernels_kill_the_list_is_worked_off() {
        let Some(cgroup) = testing::cgroup("kill-list") else { return };
        cgroup.create().unwrap();
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        cgroup.kill_listed(Instant::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(sleeper.end(), libc::SIGKILL);
        cgroup.remove(Duration::from_secs(2)).unwrap();
    }
}
