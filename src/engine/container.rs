//! A container: its init, its cgroup, and what its life needs after Create. The spec itself is not kept.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use oci_spec::runtime::{Hook, Hooks, LinuxResources, Spec};

use super::cgroup::{Cgroup, DevicePolicy, DeviceRules, Join};
use super::clear::{KILL_WITHIN, bury, clear};
use super::error::Error;
use super::failure::{explain_death, out_of_memory};
use super::for_exec::ForExec;
use super::gate::Gate;
use super::hooks::{self, Document, Place};
use super::plan::Fd;
use super::rootless;
use super::seccomp::agent;
use super::state::{Exit, State};
use crate::sys::fault::fault;
use crate::sys::process;

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

    /// Has it ended, or is it about to?
    ///
    /// KERNEL: the init of a pid namespace kills everybody in it on its way out, and has not ended until all are reaped.
    pub(super) fn is_ending(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        self.has_ended() || flags(self.pid).is_none_or(|flags| flags & PF_EXITING != 0)
    }

    /// Its report socket has closed: did it die instead of executing its program? `at_execve`: it came to that step.
    ///
    /// KERNEL: execve(2) takes the flag away before it closes the socket; a death closes the socket first.
    pub(super) fn died_early(&self, at_execve: bool) -> bool {
        (!at_execve || self.peek().is_some()) && !executed(self.pid)
    }

    /// Does it run its program, or has it?
    pub fn has_executed(&self) -> bool {
        executed(self.pid)
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
    /// The way in for exec'd processes, once one has come by it.
    pub(super) door: Mutex<Option<Join>>,
    pub(super) gate: Mutex<Option<Gate>>,
    pub(super) hooks: Option<Hooks>,
    /// Readable once poststart hooks are to end; an eventfd(2), if there are any.
    pub(super) hooks_end: Option<Fd>,
    pub(super) annotations: HashMap<String, String>,
    pub(super) for_exec: ForExec,
    pub(super) state: Mutex<State>,
    /// Those that were asked for last; `None` where that failed, or nothing enforces them.
    pub(super) device_rules: Mutex<Option<DeviceRules>>,
}

/// Did the process, which is not reaped yet, come to execute its program?
fn executed(pid: i32) -> bool {
    const PF_FORKNOEXEC: u64 = 0x40;
    flags(pid).is_none_or(|flags| flags & PF_FORKNOEXEC == 0)
}

/// The kernel's flags of a process that is not reaped yet (proc_pid_stat(5)).
fn flags(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(6)?.parse().ok()
}

impl Container {
    /// Start: startContainer hooks, then the gate opens. [`started`](Self::started) belongs behind it. Blocks if there are
    /// hooks.
    ///
    /// # Errors
    /// When a hook fails; init is dead or dying then.
    pub fn start(&self) -> Result<Gate, Error> {
        let gate = self.gate.lock().unwrap_or_else(|e| e.into_inner()).take();
        let gate = gate.ok_or_else(|| Error::Gone("the container has been started already".into()))?;
        let init = Some(&self.init.pidfd);
        let hooks = self.start_hooks();
        if !hooks.is_empty() {
            hooks::run("startContainer", hooks, &self.document("created"), Place::Container(self), init)
                // A hook that finds init gone is not what went wrong.
                .map_err(|e| gate.last_words().unwrap_or(e))?;
        }
        fault!("Start: hooks ran")?;
        gate.open().map_err(|e| self.not_started(e, &gate))?;
        Ok(gate)
    }

    /// Follows init until its program runs. [`poststart`](Self::poststart) belongs behind it. Blocks unless init's report
    /// is over.
    ///
    /// # Errors
    /// When the program cannot be executed; init is dead or dying then.
    pub fn started(&self, gate: &Gate) -> Result<(), Error> {
        let listens = |number| self.listens(&self.init, number, "created");
        gate.settle(&self.init, listens).map_err(|e| self.not_started(e, gate))?;
        let _ = fault!("Start: gate open");
        Ok(())
    }

    fn not_started(&self, e: Error, gate: &Gate) -> Error {
        let _ = self.init.signal(libc::SIGKILL);
        explain_death(e, &self.cgroup, gate.memory_limit)
    }

    /// As [`out_of_memory`], of an init that a SIGKILL ended before it was let go.
    pub fn out_of_memory_before_start(&self) -> Option<String> {
        let limit = self.gate.lock().unwrap_or_else(|e| e.into_inner()).as_ref()?.memory_limit;
        out_of_memory(&self.cgroup, limit)
    }

