//! How a plan prints: one line a step, the same in golden plans and in error messages.

use std::ffi::CString;
use std::fmt;

use super::words::{attributes, namespaces, propagation};
use super::{Links, Mount, Plan, Source, Step, Sync};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clone with new namespaces: {}", namespaces(self.clone_flags))?;
        if !self.born_in.is_empty() {
            let kinds = self.born_in.iter().fold(0, |all, (kind, _)| all | *kind as u64);
            writeln!(f, "born in given namespaces: {}", namespaces(kinds))?;
        }
        if self.pidns.is_some() {
            writeln!(f, "born in a given namespace: pid")?;
        }
        if self.netns.is_some() {
            writeln!(f, "born in a new namespace made before: network")?;
        }
        if self.cgroup.is_some() {
            writeln!(f, "born in the container's cgroup")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinCgroups(_) => f.write_str("join the container's cgroups"),
            Self::JoinNamespace { name, path, .. } => write!(f, "join {name} namespace {}", path.display()),
            Self::JoinProcess { kinds, .. } => {
                write!(f, "join the container's namespaces: {}", namespaces(*kinds as u64))
            }
            Self::Unshare { name, .. } => write!(f, "new {name} namespace"),
            Self::TimeNamespace { offsets, .. } => write!(f, "new time namespace {offsets:?}"),
            Self::Sync(Sync::IdMap) => f.write_str("wait for the id maps"),
            Self::Sync(Sync::Hooks) => f.write_str("wait for the hooks"),
            Self::Sync(Sync::Ready) => f.write_str("wait for start"),
            Self::BecomeRoot => f.write_str("become root of the user namespace"),
            Self::Setsid => f.write_str("new session"),
            Self::DieWithShim => f.write_str("die with the shim"),
            Self::Birth => f.write_str("be born in the container's pid namespace"),
            Self::ControllingTerminal => f.write_str("controlling terminal"),
            Self::Keyring(name) => write!(f, "new session keyring {name:?}"),
            Self::Loopback => f.write_str("bring up loopback"),
            Self::Hostname(name) => write!(f, "hostname {name:?}"),
            Self::Domainname(name) => write!(f, "domainname {name:?}"),
            Self::Propagation(flags) => write!(f, "propagation of the mount tree {}", propagation(*flags)),
            Self::Root { path, slave } => {
                let slave = if *slave { ", a slave" } else { "" };
                write!(f, "root.path {}{slave}", path.to_string_lossy())
            }
            Self::Mount(mount) => mount.fmt(f),
            Self::Remount { target, attr } => {
                write!(f, "remount {target}{}", attributes(attr.set, attr.clear))
            }
            Self::Directory(target) => write!(f, "directory {target}"),
            Self::Device(d) => {
                let (major, minor) = (libc::major(d.rdev), libc::minor(d.rdev));
                let bound = if d.bind { ", bound from the host" } else { "" };
                write!(f, "device {} (mode {:o}, {major}:{minor}, ", d.target, d.mode)?;
                write!(f, "owner {}:{}{bound})", d.uid, d.gid)
            }
            Self::Link { target, name } => {
                write!(f, "link /dev/{} -> {}", name.to_string_lossy(), target.to_string_lossy())
            }
            _ => self.fmt_identity(f),
        }
    }
}

