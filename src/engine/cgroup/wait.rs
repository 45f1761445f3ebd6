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

/// Where there is nothing to wait for: no descriptor to be had, or a cgroup that is busy and has nobody in it whose pid is one here.
const AGAIN: Duration = Duration::from_millis(1);

/// Until everybody has ended who is in `dir` or below, `limit` at most. Who leaves it alive is waited for in vain.
///
/// # Errors
/// When the list cannot be read, for another reason than that there is no descriptor for it.
pub(super) fn until_ended(dir: &Path, limit: Duration) -> Result<()> {
    let waited = match each_in_turn(dir, Instant::now() + limit) {
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
    let mut last = None;
    while let Some(pid) = procs::below(dir)?.first().copied() {
        if last == Some(pid) {
            // Without a pidfd, or not quite gone.
            thread::sleep(AGAIN);
        }
        last = Some(pid);
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
    // KERNEL: on cgroup2 who has ended may still be counted for a moment. By pidfd first, for this file's news are held back for
    // up to 10 ms.
    let told = until_event(dir, "populated", 0, deadline)?;
    Ok(last.is_some() || told == Some(false))
}

/// Until `cgroup.events` of `dir` says so (cgroup-v2.rst); false when it does not before `deadline`, `None` where there is no such
/// file: on v1, or when the cgroup is gone.
pub(super) fn until_event(dir: &Path, key: &str, value: u64, deadline: Instant) -> Result<Option<bool>> {
    let path = dir.join("cgroup.events");
    let failed = |e: &io::Error| Error::file("read", &path, e);
    let events = match File::open(&path) {
        Err(e) if gone(&e) => return Ok(None),
        opened => opened.map_err(|e| failed(&e))?,
    };
    let mut text = [0; 128];
    loop {
        // KERNEL: news is what has changed since this descriptor was last read.
        let read = match events.read_at(&mut text, 0) {
            Err(e) if gone(&e) => return Ok(None),
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

/// The file of a cgroup that is not there any more.
fn gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
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
            until_ended(&dir.dir, Duration::from_millis(20)).unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(20), "nobody was waited for");
            let waiting = dir.dir.clone();
            let left = thread::spawn(move || until_ended(&waiting, Duration::from_secs(60)));
            sleeper.end();
            left.join().unwrap().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(30), "the end was no news");
            assert!(procs::below(&dir.dir).unwrap().is_empty());
        }
        cgroup.remove(Duration::from_secs(2)).unwrap();
        assert_eq!(until_event(&cgroup.dirs().next().unwrap().dir, "populated", 0, soon()).unwrap(), None);
    }
}
