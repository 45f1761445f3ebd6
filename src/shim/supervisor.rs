//! Watches processes by pidfd and carries their ends through: last words out, counters read, status recorded, exit
//! told. Nobody polls for an end: a pidfd becomes readable when its process ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::Interest;

use super::process::{Exit, Process, Status};
use super::proto::events::TaskExit;
use super::publisher::Journal;
use super::task::Task;
use super::workers::blocking;
use crate::engine;
use crate::stdio::register;
use crate::sys::fault::fault;

/// What a process wrote before its end is moved out within this; a FIFO nobody reads cannot hold the exit longer.
const DRAIN: Duration = Duration::from_secs(2);
/// Init's exit waits this long for the starts, and then for the exits, of its exec'd processes.
const OTHERS: Duration = Duration::from_secs(5);
/// The first pause before an out-of-memory kill that was not counted yet is looked for again; each one after is twice as
/// long, to a bit over a second.
const OOM_AGAIN: Duration = Duration::from_millis(10);

/// Follows `process` to its end.
pub fn watch(task: Arc<Task>, process: Arc<Process>, journal: Journal) {
    let Some(kernel) = process.kernel() else { return };
    tokio::spawn(async move {
        until_ended(&kernel).await;
        let _ = fault!("exit: seen");
        let exit = Exit::now(kernel.peek().map_or(255, |exit| exit.status));
        if process.is_init() {
            // At once: systemd is about to remove the scope, and the counters with it.
            let unexplained = exit.status == 128 + libc::SIGKILL as u32 && !task.is_doomed();
            task.tell_oom(&journal, unexplained).await;
            note(&task, &exit);
            init_ended(&task, &kernel, exit, &journal).await;
        } else {
            finish(&task, &process, &kernel, exit, &journal).await;
        }
    });
}

async fn until_ended(kernel: &engine::Process) {
    match register(kernel.pidfd.clone(), Interest::READABLE) {
        Ok(pidfd) => drop(pidfd.readable().await),
        // Out of epoll watches: a thread waits instead. An exit is never lost.
        Err(_) => {
            let pidfd = kernel.pidfd.clone();
            drop(blocking(move || crate::sys::process::poll_in(as_fd(&pidfd), -1)).await);
        }
    }
}

fn as_fd(fd: &Arc<OwnedFd>) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd.as_ref())
}

/// ORDER: no exec starts any more; everybody else is dead and told; then init. Docker relies on init's exit being
/// its container's last.
async fn init_ended(task: &Arc<Task>, kernel: &engine::Process, exit: Exit, journal: &Journal) {
    task.set_ending();
    // A start that hangs, in a file system that does not answer say, must not keep this from being told.
    let alone = tokio::time::timeout(OTHERS, task.life.write()).await;
    if alone.is_err() {
        log::warn!("container {}: init has ended while an exec hangs in its start", task.id);
    }
    let _order = task.init.order.lock().await;
    if !task.container.owns_pid_namespace() {
        let container = task.container.clone();
        let killed = blocking(move || container.cgroup.kill(engine::KILL_WITHIN)).await;
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
    finish(task, &task.init, kernel, exit, journal).await;
}

/// For whoever comes after a shim that is killed from here on.
fn note(task: &Task, exit: &Exit) {
    let at = exit.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    if let Err(e) = task.container.record_exit(engine::state::Exit { status: exit.status, at }) {
        log::warn!("container {}: {e}", task.id);
    }
    let _ = fault!("exit: noted");
}

async fn finish(task: &Task, process: &Process, kernel: &engine::Process, exit: Exit, journal: &Journal) {
    // ORDER: the counter before the exit that it explains.
    task.tell_oom(journal, false).await;
    if let Some(io) = process.io() {
        io.drained(DRAIN).await;
    }
    // ORDER: reaped only here: until now the zombie kept its pid from being given away, and its status was there for
    // whoever comes after a shim that is killed before it is noted.
    kernel.reap();
    let _ = fault!("exit: reaped");
    journal.publish(&event(task, process, kernel.pid as u32, &exit), SystemTime::now());
    process.set_stopped(exit);
    let _ = fault!("exit: told");
}

fn event(task: &Task, process: &Process, pid: u32, exit: &Exit) -> TaskExit {
    let mut event = TaskExit::new();
    event.container_id = task.id.clone();
    // COMPAT: init's process id is the container's.
    event.id = if process.is_init() { task.id.clone() } else { process.exec_id.clone() };
    event.pid = pid;
    event.exit_status = exit.status;
    event.exited_at = Some(exit.timestamp()).into();
    event
}

/// Tells of every out-of-memory kill while init lives. Sleeps until the kernel has something to say.
pub fn watch_oom(task: &Arc<Task>, journal: &Journal) {
    let (task, journal) = (task.clone(), journal.clone());
    tokio::spawn(async move {
        let Some((file, interest)) = task.oom_file().await else { return };
        let Ok(file) = register(file, interest) else {
            log::warn!(
                "container {}: out of epoll watches; out-of-memory kills are told at exit only",
                task.id
            );
            return;
        };
        // KERNEL: v1 signals before the kill is counted, and who dies may be nobody whose end is heard of here.
        let mut again: Option<Duration> = None;
        loop {
            tokio::select! {
                _ = task.init.ended() => return,
                ready = file.ready(interest) => {
                    let Ok(mut ready) = ready else { return };
                    task.tell_oom(&journal, false).await;
                    ready.clear_ready();
                    again = Some(OOM_AGAIN).filter(|_| interest.is_readable());
                }
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {
                    task.tell_oom(&journal, false).await;
                    again = again.map(|pause| pause * 2).filter(|pause| *pause < 200 * OOM_AGAIN);
                }
            }
        }
    });
}