    fn start_hooks(&self) -> &[Hook] {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.start_container().as_deref());
        hooks.unwrap_or_default()
    }

    /// Are there startContainer hooks?
    pub fn has_start_hooks(&self) -> bool {
        !self.start_hooks().is_empty()
    }

    /// Are there poststart hooks?
    pub fn has_poststart(&self) -> bool {
        self.hooks_end.is_some()
    }

    /// The poststart hooks. A program that is done before them is no failure, and does not end them.
    ///
    /// # Errors
    /// When a hook fails or [`end_hooks`](Self::end_hooks) ends it.
    pub fn poststart(&self) -> Result<(), Error> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
        // COMPAT: a failing poststart hook ends the container, as in runc.
        let place = Place::Host(&self.bundle);
        hooks::run("poststart", hooks, &self.document("running"), place, self.hooks_end.as_ref())
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

    pub(super) fn door(&self) -> MutexGuard<'_, Option<Join>> {
        self.door.lock().unwrap_or_else(|e| e.into_inner())
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

    /// Init is the first process of a pid namespace: the kernel ends everybody else with it (pid_namespaces(7)).
    pub fn owns_pid_namespace(&self) -> bool {
        self.for_exec.own_pidns
    }

    /// Init was born into somebody else's pid namespace.
    pub fn joins_pid_namespace(&self) -> bool {
        self.for_exec.pidns && !self.for_exec.own_pidns
    }

    /// Somebody else may be in the pid namespace from now on: exec'd processes come to it only when they are set up.
    pub fn expect_tracers(&self) {
        self.for_exec.tracers.store(true, Ordering::Relaxed);
    }

    /// Changes the limits that are given.
    ///
    /// Device rules are touched only if they are others than were asked for last: clients send all resources with each
    /// update (containerd's CRI, nerdctl), and a hook may have allowed devices of its own meanwhile. COMPAT: runc never
    /// touches them here, crun always does.
    ///
    /// # Errors
    /// When a limit makes no sense, or the kernel or systemd refuses it.
    pub fn update(&self, mut resources: LinuxResources) -> Result<(), Error> {
        let mut last = self.device_rules.lock().unwrap_or_else(|e| e.into_inner());
        let given = resources.devices().as_deref().filter(|rules| !rules.is_empty());
        let given = given.filter(|_| rootless::device_policy() == DevicePolicy::Enforce);
        let asked = given.map(DeviceRules::new).transpose()?.filter(|rules| last.as_ref() != Some(rules));
        match &asked {
            Some(_) => *last = None,
            None => _ = resources.set_devices(None),
        }
        self.cgroup.update(&resources)?;
        if asked.is_some() {
            *last = asked;
        }
        Ok(())
    }

    /// Writes init's end down for a `delete` that finds no shim, and closes what only further processes need.
    ///
    /// # Errors
    /// When the bundle cannot be written.
    pub fn record_exit(&self, exit: Exit) -> Result<(), Error> {
        self.door().take();
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
    /// When the cgroup cannot be read, or a living process not be signalled: the first, after all were tried.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        // Init by itself: a rootless container may have no cgroup.
        match self.init.signal(signal) {
            Err(Error::Gone(_)) => {}
            sent => sent?,
        }
        if signal == libc::SIGKILL {
            return Ok(self.cgroup.kill(KILL_WITHIN)?);
        }
        match self.cgroup.signal(signal, self.init.pid)?.into_iter().next() {
            None => Ok(()),
            Some((pid, e)) => Err(Error::doing(format!("sending signal {signal} to process {pid}"), e)),
        }
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
        let failures = poststop(self.hooks.as_ref(), &self.document("stopped"), &self.bundle, None);
        bury(&state, &self.bundle)?;
        Ok(failures)
    }
}

/// poststop hooks of a container that is known by its bundle only, until `deadline`; their failures.
pub fn poststop_of(spec: &Spec, id: &str, bundle: &Path, deadline: Option<Instant>) -> Vec<Error> {
    let annotations = spec.annotations().clone().unwrap_or_default();
    let document = Document { id, status: "stopped", pid: 0, bundle, annotations: &annotations };
    poststop(spec.hooks().as_ref(), &document.json(), bundle, deadline)
}

/// poststop hooks all run, whatever the one before did (runtime-spec, "Lifecycle", step 13).
fn poststop(hooks: Option<&Hooks>, document: &[u8], bundle: &Path, deadline: Option<Instant>) -> Vec<Error> {
    let list = hooks.and_then(|h| h.poststop().as_deref()).unwrap_or_default();
    hooks::run_all("poststop", list, document, bundle, deadline)
}
