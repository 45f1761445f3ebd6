//! The logger process of a `binary://` address: containerd's core/runtime/v2/logging protocol.
//!
//! It reads the process's stdout and stderr as descriptors 3 and 4 straight from the pipes (one that the process does not
//! have is a pipe at its end: loggers poll, and /dev/null cannot be polled), closes 5 when it is ready, and finds `CONTAINER_ID` and `CONTAINER_NAMESPACE` in an otherwise empty environment. One task watches it by pidfd, reaps
//! it, and ends it. The shim keeps the read ends too: when the logger dies before the workload, output is discarded
//! rather than the workload killed by SIGPIPE.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::SigSet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::pump::{Pump, Sink, Source};
use super::target::{own_end, register, watch};
use super::uri::Program;
use super::{Error, Request, doing};
use crate::sys::{pipe, process};

/// How long a logger may take to say that it is ready.
const READY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// From SIGTERM to SIGKILL. Delete waits for it, and containerd's clean-up gives up after 5 s.
const TERM: Duration = Duration::from_secs(3);
/// Between two looks at a pipe that the logger has not emptied yet, where no news of it can be had.
const LOOK: Duration = Duration::from_millis(2);
/// The same where they can.
const SELDOM: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 100 });
/// No descriptor of ours is below this while 0 to 5 are being filled.
const ABOVE_STDIO: i32 = 16;

/// A running logger. Dropped, it is ended in the background.
pub(super) struct Logger {
    /// Sends how long it may go on by itself.
    end: Option<oneshot::Sender<Duration>>,
    task: JoinHandle<()>,
    /// The read ends that it shares with the shim.
    pub reads: Vec<Arc<OwnedFd>>,
}

struct Child {
    path: PathBuf,
    pidfd: AsyncFd<OwnedFd>,
}

impl Logger {
    /// Starts `program` and waits until it is ready. `output` = the read ends of stdout and stderr.
    pub async fn start(
        program: &Program,
        output: [Option<OwnedFd>; 2],
        req: &Request,
    ) -> Result<Self, Error> {
        let (ready, child_ready) = pipe::pipe().map_err(doing("make the logger's ready pipe"))?;
        let child = Child::spawn(program, &output, child_ready, req)?;
        let (end, ended) = oneshot::channel();
        let path = child.path.clone();
        let reads: Vec<_> = output.into_iter().flatten().map(Arc::new).collect();
        let task = tokio::spawn(supervise(child, ended, reads.clone()));
        // From here on a return drops the logger, and that ends it.
        let logger = Self { end: Some(end), task, reads };
        let ready = watch(own_end(ready)?, Interest::READABLE)?;
        match timeout(READY, said_ready(&ready)).await {
            Err(_) => Err(Error::LoggerTimeout { path, seconds: READY.as_secs() }),
            Ok(false) if program.strict => Err(Error::LoggerNotReady { path }),
            Ok(_) => Ok(logger),
        }
    }

    /// Lets the logger finish for `grace`, then asks with SIGTERM, then kills. Returns when it is reaped.
    pub async fn end(mut self, grace: Duration) {
        if let Some(end) = self.end.take() {
            let _ = end.send(grace);
        }
        let _ = self.task.await;
    }
}

