//! Opening what an address names: the client's FIFOs, files, the pipes behind them. Never blocks.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pump::Sink;
use super::{Error, doing};
use crate::sys::pipe;

/// A descriptor that the runtime watches. Shared by the directions of a terminal.
pub(super) type Watched = Arc<AsyncFd<File>>;

pub(super) fn watch(file: File, interest: Interest) -> Result<Watched, Error> {
    let watched = register(file, interest);
    watched.map(Arc::new).map_err(|source| Error::Watch { doing: "watch a stream with epoll", source })
}

/// Registers an owned descriptor with the runtime. To be called in it.
#[expect(
    deprecated,
    reason = "the successor is unsafe; a descriptor that is owned or shared stays open as long as it is registered"
)]
pub fn register<T: AsRawFd>(fd: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}

/// A pipe that `owner` can open anew through /proc/self/fd: (read end, write end).
pub(super) fn owned_pipe((uid, gid): (u32, u32)) -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = pipe::pipe().map_err(doing("make a pipe for stdio"))?;
    // The owner belongs to the pipe, so either end will do.
    pipe::fchown(read.as_fd(), uid, gid).map_err(doing("give the stdio pipe to the process's user"))?;
    Ok((read, write))
}

/// The shim's own end of a pipe; the process's end stays blocking.
pub(super) fn own_end(end: OwnedFd) -> Result<File, Error> {
    pipe::set_nonblocking(end.as_fd()).map_err(doing("make a stdio pipe non-blocking"))?;
    Ok(end.into())
}

/// Opens a plain path for output: a FIFO for reading too, anything else to append to.
pub(super) fn open_output(stream: &'static str, path: &Path) -> Result<Sink, Error> {
    let failed = |source| Error::Open { stream, path: path.into(), source };
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    if kind.is_fifo() {
        // With a reader of our own there is no EPIPE, and what was written survives a client that comes back.
        let file = options.read(true).write(true).open(path).map_err(failed)?;
        return Ok(Sink::Pipe(watch(file, Interest::WRITABLE)?));
    }
    let file = options.append(true).open(path).map_err(failed)?;
    // A regular file is always ready and cannot be watched; /dev/null neither.
    let copy = file.try_clone().map_err(failed)?;
    Ok(watch(copy, Interest::WRITABLE).map_or(Sink::File(file), Sink::Device))
}

/// Opens the file of a `file://` address, made with its directories when missing.
///
/// COMPAT: the modes are those of containerd-shim-runc-v2.
pub(super) fn open_file(stream: &'static str, path: &Path) -> Result<Sink, Error> {
    let failed = |source| Error::Open { stream, path: path.into(), source };
    if let Ok(meta) = std::fs::metadata(path)
        && !meta.is_file()
    {
        return open_output(stream, path);
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path).map_err(failed)?;
    Ok(Sink::File(file))
}

/// The client's side of stdin.
pub(super) enum Input {
    /// The reader, and the writer that keeps a client's detaching from being the end.
    Fifo(File, File),
    /// A regular file or device, which the process may have itself.
    Direct(File),
}

pub(super) fn open_input(path: &Path) -> Result<Input, Error> {
    let failed = |source| Error::Open { stream: "stdin", path: path.into(), source };
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    if !std::fs::metadata(path).map_err(failed)?.file_type().is_fifo() {
        return OpenOptions::new().read(true).open(path).map(Input::Direct).map_err(failed);
    }
    // ORDER: the reader first; a non-blocking open for writing needs one (ENXIO, fifo(7)).
    let reader = options.read(true).open(path).map_err(failed)?;
    let writer = options.read(false).write(true).open(path).map_err(failed)?;
    Ok(Input::Fifo(reader, writer))
}
