//! Pipes and FIFOs: pipe2(2), splice(2), fcntl(2) F_SETPIPE_SZ and O_NONBLOCK, ioctl(2) FIONREAD, fchown(2).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::Result;
use super::error::check;
use super::fs::own;

/// pipe2(2) with `O_CLOEXEC`: (read end, write end).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: ends has room for the two descriptors that the call writes.
    let r = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    check("pipe2", r.into())?;
    Ok((own(ends[0].into()), own(ends[1].into())))
}

/// splice(2) between two pipes, of which neither may block. `Ok(0)` = the source is at its end.
///
/// `EAGAIN` does not tell which of the two was not ready.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let (offset, flags) = (std::ptr::null_mut(), libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE);
    // SAFETY: null offsets are what pipes require.
    let r = unsafe { libc::splice(from, offset, to, offset, len, flags) };
    check("splice", r as libc::c_long).map(|n| n as usize)
}

/// fcntl(2) `F_SETPIPE_SZ`; the kernel rounds up, and refuses more than pipe-max-size (pipe(7)) to the unprivileged.
pub fn set_pipe_size(pipe: BorrowedFd<'_>, size: i32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, size) };
    check("fcntl(F_SETPIPE_SZ)", r.into()).map(drop)
}

/// ioctl(2) `FIONREAD`: the bytes that a read would find.
pub fn readable_bytes(pipe: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int.
    let r = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut bytes) };
    check("ioctl(FIONREAD)", r.into())?;
    Ok(bytes as usize)
}

/// Is the pipe read to its end: nothing in it, and no writer (poll(2), `POLLHUP` without `POLLIN`)? An error is no end.
pub fn is_at_end(pipe: BorrowedFd<'_>) -> bool {
    let mut p = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: p is one live pollfd.
    unsafe { libc::poll(&mut p, 1, 0) };
    p.revents & (libc::POLLHUP | libc::POLLIN) == libc::POLLHUP
}

/// fcntl(2) `F_SETFL`: sets `O_NONBLOCK`. A flag of this end alone: the other end of a pipe has its own.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    let flags = check("fcntl(F_GETFL)", flags.into())? as libc::c_int | libc::O_NONBLOCK;
    // SAFETY: takes integers only.
    let r = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) };
    check("fcntl(F_SETFL)", r.into()).map(drop)
}

/// fcntl(2) `F_DUPFD_CLOEXEC`: a duplicate whose number is `least` or above.
pub fn dup_above(fd: BorrowedFd<'_>, least: i32) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check("fcntl(F_DUPFD_CLOEXEC)", r.into()).map(own)
}

/// fchown(2). The owner of a pipe belongs to both its ends.
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) };
    check("fchown", r.into()).map(drop)
}
