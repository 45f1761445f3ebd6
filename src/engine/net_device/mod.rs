//! `linux.netDevices`: network devices moved from the shim's network namespace into the container's. runtime-spec,
//! "Network Devices"; rtnetlink(7).
//!
//! The shim does it while the new process waits, before any hook: the child has no way back to the host's namespace.
//! Nothing is undone: the spec leaves devices to the kernel, which sends the physical ones home with the namespace.

mod message;
mod route;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxNetDevice;

use super::error::Error;
use route::Route;

/// Moves `devices`, in the order of their names, into the namespace behind `netns`.
///
/// # Errors
/// Names the device, what failed and the remedy; devices moved before stay in the namespace.
pub fn move_all(devices: &HashMap<String, LinuxNetDevice>, netns: &OwnedFd) -> Result<(), Error> {
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    if devices.is_empty() {
        return Ok(());
    }
    let failed = |e| Error::doing("linux.netDevices: talking to rtnetlink", e);
    let (here, there) = (Route::here().map_err(failed)?, Route::inside(netns)?);
    devices.into_iter().try_for_each(|(name, device)| {
        let renamed = device.name().as_deref().filter(|renamed| !renamed.is_empty());
        one(&here, &there, name, renamed.unwrap_or(name), netns)
    })
}

fn one(here: &Route, there: &Route, name: &str, new: &str, netns: &OwnedFd) -> Result<(), Error> {
    let failed = |doing: &str, e: crate::sys::Error| {
        let what = format!("linux.netDevices[{name}]: {doing}");
        match remedy(e.errno) {
            "" => Error::doing(what, e),
            remedy => Error::doing(what, format!("{e}: {remedy}")),
        }
    };
    let index = here.index(name).map_err(|e| failed("finding the device", e))?;
    // ORDER: addresses before the move, which takes them away, and before anything else, for IPv6 ones go when a
    // device is set down.
    let addresses = here.addresses(index).map_err(|e| failed("reading its addresses", e))?;
    let before = there.indexes().map_err(|e| failed("listing the container's devices", e))?;
    let doing = format!("moving it into the container as {new}");
    // KERNEL: it moves first and renames then: a device whose new name is taken would be gone from here all the same.
    if !new.contains('%') && there.index(new).is_ok() {
        return Err(failed(&doing, crate::sys::Error::new("RTM_NEWLINK", libc::EEXIST)));
    }
    // One request, so that the name it has here never meets a namesake there.
    here.move_to(index, new, netns).map_err(|e| failed(&doing, e))?;
    // With a template (`eth%d`) the kernel has chosen the name: ours is the device that was not there before.
    let after = there.indexes().map_err(|e| failed("listing the container's devices", e))?;
    let moved = after.into_iter().find(|index| !before.contains(index));
    let moved = moved.ok_or_else(|| failed("finding it in the container", lost()))?;
    for address in addresses.iter().filter(|address| address.is_to_be_kept()) {
        there.add(moved, address).map_err(|e| failed(&format!("adding its address {address}"), e))?;
    }
    there.up(moved).map_err(|e| failed("bringing it up in the container", e))
}

fn lost() -> crate::sys::Error {
    crate::sys::Error::new("RTM_GETLINK", libc::ENODEV)
}

fn remedy(errno: i32) -> &'static str {
    match errno {
        libc::ENODEV => "there is no such device in the runtime's network namespace",
        libc::EEXIST => "the container has a device of that name; give it another one in `name`",
        libc::EINVAL => "the kernel keeps devices of this kind in their network namespace",
        libc::EPERM => "it takes CAP_NET_ADMIN in both network namespaces",
        libc::EBUSY => "it is in use",
        _ => "",
    }
}
