//! Create: from a bundle to an init process that waits at the gate.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::{Linux, LinuxMemory, LinuxNamespaceType as Kind, LinuxResources, Spec};

use super::abort::{Abort, Leftover};
use super::cgroup::{self, Cgroup, DeviceRules, Host, OomWatch, Seat};
use super::child::{self, Born, Message};
use super::container::{Container, Process};
use super::error::{Doing, Error};
use super::failure::{MemoryLimit, explain_death, failure};
use super::for_exec::ForExec;
use super::gate::Gate;
use super::inputs::{given, inputs};
use super::plan::caps::Wanted;
use super::plan::init::Joined;
use super::plan::{Fd, Plan, Sync, init};
use super::rootfs::{self, RootfsMount};
use super::state::{self, State};
use super::{hooks, idmap, net_device, netns, resctrl, rootless, seccomp};
use crate::sys::fault::fault;
use crate::sys::{bpf, process};

/// What Create is asked for.
pub struct CreateRequest {
    pub id: String,
    pub bundle: PathBuf,
    pub spec: Spec,
    pub rootfs: Vec<RootfsMount>,
    /// Descriptors 0, 1, 2; `None` is /dev/null. Ignored for a terminal.
    pub stdio: [Option<Fd>; 3],
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    /// The systemd driver whatever the form of the cgroups path.
    pub systemd_cgroup: bool,
    /// A child that has not reported for so long is given up.
    pub setup_within: Duration,
    /// Ends this Create early.
    pub abort: Arc<Abort>,
    /// The filter of the spec's seccomp profile, which has been taken out of it.
    pub filter: Option<Arc<seccomp::InMaking>>,
    /// The network namespace of a container that gets a new one.
    pub netns: Option<Arc<netns::InMaking>>,
}

/// A process just cloned, the plan that it walks, and the state that names it.
pub struct Cloned {
    plan: Plan,
    born: Born,
    state: State,
    noted: Result<(), Error>,
}

/// Has the call made by a thread that outlives the process, see [`child::spawn`]; `None` without one.
pub type Lasting = Box<dyn FnOnce(Cloning) -> Option<Result<Cloned, Error>> + Send>;
type Cloning = Box<dyn FnOnce() -> Result<Cloned, Error> + Send>;

/// What Create gives.
pub struct Created {
    pub container: Container,
    /// The terminal's master, if the process has one.
    pub terminal: Option<OwnedFd>,
    /// Armed before the workload can run.
    pub oom: Option<OomWatch>,
    /// Things dropped or tolerated, for the log.
    pub warnings: Vec<String>,
}

/// Creates the container. Afterwards its init waits for `Container::start`.
///
/// # Errors
/// In words; nothing is left behind: no process, mount, cgroup or file, and the same id can be created again.
pub fn create(request: CreateRequest, lasting: Lasting) -> Result<Created, Error> {
    let bundle = request.bundle.clone();
    let mut state = State::new(&request.id);
    attempt(request, lasting, &mut state).map_err(|error| {
        let rest = Leftover { state, bundle };
        match rest.clear() {
            Ok(()) => error,
            // It is named in the state file as well, which `delete` reads.
            Err(why) => Error::Stays { error: Box::new(error), why: Box::new(why), rest: Box::new(rest) },
        }
    })
}

fn attempt(mut request: CreateRequest, lasting: Lasting, state: &mut State) -> Result<Created, Error> {
    if let Some(process) = request.spec.process_mut() {
        rootless::restrict_oom_score(process);
    }
    let nothing = Linux::default();
    let linux = request.spec.linux().as_ref().unwrap_or(&nothing);
    debug_assert!(linux.seccomp().is_none(), "a profile that nobody compiles");
    // Without any resources the device rules that every container has still hold.
    let resources = linux.resources().clone().unwrap_or_default();
    let rootfs = root_path(&request)?;
    let (cgroup, seat) = place(&request, linux, &resources, state)?;
    let oom = cgroup.oom_watch();
    let filter = request.filter.as_ref().map(|filter| filter.compiled()).transpose();
    let filter = filter.map_err(|e| Error::Spec(format!("linux.seccomp: {e}")))?;
    let given = given(&request, filter)?;
    let (mut inputs, for_exec) = inputs(&request, linux, &cgroup, rootfs, given)?;
    inputs.tasks.extend(state.resctrl.tasks()?.into_iter().map(Arc::new));
    cgroup.apply_early(&resources, rootless::device_policy())?;
    fault!("create: limits set")?;
    let mut plan = Plan { limit: Some(request.setup_within), ..init::build(&request.spec, &inputs)? };
    request.netns.iter().for_each(|netns| netns.serve(&mut plan));
    let (known, bundle) = (state.clone(), request.bundle.clone());
    let cloned = lasting(Box::new(move || clone_init(plan, known, &bundle)))
        .ok_or_else(|| Error::doing("creating the process", "this shim is ending"))??;
    let Cloned { plan, born, noted, .. } = cloned;
    request.abort.born(&born.pidfd);
    *state = cloned.state;
    noted?;
    net_devices(linux, &inputs.joined, &born)?;
    let ready = set_up(&request, &plan, &born, &for_exec, linux);
    let terminal = ready.map_err(|e| explain_death(e, &cgroup, None))?;
    // ORDER: by now init is in its cgroups, whether it was born there or entered them: the scope does not become empty.
    drop(seat);
    cgroup.vacated(&resources)?;
    // ORDER: after the clone. Who has joined a user namespace by path is born in the cgroup by right of its owner, the shim.
    cgroup::owner(&request.spec).map_or(Ok(()), |uid| cgroup.give_to(uid))?;
    fault!("create: init ready")?;
    let memory_limit = limit_memory(&cgroup, &resources, &plan, &born)?;
    fault!("create: done")?;
    let mut warnings = warnings(&request.spec);
    warnings.extend(cgroup.ignored(&resources));
    let oom = oom.map_err(|e| warnings.push(format!("out-of-memory kills will not be told: {e}"))).ok();
    let gate = Gate::new(born.report, plan, memory_limit);
    let init = Process { pid: born.pid, pidfd: born.pidfd };
    let container = container(request, init, gate, cgroup, for_exec, state.clone())?;
    Ok(Created { container, terminal, oom, warnings })
}

