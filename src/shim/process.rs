//! One process of a task, init or exec'd: where it stands in its life, its streams, its end.
//!
//! ```text
//!            start            exit
//!  Created ---------> Running ------> Stopped        (Paused is the container's affair)
//!     `------------------ exit ----------^           killed before its start
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::watch;

use crate::engine;
use crate::stdio::{Io, Request};

/// How a process ended, final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 + the signal that ended it.
    pub status: u32,
    pub at: SystemTime,
}

impl Exit {
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }

    pub fn timestamp(&self) -> Timestamp {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut t = Timestamp::new();
        t.seconds = since.as_secs() as i64;
        t.nanos = since.subsec_nanos() as i32;
        t
    }
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Stopped(Exit),
}

/// A process as the task API knows it.
pub struct Process {
    /// Empty for init.
    pub exec_id: String,
    pub streams: Request,
    /// Serialises start against init's exit, so that events keep their order, and against an exec's Delete.
    pub order: tokio::sync::Mutex<()>,
    io: Mutex<Option<Arc<Io>>>,
    /// The terminal size asked for before there was a terminal.
    size: Mutex<Option<(u16, u16)>>,
    /// CloseIO came, perhaps before there was a stream to close.
    stdin_closed: AtomicBool,
    status: Mutex<Status>,
    running: Mutex<Option<engine::Process>>,
    /// The exit, or `None` inside for a process that was removed and never ran.
    ended: watch::Sender<Option<Option<Exit>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Process {
    pub fn new(exec_id: &str, streams: Request) -> Self {
        Self {
            exec_id: exec_id.into(),
            streams,
            order: tokio::sync::Mutex::new(()),
            io: Mutex::new(None),
            size: Mutex::new(None),
            stdin_closed: AtomicBool::new(false),
            status: Mutex::new(Status::Created),
            running: Mutex::new(None),
            ended: watch::channel(None).0,
        }
    }

    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    pub fn status(&self) -> Status {
        *lock(&self.status)
    }

    pub fn set_running(&self) {
        let mut status = lock(&self.status);
        if *status == Status::Created {
            *status = Status::Running;
        }
    }

    /// The end: from here on `Wait` answers.
    pub fn set_stopped(&self, exit: Exit) {
        *lock(&self.status) = Status::Stopped(exit);
        self.ended.send_replace(Some(Some(exit)));
    }

    pub fn exit(&self) -> Option<Exit> {
        self.ended.borrow().flatten()
    }

    /// Nobody can start it any more: who waits for an end that will not come is told so.
    pub fn set_removed(&self) {
        self.ended.send_if_modified(|ended| {
            let waiting = ended.is_none();
            *ended = (*ended).or(Some(None));
            waiting
        });
    }

    /// Waits for the end of a process that has one.
    pub async fn ended(&self) -> Exit {
        loop {
            match self.ended_or_removed().await {
                Some(exit) => return exit,
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for the end; nothing for a process that was removed and never ran.
    pub async fn ended_or_removed(&self) -> Option<Exit> {
        let mut seen = self.ended.subscribe();
        loop {
            if let Some(ended) = *seen.borrow_and_update() {
                return ended;
            }
            // The sender lives in `self`: this can only mean that a value came.
            let _ = seen.changed().await;
        }
    }

    pub fn attach(&self, process: engine::Process) {
        *lock(&self.running) = Some(process);
    }

    /// The kernel's process; nothing before its start.
    pub fn kernel(&self) -> Option<engine::Process> {
        lock(&self.running).clone()
    }

    pub fn pid(&self) -> u32 {
        self.kernel().map_or(0, |process| process.pid as u32)
    }

    /// Takes the streams over; what was asked of them earlier is done now.
    pub fn set_io(&self, io: Io) {
        if self.stdin_closed.load(Ordering::Acquire) {
            io.close_stdin();
        }
        if let Some((width, height)) = *lock(&self.size)
            && let Err(e) = io.resize(width, height)
        {
            log::warn!("setting the terminal's size: {e}");
        }
        *lock(&self.io) = Some(Arc::new(io));
    }

    /// CloseIO: no more input than what is on its way.
    pub fn close_stdin(&self) {
        // ORDER: noted first: whoever sets the streams meanwhile sees it.
        self.stdin_closed.store(true, Ordering::Release);
        if let Some(io) = self.io() {
            io.close_stdin();
        }
    }

    /// Sets the terminal's size, or keeps it until there is a terminal.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), crate::stdio::Error> {
        *lock(&self.size) = Some((width, height));
        self.io().map_or(Ok(()), |io| io.resize(width, height))
    }

    pub fn io(&self) -> Option<Arc<Io>> {
        lock(&self.io).clone()
    }

    pub fn take_io(&self) -> Option<Arc<Io>> {
        lock(&self.io).take()
    }
}
