//! The process that holds a scope until init is born in it.
//!
//! systemd makes a scope for processes that exist. COMPAT: runc gives it the waiting init itself. Here a process that does
//! nothing sits in for it: init is then cloned straight into a cgroup that is there, as with the cgroupfs driver, and
//! the plan of its birth knows nothing of drivers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::sys::clone::{Cloned, clone3};
use crate::sys::{Result, fs, process, socket};

/// Dies when dropped, and with the shim.
#[derive(Debug)]
pub struct Seat {
    child: Cloned,
    gate: Option<OwnedFd>,
}

impl Seat {
    pub fn take() -> Result<Seat> {
        let (gate, theirs) = socket::seqpacket_pair()?;
        let child = clone3(0, None, || {
            let _ = process::reset_signals();
            // The thread that waits for systemd is the one that cloned us: without it there is nothing to sit for.
            let _ = process::die_with_parent();
            fs::close(gate.as_raw_fd());
            // Of all that the shim has open, only the socket stays: a pipe held here would not end elsewhere.
            if fs::dup2(theirs.as_fd(), 0).and_then(|()| fs::close_range(1, u32::MAX)).is_ok() {
                let _ = socket::recv(fs::STDIN, &mut [0]);
            }
            process::exit(0)
        })?;
        Ok(Seat { child, gate: Some(gate) })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // ORDER: the gate before the wait: where no signal can be sent, the process leaves by itself.
        drop(self.gate.take());
        // ESRCH, ECHILD: it has ended, and was reaped with the strays.
        let _ = process::pidfd_send_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::waitid(self.child.pidfd.as_fd(), libc::WEXITED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_a_process_that_goes_with_its_owner() {
        let seat = Seat::take().unwrap();
        let pid = seat.pid();
        assert_eq!(process::kill(pid, 0), Ok(()));
        drop(seat);
        assert!(process::kill(pid, 0).is_err());
    }
}
