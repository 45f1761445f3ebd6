//! Putting device rules into force: `devices.allow`/`devices.deny` on v1, an attached BPF program on cgroup2.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::device_filter::compile;
use super::device_rules::DeviceRules;
use super::error::{Error, Result};
use super::{Cgroup, Place, file};
use crate::sys::bpf;

/// Whether the container's devices are restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DevicePolicy {
    /// The spec's rules and the devices that every container has.
    Enforce,
    /// No rules: a user namespace, in which no device can be made or opened anyway, or a rootless shim.
    Skip,
}

pub(super) fn apply(cgroup: &Cgroup, spec: &[LinuxDeviceCgroup]) -> Result<()> {
    let rules = DeviceRules::new(spec)?;
    match cgroup.place("devices") {
        Some(Place::V1(dir)) => apply_v1(dir, &rules),
        Some(Place::V2(dir)) => apply_v2(dir, &rules),
        None => Err(Error::NoController {
            field: "devices",
            controller: "devices",
            path: cgroup.dirs().next().map(|d| d.dir.clone()).unwrap_or_default(),
            remedy: "mount its hierarchy or use cgroup v2; without it a container could open any device",
        }),
    }
}

fn apply_v1(dir: &Path, rules: &DeviceRules) -> Result<()> {
    let now = DeviceRules::from_list(&file::read(dir, "devices.list")?);
    let lines = now.lines_to(rules);
    let mut files = [None, None];
    for line in &lines {
        let slot = &mut files[usize::from(line.allow)];
        let path = dir.join(if line.allow { "devices.allow" } else { "devices.deny" });
        let written = open(slot, &path).and_then(|mut f| f.write_all(line.text.as_bytes()));
        written.map_err(|e| {
            let told = Error::write(path, &line.text, &e);
            match told.errno() {
                libc::EPERM => told.with_remedy("the parent cgroup does not allow this device"),
                libc::EINVAL => told.with_remedy("the default cannot change while there are child cgroups"),
                _ => told,
            }
        })?;
    }
    Ok(())
}

/// One open file for all lines: a rule is a write, and a container has a dozen.
fn open<'f>(slot: &'f mut Option<File>, path: &Path) -> std::io::Result<&'f File> {
    if slot.is_none() {
        *slot = Some(OpenOptions::new().write(true).open(path)?);
    }
    slot.as_ref().ok_or_else(|| std::io::Error::from_raw_os_error(libc::EBADF))
}

/// ORDER: the new program is in force before the old one goes: with several attached, all must agree, so there is no
/// moment without rules.
fn apply_v2(dir: &Path, rules: &DeviceRules) -> Result<()> {
    let failed = |doing| move |e| Error::filter(doing, dir, e);
    let cgroup = File::open(dir).map_err(|e| Error::file("open", dir, &e))?;
    let mut ids = [0; bpf::MAX_ATTACHED];
    // KERNEL: without CONFIG_CGROUP_BPF a container that may use everything needs no program.
    let old = match bpf::query_cgroup_device(cgroup.as_fd(), &mut ids) {
        Err(_) if rules.allow_all() => return Ok(()),
        old => old.map_err(failed("look for the device filters of"))?,
    };
    let old = old.iter().map(|id| bpf::prog_get_fd_by_id(*id)).collect::<std::result::Result<Vec<_>, _>>();
    let old = old.map_err(failed("open the device filters of"))?;
    if !rules.allow_all() {
        let program =
            bpf::load_cgroup_device(&compile(rules)).map_err(failed("load the device filter of"))?;
        // KERNEL: BPF_F_REPLACE, since 5.6, swaps one program for another in one step.
        if let [only] = &old[..]
            && bpf::replace_cgroup_device(cgroup.as_fd(), program.as_fd(), only.as_fd()).is_ok()
        {
            return Ok(());
        }
        bpf::attach_cgroup_device(cgroup.as_fd(), program.as_fd())
            .map_err(failed("attach the device filter to"))?;
    }
    for program in &old {
        bpf::detach_cgroup_device(cgroup.as_fd(), program.as_fd())
            .map_err(failed("detach the old device filter from"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::super::device_rules::tests::spec;
    use super::super::testing;
    use super::*;

    /// What a process in the cgroup sees when it reads a device; moves itself in first.
    fn can_open(cgroup: &Cgroup, device: &str) -> bool {
        let (Place::V1(dir) | Place::V2(dir)) = cgroup.place("devices").unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && exec 3<{device}", dir.display());
        Command::new("sh").args(["-c", &script]).output().unwrap().status.success()
    }

    #[test]
    fn rules_are_in_force_and_replaced_by_an_update() {
        let Some(cgroup) = testing::cgroup("devices") else { return };
        cgroup.create().unwrap();
        assert!(can_open(&cgroup, "/dev/kmsg"));
        apply(&cgroup, &spec(&["deny a"])).unwrap();
        assert!(can_open(&cgroup, "/dev/null") && !can_open(&cgroup, "/dev/kmsg"));
        for _ in 0..3 {
            apply(&cgroup, &spec(&["deny a", "allow c 1:11 r"])).unwrap();
            assert!(can_open(&cgroup, "/dev/kmsg"));
            apply(&cgroup, &spec(&["allow a", "deny c 1:11 w"])).unwrap();
            assert!(can_open(&cgroup, "/dev/kmsg"));
            apply(&cgroup, &spec(&["deny a"])).unwrap();
            assert!(!can_open(&cgroup, "/dev/kmsg"));
        }
        apply(&cgroup, &spec(&["allow a"])).unwrap();
        assert!(can_open(&cgroup, "/dev/kmsg"));
        cgroup.remove(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn the_v1_list_is_exactly_what_was_asked_for() {
        let Some(cgroup) = testing::cgroup("devlist") else { return };
        let Some(dir) = cgroup.v1_dir("devices") else { return eprintln!("skipped: needs cgroup v1") };
        cgroup.create().unwrap();
        let rules = DeviceRules::new(&spec(&["deny a", "allow b 7:* rw"])).unwrap();
        apply_v1(dir, &rules).unwrap();
        assert_eq!(DeviceRules::from_list(&file::read(dir, "devices.list").unwrap()), rules);
        cgroup.remove(Duration::ZERO).unwrap();
    }
}
