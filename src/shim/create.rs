//! Create: from containerd's request to a task.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::CreateTaskRequest;

use super::ahead::Loaded;
use super::error;
use super::inflight::{Outcome, Reply};
use super::lasting;
use super::options::{self, Options};
use super::process::Process;
use super::proto::Any;
use super::proto::events::{TaskCreate, TaskIO};
use super::supervisor;
use super::task::Task;
use super::tasks::{Tasks, refuse};
use super::workers::blocking;
use crate::engine::rootfs::RootfsMount;
use crate::engine::{self, CreateRequest, Created};
use crate::sys::fault::fault;
use crate::{oci, stdio};

impl Tasks {
    /// Creates the container of `request`. A failure publishes nothing and leaves nothing.
    pub async fn create(self, request: CreateTaskRequest) -> Outcome {
        let id = request.id.clone();
        self.set_used();
        self.journal.expect();
        self.journal.room().await;
        if self.is_closed() {
            return Err(error::unavailable(format!("container {id}: this shim is ending, start another")));
        }
        // ORDER: with the look at `closed`: whoever closes the shim waits for, or aborts, what has begun.
        let begun = self.unfinished.begin(&id);
        if self.contains(&id) {
            return Err(error::already_exists(format!("container {id}")));
        }
        if !request.checkpoint.is_empty() {
            return Err(error::unimplemented("restore from a checkpoint is not implemented"));
        }
        let bundle = PathBuf::from(&request.bundle);
        check_bundle(&bundle)?;
        let loaded = self.ahead.load(&bundle).await.map_err(error::invalid_argument)?;
        let spec = &loaded.spec;
        loaded.warnings.iter().for_each(|warning| log::warn!("container {id}: {warning}"));
        let options =
            resolve(request.options.as_ref(), spec.annotations().as_ref().unwrap_or(&Default::default()))?;
        let streams = self.streams(&request, spec, &options);
        let (ends, io) = stdio::open(&streams).await.map_err(error::invalid_argument)?;
        let beside = make_beside(&loaded, self.all().is_empty());
        let create = engine_request(&request, loaded, ends, &options, begun.abort.clone());
        let (lasting, clone) = lasting::here();
        let create = blocking(move || engine::create(create, Box::new(lasting)));
        let (created, (), ()) = tokio::join!(create, beside, clone);
        let created = match created? {
            Ok(created) => created,
            Err(e) => {
                if let engine::Error::Stays { rest, .. } = &e {
                    self.unfinished.linger(&id, rest);
                }
                io.close(Duration::ZERO).await;
                // Killed on its way: "not found" would be taken to mean the container.
                let died = matches!(e, engine::Error::Gone(_));
                return Err(if died { error::unknown(e) } else { refuse(e) });
            }
        };
        let task = self.adopt_task(&request, bundle, created, streams, io, options).await?;
        Ok(Reply::Pid(task.init.pid()))
    }

    async fn adopt_task(
        &self,
        request: &CreateTaskRequest,
        bundle: PathBuf,
        mut created: Created,
        streams: stdio::Request,
        io: stdio::Io,
        options: Options,
    ) -> ttrpc::Result<Arc<Task>> {
        created.warnings.iter().for_each(|warning| log::warn!("container {}: {warning}", request.id));
        if let Some(master) = created.terminal.take()
            && let Err(e) = io.attach_terminal(master)
        {
            undo(created).await;
            return Err(error::internal(e));
        }
        let init = Arc::new(Process::new("", streams));
        init.attach(created.container.init.clone());
        init.set_io(io);
        let task = Arc::new(Task::new(bundle, created.container, init.clone(), options, created.oom));
        if task.container.joins_pid_namespace() {
            // Whose it is, is not asked: Kubernetes joins that of another container of the pod, which this shim has.
            self.all().iter().for_each(|other| other.container.expect_tracers());
        }
        self.insert(task.clone());
        self.inflight.drop_results(|(verb, id, _)| *id == task.id && *verb != "Create");
        self.journal.publish(&event(request, init.pid()), SystemTime::now());
        supervisor::watch(task.clone(), init, self.journal.clone());
        let _ = fault!("create: told");
        supervisor::watch_oom(&task, &self.journal);
        Ok(task)
    }

