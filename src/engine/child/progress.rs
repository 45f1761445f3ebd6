//! How far a child is, and how long it may take: a child that hangs in a step (a mount from a file system that does not
//! answer, a frozen cgroup) is given up after a deadline, and the error names the step.
//!
//! The child writes the step's number into a page that it shares with the shim; nothing it does can delay the reading.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::sys::shared;

/// From one report of the child's to the next: far more than any step takes that will end at all.
pub const SETUP_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Progress {
    slot: Option<&'static AtomicU16>,
    pub limit: Duration,
}

impl Progress {
    pub fn new(limit: Option<Duration>) -> Self {
        Self { slot: shared::slot(), limit: limit.unwrap_or(SETUP_WITHIN) }
    }

    /// Child: begins step `index`.
    pub fn begins(&self, index: usize) {
        if let Some(slot) = self.slot {
            slot.store(index as u16, Ordering::Relaxed);
        }
    }

    /// Shim: the step at which the child is.
    pub fn step(&self) -> usize {
        self.slot.map_or(0, |slot| slot.load(Ordering::Relaxed).into())
    }
}
