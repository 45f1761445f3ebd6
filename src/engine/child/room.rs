//! What the child carries from step to step: a handful of descriptors and a note for an error message.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::home::Home;
use crate::sys::{Error, Result};

const NOTE: usize = 160;

/// The child's state. Fixed size: nothing here is allocated.
pub struct Room {
    /// The container's root, a directory on the mount that will be `/`; the working directory's root after pivot.
    root: Option<OwnedFd>,
    /// The one empty read-only tmpfs that masks directories, once mounted.
    pub mask: Option<OwnedFd>,
    /// The host's /dev/null, verified.
    pub null: Option<OwnedFd>,
    /// The terminal's master, until it is sent to the shim.
    pub terminal: Option<OwnedFd>,
    /// The container's /dev, once something was made in it.
    pub dev: Option<OwnedFd>,
    /// HOME, where the environment has none.
    pub home: Home,
    /// The working directory is the process's.
    pub arrived: bool,
    /// Index of the program found among the candidates.
    pub program: usize,
    note: [u8; NOTE],
    noted: usize,
}

impl Room {
    pub fn new() -> Self {
        Self {
            root: None,
            mask: None,
            null: None,
            terminal: None,
            dev: None,
            home: Home::new(),
            arrived: false,
            program: 0,
            note: [0; NOTE],
            noted: 0,
        }
    }

    pub fn set_root(&mut self, root: OwnedFd) {
        self.root = Some(root);
    }

    /// The container's root; an exec'd process, which made none, is already below it.
    pub fn root(&self) -> Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Error::new("root", libc::ENOTDIR))
    }

    /// Leaves a word for the error message of the step at work.
    pub fn say(&mut self, text: &[u8]) {
        let n = text.len().min(NOTE);
        self.note[..n].copy_from_slice(&text[..n]);
        self.noted = n;
    }

    pub fn note(&self) -> &[u8] {
        &self.note[..self.noted]
    }
}
