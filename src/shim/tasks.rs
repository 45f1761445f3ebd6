//! The tasks of this shim and what can be done to them. Knows nothing of ttrpc's wire; `service` translates.
//!
//! No lock is held across anything that blocks: mounts, cgroups, hooks and a child's questions are for threads of their
//! own, a child that asks nothing on its way to its program takes none at all (`rising`), and `kill` needs none of the locks
//! that the rest takes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::ahead::Ahead;
use super::error;
use super::inflight::{Inflight, Outcome, Reply};
use super::process::{Process, Status};
use super::proto::events::{TaskDelete, TaskExecAdded, TaskExecStarted, TaskStart};
use super::publisher::Journal;
use super::task::{Exec, Task};
use super::unfinished::Unfinished;
use super::workers::blocking;
use super::{rising, stop, stubborn, supervisor};
use crate::engine::{self, Container, ExecRequest, Executed};
use crate::stdio;
use crate::sys::fault::fault;

/// Delete of an exec waits this long for a client that has not read its output yet.
const SLOW_READER: Duration = Duration::from_secs(8);
/// What asks a process to end.
const TERMINATES: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
/// A stranger that holds a dead process's streams is waited for this long at Delete.
const CLOSE_GRACE: Duration = Duration::from_millis(250);

/// How long Kill and Delete of an exec'd process wait for its Start to be done: many times what that takes.
const STARTING: Duration = Duration::from_millis(250);

/// All tasks of the shim.
#[derive(Clone)]
pub struct Tasks {
    pub namespace: String,
    pub journal: Journal,
    pub inflight: Inflight,
    pub unfinished: Unfinished,
    pub ahead: Ahead,
    tasks: Arc<Mutex<HashMap<String, Arc<Task>>>>,
    /// Told of every Create.
    used: Arc<Notify>,
    /// The shim is ending: no Create any more.
    closed: Arc<AtomicBool>,
}

/// The status of an engine failure.
pub fn refuse(e: engine::Error) -> ttrpc::Error {
    match e {
        engine::Error::Stays { ref error, .. } if matches!(**error, engine::Error::Spec(_)) => {
            error::invalid_argument(e)
        }
        engine::Error::Spec(_) => error::invalid_argument(e),
        engine::Error::Gone(_) => error::not_found(e),
        _ => error::unknown(e),
    }
}

