//! Create: from a bundle to an init process that waits at the gate.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, LinuxPersonalityDomain, Spec};

use super::abort::{Abort, Leftover};
use super::cgroup::{Cgroup, Dir, Host, OomWatch};
use super::child::{self, Born, Message};
use super::container::{Container, ForExec, Gate, Process};
use super::detached::Opener;
use super::error::{Doing, Error};
use super::plan::caps::Wanted;
use super::plan::init::{Inputs, Joined};
use super::plan::{CgroupView, Fd, Given, HostMounts, Plan, SecurityModules, Step, Sync, init, no_selinux};
use super::rootfs::{self, RootfsMount};
use super::state::{self, State};
use super::{hooks, idmap, net_device, passwd, resctrl, rootless, seccomp};
use crate::sys::fault::fault;
use crate::sys::{bpf, fs, kernel, process};

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
}

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
pub fn create(request: CreateRequest) -> Result<Created, Error> {
    let bundle = request.bundle.clone();
    let mut state = State::new(&request.id);
    attempt(request, &mut state).map_err(|error| match super::container::clear(&state) {
        Ok(()) => {
            State::remove(&bundle);
            error
        }
        // It is named in the state file as well, which `delete` reads.
        Err(why) => {
            let rest = Box::new(Leftover { state, bundle });
            Error::Stays { error: Box::new(error), why: Box::new(why), rest }
        }
    })
}

fn attempt(mut request: CreateRequest, state: &mut State) -> Result<Created, Error> {
    if let Some(process) = request.spec.process_mut() {
        rootless::restrict_oom_score(process);
    }
    let nothing = Linux::default();
    let linux = request.spec.linux().as_ref().unwrap_or(&nothing);
    let host = Host::get()?;
    let mut cgroup =
        Cgroup::locate(linux.cgroups_path().as_deref(), &request.id, host, request.systemd_cgroup)?;
    let rootfs = root_path(&request)?;
    cgroup.refuse_in_use()?;
    // ORDER: the state names mounts and cgroup before they exist.
    state.rootfs = Some(request.bundle.join("rootfs")).filter(|_| !request.rootfs.is_empty());
    let targets = request.rootfs.iter().map(|mount| mount.target.clone());
    state.rootfs_targets = targets.filter(|target| !target.is_empty()).collect();
    state.cgroup = Some(cgroup.clone());
    state.owns_cgroup = true;
    state.save(&request.bundle)?;
    fault!("create: state noted")?;
    rootfs::mount_all(&request.rootfs, &request.bundle.join("rootfs"))?;
    fault!("create: rootfs mounted")?;
    // Without any resources the device rules that every container has still hold.
    let resources = linux.resources().clone().unwrap_or_default();
    let annotations = request.spec.annotations().clone().unwrap_or_default();
    let devices = rootless::device_policy();
    // Somebody who came in between keeps what he has.
    let seat = match cgroup.occupy(&resources, &annotations, devices) {
        Err(e) if rootless::goes_without_cgroup(linux, &e) => {
            cgroup = Cgroup::none();
            None
        }
        seat => seat.inspect_err(|e| state.owns_cgroup = !e.is_in_use())?,
    };
    fault!("create: cgroups made")?;
    if let Some(rdt) = linux.intel_rdt() {
        // ORDER: noted after it is made, for a group that was there before is not ours to remove.
        let prepared = resctrl::prepare(rdt, &request.id, &mut state.resctrl);
        state.save(&request.bundle)?;
        prepared?;
    }
    let oom = cgroup.oom_watch().ok();
    let filter = linux.seccomp().as_ref().map(|profile| seccomp::compile(profile).map(Arc::new));
    let filter = filter.transpose().map_err(|e| Error::Spec(format!("linux.seccomp: {e}")))?;
    let given = given(&request, &rootfs, filter)?;
    let (mut inputs, for_exec) = inputs(&request, linux, &cgroup, rootfs, given)?;
    inputs.tasks.extend(state.resctrl.tasks()?.into_iter().map(Arc::new));
    cgroup.apply_early(&resources, devices)?;
    fault!("create: limits set")?;
    let plan = Plan { limit: Some(request.setup_within), ..init::build(&request.spec, &inputs)? };
    let born = child::spawn(&plan)?;
    request.abort.born(&born.pidfd);
    fault!("create: init cloned")?;
    drop(seat);
    state.pid = Some(born.pid);
    state.start_time = state::start_time(born.pid);
    state.save(&request.bundle)?;
    fault!("create: pid noted")?;
    net_devices(linux, &inputs.joined, &born)?;
    let terminal = set_up(&request, &plan, &born, &for_exec, linux).map_err(|e| explain_death(e, &cgroup))?;
    fault!("create: init ready")?;
    // ORDER: memory limits after set-up: what set-up takes must not decide how small a container can be.
    cgroup.apply_memory(&resources)?;
    alive(&born).map_err(|e| explain_death(e, &cgroup))?;
    state.created = true;
    state.save(&request.bundle)?;
    fault!("create: done")?;
    let warnings = warnings(&request.spec);
    let hooks = request.spec.hooks().clone();
    let poststart = hooks.as_ref().is_some_and(|hooks| hooks.poststart().is_some());
    let hooks_end = poststart.then(bpf::eventfd).transpose().doing(|| "making an eventfd".into())?;
    let container = Container {
        id: request.id,
        bundle: request.bundle,
        init: Process { pid: born.pid, pidfd: born.pidfd },
        gate: Mutex::new(Some(Gate::new(born.socket, born.progress, plan))),
        cgroup,
        hooks_end: hooks_end.map(Arc::new),
        hooks,
        annotations,
        for_exec,
        state: Mutex::new(state.clone()),
    };
    Ok(Created { container, terminal, oom, warnings })
}

