//! Sockets: the child's report socket (socketpair(2) of `SOCK_SEQPACKET`, send(2), recv(2), descriptors by `SCM_RIGHTS`), and
//! streams by path (unix(7)).

use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use super::error::check;
use super::fs::{fchmod, own};
use super::{Error, Result};

/// socketpair(2) of `AF_UNIX`, `SOCK_SEQPACKET`, close-on-exec.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds is room for two descriptors.
    let r = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    check("socketpair", r.into())?;
    Ok((own(fds[0].into()), own(fds[1].into())))
}

/// Room for one control message that carries one descriptor, aligned for `cmsghdr`.
#[repr(C, align(8))]
struct OneFd([u8; 32]);

const CMSG_LEN: usize = {
    // SAFETY: pure arithmetic.
    unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize }
};

fn message(iov: &mut libc::iovec, control: &mut OneFd, with_fd: bool) -> libc::msghdr {
    // SAFETY: msghdr is pointers and integers, for which all zeroes is valid.
    let mut msg: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    if with_fd {
        msg.msg_control = (&raw mut control.0).cast();
        // KERNEL: without the padding behind it, which has room for a second descriptor: whoever sends more loses them.
        msg.msg_controllen = CMSG_LEN as _;
    }
    msg
}

/// sendmsg(2) of one message, with at most one descriptor. A vanished peer is `EPIPE`, never a signal.
pub fn send(sock: BorrowedFd<'_>, data: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut iov = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
    let mut control = OneFd([0; 32]);
    let msg = message(&mut iov, &mut control, fd.is_some());
    if let Some(fd) = fd {
        let header: *mut libc::cmsghdr = (&raw mut control.0).cast();
        // SAFETY: cmsghdr is plain integers, for which all zeroes is valid.
        let mut filled: libc::cmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        filled.cmsg_level = libc::SOL_SOCKET;
        filled.cmsg_type = libc::SCM_RIGHTS;
        filled.cmsg_len = CMSG_LEN as _;
        // SAFETY: control is large enough and aligned for one cmsghdr.
        unsafe { ptr::write(header, filled) };
        let data = (&raw mut control.0).cast::<u8>().wrapping_add(CMSG_LEN - size_of::<RawFd>());
        // SAFETY: the descriptor has its place behind the header.
        unsafe { ptr::write_unaligned(data.cast::<RawFd>(), fd.as_raw_fd()) };
    }
    // SAFETY: msg points to the live iov and control above.
    let r = unsafe { libc::sendmsg(sock.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) };
    match check("sendmsg", r as libc::c_long)? as usize {
        n if n == data.len() => Ok(()),
        // A stream whose peer took only a part of it in time.
        _ => Err(Error::new("sendmsg", libc::EAGAIN)),
    }
}

/// socket(2) of `AF_NETLINK`, `NETLINK_ROUTE` (rtnetlink(7)): of the calling thread's network namespace for good, and
/// connected to the kernel: whoever else sends to it (CAP_NET_ADMIN in that namespace) is refused.
pub fn netlink_route() -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    let sock = own(check("socket", r.into())?);
    // SAFETY: sockaddr_nl is plain data; zero is the kernel's own address.
    let mut kernel: libc::sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
    kernel.nl_family = libc::AF_NETLINK as _;
    // SAFETY: kernel is a live sockaddr_nl of the size passed.
    let r = unsafe {
        libc::connect(sock.as_raw_fd(), (&raw const kernel).cast(), size_of::<libc::sockaddr_nl>() as u32)
    };
    check("connect", r.into())?;
    Ok(sock)
}

/// recvmsg(2) of one record into `buf`: its length (0 = the peer closed), and the descriptor that came with it.
pub fn recv(sock: BorrowedFd<'_>, buf: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut control = OneFd([0; 32]);
    let mut msg = message(&mut iov, &mut control, true);
    let n = loop {
        // SAFETY: msg points to the live iov and control above.
        let r = unsafe { libc::recvmsg(sock.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC) };
        match check("recvmsg", r as libc::c_long) {
            Err(e) if e.is(libc::EINTR) => continue,
            r => break r?,
        }
    };
    let header: *const libc::cmsghdr = (&raw const control.0).cast();
    // SAFETY: control is aligned and at least one cmsghdr long; the kernel filled it in or left it zero.
    let header = unsafe { ptr::read(header) };
    let is_fd = header.cmsg_level == libc::SOL_SOCKET
        && header.cmsg_type == libc::SCM_RIGHTS
        && header.cmsg_len == CMSG_LEN
        && msg.msg_controllen >= CMSG_LEN;
    let fd = is_fd.then(|| {
        let at = (&raw const control.0).cast::<u8>().wrapping_add(CMSG_LEN - size_of::<RawFd>());
        // SAFETY: the control message says that a descriptor stands there, now ours.
        own(unsafe { ptr::read_unaligned(at.cast::<RawFd>()) }.into())
    });
    Ok((n as usize, fd))
}

/// recv(2) of what comes next, which stays there to be received: its length (0 = the peer closed), or EAGAIN.
pub fn peek(sock: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: buf is writable for the length passed.
    let r = unsafe { libc::recv(sock.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) };
    check("recv", r as libc::c_long).map(|n| n as usize)
}

