//! What copying a directory tree takes: getdents64(2), sendfile(2), and extended attributes (xattr(7)).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::error::check;
use super::{Error, Result};

/// Bytes before the name in `struct linux_dirent64`: inode, offset, length, type.
const HEADER: usize = 19;

/// A name in a directory, and the offset behind it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'b> {
    pub name: &'b CStr,
    pub next: i64,
}

/// The first entry of `dir` at or behind `offset` that is neither `.` nor `..`; `buf` holds at least one entry (280
/// bytes). `None` at the end.
pub fn entry_at<'b>(dir: BorrowedFd<'_>, mut offset: i64, buf: &'b mut [u8]) -> Result<Option<Entry<'b>>> {
    let found = loop {
        // SAFETY: takes integers only.
        let r = unsafe { libc::lseek(dir.as_raw_fd(), offset, libc::SEEK_SET) };
        check("lseek", r)?;
        // SAFETY: buf is writable for its length.
        let r = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), buf.len()) };
        let filled = &buf[..check("getdents64", r)? as usize];
        if filled.is_empty() {
            return Ok(None);
        }
        match first_name(filled, &mut offset)? {
            Some(range) => break range,
            None => continue,
        }
    };
    let name = CStr::from_bytes_until_nul(&buf[found]).map_err(|_| Error::new("getdents64", libc::EIO))?;
    Ok(Some(Entry { name, next: offset }))
}

/// Where in `records` the first real name stands; `offset` becomes the one behind the last record looked at.
fn first_name(records: &[u8], offset: &mut i64) -> Result<Option<std::ops::Range<usize>>> {
    let mut at = 0;
    while let Some(header) = records.get(at..at + HEADER) {
        let mut next = [0; 8];
        next.copy_from_slice(&header[8..16]);
        let length = usize::from(u16::from_ne_bytes([header[16], header[17]]));
        let Some(name) = records.get(at + HEADER..at + length) else {
            return Err(Error::new("getdents64", libc::EIO));
        };
        *offset = i64::from_ne_bytes(next);
        if !(name.starts_with(b".\0") || name.starts_with(b"..\0")) {
            return Ok(Some(at + HEADER..at + length));
        }
        at += length;
    }
    Ok(None)
}

/// sendfile(2) of all of `from`, from its offset on, to `to`.
pub fn send_all(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<()> {
    const CHUNK: usize = 1 << 30;
    loop {
        // SAFETY: the null offset means the file's own.
        let r = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), CHUNK) };
        match check("sendfile", r as libc::c_long) {
            Ok(0) => return Ok(()),
            Err(e) if e.is(libc::EINTR) => {}
            r => drop(r?),
        }
    }
}

/// flistxattr(2): the names, each with its NUL.
pub fn flistxattr<'b>(fd: BorrowedFd<'_>, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    // SAFETY: buf is writable for its length.
    let r = unsafe { libc::flistxattr(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check("flistxattr", r as libc::c_long)?;
    Ok(&buf[..n as usize])
}

/// fgetxattr(2).
pub fn fgetxattr<'b>(fd: BorrowedFd<'_>, name: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8]> {
    // SAFETY: name is NUL-terminated, buf is writable for its length.
    let r = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    let n = check("fgetxattr", r as libc::c_long)?;
    Ok(&buf[..n as usize])
}

/// fsetxattr(2), new or replaced.
pub fn fsetxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: name is NUL-terminated, value is readable for its length.
    let r = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check("fsetxattr", r.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn every_name_is_met_once_whatever_fits_into_the_buffer() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..40 {
            std::fs::write(dir.path().join(format!("file-{n}")), "").unwrap();
        }
        let file = std::fs::File::open(dir.path()).unwrap();
        let (mut at, mut names, mut buf) = (0, Vec::new(), [0; 300]);
        while let Some(entry) = entry_at(file.as_fd(), at, &mut buf).unwrap() {
            at = entry.next;
            names.push(entry.name.to_str().unwrap().to_owned());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 40);
    }
}
