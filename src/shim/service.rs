//! The task service on the wire: requests in, replies out. What is done is in `tasks`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::*;
use containerd_shim_protos::shim_async::Task as TaskService;
use containerd_shim_protos::types::task::{ProcessInfo, Status as WireStatus};
use protobuf::Message;
use tokio::sync::Semaphore;
use ttrpc::asynchronous::TtrpcContext;

use super::error;
use super::inflight::{Key, Outcome, Reply};
use super::process::{Process, Status};
use super::proto::{Any, ProcessDetails};
use super::socket::Bound;
use super::stats;
use super::task::Task;
use super::tasks::Tasks;
use super::workers::blocking;
use crate::{oci, stdio};

/// Mutating calls worked on at the same time; more wait their turn. `Kill` is not counted.
const IN_FLIGHT: usize = 128;
/// Queries that read all of a cgroup, a thread each, at the same time.
const QUERIES: usize = 32;
/// How long Shutdown waits for a Create that is given up. containerd waits 3 s for Shutdown.
const UNDO: Duration = Duration::from_secs(2);
/// SIGRTMAX (signal(7)).
const MAX_SIGNAL: u32 = 64;

/// The service behind both names, `containerd.task.v2.Task` and `containerd.task.v3.Task`.
pub struct Service {
    tasks: Tasks,
    turns: Arc<Semaphore>,
    queries: Semaphore,
    socket: Arc<Bound>,
    /// Told when the shim has nothing left to do.
    done: tokio::sync::mpsc::UnboundedSender<()>,
}

type Answer<T> = ttrpc::Result<T>;

impl Service {
    pub fn new(tasks: Tasks, socket: Arc<Bound>, done: tokio::sync::mpsc::UnboundedSender<()>) -> Self {
        Self {
            tasks,
            turns: Arc::new(Semaphore::new(IN_FLIGHT)),
            queries: Semaphore::new(QUERIES),
            socket,
            done,
        }
    }

    /// Runs a mutating operation so that it outlives the call, one at a time per key.
    async fn mutate<F>(&self, key: Key, operation: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let turns = self.turns.clone();
        let bounded = || {
            let operation = operation();
            async move {
                let _turn = turns.acquire_owned().await;
                operation.await
            }
        };
        self.tasks.inflight.run(key, bounded).await
    }

    fn process(&self, id: &str, exec_id: &str) -> Answer<(Arc<Task>, Arc<Process>)> {
        let task = self.tasks.get(id)?;
        let process = task.process(exec_id)?;
        Ok((task, process))
    }

    /// The same, once a Create in flight is done. COMPAT: Go's shim makes such callers wait. nerdctl asks for the state when
    /// its input ends, be it before Create has answered, and closes the container's stdin only if it gets one.
    async fn process_made(&self, id: &str, exec_id: &str) -> Answer<(Arc<Task>, Arc<Process>)> {
        if !self.tasks.contains(id) {
            self.tasks.inflight.settled(&key("Create", id, "")).await;
        }
        self.process(id, exec_id)
    }

    /// A Delete of what is still being created: its client has given the Create up, and removes the bundle next.
    async fn give_up_create(&self, id: &str) {
        if !self.tasks.contains(id) && self.tasks.unfinished.abort(id, libc::SIGKILL) {
            let _ = tokio::time::timeout(UNDO, self.tasks.inflight.settled(&key("Create", id, ""))).await;
        }
    }
}

fn pid(reply: Reply) -> u32 {
    match reply {
        Reply::Pid(pid) => pid,
        _ => 0,
    }
}

fn key(verb: &'static str, id: &str, exec_id: &str) -> Key {
    (verb, id.into(), exec_id.into())
}

/// A message in an `Any`, under its bare name as containerd writes it.
fn any(message: &impl Message, name: &str) -> Answer<Any> {
    let value = message.write_to_bytes().map_err(error::internal)?;
    Ok(Any { type_url: name.into(), value, ..Any::default() })
}

