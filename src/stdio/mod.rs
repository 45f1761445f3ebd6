//! What a process gets as stdin, stdout and stderr, and how its bytes travel to the client.
//!
//! ```text
//! client's FIFO  <- splice -  pipe  <- process        stdout, stderr          (pump.rs)
//! client's FIFO   - splice -> pipe   -> process        stdin
//! file           <- copy   -  pipe  <- process        file://
//! logger process <---------   pipe  <- process        binary://               (logger.rs)
//! client's FIFOs <- copy ->  master <-> process        terminal                (terminal.rs)
//! ```
//!
//! The process never holds the client's FIFO: the client may go away and come back, and the workload notices nothing.
//! The shim keeps both ends of every FIFO open, so that neither side's absence is an end of file or an EPIPE (fifo(7)).

mod io;
mod logger;
mod pump;
mod target;
mod terminal;
mod uri;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use io::{Io, open};
pub use target::register;

use crate::sys;

/// The stdio part of a Create or Exec request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// The container's id and namespace, for loggers.
    pub id: String,
    pub namespace: String,
    /// The host ids that own the pipes, so that the process can open `/dev/stdout` anew.
    pub owner: (u32, u32),
}

/// The process's own ends, all `O_CLOEXEC`; `None` is /dev/null. To be dropped as soon as the process has them: while
/// the shim holds a write end, the stream has no end.
#[derive(Debug, Default)]
pub struct ChildEnds {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open {stream} {}: {source}", .path.display())]
    Open { stream: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{stream} {uri:?}: this scheme is not supported: use a path, fifo://, file://, or for output binary://"
    )]
    Scheme { stream: &'static str, uri: String },
    #[error("start logger {}: {source}", .path.display())]
    Logger { path: PathBuf, source: std::io::Error },
    #[error("logger {} did not become ready within {seconds} s: it must close descriptor 5", .path.display())]
    LoggerTimeout { path: PathBuf, seconds: u64 },
    #[error("logger {} ended before it said that it was ready", .path.display())]
    LoggerNotReady { path: PathBuf },
    #[error("{doing}: {source}")]
    Sys { doing: &'static str, source: sys::Error },
    #[error("{doing}: {source}")]
    Watch { doing: &'static str, source: std::io::Error },
    #[error("attach terminal: the request did not ask for one, or it has one already")]
    NoTerminal,
}

/// Says what was being done when a kernel call failed.
fn doing(doing: &'static str) -> impl FnOnce(sys::Error) -> Error {
    move |source| Error::Sys { doing, source }
}
