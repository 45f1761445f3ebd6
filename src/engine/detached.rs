//! Mounts that the shim opens before the clone, because the child could not: id-mapped ones, which take rights over
//! the file system, and in a user namespace every bind, whose source may lie behind directories closed to the mapped
//! root. The child gets them detached and puts them in their place. mount_setattr(2), `MOUNT_ATTR_IDMAP`.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, Mount};

use super::child;
use super::error::{Doing, Error};
use super::plan::init::{self, Joined};
use super::plan::{Fd, HostMounts, Source, c_string, is_bind, new_filesystem};
use super::userns::{Mapping, Mappings};
use crate::oci::mount_options::{Idmap, MountOptions};
use crate::sys::fs;
use crate::sys::mount::{self as kernel, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, MountAttr};

/// What decides how the shim opens mounts.
pub struct Opener<'a> {
    linux: &'a Linux,
    joined: &'a [Joined],
    in_userns: bool,
    mappings: Mappings,
}

impl<'a> Opener<'a> {
    pub fn new(linux: &'a Linux, joined: &'a [Joined]) -> Self {
        let mut all = linux.namespaces().iter().flatten();
        let in_userns = all.any(|ns| ns.typ() == Kind::User);
        Self { linux, joined, in_userns, mappings: Mappings::default() }
    }

    /// The mounts that the child cannot open itself, by their index in `mounts`.
    ///
    /// # Errors
    /// Names the mount, its source, and what to do.
    pub fn open(&mut self, mounts: &[Mount], host: &HostMounts) -> Result<HashMap<usize, Fd>, Error> {
        let mut opened = HashMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            if let Some(tree) = self.one(index, mount, host)? {
                opened.insert(index, Arc::new(tree));
            }
        }
        Ok(opened)
    }

    /// Is it one that the child cannot open itself?
    pub fn takes(&self, mount: &Mount, options: &MountOptions) -> bool {
        !options.remount && (idmap(mount, options).is_some() || self.in_userns && is_bind(mount, options))
    }

    fn one(&mut self, index: usize, mount: &Mount, host: &HostMounts) -> Result<Option<OwnedFd>, Error> {
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        if !self.takes(mount, &options) {
            return Ok(None);
        }
        let name = format!("mounts[{index}] ({})", mount.destination().display());
        let tree = match is_bind(mount, &options) {
            true => match self.bind(&name, mount, &options, host)? {
                Some(tree) => tree,
                None => return Ok(None),
            },
            false => filesystem(&name, index, mount, host)?,
        };
        if let Some(idmap) = idmap(mount, &options) {
            let namespace = self.namespace(&format!("mounts[{index}]"), mount)?;
            let recursive = if idmap.recursive { AT_RECURSIVE } else { 0 };
            apply(tree.as_fd(), recursive, 0, &namespace).map_err(|e| {
                Error::doing(format!("{name}: id-mapping it"), refusal(e, tree.as_fd(), mount))
            })?;
        }
        Ok(Some(tree))
    }

    /// A copy of the source's mounts; `None` for a link that is to be copied, not mounted.
    fn bind(
        &self,
        name: &str,
        mount: &Mount,
        options: &MountOptions,
        host: &HostMounts,
    ) -> Result<Option<OwnedFd>, Error> {
        let source = host.bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
        if options.copy_symlink && source.is_symlink() {
            return Ok(None);
        }
        let path = c_string(source.as_os_str().as_encoded_bytes())?;
        let flags = if options.rbind { AT_RECURSIVE } else { 0 }
            | if options.src_nofollow { AT_SYMLINK_NOFOLLOW } else { 0 };
        let what = || format!("{name}: opening the source {}", source.display());
        let tree = kernel::open_tree(fs::CWD, &path, kernel::OPEN_TREE_CLONE | flags).doing(what)?;
        // The child's own copies of mounts get the propagation that its whole tree has; so do these. Into a user
        // namespace the kernel never lets a peer of the host's mounts.
        let asked = init::root_propagation(self.linux)?.filter(|_| !self.in_userns);
        let propagation = init::initial_propagation(asked) & !libc::MS_REC;
        let attr = MountAttr { propagation, ..MountAttr::default() };
        kernel::mount_setattr(tree.as_fd(), c"", AT_EMPTY_PATH | AT_RECURSIVE, &attr).doing(what)?;
        Ok(Some(tree))
    }

    /// The user namespace whose maps the mount gets: its own mappings, or else the container's.
    fn namespace(&mut self, field: &str, mount: &Mount) -> Result<Fd, Error> {
        let own = (mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
        if let (Some(uids), Some(gids)) = own {
            return self.mappings.namespace(&Mapping { uids: uids.clone(), gids: gids.clone() }, field);
        }
        if let Some(joined) = self.joined.iter().find(|ns| ns.kind == Kind::User) {
            return Ok(joined.fd.clone());
        }
        let (uids, gids) = (self.linux.uid_mappings(), self.linux.gid_mappings());
        let (uids, gids) = (uids.clone().unwrap_or_default(), gids.clone().unwrap_or_default());
        self.mappings.namespace(&Mapping { uids, gids }, "linux")
    }
}

