//! A Create that somebody gives up while it is at work, and what a failed Create could not take away.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::Error;
use super::container::poststop_of;
use super::error::Doing;
use super::plan::Fd;
use super::state::State;
use crate::oci;
use crate::sys::{bpf, fs, process};

/// Ends a Create by killing the init that it is about to make: whatever waits for that init, hooks included, fails. What
/// is run before there is an init, a mount helper, waits for `until`.
#[derive(Debug, Default)]
pub struct Abort(Mutex<Stage>);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Unborn,
    /// An eventfd(2) for what is run before.
    Before(Fd),
    Born(Fd),
    Killed,
}

impl Abort {
    /// Kills init, at once or as soon as it is born.
    pub fn now(&self) {
        let before = std::mem::replace(&mut *self.stage(), Stage::Killed);
        match before {
            Stage::Born(init) => kill(&init),
            Stage::Before(until) => signal(&until),
            Stage::Unborn | Stage::Killed => {}
        }
    }

    /// Becomes readable when this Create is given up.
    ///
    /// # Errors
    /// When no descriptor is to be had.
    pub(super) fn until(&self) -> Result<Fd, Error> {
        let until: Fd = Arc::new(bpf::eventfd().doing(|| "making an eventfd".into())?);
        let mut stage = self.stage();
        match *stage {
            Stage::Killed => signal(&until),
            _ => *stage = Stage::Before(until.clone()),
        }
        Ok(until)
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

fn signal(until: &Fd) {
    // An eventfd that is new takes any number.
    let _ = fs::write(until.as_fd(), &1u64.to_ne_bytes());
}

/// What a failed Create leaves, for longer if something holds on to it (a process in state D, a cgroup frozen from above).
#[derive(Clone, Debug)]
pub struct Leftover {
    pub(super) state: State,
    pub(super) bundle: PathBuf,
}

impl Leftover {
    /// Clears, then runs poststop hooks if createRuntime hooks may have run: nerdctl's take the network down. What they fail
    /// with is not told: the failure of the Create is.
    ///
    /// # Errors
    /// When something is still there.
    pub fn clear(&self) -> Result<(), Error> {
        super::clear(&self.state)?;
        // Read anew: a `delete` may have come and run them, or removed all that there was.
        let due = matches!(State::load(&self.bundle), Ok(Some(state)) if state.poststop_due);
        if due && let Ok((spec, _)) = oci::spec::load(&self.bundle) {
            poststop_of(&spec, &self.state.id, &self.bundle, None);
        }
        State::remove(&self.bundle);
        Ok(())
    }
}
