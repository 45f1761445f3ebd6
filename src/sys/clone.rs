//! clone3(2), as fork(2) with a pidfd: the child is a copy, and may call nothing but `sys`.

use std::convert::Infallible;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::Result;
use super::error::check;
use super::fs::own;

/// From `linux/sched.h`; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// As above: the child has no signal handlers (Linux 5.5).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A process just cloned: its pid as the caller's pid namespace counts, and its pidfd.
#[derive(Debug)]
pub struct Cloned {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// clone3(2) (Linux 5.3) without `CLONE_VM`: the child runs `child`, which does not return.
///
/// `flags` are namespaces to create and `CLONE_PARENT`; `cgroup` (Linux 5.7) is the cgroup v2 directory that the
/// child is born in. The shim may have other threads, whose locks stay locked in the copy for ever: `child` may call
/// nothing but `sys`, and ends in execve(2) or _exit(2). A debug build enforces the first half (`alloc_guard`).
pub fn clone3(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> Infallible,
) -> Result<Cloned> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is valid.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = flags | CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: args is a live clone_args of the size passed; without CLONE_VM the child has a stack of its own.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    match check("clone3", r)? {
        0 => {
            #[cfg(debug_assertions)]
            super::alloc_guard::forbid();
            #[expect(unreachable_code, reason = "the child does not come back")]
            match child() {}
        }
        pid => Ok(Cloned { pid: pid as i32, pidfd: own(pidfd.into()) }),
    }
}
