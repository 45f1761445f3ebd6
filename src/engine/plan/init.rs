//! The plan of a container's init: one list, top to bottom, each line with the reason for its place.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, Process, Spec};

use super::identity::{self, Given};
use super::mounts::{self, Host};
use super::target::c_string;
use super::{Fd, Plan, Step, Sync, Target, devices};
use crate::engine::Error;

/// A namespace of the spec that is joined, not created.
#[derive(Clone, Debug)]
pub struct Joined {
    pub kind: Kind,
    pub path: PathBuf,
    pub fd: Fd,
}

/// What the shim found out or opened for this container; the rest is the spec's.
pub struct Inputs {
    pub id: String,
    pub rootfs: PathBuf,
    pub host: Host,
    pub given: Given,
    pub stdio: [Option<Fd>; 3],
    pub joined: Vec<Joined>,
    /// `tasks` files of cgroup v1 hierarchies, and the v2 directory to be born in.
    pub tasks: Vec<Fd>,
    pub cgroup: Option<Fd>,
    /// With `no_pivot_root`: where all of procfs and sysfs is mounted on the host.
    pub whole: Option<Vec<CString>>,
    pub no_new_keyring: bool,
    /// The shim may not make device nodes: the host's are bound.
    pub rootless: bool,
    /// Does the host have /proc/kcore? Then /dev/core points there.
    pub kcore: bool,
}

/// Builds the plan. Makes no system call (but for reading a `copy-symlink` source).
pub fn build(spec: &Spec, inputs: &Inputs) -> Result<Plan, Error> {
    let process =
        spec.process().as_ref().ok_or_else(|| Error::Spec("process is missing: nothing to run".into()))?;
    let nothing = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&nothing);
    let spaces = Spaces::new(linux, &inputs.joined);
    if !spaces.has(Kind::Mount) {
        return Err(Error::Spec(
            "linux.namespaces has no `mount`: add it, a container needs mounts of its own".into(),
        ));
    }
    let mut plan = Plan { cgroup: inputs.cgroup.clone(), ..Plan::default() };
    spaces.clone_and_join(&mut plan);
    early(&mut plan, process, inputs)?;
    // ORDER: root of the user namespace before anything else is made, so that all of it belongs to the namespace.
    spaces.become_root(&mut plan);
    spaces.unshare(&mut plan, linux, inputs)?;
    session(&mut plan, spec, &spaces, inputs)?;
    filesystems(&mut plan, spec, linux, &spaces, inputs)?;
    identity::append(&mut plan, process, &inputs.given)?;
    Ok(plan)
}

/// What needs the host's view and rights.
fn early(plan: &mut Plan, process: &Process, inputs: &Inputs) -> Result<(), Error> {
    if inputs.given.pinned {
        plan.steps.insert(0, Step::EveryCpu);
    }
    // ORDER: the cgroup first: all that follows is accounted, and a cgroup namespace takes its root from here.
    if let Some(score) = process.oom_score_adj() {
        let value = c_string(score.to_string())?;
        plan.steps.insert(0, Step::OomScoreAdj { value, proc: inputs.given.proc.clone() });
    }
    if !inputs.tasks.is_empty() {
        plan.steps.insert(0, Step::JoinCgroups(inputs.tasks.clone()));
    }
    Ok(())
}

fn session(plan: &mut Plan, spec: &Spec, spaces: &Spaces<'_>, inputs: &Inputs) -> Result<(), Error> {
    if !inputs.no_new_keyring {
        let name = format!("_ses.{}", inputs.id);
        plan.steps.extend(identity::keyring(&name, spec.process().as_ref(), &inputs.given)?);
    }
    if spaces.creates(Kind::Network) {
        plan.steps.push(Step::Loopback);
    }
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        plan.steps.push(Step::Hostname(c_string(name)?));
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        plan.steps.push(Step::Domainname(c_string(name)?));
    }
    Ok(())
}

