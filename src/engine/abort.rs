//! A Create that somebody gives up while it is at work, and what a failed Create could not take away.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;

use super::Error;
use super::plan::Fd;
use super::state::State;
use crate::sys::process;

/// Ends a Create by killing the init that it is about to make: whatever waits for that init, hooks included, fails.
#[derive(Debug, Default)]
pub struct Abort(Mutex<Stage>);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Unborn,
    Born(Fd),
    Killed,
}

impl Abort {
    /// Kills init, at once or as soon as it is born.
    pub fn now(&self) {
        let before = std::mem::replace(&mut *self.stage(), Stage::Killed);
        if let Stage::Born(init) = before {
            kill(&init);
        }
    }

    pub(super) fn born(&self, init: &Fd) {
        let mut stage = self.stage();
        match *stage {
            Stage::Killed => kill(init),
            _ => *stage = Stage::Born(init.clone()),
        }
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn kill(init: &Fd) {
    // Dead already is what is wanted.
    let _ = process::pidfd_send_signal(init.as_fd(), libc::SIGKILL);
}

/// What a failed Create could not clear, because something holds on to it (a process in state D, a cgroup frozen from
/// above).
#[derive(Clone, Debug)]
pub struct Leftover {
    pub(super) state: State,
    pub(super) bundle: PathBuf,
}

impl Leftover {
    /// Tries again.
    ///
    /// # Errors
    /// When something is still there.
    pub fn clear(&self) -> Result<(), Error> {
        super::clear(&self.state)?;
        State::remove(&self.bundle);
        Ok(())
    }
}
