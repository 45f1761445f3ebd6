//! Killing everything in the container's cgroup, and being sure of it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::error::Result;
use super::{Cgroup, file, procs, wait};
use crate::sys::{self, process};

/// Processes signalled at a time, a descriptor each.
const PIDFDS: usize = 64;
/// For `wait::ROUND` where they could fork meanwhile.
const SHORT_ROUND: Duration = Duration::from_millis(5);

impl Cgroup {
    /// Kills every process of the container and waits until none is left, `limit` at most; then the error names
    /// one that would not die (in state D as a rule).
    pub fn kill(&self, limit: Duration) -> Result<()> {
        // Nobody there, nobody to fork: the usual case after init's end, and cgroup.kill would wait for a global lock.
        if self.is_empty()? {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        while !self.is_empty()? {
            self.kill_round(deadline)?;
            if Instant::now() >= deadline {
                break;
            }
        }
        let pids = self.pids()?;
        let dir = self.census().unwrap_or("/".as_ref());
        if self.is_empty()? { Ok(()) } else { Err(procs::blame("kill", dir, &pids, &['D'])) }
    }

    /// Kills whoever is there, and waits for their ends.
    fn kill_round(&self, deadline: Instant) -> Result<()> {
        let by_kernel = self.kill_by_kernel();
        if let Some(unified) = self.unified().filter(|_| by_kernel) {
            // A task that the v1 freezer holds dies only when it runs again.
            self.thaw_v1()?;
            wait::until_ended(&unified.dir, deadline.min(Instant::now() + wait::ROUND))?;
        }
        // The kernel's own kill is complete on cgroup2. On a hybrid host a process may be in the v1 cgroups alone.
        if by_kernel && (self.v1().is_empty() || self.is_empty()?) {
            return Ok(());
        }
        let round = if self.kill_listed(deadline)? { wait::ROUND } else { SHORT_ROUND };
        self.census().map_or(Ok(()), |dir| wait::until_ended(dir, deadline.min(Instant::now() + round)))
    }

    /// KERNEL: cgroup.kill, since 5.14, takes the whole subtree, forks in flight and frozen tasks included.
    fn kill_by_kernel(&self) -> bool {
        self.unified().is_some_and(|d| file::write(&d.dir, "cgroup.kill", "1").is_ok())
    }

    /// Sends `signal` to every process of the container but `except`, by pidfd: the container's is who is listed still when
    /// his pidfd is open. Returns who could not be signalled, and why.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn signal(&self, signal: i32, except: i32) -> Result<Vec<(i32, sys::Error)>> {
        let mut pids = self.pids()?;
        pids.retain(|pid| *pid != except);
        let mut failures = Vec::new();
        for some in pids.chunks(PIDFDS) {
            let opened: Vec<_> = some.iter().map(|pid| (*pid, process::pidfd_open(*pid))).collect();
            // ORDER: looked at again with the pidfds open: one that is not there any more has given its number away.
            let still = self.pids()?;
            for (pid, pidfd) in opened.into_iter().filter(|(pid, _)| still.contains(pid)) {
                match pidfd.and_then(|pidfd| process::pidfd_send_signal(pidfd.as_fd(), signal)) {
                    Err(e) if !e.is(libc::ESRCH) => failures.push((pid, e)),
                    _ => {}
                }
            }
        }
        Ok(failures)
    }

    /// Freeze, signal, thaw. False when they were not frozen.
    ///
    /// ORDER: frozen processes do not fork, so the list is whole. Without a freezer the loop in `kill` makes up for it.
    fn kill_listed(&self, deadline: Instant) -> Result<bool> {
        let patience = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
        // An error here means no freezer, or a process that will not stop: it is signalled all the same.
        let frozen = self.freeze(patience).is_ok();
        let failures = self.signal(libc::SIGKILL, std::process::id() as i32);
        // Where there are no descriptors to be had: what is frozen does not exit, and keeps its number.
        for (pid, _) in failures.iter().flatten().filter(|_| frozen) {
            let _ = process::kill(*pid, libc::SIGKILL);
        }
        // Thawed even when the list could not be read: frozen tasks do not act on SIGKILL on v1.
        let _ = self.thaw();
        failures.map(|_| frozen)
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