#[async_trait]
impl TaskService for Service {
    async fn create(&self, _: &TtrpcContext, r: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        oci::validate::check_id("container", &r.id).map_err(error::invalid_argument)?;
        let (key, tasks) = (key("Create", &r.id, ""), self.tasks.clone());
        let reply = self.mutate(key, || tasks.create(r)).await?;
        Ok(CreateTaskResponse { pid: pid(reply), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, r: StartRequest) -> Answer<StartResponse> {
        let (key, tasks) = (key("Start", &r.id, &r.exec_id), self.tasks.clone());
        let task = tasks.get(&r.id)?;
        let reply = match r.exec_id.as_str() {
            "" => self.mutate(key, || tasks.start(task)).await?,
            exec_id => {
                let exec = task.exec(exec_id)?;
                self.mutate(key, || tasks.start_exec(task, exec)).await?
            }
        };
        Ok(StartResponse { pid: pid(reply), ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, r: DeleteRequest) -> Answer<DeleteResponse> {
        let (key, tasks) = (key("Delete", &r.id, &r.exec_id), self.tasks.clone());
        let reply = match self.tasks.inflight.has(&key) {
            // A retry takes what its first try came to, though the container is gone by now.
            true => self.mutate(key, || async { Err(error::not_found("deleted already")) }).await?,
            false => {
                if r.exec_id.is_empty() {
                    self.give_up_create(&r.id).await;
                }
                let (task, process) = self.process(&r.id, &r.exec_id)?;
                match process.is_init() {
                    true => self.mutate(key, || tasks.delete(task)).await?,
                    false => self.mutate(key, || tasks.delete_exec(task, process)).await?,
                }
            }
        };
        let mut response = DeleteResponse::new();
        if let Reply::Deleted { pid, exit } = reply {
            response.pid = pid;
            response.exit_status = exit.map_or(0, |exit| exit.status);
            response.exited_at = exit.map(|exit| exit.timestamp()).into();
        }
        Ok(response)
    }

    async fn exec(&self, _: &TtrpcContext, r: ExecProcessRequest) -> Answer<Empty> {
        oci::validate::check_id("exec", &r.exec_id).map_err(error::invalid_argument)?;
        let task = self.tasks.get(&r.id)?;
        let (spec, warnings) = oci::spec::parse_process(&r.spec.value).map_err(error::invalid_argument)?;
        oci::validate::check_process(&spec, "process").map_err(error::invalid_argument)?;
        warnings.iter().for_each(|warning| log::warn!("exec {} in {}: {warning}", r.exec_id, r.id));
        let owner = task.container.host_ids(spec.user().uid(), spec.user().gid());
        let streams = stdio::Request {
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
            terminal: r.terminal,
            id: r.id.clone(),
            namespace: self.tasks.namespace.clone(),
            owner: super::create::owner_of(owner, &task.options),
        };
        self.tasks.add_exec(&task, &r.exec_id, streams, spec).map(|()| Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, r: KillRequest) -> Answer<Empty> {
        if r.exec_id.is_empty()
            && !self.tasks.contains(&r.id)
            && self.tasks.unfinished.abort(&r.id, r.signal as i32)
        {
            return Ok(Empty::new());
        }
        let (task, process) = self.process(&r.id, &r.exec_id)?;
        // Signal 0 asks whether the process is there (kill(2)).
        if r.signal > MAX_SIGNAL {
            return Err(error::invalid_argument(format!(
                "signal {} does not exist: use 1 to {MAX_SIGNAL}",
                r.signal
            )));
        }
        let signal = r.signal as i32;
        let tasks = self.tasks.clone();
        // Detached as well: the signal is sent even if the caller has left.
        let killing = tokio::spawn(async move { tasks.kill(&task, &process, signal, r.all).await });
        killing.await.unwrap_or_else(|e| Err(error::internal(e))).map(|()| Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, r: PauseRequest) -> Answer<Empty> {
        let (task, tasks) = (self.tasks.get(&r.id)?, self.tasks.clone());
        self.mutate(key("Pause", &r.id, ""), || tasks.pause(task)).await.map(|_| Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, r: ResumeRequest) -> Answer<Empty> {
        let (task, tasks) = (self.tasks.get(&r.id)?, self.tasks.clone());
        self.mutate(key("Resume", &r.id, ""), || tasks.resume(task)).await.map(|_| Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, r: UpdateTaskRequest) -> Answer<Empty> {
        let (task, tasks) = (self.tasks.get(&r.id)?, self.tasks.clone());
        let (resources, warnings) =
            oci::spec::parse_resources(&r.resources.value).map_err(error::invalid_argument)?;
        warnings.iter().for_each(|warning| log::warn!("update of {}: {warning}", r.id));
        oci::validate::check_resources(&resources, "resources").map_err(error::invalid_argument)?;
        // Two updates with other values are two operations.
        let what = String::from_utf8_lossy(&r.resources.value).into_owned();
        self.mutate(("Update", r.id, what), || tasks.update(task, resources)).await.map(|_| Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, r: CheckpointTaskRequest) -> Answer<Empty> {
        self.tasks.get(&r.id)?;
        Err(error::unimplemented("checkpoint is not implemented by io.containerd.myshim.v1"))
    }

    async fn resize_pty(&self, _: &TtrpcContext, r: ResizePtyRequest) -> Answer<Empty> {
        let (_, process) = self.process_made(&r.id, &r.exec_id).await?;
        process.resize(r.width as u16, r.height as u16).map_err(error::failed_precondition)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, r: CloseIORequest) -> Answer<Empty> {
        let (_, process) = self.process_made(&r.id, &r.exec_id).await?;
        if r.stdin {
            process.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, r: StateRequest) -> Answer<StateResponse> {
        let (task, process) = self.process_made(&r.id, &r.exec_id).await?;
        let status = match process.status() {
            Status::Created => WireStatus::CREATED,
            Status::Running if task.is_paused() => WireStatus::PAUSED,
            Status::Running => WireStatus::RUNNING,
            Status::Stopped(_) => WireStatus::STOPPED,
        };
        let exit = process.exit();
        Ok(StateResponse {
            // COMPAT: Go's shim names the exec here, not its container.
            id: if process.is_init() { task.id.clone() } else { process.exec_id.clone() },
            bundle: task.bundle.display().to_string(),
            pid: process.pid(),
            status: status.into(),
            stdin: process.streams.stdin.clone(),
            stdout: process.streams.stdout.clone(),
            stderr: process.streams.stderr.clone(),
            terminal: process.streams.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| exit.timestamp()).into(),
            exec_id: process.exec_id.clone(),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, r: PidsRequest) -> Answer<PidsResponse> {
        let task = self.tasks.get(&r.id)?;
        let container = task.container.clone();
        let _turn = self.queries.acquire().await;
        let pids = blocking(move || container.pids()).await?.map_err(super::tasks::refuse)?;
        let execs = task.exec_processes();
        let info = |pid: i32| -> Answer<ProcessInfo> {
            let exec = execs.iter().find(|process| process.pid() == pid as u32);
            let details = exec.map(|process| {
                let details = ProcessDetails { exec_id: process.exec_id.clone(), ..Default::default() };
                any(&details, "containerd.runc.v1.ProcessDetails")
            });
            Ok(ProcessInfo { pid: pid as u32, info: details.transpose()?.into(), ..Default::default() })
        };
        let processes = pids.into_iter().map(info).collect::<Answer<_>>()?;
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, r: WaitRequest) -> Answer<WaitResponse> {
        let (_, process) = self.process_made(&r.id, &r.exec_id).await?;
        let exit = process.ended_or_removed().await.ok_or_else(|| {
            error::not_found(format!("process {} has been deleted, and never ran", process.exec_id))
        })?;
        let exited_at = Some(exit.timestamp()).into();
        Ok(WaitResponse { exit_status: exit.status, exited_at, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, r: StatsRequest) -> Answer<StatsResponse> {
        let container = self.tasks.get(&r.id)?.container.clone();
        let _turn = self.queries.acquire().await;
        let stats =
            blocking(move || container.cgroup.stats()).await?.map_err(|e| super::tasks::refuse(e.into()))?;
        let stats = stats::any(stats).map_err(error::internal)?;
        Ok(StatsResponse { stats: Some(stats).into(), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, r: ConnectRequest) -> Answer<ConnectResponse> {
        let task_pid = self.tasks.get(&r.id).map_or(0, |task| task.init.pid());
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, r: ShutdownRequest) -> Answer<Empty> {
        if self.tasks.close_if_empty(&r.id) {
            // ORDER: before the answer: a `start` of the same id follows at once, and must not find a shim that ends.
            self.socket.release();
            // Its own Create, if nobody waits for that any more. `delete` follows the answer: it shall find nothing at work.
            self.tasks.unfinished.abort_all();
            // The receiver is gone only when the shim is ending already.
            let _ = self.done.send(());
            let _ = tokio::time::timeout(UNDO, self.tasks.unfinished.none_begun()).await;
        }
        Ok(Empty::new())
    }
}

/// Bytes into the server, as any client of the socket could send them (tests/fuzz).
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz {
    use std::time::Duration;

    use containerd_shim_protos::shim_async::{Client, TaskClient, create_task};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use ttrpc::asynchronous::transport::{Listener, Socket};

    use super::*;
    use crate::shim::publisher::Journal;

    /// The connection may end, in bounded time; the next one is served as if nothing had been.
    pub fn frames(bytes: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let socket = folder.path().join("s");
            let listener = UnixListener::bind(&socket).expect("bind");
            let (done, _kept) = tokio::sync::mpsc::unbounded_channel();
            // Not the socket's own name: a Shutdown among the bytes would take it away.
            let bound = Arc::new(Bound::new(folder.path().join("other")));
            let tasks = Tasks::new("ns".into(), Journal::new("", "ns"));
            let service = Arc::new(Service::new(tasks, bound, done));
            let mut server = ttrpc::asynchronous::Server::new()
                .add_listener(Listener::from(listener))
                .register_service(create_task(service));
            server.start().await.expect("serve");
            let spoken = async {
                let mut stream = UnixStream::connect(&socket).await.expect("connect");
                // The server may hang up in the middle.
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                let sound = UnixStream::connect(&socket).await.expect("connect again");
                let client = TaskClient::new(Client::new(Socket::from(sound)));
                let request = ConnectRequest { id: "x".into(), ..Default::default() };
                let answer = client.connect(ttrpc::context::with_timeout(0), &request).await;
                assert_eq!(answer.expect("Connect").shim_pid, std::process::id());
            };
            let limit = tokio::time::timeout(Duration::from_secs(20), spoken).await;
            limit.expect("the server hangs");
            server.shutdown().await.expect("stop");
        });
    }
}
