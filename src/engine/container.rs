//! A container: its init, its cgroup, and what its life needs after Create. The spec itself is not kept.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::{self as spec, Hooks, Linux, LinuxNamespaceType as Kind, Spec};

use super::cgroup::Cgroup;
use super::child::{self, Message, Progress};
use super::error::{Doing, Error};
use super::hooks::{self, Document, Inside, Place};
use super::plan::caps::{CAP_SYS_PTRACE, Wanted};
use super::plan::init::Joined;
use super::plan::{Fd, Given, Plan, SecurityModules, Step, Sync};
use super::seccomp::agent;
use super::state::{Exit, State};
use super::{create, rootfs};
use crate::sys::fault::fault;
use crate::sys::process;

/// Removing cgroups waits this long for the last process to leave.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);
/// Everybody in a cgroup is dead within this, or is named in the error.
pub const KILL_WITHIN: Duration = Duration::from_secs(2);

/// A process of a container, named by pidfd.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Sends `signal`.
    ///
    /// # Errors
    /// `Gone` when the process has been reaped.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        process::pidfd_send_signal(self.pidfd.as_fd(), signal).map_err(|e| match e.errno {
            libc::ESRCH => Error::Gone("process already finished".into()),
            _ => Error::doing(format!("sending signal {signal} to process {}", self.pid), e),
        })
    }

    /// Has it ended? Leaves it to be reaped, so that its pid stays taken.
    pub fn peek(&self) -> Option<process::Exit> {
        process::waitid(self.pidfd.as_fd(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT).ok().flatten()
    }

    /// Its name and state (proc_pid_stat(5)).
    pub fn describe(&self) -> String {
        super::cgroup::describe(self.pid).to_string()
    }

    /// Has it ended, whether it has been reaped or not?
    pub fn has_ended(&self) -> bool {
        process::poll_in(self.pidfd.as_fd(), 0).unwrap_or(false)
    }

    /// Reaps it if it has ended.
    pub fn reap(&self) -> Option<process::Exit> {
        process::waitid(self.pidfd.as_fd(), libc::WEXITED | libc::WNOHANG).ok().flatten()
    }
}

/// A container from Create to Delete.
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub init: Process,
    pub cgroup: Cgroup,
    pub(super) gate: Mutex<Option<Gate>>,
    pub(super) hooks: Option<Hooks>,
    /// Readable once poststart hooks are to end; an eventfd(2), if there are any.
    pub(super) hooks_end: Option<Fd>,
    pub(super) annotations: HashMap<String, String>,
    pub(super) for_exec: ForExec,
    pub(super) state: Mutex<State>,
}

/// The report socket of an init that waits for Start, and the rest of its plan for error messages.
pub(super) struct Gate {
    socket: OwnedFd,
    progress: Progress,
    plan: Plan,
    /// How many steps are done and forgotten.
    done: usize,
}

impl Gate {
    /// Keeps what is still to be done. The rest goes, and with it our copies of the process's descriptors: a stream
    /// ends when the process's own ends are closed.
    pub(super) fn new(socket: OwnedFd, progress: Progress, mut plan: Plan) -> Self {
        let ready = |step: &Step| matches!(step, Step::Sync(Sync::Ready));
        let done = plan.steps.iter().position(ready).unwrap_or(0);
        let steps = plan.steps.split_off(done);
        Self { socket, progress, plan: Plan { steps, ..Plan::default() }, done }
    }

    /// Lets init go and waits until its program runs; `listens` gives a seccomp listener to its agent.
    fn open(self, listens: impl Fn(i32) -> Result<(), Error>) -> Result<(), Error> {
        let go = || child::go(self.socket.as_fd()).doing(|| "telling init to start".into());
        go()?;
        loop {
            let received = child::receive(self.socket.as_fd(), self.progress);
            let message = match received.doing(|| "reading init's report".into())?.0 {
                Message::Closed => return Ok(()),
                Message::Listener(number) => {
                    listens(number)?;
                    go()?;
                    continue;
                }
                Message::Failed { step, call, errno, note } => {
                    Message::Failed { step: step.saturating_sub(self.done), call, errno, note }
                }
                Message::Late { step, limit } => {
                    Message::Late { step: step.saturating_sub(self.done), limit }
                }
                message => message,
            };
            return Err(create::failure(&self.plan, &message));
        }
    }
}

