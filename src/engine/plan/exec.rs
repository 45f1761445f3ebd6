//! The plan of a further process in a container: join, and become.

use oci_spec::runtime::Process;

use super::identity::{self, Given};
use super::target::c_string;
use super::{Fd, Plan, Step, list};
use crate::engine::Error;
use crate::sys::process::CpuSet;

/// What the shim opened for this process.
pub struct Inputs {
    /// The container's init.
    pub init: Fd,
    /// `CLONE_NEW*` of the namespaces in which init differs from the shim, pid excepted.
    pub kinds: i32,
    /// Init lives in a pid namespace of its own.
    pub pidns: bool,
    pub given: Given,
    pub stdio: [Option<Fd>; 3],
    pub tasks: Vec<Fd>,
    pub cgroup: Option<Fd>,
    /// The container's session keyring is called so; none was made with `no_new_keyring`.
    pub keyring: Option<String>,
}

/// Builds the plan. Makes no system call.
pub fn build(process: &Process, inputs: &Inputs) -> Result<Plan, Error> {
    let limit = Some(inputs.given.setup_within);
    let mut plan = Plan { cgroup: inputs.cgroup.clone(), limit, ..Plan::default() };
    let affinity = process.exec_cpu_affinity().as_ref();
    let initial = affinity.and_then(|a| a.initial().as_deref());
    plan.steps.extend(initial.map(|list| Step::Affinity(Box::new(CpuSet(list::bits(list))))));
    // ORDER: where somebody might trace it, the process is born in the pid namespace only after set-up.
    let late = inputs.pidns && inputs.given.late_birth;
    plan.pidns = (inputs.pidns && !late).then(|| inputs.init.clone());
    let kinds = inputs.kinds | if late { libc::CLONE_NEWPID } else { 0 };
    if !inputs.tasks.is_empty() {
        plan.steps.push(Step::JoinCgroups(inputs.tasks.clone()));
    }
    // ORDER: while the host's procfs counts this process and the host's /dev/null is in sight.
    if let Some(score) = process.oom_score_adj() {
        let value = c_string(score.to_string())?;
        plan.steps.push(Step::OomScoreAdj { value, proc: inputs.given.proc.clone() });
    }
    // ORDER: behind the cgroup, whose cpuset would reset it (sched_setaffinity(2)).
    let last = affinity.and_then(|a| a.cpu_affinity_final().as_deref());
    if inputs.given.pinned && initial.or(last).is_none() {
        plan.steps.push(Step::EveryCpu);
    }
    plan.steps.extend(last.map(|list| Step::Affinity(Box::new(CpuSet(list::bits(list))))));
    let terminal = process.terminal().unwrap_or(false);
    if !terminal {
        plan.steps.push(Step::Stdio(inputs.stdio.clone()));
    }
    if kinds != 0 {
        plan.steps.push(Step::JoinProcess { kinds, pidfd: inputs.init.clone() });
    }
    if let Some(name) = &inputs.keyring {
        plan.steps.extend(identity::keyring(name, Some(process), &inputs.given)?);
    }
    if terminal {
        plan.steps.push(identity::console(process, false));
    }
    identity::append(&mut plan, process, &inputs.given)?;
    Ok(plan)
}
