//! mount(2) of a filesystem, an overlay above all: many layers in one page of options, and id-mapped layers.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::engine::detached::{apply, unmappable};
use crate::engine::error::{Doing, Error};
use crate::engine::plan::c_string;
use crate::sys::mount::{self as kernel, AT_EMPTY_PATH, AT_RECURSIVE, MountAttr, OPEN_TREE_CLONE};
use crate::sys::{fs, ns};

/// mount(2) copies at most one page of data; the last byte is its NUL.
const DATA_MAX: usize = 4095;
const LOWER: &str = "lowerdir=";

/// What mount(2) takes, but for the target.
pub struct Filesystem<'a> {
    pub kind: CString,
    pub source: CString,
    /// `MS_*`.
    pub flags: u64,
    pub data: &'a [String],
}

impl Filesystem<'_> {
    /// Mounts it on `target`.
    ///
    /// # Errors
    /// The kernel's, or that the options do not fit.
    pub fn mount(&self, target: &CStr) -> Result<(), Error> {
        let data = self.data.join(",");
        if data.len() <= DATA_MAX {
            return self.attach(target, &c_string(data)?).map_err(|e| self.refusal(e));
        }
        let too_long = |length: usize| {
            Error::Spec(format!("its options are too long for mount(2): {length} of 4095 bytes"))
        };
        let (dir, shorter) = shorten(self.data).ok_or_else(|| too_long(data.len()))?;
        if shorter.len() > DATA_MAX {
            return Err(too_long(shorter.len()));
        }
        let (dir, shorter) = (c_string(dir.as_os_str().as_encoded_bytes())?, c_string(shorter)?);
        // An overlay of many layers overflows mount(2)'s page. Their paths share a long beginning: a thread with a
        // working directory of its own goes there and names the layers from it.
        on_its_own(libc::CLONE_FS, || {
            fs::chdir(&dir)
                .and_then(|()| self.attach(target, &shorter))
                .doing(|| "mount from the layers' common directory".into())
        })
    }

    fn refusal(&self, e: crate::sys::Error) -> Error {
        let remedy = match e.errno {
            libc::ENODEV if self.kind.as_bytes().contains(&b'/') => {
                " (types with a slash are for containerd's mount manager only)"
            }
            libc::ENODEV => " (this kernel does not know this type of filesystem: is its module loaded?)",
            libc::ENOTBLK => " (a source that is a file takes the option loop)",
            _ => "",
        };
        Error::doing("mount", format!("{e}{remedy}"))
    }

    fn attach(&self, target: &CStr, data: &CStr) -> crate::sys::Result<()> {
        kernel::mount(Some(&self.source), target, Some(&self.kind), self.flags, Some(data))
    }

    /// Makes the mount with its ids mapped and gives it detached. Nothing of the work is seen by others, and nothing is
    /// left of it but the mount: it is done in a mount namespace that ends with its thread. There `scratch`, an existing
    /// directory, is mounted on.
    ///
    /// # Errors
    /// Names the layer or the mount that cannot be mapped.
    pub fn mapped(&self, scratch: &CStr, namespace: &OwnedFd) -> Result<OwnedFd, Error> {
        on_its_own(libc::CLONE_FS | libc::CLONE_NEWNS, || {
            let private = libc::MS_PRIVATE | libc::MS_REC;
            kernel::mount(None, c"/", None, private, None)
                .doing(|| "leaving the host's mounts alone".into())?;
            let overlay = self.kind.as_bytes() == b"overlay";
            if overlay {
                self.map_layers(namespace)?;
            }
            self.mount(scratch)?;
            let doing = || "taking the mount along".to_string();
            let tree = kernel::open_tree(fs::CWD, scratch, OPEN_TREE_CLONE).doing(doing)?;
            if !overlay {
                let source = self.source.to_string_lossy();
                apply(tree.as_fd(), 0, 0, namespace).map_err(|e| {
                    Error::doing("id-mapping it", unmappable(e, tree.as_fd(), Path::new(&*source)))
                })?;
            }
            Ok(tree)
        })
    }

    /// KERNEL: an overlay cannot be id-mapped, its layers can (since 5.19): each lower directory is covered with an
    /// id-mapped, read-only copy of itself. What the upper directory holds belongs to the mapped ids already.
    fn map_layers(&self, namespace: &OwnedFd) -> Result<(), Error> {
        let lower = self.data.iter().find_map(|word| word.strip_prefix(LOWER));
        let lower = lower.ok_or_else(|| Error::Spec("an id-mapped overlay needs lowerdir=".into()))?;
        // ORDER: all copies before the first is put in place: one that lies below another would be mapped twice.
        let copies: Vec<(CString, OwnedFd)> =
            lower.split(':').map(|layer| map_layer(layer, namespace)).collect::<Result<_, Error>>()?;
        for (layer, copy) in &copies {
            let doing = || format!("covering the layer {} with its mapped copy", layer.to_string_lossy());
            let at = fs::openat(fs::CWD, layer, libc::O_PATH | libc::O_DIRECTORY, 0).doing(doing)?;
            kernel::move_mount(copy.as_fd(), at.as_fd()).doing(doing)?;
        }
        Ok(())
    }
}

fn map_layer(layer: &str, namespace: &OwnedFd) -> Result<(CString, OwnedFd), Error> {
    let path = c_string(layer)?;
    let doing = || format!("id-mapping the layer {layer}");
    let copy = kernel::open_tree(fs::CWD, &path, OPEN_TREE_CLONE | AT_RECURSIVE).doing(doing)?;
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    kernel::mount_setattr(copy.as_fd(), c"", AT_EMPTY_PATH | AT_RECURSIVE, &private).doing(doing)?;
    apply(copy.as_fd(), AT_RECURSIVE, libc::MOUNT_ATTR_RDONLY, namespace).map_err(|e| {
        let words = match e.errno {
            libc::EINVAL => unmappable(e, copy.as_fd(), Path::new(layer)),
            _ => e.to_string(),
        };
        Error::doing(doing(), words)
    })?;
    Ok((path, copy))
}

/// Runs `work` in a thread that shares neither working directory nor, if asked, namespaces with the others (`kinds` of
/// unshare(2)).
fn on_its_own<T: Send>(kinds: i32, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let separate = move || {
        ns::unshare(kinds).doing(|| "leaving the shim's namespaces for the mount".into())?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, separate);
        let thread = thread.doing(|| "starting a thread".into())?;
        thread.join().unwrap_or_else(|_| Err(Error::Gone("the mounting thread died".into())))
    })
}

/// Rewrites `lowerdir` relative to the longest directory that all layers share.
fn shorten(data: &[String]) -> Option<(PathBuf, String)> {
    let lower = data.iter().find_map(|word| word.strip_prefix(LOWER))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent()?.to_path_buf();
    while !layers.iter().all(|layer| layer.starts_with(&common)) {
        common.pop();
    }
    let relative: Option<Vec<&str>> = layers.iter().map(|l| l.strip_prefix(&common).ok()?.to_str()).collect();
    let lower = format!("{LOWER}{}", relative?.join(":"));
    let words: Vec<&str> =
        data.iter().map(|w| if w.starts_with(LOWER) { &lower } else { w.as_str() }).collect();
    Some((common, words.join(",")))
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
}
