//! The mounts that Create brings for `bundle/rootfs`, made in the shim's mount namespace with mount(2).

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::error::{Doing, Error};
use super::plan::c_string;
use crate::oci::mount_options::MountOptions;
use crate::sys::mount;

/// mount(2) copies at most one page of data; the last byte is its NUL.
const DATA_MAX: usize = 4095;

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

/// Mounts all of `mounts`, in order, on `rootfs`.
///
/// # Errors
/// Names the mount that failed; what was mounted before is the caller's to take away (`unmount`).
pub fn mount_all(mounts: &[RootfsMount], rootfs: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(rootfs).doing(|| format!("making the directory {}", rootfs.display()))?;
    mounts.iter().enumerate().try_for_each(|(index, m)| {
        let what = || format!("rootfs mount {index} ({} {}) on {}", m.kind, m.source, rootfs.display());
        one(m, rootfs).map_err(|e| Error::doing(what(), e))
    })
}

fn one(m: &RootfsMount, rootfs: &Path) -> Result<(), Error> {
    let target = match m.target.trim_start_matches('/') {
        "" => rootfs.to_path_buf(),
        below if Path::new(below).components().all(|c| matches!(c, std::path::Component::Normal(_))) => {
            rootfs.join(below)
        }
        other => return Err(Error::Spec(format!("target {other:?} leaves the rootfs"))),
    };
    let options = MountOptions::parse(&m.options);
    let target = c_string(target.as_os_str().as_encoded_bytes())?;
    let source = c_string(&m.source)?;
    let flags =
        FLAGS.iter().filter(|(attr, _)| options.attributes.set & attr != 0).fold(0, |all, (_, ms)| all | ms);
    if options.bind || m.kind == "bind" {
        return bind(&source, &target, &options, flags);
    }
    if let Some(option) =
        options.data.iter().find(|o| *o == "loop" || o.starts_with("uidmap=") || o.starts_with("gidmap="))
    {
        return Err(Error::Spec(format!("mount option {option:?} is not supported")));
    }
    let kind = c_string(&m.kind)?;
    let data = options.data.join(",");
    match data.len() <= DATA_MAX {
        true => attach(&source, &target, &kind, flags, &c_string(data)?).doing(|| "mount".into()),
        false => from_common_directory(source, target, kind, flags, &options.data),
    }
}

fn bind(source: &CString, target: &CString, options: &MountOptions, flags: u64) -> Result<(), Error> {
    let recursive = if options.rbind { libc::MS_REC } else { 0 };
    mount::mount(Some(source), target, None, libc::MS_BIND | recursive, None).doing(|| "bind".into())?;
    if flags != 0 {
        // KERNEL: mount(2) ignores attributes together with MS_BIND; they take a remount.
        let remount = libc::MS_BIND | libc::MS_REMOUNT | flags;
        mount::mount(None, target, None, remount, None).doing(|| "setting the bind's attributes".into())?;
    }
    Ok(())
}

fn attach(
    source: &CString,
    target: &CString,
    kind: &CString,
    flags: u64,
    data: &CString,
) -> crate::sys::Result<()> {
    mount::mount(Some(source), target, Some(kind), flags, Some(data))
}

/// An overlay of many layers overflows mount(2)'s page. Their paths share a long beginning: a thread with a working
/// directory of its own (unshare(2) CLONE_FS) goes there and names the layers from it.
fn from_common_directory(
    source: CString,
    target: CString,
    kind: CString,
    flags: u64,
    data: &[String],
) -> Result<(), Error> {
    let (dir, shorter) =
        shorten(data).ok_or_else(|| Error::Spec("its options are too long for mount(2)".into()))?;
    if shorter.len() > DATA_MAX {
        return Err(Error::Spec(format!(
            "its options are too long for mount(2): {} of 4095 bytes",
            shorter.len()
        )));
    }
    let (dir, shorter) = (c_string(dir.as_os_str().as_encoded_bytes())?, c_string(shorter)?);
    let work = move || {
        crate::sys::ns::unshare(libc::CLONE_FS)?;
        crate::sys::fs::chdir(&dir)?;
        attach(&source, &target, &kind, flags, &shorter)
    };
    let thread =
        std::thread::Builder::new().name("mount".into()).spawn(work).doing(|| "starting a thread".into())?;
    let outcome = thread.join().map_err(|_| Error::Spec("the mounting thread died".into()))?;
    outcome.doing(|| "mount from the layers' common directory".into())
}

/// Rewrites `lowerdir` relative to the longest directory that all layers share.
fn shorten(data: &[String]) -> Option<(PathBuf, String)> {
    let lower = data.iter().find_map(|word| word.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent()?.to_path_buf();
    while !layers.iter().all(|layer| layer.starts_with(&common)) {
        common.pop();
    }
    let relative: Option<Vec<&str>> = layers.iter().map(|l| l.strip_prefix(&common).ok()?.to_str()).collect();
    let lower = format!("lowerdir={}", relative?.join(":"));
    let words: Vec<&str> =
        data.iter().map(|w| if w.starts_with("lowerdir=") { &lower } else { w.as_str() }).collect();
    Some((common, words.join(",")))
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
            Err(e) if e.is(libc::EINVAL) || e.is(libc::ENOENT) => return Ok(()),
            Err(e) => return Err(Error::doing(format!("unmounting {}", rootfs.display()), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_layer_lists_are_named_from_their_common_directory() {
        let data =
            ["index=off".into(), "lowerdir=/var/snap/1/fs:/var/snap/22/fs".into(), "workdir=/w".into()];
        let (dir, text) = shorten(&data).unwrap();
        assert_eq!(dir, Path::new("/var/snap"));
        assert_eq!(text, "index=off,lowerdir=1/fs:22/fs,workdir=/w");
    }

    #[test]
    fn a_target_outside_the_rootfs_is_refused() {
        let m = RootfsMount { kind: "tmpfs".into(), target: "../x".into(), ..RootfsMount::default() };
        assert!(one(&m, Path::new("/nowhere")).unwrap_err().to_string().contains("leaves the rootfs"));
    }
}
