//! The last part of every plan, of init and exec alike: from limits to execve.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, PosixRlimit, PosixRlimitType, Process, Scheduler, User,
};

use super::caps::{CAP_SYS_ADMIN, Wanted};
use super::target::c_string;
use super::{Fd, Plan, Step, Sync, list};
use crate::engine::Error;
use crate::engine::seccomp::Filter;
use crate::sys::cred::{CapSets, Strings};
use crate::sys::process::{NodeSet, SchedAttr};

/// What runc gives a process that names no umask.
const DEFAULT_UMASK: u32 = 0o022;

/// The program to execute, as its user named it and where it may be.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    pub candidates: Vec<CString>,
    /// Named with a slash: no search.
    pub explicit: bool,
}

impl Program {
    fn new(process: &Process, env: &[String]) -> Result<Self, Error> {
        let name = process.args().as_ref().and_then(|args| args.first()).filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Error::Spec("process.args is empty: name the program to run".into()))?;
        if name.contains('/') {
            return Ok(Self { name: name.clone(), candidates: vec![c_string(name)?], explicit: true });
        }
        let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
        Self::in_path(name, path)
    }

    /// # Errors
    /// When a name has a NUL byte inside.
    pub fn in_path(name: &str, path: &str) -> Result<Self, Error> {
        let dirs = path.split(':').filter(|dir| dir.starts_with('/'));
        let candidates = dirs.map(|dir| c_string(format!("{dir}/{name}"))).collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), candidates, explicit: false })
    }

    /// COMPAT: Docker and nerdctl match these words to exit statuses 126 and 127.
    pub fn refusal(&self, call: &str, errno: i32) -> String {
        let name = &self.name;
        let reason = match errno {
            libc::ENOENT => "no such file or directory".to_string(),
            libc::EACCES => "permission denied".to_string(),
            libc::EISDIR => "is a directory".to_string(),
            libc::ENOTDIR => "not a directory".to_string(),
            libc::ENOEXEC => "exec format error".to_string(),
            libc::ENOMEM | libc::E2BIG => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
            other => nix::errno::Errno::from_raw(other).desc().to_lowercase(),
        };
        match (call, errno) {
            ("execve", _) => format!("exec {name}: {reason}"),
            (_, libc::ENOENT) if !self.explicit => {
                format!("exec: {name:?}: executable file not found in $PATH")
            }
            (_, libc::ENOENT | libc::ENOTDIR) => format!("exec: {name:?}: stat {name}: {reason}"),
            _ => format!("exec: {name:?}: {reason}"),
        }
    }
}

/// Which security modules this kernel has at work.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecurityModules {
    pub apparmor: bool,
    pub selinux: bool,
}

/// What the shim knows besides the spec's `process`.
pub struct Given {
    /// The shim's own procfs.
    pub proc: Fd,
    pub filter: Option<Arc<Filter>>,
    /// Be born in the pid namespace as late as possible: somebody there may trace others (CAP_SYS_PTRACE).
    pub late_birth: bool,
    /// The shim is kept to some CPUs.
    pub pinned: bool,
    /// A child that has not reported for so long is given up.
    pub setup_within: Duration,
    /// Wait for Start between set-up and execve.
    pub gate: bool,
    pub modules: SecurityModules,
    /// The execution domain (personality(2)).
    pub personality: Option<u64>,
    pub memory_policy: Option<LinuxMemoryPolicy>,
}

