//! Files by descriptor: openat2(2), openat(2), mkdirat(2), mknodat(2), symlinkat(2), fstat(2), fstatfs(2) and their kin.

use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::check;
use super::{Error, Result};

/// The directory that relative paths start from: a descriptor, or the working directory.
pub const CWD: BorrowedFd<'static> = {
    // SAFETY: AT_FDCWD is a sentinel the kernel understands, never closed; it is not -1.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
};
/// Standard input, whatever it is.
pub const STDIN: BorrowedFd<'static> = {
    // SAFETY: descriptor 0 is never closed, only replaced.
    unsafe { BorrowedFd::borrow_raw(0) }
};

/// Takes ownership of a descriptor that a kernel call just returned.
pub(super) fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the caller passes the fresh result of a successful call, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// openat2(2) (Linux 5.6). `flags` are `O_*`, `resolve` are `RESOLVE_*`.
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    // SAFETY: open_how is plain integers, for which all zeroes is valid.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    loop {
        // SAFETY: path is NUL-terminated and `how` is a live open_how of the size passed.
        let r = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &how,
                size_of::<libc::open_how>(),
            )
        };
        match check("openat2", r) {
            // KERNEL: a concurrent rename or mount makes RESOLVE_IN_ROOT and _BENEATH answer EAGAIN; try again.
            Err(e)
                if e.is(libc::EAGAIN) && resolve & (libc::RESOLVE_IN_ROOT | libc::RESOLVE_BENEATH) != 0 => {}
            r => return r.map(own),
        }
    }
}

/// openat(2), always with `O_CLOEXEC`.
pub fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    check("openat", r.into()).map(own)
}

/// mkdirat(2).
pub fn mkdirat(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode) };
    check("mkdirat", r.into()).map(drop)
}

/// mknodat(2). `mode` carries the file type, `dev` is `makedev(major, minor)`.
pub fn mknodat(dir: BorrowedFd<'_>, path: &CStr, mode: u32, dev: u64) -> Result<()> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::mknodat(dir.as_raw_fd(), path.as_ptr(), mode, dev) };
    check("mknodat", r.into()).map(drop)
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    // SAFETY: both strings are NUL-terminated.
    let r = unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), path.as_ptr()) };
    check("symlinkat", r.into()).map(drop)
}

/// readlinkat(2) into `buf`; an empty `path` reads the `O_PATH` descriptor of a link itself.
pub fn readlinkat<'b>(dir: BorrowedFd<'_>, path: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    // SAFETY: path is NUL-terminated, buf is writable for its length.
    let r = unsafe { libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check("readlinkat", r as libc::c_long)?;
    Ok(&buf[..n as usize])
}

/// fstatat(2) with `flags` (`AT_SYMLINK_NOFOLLOW`, `AT_EMPTY_PATH`).
pub fn fstatat(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<libc::stat> {
    let mut st = MaybeUninit::uninit();
    // SAFETY: path is NUL-terminated, st is room for one stat.
    let r = unsafe { libc::fstatat(dir.as_raw_fd(), path.as_ptr(), st.as_mut_ptr(), flags) };
    check("fstatat", r.into())?;
    // SAFETY: the kernel filled it in.
    Ok(unsafe { st.assume_init() })
}

/// fstat(2), on an `O_PATH` descriptor too.
pub fn fstat(fd: BorrowedFd<'_>) -> Result<libc::stat> {
    fstatat(fd, c"", libc::AT_EMPTY_PATH)
}

/// `PROC_SUPER_MAGIC` of linux/magic.h.
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The magic number of the filesystem below `fd`, from fstatfs(2).
pub fn fstatfs_magic(fd: BorrowedFd<'_>) -> Result<i64> {
    let mut st = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: st is room for one statfs.
    let r = unsafe { libc::fstatfs(fd.as_raw_fd(), st.as_mut_ptr()) };
    check("fstatfs", r.into())?;
    // SAFETY: the kernel filled it in.
    Ok(unsafe { st.assume_init() }.f_type)
}

/// Can nothing be written below `fd`, because its mount or its filesystem is read-only (fstatvfs(3), `ST_RDONLY`)?
pub fn is_readonly(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut st = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: st is room for one statvfs.
    let r = unsafe { libc::fstatvfs(fd.as_raw_fd(), st.as_mut_ptr()) };
    check("fstatvfs", r.into())?;
    // SAFETY: libc filled it in.
    Ok(unsafe { st.assume_init() }.f_flag & libc::ST_RDONLY != 0)
}

/// fchownat(2); an empty `path` means the descriptor itself.
pub fn fchownat(dir: BorrowedFd<'_>, path: &CStr, uid: u32, gid: u32, flags: i32) -> Result<()> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::fchownat(dir.as_raw_fd(), path.as_ptr(), uid, gid, flags) };
    check("fchownat", r.into()).map(drop)
}

/// fchmod(2).
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fchmod(fd.as_raw_fd(), mode) };
    check("fchmod", r.into()).map(drop)
}

