//! How the program begins: anew, from a read-only view of its own file, so that nobody who gets hold of `/proc/PID/exe` of
//! the shim, or of a child on its way into a container, can write to the file on the host (CVE-2019-5736).
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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use crate::sys::cred::{self, Strings};
use crate::sys::mount::{self, AT_EMPTY_PATH, MountAttr, OPEN_TREE_CLONE};
use crate::sys::{Result, fs};

/// How the program's malloc behaves, which it asks its environment once, when it begins (glibc, "Tunables").
const TUNABLES: &str = "GLIBC_TUNABLES";
/// Without caches for each thread: what lies in the main thread's keeps pages from being given back, ever more of them, up
/// to 900 KiB after a few thousand execs.
const NO_CACHES: &str = "glibc.malloc.tcache_count=0";

/// Executes this program anew from such a view, or from its file if that can be written by no way already, and with a
/// malloc that suits it; once. Call before anything is read or made: the program begins again.
///
/// # Errors
/// When there can be no view (an unbindable mount, an old kernel, a deleted file); the program works without, and has the
/// malloc all the same.
pub fn enter() -> Result<()> {
    let exe = fs::openat(fs::CWD, c"/proc/self/exe", libc::O_PATH, 0)?;
    let tunables = std::env::var_os(TUNABLES).is_none().then(|| (TUNABLES.into(), NO_CACHES.into()));
    let program = match (fs::is_readonly(exe.as_fd())?, &tunables) {
        (true, None) => return Ok(()),
        (true, Some(_)) => exe,
        (false, None) => read_only(exe.as_fd())?,
        // Without a view the file itself has to do: begun anew, the program comes by here again, and says so.
        (false, Some(_)) => read_only(exe.as_fd()).unwrap_or(exe),
    };
    let environment = std::env::vars_os().chain(tunables).map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        entry
    });
    Err(cred::execveat(program.as_fd(), &strings(std::env::args_os()), &strings(environment)))
}

/// A detached mount of `file` alone, read-only.
fn read_only(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    let view = mount::open_tree(file, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)?;
    let read_only = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount::mount_setattr(view.as_fd(), c"", AT_EMPTY_PATH, &read_only)?;
    Ok(view)
}

/// What came in as C strings has no NUL inside.
fn strings(all: impl Iterator<Item = OsString>) -> Strings {
    Strings::new(all.filter_map(|text| CString::new(text.into_vec()).ok()).collect())
}
