//! Refusals about the rest of `linux`: cgroup, devices, masked paths, network devices, memory policy, RDT.

use std::path::{Component, Path};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxMemoryPolicy, MemoryPolicyModeType as Mode,
};

use super::namespaces::{Kind, Namespaces};
use super::{Result, absolute, path_text, refuse};
use crate::oci::mount_options::MountOptions;

pub fn check(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    if let Some(path) = linux.cgroups_path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
        cgroups_path(path)?;
    }
    if let Some(resources) = linux.resources() {
        super::check_resources(resources, "linux.resources")?;
    }
    for (at, device) in linux.devices().as_deref().unwrap_or_default().iter().enumerate() {
        check_device(device, &format!("linux.devices[{at}]"))?;
    }
    paths(linux, namespaces)?;
    propagation(linux)?;
    net_devices(linux, namespaces)?;
    if let Some(policy) = linux.memory_policy() {
        memory_policy(policy)?;
    }
    rdt(linux)
}

fn cgroups_path(path: &Path) -> Result<()> {
    let field = "linux.cgroupsPath";
    path_text(field, path)?;
    if path.components().any(|component| component == Component::ParentDir) {
        return refuse(field, format!("`{}` contains `..`; write the path without it", path.display()));
    }
    Ok(())
}

fn check_device(device: &LinuxDevice, at: &str) -> Result<()> {
    absolute(&format!("{at}.path"), device.path())?;
    if device.typ() == LinuxDeviceType::A {
        return refuse(format!("{at}.type"), "must be `b`, `c`, `u` or `p`; `a` is for cgroup rules alone");
    }
    let range = 0..=i64::from(u32::MAX);
    for (name, number) in [("major", device.major()), ("minor", device.minor())] {
        if device.typ() != LinuxDeviceType::P && !range.contains(&number) {
            return refuse(format!("{at}.{name}"), format!("{number} is no device number"));
        }
    }
    Ok(())
}

fn paths(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    let lists =
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())];
    for (field, list) in lists {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() && !namespaces.has(Kind::Mount) {
            return refuse(field, "needs a mount namespace; add one to linux.namespaces");
        }
        for (at, path) in list.iter().enumerate() {
            absolute(&format!("{field}[{at}]"), Path::new(path))?;
        }
    }
    Ok(())
}

fn propagation(linux: &Linux) -> Result<()> {
    let word = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if word.is_empty() || MountOptions::parse(&[word]).propagation.len() == 1 {
        return Ok(());
    }
    let words = "shared, slave, private, unbindable, or one of them with `r` before it";
    refuse("linux.rootfsPropagation", format!("`{word}` is unknown; use {words}"))
}

fn net_devices(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else {
        return Ok(());
    };
    if !namespaces.has(Kind::Network) {
        return refuse("linux.netDevices", "needs a network namespace; add one to linux.namespaces");
    }
    for (name, device) in devices {
        let renamed = device.name().as_deref().filter(|renamed| !renamed.is_empty());
        for name in std::iter::once(name.as_str()).chain(renamed) {
            let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != "..";
            if !fits || name.contains(['/', ':', '\0']) || name.contains(char::is_whitespace) {
                return refuse("linux.netDevices", format!("`{name}` is no name of a network device"));
            }
        }
    }
    Ok(())
}

/// set_mempolicy(2).
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let field = "linux.memoryPolicy.nodes";
    let nodes = policy.nodes().as_deref().unwrap_or_default().trim();
    let (mode, given) = (policy.mode(), !nodes.is_empty());
    let list = super::is_list(nodes);
    match mode {
        _ if given && !list => refuse(field, format!("`{nodes}` is no list of nodes; write it like `0-1,3`")),
        Mode::MpolDefault | Mode::MpolLocal if given => refuse(field, format!("must be empty for {mode}")),
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => Ok(()),
        _ if given => Ok(()),
        _ => refuse(field, format!("is empty; {mode} needs at least one node")),
    }
}

fn rdt(linux: &Linux) -> Result<()> {
    let Some(rdt) = linux.intel_rdt() else { return Ok(()) };
    let schemas = [("l3CacheSchema", rdt.l3_cache_schema(), ""), ("memBwSchema", rdt.mem_bw_schema(), "MB:")];
    for (name, schema, prefix) in schemas {
        let schema = schema.as_deref().unwrap_or_default();
        if schema.contains('\n') || !(schema.is_empty() || schema.starts_with(prefix)) {
            let must = format!("`{schema}` must be one line that begins with `{prefix}`");
            return refuse(format!("linux.intelRdt.{name}"), must);
        }
    }
    for (at, line) in rdt.schemata().iter().flatten().enumerate() {
        if line.contains('\n') {
            return refuse(
                format!("linux.intelRdt.schemata[{at}]"),
                "must be one line; make each an element",
            );
        }
    }
    let Some(class) = linux.intel_rdt().as_ref().and_then(|rdt| rdt.clos_id().as_deref()) else {
        return Ok(());
    };
    if class == "." || class == ".." || (class.len() > 1 && class.contains('/')) {
        return refuse("linux.intelRdt.closID", format!("`{class}` must be the name of one folder, or `/`"));
    }
    Ok(())
}