/// How long a peer may take to accept a connection, and then to take each message, where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// connect(2) of a new `AF_UNIX` stream socket to `path`; an abstract name begins with a zero. A peer that does not get
/// round to it, or later to a message, within `patience` is `EAGAIN`.
pub fn connect_unix(path: &[u8], patience: Duration) -> Result<OwnedFd> {
    let (sock, addr, length) = unix_stream("connect", path)?;
    set_send_timeout(&sock, patience)?;
    // SAFETY: addr is a live sockaddr_un of at least the size passed.
    let r = unsafe { libc::connect(sock.as_raw_fd(), (&raw const addr).cast(), length) };
    check("connect", r.into())?;
    Ok(sock)
}

/// bind(2) of a new `AF_UNIX` stream socket to `path`, and listen(2) for so many at a time.
///
/// KERNEL: the file takes the socket's own mode, less the umask: it is `mode` from the first moment.
pub fn listen_unix(path: &[u8], mode: u32, backlog: i32) -> Result<OwnedFd> {
    let (sock, addr, length) = unix_stream("bind", path)?;
    fchmod(sock.as_fd(), mode)?;
    // SAFETY: addr is a live sockaddr_un of at least the size passed.
    let r = unsafe { libc::bind(sock.as_raw_fd(), (&raw const addr).cast(), length) };
    check("bind", r.into())?;
    // SAFETY: takes integers only.
    let r = unsafe { libc::listen(sock.as_raw_fd(), backlog) };
    check("listen", r.into())?;
    Ok(sock)
}

/// A new `AF_UNIX` stream socket, and what `call` will be told for `path`.
fn unix_stream(call: &'static str, path: &[u8]) -> Result<(OwnedFd, libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain data, for which all zeroes is valid.
    let mut addr: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    addr.sun_family = libc::AF_UNIX as _;
    if path.len() >= addr.sun_path.len() {
        return Err(Error::new(call, libc::ENAMETOOLONG));
    }
    for (to, from) in addr.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let length = offset_of!(libc::sockaddr_un, sun_path) + path.len() + usize::from(path.first() != Some(&0));
    // SAFETY: takes integers only.
    let r = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    Ok((own(check("socket", r.into())?), addr, length as _))
}

/// setsockopt(2) `SO_SNDTIMEO`, which connect(2) obeys too; zero is no limit.
fn set_send_timeout(sock: &OwnedFd, limit: Duration) -> Result<()> {
    let limit =
        libc::timeval { tv_sec: limit.as_secs() as _, tv_usec: i64::from(limit.subsec_micros()) as _ };
    // SAFETY: limit is a live timeval of the size passed.
    let r = unsafe {
        libc::setsockopt(
            sock.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const limit).cast(),
            size_of::<libc::timeval>() as u32,
        )
    };
    check("setsockopt", r.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::{fs, pipe};
    use super::*;

    fn send_two(sock: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
        let mut iov = libc::iovec { iov_base: b"x".as_ptr() as *mut _, iov_len: 1 };
        let mut control = OneFd([0; 32]);
        let two = CMSG_LEN + size_of::<RawFd>();
        let fd = fd.as_raw_fd();
        let header = [libc::SOL_SOCKET, libc::SCM_RIGHTS, fd, fd].map(i32::to_ne_bytes).concat();
        control.0[..8].copy_from_slice(&two.to_ne_bytes());
        control.0[8..two].copy_from_slice(&header);
        let mut msg = message(&mut iov, &mut control, true);
        msg.msg_controllen = two as _;
        // SAFETY: msg points to the live iov and control above.
        assert_eq!(unsafe { libc::sendmsg(sock.as_raw_fd(), &msg, 0) }, 1);
    }

    #[test]
    fn nobody_but_the_kernel_reaches_a_netlink_socket() {
        let (ours, theirs) = (netlink_route().unwrap(), netlink_route().unwrap());
        // SAFETY: sockaddr_nl is plain data.
        let mut to: libc::sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut length = size_of::<libc::sockaddr_nl>() as u32;
        // SAFETY: to is a live sockaddr_nl of the size passed.
        let named = unsafe { libc::getsockname(ours.as_raw_fd(), (&raw mut to).cast(), &mut length) };
        assert!(named == 0 && to.nl_pid != 0);
        let (text, at) = ([0u8; 16], (&raw const to).cast());
        // SAFETY: text and to are live and of the sizes passed.
        let sent = unsafe { libc::sendto(theirs.as_raw_fd(), text.as_ptr().cast(), 16, 0, at, length) };
        assert_eq!(sent, -1);
        // EPERM: this user could not have sent to any socket.
        assert!([libc::ECONNREFUSED, libc::EPERM].contains(&Error::last("sendto").errno));
    }

    #[test]
    fn of_two_descriptors_that_come_with_a_record_none_is_left_open_unseen() {
        let (ours, theirs) = seqpacket_pair().unwrap();
        let (read, write) = pipe::pipe().unwrap();
        send_two(theirs.as_fd(), write.as_fd());
        let (length, received) = recv(ours.as_fd(), &mut [0; 8]).unwrap();
        assert!(length == 1 && received.is_some());
        drop((received, write));
        pipe::set_nonblocking(read.as_fd()).unwrap();
        // The pipe is at its end only if nobody has the second one: else EAGAIN.
        assert_eq!(fs::read(read.as_fd(), &mut [0; 1]), Ok(&[][..]));
    }
}
