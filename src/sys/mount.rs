//! The mount API by descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2),
//! and what it does not replace: mount(2), umount2(2), pivot_root(2).

use std::ffi::CStr;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use super::Result;
use super::error::check;
use super::fs::own;

/// `FSOPEN_CLOEXEC` and friends are not in libc; values from `linux/mount.h`.
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_EMPTY_PATH: u32 = 8;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `open_tree(2)` flag: a detached copy of the mount.
pub const OPEN_TREE_CLONE: u32 = 1;
/// Apply to the whole tree of mounts.
pub const AT_RECURSIVE: u32 = 0x8000;
pub const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
pub const AT_SYMLINK_NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

/// `struct mount_attr` of mount_setattr(2): attributes to set and to clear, propagation, user namespace of an id map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// fsopen(2) (Linux 5.2): a new configuration context for filesystem `kind`.
pub fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    // SAFETY: kind is NUL-terminated.
    let r = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
    check("fsopen", r).map(own)
}

fn fsconfig(
    ctx: BorrowedFd<'_>,
    cmd: u32,
    key: *const libc::c_char,
    value: *const libc::c_char,
    aux: i32,
) -> Result<()> {
    // SAFETY: key and value are NUL-terminated or null, as `cmd` asks.
    let r = unsafe { libc::syscall(libc::SYS_fsconfig, ctx.as_raw_fd(), cmd, key, value, aux) };
    check("fsconfig", r).map(drop)
}

/// fsconfig(2) `FSCONFIG_SET_STRING`.
pub fn fsconfig_string(ctx: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(ctx, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
pub fn fsconfig_flag(ctx: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(ctx, FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null(), 0)
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`: makes the superblock.
pub fn fsconfig_create(ctx: BorrowedFd<'_>) -> Result<()> {
    fsconfig(ctx, FSCONFIG_CMD_CREATE, ptr::null(), ptr::null(), 0)
}

/// fspick(2) (Linux 5.2): a context to reconfigure the filesystem mounted at `at`.
pub fn fspick(at: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is the empty string.
    let r = unsafe { libc::syscall(libc::SYS_fspick, at.as_raw_fd(), c"".as_ptr(), flags) };
    check("fspick", r).map(own)
}

/// fsconfig(2) `FSCONFIG_CMD_RECONFIGURE`: changes the superblock that was picked.
pub fn fsconfig_reconfigure(ctx: BorrowedFd<'_>) -> Result<()> {
    fsconfig(ctx, FSCONFIG_CMD_RECONFIGURE, ptr::null(), ptr::null(), 0)
}

/// fsmount(2): a detached mount of the configured filesystem with `attr` (`MOUNT_ATTR_*`).
pub fn fsmount(ctx: BorrowedFd<'_>, attr: u32) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_fsmount, ctx.as_raw_fd(), FSMOUNT_CLOEXEC, attr) };
    check("fsmount", r).map(own)
}

/// open_tree(2) with `flags` (`OPEN_TREE_CLONE`, `AT_RECURSIVE`, `AT_EMPTY_PATH`…).
pub fn open_tree(dir: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC as u32;
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) };
    check("open_tree", r).map(own)
}

/// move_mount(2) of the mount at `from` onto the file or directory `to`, both by descriptor: no path is followed.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are the empty string.
    let r =
        unsafe { libc::syscall(libc::SYS_move_mount, from.as_raw_fd(), empty, to.as_raw_fd(), empty, flags) };
    check("move_mount", r).map(drop)
}

/// mount_setattr(2) (Linux 5.12) with `flags` (`AT_RECURSIVE`, `AT_EMPTY_PATH`).
pub fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, flags: u32, attr: &MountAttr) -> Result<()> {
    // SAFETY: path is NUL-terminated, attr is a live mount_attr of the size passed.
    let r = unsafe {
        let size = size_of::<MountAttr>();
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            attr as *const MountAttr,
            size,
        )
    };
    check("mount_setattr", r).map(drop)
}

/// mount(2). `None` is a null pointer.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let ptr = |s: Option<&CStr>| s.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every string is NUL-terminated or null.
    let r = unsafe { libc::mount(ptr(source), target.as_ptr(), ptr(kind), flags, ptr(data).cast()) };
    check("mount", r.into()).map(drop)
}

/// umount2(2).
pub fn umount2(target: &CStr, flags: i32) -> Result<()> {
    // SAFETY: target is NUL-terminated.
    let r = unsafe { libc::umount2(target.as_ptr(), flags) };
    check("umount2", r.into()).map(drop)
}

/// pivot_root(".", "."), as pivot_root(2) describes: the old root is stacked on the new one at `/`.
pub fn pivot_root_here() -> Result<()> {
    let dot = c".".as_ptr();
    // SAFETY: both paths are ".".
    let r = unsafe { libc::syscall(libc::SYS_pivot_root, dot, dot) };
    check("pivot_root", r).map(drop)
}

/// chroot(2).
pub fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: path is NUL-terminated.
    let r = unsafe { libc::chroot(path.as_ptr()) };
    check("chroot", r.into()).map(drop)
}
