//! Processes that a SIGKILL does not end at once: frozen by somebody else than us, or in uninterruptible sleep (state D).

use std::sync::Arc;
use std::time::Duration;

use super::task::Task;
use super::workers::blocking;
use crate::engine::Process;

/// What can die at once has died by then.
const AT_ONCE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(2);

/// Sees to it that a process just killed dies, and says why if it does not.
pub fn follow(task: &Arc<Task>, process: Process) {
    // A container that is deleted meanwhile is not kept for this.
    let task = Arc::downgrade(task);
    tokio::spawn(async move {
        tokio::time::sleep(AT_ONCE).await;
        let Some(task) = task.upgrade().filter(|_| !process.has_ended()) else { return };
        if task.is_paused() && !task.is_doomed() {
            // An exec'd process of a paused container: it dies when that is resumed.
            return;
        }
        let container = task.container.clone();
        // KERNEL: a process that the v1 freezer holds does not act on SIGKILL.
        let frozen = blocking(move || {
            let frozen = container.cgroup.is_frozen().unwrap_or(false);
            frozen.then(|| container.cgroup.thaw())
        });
        match frozen.await {
            Ok(Some(Ok(()))) => log::info!("container {}: thawed, for it was frozen and is to die", task.id),
            Ok(Some(Err(e))) => log::warn!("container {}: frozen, and does not thaw: {e}", task.id),
            _ => {}
        }
        tokio::time::sleep(SOON).await;
        if !process.has_ended() {
            log::warn!("container {}: {} has not died of SIGKILL", task.id, process.describe());
        }
    });
}
