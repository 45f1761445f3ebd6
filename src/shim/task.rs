//! A task: a container with its processes, as containerd sees it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::io::Interest;

use super::error;
use super::options::Options;
use super::process::{Process, Status};
use super::proto::events::TaskOOM;
use super::publisher::Journal;
use crate::engine::Container;
use crate::engine::cgroup::OomWatch;

/// One container of this shim.
pub struct Task {
    pub id: String,
    pub bundle: PathBuf,
    pub container: Arc<Container>,
    pub init: Arc<Process>,
    pub options: Options,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    /// Exec starts hold it shared, the end of init takes it alone: no exec can start behind init's back.
    pub life: tokio::sync::RwLock<()>,
    /// Pause and Resume take turns: what the cgroup is and what `paused` says is the same.
    pub freezing: tokio::sync::Mutex<()>,
    /// Updates take turns, or the cgroup ends up with some limits of one and some of another.
    pub updating: tokio::sync::Mutex<()>,
    ending: AtomicBool,
    doomed: AtomicBool,
    paused: AtomicBool,
    oom: tokio::sync::Mutex<Option<OomWatch>>,
}

/// An exec'd process and what it will be, until it is.
pub struct Exec {
    pub process: Arc<Process>,
    pub spec: Mutex<Option<oci_spec::runtime::Process>>,
}

impl Task {
    pub fn new(
        bundle: PathBuf,
        container: Container,
        init: Arc<Process>,
        options: Options,
        oom: Option<OomWatch>,
    ) -> Self {
        Self {
            id: container.id.clone(),
            bundle,
            container: Arc::new(container),
            init,
            options,
            execs: Mutex::default(),
            life: tokio::sync::RwLock::new(()),
            freezing: tokio::sync::Mutex::new(()),
            updating: tokio::sync::Mutex::new(()),
            ending: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            oom: tokio::sync::Mutex::new(oom),
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The process called `exec_id`; init for the empty name.
    pub fn process(&self, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        match exec_id {
            "" => Ok(self.init.clone()),
            _ => self.exec(exec_id).map(|exec| exec.process.clone()),
        }
    }

    pub fn exec(&self, exec_id: &str) -> ttrpc::Result<Arc<Exec>> {
        let found = self.execs().get(exec_id).cloned();
        found.ok_or_else(|| {
            error::not_found(format!("process {exec_id} does not exist in container {}", self.id))
        })
    }

    pub fn add_exec(&self, exec_id: &str, exec: Exec) -> ttrpc::Result<()> {
        match self.execs().entry(exec_id.into()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                Err(error::already_exists(format!("id {exec_id}")))
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Arc::new(exec));
                Ok(())
            }
        }
    }

    pub fn remove_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// All exec'd processes, whatever their state.
    pub fn exec_processes(&self) -> Vec<Arc<Process>> {
        self.execs().values().map(|exec| exec.process.clone()).collect()
    }

    /// Init has ended, though perhaps not everything about it is known yet.
    pub fn set_ending(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Init is to die: from now on nobody freezes the container, and who does so thaws it again.
    pub fn set_doomed(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst) && self.init.status() == Status::Running
    }

    /// What becomes ready on an out-of-memory kill, and how.
    pub async fn oom_file(&self) -> Option<(OwnedFd, Interest)> {
        let watch = self.oom.lock().await;
        let watch = watch.as_ref()?;
        let interest = if watch.is_priority() { Interest::PRIORITY } else { Interest::READABLE };
        Some((watch.as_fd().try_clone_to_owned().ok()?, interest))
    }

    /// Publishes TaskOOM if the container's own limit was hit since this was last asked. `unexplained`: init was ended by a
    /// SIGKILL that did not come by us.
    pub async fn tell_oom(&self, journal: &Journal, unexplained: bool) {
        let mut watch = self.oom.lock().await;
        if watch.as_mut().is_some_and(|watch| watch.take() || unexplained && watch.take_from_around()) {
            let mut event = TaskOOM::new();
            event.container_id = self.id.clone();
            journal.publish(&event, SystemTime::now());
        }
    }
}
