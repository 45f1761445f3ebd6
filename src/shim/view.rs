//! A read-only view of the program's own file, so that nobody who gets hold of `/proc/PID/exe` of the shim, or of a child on its
//! way into a container, can write to the file on the host (CVE-2019-5736). On x86_64 the program's entry point (`sys::entry`) sees
//! to it; what is here is for where that cannot, and costs a second execve.
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
use crate::sys::memory::NO_CACHES;
use crate::sys::mount::{self, AT_EMPTY_PATH, MountAttr, OPEN_TREE_CLONE};
use crate::sys::{Result, fs};

/// Unless the program has such a view and a malloc that suits it, executes it anew, from a view or from its file if that can be
/// written by no way already; once. Call before anything is read or made: the program begins again.
///
/// # Errors
/// When there can be no view (an unbindable mount, an old kernel, a deleted file); the program works without, and has the
/// malloc all the same.
pub fn enter() -> Result<()> {
    let exe = fs::openat(fs::CWD, c"/proc/self/exe", libc::O_PATH, 0)?;
    let malloc_is_told = std::env::var_os("GLIBC_TUNABLES").is_some();
    let program = match (fs::is_readonly(exe.as_fd())?, malloc_is_told) {
        (true, true) => return Ok(()),
        (true, false) => exe,
        (false, true) => read_only(exe.as_fd())?,
        // Without a view the file itself has to do: begun anew, the program comes by here again, and says so.
        (false, false) => read_only(exe.as_fd()).unwrap_or(exe),
    };
    let variables = std::env::vars_os().filter_map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(name)
    });
    let environment = variables.chain((!malloc_is_told).then(|| NO_CACHES.to_owned())).collect();
    let arguments = std::env::args_os().filter_map(c_string).collect();
    Err(cred::execveat(program.as_fd(), &Strings::new(arguments), &Strings::new(environment)))
}

/// A detached mount of `file` alone, read-only.
fn read_only(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    let view = mount::open_tree(file, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)?;
    let read_only = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount::mount_setattr(view.as_fd(), c"", AT_EMPTY_PATH, &read_only)?;
    Ok(view)
}

/// What came in as C strings has no NUL inside.
fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}
