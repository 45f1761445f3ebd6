//! Refusals about `linux.resources`, at Create and in an update: what no kernel can be asked for (config-linux.md,
//! "Control groups").

use oci_spec::runtime::{LinuxDeviceType, LinuxMemory, LinuxResources};

use super::{Result, refuse};

/// `at` is where the resources stand: `linux.resources`, or an update's own.
pub fn check(resources: &LinuxResources, at: &str) -> Result<()> {
    devices(resources, at)?;
    if let Some(of) = resources.memory() {
        memory(of, &format!("{at}.memory"))?;
    }
    let io = resources.block_io().as_ref();
    for (index, device) in io.iter().flat_map(|io| io.weight_device().iter().flatten()).enumerate() {
        if device.weight().is_none() && device.leaf_weight().is_none() {
            let field = format!("{at}.blockIO.weightDevice[{index}]");
            return refuse(field, "has no weight; give at least one of `weight` and `leafWeight`");
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        if limit.hca_handles().is_none() && limit.hca_objects().is_none() {
            let field = format!("{at}.rdma.{device}");
            return refuse(field, "has no limit; give at least one of `hcaHandles` and `hcaObjects`");
        }
    }
    for key in resources.unified().iter().flat_map(|map| map.keys()) {
        // A key is a file of the container's own cgroup and must not lead out of it.
        if key.is_empty() || key.starts_with('.') || key.contains(['/', '\0']) {
            let field = format!("{at}.unified");
            return refuse(field, format!("`{key}` is no cgroup file name; write it like `memory.high`"));
        }
    }
    Ok(())
}

fn devices(resources: &LinuxResources, at: &str) -> Result<()> {
    for (index, rule) in resources.devices().as_deref().unwrap_or_default().iter().enumerate() {
        let field = format!("{at}.devices[{index}]");
        let access = rule.access().as_deref().unwrap_or_default();
        if access.is_empty() || !access.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
            return refuse(format!("{field}.access"), format!("`{access}` must be made of `r`, `w` and `m`"));
        }
        if matches!(rule.typ(), Some(LinuxDeviceType::U | LinuxDeviceType::P)) {
            return refuse(format!("{field}.type"), "must be `a`, `b` or `c`");
        }
    }
    Ok(())
}

fn memory(memory: &LinuxMemory, at: &str) -> Result<()> {
    let sizes = [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
        ("kernel", memory.kernel()),
        ("kernelTCP", memory.kernel_tcp()),
    ];
    for (name, size) in sizes {
        if let Some(size) = size.filter(|size| *size < -1) {
            return refuse(format!("{at}.{name}"), format!("{size} is no size; -1 is no limit"));
        }
    }
    match memory.swappiness() {
        // COMPAT: -1 (all ones here) is "leave it", as Docker sends it.
        Some(value) if value > 100 && value as i64 != -1 => {
            refuse(format!("{at}.swappiness"), format!("{value} is out of range; it is 0 to 100"))
        }
        _ => Ok(()),
    }
}
