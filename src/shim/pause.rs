//! Pause and Resume: the container's cgroup frozen and thawed, one after the other. Init may end, or be killed, while that is
//! being done: nothing is told behind its exit then, and nothing that is to die stays frozen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error;
use super::inflight::{Outcome, Reply};
use super::process::Status;
use super::proto::events::{TaskPaused, TaskResumed};
use super::task::Task;
use super::tasks::{Tasks, refuse};
use super::workers::blocking;
use crate::engine;
use crate::sys::fault::fault;

/// A cgroup that does not freeze within this is thawed again, and the process in its way named.
const FREEZE: Duration = Duration::from_secs(2);

impl Tasks {
    pub async fn pause(self, task: Arc<Task>) -> Outcome {
        let refused = || error::failed_precondition(format!("container {} is not running", task.id));
        let runs = || task.init.status() == Status::Running && !task.is_ending() && !task.is_doomed();
        let _turn = task.freezing.lock().await;
        if !runs() {
            return Err(refused());
        }
        let container = task.container.clone();
        let freeze = move || {
            container.cgroup.freeze(FREEZE)?;
            let _ = fault!("Pause: frozen");
            Ok(())
        };
        blocking(freeze).await?.map_err(|e: engine::cgroup::Error| refuse(e.into()))?;
        // ORDER: before the look at whether it is to die: whoever kills it later sees that it must be thawed.
        task.set_paused(true);
        if !runs() {
            task.set_paused(false);
            let container = task.container.clone();
            blocking(move || container.cgroup.thaw()).await?.map_err(|e| refuse(e.into()))?;
            return Err(refused());
        }
        let mut event = TaskPaused::new();
        event.container_id = task.id.clone();
        self.journal.publish(&event, SystemTime::now());
        Ok(Reply::Done)
    }

    pub async fn resume(self, task: Arc<Task>) -> Outcome {
        let refused = || error::failed_precondition(format!("container {} is not paused", task.id));
        let _turn = task.freezing.lock().await;
        if !task.is_paused() {
            return Err(refused());
        }
        let container = task.container.clone();
        blocking(move || container.cgroup.thaw()).await?.map_err(|e| refuse(e.into()))?;
        let _ = fault!("Resume: thawed");
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