/// What exec'd processes share with init.
pub(super) struct ForExec {
    pub kinds: i32,
    pub pidns: bool,
    pub proc: Fd,
    pub filter: Option<Arc<super::seccomp::Filter>>,
    pub modules: SecurityModules,
    pub keyring: bool,
    pub personality: Option<u64>,
    pub memory_policy: Option<spec::LinuxMemoryPolicy>,
    pub setup_within: Duration,
    /// Init's process without its arguments and environment: defaults for what an exec leaves out.
    pub process: spec::Process,
    /// Somebody in the container's pid namespace may trace processes that are not its own.
    pub tracers: AtomicBool,
    pub uid_map: Vec<spec::LinuxIdMapping>,
    pub gid_map: Vec<spec::LinuxIdMapping>,
}

impl ForExec {
    pub(super) fn new(
        spec: &Spec,
        linux: &Linux,
        given: &Given,
        no_keyring: Option<()>,
        joined: &[Joined],
    ) -> Self {
        let all: Vec<Kind> = linux.namespaces().iter().flatten().map(|ns| ns.typ()).collect();
        let ours = |kind: &&Kind| joined.iter().find(|ns| ns.kind == **kind).is_none_or(|ns| !is_own(ns));
        let kinds = all.iter().filter(|kind| **kind != Kind::Pid).filter(ours).map(|kind| *kind as i32).sum();
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(None).set_env(None);
        let shared = joined.iter().any(|ns| ns.kind == Kind::Pid);
        // KERNEL: in a user namespace the capability does not reach a process whose memory is the shim's (ptrace(2)).
        let tracers = shared || may_trace(&process) && !all.contains(&Kind::User);
        Self {
            kinds,
            pidns: all.contains(&Kind::Pid),
            proc: given.proc.clone(),
            filter: given.filter.clone(),
            modules: given.modules,
            keyring: no_keyring.is_none(),
            personality: given.personality,
            memory_policy: given.memory_policy.clone(),
            setup_within: given.setup_within,
            process,
            tracers: tracers.into(),
            uid_map: linux.uid_mappings().clone().unwrap_or_default(),
            gid_map: linux.gid_mappings().clone().unwrap_or_default(),
        }
    }

    /// A process with these capabilities joins the container.
    pub(super) fn note_capabilities(&self, process: &spec::Process) {
        if may_trace(process) && self.kinds & libc::CLONE_NEWUSER == 0 {
            self.tracers.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn inside(&self, init: &Fd) -> Inside {
        Inside { init: init.clone(), kinds: self.kinds, pidns: self.pidns }
    }
}

/// May the process, or what it executes, trace others?
fn may_trace(process: &spec::Process) -> bool {
    let wanted = Wanted::new(process.capabilities().as_ref());
    (wanted.bounding | wanted.sets.permitted | wanted.sets.inheritable) & CAP_SYS_PTRACE != 0
}

/// Is the joined namespace the shim's own? setns(2) to one's own user namespace is an error, to others pointless.
fn is_own(ns: &Joined) -> bool {
    let file = match ns.kind {
        Kind::Mount => "mnt",
        Kind::Network => "net",
        other => super::plan::init::name(other),
    };
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata(format!("/proc/self/ns/{file}"));
    let theirs = crate::sys::fs::fstat(ns.fd.as_fd());
    matches!((own, theirs), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.st_dev, b.st_ino))
}

/// Did the process, dead and not yet reaped, come to execute its program? `PF_FORKNOEXEC` of proc_pid_stat(5) tells.
fn executed(pid: i32) -> bool {
    const PF_FORKNOEXEC: u64 = 0x40;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_FORKNOEXEC == 0)
}

