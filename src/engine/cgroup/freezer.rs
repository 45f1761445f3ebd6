//! Pause and resume: the v1 freezer controller, or `cgroup.freeze` on cgroup2.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::{Cgroup, Place, file, procs, wait};

impl Cgroup {
    /// Stops every process. When that is not done within `limit` all of them run on, and the error names one
    /// that would not stop.
    pub fn freeze(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let place = self.freezer()?;
        let (dir, frozen) = match place {
            Place::V1(dir) => (dir, freeze_v1(dir, deadline)),
            Place::V2(dir) => (dir, freeze_v2(dir, deadline)),
        };
        if let Ok(true) = frozen {
            return Ok(());
        }
        // A cgroup left half frozen can neither run nor be killed on v1.
        let thawed = self.thaw();
        frozen?;
        thawed?;
        Err(self.not_frozen(dir, place))
    }

    /// Lets every process run again.
    pub fn thaw(&self) -> Result<()> {
        let done = match self.freezer()? {
            Place::V1(dir) => file::write(dir, "freezer.state", "THAWED"),
            Place::V2(dir) => file::write(dir, "cgroup.freeze", "0"),
        };
        match done {
            // The cgroup is gone, and everything in it with it.
            Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENODEV) => Ok(()),
            done => done,
        }
    }

    /// Whether the container is paused (or on its way there).
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(match self.freezer()? {
            Place::V1(dir) => {
                file::read_if_there(dir, "freezer.state")?.is_some_and(|s| s.trim() != "THAWED")
            }
            Place::V2(dir) => file::read_if_there(dir, "cgroup.freeze")?.is_some_and(|s| s.trim() == "1"),
        })
    }

    /// The container's cgroup, if its processes do not run, be it that an ancestor is frozen.
    pub fn stands_still(&self) -> Option<&Path> {
        let (dir, file, word) = match self.freezer().ok()? {
            Place::V1(dir) => (dir, "freezer.state", "FR"),
            Place::V2(dir) => (dir, "cgroup.events", "frozen 1"),
        };
        let said = file::read_if_there(dir, file).ok().flatten()?;
        said.lines().any(|line| line.starts_with(word)).then_some(dir)
    }

    fn freezer(&self) -> Result<Place<'_>> {
        self.place("freezer").ok_or(Error::NoController {
            field: "pause",
            controller: "freezer",
            path: self.dirs().next().map(|d| d.dir.clone()).unwrap_or_default(),
            remedy: "mount the v1 freezer hierarchy or use cgroup v2",
        })
    }

    /// KERNEL: a frozen task shows state D on v1 and S on cgroup2, so the culprit is in another one.
    fn not_frozen(&self, dir: &Path, place: Place<'_>) -> Error {
        let states: &[char] = if matches!(place, Place::V1(_)) { &['R', 'S', 'T'] } else { &['D', 'R'] };
        procs::blame("freeze", dir, &self.pids().unwrap_or_default(), states)
    }
}

/// KERNEL: the v1 freezer finds out whether all stand still when it is asked, and tells nobody. It misses tasks that are forked
/// while it works. Writing FROZEN again collects them, and a short thaw now and then lets a fork that holds up the others finish.
fn freeze_v1(dir: &Path, deadline: Instant) -> Result<bool> {
    for round in 1u32.. {
        file::write(dir, "freezer.state", "FROZEN")?;
        if file::read(dir, "freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            break;
        }
        if round.is_multiple_of(50) {
            file::write(dir, "freezer.state", "THAWED")?;
            thread::sleep(Duration::from_millis(2));
        } else if round > 5 {
            thread::sleep(Duration::from_micros(100));
        }
    }
    Ok(false)
}

fn freeze_v2(dir: &Path, deadline: Instant) -> Result<bool> {
    file::write(dir, "cgroup.freeze", "1")?;
    wait::until_event(dir, "frozen", 1, deadline)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_frozen_process_does_not_run_and_a_thawed_one_does() {
        let Some(cgroup) = testing::cgroup("freeze") else { return };
        cgroup.create().unwrap();
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        cgroup.freeze(Duration::from_secs(2)).unwrap();
        assert!(cgroup.is_frozen().unwrap());
        cgroup.thaw().unwrap();
        assert!(!cgroup.is_frozen().unwrap());
        sleeper.end();
        cgroup.remove(Duration::from_secs(2)).unwrap();
        cgroup.thaw().unwrap();
    }
}