/// Clones init and notes who it is: here, for on two processors a worker woken meanwhile runs where the child would.
fn clone_init(plan: Plan, mut state: State, bundle: &Path) -> Result<Cloned, Error> {
    let born = child::spawn(&plan)?;
    state.pid = Some(born.pid);
    state.start_time = state::start_time(born.pid);
    state.poststop_due = true;
    let noted = note(&state, bundle);
    Ok(Cloned { plan, born, state, noted })
}

fn note(state: &State, bundle: &Path) -> Result<(), Error> {
    fault!("create: init cloned")?;
    state.save(bundle)?;
    Ok(fault!("create: pid noted")?)
}

/// Makes what a container lies in: its mounted rootfs, its cgroup and its resctrl group, each noted in the state first.
fn place(
    request: &CreateRequest,
    linux: &Linux,
    resources: &LinuxResources,
    state: &mut State,
) -> Result<(Cgroup, Option<Seat>), Error> {
    let host = Host::get()?;
    let path = linux.cgroups_path().as_deref();
    let mut cgroup = Cgroup::locate(path, &request.id, host, request.systemd_cgroup)?;
    cgroup.refuse_in_use()?;
    // ORDER: the state names mounts and cgroup before they exist.
    let rootfs = request.bundle.join("rootfs");
    state.rootfs = Some(rootfs.clone()).filter(|_| !request.rootfs.is_empty());
    let targets = request.rootfs.iter().map(|mount| mount.target.clone());
    state.rootfs_targets = targets.filter(|target| !target.is_empty()).collect();
    state.cgroup = Some(cgroup.clone());
    state.owns_cgroup = true;
    state.save(&request.bundle)?;
    fault!("create: state noted")?;
    rootfs::mount_all(&request.rootfs, &rootfs, request.setup_within, &request.abort)?;
    fault!("create: rootfs mounted")?;
    let annotations = request.spec.annotations().clone().unwrap_or_default();
    let seat = match cgroup.occupy(resources, &annotations, rootless::device_policy()) {
        Err(e) if rootless::goes_without_cgroup(linux, &e) => {
            cgroup = Cgroup::none();
            None
        }
        // Somebody who came in between keeps what he has.
        seat => seat.inspect_err(|e| state.owns_cgroup = !e.is_in_use())?,
    };
    fault!("create: cgroups made")?;
    if let Some(rdt) = linux.intel_rdt() {
        // ORDER: noted after it is made, for a group that was there before is not ours to remove.
        let prepared = resctrl::prepare(rdt, &request.id, &mut state.resctrl);
        state.save(&request.bundle)?;
        prepared?;
    }
    Ok((cgroup, seat))
}

/// Sets the memory limits, and tells of the one of `memory.limit`.
///
/// ORDER: after set-up: what set-up takes must not decide how small a container can be.
fn limit_memory(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    plan: &Plan,
    born: &Born,
) -> Result<Option<MemoryLimit>, Error> {
    let limit = resources.memory().as_ref().and_then(LinuxMemory::limit);
    // -1 is no limit, and 0 none that is given.
    let limit = limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes != 0);
    let limit = limit.map(|bytes| MemoryLimit { bytes, peak: cgroup.memory_peak_and_limit().0 });
    let limited = cgroup.apply_memory(resources);
    // KERNEL: v2 kills what does not fit below a new limit; systemd then takes the scope away, and its files are missing.
    alive(plan, born).map_err(|e| explain_death(e, cgroup, limit))?;
    limited?;
    Ok(limit)
}

