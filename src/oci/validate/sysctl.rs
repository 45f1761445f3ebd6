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
    let needed = if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Kind::Ipc
    } else if name.starts_with("net.") {
        Kind::Network
    } else if name.starts_with("user.") {
        Kind::User
    } else if name == "kernel.domainname" {
        Kind::Uts
    } else if name == "kernel.hostname" {
        return refuse(field, "conflicts with the spec's own `hostname`; set that instead");
    } else {
        return refuse(field, "is not namespaced and would change the host; set it on the host");
    };
    match namespaces.has(needed) {
        true => Ok(()),
        false => {
            refuse(field, format!("would change the host's {needed} namespace; give the container its own"))
        }
    }
}
