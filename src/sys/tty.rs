//! Pseudo-terminals: ioctl_tty(2), pty(7), and the proof that a descriptor is one of the devpts it should be from.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::error::check;
use super::fs::{fstat, fstatfs_magic, own};
use super::{Error, Result};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
pub const DEVPTS_MAGIC: i64 = 0x1cd1;
/// Device numbers of pty(7): the multiplexer, and the range of majors of its terminals.
const PTMX: (u32, u32) = (5, 2);
const UNIX98_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// `ENOTTY` unless `master` is the multiplexer (5:2) of a devpts.
pub fn verify_master(master: BorrowedFd<'_>) -> Result<()> {
    verify("verify ptmx", master, |major, minor| (major, minor) == PTMX)
}

/// `ENOTTY` unless `slave` is a terminal of a devpts.
pub fn verify_slave(slave: BorrowedFd<'_>) -> Result<()> {
    verify("verify pty", slave, |major, _| UNIX98_MAJORS.contains(&major))
}

fn verify(call: &'static str, fd: BorrowedFd<'_>, device: impl Fn(u32, u32) -> bool) -> Result<()> {
    let stat = fstat(fd)?;
    let is_char = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    let right = is_char && device(libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
    if right && fstatfs_magic(fd)? == DEVPTS_MAGIC { Ok(()) } else { Err(Error::new(call, libc::ENOTTY)) }
}

/// ioctl(2) `TIOCSPTLCK` 0, unlockpt(3).
pub fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let lock: libc::c_int = 0;
    // SAFETY: the request reads one int.
    let r = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &lock) };
    check("ioctl(TIOCSPTLCK)", r.into()).map(drop)
}

/// ioctl(2) `TIOCGPTPEER` (Linux 4.13): the other side of `master`, opened without any path.
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes integers only.
    let r = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    check("ioctl(TIOCGPTPEER)", r.into()).map(own)
}

/// ioctl(2) `TIOCSCTTY`: makes `slave` the controlling terminal of the calling session leader.
pub fn set_controlling(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check("ioctl(TIOCSCTTY)", r.into()).map(drop)
}

/// ioctl(2) `TIOCSWINSZ`; the foreground process group gets SIGWINCH if the size changed.
pub fn set_size(tty: BorrowedFd<'_>, width: u16, height: u16) -> Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize.
    let r = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    check("ioctl(TIOCSWINSZ)", r.into()).map(drop)
}

/// ioctl(2) `TIOCGWINSZ`: (width, height).
#[cfg(test)]
pub fn size(tty: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the request writes one winsize.
    let r = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    check("ioctl(TIOCGWINSZ)", r.into())?;
    // SAFETY: winsize is plain data, zeroed above and then written.
    let size = unsafe { size.assume_init() };
    Ok((size.ws_col, size.ws_row))
}

/// The character that means end-of-file on this terminal (termios(3) `VEOF`), and whether its input is canonical (`ICANON`).
pub fn eof_character(tty: BorrowedFd<'_>) -> Result<(u8, bool)> {
    let mut termios = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: tcgetattr writes one termios.
    let r = unsafe { libc::tcgetattr(tty.as_raw_fd(), termios.as_mut_ptr()) };
    check("tcgetattr", r.into())?;
    // SAFETY: termios is plain data, zeroed above and then written.
    let termios = unsafe { termios.assume_init() };
    Ok((termios.c_cc[libc::VEOF], termios.c_lflag & libc::ICANON != 0))
}
