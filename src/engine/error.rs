//! What can go wrong in the engine, in words that name the thing and, where known, the remedy.

use std::fmt;

use crate::sys;

/// An engine failure. Returned, never logged here.
#[derive(Debug)]
pub enum Error {
    /// The spec asks for something impossible.
    Spec(String),
    /// The program cannot be run; worded as runc does, because clients match the text.
    Program(String),
    /// A step of the child failed.
    Step { step: String, call: String, errno: i32, detail: String },
    /// Something the shim did failed: what it was doing, and why.
    Doing { what: String, cause: String },
    /// A cgroup operation failed.
    Cgroup(super::cgroup::Error),
    /// A Create failed, and something of it cannot be cleared yet: why, and what.
    Stays { error: Box<Error>, why: Box<Error>, rest: Box<super::Leftover> },
    /// The container's init (or the process) is gone.
    Gone(String),
}

impl Error {
    pub fn doing(what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::Doing { what: what.into(), cause: cause.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec(text) | Self::Program(text) | Self::Gone(text) => f.write_str(text),
            Self::Doing { what, cause } => write!(f, "{what}: {cause}"),
            Self::Cgroup(e) => e.fmt(f),
            Self::Stays { error, why, .. } => write!(f, "{error}; not yet cleared: {why}"),
            Self::Step { step, call, errno, detail } => {
                let name = nix::errno::Errno::from_raw(*errno);
                write!(f, "{step}: {call}: {name:?}: {}", name.desc())?;
                if !detail.is_empty() {
                    write!(f, " ({detail})")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<super::cgroup::Error> for Error {
    fn from(e: super::cgroup::Error) -> Self {
        Self::Cgroup(e)
    }
}

impl From<sys::fault::Injected> for Error {
    fn from(e: sys::fault::Injected) -> Self {
        Self::doing("testing", e)
    }
}

/// Adds what was being done to a kernel error.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for sys::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::doing(what(), e))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::doing(what(), e))
    }
}