/// Appends the steps that turn the child into `process`.
pub fn append(plan: &mut Plan, process: &Process, given: &Given) -> Result<(), Error> {
    let wanted = Wanted::new(process.capabilities().as_ref());
    let env = environment(process);
    let program = Arc::new(Program::new(process, &env)?);
    let has_home = env.iter().any(|entry| entry.starts_with("HOME="));
    if !has_home {
        // ORDER: before the limits: with all that the shim has open there may be no number left for one more.
        plan.steps.push(Step::Home(process.user().uid()));
    }
    limits(plan, process, given.late_birth)?;
    plan.steps.extend(given.personality.map(Step::Personality));
    plan.steps.extend(given.memory_policy.as_ref().map(memory_policy));
    labels(plan, process, given)?;
    let no_new_privs = process.no_new_privileges().unwrap_or(false);
    // Loading a filter takes no_new_privs or CAP_SYS_ADMIN (seccomp(2)): without the first, keep the second for it.
    let late_caps = given.filter.is_some() && !no_new_privs;
    let steps = &mut plan.steps;
    if no_new_privs {
        steps.push(Step::NoNewPrivs);
    }
    steps.push(Step::Bounding(wanted.bounding));
    // COMPAT: a directory that the user may not enter is one to start in all the same, as in runc.
    let path = c_string(process.cwd().as_os_str().as_encoded_bytes())?;
    steps.push(Step::Cwd { path: path.clone(), early: true });
    steps.push(user(process.user(), given));
    steps.push(Step::Capabilities {
        sets: if late_caps { with_admin(wanted.sets) } else { wanted.sets },
        ambient: wanted.ambient,
    });
    // The user may be let in where root is not (NFS).
    steps.push(Step::Cwd { path, early: false });
    // ORDER: look-up as the user, with its capabilities: what it may not see it may not start.
    steps.push(Step::Lookup(program.clone()));
    steps.push(Step::CloseDescriptors);
    if given.late_birth {
        steps.push(Step::Birth);
        // ORDER: now for itself, with what it did not inherit.
        steps.extend(process.scheduler().as_ref().map(|scheduler| Step::Scheduler(sched_attr(scheduler))));
    }
    // ORDER: behind the birth: a session and its terminal are not inherited by a sibling.
    steps.push(Step::Setsid);
    if process.terminal().unwrap_or(false) {
        steps.push(Step::ControllingTerminal);
    }
    if given.gate {
        steps.push(Step::Sync(Sync::Ready));
    }
    // ORDER: the filter last: what set-up needs is no concern of the profile's.
    steps.extend(given.filter.clone().map(Step::Seccomp));
    if late_caps {
        steps.push(Step::Capabilities { sets: wanted.sets, ambient: wanted.ambient });
    }
    let argv = process.args().iter().flatten().map(c_string).collect::<Result<_, _>>()?;
    let envp = env.iter().map(c_string).collect::<Result<_, _>>()?;
    let envp = if has_home { Strings::new(envp) } else { Strings::with_room(envp) };
    steps.push(Step::Execve { program, argv: Strings::new(argv), envp });
    Ok(())
}

/// The terminal of a process that asks for one; of a size, unless a side of it is 0, as under runc.
pub fn console(process: &Process, bind: bool) -> Step {
    let side = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
    let size = process.console_size().map(|size| (side(size.width()), side(size.height())));
    let size = size.filter(|(width, height)| *width != 0 && *height != 0);
    Step::Console { bind, uid: process.user().uid(), size }
}

fn with_admin(sets: CapSets) -> CapSets {
    CapSets { effective: sets.effective | CAP_SYS_ADMIN, permitted: sets.permitted | CAP_SYS_ADMIN, ..sets }
}

fn user(user: &User, given: &Given) -> Step {
    let groups = user.additional_gids().clone().unwrap_or_default();
    Step::User { uid: user.uid(), gid: user.gid(), groups, proc: given.proc.clone() }
}

/// COMPAT: as under runc the last of several equal names wins, and an empty HOME is none.
fn environment(process: &Process) -> Vec<String> {
    let given = process.env().as_deref().unwrap_or_default();
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_string();
    let mut seen = std::collections::HashSet::new();
    let mut env: Vec<String> = given.iter().rev().filter(|e| seen.insert(name(e))).cloned().collect();
    env.reverse();
    env.retain(|entry| entry != "HOME=");
    env
}

/// `is_parent`: the process that is set up clones the container's, which inherits all of this.
fn limits(plan: &mut Plan, process: &Process, is_parent: bool) -> Result<(), Error> {
    for limit in process.rlimits().iter().flatten() {
        plan.steps.push(rlimit(limit));
    }
    if let Some(scheduler) = process.scheduler() {
        let mut attr = sched_attr(scheduler);
        if is_parent {
            attr.flags &= !RESET_ON_FORK;
        }
        // KERNEL: nobody with a deadline may clone (sched(7)).
        if !(is_parent && attr.policy == libc::SCHED_DEADLINE as u32) {
            plan.steps.push(Step::Scheduler(attr));
        }
    }
    if let Some(priority) = process.io_priority() {
        plan.steps.push(Step::IoPriority(io_priority(priority)));
    }
    plan.steps.push(Step::Umask(process.user().umask().unwrap_or(DEFAULT_UMASK)));
    Ok(())
}

fn rlimit(limit: &PosixRlimit) -> Step {
    use PosixRlimitType as T;
    let resource = match limit.typ() {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    let name = limit.typ().to_string();
    Step::Rlimit { name, resource, soft: limit.soft(), hard: limit.hard() }
}

/// `SCHED_FLAG_RESET_ON_FORK` (sched_setattr(2)).
const RESET_ON_FORK: u64 = 0x01;

fn sched_attr(scheduler: &Scheduler) -> SchedAttr {
    use LinuxSchedulerPolicy as P;
    let policy = match scheduler.policy() {
        P::SchedOther => libc::SCHED_OTHER,
        P::SchedFifo => libc::SCHED_FIFO,
        P::SchedRr => libc::SCHED_RR,
        P::SchedBatch => libc::SCHED_BATCH,
        P::SchedIdle => libc::SCHED_IDLE,
        P::SchedIso => 4,
        P::SchedDeadline => libc::SCHED_DEADLINE,
    };
    use oci_spec::runtime::LinuxSchedulerFlag as F;
    let flag = |f: &F| match f {
        F::SchedResetOnFork => RESET_ON_FORK,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    };
    SchedAttr {
        policy: policy as u32,
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, one: u64| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    }
}

fn io_priority(priority: &LinuxIOPriority) -> i32 {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    class << 13 | priority.priority() as i32
}

/// `MPOL_*` of linux/mempolicy.h.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Step {
    use MemoryPolicyFlagType as F;
    use MemoryPolicyModeType as M;
    let mode = match policy.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &F| match flag {
        F::MpolFNumaBalancing => 1 << 13,
        F::MpolFRelativeNodes => 1 << 14,
        F::MpolFStaticNodes => 1 << 15,
    };
    let mode = policy.flags().iter().flatten().map(flag).fold(mode, |all, one| all | one);
    let nodes = policy.nodes().as_deref().filter(|list| !list.trim().is_empty());
    Step::MemoryPolicy { mode, nodes: nodes.map(|list| Box::new(NodeSet(list::bits(list)))) }
}