    fn streams(
        &self,
        request: &CreateTaskRequest,
        spec: &oci::spec::Spec,
        options: &Options,
    ) -> stdio::Request {
        let linux = spec.linux().as_ref();
        let user = spec.process().as_ref().map_or((0, 0), |p| (p.user().uid(), p.user().gid()));
        let uids = linux.and_then(|l| l.uid_mappings().as_deref()).unwrap_or_default();
        let gids = linux.and_then(|l| l.gid_mappings().as_deref()).unwrap_or_default();
        let owner = (engine::to_host(uids, user.0), engine::to_host(gids, user.1));
        stdio::Request {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            id: request.id.clone(),
            namespace: self.namespace.clone(),
            owner: owner_of(owner, options),
        }
    }
}

/// Takes a container away that nobody has been told of.
async fn undo(created: Created) {
    let deleted = blocking(move || created.container.delete()).await;
    if let Ok(Err(e)) = deleted {
        log::error!("taking a container away that could not be created: {e}");
    }
}

/// Options of one container: annotations, then the request's, then the host's.
fn resolve(request: Option<&Any>, annotations: &HashMap<String, String>) -> ttrpc::Result<Options> {
    let request: Vec<_> = request.into_iter().cloned().collect();
    let resolved = options::resolve(&request, annotations).map_err(error::invalid_argument)?;
    resolved.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(resolved.options)
}

/// Is `bundle` a place that Create can work in?
fn check_bundle(bundle: &Path) -> ttrpc::Result<()> {
    match bundle.is_absolute() {
        true => Ok(()),
        false => {
            Err(error::invalid_argument(format!("bundle {:?} is not an absolute path", bundle.display())))
        }
    }
}

/// The process's user, who is to open /dev/stdout anew, and the group that IoGid names.
///
/// COMPAT: IoUid is without effect: runc's init, too, gives the streams to its user in the end. Docker sets IoUid to the
/// mapped root, whoever the process runs as.
pub fn owner_of((uid, gid): (u32, u32), options: &Options) -> (u32, u32) {
    (uid, if options.io_gid != 0 { options.io_gid } else { gid })
}

fn engine_request(
    request: &CreateTaskRequest,
    Loaded { mut spec, filter, netns, .. }: Loaded,
    ends: stdio::ChildEnds,
    options: &Options,
    abort: Arc<engine::Abort>,
) -> CreateRequest {
    if let Some(process) = spec.process_mut() {
        // COMPAT: the request decides about the terminal; clients keep the spec in step, but not all.
        process.set_terminal(Some(request.terminal));
    }
    let mount = |m: &containerd_shim_protos::api::Mount| RootfsMount {
        kind: m.type_.clone(),
        source: m.source.clone(),
        target: m.target.clone(),
        options: m.options.clone(),
    };
    CreateRequest {
        id: request.id.clone(),
        bundle: PathBuf::from(&request.bundle),
        spec,
        rootfs: request.rootfs.iter().map(mount).collect(),
        stdio: [ends.stdin, ends.stdout, ends.stderr].map(|fd| fd.map(Arc::new)),
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        systemd_cgroup: options.systemd_cgroup,
        setup_within: options.setup_timeout,
        abort,
        filter,
        netns,
    }
}

/// What of `loaded` is made here while a worker makes cgroups and mounts. A third thread would be one too many for two
/// processors. Where the shim has other containers, a namespace that takes its time would keep them waiting.
fn make_beside(loaded: &Loaded, alone: bool) -> impl Future<Output = ()> + use<> {
    let filter = loaded.filter.clone().filter(|filter| filter.is_quick());
    let netns = loaded.netns.clone().filter(|_| alone);
    async move {
        filter.iter().for_each(|filter| drop(filter.compiled()));
        netns.iter().for_each(|netns| drop(netns.make()));
    }
}

fn event(request: &CreateTaskRequest, pid: u32) -> TaskCreate {
    let mut io = TaskIO::new();
    io.stdin = request.stdin.clone();
    io.stdout = request.stdout.clone();
    io.stderr = request.stderr.clone();
    io.terminal = request.terminal;
    let mut event = TaskCreate::new();
    event.container_id = request.id.clone();
    event.bundle = request.bundle.clone();
    event.rootfs = request.rootfs.clone();
    event.io = Some(io).into();
    event.checkpoint = request.checkpoint.clone();
    event.pid = pid;
    event
}
