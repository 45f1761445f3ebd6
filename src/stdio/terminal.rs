//! The shim's side of a pseudo-terminal: its master, and a peer held open for as long as the process lives.
//!
//! The master of a terminal that nobody has open answers EIO (pty(7)), and a process may close its terminal and open it
//! again (a getty, an init). With a peer of our own EIO can only mean a hang-up: vhangup(2), or the end of the
//! session's leader, the process itself. Until the exit is known, the peer is opened anew; after it, EIO is the end.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use tokio::io::Interest;

use super::target::{Watched, watch};
use super::{Error, doing};
use crate::sys::{pipe, tty};

pub(super) struct Terminal {
    state: Mutex<State>,
}

struct State {
    master: Watched,
    peer: Option<OwnedFd>,
    exited: bool,
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Terminal {
    pub fn new(master: OwnedFd) -> Result<Self, Error> {
        pipe::set_nonblocking(master.as_fd()).map_err(doing("make the terminal non-blocking"))?;
        let peer = Some(tty::peer(master.as_fd()).map_err(doing("open the terminal's peer"))?);
        let master = watch(master.into(), BOTH)?;
        Ok(Self { state: Mutex::new(State { master, peer, exited: false }) })
    }

    pub fn master(&self) -> Watched {
        self.lock().master.clone()
    }

    /// The process has exited: from now on a terminal that nobody holds is at its end.
    pub fn exited(&self) {
        let mut state = self.lock();
        state.exited = true;
        state.peer = None;
    }

    /// After EIO: makes the terminal usable again; false if that was its end.
    pub fn revive(&self) -> bool {
        let mut state = self.lock();
        !state.exited && state.reopen().is_some()
    }

    pub fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        tty::set_size(self.master().get_ref().as_fd(), width, height).map_err(doing("resize the terminal"))
    }

    /// What has to be typed for an end of file after `last` was typed.
    ///
    /// COMPAT: containerd's Go shim hangs the terminal up instead, and loses output. Where the input is not canonical, the
    /// character is data; the shells that edit lines themselves take it for the end all the same.
    pub fn end_of_input(&self, last: u8) -> Vec<u8> {
        let Ok((eof, canonical)) = tty::eof_character(self.master().get_ref().as_fd()) else {
            return Vec::new();
        };
        let line_start = matches!(last, b'\n' | b'\r') || last == eof;
        match (eof, canonical && !line_start) {
            // _POSIX_VDISABLE: this terminal has no such character.
            (0, _) => Vec::new(),
            // The first one only hands over the line as it stands (termios(3)).
            (_, true) => vec![eof; 2],
            (_, false) => vec![eof],
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reopen(&mut self) -> Option<()> {
        let master: File = self.master.get_ref().try_clone().ok()?;
        self.peer = Some(tty::peer(master.as_fd()).ok()?);
        // tokio never forgets a hang-up; the duplicate is a new registration.
        self.master = watch(master, BOTH).ok()?;
        Some(())
    }
}
