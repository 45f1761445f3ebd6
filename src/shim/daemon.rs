//! The shim's first moments after the fork: away from containerd's session, descriptors and directory (daemon(7)).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::{self, Result};

/// The listening socket's number in the shim.
const LISTENER: i32 = 3;

/// Leaves nothing of the starter but the listening socket, which is returned.
pub fn detach(listener: OwnedFd) -> Result<OwnedFd> {
    // ORDER: stdout first: containerd reads it until the last writer is gone, and waits for this.
    silence()?;
    let listener = sys::daemon::keep_only(listener, LISTENER)?;
    sys::cred::setsid()?;
    // The bundle is removed before the shim ends.
    sys::fs::chdir(c"/")?;
    Ok(listener)
}

/// stdin, stdout and stderr become /dev/null.
fn silence() -> Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| sys::Error::new("open(/dev/null)", e.raw_os_error().unwrap_or(libc::EIO)))?;
    (0..=2).try_for_each(|fd| sys::fs::dup2(null.as_fd(), fd))
}
