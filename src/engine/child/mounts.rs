//! Steps that build the container's mounts, every one by descriptor below the root.
//!
//! Targets are found with `openat2(RESOLVE_IN_ROOT)` and mounted on by descriptor, so that nothing the image or a
//! volume puts in the way (CVE-2021-30465, CVE-2024-45310) leads outside. See mount_setattr(2), open_tree(2).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::place::{IN_ROOT, empty_file, parent, place};
use super::room::Room;
use super::{Outcome, copy};
use crate::engine::plan::{self, Device, Links, Mount, Source, Target};
use crate::sys::mount::{
    self as kernel, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, MountAttr, OPEN_TREE_CLONE,
};
use crate::sys::{Error, Result, fs, tree};

const DEV: &CStr = c"dev";
/// memory of the shared mask: no bytes, no names.
const MASK_OPTIONS: [(&CStr, &CStr); 2] = [(c"nr_blocks", c"1"), (c"nr_inodes", c"1")];

pub fn propagation(flags: u64) -> Outcome {
    kernel::mount(None, c"/", None, flags, None)
}

/// Binds the rootfs on itself, so that it is a mount of its own, and opens it.
pub fn root(room: &mut Room, path: &CStr, slave: bool) -> Outcome {
    room.null = Some(host_null()?);
    let dir = fs::openat(fs::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    // ORDER: before the bind, which a shared mount would pass on to the host, and which takes its propagation from here.
    // pivot_root(2), too, refuses a new root that is shared or lies on a shared mount.
    unshare(dir.as_fd(), if slave { libc::MS_SLAVE } else { libc::MS_PRIVATE })?;
    let tree = copy_of(dir.as_fd(), AT_RECURSIVE)?;
    kernel::move_mount(tree.as_fd(), dir.as_fd())?;
    room.set_root(tree);
    Ok(())
}

/// Sets the propagation of the mount that `dir` is on: the one whose root is met first on the way up.
fn unshare(dir: BorrowedFd<'_>, propagation: u64) -> Outcome {
    let attr = MountAttr { propagation, ..MountAttr::default() };
    let mut at = fs::openat(dir, c".", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    for _ in 0..libc::PATH_MAX {
        match kernel::mount_setattr(at.as_fd(), c"", AT_EMPTY_PATH, &attr) {
            Err(e) if e.is(libc::EINVAL) => {
                at = fs::openat(at.as_fd(), c"..", libc::O_PATH | libc::O_DIRECTORY, 0)?;
            }
            r => return r,
        }
    }
    Err(Error::new("mount_setattr", libc::EINVAL))
}

/// The host's /dev/null, which masks files: a character device 1:3 and nothing else (CVE-2025-31133).
fn host_null() -> Result<OwnedFd> {
    let null = fs::openat(fs::CWD, c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let st = fs::fstat(null.as_fd())?;
    if st.st_mode & libc::S_IFMT != libc::S_IFCHR || st.st_rdev != libc::makedev(1, 3) {
        return Err(Error::new("/dev/null is not character device 1:3", libc::ENODEV));
    }
    Ok(null)
}

/// Attributes of a node that is the host's. Devices are written to on a read-only mount as on any other, but nobody who is root
/// without a user namespace changes its mode or its owner through it.
fn of_the_host(node: BorrowedFd<'_>) -> Outcome {
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    kernel::mount_setattr(node, c"", AT_EMPTY_PATH, &MountAttr { set, ..MountAttr::default() })
}

/// A detached copy of the mount at `fd`.
fn copy_of(fd: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd> {
    kernel::open_tree(fd, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH | flags)
}

pub fn mount(room: &mut Room, mount: &Mount) -> Outcome {
    let from = match &mount.from {
        Source::Symlink(to) => return symlink(room.root()?, &mount.target, to),
        Source::Remount { superblock } => return change(room, mount, superblock.as_ref()),
        Source::Filesystem { kind, source, options } => filesystem(room, kind, source, options, &mount.attr)?,
        Source::Bind { path, recursive, nofollow } => bind(path, *recursive, *nofollow)?,
        Source::Detached { fd, .. } => fs::duplicate(fd.as_fd())?,
    };
    if mount.target.is(c"proc") && fs::fstatfs_magic(from.as_fd())? != fs::PROC_SUPER_MAGIC {
        return Err(Error::new("verify procfs", libc::EINVAL));
    }
    let is_dir = is_directory(from.as_fd())?;
    let (to, is_new) = place(room.root()?, &mount.target, is_dir, mount.links)?;
    if !is_new {
        take_over(room, mount, to.as_fd(), from.as_fd())?;
    }
    if let Some(label) = &mount.label {
        let root = fs::openat(from.as_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        tree::fsetxattr(root.as_fd(), c"security.selinux", label.to_bytes())?;
    }
    set_attributes(from.as_fd(), mount)?;
    kernel::move_mount(from.as_fd(), to.as_fd()).map_err(|e| match is_directory(to.as_fd()) {
        // COMPAT: move_mount says EINVAL where mount(2) says ENOTDIR, and Docker looks for the latter's words.
        Ok(onto_dir) if e.is(libc::EINVAL) && onto_dir != is_dir => Error::new("move_mount", libc::ENOTDIR),
        _ => e,
    })?;
    set_propagation(from.as_fd(), &mount.propagation)?;
    if mount.target.is_root() {
        room.set_root(from);
    }
    Ok(())
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(fs::fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// What a new tmpfs takes over from the directory that it is about to cover.
fn take_over(room: &mut Room, mount: &Mount, covered: BorrowedFd<'_>, tmpfs: BorrowedFd<'_>) -> Outcome {
    let readable = |dir| fs::openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    if mount.take_over.mode {
        let mode = fs::fstat(covered)?.st_mode & 0o7777;
        fs::fchmod(readable(tmpfs)?.as_fd(), mode)?;
    }
    if mount.take_over.content {
        copy::content(room, readable(covered)?.as_fd(), readable(tmpfs)?.as_fd(), 0)?;
    }
    Ok(())
}

/// `remount`: as mount(8) does it, what is not mentioned stays as it is.
fn change(room: &mut Room, mount: &Mount, superblock: Option<&plan::Options>) -> Outcome {
    let at = fs::openat2(room.root()?, &mount.target.path, libc::O_PATH, 0, IN_ROOT)?;
    if let Some(options) = superblock {
        let ctx = kernel::fspick(at.as_fd())?;
        options_of(ctx.as_fd(), options)
            .and_then(|()| kernel::fsconfig_reconfigure(ctx.as_fd()))
            .inspect_err(|_| explain(room, ctx.as_fd()))?;
    }
    set_attributes(at.as_fd(), mount)?;
    set_propagation(at.as_fd(), &mount.propagation)
}

/// Attributes of a bind are set on the detached copy; those of a filesystem went into fsmount.
fn set_attributes(from: BorrowedFd<'_>, mount: &Mount) -> Outcome {
    let none = MountAttr::default();
    if mount.attr != none && !matches!(mount.from, Source::Filesystem { .. }) {
        let set = |attr: &MountAttr| kernel::mount_setattr(from, c"", AT_EMPTY_PATH, attr);
        let with_others = MountAttr { clear: mount.attr.clear | mount.also_clear, ..mount.attr };
        match set(&with_others) {
            // Some are locked for whoever is in a user namespace (mount_namespaces(7)).
            Err(e) if e.is(libc::EPERM) && with_others != mount.attr => set(&mount.attr)?,
            r => r?,
        }
    }
    if mount.recursive != none {
        kernel::mount_setattr(from, c"", AT_EMPTY_PATH | AT_RECURSIVE, &mount.recursive)?;
    }
    Ok(())
}

fn set_propagation(at: BorrowedFd<'_>, flags: &[u64]) -> Outcome {
    flags.iter().try_for_each(|flag| {
        let recursive = if flag & libc::MS_REC != 0 { AT_RECURSIVE } else { 0 };
        let attr = MountAttr { propagation: flag & !libc::MS_REC, ..MountAttr::default() };
        kernel::mount_setattr(at, c"", AT_EMPTY_PATH | recursive, &attr)
    })
}

fn filesystem(
    room: &mut Room,
    kind: &CStr,
    source: &CStr,
    options: &plan::Options,
    attr: &MountAttr,
) -> Result<OwnedFd> {
    let ctx = kernel::fsopen(kind)?;
    configure(ctx.as_fd(), source, options, attr.set).inspect_err(|_| explain(room, ctx.as_fd()))
}

/// A detached mount of the filesystem that `ctx` and `options` describe, with attributes `attr` (`MOUNT_ATTR_*`).
pub fn configure(ctx: BorrowedFd<'_>, source: &CStr, options: &plan::Options, attr: u64) -> Result<OwnedFd> {
    if !source.is_empty() {
        kernel::fsconfig_string(ctx, c"source", source)?;
    }
    options_of(ctx, options)?;
    kernel::fsconfig_create(ctx)?;
    kernel::fsmount(ctx, attr as u32)
}

fn options_of(ctx: BorrowedFd<'_>, options: &plan::Options) -> Outcome {
    options.iter().try_for_each(|(key, value)| match value {
        Some(value) => kernel::fsconfig_string(ctx, key, value),
        None => kernel::fsconfig_flag(ctx, key),
    })
}

/// The kernel's own words about a refused filesystem are the first line of its context's log.
fn explain(room: &mut Room, ctx: BorrowedFd<'_>) {
    let mut line = [0; 160];
    if let Ok(text) = fs::read(ctx, &mut line) {
        room.say(text.trim_ascii_end());
    }
}

fn bind(path: &CStr, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
    let recursive = if recursive { AT_RECURSIVE } else { 0 };
    let nofollow = if nofollow { AT_SYMLINK_NOFOLLOW } else { 0 };
    kernel::open_tree(fs::CWD, path, OPEN_TREE_CLONE | recursive | nofollow)
}

fn symlink(root: BorrowedFd<'_>, target: &Target, to: &CStr) -> Outcome {
    let (dir, name) = parent(root, target, IN_ROOT)?;
    match fs::symlinkat(to, dir.as_fd(), name) {
        Err(e) if e.is(libc::EEXIST) => same_link(dir.as_fd(), name, to, e),
        r => r,
    }
}

/// An existing link is fine if it says the same.
fn same_link(dir: BorrowedFd<'_>, name: &CStr, to: &CStr, error: Error) -> Outcome {
    let mut buf = [0; libc::PATH_MAX as usize];
    match fs::readlinkat(dir, name, &mut buf) {
        Ok(now) if now == to.to_bytes() => Ok(()),
        _ => Err(error),
    }
}

pub fn remount(room: &mut Room, target: &Target, attr: &MountAttr) -> Outcome {
    let at = fs::openat2(room.root()?, &target.path, libc::O_PATH, 0, IN_ROOT)?;
    kernel::mount_setattr(at.as_fd(), c"", AT_EMPTY_PATH, attr)
}

pub fn directory(room: &mut Room, target: &Target) -> Outcome {
    place(room.root()?, target, true, Links::InRoot).map(drop)
}

/// A node below the container's /dev, on the way to which no link is followed (CVE-2026-41579).
pub fn device(room: &mut Room, device: &Device) -> Outcome {
    match device.target.parts.as_slice() {
        [dir, name] if dir.as_c_str() == DEV => device_in(dev(room)?, name, device),
        _ => {
            let (dir, name) = parent(room.root()?, &device.target, IN_ROOT | libc::RESOLVE_NO_SYMLINKS)?;
            device_in(dir.as_fd(), name, device)
        }
    }
}

/// The container's /dev, which is there: opened once for all that is made in it, one thing after the other.
fn dev(room: &mut Room) -> Result<BorrowedFd<'_>> {
    if room.dev.is_none() {
        let resolve = IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
        room.dev = Some(fs::openat2(room.root()?, DEV, libc::O_PATH | libc::O_DIRECTORY, 0, resolve)?);
    }
    room.dev.as_ref().map(AsFd::as_fd).ok_or(Error::new("/dev", libc::ENOENT))
}

fn device_in(dir: BorrowedFd<'_>, name: &CStr, device: &Device) -> Outcome {
    if device.bind {
        return bind_device(dir, name, device);
    }
    // The mode comes with the node: a chmod by name might follow what was put in its place meanwhile.
    let mask = fs::umask(0);
    let made = fs::mknodat(dir, name, device.mode, device.rdev);
    fs::umask(mask);
    let exists = match made {
        Err(e) if e.is(libc::EEXIST) => Some(e),
        // COMPAT: as under runc; the shim's own container, say, may not make any.
        Err(e) if matches!(e.errno, libc::EPERM | libc::EACCES) => {
            return bind_device(dir, name, device).map_err(|_| e);
        }
        r => r.map(|()| None)?,
    };
    let node = fs::fstatat(dir, name, libc::AT_SYMLINK_NOFOLLOW)?;
    match (is_device(&node, device), exists) {
        // An existing node is fine if it is the same device.
        (true, Some(_)) => Ok(()),
        (true, None) if (node.st_uid, node.st_gid) == (device.uid, device.gid) => Ok(()),
        (true, None) => own(dir, name, device),
        (false, exists) => Err(exists.unwrap_or(Error::new("verify device", libc::EEXIST))),
    }
}

/// Gives the node its owner, by descriptor: another one in its place would be seen.
fn own(dir: BorrowedFd<'_>, name: &CStr, device: &Device) -> Outcome {
    let node = fs::openat(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    match is_device(&fs::fstat(node.as_fd())?, device) {
        true => fs::fchownat(node.as_fd(), c"", device.uid, device.gid, libc::AT_EMPTY_PATH),
        false => Err(Error::new("verify device", libc::EEXIST)),
    }
}

/// Binds the host's node.
fn bind_device(dir: BorrowedFd<'_>, name: &CStr, device: &Device) -> Outcome {
    let node = bind(&device.host, false, false)?;
    if !is_device(&fs::fstat(node.as_fd())?, device) {
        return Err(Error::new("verify device", libc::ENODEV));
    }
    // In a user namespace nobody has rights over it, and COMPAT: it looks as under runc.
    if !device.bind {
        of_the_host(node.as_fd())?;
    }
    let to = empty_file(dir, name, 0o666)?;
    kernel::move_mount(node.as_fd(), to.as_fd())
}

fn is_device(node: &libc::stat, device: &Device) -> bool {
    node.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && node.st_rdev == device.rdev
}

/// A link in the container's /dev. `name` is relative to it.
pub fn link(room: &mut Room, target: &CStr, name: &CStr) -> Outcome {
    match fs::symlinkat(target, dev(room)?, name) {
        // COMPAT: runc leaves what the image has in its place.
        Err(e) if e.is(libc::EEXIST) => Ok(()),
        r => r,
    }
}

/// Read-only from here down; a path that is not there needs no protection.
pub fn readonly_path(room: &mut Room, target: &Target) -> Outcome {
    let Some(at) = existing(room.root()?, target)? else { return Ok(()) };
    let tree = copy_of(at.as_fd(), AT_RECURSIVE)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(tree.as_fd(), c"", AT_EMPTY_PATH, &attr)?;
    kernel::move_mount(tree.as_fd(), at.as_fd())
}

/// Hides a file under /dev/null and a directory under an empty tmpfs, one for all: superblocks are slow to reap.
pub fn mask_path(room: &mut Room, target: &Target, label: Option<&CStr>) -> Outcome {
    let Some(at) = existing(room.root()?, target)? else { return Ok(()) };
    if fs::fstat(at.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFDIR {
        let Some(null) = &room.null else { return Err(Error::new("/dev/null", libc::ENOENT)) };
        // KERNEL: one copy for all would be cheaper, but for its end: to close a mount that is nowhere waits for RCU.
        let null = copy_of(null.as_fd(), 0)?;
        of_the_host(null.as_fd())?;
        return kernel::move_mount(null.as_fd(), at.as_fd());
    }
    if let Some(mask) = &room.mask {
        let again = copy_of(mask.as_fd(), 0)?;
        return kernel::move_mount(again.as_fd(), at.as_fd());
    }
    let mask = empty_tmpfs(label)?;
    kernel::move_mount(mask.as_fd(), at.as_fd())?;
    room.mask = Some(mask);
    Ok(())
}

fn empty_tmpfs(label: Option<&CStr>) -> Result<OwnedFd> {
    let ctx = kernel::fsopen(c"tmpfs")?;
    let ctx = ctx.as_fd();
    for (key, value) in MASK_OPTIONS {
        kernel::fsconfig_string(ctx, key, value)?;
    }
    if let Some(label) = label {
        kernel::fsconfig_string(ctx, c"context", label)?;
    }
    kernel::fsconfig_flag(ctx, c"ro")?;
    kernel::fsconfig_create(ctx)?;
    kernel::fsmount(ctx, libc::MOUNT_ATTR_RDONLY as u32)
}

/// The place in the container, or nothing if it is not there. Any other failure to protect it is fatal.
fn existing(root: BorrowedFd<'_>, target: &Target) -> Result<Option<OwnedFd>> {
    let whole = |resolve| fs::openat2(root, &target.path, libc::O_PATH, 0, resolve);
    let of_kernel = target.parts.first().filter(|first| [c"proc", c"sys"].contains(&first.as_c_str()));
    let found = match of_kernel {
        None => whole(IN_ROOT),
        Some(first) => match whole(IN_ROOT | libc::RESOLVE_NO_SYMLINKS) {
            Err(e) if e.is(libc::ELOOP) => below(root, first, target),
            r => r,
        },
    };
    match found {
        Err(e) if e.is(libc::ENOENT) || e.is(libc::ENOTDIR) => Ok(None),
        r => r.map(Some),
    }
}

/// A place on whose way is a link. None is followed in place of `first`, /proc or /sys: one that somebody puts there meanwhile
/// leads nowhere in the container, and then nothing would be protected.
fn below(root: BorrowedFd<'_>, first: &CStr, target: &Target) -> Result<OwnedFd> {
    let top = fs::openat2(root, first, libc::O_PATH, 0, IN_ROOT | libc::RESOLVE_NO_SYMLINKS)?;
    let rest = target.path.to_bytes_with_nul().get(first.count_bytes() + 1..).unwrap_or_default();
    let rest = CStr::from_bytes_with_nul(rest).unwrap_or(c".");
    fs::openat2(top.as_fd(), rest, libc::O_PATH, 0, IN_ROOT)
}

pub fn readonly_root(room: &mut Room) -> Outcome {
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(room.root()?, c"", AT_EMPTY_PATH, &attr)
}

/// pivot_root(".", "."): the old root lands on top of the new one and is taken away, no directory needed for it.
pub fn pivot(room: &mut Room) -> Outcome {
    let old = fs::openat(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    fs::fchdir(room.root()?)?;
    kernel::pivot_root_here()?;
    // KERNEL: of mount(2) and umount2(2) only the latter takes "." for what is stacked on it. From here it is the old root
    // for both: else the new one would become a slave, and the unmount would travel.
    fs::fchdir(old.as_fd())?;
    // ORDER: slave before the unmount, or the unmount would travel to the host.
    kernel::mount(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None)?;
    kernel::umount2(c".", libc::MNT_DETACH)?;
    fs::chdir(c"/")
}

/// For a root that cannot be pivoted (initramfs): move it over `/` and chroot.
///
/// The host's mounts stay in the namespace. KERNEL: a `whole` procfs or sysfs among them would let whoever makes a user
/// namespace in the container mount one without masks (mount_too_revealing).
pub fn move_root(room: &mut Room, whole: &[CString]) -> Outcome {
    whole.iter().try_for_each(|mount| hide(mount))?;
    let slash = fs::openat(fs::CWD, c"/", libc::O_PATH, 0)?;
    kernel::move_mount(room.root()?, slash.as_fd())?;
    fs::fchdir(room.root()?)?;
    kernel::chroot(c".")?;
    fs::chdir(c"/")
}

/// Takes a mount away, or covers it where it is locked (mount_namespaces(7)).
fn hide(mount: &CStr) -> Outcome {
    // ORDER: slave before the unmount, or the unmount would travel to the host.
    match kernel::mount(None, mount, None, libc::MS_SLAVE | libc::MS_REC, None) {
        // It lay below another one of them.
        Err(e) if e.is(libc::ENOENT) || e.is(libc::EINVAL) => return Ok(()),
        slave => slave?,
    }
    match kernel::umount2(mount, libc::MNT_DETACH) {
        Err(e) if e.is(libc::EINVAL) || e.is(libc::EPERM) => {
            kernel::mount(Some(c"tmpfs"), mount, Some(c"tmpfs"), libc::MS_RDONLY, Some(c"size=0,nr_inodes=1"))
        }
        gone => gone,
    }
}