fn filesystems(
    plan: &mut Plan,
    spec: &Spec,
    linux: &Linux,
    spaces: &Spaces<'_>,
    inputs: &Inputs,
) -> Result<(), Error> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let process = spec.process().as_ref();
    let terminal = process.and_then(Process::terminal).unwrap_or(false);
    let propagation = root_propagation(linux)?;
    // ORDER: cut propagation before the first mount, or the container's mounts would show up on the host.
    plan.steps.push(Step::Propagation(initial_propagation(propagation)));
    // COMPAT: private unless asked to be a slave, as in runc.
    let slave = propagation.is_some_and(|flags| flags & libc::MS_SLAVE != 0);
    plan.steps.push(Step::Root { path: c_string(inputs.rootfs.as_os_str().as_encoded_bytes())?, slave });
    // ORDER: stdio while the host's /dev/null is in sight.
    if !terminal {
        plan.steps.push(Step::Stdio(inputs.stdio.clone()));
    }
    let late = mounts::append(plan, mounts, &inputs.host)?;
    let own_dev = !mounts::binds_dev(mounts);
    if own_dev {
        let given = linux.devices().as_deref().unwrap_or_default();
        devices::append(plan, given, spaces.in_userns() || inputs.rootless, inputs.kcore)?;
        let null = [0, 1, 2].map(|fd| inputs.stdio[fd].is_none());
        if !terminal && null.contains(&true) {
            plan.steps.push(Step::OwnNull(null));
        }
    }
    if let Some(process) = process {
        // COMPAT: runc makes a missing working directory.
        plan.steps.push(Step::Directory(Target::new(process.cwd())?));
        if terminal {
            plan.steps.push(identity::console(process, true));
        }
    }
    if has_setup_hooks(spec) {
        // ORDER: hooks see all mounts and may add some, before anything is protected or pivoted.
        plan.steps.push(Step::Sync(Sync::Hooks));
    }
    sysctls(plan, linux, inputs)?;
    plan.steps.extend(late);
    protect(plan, spec, linux, inputs.host.label.as_deref())?;
    plan.steps.push(inputs.whole.clone().map_or(Step::Pivot, Step::MoveRoot));
    // COMPAT: private and slave are done already; once more, `rslave` would undo the `rshared` of a volume.
    let done = libc::MS_PRIVATE | libc::MS_SLAVE;
    plan.steps.extend(propagation.filter(|flags| flags & done == 0).map(Step::RootPropagation));
    Ok(())
}

/// ORDER: sysctls before read-only paths, which may cover /proc/sys; masks last, so that nothing is mounted on them.
fn protect(plan: &mut Plan, spec: &Spec, linux: &Linux, label: Option<&str>) -> Result<(), Error> {
    for path in linux.readonly_paths().iter().flatten() {
        plan.steps.push(Step::ReadonlyPath(Target::new(Path::new(path))?));
    }
    let mut masked = Vec::new();
    for path in linux.masked_paths().iter().flatten() {
        let target = Target::new(Path::new(path))?;
        if !masked.contains(&target) {
            masked.push(target);
        }
    }
    for target in masked {
        let label = label.map(c_string).transpose()?;
        plan.steps.push(Step::MaskPath { target, label });
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        plan.steps.push(Step::ReadonlyRoot);
    }
    Ok(())
}

fn sysctls(plan: &mut Plan, linux: &Linux, inputs: &Inputs) -> Result<(), Error> {
    let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
    sysctls.sort();
    for (key, value) in sysctls {
        let path = c_string(format!("sys/{}", crate::oci::validate::sysctl_path(key)))?;
        plan.steps.push(Step::Sysctl { path, value: c_string(value)?, proc: inputs.given.proc.clone() });
    }
    Ok(())
}