/// The session keyring that is joined, or made, next: one that is made has the process's label, as under runc.
///
/// KERNEL: execve(2) forgets the label of keys, so nothing has to be taken back.
pub fn keyring(name: &str, process: Option<&Process>, given: &Given) -> Result<Vec<Step>, Error> {
    let label =
        process.and_then(|p| p.selinux_label().as_ref()).filter(|l| !l.is_empty() && given.modules.selinux);
    let file = c"self/attr/keycreate".to_owned();
    let label =
        label.map(|label| Ok(Step::Label { file, label: c_string(label)?, proc: given.proc.clone() }));
    label.into_iter().chain([Ok(Step::Keyring(c_string(name)?))]).collect()
}

/// AppArmor and SELinux profiles take effect at execve; each has its own file (proc_pid_attr(5)).
fn labels(plan: &mut Plan, process: &Process, given: &Given) -> Result<(), Error> {
    let proc = || given.proc.clone();
    let unconfined = |p: &&String| !p.is_empty() && *p != "unconfined";
    if let Some(profile) = process.apparmor_profile().as_ref().filter(unconfined) {
        if !given.modules.apparmor {
            let remedy = "this kernel has no AppArmor: drop the profile or enable AppArmor";
            return Err(Error::Spec(format!("process.apparmorProfile {profile:?}: {remedy}")));
        }
        let file = c"self/attr/apparmor/exec".to_owned();
        plan.steps.push(Step::Label { file, label: c_string(format!("exec {profile}"))?, proc: proc() });
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|l| !l.is_empty()) {
        if !given.modules.selinux {
            return Err(no_selinux("process.selinuxLabel", label));
        }
        let file = c"self/attr/exec".to_owned();
        plan.steps.push(Step::Label { file, label: c_string(label)?, proc: proc() });
    }
    Ok(())
}

/// COMPAT: refused as by runc: a label that is not there protects nothing.
pub fn no_selinux(field: &str, label: &str) -> Error {
    let remedy = "this kernel has no SELinux: drop the label or enable SELinux";
    Error::Spec(format!("{field} {label:?}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &str) -> Process {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_program_is_searched_in_the_containers_path() {
        let p =
            process(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["sh"],"env":["PATH=/bin:rel:/usr/bin"]}"#);
        let program = Program::new(&p, p.env().as_ref().unwrap()).unwrap();
        let names: Vec<_> = program.candidates.iter().map(|c| c.to_str().unwrap()).collect();
        assert_eq!(names, ["/bin/sh", "/usr/bin/sh"]);
    }

    #[test]
    fn refusals_are_worded_as_docker_expects() {
        let p = |name: &str| Program { name: name.into(), candidates: vec![], explicit: name.contains('/') };
        let not_found = r#"exec: "foo": executable file not found in $PATH"#;
        assert_eq!(p("foo").refusal("stat", libc::ENOENT), not_found);
        let no_such = r#"exec: "/foo": stat /foo: no such file or directory"#;
        assert_eq!(p("/foo").refusal("stat", libc::ENOENT), no_such);
        assert_eq!(p("/foo").refusal("faccessat2", libc::EACCES), r#"exec: "/foo": permission denied"#);
        assert_eq!(p("/foo").refusal("execve", libc::ENOEXEC), "exec /foo: exec format error");
    }

    #[test]
    fn the_last_of_equal_variables_wins() {
        let p = process(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["x"],"env":["A=1","B=2","A=3"]}"#);
        assert_eq!(environment(&p), ["B=2", "A=3"]);
    }

    #[test]
    fn an_empty_home_is_none() {
        let of = |env: &str| {
            let p = process(&format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["x"],"env":{env}}}"#));
            environment(&p)
        };
        assert_eq!(of(r#"["HOME=","A=1"]"#), ["A=1"]);
        assert_eq!(of(r#"["HOME=/over","HOME="]"#), [""; 0]);
        assert_eq!(of(r#"["HOME=","HOME=/over"]"#), ["HOME=/over"]);
    }
}
