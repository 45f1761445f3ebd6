//! What a failed kernel call says: its name and its errno.

use std::fmt;

use super::kernel;

/// A failed kernel call. `Copy`, so that it crosses the child's report socket unchanged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// The man-page name of the call.
    pub call: &'static str,
    /// The raw `errno`.
    pub errno: i32,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub const fn new(call: &'static str, errno: i32) -> Self {
        Self { call, errno }
    }

    /// The error of the call that just failed, from the thread's `errno`.
    pub fn last(call: &'static str) -> Self {
        Self::new(call, nix::errno::Errno::last_raw())
    }

    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno);
        write!(f, "{}: {errno:?}: {}", self.call, errno.desc())?;
        match kernel::since(self.call).filter(|_| self.errno == libc::ENOSYS) {
            Some(version) => write!(f, " (Linux {version} or newer is needed)"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> Self {
        std::io::Error::from_raw_os_error(e.errno)
    }
}

/// Turns a `-1`-on-error return value into a result.
pub(super) fn check(call: &'static str, ret: libc::c_long) -> Result<libc::c_long> {
    if ret == -1 { Err(Error::last(call)) } else { Ok(ret) }
}
