//! Watches processes by pidfd and carries their ends through: last words out, counters read, status recorded, exit
//! told. Nothing polls: a pidfd becomes readable when its process ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::events;
use super::process::{Exit, Process, Status};
use super::publisher::Journal;
use super::task::Task;
use crate::engine;
use crate::engine::cgroup::OomWatch;

/// What a process wrote before its end is moved out within this; a FIFO nobody reads cannot hold the exit longer.
const DRAIN: Duration = Duration::from_secs(2);
/// Init's exit waits this long for those of its exec'd processes.
const OTHERS: Duration = Duration::from_secs(5);

/// Follows `process` to its end.
pub fn watch(task: Arc<Task>, process: Arc<Process>, journal: Journal) {
    let Some(kernel) = process.kernel() else { return };
    tokio::spawn(async move {
        until_ended(&kernel).await;
        if process.is_init() {
            init_ended(&task, &kernel, &journal).await;
        } else {
            let _order = process.order.lock().await;
            finish(&task, &process, &kernel, &journal).await;
        }
    });
}

async fn until_ended(kernel: &engine::Process) {
    match AsyncFd::with_interest(kernel.pidfd.clone(), Interest::READABLE) {
        Ok(pidfd) => drop(pidfd.readable().await),
        // Out of epoll watches: a thread waits instead. An exit is never lost.
        Err(_) => {
            let pidfd = kernel.pidfd.clone();
            drop(tokio::task::spawn_blocking(move || crate::sys::process::poll_in(as_fd(&pidfd), -1)).await);
        }
    }
}

fn as_fd(fd: &Arc<OwnedFd>) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd.as_ref())
}

/// ORDER: no exec starts any more; everybody else is dead and told; then init. Docker relies on init's exit being
/// its container's last.
async fn init_ended(task: &Arc<Task>, kernel: &engine::Process, journal: &Journal) {
    task.set_ending();
    let _alone = task.life.write().await;
    let _order = task.init.order.lock().await;
    if !task.container.has_pid_namespace() {
        let container = task.container.clone();
        let killed = tokio::task::spawn_blocking(move || container.cgroup.kill()).await;
        if let Ok(Err(e)) = killed {
            log::warn!("container {}: ending what init left behind: {e}", task.id);
        }
    }
    let others = async {
        for exec in task.exec_processes() {
            if exec.status() == Status::Running {
                exec.ended().await;
            }
        }
    };
    if tokio::time::timeout(OTHERS, others).await.is_err() {
        log::warn!("container {}: an exec'd process outlives init; its exit will come later", task.id);
    }
    finish(task, &task.init, kernel, journal).await;
}

async fn finish(task: &Task, process: &Process, kernel: &engine::Process, journal: &Journal) {
    if let Some(io) = process.io() {
        io.drained(DRAIN).await;
    }
    // ORDER: reaped only here: until now the zombie kept its pid from being given away.
    let status = kernel.reap().map_or(255, |exit| exit.status);
    let exit = Exit::now(status);
    if process.is_init() {
        let at = exit.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        if let Err(e) = task.container.record_exit(engine::state::Exit { status, at }) {
            log::warn!("container {}: {e}", task.id);
        }
    }
    journal.publish(events::exit(&task.id, process, kernel.pid as u32, &exit));
    process.set_stopped(exit);
}

/// Tells of the container's memory limit being hit; ends with `watch`'s file.
pub struct OomTeller {
    watch: tokio::sync::Mutex<OomWatch>,
}

impl OomTeller {
    pub fn new(watch: OomWatch) -> Self {
        Self { watch: tokio::sync::Mutex::new(watch) }
    }

    /// Publishes TaskOOM if the counter has grown since it was last asked.
    pub async fn tell(&self, id: &str, journal: &Journal) {
        if self.watch.lock().await.take() {
            journal.publish(events::oom(id));
        }
    }
}

/// Which readiness an OOM watch shows.
pub fn is_oom(ready: Ready) -> bool {
    ready.is_readable() || ready.is_priority()
}