/// What is left of the request is a container.
fn container(
    request: CreateRequest,
    init: Process,
    gate: Gate,
    cgroup: Cgroup,
    for_exec: ForExec,
    state: State,
) -> Result<Container, Error> {
    let hooks = request.spec.hooks().clone();
    let poststart = hooks.as_ref().is_some_and(|hooks| hooks.poststart().is_some());
    let hooks_end = poststart.then(bpf::eventfd).transpose().doing(|| "making an eventfd".into())?;
    let resources = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let devices = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    Ok(Container {
        id: request.id,
        bundle: request.bundle,
        init,
        gate: Mutex::new(Some(gate)),
        cgroup,
        door: Mutex::default(),
        hooks_end: hooks_end.map(Arc::new),
        hooks,
        annotations: request.spec.annotations().clone().unwrap_or_default(),
        for_exec,
        state: Mutex::new(state),
        device_rules: Mutex::new(DeviceRules::new(devices).ok()),
    })
}

/// `root.path`, relative to the bundle.
fn root_path(request: &CreateRequest) -> Result<PathBuf, Error> {
    let root = request.spec.root().as_ref();
    let root = root.ok_or_else(|| Error::Spec("root is missing: name the rootfs in root.path".into()))?;
    Ok(request.bundle.join(root.path()))
}

/// Gives the container its network devices, while its init waits or is busy with what needs none.
fn net_devices(linux: &Linux, joined: &[Joined], born: &Born) -> Result<(), Error> {
    let Some(devices) = linux.net_devices() else { return Ok(()) };
    if let Some(netns) = joined.iter().find(|ns| ns.kind == Kind::Network) {
        return net_device::move_all(devices, &netns.fd);
    }
    // A new one is init's own; the pid is our unreaped child's, so nobody else's.
    let path = format!("/proc/{}/ns/net", born.pid);
    let netns = std::fs::File::open(&path).doing(|| format!("opening {path}"))?;
    net_device::move_all(devices, &netns.into())
}

/// Answers the child until it is ready; the terminal's master comes with that.
fn set_up(
    request: &CreateRequest,
    plan: &Plan,
    born: &Born,
    for_exec: &ForExec,
    linux: &Linux,
) -> Result<Option<OwnedFd>, Error> {
    loop {
        match born.next()? {
            (Message::Reached(Sync::IdMap), _) => {
                let maps = (linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref());
                let maps = (maps.0.unwrap_or_default(), maps.1.unwrap_or_default());
                match idmap::write(born.pid, maps.0, maps.1, "linux") {
                    // It has not waited for that: it says why.
                    Err(_) if born.report.has_word() => continue,
                    written => written?,
                }
            }
            (Message::Reached(Sync::Hooks), _) => {
                run_hooks(request, born, for_exec)?;
                fault!("create: hooks ran")?;
            }
            (Message::Reached(Sync::Ready), terminal) => return Ok(terminal),
            (message, _) => return Err(failure(plan, &message)),
        }
        born.go()?;
    }
}

fn run_hooks(request: &CreateRequest, born: &Born, for_exec: &ForExec) -> Result<(), Error> {
    let Some(hooks) = request.spec.hooks() else { return Ok(()) };
    let annotations = request.spec.annotations().clone().unwrap_or_default();
    let document = hooks::Document {
        id: &request.id,
        status: "creating",
        pid: born.pid,
        bundle: &request.bundle,
        annotations: &annotations,
    };
    let state = document.json();
    let prestart = hooks.prestart();
    for (moment, list) in [("prestart", prestart), ("createRuntime", hooks.create_runtime())] {
        hooks::run(
            moment,
            list.as_deref().unwrap_or_default(),
            &state,
            hooks::Place::Host(&request.bundle),
            Some(&born.pidfd),
        )?;
    }
    let inside = for_exec.inside(&born.pidfd);
    hooks::run(
        "createContainer",
        hooks.create_container().as_deref().unwrap_or_default(),
        &state,
        hooks::Place::Inside(&inside, &root_path(request)?),
        Some(&born.pidfd),
    )
}

fn alive(plan: &Plan, born: &Born) -> Result<(), Error> {
    let ended = process::waitid(born.pidfd.as_fd(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    match ended.doing(|| "looking after the process".into())? {
        None => Ok(()),
        Some(_) => Err(failure(plan, &born.next()?.0)),
    }
}

fn warnings(spec: &Spec) -> Vec<String> {
    let wanted = Wanted::new(spec.process().as_ref().and_then(|p| p.capabilities().as_ref()));
    let have = crate::sys::cred::capget().map_or(u64::MAX, |sets| sets.permitted);
    let userns = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    if userns.is_some_and(|all| all.iter().any(|ns| ns.typ() == Kind::User)) {
        return Vec::new();
    }
    match wanted.beyond(have).as_slice() {
        [] => Vec::new(),
        lacking => {
            let names: Vec<_> =
                lacking.iter().map(|cap| crate::oci::capability::name(*cap).unwrap_or("?")).collect();
            vec![format!("this host lacks capabilities that the container asks for: {names:?}")]
        }
    }
}
