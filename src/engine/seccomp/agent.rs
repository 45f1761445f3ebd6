//! `SCMP_ACT_NOTIFY`: the listener of a loaded filter goes to the agent that the profile names, with the container
//! process state. runtime-spec, "The Container Process State"; seccomp_unotify(2), pidfd_getfd(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::Filter;
use crate::engine::container::Process;
use crate::engine::error::{Doing, Error};
use crate::sys::{process, socket};

/// Takes the listener, descriptor `number` of `process`, and sends it to the agent. `state` is the container's.
///
/// # Errors
/// When the agent does not listen, or takes longer than a few seconds.
pub fn hand_over(filter: &Filter, process: &Process, number: i32, state: Value) -> Result<(), Error> {
    let doing = || "taking the seccomp listener from the process".to_string();
    let listener = process::pidfd_getfd(process.pidfd.as_fd(), number).doing(doing)?;
    let path = filter.listener.as_deref().unwrap_or(Path::new(""));
    let document = document(process.pid, &filter.listener_metadata, state);
    send(path, document.to_string().as_bytes(), listener.as_fd()).map_err(|e| {
        let what =
            format!("linux.seccomp.listenerPath {}: sending the listener to the agent", path.display());
        match e.errno {
            libc::ENOENT | libc::ECONNREFUSED => Error::doing(what, format!("{e}; start the agent first")),
            libc::EAGAIN => Error::doing(what, "it does not take it; is it stuck?"),
            _ => Error::doing(what, e),
        }
    })
}

fn document(pid: i32, metadata: &str, state: Value) -> Value {
    let mut document = json!({
        "ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid, "state": state,
    });
    if !metadata.is_empty() {
        document["metadata"] = metadata.into();
    }
    document
}

/// One connection, one message.
fn send(path: &Path, document: &[u8], listener: BorrowedFd<'_>) -> crate::sys::Result<()> {
    let agent = socket::connect_unix(path.as_os_str().as_bytes(), socket::PATIENCE)?;
    socket::send(agent.as_fd(), document, Some(listener))
}
