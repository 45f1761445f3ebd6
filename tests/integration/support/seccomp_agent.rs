//! A seccomp agent: takes listeners from the runtime and answers what their filters notify.

use super::seccomp_listener::answer;
use libc::c_long;
use myshim::sys::socket;
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the agent has been told and asked.
#[derive(Default)]
struct Told {
    /// The container process states, one for each connection.
    states: Vec<Value>,
    /// The numbers of the calls that were notified.
    calls: Vec<c_long>,
}

/// Answers `mkdir` and `mkdirat` with an errno; every other call goes on.
pub struct Agent {
    pub path: PathBuf,
    told: Arc<Mutex<Told>>,
}

impl Agent {
    pub fn new(folder: &Path, errno: i32) -> Self {
        let path = folder.join("agent.sock");
        let listener = UnixListener::bind(&path).expect("bind the agent's socket");
        let told = Arc::<Mutex<Told>>::default();
        let into = told.clone();
        // It ends with the test's process, which is soon.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection = connection.expect("accept");
                let (state, filter) = take(connection.as_fd().try_clone_to_owned().expect("dup"));
                into.lock().expect("lock").states.push(state);
                let into = into.clone();
                thread::spawn(move || serve(&filter, errno, &into));
            }
        });
        Self { path, told }
    }

    pub fn states(&self) -> Vec<Value> {
        self.told.lock().expect("lock").states.clone()
    }

    pub fn was_asked(&self, call: c_long) -> bool {
        self.told.lock().expect("lock").calls.contains(&call)
    }
}

/// The whole of a connection: one document, one descriptor with its first part, the end.
fn take(connection: OwnedFd) -> (Value, OwnedFd) {
    let (mut document, mut filter, mut piece) = (Vec::new(), None, [0; 65536]);
    loop {
        let (length, fd) = socket::recv(connection.as_fd(), &mut piece).expect("read the state");
        assert!(fd.is_none() || document.is_empty(), "the descriptor comes first");
        filter = filter.or(fd);
        document.extend(&piece[..length]);
        if length == 0 {
            let document = serde_json::from_slice(&document).expect("JSON");
            return (document, filter.expect("a descriptor"));
        }
    }
}

fn serve(filter: &OwnedFd, errno: i32, told: &Mutex<Told>) {
    answer(filter, |asked| {
        let call = c_long::from(asked.data.nr);
        told.lock().expect("lock").calls.push(call);
        (call == libc::SYS_mkdirat || is_mkdir(call)).then_some(errno)
    });
}

#[cfg(target_arch = "x86_64")]
fn is_mkdir(call: c_long) -> bool {
    call == libc::SYS_mkdir
}

#[cfg(not(target_arch = "x86_64"))]
fn is_mkdir(_: c_long) -> bool {
    false
}
