//! A seccomp agent: takes listeners from the runtime and answers what their filters notify. seccomp_unotify(2).
#![allow(unsafe_code)]

use libc::{SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, c_long, seccomp_notif, seccomp_notif_resp};
use myshim::sys::{process, socket};
use serde_json::Value;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    loop {
        process::poll_in(filter.as_fd(), -1).expect("poll");
        // SAFETY: plain integers, for which all zeroes is valid; the kernel insists on zeroes.
        let mut asked: seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: asked is a live seccomp_notif.
        let r = unsafe { libc::ioctl(filter.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &mut asked) };
        if r != 0 {
            match std::io::Error::last_os_error().raw_os_error() {
                // The process that asked is gone, or interrupted; if all are gone there is nobody to ask any more.
                Some(libc::ENOENT | libc::EINTR) if alive(filter) => continue,
                _ => return,
            }
        }
        let call = c_long::from(asked.data.nr);
        told.lock().expect("lock").calls.push(call);
        let refuse = call == libc::SYS_mkdirat || is_mkdir(call);
        let go_on = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let answer = seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: if refuse { -errno } else { 0 },
            flags: if refuse { 0 } else { go_on },
        };
        // SAFETY: answer is a live seccomp_notif_resp. It fails only if the process is gone meanwhile.
        unsafe { libc::ioctl(filter.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &answer) };
    }
}

/// Does any process use the filter still? poll(2) tells `POLLHUP` when none does.
fn alive(filter: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: filter.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: poll is one live pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & libc::POLLHUP == 0
}

#[cfg(target_arch = "x86_64")]
fn is_mkdir(call: c_long) -> bool {
    call == libc::SYS_mkdir
}

#[cfg(not(target_arch = "x86_64"))]
fn is_mkdir(_: c_long) -> bool {
    false
}