/// `root.path`, relative to the bundle.
fn root_path(request: &CreateRequest) -> Result<PathBuf, Error> {
    let root = request.spec.root().as_ref();
    let root = root.ok_or_else(|| Error::Spec("root is missing: name the rootfs in root.path".into()))?;
    Ok(request.bundle.join(root.path()))
}

/// What the identity part of the plan needs from the host.
fn given(
    request: &CreateRequest,
    rootfs: &Path,
    filter: Option<Arc<seccomp::Filter>>,
) -> Result<Given, Error> {
    let spec = &request.spec;
    let uid = spec.process().as_ref().map_or(0, |p| p.user().uid());
    let personality = spec.linux().as_ref().and_then(|l| l.personality().as_ref()).map(|p| p.domain());
    Ok(Given {
        personality: personality.map(persona),
        memory_policy: spec.linux().as_ref().and_then(|l| l.memory_policy().clone()),
        proc: host_proc()?,
        filter,
        late_birth: false,
        setup_within: request.setup_within,
        gate: true,
        home: passwd::home(rootfs, uid),
        modules: SecurityModules {
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|yes| yes == b"Y\n"),
            selinux: Path::new("/sys/fs/selinux").exists(),
        },
    })
}

/// personality(2): `PER_LINUX` or `PER_LINUX32`.
fn persona(domain: LinuxPersonalityDomain) -> u64 {
    match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

/// The shim's procfs, recognised by its magic and its root's inode number (CVE-2019-16884).
pub fn host_proc() -> Result<Fd, Error> {
    const PROC_ROOT_INO: u64 = 1;
    let doing = || "opening /proc".to_string();
    let proc = fs::openat(fs::CWD, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0).doing(doing)?;
    let genuine = fs::fstatfs_magic(proc.as_fd()).doing(doing)? == fs::PROC_SUPER_MAGIC
        && fs::fstat(proc.as_fd()).doing(doing)?.st_ino == PROC_ROOT_INO;
    if !genuine {
        return Err(Error::doing(doing(), "it is not the root of a procfs; mount one there"));
    }
    Ok(Arc::new(proc))
}

fn inputs(
    request: &CreateRequest,
    linux: &Linux,
    cgroup: &Cgroup,
    rootfs: PathBuf,
    given: Given,
) -> Result<(Inputs, ForExec), Error> {
    let joined = open_namespaces(linux)?;
    let join = cgroup.join()?;
    let for_exec = ForExec::new(&request.spec, linux, &given, request.no_new_keyring.then_some(()), &joined);
    let mut host = HostMounts {
        bundle: request.bundle.clone(),
        cgroups: cgroup_views(cgroup, linux, &joined),
        detached: HashMap::new(),
        label: mount_label(linux, given.modules)?,
    };
    let mounts = request.spec.mounts().as_deref().unwrap_or_default();
    host.detached = Opener::new(linux, &joined).open(mounts, &host)?;
    let inputs = Inputs {
        id: request.id.clone(),
        rootfs,
        host,
        given,
        stdio: request.stdio.clone(),
        joined,
        tasks: join.tasks.into_iter().map(Arc::new).collect(),
        cgroup: join.into.map(Arc::new),
        no_pivot_root: request.no_pivot_root,
        no_new_keyring: request.no_new_keyring,
        rootless: rootless::is_rootless(),
        kcore: Path::new("/proc/kcore").exists(),
    };
    Ok((inputs, for_exec))
}

fn mount_label(linux: &Linux, modules: SecurityModules) -> Result<Option<String>, Error> {
    let label = linux.mount_label().clone().filter(|label| !label.is_empty());
    match label {
        Some(label) if !modules.selinux => Err(no_selinux("linux.mountLabel", &label)),
        label => Ok(label),
    }
}

fn open_namespaces(linux: &Linux) -> Result<Vec<Joined>, Error> {
    let all = linux.namespaces().iter().flatten();
    let by_path =
        all.filter_map(|ns| Some((ns.typ(), ns.path().as_ref().filter(|p| !p.as_os_str().is_empty())?)));
    by_path
        .map(|(kind, path)| {
            let name = super::plan::c_string(path.as_os_str().as_encoded_bytes())?;
            let what = || format!("opening the {} namespace {}", init::name(kind), path.display());
            let fd = fs::openat(fs::CWD, &name, libc::O_RDONLY, 0).doing(what)?;
            Ok(Joined { kind, path: path.clone(), fd: Arc::new(fd) })
        })
        .collect()
}

/// Gives the container its network devices, while its init waits or is busy with what needs none.
fn net_devices(linux: &Linux, joined: &[Joined], born: &Born) -> Result<(), Error> {
    let Some(devices) = linux.net_devices() else { return Ok(()) };
    if let Some(netns) = joined.iter().find(|ns| ns.kind == Kind::Network) {
        return net_device::move_all(devices, &netns.fd);
    }
    // A new namespace comes with the clone itself; the pid is our unreaped child's, so nobody else's.
    let path = format!("/proc/{}/ns/net", born.pid);
    let netns = std::fs::File::open(&path).doing(|| format!("opening {path}"))?;
    net_device::move_all(devices, &netns.into())
}

/// What a cgroup mount in the container shows: on v1 each hierarchy from the container's own cgroup down, on v2 what
/// its cgroup namespace sees.
fn cgroup_views(cgroup: &Cgroup, linux: &Linux, joined: &[Joined]) -> Vec<CgroupView> {
    let v1 = |dir: &Dir| CgroupView {
        name: dir.controllers.join(",").trim_start_matches("name=").into(),
        path: dir.dir.clone(),
        links: if dir.controllers.len() > 1 { dir.controllers.clone() } else { Vec::new() },
    };
    let ([], Some(unified)) = (cgroup.v1(), cgroup.unified()) else {
        return cgroup.v1().iter().map(v1).collect();
    };
    let has_own = linux.namespaces().iter().flatten().any(|ns| ns.typ() == Kind::Cgroup);
    let path = match joined.iter().any(|ns| ns.kind == Kind::Cgroup) {
        true => PathBuf::new(),
        false if has_own => unified.dir.clone(),
        // COMPAT: without a cgroup namespace runc shows the host's whole tree.
        false => unified.mount.clone(),
    };
    vec![CgroupView { path, ..CgroupView::default() }]
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
                idmap::write(born.pid, maps.0.unwrap_or_default(), maps.1.unwrap_or_default(), "linux")?;
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
            hooks::Place::Host,
            Some(&born.pidfd),
        )?;
    }
    let inside = for_exec.inside(&born.pidfd);
    hooks::run(
        "createContainer",
        hooks.create_container().as_deref().unwrap_or_default(),
        &state,
        hooks::Place::Inside(&inside),
        Some(&born.pidfd),
    )
}