impl Container {
    /// Start: startContainer hooks and the gate. [`poststart`](Self::poststart) belongs behind it.
    ///
    /// # Errors
    /// When a hook fails or the program cannot be executed; init is dead or dying then.
    pub fn start(&self) -> Result<(), Error> {
        let gate = self.gate.lock().unwrap_or_else(|e| e.into_inner()).take();
        let gate = gate.ok_or_else(|| Error::Gone("the container has been started already".into()))?;
        let init = Some(&self.init.pidfd);
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.start_container().as_deref());
        let hooks = hooks.unwrap_or_default();
        hooks::run("startContainer", hooks, &self.document("created"), Place::Container(self), init)?;
        fault!("Start: hooks ran")?;
        let listens = |number| self.listens(&self.init, number, "created");
        gate.open(listens).inspect_err(|_| drop(self.init.signal(libc::SIGKILL)))?;
        if self.init.peek().is_some() && !executed(self.init.pid) {
            let died = Error::Gone("the process died before its program ran".into());
            return Err(create::explain_death(died, &self.cgroup));
        }
        let _ = fault!("Start: gate open");
        Ok(())
    }

    /// The poststart hooks. A program that is done before them is no failure, and does not end them.
    ///
    /// # Errors
    /// When a hook fails or [`end_hooks`](Self::end_hooks) ends it.
    pub fn poststart(&self) -> Result<(), Error> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
        // COMPAT: a failing poststart hook ends the container, as in runc.
        hooks::run("poststart", hooks, &self.document("running"), Place::Host, self.hooks_end.as_ref())
            .inspect_err(|_| drop(self.init.signal(libc::SIGKILL)))
    }

    /// The container is killed or deleted: its poststart hooks are ended.
    pub fn end_hooks(&self) {
        if let Some(end) = &self.hooks_end {
            // It counts to 2^64: there is room.
            let _ = crate::sys::fs::write(end.as_fd(), &1u64.to_ne_bytes());
        }
    }

    fn document(&self, status: &str) -> Vec<u8> {
        self.state_document(status).to_string().into_bytes()
    }

    fn state_document(&self, status: &str) -> serde_json::Value {
        let (id, bundle, annotations) = (&self.id, &self.bundle, &self.annotations);
        Document { id, status, pid: self.init.pid, bundle, annotations }.value()
    }

    /// The `tasks` files of the container's resctrl groups.
    pub(super) fn resctrl(&self) -> Result<Vec<OwnedFd>, Error> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.resctrl.tasks()
    }

    /// Gives the seccomp listener, descriptor `number` of `process`, to the profile's agent.
    pub(super) fn listens(&self, process: &Process, number: i32, status: &str) -> Result<(), Error> {
        let filter = self.for_exec.filter.as_deref();
        let filter = filter.ok_or_else(|| Error::Gone("a listener without a seccomp profile".into()))?;
        agent::hand_over(filter, process, number, self.state_document(status))
    }

    /// Ids that container id `uid`, `gid` have on the host.
    pub fn host_ids(&self, uid: u32, gid: u32) -> (u32, u32) {
        (
            super::idmap::to_host(&self.for_exec.uid_map, uid),
            super::idmap::to_host(&self.for_exec.gid_map, gid),
        )
    }

    /// Init has a pid namespace of its own: the kernel ends everybody else with it.
    pub fn has_pid_namespace(&self) -> bool {
        self.for_exec.pidns
    }

    /// Writes init's end down for a `delete` that finds no shim.
    ///
    /// # Errors
    /// When the bundle cannot be written.
    pub fn record_exit(&self, exit: Exit) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.exit = Some(exit);
        state.save(&self.bundle)
    }

    /// All processes, init among them, whatever cgroup below the container's they moved to.
    ///
    /// COMPAT: init is named until Delete. A restarted containerd takes a shim without processes for a leak, and would
    /// clear it away together with an end that nobody has heard of yet.
    ///
    /// # Errors
    /// When the cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = self.cgroup.pids()?;
        if !pids.contains(&self.init.pid) {
            pids.insert(0, self.init.pid);
        }
        Ok(pids)
    }

    /// Signals every process of the container.
    ///
    /// # Errors
    /// When the cgroup cannot be read, or a living process not be signalled.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal == libc::SIGKILL {
            return Ok(self.cgroup.kill(KILL_WITHIN)?);
        }
        self.cgroup.pids()?.into_iter().try_for_each(|pid| match process::kill(pid, signal) {
            Err(e) if !e.is(libc::ESRCH) => {
                Err(Error::doing(format!("sending signal {signal} to process {pid}"), e))
            }
            _ => Ok(()),
        })
    }

    /// After the end of init, without a Delete to come: all but the state file goes, where a later `delete` finds the
    /// exit status.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub fn clear_but_state(&self) -> Result<(), Error> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner()).clone();
        clear(&state)
    }

    /// Delete: everything that Create made goes, then poststop hooks run. Init must be dead. Returns the hooks' failures, for
    /// the log only.
    ///
    /// # Errors
    /// The first failure, after everything was tried. What stays is for the next Delete, and so are the hooks.
    pub fn delete(&self) -> Result<Vec<Error>, Error> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner()).clone();
        clear(&state)?;
        let failures = poststop(self.hooks.as_ref(), &self.document("stopped"));
        bury(&state, &self.bundle)?;
        Ok(failures)
    }
}

