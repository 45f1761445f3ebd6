//! Exec: a further process in a running container, by one clone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use oci_spec::runtime as spec;

use super::affinity;
use super::cgroup::Join;
use super::child::{self, Born, Message, Report};
use super::container::{Container, Process};
use super::error::Error;
use super::failure::failure;
use super::gate::InSetup;
use super::plan::exec::{Inputs, build};
use super::plan::{Fd, Given, Plan, Step, Sync};
use super::rootless;
use super::seccomp::Filter;
use crate::sys::fault::fault;

/// The socket has closed: did the child die before its program ran?
pub(super) fn died_early(plan: &Plan, born: &Born) -> bool {
    let process = Process { pid: born.pid, pidfd: born.pidfd.clone() };
    process.died_early(is_at_execve(plan, born))
}

fn is_at_execve(plan: &Plan, born: &Born) -> bool {
    born.report.step() + 1 == plan.steps.len()
}

/// A process to add.
pub struct ExecRequest {
    pub process: spec::Process,
    /// Descriptors 0, 1, 2; `None` is /dev/null. Ignored for a terminal.
    pub stdio: [Option<OwnedFd>; 3],
}

/// A process that is being set up.
pub struct Rising {
    plan: Plan,
    born: Born,
}

impl InSetup for Rising {
    fn report(&mut self) -> &mut Report {
        &mut self.born.report
    }

    fn is_at_execve(&self) -> bool {
        is_at_execve(&self.plan, &self.born)
    }
}

/// A process that runs.
pub struct Executed {
    pub process: Process,
    pub terminal: Option<OwnedFd>,
}

impl Container {
    /// Clones a further process; [`executed`](Self::executed) belongs behind it. Waits for nobody, and is for a thread that outlives
    /// the process, see [`child::spawn`].
    ///
    /// # Errors
    /// When it cannot be cloned; `Gone` when init is dead.
    pub fn exec(&self, request: ExecRequest) -> Result<Rising, Error> {
        self.unless_gone(self.rising(request))
    }

    /// Follows a further process until its program runs. Blocks unless its report is over.
    ///
    /// # Errors
    /// `Program` when it cannot be executed, `Gone` when init is dead. The process is dead then.
    pub fn executed(&self, mut rising: Rising) -> Result<Executed, Error> {
        let settled = self.settle(&rising.plan, &mut rising.born);
        self.unless_gone(match settled {
            Ok(terminal) => {
                let process = Process { pid: rising.born.pid, pidfd: rising.born.pidfd };
                Ok(Executed { process, terminal })
            }
            Err(e) => {
                rising.born.abandon();
                // It may have been the way in.
                self.door().take();
                Err(e)
            }
        })
    }