/// Until the logger has read what is in its pipe.
///
/// KERNEL: that a pipe has become empty is no event. That it is read from is one (inotify(7)), before Linux 6.6 not by splice(2).
pub(super) async fn taken(pipe: &OwnedFd) {
    let is_empty = || !pipe::readable_bytes(pipe.as_fd()).is_ok_and(|bytes| bytes > 0);
    if is_empty() {
        return;
    }
    let reads = watch_reads(pipe);
    while !is_empty() {
        match &reads {
            Ok(reads) => _ = timeout(SELDOM, next(reads)).await,
            // There are no more instances to be had (max_user_instances).
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn watch_reads(pipe: &OwnedFd) -> std::io::Result<AsyncFd<File>> {
    let reads = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    reads.add_watch(&*format!("/proc/self/fd/{}", pipe.as_raw_fd()), AddWatchFlags::IN_ACCESS)?;
    register(File::from(OwnedFd::from(reads)), Interest::READABLE)
}

async fn next(reads: &AsyncFd<File>) {
    let Ok(mut ready) = reads.readable().await else { return tokio::time::sleep(LOOK).await };
    // Of one kind and one file: the kernel keeps one event (inotify(7)).
    let _ = reads.get_ref().read(&mut [0; 64]);
    ready.clear_ready();
}

/// The byte of containerd's logging package; false = closed without one, as older loggers do.
async fn said_ready(ready: &AsyncFd<File>) -> bool {
    let mut byte = [0];
    loop {
        let Ok(mut guard) = ready.readable().await else { return false };
        match guard.try_io(|fd| fd.get_ref().read(&mut byte)) {
            Ok(read) => return read.is_ok_and(|n| n == 1),
            Err(_would_block) => continue,
        }
    }
}

async fn supervise(child: Child, mut end: oneshot::Receiver<Duration>, reads: Vec<Arc<OwnedFd>>) {
    tokio::select! {
        () = child.ended() => {
            let mut rest = reads.into_iter();
            tokio::select! {
                () = async { tokio::join!(discard(rest.next()), discard(rest.next())); } => {}
                _ = end => {}
            }
        }
        // A dropped sender is an Err: no grace.
        grace = &mut end => child.end(grace.unwrap_or_default()).await,
    }
}

/// Reads what nobody else will, until its end.
async fn discard(read: Option<Arc<OwnedFd>>) {
    let read = read
        .and_then(|fd| own_end(fd.try_clone().ok()?).ok())
        .and_then(|file| watch(file, Interest::READABLE).ok());
    if let Some(read) = read {
        Pump::new("logger", Source::Pipe(read), Sink::Null).run().await;
    }
}

impl Child {
    fn spawn(
        program: &Program,
        output: &[Option<OwnedFd>; 2],
        ready: OwnedFd,
        req: &Request,
    ) -> Result<Self, Error> {
        let path = PathBuf::from(&program.path);
        let started = spawn(program, output, ready, req).and_then(|pid| {
            // Nobody but this module reaps the logger, so the pid is still its own.
            let pidfd = process::pidfd_open(pid)?;
            register(pidfd, Interest::READABLE)
        });
        match started {
            Ok(pidfd) => Ok(Self { path, pidfd }),
            Err(source) => Err(Error::Logger { path, source }),
        }
    }

    async fn ended(&self) {
        let _ = self.pidfd.readable().await;
        // ECHILD: the process's own reaper was faster; the status is lost, the end is not.
        match process::waitid(self.pidfd.get_ref().as_fd(), libc::WEXITED) {
            Ok(Some(exit)) if exit.status != 0 && exit.status != 128 + libc::SIGTERM as u32 => {
                log::warn!("logger {} ended with status {}", self.path.display(), exit.status);
            }
            _ => {}
        }
    }

    async fn end(&self, grace: Duration) {
        if timeout(grace, self.ended()).await.is_ok() {
            return;
        }
        self.signal(libc::SIGTERM);
        if timeout(TERM, self.ended()).await.is_ok() {
            return;
        }
        self.signal(libc::SIGKILL);
        // One in uninterruptible sleep must not keep its container. The shim's reaper takes it when it dies.
        if timeout(TERM, self.ended()).await.is_err() {
            log::warn!("logger {} does not die of SIGKILL", self.path.display());
        }
    }

    fn signal(&self, signal: i32) {
        // ESRCH: it has ended just now.
        let _ = process::pidfd_send_signal(self.pidfd.get_ref().as_fd(), signal);
    }
}

fn spawn(
    program: &Program,
    output: &[Option<OwnedFd>; 2],
    ready: OwnedFd,
    req: &Request,
) -> Result<i32, IoError> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let (ended, _) = pipe::pipe()?;
    let [out, err] = output.each_ref().map(|fd| fd.as_ref().map_or(ended.as_fd(), AsFd::as_fd));
    let null = null.as_fd();
    let mut held = Vec::with_capacity(6);
    let mut actions = PosixSpawnFileActions::init()?;
    for (number, fd) in [null, null, null, out, err, ready.as_fd()].into_iter().enumerate() {
        let fd = pipe::dup_above(fd, ABOVE_STDIO)?;
        actions.add_dup2(fd.as_raw_fd(), number as i32)?;
        held.push(fd);
    }
    let mut attr = PosixSpawnAttr::init()?;
    // Rust ignores SIGPIPE, and execve(2) keeps what is ignored or blocked.
    attr.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attr.set_sigdefault(&SigSet::all())?;
    attr.set_sigmask(&SigSet::empty())?;
    let mut args = vec![c_string(&program.path)?];
    for arg in &program.args {
        args.push(c_string(arg)?);
    }
    let env = [("CONTAINER_ID", &req.id), ("CONTAINER_NAMESPACE", &req.namespace)]
        .map(|(name, value)| CString::new(format!("{name}={value}")));
    let [id, namespace] = env;
    let pid = posix_spawn(args[0].as_c_str(), &actions, &attr, &args, &[id?, namespace?])?;
    Ok(pid.as_raw())
}

fn c_string(text: &OsStr) -> Result<CString, IoError> {
    Ok(CString::new(text.as_bytes())?)
}
