//! Waiting until nobody is left in a cgroup, or until cgroup2 tells of a change: the kernel says when, nobody looks again and again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::{file, procs};
use crate::sys::process;

/// How long processes are waited for until it is tried again to kill or to remove: others may have come, or they been moved.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// Between two looks, at most: where there is nothing to wait for, because there is no descriptor to be had, or the cgroup is busy and
/// has nobody in it whose pid is one here.
const AGAIN: Duration = Duration::from_millis(1);

/// Until everybody has ended who is in `dir` or below, `deadline` at most. Who leaves it alive is waited for in vain.
///
/// # Errors
/// When the list cannot be read, for another reason than that there is no descriptor for it.
pub(super) fn until_ended(dir: &Path, deadline: Instant) -> Result<()> {
    let waited = match each_in_turn(dir, deadline) {
        Err(e) if matches!(e.errno(), libc::EMFILE | libc::ENFILE | libc::ENOMEM) => false,
        waited => waited?,
    };
    if !waited {
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// Whether there was anybody. With two descriptors at a time, however many they are.
fn each_in_turn(dir: &Path, deadline: Instant) -> Result<bool> {
    let mut pause = Duration::ZERO;
    while let Some(pid) = procs::below(dir)?.first().copied() {
        // Many die at once, and one may be listed still who has ended.
        thread::sleep(pause);
        pause = (2 * pause).clamp(AGAIN / 16, AGAIN);
        if let Ok(pidfd) = process::pidfd_open(pid)
            // ORDER: looked at again with the pidfd open: one that is not there any more has given its number away.
            && procs::below(dir)?.contains(&pid)
        {
            let _ = process::poll_in(pidfd.as_fd(), left(deadline));
        }
        if Instant::now() >= deadline {
            return Ok(true);
        }
    }
    let waited = !pause.is_zero();
    // KERNEL: on cgroup2 who has ended may still be counted for a moment. By pidfd first, for this file's news are held back for
    // up to 10 ms.
    match until_event(dir, "populated", 0, deadline) {
        // v1, or the cgroup is gone.
        Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENODEV) => Ok(waited),
        empty => Ok(waited || !empty?),
    }
}

/// Until `cgroup.events` of `dir` says so (cgroup-v2.rst); false when it does not before `deadline`.
///
/// # Errors
/// ENOENT on v1, ENOENT or ENODEV when the cgroup is gone.
pub(super) fn until_event(dir: &Path, key: &str, value: u64, deadline: Instant) -> Result<bool> {
    let path = dir.join("cgroup.events");
    let failed = |e: io::Error| Error::file("read", &path, &e);
    let events = File::open(&path).map_err(failed)?;
    let mut text = [0; 128];
    loop {
        // KERNEL: news is what has changed since this descriptor was last read.
        let read = events.read_at(&mut text, 0).map_err(failed)?;
        if file::key(&String::from_utf8_lossy(&text[..read]), key) == Some(value) {
            return Ok(true);
        }
        if Instant::now() >= deadline || !process::poll_news(events.as_fd(), left(deadline)).unwrap_or(false)
        {
            return Ok(false);
        }
    }
}

/// Milliseconds, none too few.
fn left(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now());
    left.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    /// What is waited for for a minute, and how long it took, if a process ends meanwhile.
    fn until_it_ends(mut sleeper: testing::Sleeper, wait: impl FnOnce(Instant) + Send) -> Duration {
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| wait(begun + Duration::from_secs(60)));
            thread::sleep(Duration::from_millis(20));
            sleeper.end();
        });
        begun.elapsed()
    }

    #[test]
    fn news_come_when_something_changes_and_not_before() {
        let Some(cgroup) = testing::cgroup("news") else { return };
        cgroup.create().unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        let expected = Duration::from_millis(20)..Duration::from_secs(30);
        for dir in cgroup.dirs() {
            let dir = &*dir.dir;
            let took = until_it_ends(testing::Sleeper::inside(&cgroup), |end| until_ended(dir, end).unwrap());
            assert!(expected.contains(&took), "{took:?}");
            assert!(procs::below(dir).unwrap().is_empty());
        }
        let sleeper = testing::Sleeper::inside(&cgroup);
        let Some(unified) = cgroup.unified().map(|dir| &*dir.dir) else { return };
        assert!(until_event(unified, "populated", 1, soon()).unwrap());
        assert!(!until_event(unified, "populated", 0, soon()).unwrap());
        let took = until_it_ends(sleeper, |end| assert!(until_event(unified, "populated", 0, end).unwrap()));
        assert!(expected.contains(&took), "{took:?}");
        cgroup.remove(Duration::from_secs(2)).unwrap();
        assert_eq!(until_event(unified, "populated", 0, soon()).unwrap_err().errno(), libc::ENOENT);
    }
}
