//! Learning that the kernel killed a process because the container hit its own memory limit.
//!
//! v1: an eventfd registered in `cgroup.event_control`. cgroup2: `memory.events`, which polls as exceptional.
//! Either also wakes for things that are no kill, and for a parent's limit; the counters decide.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::{Cgroup, Place, file};
use crate::sys::bpf;

/// Becomes ready on an OOM in the container. Drop it when the container has ended: the last wake-up is its removal.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    seen: Counters,
    /// The kernel has had something to say. Until then the counters need no look.
    woken: bool,
    around: Option<Around>,
}

/// The counters of the slice around a scope: systemd removes a scope as soon as nobody is in it, and may be faster than we are.
#[derive(Debug)]
struct Around {
    events: File,
    kills: u64,
}

#[derive(Debug)]
enum Source {
    V1 { event: File, dir: PathBuf },
    V2 { events: File },
}

/// How often a process was killed, and whether the container's own limit was the cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    kills: u64,
    /// cgroup2: how often an allocation failed at the container's own limit.
    hits: u64,
}

impl Cgroup {
    /// Starts watching; what happened before does not count.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let mut around = None;
        let source = match self.controller("memory", "memory")? {
            Place::V1(dir) => {
                let event =
                    File::from(bpf::eventfd().map_err(|e| Error::file("eventfd for", dir, &e.into()))?);
                let path = dir.join("memory.oom_control");
                let control = File::open(&path).map_err(|e| Error::file("open", path, &e))?;
                let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                file::write(dir, "cgroup.event_control", &line)?;
                Source::V1 { event, dir: dir.to_owned() }
            }
            Place::V2(dir) => {
                let path = dir.join("memory.events");
                around = self.unit().and_then(|_| Around::of(dir));
                Source::V2 { events: File::open(&path).map_err(|e| Error::file("open", path, &e))? }
            }
        };
        let seen = source.counters().unwrap_or_default();
        Ok(OomWatch { source, seen, woken: false, around })
    }
}

impl OomWatch {
    /// Whether to poll for priority data (POLLPRI, cgroup2) rather than for reading (POLLIN, v1).
    pub fn is_priority(&self) -> bool {
        matches!(self.source, Source::V2 { .. })
    }

    /// Whether a process was killed since last asked because the container hit its own limit. Also rearms the
    /// descriptor.
    ///
    /// KERNEL: v1 signals before it kills, so the kill may not be counted yet: ask again a little later, and when a
    /// process of the container has ended, before that is reported.
    pub fn take(&mut self) -> bool {
        self.woken |= self.source.rearm();
        if !self.woken {
            return false;
        }
        // A cgroup that is gone has nothing more to say.
        let Some(now) = self.source.counters() else { return false };
        if let Some(around) = &mut self.around {
            around.counted();
        }
        if now.kills <= self.seen.kills {
            return false;
        }
        // Both counters move on together only with a kill: the hit is counted before the kill that it leads to.
        let own = now.hits > self.seen.hits || self.source.at_limit();
        self.seen = now;
        own
    }

    /// Whether a SIGKILL that nobody is known to have sent was for memory, though the cgroup has gone with its counters:
    /// since they were last read, the kernel has killed somebody below the same slice for it.
    pub fn take_from_around(&mut self) -> bool {
        self.source.counters().is_none() && self.around.as_mut().is_some_and(Around::counted)
    }
}

impl Around {
    fn of(scope: &Path) -> Option<Self> {
        let events = File::open(scope.parent()?.join("memory.events")).ok()?;
        let kills = counters(&events)?.kills;
        Some(Self { events, kills })
    }

    /// Is there a kill since this was last asked?
    fn counted(&mut self) -> bool {
        let Some(now) = counters(&self.events) else { return false };
        std::mem::replace(&mut self.kills, now.kills) < now.kills
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2 { events } => events.as_fd(),
        }
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> i32 {
        self.as_fd().as_raw_fd()
    }
}

impl Source {
    /// Makes the descriptor quiet again; was it loud? cgroup2 rearms by reading the counters, and cannot say.
    fn rearm(&self) -> bool {
        match self {
            // Takes the count off; EAGAIN when there is none.
            Source::V1 { event, .. } => (&*event).read(&mut [0; 8]).is_ok(),
            Source::V2 { .. } => true,
        }
    }

    fn counters(&self) -> Option<Counters> {
        match self {
            Source::V1 { dir, .. } => {
                let control = file::read(dir, "memory.oom_control").ok()?;
                // KERNEL: kills are counted since 4.13. Hits of the own limit are not: see `at_limit`.
                Some(Counters { kills: file::key(&control, "oom_kill")?, hits: 0 })
            }
            // KERNEL: only a read through this very descriptor rearms its poll.
            Source::V2 { events } => counters(events),
        }
    }

    /// v1: whether the use has ever reached the limit in force.
    ///
    /// KERNEL: failcnt stays 0 on 6.18, and the event is sent to every child of the cgroup whose limit was hit. The peak tells.
    fn at_limit(&self) -> bool {
        match self {
            Source::V1 { dir, .. } => reached(dir, "memory") || reached(dir, "memory.memsw"),
            Source::V2 { .. } => false,
        }
    }
}

/// Of an open `memory.events`.
fn counters(events: &File) -> Option<Counters> {
    let mut text = [0; 512];
    let read = events.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..read]).ok()?;
    Some(Counters { kills: file::key(text, "oom_kill")?, hits: file::key(text, "oom")? })
}

/// Whether a v1 counter's peak is at its limit, give or take a batch of pages that found no room.
fn reached(dir: &Path, prefix: &str) -> bool {
    const BATCH: u64 = 256 << 10;
    let number = |name: &str| file::number(dir, &format!("{prefix}.{name}")).ok().flatten();
    let (peak, limit) = (number("max_usage_in_bytes"), number("limit_in_bytes"));
    peak.zip(limit).is_some_and(|(peak, limit)| peak.saturating_add(BATCH) >= limit)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::{DevicePolicy, testing};
    use super::*;

    #[test]
    fn an_oom_kill_at_the_own_limit_is_seen_once() {
        let Some(cgroup) = testing::cgroup("oom") else { return };
        cgroup.create().unwrap();
        let limit = r#"{"memory":{"limit":8388608,"swap":8388608}}"#;
        cgroup.apply(&serde_json::from_str(limit).unwrap(), DevicePolicy::Skip).unwrap();
        let mut watch = cgroup.oom_watch().unwrap();
        assert!(!watch.take());
        let (Place::V1(dir) | Place::V2(dir)) = cgroup.place("memory").unwrap();
        let script = format!("echo $$ > {}/cgroup.procs; exec tail /dev/zero", dir.display());
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(!status.success());
        let deadline = Instant::now() + Duration::from_secs(2);
        while !watch.take() {
            assert!(Instant::now() < deadline, "no OOM kill seen");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!watch.take());
        let (peak, limit) = cgroup.memory_peak_and_limit();
        assert!(limit == Some(8_388_608) && peak.is_none_or(|p| p > 4_000_000), "{peak:?} {limit:?}");
        assert!(cgroup.memory_kills().is_some_and(|kills| kills > 0));
        cgroup.remove(Duration::from_secs(2)).unwrap();
        assert!(!watch.take());
    }
}