    /// Whatever fails while the container goes fails because of that.
    fn unless_gone<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        done.map_err(|e| match self.init.is_ending() {
            true => Error::Gone("the container's init process is gone".into()),
            false => e,
        })
    }

    fn rising(&self, request: ExecRequest) -> Result<Rising, Error> {
        let process = self.complete(request.process);
        // ORDER: noted first: from its own birth on the process may trace those that come after it.
        self.for_exec.note_capabilities(&process);
        let late_birth = self.for_exec.pidns && self.for_exec.tracers.load(Ordering::Relaxed);
        let gate = process.terminal().unwrap_or(false);
        let stdio = request.stdio.map(|fd| fd.map(Arc::new));
        let (plan, born) = self.cloned(|join| {
            let given = Given { late_birth, gate, ..self.given() };
            self.plan(&process, stdio.clone(), given, join)
        })?;
        if let Err(e) = fault!("Exec: cloned") {
            born.abandon();
            return Err(e.into());
        }
        Ok(Rising { plan, born })
    }

    /// Clones the process that walks the plan for one way in: the last one's, else by the container's own cgroup, and where
    /// that fails by the one of init.
    ///
    /// KERNEL: a cgroup2 cgroup that hands controllers to children takes no processes (EBUSY from clone3): systemd in a
    /// container does that and moves itself into a child. COMPAT: as under runc, init is not followed without need.
    fn cloned(&self, plan: impl Fn(&Join) -> Result<Plan, Error>) -> Result<(Plan, Born), Error> {
        let by = |join: &Join| {
            let plan = plan(join)?;
            let born = child::spawn(&plan)?;
            Ok((plan, born))
        };
        // A way that leads nowhere is not kept.
        let kept = self.door().take();
        let mut join = kept.map_or_else(|| self.cgroup.join(), Ok)?;
        let mut cloned = by(&join);
        if matches!(cloned, Err(Error::Doing { .. })) {
            drop(join);
            join = self.cgroup.join_of(self.init.pid)?;
            cloned = by(&join);
        }
        let cloned = cloned?;
        *self.door() = Some(join);
        Ok(cloned)
    }

    /// The plan of a startContainer hook, which is the container's process in all but program and arguments, and
    /// in its environment unless it brings one.
    ///
    /// COMPAT: as under runc, it has the user, capabilities, limits, cgroup and filter of the process: what it executes
    /// comes from the image. Only a filter with a listener is left out, for its agent waits for the process itself.
    pub(super) fn hook(&self, hook: &spec::Hook, stdio: [Option<Fd>; 3]) -> Result<Plan, Error> {
        let mut process = self.for_exec.process.clone();
        process.set_terminal(None).set_args(Some(vec![hook.path().display().to_string()]));
        let given = self.given();
        let silent = |f: &Arc<Filter>| u64::from(f.flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0;
        let filter = given.filter.clone().filter(silent);
        let join = self.cgroup.join_of(self.init.pid)?;
        self.plan(&process, stdio, Given { filter, ..given }, &join)
    }

    /// What every further process is given.
    fn given(&self) -> Given {
        let shared = &self.for_exec;
        Given {
            proc: shared.proc.clone(),
            filter: shared.filter.clone(),
            late_birth: false,
            pinned: affinity::is_pinned(),
            gate: false,
            modules: shared.modules,
            personality: shared.personality,
            memory_policy: shared.memory_policy.clone(),
            setup_within: shared.setup_within,
        }
    }

    fn plan(
        &self,
        process: &spec::Process,
        stdio: [Option<Fd>; 3],
        given: Given,
        join: &Join,
    ) -> Result<Plan, Error> {
        let resctrl = self.resctrl()?.into_iter().map(Arc::new);
        let inputs = Inputs {
            init: self.init.pidfd.clone(),
            kinds: self.for_exec.kinds,
            pidns: self.for_exec.pidns,
            given,
            stdio,
            tasks: join.tasks.iter().cloned().chain(resctrl).collect(),
            cgroup: join.into.clone(),
            keyring: self.for_exec.keyring.then(|| format!("_ses.{}", self.id)),
        };
        build(process, &inputs)
    }

    fn settle(&self, plan: &Plan, born: &mut Born) -> Result<Option<OwnedFd>, Error> {
        let mut terminal = None;
        let mut unborn = plan.steps.iter().any(|step| matches!(step, Step::Birth));
        loop {
            match born.next()? {
                (Message::Born, pidfd) if unborn => {
                    born.reborn(pidfd)?;
                    unborn = false;
                }
                (Message::Closed, _) if unborn || died_early(plan, born) => {
                    let why = "it was killed; it may have found no memory";
                    return Err(Error::doing("setting the process up", why));
                }
                (Message::Closed, _) => return Ok(terminal),
                (Message::Reached(Sync::Ready), master) => {
                    terminal = master;
                    born.go()?;
                }
                (Message::Listener(number), _) => {
                    let process = Process { pid: born.pid, pidfd: born.pidfd.clone() };
                    match self.listens(&process, number, "running") {
                        Ok(()) => born.go()?,
                        // It has not waited for that: it says why.
                        Err(_) if born.report.has_word() => {}
                        Err(e) => return Err(e),
                    }
                }
                (message, _) => return Err(failure(plan, &message)),
            }
        }
    }

    /// COMPAT: what an exec's process leaves out it inherits from init's, as in runc. Not so its resource limits, of
    /// which none means none, nor `noNewPrivileges`, which clients leave out when it is false.
    fn complete(&self, mut process: spec::Process) -> spec::Process {
        let init = &self.for_exec.process;
        if process.capabilities().is_none() {
            process.set_capabilities(init.capabilities().clone());
        }
        if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
            process.set_apparmor_profile(init.apparmor_profile().clone());
        }
        if process.selinux_label().as_ref().is_none_or(String::is_empty) {
            process.set_selinux_label(init.selinux_label().clone());
        }
        process.set_scheduler(process.scheduler().clone().or_else(|| init.scheduler().clone()));
        process.set_io_priority(process.io_priority().or(*init.io_priority()));
        let affinity = process.exec_cpu_affinity().clone().or_else(|| init.exec_cpu_affinity().clone());
        process.set_exec_cpu_affinity(affinity);
        let umask = process.user().umask().or(init.user().umask());
        process.user_mut().set_umask(umask);
        process.set_oom_score_adj(process.oom_score_adj().or(init.oom_score_adj()));
        rootless::restrict_oom_score(&mut process);
        process
    }
}
