//! What a container's exec'd processes and hooks share with its init: namespaces to enter, filter, defaults.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci_spec::runtime::{self as spec, Linux, LinuxNamespaceType as Kind, Spec};

use super::hooks::Inside;
use super::plan::caps::{CAP_SYS_PTRACE, Wanted};
use super::plan::init::Joined;
use super::plan::{Fd, Given, SecurityModules};
use super::seccomp::Filter;

/// What exec'd processes share with init.
pub struct ForExec {
    pub kinds: i32,
    pub pidns: bool,
    /// Init is the first in its pid namespace.
    pub own_pidns: bool,
    pub proc: Fd,
    pub filter: Option<Arc<Filter>>,
    pub modules: SecurityModules,
    pub keyring: bool,
    pub personality: Option<u64>,
    pub memory_policy: Option<spec::LinuxMemoryPolicy>,
    pub setup_within: Duration,
    /// Init's process without its arguments: defaults for what an exec leaves out. With its environment only if
    /// startContainer hooks may want it.
    pub process: spec::Process,
    /// Somebody in the container's pid namespace may trace processes that are not its own.
    pub tracers: AtomicBool,
    pub uid_map: Vec<spec::LinuxIdMapping>,
    pub gid_map: Vec<spec::LinuxIdMapping>,
}

impl ForExec {
    pub fn new(spec: &Spec, linux: &Linux, given: &Given, keyring: bool, joined: &[Joined]) -> Self {
        let all: Vec<Kind> = linux.namespaces().iter().flatten().map(|ns| ns.typ()).collect();
        let ours = |kind: &&Kind| joined.iter().find(|ns| ns.kind == **kind).is_none_or(|ns| !is_own(ns));
        let kinds = all.iter().filter(|kind| **kind != Kind::Pid).filter(ours).map(|kind| *kind as i32).sum();
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(None);
        if spec.hooks().as_ref().is_none_or(|hooks| hooks.start_container().is_none()) {
            process.set_env(None);
        }
        let shared = joined.iter().any(|ns| ns.kind == Kind::Pid);
        // KERNEL: in a user namespace the capability does not reach a process whose memory is the shim's (ptrace(2)).
        let tracers = shared || may_trace(&process) && !all.contains(&Kind::User);
        Self {
            kinds,
            pidns: all.contains(&Kind::Pid),
            own_pidns: all.contains(&Kind::Pid) && !shared,
            proc: given.proc.clone(),
            filter: given.filter.clone(),
            modules: given.modules,
            keyring,
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
    pub fn note_capabilities(&self, process: &spec::Process) {
        if may_trace(process) && self.kinds & libc::CLONE_NEWUSER == 0 {
            self.tracers.store(true, Ordering::Relaxed);
        }
    }

    pub fn inside(&self, init: &Fd) -> Inside {
        Inside { init: init.clone(), kinds: self.kinds, pidns: self.pidns }
    }
}

/// May the process, or what it executes, trace others?
fn may_trace(process: &spec::Process) -> bool {
    let wanted = Wanted::new(process.capabilities().as_ref());
    (wanted.bounding | wanted.sets.permitted | wanted.sets.inheritable) & CAP_SYS_PTRACE != 0
}

/// Is the joined namespace the shim's own? setns(2) to one's own user namespace is an error, to others pointless. This thread is
/// asked, for another may be on a visit (`ns::Visit`).
pub fn is_own(ns: &Joined) -> bool {
    let file = match ns.kind {
        Kind::Mount => "mnt",
        Kind::Network => "net",
        other => super::plan::init::name(other),
    };
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::metadata(format!("/proc/thread-self/ns/{file}"));
    let theirs = crate::sys::fs::fstat(ns.fd.as_fd());
    matches!((own, theirs), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.st_dev, b.st_ino))
}