impl Tasks {
    pub fn new(namespace: String, journal: Journal) -> Self {
        Self {
            namespace,
            journal,
            inflight: Inflight::default(),
            unfinished: Unfinished::default(),
            ahead: Ahead::default(),
            tasks: Arc::default(),
            used: Arc::default(),
            closed: Arc::default(),
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Task>>> {
        self.tasks.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn get(&self, id: &str) -> ttrpc::Result<Arc<Task>> {
        self.map()
            .get(id)
            .cloned()
            .ok_or_else(|| error::not_found(format!("container {id} does not exist in this shim")))
    }

    pub fn all(&self) -> Vec<Arc<Task>> {
        self.map().values().cloned().collect()
    }

    /// Tells the log what there is.
    pub fn tell(&self) {
        let tasks = self.all();
        log::info!(
            "{} containers, {} calls",
            tasks.len(),
            if self.inflight.is_idle() { "no" } else { "some" }
        );
        for task in tasks {
            let (init, execs) = (&task.init, task.exec_processes().len());
            log::info!("container {}: {:?}, pid {}, {execs} execs", task.id, init.status(), init.pid());
        }
    }

    /// A Create has come: the shim is wanted.
    pub fn set_used(&self) {
        self.used.notify_one();
    }

    /// Until the first Create, whether it succeeds or not.
    pub async fn used(&self) {
        self.used.notified().await;
    }

    /// Refuses every Create from now on, if there is no task and nobody makes one; `id` is whose Create does not count.
    pub fn close_if_empty(&self, id: &str) -> bool {
        let idle = self.map().is_empty() && !self.inflight.any(|key| key.0 == "Create" && key.1 != id);
        if idle {
            self.close();
        }
        idle
    }

    /// Refuses every Create from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn insert(&self, task: Arc<Task>) {
        self.map().insert(task.id.clone(), task);
    }

    pub fn contains(&self, id: &str) -> bool {
        self.map().contains_key(id)
    }

    /// Start of init.
    pub async fn start(self, task: Arc<Task>) -> Outcome {
        self.start_init(&task).await?;
        // ORDER: after the start is told, without its lock: a hook holds back neither init's exit nor who waits for it.
        if task.container.has_poststart() {
            let container = task.container.clone();
            blocking(move || container.poststart()).await?.map_err(refuse)?;
        }
        Ok(Reply::Pid(task.init.pid()))
    }

    async fn start_init(&self, task: &Task) -> ttrpc::Result<()> {
        let _order = task.init.order.lock().await;
        match task.init.status() {
            Status::Created if !task.is_ending() => {}
            Status::Running => {
                return Err(error::failed_precondition(format!("container {} is running already", task.id)));
            }
            _ => return Err(error::failed_precondition(has_stopped(task))),
        }
        start_container(task.container.clone()).await?.map_err(|e| match e {
            // "Not found" would be taken to mean the container.
            engine::Error::Gone(_) => error::unknown(e),
            _ => refuse(e),
        })?;
        task.init.set_running();
        let mut event = TaskStart::new();
        event.container_id = task.id.clone();
        event.pid = task.init.pid();
        self.journal.publish(&event, SystemTime::now());
        let _ = fault!("Start: told");
        Ok(())
    }

    /// Exec: takes the process down; its start makes it.
    pub fn add_exec(
        &self,
        task: &Arc<Task>,
        exec_id: &str,
        streams: stdio::Request,
        mut spec: oci_spec::runtime::Process,
    ) -> ttrpc::Result<()> {
        if task.is_ending() {
            return Err(error::failed_precondition(format!(
                "container {} init process is not running",
                task.id
            )));
        }
        spec.set_terminal(Some(streams.terminal));
        let process = Arc::new(Process::new(exec_id, streams));
        task.add_exec(exec_id, Exec { process, spec: Mutex::new(Some(spec)) })?;
        self.inflight.drop_results(|(_, id, exec)| *id == task.id && exec == exec_id);
        let mut event = TaskExecAdded::new();
        event.container_id = task.id.clone();
        event.exec_id = exec_id.into();
        self.journal.publish(&event, SystemTime::now());
        let _ = fault!("Exec: added");
        Ok(())
    }

    /// Start of an exec'd process.
    pub async fn start_exec(self, task: Arc<Task>, exec: Arc<Exec>) -> Outcome {
        self.journal.room().await;
        let not_running =
            || error::failed_precondition(format!("container {} init process is not running", task.id));
        let _alive = task.life.try_read().map_err(|_| not_running())?;
        // COMPAT: into a container that waits for its start, too, as runc does.
        if task.is_ending() || matches!(task.init.status(), Status::Stopped(_)) {
            return Err(not_running());
        }
        if task.is_paused() {
            return Err(error::failed_precondition(format!(
                "container {} is paused: resume it first",
                task.id
            )));
        }
        let process = exec.process.clone();
        let _order = process.order.lock().await;
        if process.status() != Status::Created {
            return Err(error::failed_precondition(format!(
                "process {} has been started already",
                process.exec_id
            )));
        }
        // Deleted since the call came: nobody would know the process.
        if !task.exec(&process.exec_id).is_ok_and(|known| Arc::ptr_eq(&known, &exec)) {
            return Err(error::not_found(format!("process {} has been deleted", process.exec_id)));
        }
        let spec = exec.spec.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let spec = spec.ok_or_else(|| error::internal("the exec's process is lost"))?;
        let (ends, io) = stdio::open(&process.streams).await.map_err(error::invalid_argument)?;
        process.set_io(io);
        let _ = fault!("Exec: streams open");
        let request = ExecRequest { process: spec, stdio: [ends.stdin, ends.stdout, ends.stderr] };
        let container = task.container.clone();
        let executed = match run_exec(container, request).await? {
            // It hung for so long that init's exit is told already, and that is the container's last. The reaper takes it.
            Ok(late) if task.init.exit().is_some() => {
                let _ = late.process.signal(libc::SIGKILL);
                close(&process, Duration::ZERO).await;
                return Err(not_running());
            }
            Ok(executed) => executed,
            Err(e) => {
                close(&process, Duration::ZERO).await;
                return Err(if matches!(e, engine::Error::Gone(_)) { not_running() } else { refuse(e) });
            }
        };
        if let Err(e) = adopt(&process, &executed.process, executed.terminal) {
            let _ = executed.process.signal(libc::SIGKILL);
            close(&process, Duration::ZERO).await;
            return Err(e);
        }
        let _ = fault!("Exec: runs");
        *exec.spec.lock().unwrap_or_else(|e| e.into_inner()) = None;
        let mut event = TaskExecStarted::new();
        event.container_id = task.id.clone();
        event.exec_id = process.exec_id.clone();
        event.pid = process.pid();
        self.journal.publish(&event, SystemTime::now());
        supervisor::watch(task.clone(), process.clone(), self.journal.clone());
        let _ = fault!("Exec: told");
        Ok(Reply::Pid(process.pid()))
    }

    /// Kill of one process, or of all. Takes no lock that anything slow holds.
    pub async fn kill(
        &self,
        task: &Arc<Task>,
        process: &Process,
        signal: i32,
        all: bool,
    ) -> ttrpc::Result<()> {
        let signal = effective(process, signal);
        let sent = self.send(task, process, signal, all).await;
        if signal == libc::SIGKILL && process.is_init() {
            // ORDER: behind the signal: a hook that ends first fails Start, and Start's own SIGKILL would be quicker.
            task.container.end_hooks();
        }
        sent
    }

    async fn send(&self, task: &Arc<Task>, process: &Process, signal: i32, all: bool) -> ttrpc::Result<()> {
        let deadly = signal == libc::SIGKILL && process.is_init();
        if deadly {
            task.set_doomed();
        }
        if all && process.is_init() {
            let container = task.container.clone();
            blocking(move || container.signal_all(signal)).await?.map_err(refuse)?;
            Self::insist(task, process, signal);
            return Ok(());
        }
        if !process.is_init() && process.status() == Status::Created {
            // COMPAT: as under runc, who kills a process that is being started means the one that it becomes.
            let _ = timeout(STARTING, process.order.lock()).await;
        }
        let kernel = match (process.status(), process.kernel()) {
            (Status::Stopped(_), _) => return Err(error::not_found("process already finished")),
            (_, None) => {
                return Err(error::failed_precondition(format!(
                    "process {} has not been started",
                    process.exec_id
                )));
            }
            (_, Some(kernel)) => kernel,
        };
        if kernel.peek().is_some() {
            return Err(error::not_found("process already finished"));
        }
        fault!("Kill: before the signal")?;
        kernel.signal(signal).map_err(refuse)?;
        let _ = fault!("Kill: after the signal");
        if deadly && task.is_paused() {
            // A frozen process dies only once thawed (cgroup v1 freezer).
            let container = task.container.clone();
            blocking(move || container.cgroup.thaw()).await?.map_err(|e| refuse(e.into()))?;
        }
        if signal == libc::SIGKILL {
            stubborn::follow(task, kernel);
        }
        Self::insist(task, process, signal);
        Ok(())
    }

    /// Opt-in: a stop signal is followed by SIGKILL.
    fn insist(task: &Arc<Task>, process: &Process, signal: i32) {
        if task.options.escalate_kill && process.is_init() && signal == task.options.stop_signal {
            stop::escalate(task.clone());
        }
    }

    pub async fn update(self, task: Arc<Task>, resources: oci_spec::runtime::LinuxResources) -> Outcome {
        let _turn = task.updating.lock().await;
        let container = task.container.clone();
        if let Some(ignored) = container.cgroup.ignored(&resources) {
            log::warn!("container {}: {ignored}", task.id);
        }
        blocking(move || container.update(resources)).await?.map_err(refuse)?;
        Ok(Reply::Done)
    }

    /// Delete of a container: everything it had goes.
    pub async fn delete(self, task: Arc<Task>) -> Outcome {
        if task.init.status() == Status::Running {
            return Err(error::failed_precondition(format!(
                "container {} is running: kill it first",
                task.id
            )));
        }
        if task.init.status() == Status::Created
            && let Some(kernel) = task.init.kernel()
        {
            task.set_doomed();
            // Gone already is as good as killed.
            let _ = kernel.signal(libc::SIGKILL);
        }
        let exit = task.init.ended().await;
        task.container.end_hooks();
        fault!("Delete: begun")?;
        for exec in task.exec_processes() {
            close(&exec, CLOSE_GRACE).await;
        }
        close(&task.init, CLOSE_GRACE).await;
        let container = task.container.clone();
        let hooks = blocking(move || container.delete()).await?.map_err(refuse)?;
        hooks.iter().for_each(|e| log::warn!("container {}: {e}", task.id));
        self.map().remove(&task.id);
        task.exec_processes().iter().for_each(|exec| exec.set_removed());
        self.inflight
            .drop_results(|(verb, id, exec)| *id == task.id && (*verb != "Delete" || !exec.is_empty()));
        let mut event = TaskDelete::new();
        event.container_id = task.id.clone();
        event.pid = task.init.pid();
        event.exit_status = exit.status;
        event.exited_at = Some(exit.timestamp()).into();
        self.journal.publish(&event, SystemTime::now());
        let _ = fault!("Delete: told");
        Ok(Reply::Deleted { pid: task.init.pid(), exit: Some(exit) })
    }

    /// Delete of an exec'd process. One never started answers status 0.
    pub async fn delete_exec(self, task: Arc<Task>, process: Arc<Process>) -> Outcome {
        // COMPAT: as under the Go shim of containerd 2.2; `nerdctl exec` reads on only while it waits for this answer.
        let ended = matches!(process.status(), Status::Stopped(_));
        if let Some(io) = process.io().filter(|io| ended && io.is_stuck()) {
            io.drained(SLOW_READER).await;
        }
        let Ok(_order) = timeout(STARTING, process.order.lock()).await else {
            return Err(error::failed_precondition(format!("process {} is being started", process.exec_id)));
        };
        if process.status() == Status::Running {
            return Err(error::failed_precondition(format!(
                "process {} is running: kill it first",
                process.exec_id
            )));
        }
        close(&process, CLOSE_GRACE).await;
        task.remove_exec(&process.exec_id);
        process.set_removed();
        let (of, exec) = (&task.id, &process.exec_id);
        self.inflight.drop_results(|(verb, id, exec_id)| *verb == "Start" && id == of && exec_id == exec);
        let _ = fault!("Delete: exec gone");
        Ok(Reply::Deleted { pid: process.pid(), exit: process.exit() })
    }
}

/// What Start is told of a container whose init has ended before it.
fn has_stopped(task: &Task) -> String {
    let stopped = format!("container {} has stopped: process already finished", task.id);
    // Reaped it is only when its exit is told.
    let peeked = || task.init.kernel()?.peek().map(|exit| exit.status);
    let status = task.init.exit().map(|exit| exit.status).or_else(peeked);
    let unexplained = status == Some(128 + libc::SIGKILL as u32) && !task.is_doomed();
    match unexplained.then(|| task.container.out_of_memory_before_start()).flatten() {
        Some(verdict) => format!("{stopped}: {verdict}"),
        None => stopped,
    }
}

async fn start_container(container: Arc<Container>) -> ttrpc::Result<Result<(), engine::Error>> {
    let gate = match container.has_start_hooks() {
        false => container.start(),
        true => {
            let container = container.clone();
            blocking(move || container.start()).await?
        }
    };
    match gate {
        Ok(gate) => rising::until_executed(gate, move |gate| container.started(&gate)).await,
        Err(e) => Ok(Err(e)),
    }
}

async fn run_exec(
    container: Arc<Container>,
    request: ExecRequest,
) -> ttrpc::Result<Result<Executed, engine::Error>> {
    // ORDER: here, on the thread that lasts, and one after the other: nobody who may trace is born
    // between another's plan and its clone.
    match container.exec(request) {
        Ok(process) => rising::until_executed(process, move |process| container.executed(process)).await,
        Err(e) => Ok(Err(e)),
    }
}

/// COMPAT: as under runc. An init that waits for its Start handles nothing, and as PID 1 of a pid namespace it does not even see
/// what would end others (pid_namespaces(7)).
fn effective(process: &Process, signal: i32) -> i32 {
    let waits = process.is_init()
        && process.status() == Status::Created
        && process.kernel().is_some_and(|kernel| !kernel.has_executed());
    if waits && TERMINATES.contains(&signal) { libc::SIGKILL } else { signal }
}

/// Takes over a process that runs already.
///
/// # Errors
/// When its terminal cannot be watched; nobody knows the process then.
fn adopt(process: &Process, kernel: &engine::Process, terminal: Option<OwnedFd>) -> ttrpc::Result<()> {
    if let (Some(master), Some(io)) = (terminal, process.io()) {
        io.attach_terminal(master).map_err(error::internal)?;
    }
    process.attach(kernel.clone());
    process.set_running();
    Ok(())
}

async fn close(process: &Process, grace: Duration) {
    if let Some(io) = process.take_io() {
        io.close(grace).await;
    }
}
