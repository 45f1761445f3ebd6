//! What makes a daemon out of the `start` process: fork(2), and core scheduling (prctl(2) `PR_SCHED_CORE`).

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use super::Result;
use super::error::check;

/// fork(2): the child's pid in the parent, none in the child. The caller must have one thread only, or the child may do
/// no more than a signal handler may.
pub fn fork() -> Result<Option<i32>> {
    // SAFETY: takes nothing; the rule for callers with threads is stated above.
    let pid = unsafe { libc::fork() };
    check("fork", pid.into())?;
    Ok((pid != 0).then_some(pid))
}

/// Gives the calling thread a core scheduling cookie of its own, which its children inherit (Linux 5.14).
pub fn sched_core_create() -> Result<()> {
    const SELF: libc::c_ulong = 0;
    const SCOPE_THREAD: libc::c_ulong = 0;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: takes integers only; the last argument must be zero for this operation.
    let r =
        unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, SELF, SCOPE_THREAD, UNUSED) };
    check("prctl(PR_SCHED_CORE)", r.into()).map(drop)
}

/// Moves `fd` to the number `to` and closes every other descriptor from there on (dup3(2), close_range(2)).
pub fn keep_only(fd: OwnedFd, to: i32) -> Result<OwnedFd> {
    if fd.as_raw_fd() != to {
        // SAFETY: takes integers only; whatever had the number was the caller's to give up.
        let r = unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) };
        check("dup3", r.into())?;
    }
    // From here on the old number is closed by the call below.
    let _ = fd.into_raw_fd();
    // SAFETY: takes integers only; the caller has said that nothing else of these numbers is in use.
    let r = unsafe { libc::syscall(libc::SYS_close_range, to as u32 + 1, u32::MAX, 0) };
    check("close_range", r)?;
    // SAFETY: `to` is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(to) })
}
