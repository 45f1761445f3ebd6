//! /dev: the nodes and links every container has (runtime-spec, Linux, "Default Devices"), and `linux.devices`.

use std::ffi::CStr;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::target::c_string;
use super::{Device, Plan, Step, Target};
use crate::engine::Error;

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Appends nodes and links. `bind`: in a user namespace mknod(2) is forbidden, so the host's nodes are bound.
pub fn append(plan: &mut Plan, devices: &[LinuxDevice], bind: bool, kcore: bool) -> Result<(), Error> {
    plan.steps.push(Step::Directory(Target::new(Path::new("/dev"))?));
    let given = |path: &str| devices.iter().any(|d| d.path() == Path::new(path));
    for (path, major, minor) in DEFAULTS.into_iter().filter(|(path, ..)| !given(path)) {
        let node = Device {
            target: Target::new(Path::new(path))?,
            mode: libc::S_IFCHR | 0o666,
            rdev: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
            host: c_string(path)?,
            bind,
        };
        plan.steps.push(Step::Device(node));
    }
    for (index, device) in devices.iter().enumerate() {
        let node = node(index, device, bind)?;
        // COMPAT: as under runc and crun, the multiplexer is always that of the container's own devpts.
        if !node.target.is(c"dev/ptmx") {
            plan.steps.push(Step::Device(node));
        }
    }
    let kcore = kcore.then_some((c"/proc/kcore", c"core"));
    for (target, name) in LINKS.into_iter().chain(kcore) {
        plan.steps.push(Step::Link { target, name });
    }
    Ok(())
}

fn node(index: usize, device: &LinuxDevice, bind: bool) -> Result<Device, Error> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            let remedy = "type `a` is for device rules only; use c, b, u or p";
            return Err(Error::Spec(format!("linux.devices[{index}].type: {remedy}")));
        }
    };
    Ok(Device {
        target: Target::new(device.path())?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        rdev: libc::makedev(device.major() as u32, device.minor() as u32),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        host: c_string(device.path().as_os_str().as_encoded_bytes())?,
        bind,
    })
}