impl Step {
    fn fmt_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console { bind, size, .. } => {
                f.write_str("terminal")?;
                size.map_or(Ok(()), |(width, height)| write!(f, " of {width}x{height}"))?;
                f.write_str(if *bind { " on /dev/console" } else { "" })
            }
            Self::Sysctl { path, value, .. } => {
                write!(f, "sysctl /proc/{} = {}", path.to_string_lossy(), value.to_string_lossy())
            }
            Self::ReadonlyPath(target) => write!(f, "readonlyPaths {target}"),
            Self::MaskPath { target, label } => {
                write!(f, "maskedPaths {target}")?;
                label.iter().try_for_each(|label| write!(f, " labelled {}", label.to_string_lossy()))
            }
            Self::ReadonlyRoot => f.write_str("root.readonly"),
            Self::Pivot => f.write_str("pivot_root"),
            Self::MoveRoot(whole) => {
                whole.iter().try_for_each(|mount| write!(f, "hide {}; ", mount.to_string_lossy()))?;
                f.write_str("move the root over /")
            }
            Self::RootPropagation(flags) => write!(f, "rootfsPropagation {}", propagation(*flags)),
            Self::Stdio(_) => f.write_str("stdio"),
            Self::OwnNull(_) => f.write_str("stdio that is /dev/null, from the container's own"),
            Self::Rlimit { name, soft, hard, .. } => write!(f, "rlimit {name} {soft}:{hard}"),
            Self::OomScoreAdj { value, .. } => write!(f, "oomScoreAdj {}", value.to_string_lossy()),
            Self::Scheduler(attr) => {
                write!(f, "scheduler policy {} nice {} priority {}", attr.policy, attr.nice, attr.priority)
            }
            Self::IoPriority(value) => write!(f, "ioPriority {value:#x}"),
            Self::EveryCpu => f.write_str("every CPU"),
            Self::Affinity(_) => f.write_str("execCPUAffinity"),
            Self::MemoryPolicy { mode, .. } => write!(f, "memoryPolicy {mode:#x}"),
            Self::Personality(persona) => write!(f, "personality {persona:#x}"),
            Self::Umask(mask) => write!(f, "umask {mask:03o}"),
            Self::Label { file, label, .. } => {
                write!(f, "label {} in /proc/{}", label.to_string_lossy(), file.to_string_lossy())
            }
            Self::NoNewPrivs => f.write_str("noNewPrivileges"),
            Self::Home(uid) => write!(f, "HOME of user {uid}"),
            Self::Bounding(keep) => write!(f, "capabilities.bounding {keep:#x}"),
            Self::User { uid, gid, groups, .. } => write!(f, "user {uid}:{gid} groups {groups:?}"),
            Self::Capabilities { sets, ambient } => write!(
                f,
                "capabilities effective {:#x} permitted {:#x} inheritable {:#x} ambient {ambient:#x}",
                sets.effective, sets.permitted, sets.inheritable
            ),
            Self::Cwd { path, early } => {
                write!(
                    f,
                    "process.cwd {}{}",
                    path.to_string_lossy(),
                    if *early { "" } else { " as the user" }
                )
            }
            Self::Lookup(program) => write!(f, "find {:?}", program.name),
            Self::CloseDescriptors => f.write_str("close all descriptors but stdio"),
            Self::Seccomp(filter) => write!(f, "seccomp filter of {} instructions", filter.program.len()),
            Self::Execve { program, .. } => write!(f, "exec {}", program.name),
            _ => f.write_str("step"),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mounts[{}] {} -> {}", self.index, self.from, self.target)?;
        f.write_str(&attributes(self.attr.set, self.attr.clear))?;
        if self.recursive.set != 0 || self.recursive.clear != 0 {
            write!(f, " and below:{}", attributes(self.recursive.set, self.recursive.clear))?;
        }
        if self.take_over.content {
            f.write_str(" tmpcopyup")?;
        }
        self.label.iter().try_for_each(|label| write!(f, " labelled {}", label.to_string_lossy()))?;
        self.propagation.iter().try_for_each(|flags| write!(f, " {}", propagation(*flags)))?;
        f.write_str(match self.links {
            Links::InRoot => "",
            Links::NotLast => " (dest-nofollow)",
            Links::None => " (no links on the way)",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filesystem { kind, options, .. } => {
                write!(f, "{}", kind.to_string_lossy())?;
                options_of(f, options)
            }
            Self::Bind { path, recursive, nofollow } => {
                let nofollow = if *nofollow { " (src-nofollow)" } else { "" };
                let word = if *recursive { "rbind" } else { "bind" };
                write!(f, "{word} {}{nofollow}", path.to_string_lossy())
            }
            Self::Detached { path, .. } => write!(f, "detached {}", path.to_string_lossy()),
            Self::Symlink(to) => write!(f, "link {}", to.to_string_lossy()),
            Self::Remount { superblock } => {
                write!(f, "remount")?;
                options_of(f, superblock.as_deref().unwrap_or_default())
            }
        }
    }
}

fn options_of(f: &mut fmt::Formatter<'_>, options: &[(CString, Option<CString>)]) -> fmt::Result {
    options.iter().try_for_each(|(key, value)| {
        write!(f, ",{}", key.to_string_lossy())?;
        value.iter().try_for_each(|value| write!(f, "={}", value.to_string_lossy()))
    })
}
