//! The mounts that Create brings for `bundle/rootfs`, made in the shim's mount namespace, and their removal.
//!
//! COMPAT: what containerd's `core/mount` does with the options that its snapshotters send.

mod helper;
mod layers;
mod loop_device;
mod options;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::time::Duration;

use super::Abort;
use super::detached::{apply, unmappable};
use super::error::{Doing, Error};
use super::plan::c_string;
use super::userns::{Mapping, Mappings};
use crate::sys::mount::{self, AT_RECURSIVE, OPEN_TREE_CLONE};
use crate::sys::{self, fs};
use helper::Helper;
use layers::Filesystem;
use loop_device::LoopDevice;
use options::Asked;

/// One mount as containerd's snapshotter describes it.
#[derive(Clone, Debug, Default)]
pub struct RootfsMount {
    pub kind: String,
    pub source: String,
    /// Below the rootfs; usually empty.
    pub target: String,
    pub options: Vec<String>,
}

const FLAGS: [(u64, u64); 7] = [
    (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
    (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
    (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
    (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
    (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
];

/// What only a superblock has.
const SUPERBLOCK: [(&str, u64); 4] = [
    ("sync", libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC),
    ("mand", libc::MS_MANDLOCK),
    ("lazytime", libc::MS_LAZYTIME),
];

/// Mounts all of `mounts`, in order, on `rootfs`. A mount helper is given up after `within`, or with `abort`.
///
/// # Errors
/// Names the mount that failed; what was mounted before is the caller's to take away (`unmount`).
pub fn mount_all(
    mounts: &[RootfsMount],
    rootfs: &Path,
    within: Duration,
    abort: &Abort,
) -> Result<(), Error> {
    std::fs::create_dir_all(rootfs).doing(|| format!("making the directory {}", rootfs.display()))?;
    let mut mappings = Mappings::default();
    mounts.iter().enumerate().try_for_each(|(index, m)| {
        let name = format!("rootfs mount {index}");
        let what = || format!("{name} ({} {}) on {}", m.kind, m.source, rootfs.display());
        let made = match Helper::of(m) {
            Some(helper) => helper.mount(m, &Place::find(rootfs, &m.target)?, within, abort),
            None => one(m, rootfs, |mapping| mappings.namespace(mapping, &name)),
        };
        made.map_err(|e| Error::doing(what(), e))
    })
}

fn one(
    m: &RootfsMount,
    rootfs: &Path,
    namespace: impl FnOnce(&Mapping) -> Result<super::plan::Fd, Error>,
) -> Result<(), Error> {
    let asked = Asked::parse(&m.options)?;
    let target = Place::find(rootfs, &m.target)?;
    let mut source = c_string(&m.source)?;
    // Held until the mount holds it.
    let device = asked.on_loop.then(|| LoopDevice::attach(&source, asked.read_only(), asked.direct));
    let device = device.transpose()?;
    if let Some(device) = &device {
        source.clone_from(&device.path);
    }
    let namespace = asked.mapping.as_ref().map(namespace).transpose()?;
    if asked.options.bind || m.kind == "bind" {
        return match namespace {
            None => bind(&source, &target.path, &asked),
            Some(namespace) => target.put(&mapped_bind(&source, &asked, &namespace)?),
        };
    }
    let new = Filesystem {
        kind: c_string(&m.kind)?,
        source,
        flags: flags(&asked) | superblock(&asked),
        data: &asked.options.data,
    };
    match namespace {
        None => new.mount(&target.path),
        Some(namespace) => {
            target.put(&new.mapped(&c_string(rootfs.as_os_str().as_encoded_bytes())?, &namespace)?)
        }
    }
}

/// Where a rootfs mount goes: the rootfs itself, or a place below it, which no link of the image leads out of.
struct Place {
    path: CString,
    /// Keeps what the path `/proc/self/fd/…` names.
    below: Option<OwnedFd>,
}

impl Place {
    fn find(rootfs: &Path, target: &str) -> Result<Self, Error> {
        let path = c_string(rootfs.as_os_str().as_encoded_bytes())?;
        let below = Path::new(target.trim_start_matches('/'));
        if below.as_os_str().is_empty() {
            return Ok(Self { path, below: None });
        }
        if !below.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Error::Spec(format!("target {target:?} leaves the rootfs")));
        }
        let doing = || format!("finding the target {target} (it must exist)");
        let root = fs::openat(fs::CWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0).doing(doing)?;
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let below = c_string(below.as_os_str().as_encoded_bytes())?;
        let fd = fs::openat2(root.as_fd(), &below, libc::O_PATH, 0, resolve).doing(doing)?;
        Ok(Self { path: c_string(format!("/proc/self/fd/{}", fd.as_raw_fd()))?, below: Some(fd) })
    }

    /// For another process, which has descriptors of its own.
    fn name(&self) -> Result<CString, Error> {
        let Some(fd) = &self.below else { return Ok(self.path.clone()) };
        let found = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        c_string(found.doing(|| "naming the target".into())?.into_os_string().into_encoded_bytes())
    }

    fn put(&self, tree: &OwnedFd) -> Result<(), Error> {
        let open = || fs::openat(fs::CWD, &self.path, libc::O_PATH, 0);
        let at = match &self.below {
            Some(fd) => fd.try_clone().doing(|| "duplicating a descriptor".into())?,
            None => open().doing(|| "opening the rootfs".into())?,
        };
        mount::move_mount(tree.as_fd(), at.as_fd()).doing(|| "putting the mount in its place".into())
    }
}

fn flags(asked: &Asked) -> u64 {
    let set = asked.options.attributes.set;
    FLAGS.iter().filter(|(attr, _)| set & attr != 0).fold(0, |all, (_, ms)| all | ms)
}

fn superblock(asked: &Asked) -> u64 {
    let asked = &asked.options.superblock;
    SUPERBLOCK.iter().filter(|(word, _)| asked.contains(word)).fold(0, |all, (_, ms)| all | ms)
}

fn bind(source: &CString, target: &CString, asked: &Asked) -> Result<(), Error> {
    let recursive = if asked.options.rbind { libc::MS_REC } else { 0 };
    mount::mount(Some(source), target, None, libc::MS_BIND | recursive, None).doing(|| "bind".into())?;
    let flags = flags(asked);
    if flags != 0 {
        // KERNEL: mount(2) ignores attributes together with MS_BIND; they take a remount.
        let remount = libc::MS_BIND | libc::MS_REMOUNT | flags;
        mount::mount(None, target, None, remount, None).doing(|| "setting the bind's attributes".into())?;
    }
    Ok(())
}

fn mapped_bind(source: &CString, asked: &Asked, namespace: &OwnedFd) -> Result<OwnedFd, Error> {
    let recursive = if asked.options.rbind { AT_RECURSIVE } else { 0 };
    let tree = mount::open_tree(fs::CWD, source, OPEN_TREE_CLONE | recursive).doing(|| "bind".into())?;
    let set = asked.options.attributes.set;
    apply(tree.as_fd(), AT_RECURSIVE, set, namespace).map_err(|e| {
        let source = source.to_string_lossy();
        Error::doing("id-mapping it", unmappable(e, tree.as_fd(), Path::new(&*source)))
    })?;
    Ok(tree)
}

/// Takes away everything mounted on `rootfs`, however often; nothing there is fine.
///
/// # Errors
/// When something stays mounted.
pub fn unmount(rootfs: &Path) -> Result<(), Error> {
    let target = c_string(rootfs.as_os_str().as_encoded_bytes())?;
    loop {
        // KERNEL: a detached mount disappears from the namespace at once, whoever still holds files on it.
        match mount::umount2(&target, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(e) if is_bare(&e) => return Ok(()),
            Err(e) => return Err(Error::doing(format!("unmounting {}", rootfs.display()), e)),
        }
    }
}

/// Takes away what Create mounted on `targets` below a rootfs that is no mount itself: all others went with theirs.
///
/// # Errors
/// When something stays mounted.
pub fn unmount_below(rootfs: &Path, targets: &[String]) -> Result<(), Error> {
    for target in targets.iter().rev() {
        // Opened anew each time: a descriptor names the mount that was there when it was opened.
        while let Ok(place) = Place::find(rootfs, target) {
            match mount::umount2(&place.path, libc::MNT_DETACH) {
                Ok(()) => {}
                Err(e) if is_bare(&e) => break,
                Err(e) => {
                    return Err(Error::doing(format!("unmounting {target} in {}", rootfs.display()), e));
                }
            }
        }
    }
    Ok(())
}

/// Not a mount point, or not even there.
fn is_bare(e: &sys::Error) -> bool {
    e.is(libc::EINVAL) || e.is(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_outside_the_rootfs_is_refused() {
        let refused = Place::find(Path::new("/nowhere"), "../x").map(drop).unwrap_err();
        assert!(refused.to_string().contains("leaves the rootfs"));
    }
}