/// faccessat(2) with the effective ids (`AT_EACCESS`).
pub fn faccessat(dir: BorrowedFd<'_>, path: &CStr, mode: i32) -> Result<()> {
    // KERNEL: glibc emulates AT_EACCESS before 5.8; the raw faccessat2 keeps to the kernel's verdict.
    // SAFETY: path is NUL-terminated.
    let r = unsafe {
        libc::syscall(libc::SYS_faccessat2, dir.as_raw_fd(), path.as_ptr(), mode, libc::AT_EACCESS)
    };
    check("faccessat2", r).map(drop)
}

/// write(2), all of `data` in one call: what procfs, cgroup and attribute files ask for.
pub fn write(fd: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    // SAFETY: data is readable for its length.
    let r = unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) };
    match check("write", r as libc::c_long)? as usize {
        n if n == data.len() => Ok(()),
        _ => Err(Error::new("write", libc::EIO)),
    }
}

/// read(2) once into `buf`; the bytes read.
pub fn read<'b>(fd: BorrowedFd<'_>, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    // SAFETY: buf is writable for its length.
    let r = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check("read", r as libc::c_long)?;
    Ok(&buf[..n as usize])
}

/// dup3(2) of `fd` onto the number `to`, not close-on-exec: a descriptor the executed program shall have.
pub fn dup2(fd: BorrowedFd<'_>, to: i32) -> Result<()> {
    if fd.as_raw_fd() == to {
        // SAFETY: takes integers only.
        let r = unsafe { libc::fcntl(to, libc::F_SETFD, 0) };
        return check("fcntl", r.into()).map(drop);
    }
    // SAFETY: takes integers only; `to` is 0, 1 or 2 or owned by nobody in the child that calls this.
    let r = unsafe { libc::dup3(fd.as_raw_fd(), to, 0) };
    check("dup3", r.into()).map(drop)
}

/// fcntl(2) `F_DUPFD_CLOEXEC`: the same under another number.
pub fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    check("fcntl", r.into()).map(own)
}

/// close_range(2) (Linux 5.9) of the numbers `first` to `last`, both included; an empty range is fine.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: takes integers only; callers are children about to execute or exit.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check("close_range", r).map(drop)
}

/// chdir(2).
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::chdir(path.as_ptr()) };
    check("chdir", r.into()).map(drop)
}

/// fchdir(2).
pub fn fchdir(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fchdir(fd.as_raw_fd()) };
    check("fchdir", r.into()).map(drop)
}

/// The raw getcwd(2), whose answer starts with `(unreachable)` outside the root; the path without its NUL.
pub fn getcwd(buf: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: buf is writable for its length.
    let r = unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) };
    let n = check("getcwd", r)? as usize;
    Ok(&buf[..n.saturating_sub(1)])
}

/// umask(2), which cannot fail; the previous mask.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: takes integers only.
    unsafe { libc::umask(mask) }
}

/// close(2) of a descriptor by number: in a child, where the copy of its owner will never be dropped.
pub fn close(fd: i32) {
    // SAFETY: takes integers only; the caller is a child that will not use the number again.
    unsafe { libc::close(fd) };
}

/// memfd_create(2), close-on-exec: an anonymous file called `name` in /proc.
pub fn memfd(name: &CStr) -> Result<OwnedFd> {
    // SAFETY: name is NUL-terminated.
    let r = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    check("memfd_create", r.into()).map(own)
}

/// fcntl(2) `F_SEAL_GROW`: nobody can write beyond the present end of the anonymous file.
pub fn seal_growth(memfd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW) };
    check("fcntl", r.into()).map(drop)
}
