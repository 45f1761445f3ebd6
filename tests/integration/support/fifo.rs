//! The client's side of a container's stdio: named pipes, read and written by threads so that no open can block a test.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

pub fn make(path: &Path) {
    let made = Command::new("mkfifo").arg("-m").arg("700").arg(path).status().expect("start mkfifo");
    assert!(made.success(), "mkfifo {}", path.display());
}

/// Reads a fifo to its end.
pub struct Sink {
    pub path: PathBuf,
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Sink {
    pub fn new(path: PathBuf) -> Self {
        make(&path);
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let into = text.clone();
        // Open before anybody can write and be gone again. Until the first writer comes, poll(2) waits.
        let mut options = OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("open a fifo");
        let reader = thread::spawn(move || {
            let mut piece = [0; 65536];
            loop {
                myshim::sys::process::poll_in(file.as_fd(), -1).expect("wait for a fifo");
                match file.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => into.lock().expect("lock").extend(&piece[..count]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "read a fifo: {error}"),
                }
            }
        });
        Self { path, text, reader }
    }

    pub fn uri(&self) -> String {
        self.path.display().to_string()
    }

    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("lock")).into_owned()
    }

    /// Everything, once the shim has closed its end.
    #[track_caller]
    pub fn finish(self) -> String {
        super::eventually(&format!("{} ends", self.path.display()), super::SOON, || {
            self.reader.is_finished().then_some(())
        });
        self.so_far()
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        super::eventually(&format!("output {text:?}, having {:?}", self.so_far()), super::SOON, || {
            self.so_far().contains(text).then_some(())
        });
    }
}

/// A fifo that the test writes into. Opened for reading as well, so that opening never waits.
pub struct Source {
    pub path: PathBuf,
    file: File,
}

impl Source {
    pub fn new(path: PathBuf) -> Self {
        make(&path);
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .expect("open a fifo");
        Self { path, file: both }
    }

    pub fn uri(&self) -> String {
        self.path.display().to_string()
    }

    pub fn write(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).expect("write a fifo");
    }
}

/// Takes what a shim logs, as containerd does, for as long as the test process lives.
pub fn drain(path: &Path) {
    make(path);
    // Open for writing as well: there is never a moment without a reader, and never an end.
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("open a fifo");
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while file.read(&mut piece).is_ok_and(|count| count > 0) {}
    });
}