/// A message that is not what was hoped for, in words.
pub fn failure(plan: &Plan, message: &Message) -> Error {
    if let Message::Late { step, limit } = message {
        let what = plan.steps.get(*step).map_or("set-up".into(), ToString::to_string);
        return Error::doing(what, format!("not done within {} s: the process was killed", limit.as_secs()));
    }
    let Message::Failed { step, call, errno, note } = message else {
        return Error::Gone("the process died during set-up".into());
    };
    match plan.steps.get(*step) {
        Some(Step::Lookup(program) | Step::Execve { program, .. }) if *errno != libc::ENOSYS => {
            Error::Program(program.refusal(call, *errno))
        }
        Some(step) => {
            let detail = match kernel::since(call).filter(|_| *errno == libc::ENOSYS) {
                Some(version) => format!("Linux {version} or newer is needed"),
                None if note.is_empty() => remedy(step, *errno),
                None => note.clone(),
            };
            Error::Step { step: step.to_string(), call: call.clone(), errno: *errno, detail }
        }
        None => Error::Gone(format!("the process failed in an unknown step {step}: {call}")),
    }
}

/// What to do about a failure whose cause is known.
fn remedy(step: &Step, errno: i32) -> String {
    let text = match (step, errno) {
        (Step::Mount(m), libc::ENOENT) if matches!(m.from, super::plan::Source::Bind { .. }) => {
            "the source does not exist on the host, or the target's parent in the container is a dangling link"
        }
        (Step::Mount(_), libc::ENOTDIR) => "are you trying to mount a directory onto a file (or vice-versa)?",
        (Step::Mount(_), libc::ELOOP) => "a symbolic link is in the way of the target",
        (Step::Root { .. }, libc::ENOENT | libc::ENOTDIR) => "root.path must be a directory",
        (Step::Cwd(_), libc::ENOENT) => "the working directory does not exist in the container",
        (Step::Rlimit { .. }, libc::EPERM) => "raising a hard limit needs CAP_SYS_RESOURCE",
        (Step::OomScoreAdj { .. }, libc::EACCES) => "lowering it needs CAP_SYS_RESOURCE",
        (Step::Sysctl { .. }, libc::ENOENT) => "this kernel has no such sysctl in the container's namespaces",
        (Step::ExecLabel { .. }, libc::ENOENT) => "the kernel does not know this profile; load it first",
        (Step::ExecLabel { .. }, libc::EINVAL) => "the policy does not know this label",
        (Step::MemoryPolicy { .. }, libc::EINVAL) => {
            "each node must be online and in the container's cpuset, and the kernel must know the mode"
        }
        (Step::MemoryPolicy { .. }, libc::ENOSYS) => "this kernel has no NUMA support",
        (Step::Scheduler(_), libc::EPERM) => {
            "it takes CAP_SYS_NICE, and on cgroup v1 real-time policies take linux.resources.cpu.realtimeRuntime"
        }
        (Step::Scheduler(_), libc::EINVAL) => {
            "the kernel does not know the policy, or its values do not fit it"
        }
        (Step::Scheduler(_), libc::EBUSY) => "the kernel has no bandwidth left for this deadline",
        (Step::Scheduler(_), libc::EOPNOTSUPP) => "this kernel has no utilisation clamps",
        (Step::Affinity(_), libc::EINVAL) => "no CPU of the list is online and in the container's cpuset",
        (Step::Seccomp(_), libc::EINVAL) => "the kernel does not know one of the flags",
        _ => "",
    };
    text.to_string()
}

/// KERNEL: v2 kills what does not fit below a new memory limit.
fn alive(born: &Born) -> Result<(), Error> {
    let ended = process::waitid(born.pidfd.as_fd(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    match ended.doing(|| "looking after the process".into())? {
        None => Ok(()),
        Some(_) => Err(Error::Gone("the process died during set-up".into())),
    }
}

/// A child that vanished without a word was killed, most often by its own memory limit.
pub(super) fn explain_death(error: Error, cgroup: &Cgroup) -> Error {
    match error {
        Error::Gone(text) => match cgroup.memory_verdict() {
            Some(verdict) => Error::Gone(format!("{text}: {verdict}")),
            None => Error::Gone(text),
        },
        other => other,
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
