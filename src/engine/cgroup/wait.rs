//! Waiting until nobody is left in a cgroup, or until cgroup2 tells of a change: the kernel says when, nobody looks again and again.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::{file, procs};
use crate::sys::{self, process};

/// Processes that are dealt with at a time, a descriptor each.
const PIDFDS: usize = 64;
/// Where there is nobody to wait for: no descriptor to be had, or who is there has no pid here (an outer pid namespace's).
const AGAIN: Duration = Duration::from_millis(5);

/// Calls `each` for every process of `dir` and below, with its pidfd, or why there is none.
///
/// # Errors
/// When the list cannot be read.
pub(super) fn by_pidfd(dir: &Path, mut each: impl FnMut(i32, sys::Result<OwnedFd>)) -> Result<()> {
    for some in procs::below(dir)?.chunks(PIDFDS) {
        let opened: Vec<_> = some.iter().map(|pid| (*pid, process::pidfd_open(*pid))).collect();
        // ORDER: looked at again with the pidfds open: one that is not there any more has given its number away.
        let still = procs::below(dir)?;
        opened.into_iter().filter(|(pid, _)| still.contains(pid)).for_each(|(pid, pidfd)| each(pid, pidfd));
    }
    Ok(())
}

/// Until everybody has left who is in `dir` or below, `deadline` at most; on v1, whoever comes meanwhile is not waited for.
pub(super) fn until_left(dir: &Path, deadline: Instant) -> Result<()> {
    let mut waited = false;
    by_pidfd(dir, |_, pidfd| {
        waited |= pidfd.is_ok_and(|pidfd| process::poll_in(pidfd.as_fd(), left(deadline)).is_ok());
    })?;
    // KERNEL: who has ended may still be counted for a moment. And this file's news are held back for up to 10 ms, hence by pidfd first.
    let told = until_event(dir, "populated", 0, deadline)?;
    if told.is_none() && !waited {
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// Until `cgroup.events` of `dir` says so (cgroup-v2.rst); false when it does not before `deadline`, `None` where there is no such
/// file: on v1, or when the cgroup is gone.
pub(super) fn until_event(dir: &Path, key: &str, value: u64, deadline: Instant) -> Result<Option<bool>> {
    let path = dir.join("cgroup.events");
    let failed = |e: &std::io::Error| Error::file("read", &path, e);
    let events = match File::open(&path) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        opened => opened.map_err(|e| failed(&e))?,
    };
    let mut text = [0; 128];
    loop {
        // KERNEL: news is what has changed since this descriptor was last read.
        let read = match events.read_at(&mut text, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            read => read.map_err(|e| failed(&e))?,
        };
        if file::key(&String::from_utf8_lossy(&text[..read]), key) == Some(value) {
            return Ok(Some(true));
        }
        if !process::poll_news(events.as_fd(), left(deadline)).unwrap_or(false) {
            return Ok(Some(false));
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

    #[test]
    fn news_come_when_something_changes_and_not_before() {
        let Some(cgroup) = testing::cgroup("news") else { return };
        cgroup.create().unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        for dir in cgroup.dirs() {
            let mut sleeper = testing::Sleeper::inside(&cgroup);
            let unified = Some(dir) == cgroup.unified();
            assert_eq!(until_event(&dir.dir, "populated", 1, soon()).unwrap(), unified.then_some(true));
            assert_eq!(until_event(&dir.dir, "populated", 0, soon()).unwrap(), unified.then_some(false));
            let begun = Instant::now();
            until_left(&dir.dir, soon()).unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(20), "nobody was waited for");
            let waiting = dir.dir.clone();
            let left = thread::spawn(move || until_left(&waiting, Instant::now() + Duration::from_secs(60)));
            sleeper.end();
            left.join().unwrap().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(30), "the end was no news");
            assert!(procs::below(&dir.dir).unwrap().is_empty());
        }
        cgroup.remove(Duration::from_secs(2)).unwrap();
        assert_eq!(until_event(&cgroup.dirs().next().unwrap().dir, "populated", 0, soon()).unwrap(), None);
    }
}
