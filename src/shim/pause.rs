//! Pause and Resume: the container's cgroup frozen and thawed. Init may end while that is being done: nothing is told behind
//! its exit then, and nothing stays frozen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error;
use super::inflight::{Outcome, Reply};
use super::process::Status;
use super::proto::events::{TaskPaused, TaskResumed};
use super::task::Task;
use super::tasks::{Tasks, refuse};
use super::workers::blocking;

/// A cgroup that does not freeze within this is thawed again, and the process in its way named.
const FREEZE: Duration = Duration::from_secs(2);

impl Tasks {
    pub async fn pause(self, task: Arc<Task>) -> Outcome {
        let refused = || error::failed_precondition(format!("container {} is not running", task.id));
        if task.init.status() != Status::Running || task.is_ending() {
            return Err(refused());
        }
        let container = task.container.clone();
        blocking(move || container.cgroup.freeze(FREEZE)).await?.map_err(|e| refuse(e.into()))?;
        if task.is_ending() {
            // Init has ended meanwhile, and nobody may keep the rest from dying.
            let container = task.container.clone();
            blocking(move || container.cgroup.thaw()).await?.map_err(|e| refuse(e.into()))?;
            return Err(refused());
        }
        task.set_paused(true);
        let mut event = TaskPaused::new();
        event.container_id = task.id.clone();
        self.journal.publish(&event, SystemTime::now());
        Ok(Reply::Done)
    }

    pub async fn resume(self, task: Arc<Task>) -> Outcome {
        let refused = || error::failed_precondition(format!("container {} is not paused", task.id));
        if !task.is_paused() {
            return Err(refused());
        }
        let container = task.container.clone();
        blocking(move || container.cgroup.thaw()).await?.map_err(|e| refuse(e.into()))?;
        // ORDER: nothing is told of a container behind its exit.
        if !task.is_paused() {
            return Err(refused());
        }
        task.set_paused(false);
        let mut event = TaskResumed::new();
        event.container_id = task.id.clone();
        self.journal.publish(&event, SystemTime::now());
        Ok(Reply::Done)
    }
}