fn idmap(mount: &Mount, options: &MountOptions) -> Option<Idmap> {
    let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    options.idmap.or(mapped.then_some(Idmap { recursive: false }))
}

/// A new filesystem, made by the shim because only it may map its ids.
fn filesystem(name: &str, index: usize, mount: &Mount, host: &HostMounts) -> Result<OwnedFd, Error> {
    let (source, _) = new_filesystem(index, mount, host)?;
    let Source::Filesystem { kind, source, options } = source else {
        return Err(Error::Spec(format!("{name}: only binds and new filesystems can be id-mapped")));
    };
    let doing = || format!("{name}: making the {} to be id-mapped", kind.to_string_lossy());
    let ctx = kernel::fsopen(&kind).doing(doing)?;
    child::configure(ctx.as_fd(), &source, &options, 0).doing(doing)
}

/// Id-maps the detached mount `tree` (with `AT_RECURSIVE`, all of it) and sets the attributes `set`.
pub(super) fn apply(
    tree: BorrowedFd<'_>,
    recursive: u32,
    set: u64,
    namespace: &OwnedFd,
) -> crate::sys::Result<()> {
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP | set,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    kernel::mount_setattr(tree, c"", AT_EMPTY_PATH | recursive, &attr)
}

/// EINVAL is all that the kernel says about a filesystem whose ids it cannot map.
fn refusal(e: crate::sys::Error, tree: BorrowedFd<'_>, mount: &Mount) -> String {
    if !e.is(libc::EINVAL) {
        return e.to_string();
    }
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    unmappable(e, tree, source)
}

/// The words for EINVAL from an id-mapping: which filesystem it is, and what helps.
pub(super) fn unmappable(e: crate::sys::Error, tree: BorrowedFd<'_>, source: &Path) -> String {
    format!(
        "{e}: this kernel cannot id-map {}, where {} lies, or the mount is id-mapped already: use ext4, xfs, btrfs or \
         (Linux 6.3) tmpfs, or give the files to the mapped ids",
        filesystem_name(tree),
        source.display()
    )
}

/// A filesystem's name by its magic number (statfs(2)), for those that are met in containers.
fn filesystem_name(tree: BorrowedFd<'_>) -> String {
    const NAMES: [(i64, &str); 8] = [
        (0x794c_7630, "overlay"),
        (0x0102_1994, "tmpfs"),
        (0xef53, "ext4"),
        (0x6969, "nfs"),
        (0x6573_5546, "fuse"),
        (0x9fa0, "proc"),
        (0x6265_6572, "sysfs"),
        (0x2fc1_2fc1, "zfs"),
    ];
    let magic = fs::fstatfs_magic(tree).unwrap_or_default();
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("the filesystem {magic:#x}"), |(_, name)| (*name).to_string())
}
