//! Namespaces: unshare(2), setns(2), sethostname(2), setdomainname(2), and bringing up the loopback interface.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::Result;
use super::error::check;
use super::fs::{self, own};

/// unshare(2). The caller passes no `CLONE_FILES`, so every thread keeps the shared descriptor table.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::unshare(flags) };
    check("unshare", r.into()).map(drop)
}

/// setns(2): `fd` is a namespace file, or a pidfd (Linux 5.8) with several `CLONE_NEW*` in `kinds`.
pub fn setns(fd: BorrowedFd<'_>, kinds: i32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::setns(fd.as_raw_fd(), kinds) };
    check("setns", r.into()).map(drop)
}

/// While this lives, the calling thread is in another network namespace; or its children are born in another pid namespace.
#[must_use]
pub struct Visit {
    home: OwnedFd,
    kind: i32,
    /// It is this thread that goes home.
    thread: PhantomData<*const ()>,
}

impl Visit {
    /// Of the network namespace behind `fd`. EPERM as well where there is no way home.
    pub fn network(fd: BorrowedFd<'_>) -> Result<Self> {
        Self::begin(network()?, libc::CLONE_NEWNET, || setns(fd, libc::CLONE_NEWNET))
    }

    /// Of a network namespace that is new. EPERM as well where there is no way home.
    pub fn new_network() -> Result<Self> {
        Self::begin(network()?, libc::CLONE_NEWNET, || unshare(libc::CLONE_NEWNET))
    }

    /// Of the pid namespace behind `fd`, which may be the pidfd of a member (Linux 5.8). EPERM as well where there is no way
    /// home.
    pub fn pid(fd: BorrowedFd<'_>) -> Result<Self> {
        let home = fs::openat(fs::CWD, c"/proc/thread-self/ns/pid", libc::O_RDONLY, 0)?;
        Self::begin(home, libc::CLONE_NEWPID, || setns(fd, libc::CLONE_NEWPID))
    }

    /// KERNEL: going home takes CAP_SYS_ADMIN in the user namespace that home belongs to (setns(2)), which root of another
    /// one lacks. Going there from there says whether there is a way.
    fn begin(home: OwnedFd, kind: i32, leave: impl FnOnce() -> Result<()>) -> Result<Self> {
        setns(home.as_fd(), kind)?;
        leave()?;
        Ok(Self { home, kind, thread: PhantomData })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let back = setns(self.home.as_fd(), self.kind);
        debug_assert!(back.is_ok(), "a thread is lost in a container's namespace: {back:?}");
    }
}

/// The network namespace that the calling thread is in (namespaces(7)).
pub fn network() -> Result<OwnedFd> {
    fs::openat(fs::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0)
}

/// The kind of namespace (`CLONE_NEW*`) that a file is; ENOTTY if it is none (ioctl_ns(2), `NS_GET_NSTYPE`).
pub fn kind(fd: BorrowedFd<'_>) -> Result<i32> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: takes integers only.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    check("NS_GET_NSTYPE", r.into()).map(|kind| kind as i32)
}

/// sethostname(2).
pub fn sethostname(name: &CStr) -> Result<()> {
    // SAFETY: name is readable for the length passed.
    let r = unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) };
    check("sethostname", r.into()).map(drop)
}

/// setdomainname(2).
pub fn setdomainname(name: &CStr) -> Result<()> {
    // SAFETY: name is readable for the length passed.
    let r = unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) };
    check("setdomainname", r.into()).map(drop)
}

/// Brings `lo` up in the caller's network namespace (netdevice(7), `SIOCSIFFLAGS`).
pub fn loopback_up() -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let sock = match check("socket", r.into()) {
        // KERNEL: a kernel without IPv4 has other families' ioctls all the same.
        Err(e) if e.is(libc::EAFNOSUPPORT) => {
            // SAFETY: takes integers only.
            let r = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            own(check("socket", r.into())?)
        }
        r => own(r?),
    };
    // SAFETY: ifreq is plain data, for which all zeroes is valid.
    let mut req: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    req.ifr_name[0] = b'l' as libc::c_char;
    req.ifr_name[1] = b'o' as libc::c_char;
    req.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: req is a live ifreq.
    let r = unsafe { libc::ioctl(sock.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &req) };
    check("SIOCSIFFLAGS", r.into()).map(drop)
}