/// poststop hooks of a container that is known by its bundle only.
pub fn poststop_of(spec: &Spec, id: &str, bundle: &Path) -> Vec<Error> {
    let annotations = spec.annotations().clone().unwrap_or_default();
    let document = Document { id, status: "stopped", pid: 0, bundle, annotations: &annotations };
    poststop(spec.hooks().as_ref(), &document.json())
}

/// poststop hooks all run, whatever the one before did (runtime-spec, "Lifecycle", step 13).
pub fn poststop(hooks: Option<&Hooks>, document: &[u8]) -> Vec<Error> {
    let list = hooks.and_then(|h| h.poststop().as_deref()).unwrap_or_default();
    let one = |hook: &spec::Hook| {
        hooks::run("poststop", std::slice::from_ref(hook), document, Place::Host, None).err()
    };
    list.iter().filter_map(one).collect()
}

/// The last act of a deletion, after the poststop hooks: from here on nothing is done twice.
///
/// # Errors
/// None outside tests.
pub fn bury(state: &State, bundle: &Path) -> Result<(), Error> {
    fault!("Delete: hooks ran")?;
    if state.buried().save(bundle).is_err() {
        // The bundle is gone, full or read-only: what it says now, a repeated deletion finds done.
        State::remove(bundle);
    }
    Ok(fault!("Delete: buried")?)
}

/// Takes away what `state` names: processes, cgroup, mounts. Idempotent; works without the shim.
///
/// # Errors
/// The first failure, after everything was tried.
pub fn clear(state: &State) -> Result<(), Error> {
    let mut outcome = Ok(());
    let mut keep = |result: Result<(), Error>| outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
    if state.is_of_this_boot() {
        keep(kill_init(state));
        // One that turned out to be somebody else's stays.
        if let Some(cgroup) = state.cgroup.as_ref().filter(|_| state.owns_cgroup) {
            keep(cgroup.kill(KILL_WITHIN).map_err(Error::from));
            keep(fault!("Delete: processes dead").map_err(Error::from));
            keep(cgroup.remove(REMOVE_WITHIN).map_err(Error::from));
            keep(fault!("Delete: cgroups gone").map_err(Error::from));
        }
    }
    // A reboot takes the groups with it, and what has their names then is somebody else's.
    if state.is_of_this_boot() {
        keep(state.resctrl.remove());
    }
    if let Some(rootfs) = &state.rootfs {
        keep(rootfs::unmount(rootfs));
        keep(rootfs::unmount_below(rootfs, &state.rootfs_targets));
    }
    keep(fault!("Delete: unmounted").map_err(Error::from));
    outcome
}

/// Kills the recorded init, if that pid is still the same process, and reaps it where it is our child.
fn kill_init(state: &State) -> Result<(), Error> {
    let Some(pid) = state.pid else { return Ok(()) };
    let pidfd = match process::pidfd_open(pid) {
        Err(e) if e.is(libc::ESRCH) => return Ok(()),
        opened => opened.doing(|| format!("looking for process {pid}"))?,
    };
    // ORDER: compare after the pidfd is open: from here on the pid cannot change hands unnoticed.
    if super::state::start_time(pid) != state.start_time {
        return Ok(());
    }
    let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = state.cgroup.as_ref().map(Cgroup::thaw);
    let ended =
        process::poll_in(pidfd.as_fd(), 2000).doing(|| format!("waiting for process {pid} to die"))?;
    // ECHILD: somebody else's child, reaped by its parent.
    let _ = process::waitid(pidfd.as_fd(), libc::WEXITED | libc::WNOHANG);
    match ended {
        true => Ok(()),
        false => Err(Error::doing(
            format!("killing process {pid}"),
            "it does not die; it may be in uninterruptible sleep (state D)",
        )),
    }
}
