//! The shim runs from a read-only view of its own file, so that nobody who gets hold of `/proc/PID/exe` of the shim, or of
//! a child on its way into a container, can write to the file on the host (CVE-2019-5736).
//!
//! ```text
//! containerd --exec--> /usr/local/bin/containerd-shim-myshim-v1 (writable mount)
//!                        open_tree(OPEN_TREE_CLONE), mount_setattr(MOUNT_ATTR_RDONLY): a detached mount of that one file
//!                        '--execveat--> the same file, the same page cache, but no mount by which it can be written
//! ```
//!
//! The kernel refuses to write to a program that runs (ETXTBSY), but only while it runs, and some kernels (6.11, 6.12) not
//! even then. A detached mount belongs to no mount namespace, so nobody can remount it. See open_tree(2), mount_setattr(2).

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use crate::sys::cred::{self, Strings};
use crate::sys::mount::{self, AT_EMPTY_PATH, MountAttr, OPEN_TREE_CLONE};
use crate::sys::{Result, fs};

/// Executes this program anew from such a view, unless its file can be written by no way already. Call before anything
/// is read or made: the program begins again.
///
/// # Errors
/// When there can be no view (an unbindable mount, a deleted file); the program works without.
pub fn enter() -> Result<()> {
    let exe = fs::openat(fs::CWD, c"/proc/self/exe", libc::O_PATH, 0)?;
    if fs::is_readonly(exe.as_fd())? {
        return Ok(());
    }
    let view = mount::open_tree(exe.as_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)?;
    let read_only = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount::mount_setattr(view.as_fd(), c"", AT_EMPTY_PATH, &read_only)?;
    let environment = std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        entry
    });
    Err(cred::execveat(view.as_fd(), &strings(std::env::args_os()), &strings(environment)))
}

/// What came in as C strings has no NUL inside.
fn strings(all: impl Iterator<Item = OsString>) -> Strings {
    Strings::new(all.filter_map(|text| CString::new(text.into_vec()).ok()).collect())
}
