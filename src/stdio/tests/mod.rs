//! stdio against the kernel: real FIFOs, pipes, terminals and loggers, with blocking clients and processes in threads.

mod inputs;
mod loggers;
mod outputs;
mod terminals;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::{Io, Request, open};
use crate::sys::fs::{CWD, mknodat};

const SECOND: Duration = Duration::from_secs(1);

/// A directory with a FIFO for each stream.
struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let client = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["stdin", "stdout", "stderr"] {
            let path = CString::new(client.path(name).as_os_str().as_bytes()).unwrap();
            mknodat(CWD, &path, libc::S_IFIFO | 0o600, 0).unwrap();
        }
        client
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn uri(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// Opens the other end of a stream, as a client does, in a thread of its own.
    fn reader(&self, name: &str) -> JoinHandle<File> {
        let path = self.path(name);
        spawn_blocking(move || File::open(path).unwrap())
    }

    fn writer(&self, name: &str) -> JoinHandle<File> {
        let path = self.path(name);
        spawn_blocking(move || File::options().write(true).open(path).unwrap())
    }

    async fn stdout_only(&self) -> (File, Io) {
        let (ends, io) = open(&Request { stdout: self.uri("stdout"), ..request() }).await.unwrap();
        (file(ends.stdout), io)
    }
}

fn request() -> Request {
    let ids = std::fs::metadata("/proc/self").unwrap();
    use std::os::unix::fs::MetadataExt;
    Request {
        id: "box".into(),
        namespace: "tests".into(),
        owner: (ids.uid(), ids.gid()),
        ..Request::default()
    }
}

fn file(end: Option<OwnedFd>) -> File {
    end.expect("the stream is not null").into()
}

/// The byte at `offset` of the test stream; the period divides no buffer size.
fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8
}

fn write_pattern(mut to: impl std::io::Write, bytes: usize) {
    let block: Vec<u8> = (0..251 * 256).map(pattern).collect();
    let mut offset = 0;
    while offset < bytes {
        let n = block.len().min(bytes - offset);
        to.write_all(&block[..n]).unwrap();
        offset += n;
    }
}

/// Reads to the end and checks every byte; a slow reader pauses now and then.
fn read_pattern(mut from: impl std::io::Read, slow: bool) -> usize {
    let mut buffer = vec![0; 100_000];
    let mut offset = 0;
    for turn in 1.. {
        let n = from.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        assert!(
            buffer[..n].iter().enumerate().all(|(i, b)| *b == pattern(offset + i)),
            "changed after {offset}"
        );
        offset += n;
        if slow && turn % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    offset
}

/// Until `done`, or for two seconds.
async fn eventually(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !done() && start.elapsed() < 2 * SECOND {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Until nothing wakes this thread up any more. On a busy machine what is in flight may take a while; what polls never ends.
async fn falls_idle() {
    let mut looks = 0;
    while wake_ups().await != 0 {
        looks += 1;
        assert!(looks < 20, "something wakes up for nothing");
    }
}

/// How often the runtime's thread slept and was woken while nothing happened for a while.
async fn wake_ups() -> u64 {
    let switches = || {
        let status = text(Path::new("/proc/thread-self/status"));
        let line =
            status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap().to_string();
        line.trim().parse::<u64>().unwrap()
    };
    // What is still in flight is not idleness.
    tokio::time::sleep(SECOND / 10).await;
    let before = switches();
    let cpu = cpu_of_this_thread();
    tokio::time::sleep(SECOND / 2).await;
    // A loop that never sleeps would have no switches either.
    assert!(cpu_of_this_thread() - cpu < SECOND / 50);
    // The two sleeps themselves end by a wake-up each, at the most two when the timer rounds.
    (switches() - before).saturating_sub(2)
}

fn cpu_of_this_thread() -> Duration {
    let stat = text(Path::new("/proc/thread-self/schedstat"));
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
