//! Steps that move the child into cgroups and namespaces.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Outcome;
use crate::sys::{self, cred, fs, ns};

/// Writes `0` ("me") to every `tasks` file.
/// KERNEL: a thread that moves itself through v1 `tasks` does not take the global threadgroup lock, which
/// `cgroup.procs` does at the price of an RCU grace period (9-12 ms measured).
pub fn join_cgroups(files: &[std::sync::Arc<OwnedFd>]) -> Outcome {
    files.iter().try_for_each(|file| fs::write(file.as_fd(), b"0"))
}

/// Enters a cgroup v2 directory the slow way.
pub fn enter_cgroup(dir: BorrowedFd<'_>) -> Outcome {
    let file = fs::openat(dir, c"cgroup.procs", libc::O_WRONLY, 0)?;
    fs::write(file.as_fd(), b"0")
}

pub fn join(fd: &OwnedFd, kinds: i32) -> Outcome {
    ns::setns(fd.as_fd(), kinds)?;
    if kinds & libc::CLONE_NEWUSER != 0 { become_root() } else { Ok(()) }
}

/// uid and gid 0 of the user namespace just entered, without supplementary groups where the namespace lets us.
pub fn become_root() -> Outcome {
    match cred::setgroups(&[]) {
        // `setgroups` is denied in namespaces made by unprivileged users (user_namespaces(7)).
        Err(e) if e.is(libc::EPERM) => {}
        r => r?,
    }
    cred::setresgid(0)?;
    cred::setresuid(0)?;
    // KERNEL: a change of ids sets this to fs.suid_dumpable, which may say 1 (proc_sys_fs(5); CVE-2016-9962).
    cred::set_dumpable(false)
}

/// A new time namespace: offsets must be written before its first member enters (time_namespaces(7)).
pub fn time(offsets: &[CString], proc: &OwnedFd) -> Outcome {
    ns::unshare(libc::CLONE_NEWTIME)?;
    if !offsets.is_empty() {
        let file = fs::openat(proc.as_fd(), c"self/timens_offsets", libc::O_WRONLY, 0)?;
        offsets.iter().try_for_each(|line| fs::write(file.as_fd(), line.as_bytes()))?;
    }
    let mine = fs::openat(proc.as_fd(), c"self/ns/time_for_children", libc::O_RDONLY, 0)?;
    sys::ns::setns(mine.as_fd(), libc::CLONE_NEWTIME)
}
