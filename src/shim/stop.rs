//! SIGTERM and SIGINT to the shim (host shutdown, `systemctl stop`): its containers are asked to stop, then made to,
//! every exit is told, everything is cleaned up. A second signal skips the asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::process::Status;
use super::task::Task;
use super::tasks::Tasks;
use super::workers::blocking;

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Begins to stop all containers, or ends those being stopped at once. Tells `done` when all have ended.
pub fn begin(tasks: &Tasks, done: &mpsc::UnboundedSender<()>) {
    let again = STOPPING.swap(true, Ordering::Relaxed);
    if again {
        log::warn!("told to end again: killing what is left");
        tasks.all().iter().for_each(|task| signal(task, libc::SIGKILL));
        return;
    }
    tasks.close();
    log::info!("told to end: stopping {} containers", tasks.all().len());
    let (tasks, done) = (tasks.clone(), done.clone());
    tasks.unfinished.abort_all();
    tokio::spawn(async move {
        let known = tasks.all();
        // One that got through nevertheless. A Create that hangs on its way out keeps nobody else from ending.
        let late = async {
            tasks.unfinished.none_begun().await;
            let late = tasks.all().into_iter().filter(|task| !known.iter().any(|one| Arc::ptr_eq(one, task)));
            stop_all(late.collect()).await;
        };
        tokio::join!(stop_all(known.clone()), late);
        // The receiver lives as long as the shim.
        let _ = done.send(());
    });
}

async fn stop_all(tasks: Vec<Arc<Task>>) {
    let stopping: Vec<_> = tasks.into_iter().map(|task| tokio::spawn(stop(task))).collect();
    for one in stopping {
        // A task that failed has said so.
        let _ = one.await;
    }
}

async fn stop(task: Arc<Task>) {
    if !matches!(task.init.status(), Status::Stopped(_)) {
        thaw(&task).await;
        // One that was never started has no program to ask.
        let ask = task.init.status() == Status::Running;
        signal(&task, if ask { task.options.stop_signal } else { libc::SIGKILL });
        insist(&task).await;
    }
    task.init.ended().await;
    task.container.end_hooks();
    let container = task.container.clone();
    if let Ok(Err(e)) = blocking(move || container.clear_but_state()).await {
        log::error!("container {}: cleaning up: {e}", task.id);
    }
}

/// A frozen process takes no signal (cgroup v1 freezer); none is frozen any more from here on.
async fn thaw(task: &Task) {
    task.set_doomed();
    if task.is_paused() {
        let container = task.container.clone();
        let _ = blocking(move || container.cgroup.thaw()).await;
    }
}

fn signal(task: &Task, signal: i32) {
    if let Some(kernel) = task.init.kernel() {
        // Ended already is what is wanted.
        let _ = kernel.signal(signal);
    }
}

/// Follows a stop signal that somebody else has sent.
pub fn escalate(task: Arc<Task>) {
    tokio::spawn(async move { insist(&task).await });
}

/// SIGKILL, unless init ends within the stop time-out of its stop signal.
async fn insist(task: &Task) {
    if tokio::time::timeout(task.options.stop_timeout, task.init.ended()).await.is_err() {
        let time = task.options.stop_timeout;
        log::warn!("container {}: still there after {time:?}, killing it", task.id);
        thaw(task).await;
        signal(task, libc::SIGKILL);
    }
}
