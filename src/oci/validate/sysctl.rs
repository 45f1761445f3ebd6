//! Refusals of kernel settings that would reach beyond the container. namespaces(7), proc_sys(5).

use oci_spec::runtime::Linux;

use super::namespaces::{Kind, Namespaces};
use super::{Result, no_nul, refuse};

pub fn check(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    for (name, value) in linux.sysctl().iter().flatten() {
        let field = format!("linux.sysctl.{name}");
        no_nul(&field, name)?;
        no_nul(&field, value)?;
        let dotted = with_dots(name);
        if dotted.split('.').any(str::is_empty) || dotted.split('/').any(|part| part.is_empty()) {
            return refuse(field, "is no name of a setting; write it like `net.ipv4.ip_forward`");
        }
        check_one(&field, &dotted, namespaces)?;
    }
    Ok(())
}

/// The name with dots between its parts. Written with `/` first, dots belong to a part (`net/ipv4/conf/eth0.1`).
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => swapped(name),
        _ => name.into(),
    }
}

/// The file of a checked setting, relative to `/proc/sys`.
pub fn path(name: &str) -> String {
    swapped(&with_dots(name))
}

fn swapped(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

fn check_one(field: &str, name: &str, namespaces: &Namespaces<'_>) -> Result<()> {
    match namespace_of(name) {
        Some(needed) if namespaces.has(needed) => Ok(()),
        Some(needed) => {
            refuse(field, format!("would change the host's {needed} namespace; give the container its own"))
        }
        None if name == "kernel.hostname" => {
            refuse(field, "conflicts with the spec's own `hostname`; set that instead")
        }
        None => refuse(field, "is not namespaced and would change the host; set it on the host"),
    }
}

/// Whose setting it is, of those that may be set.
fn namespace_of(dotted: &str) -> Option<Kind> {
    match dotted {
        "kernel.domainname" => Some(Kind::Uts),
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(Kind::Ipc),
        name if name.starts_with("net.") => Some(Kind::Network),
        name if name.starts_with("user.") => Some(Kind::User),
        _ => None,
    }
}

/// The first setting of a namespace of `kind`.
pub fn of_namespace(linux: &Linux, kind: Kind) -> Option<&str> {
    let mut names = linux.sysctl().iter().flatten().map(|(name, _)| name.as_str());
    names.find(|name| namespace_of(&with_dots(name)) == Some(kind))
}
