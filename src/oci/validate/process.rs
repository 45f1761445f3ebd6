//! Refusals about the process, of a container or of an exec.

use oci_spec::runtime::{
    ExecCPUAffinity, Linux, LinuxIOPriority, LinuxIdMapping, LinuxSchedulerPolicy as Policy, PosixRlimit,
    Process, Scheduler,
};

use super::namespaces::{Kind, Namespaces};
use super::{Result, no_nul, refuse};

/// `at` is the path of the process in the document, `process` for a container.
pub fn check(process: &Process, at: &str) -> Result<()> {
    let field = |name: &str| format!("{at}.{name}");
    if process.cwd().as_os_str().is_empty() {
        return refuse(field("cwd"), "is missing; write an absolute path such as `/`");
    }
    super::absolute(&field("cwd"), process.cwd())?;
    arguments(process, at)?;
    environment(process, at)?;
    rlimits(process.rlimits().as_deref().unwrap_or_default(), &field("rlimits"))?;
    if let Some(adjustment) = process.oom_score_adj().filter(|value| !(-1000..=1000).contains(value)) {
        return refuse(field("oomScoreAdj"), format!("{adjustment} is out of range; use -1000 to 1000"));
    }
    if let Some(umask) = process.user().umask().filter(|umask| *umask > 0o777) {
        return refuse(field("user.umask"), format!("{umask:#o} has more than permission bits"));
    }
    for (name, label) in
        [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())]
    {
        no_nul(&field(name), label.as_deref().unwrap_or_default())?;
    }
    if let Some(scheduler) = process.scheduler() {
        check_scheduler(scheduler, &field("scheduler"))?;
    }
    if let Some(priority) = process.io_priority() {
        check_io_priority(priority, &field("ioPriority"))?;
    }
    match process.exec_cpu_affinity() {
        Some(affinity) => check_affinity(affinity, &field("execCPUAffinity")),
        None => Ok(()),
    }
}

fn check_affinity(affinity: &ExecCPUAffinity, at: &str) -> Result<()> {
    for (name, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() && !super::is_list(list) {
            return refuse(
                format!("{at}.{name}"),
                format!("`{list}` is no list of CPUs; write it like `0-1,3`"),
            );
        }
    }
    Ok(())
}

fn arguments(process: &Process, at: &str) -> Result<()> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return refuse(format!("{at}.args"), "is empty; name the program to run");
    }
    for (index, argument) in args.iter().enumerate() {
        no_nul(&format!("{at}.args[{index}]"), argument)?;
    }
    Ok(())
}

fn environment(process: &Process, at: &str) -> Result<()> {
    for (index, variable) in process.env().as_deref().unwrap_or_default().iter().enumerate() {
        let field = format!("{at}.env[{index}]");
        no_nul(&field, variable)?;
        if !variable.contains('=') {
            return refuse(field, format!("`{variable}` has no `=`; write `NAME=value`"));
        }
    }
    Ok(())
}

fn rlimits(limits: &[PosixRlimit], at: &str) -> Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let (kind, field) = (limit.typ(), format!("{at}[{index}]"));
        if limits[..index].iter().any(|earlier| earlier.typ() == kind) {
            return refuse(field, format!("sets {kind} a second time; remove one of them"));
        }
        if limit.soft() > limit.hard() {
            let (soft, hard) = (limit.soft(), limit.hard());
            return refuse(
                format!("{field}.soft"),
                format!("{soft} is above the hard limit {hard} of {kind}"),
            );
        }
    }
    Ok(())
}

/// sched_setattr(2).
fn check_scheduler(scheduler: &Scheduler, at: &str) -> Result<()> {
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return refuse(format!("{at}.nice"), format!("{nice} is out of range; use -20 to 19"));
    }
    let realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if scheduler.priority().unwrap_or(0) != 0 && !realtime {
        return refuse(format!("{at}.priority"), "is for SCHED_FIFO and SCHED_RR alone; remove it");
    }
    let times = [
        ("runtime", scheduler.runtime()),
        ("deadline", scheduler.deadline()),
        ("period", scheduler.period()),
    ];
    for (name, time) in times {
        if time.unwrap_or(0) != 0 && policy != Policy::SchedDeadline {
            return refuse(format!("{at}.{name}"), "is for SCHED_DEADLINE alone; remove it");
        }
    }
    Ok(())
}

fn check_io_priority(priority: &LinuxIOPriority, at: &str) -> Result<()> {
    match priority.priority() {
        0..=7 => Ok(()),
        other => refuse(format!("{at}.priority"), format!("{other} is out of range; use 0 to 7")),
    }
}

/// Ids that do not exist in the user namespace: the kernel would only say EINVAL.
pub fn check_mapped(process: &Process, linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    if !namespaces.is_new(Kind::User) {
        return Ok(());
    }
    let user = process.user();
    let gids = user.additional_gids().as_deref().unwrap_or_default();
    let uid_mappings = linux.uid_mappings().as_deref().unwrap_or_default();
    let gid_mappings = linux.gid_mappings().as_deref().unwrap_or_default();
    mapped(uid_mappings, user.uid(), "process.user.uid", "linux.uidMappings")?;
    mapped(gid_mappings, user.gid(), "process.user.gid", "linux.gidMappings")?;
    for (at, gid) in gids.iter().enumerate() {
        mapped(gid_mappings, *gid, &format!("process.user.additionalGids[{at}]"), "linux.gidMappings")?;
    }
    Ok(())
}

fn mapped(mappings: &[LinuxIdMapping], id: u32, field: &str, table: &str) -> Result<()> {
    let holds = |m: &LinuxIdMapping| id.checked_sub(m.container_id()).is_some_and(|at| at < m.size());
    match mappings.iter().any(holds) {
        true => Ok(()),
        false => refuse(field, format!("{id} is not in {table}; map it or use another id")),
    }
}
