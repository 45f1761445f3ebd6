//! The listener of a seccomp filter, and what it is answered. seccomp_unotify(2).
#![allow(unsafe_code)]

use libc::{SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, seccomp_notif, seccomp_notif_resp};
use myshim::sys::process;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Answers until no process has the filter any more: each call that is notified fails with the errno that `judge`
/// gives, or goes on.
pub fn answer(filter: &OwnedFd, mut judge: impl FnMut(&seccomp_notif) -> Option<i32>) {
    loop {
        process::poll_in(filter.as_fd(), -1).expect("poll");
        // SAFETY: plain integers, for which all zeroes is valid; the kernel insists on zeroes.
        let mut asked: seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: asked is a live seccomp_notif.
        let r = unsafe { libc::ioctl(filter.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &mut asked) };
        if r != 0 {
            match std::io::Error::last_os_error().raw_os_error() {
                // The process that asked is gone, or interrupted; if all are gone there is nobody to ask any more.
                Some(libc::ENOENT | libc::EINTR) if alive(filter) => continue,
                _ => return,
            }
        }
        let refusal = judge(&asked);
        let go_on = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let answer = seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: -refusal.unwrap_or(0),
            flags: if refusal.is_some() { 0 } else { go_on },
        };
        // SAFETY: answer is a live seccomp_notif_resp. It fails only if the process is gone meanwhile.
        unsafe { libc::ioctl(filter.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &answer) };
    }
}

/// Does any process use the filter still? poll(2) tells `POLLHUP` when none does.
fn alive(filter: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: filter.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: poll is one live pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & libc::POLLHUP == 0
}