fn has_setup_hooks(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    let prestart = hooks.prestart();
    [prestart, hooks.create_runtime(), hooks.create_container()]
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// The propagation of the whole tree while the container is made. What is unbindable could not be bound any more:
/// until all is in place, it is private.
pub fn initial_propagation(asked: Option<u64>) -> u64 {
    match asked {
        Some(flags) if flags & libc::MS_UNBINDABLE != 0 => libc::MS_PRIVATE | flags & libc::MS_REC,
        Some(flags) => flags,
        None => libc::MS_SLAVE | libc::MS_REC,
    }
}

/// `linux.rootfsPropagation` as `MS_*`.
pub fn root_propagation(linux: &Linux) -> Result<Option<u64>, Error> {
    let Some(word) = linux.rootfs_propagation().as_ref().filter(|word| !word.is_empty()) else {
        return Ok(None);
    };
    let flags = match word.trim_start_matches('r') {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => {
            let remedy = "use shared, slave, private or unbindable, with or without a leading r";
            return Err(Error::Spec(format!("linux.rootfsPropagation {word:?} is unknown: {remedy}")));
        }
    };
    Ok(Some(flags | if word.starts_with('r') { libc::MS_REC } else { 0 }))
}

/// The namespaces of the spec, sorted into created and joined ones.
struct Spaces<'a> {
    created: Vec<Kind>,
    joined: &'a [Joined],
}

impl<'a> Spaces<'a> {
    fn new(linux: &Linux, joined: &'a [Joined]) -> Self {
        let all = linux.namespaces().as_deref().unwrap_or_default();
        let created = all.iter().filter(|ns| ns.path().as_ref().is_none_or(|p| p.as_os_str().is_empty()));
        Self { created: created.map(|ns| ns.typ()).collect(), joined }
    }

    fn creates(&self, kind: Kind) -> bool {
        self.created.contains(&kind)
    }

    fn joins(&self, kind: Kind) -> bool {
        self.joined.iter().any(|ns| ns.kind == kind)
    }

    fn has(&self, kind: Kind) -> bool {
        self.creates(kind) || self.joins(kind)
    }

    fn in_userns(&self) -> bool {
        self.has(Kind::User)
    }

    fn clone_and_join(&self, plan: &mut Plan) {
        // KERNEL: cgroup and time namespaces cannot come from clone3: the first takes its root from the cgroup that
        // the process joins only afterwards, the second must have its offsets before its first member.
        let at_clone = |kind: &&Kind| !matches!(kind, Kind::Cgroup | Kind::Time);
        plan.clone_flags = self.created.iter().filter(at_clone).map(|kind| *kind as u64).sum();
        let mut others: Vec<&Joined> = self.joined.iter().filter(|ns| ns.kind != Kind::Pid).collect();
        // ORDER: the user namespace last, for it takes the host's privileges away; mount before it and after the rest.
        others.sort_by_key(|ns| match ns.kind {
            Kind::User => 2,
            Kind::Mount => 1,
            _ => 0,
        });
        plan.pidns = self.joined.iter().find(|ns| ns.kind == Kind::Pid).map(|ns| ns.fd.clone());
        for ns in others {
            let kind = ns.kind as i32;
            match self.in_userns() {
                true => plan.born_in.push((kind, ns.fd.clone())),
                false => plan.steps.push(Step::JoinNamespace {
                    kind,
                    name: name(ns.kind),
                    path: ns.path.clone(),
                    fd: ns.fd.clone(),
                }),
            }
        }
    }

    fn become_root(&self, plan: &mut Plan) {
        if self.creates(Kind::User) {
            plan.steps.push(Step::Sync(Sync::IdMap));
        }
        if self.in_userns() {
            plan.steps.push(Step::BecomeRoot);
        }
    }

    fn unshare(&self, plan: &mut Plan, linux: &Linux, inputs: &Inputs) -> Result<(), Error> {
        if self.creates(Kind::Cgroup) {
            plan.steps.push(Step::Unshare { kinds: libc::CLONE_NEWCGROUP, name: "cgroup" });
        }
        if self.creates(Kind::Time) {
            let mut offsets = Vec::new();
            for (clock, offset) in linux.time_offsets().iter().flatten() {
                let line =
                    format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
                offsets.push(c_string(line)?);
            }
            offsets.sort();
            plan.steps.push(Step::TimeNamespace { offsets, proc: inputs.given.proc.clone() });
        }
        Ok(())
    }
}

/// The spec's word for a namespace.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mount",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "network",
        Kind::Time => "time",
    }
}
