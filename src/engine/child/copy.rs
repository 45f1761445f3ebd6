//! `tmpcopyup`: a directory's content into a new tmpfs, by descriptor from name to name, so that no link leads out.
//!
//! Owners, permission bits, extended attributes, links, nodes and pipes are kept; times and hard links are not, as in
//! runc and crun. The tmpfs is detached yet: nobody else sees the copies before they are whole.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Outcome;
use super::room::Room;
use crate::sys::{Error, Result, fs, tree};

/// Two descriptors a level are open.
const DEEPEST: u32 = 200;
const NAME_MAX: usize = 256;
/// Room for one directory entry and some more.
const ENTRIES: usize = 1024;
/// The longest value that ext4 and tmpfs take, and a list of many names.
const XATTR: usize = 4096;

/// Copies what is in `from` into `to`; both are directories.
pub fn content(room: &mut Room, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Outcome {
    if depth > DEEPEST {
        return Err(Error::new("copying a tree of more than 200 levels", libc::ELOOP));
    }
    let mut at = 0;
    let mut name = [0; NAME_MAX];
    while let Some(next) = next_name(from, at, &mut name)? {
        at = next;
        let Ok(name) = CStr::from_bytes_until_nul(&name) else {
            return Err(Error::new("getdents64", libc::ENAMETOOLONG));
        };
        one(room, from, to, name, depth).inspect_err(|_| {
            // The innermost name is the one that matters.
            if room.note().is_empty() {
                room.say(name.to_bytes());
            }
        })?;
    }
    Ok(())
}

/// Puts the next name into `name`; the answer is the offset behind it.
fn next_name(dir: BorrowedFd<'_>, at: i64, name: &mut [u8; NAME_MAX]) -> Result<Option<i64>> {
    let mut buf = [0; ENTRIES];
    let Some(entry) = tree::entry_at(dir, at, &mut buf)? else { return Ok(None) };
    let bytes = entry.name.to_bytes_with_nul();
    let Some(room) = name.get_mut(..bytes.len()) else {
        return Err(Error::new("getdents64", libc::ENAMETOOLONG));
    };
    room.copy_from_slice(bytes);
    Ok(Some(entry.next))
}

fn one(room: &mut Room, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Outcome {
    let st = fs::fstatat(from, name, libc::AT_SYMLINK_NOFOLLOW)?;
    match st.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let source = open(from, name, libc::O_DIRECTORY)?;
            fs::mkdirat(to, name, 0o700)?;
            let copy = open(to, name, libc::O_DIRECTORY)?;
            content(room, source.as_fd(), copy.as_fd(), depth + 1)?;
            like(source.as_fd(), copy.as_fd())
        }
        libc::S_IFREG => {
            let source = open(from, name, libc::O_NONBLOCK)?;
            let copy = fs::openat(to, name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600)?;
            tree::send_all(copy.as_fd(), source.as_fd())?;
            like(source.as_fd(), copy.as_fd())
        }
        libc::S_IFLNK => link(from, to, name, &st),
        _ => {
            let mask = fs::umask(0);
            let made = fs::mknodat(to, name, st.st_mode, st.st_rdev);
            fs::umask(mask);
            made?;
            fs::fchownat(to, name, st.st_uid, st.st_gid, libc::AT_SYMLINK_NOFOLLOW)
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<OwnedFd> {
    fs::openat(dir, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NOCTTY | flags, 0)
}

#[inline(never)]
fn link(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, st: &libc::stat) -> Outcome {
    let mut buf = [0; libc::PATH_MAX as usize + 1];
    let length = fs::readlinkat(from, name, &mut buf[..libc::PATH_MAX as usize])?.len();
    buf[length] = 0;
    let Ok(target) = CStr::from_bytes_until_nul(&buf) else {
        return Err(Error::new("readlinkat", libc::ENAMETOOLONG));
    };
    fs::symlinkat(target, to, name)?;
    fs::fchownat(to, name, st.st_uid, st.st_gid, libc::AT_SYMLINK_NOFOLLOW)
}

/// Owner, attributes and permission bits of the open `source`.
fn like(source: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> Outcome {
    let st = fs::fstat(source)?;
    fs::fchownat(copy, c"", st.st_uid, st.st_gid, libc::AT_EMPTY_PATH)?;
    attributes(source, copy)?;
    // ORDER: after the owner, whose change takes set-id bits away.
    fs::fchmod(copy, st.st_mode & 0o7777)
}

#[inline(never)]
fn attributes(source: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> Outcome {
    let (mut names, mut value) = ([0; XATTR], [0; XATTR]);
    let names = match tree::flistxattr(source, &mut names) {
        Err(e) if e.is(libc::EOPNOTSUPP) => return Ok(()),
        r => r?,
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // The label of a new filesystem is its mount option's affair.
        if name == c"security.selinux" {
            continue;
        }
        match tree::fsetxattr(copy, name, tree::fgetxattr(source, name, &mut value)?) {
            // KERNEL: tmpfs takes user.* since 6.6 only.
            Err(e) if e.is(libc::EOPNOTSUPP) => {}
            r => r?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn attributes_and_set_id_bits_are_kept_and_links_not_followed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sub = from.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(sub.join("file"), vec![b'x'; 100_000]).unwrap();
        std::fs::set_permissions(sub.join("file"), PermissionsExt::from_mode(0o4751)).unwrap();
        std::os::unix::fs::symlink("/etc", from.path().join("link")).unwrap();
        let file = File::open(sub.join("file")).unwrap();
        let has_attributes = tree::fsetxattr(file.as_fd(), c"user.a", b"value").is_ok();
        let (source, copy) = (File::open(from.path()).unwrap(), File::open(to.path()).unwrap());
        content(&mut Room::new(), source.as_fd(), copy.as_fd(), 0).unwrap();
        let copied = File::open(to.path().join("sub/file")).unwrap();
        let data = copied.metadata().unwrap();
        assert_eq!((data.mode() & 0o7777, data.len()), (0o4751, 100_000));
        assert_eq!(std::fs::read_link(to.path().join("link")).unwrap().to_str(), Some("/etc"));
        if has_attributes {
            let mut value = [0; 16];
            assert_eq!(tree::fgetxattr(copied.as_fd(), c"user.a", &mut value), Ok(&b"value"[..]));
        }
    }

    #[test]
    fn a_name_that_is_there_already_fails_with_the_name() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/same"), "").unwrap();
        std::fs::create_dir(to.path().join("a")).unwrap();
        let (source, copy) = (File::open(from.path()).unwrap(), File::open(to.path()).unwrap());
        let mut room = Room::new();
        let error = content(&mut room, source.as_fd(), copy.as_fd(), 0).unwrap_err();
        assert!(error.is(libc::EEXIST));
        assert_eq!(room.note(), b"a");
    }
}
