//! A shim without the rights of the machine's root: root of a user namespace only, as under RootlessKit
//! (user_namespaces(7)). What it may not do, and may leave undone.

use std::sync::OnceLock;

use oci_spec::runtime::{Linux, LinuxResources, Process};

use super::cgroup::{self, DevicePolicy};
use crate::sys::cred::geteuid;

/// Whether this process is anything less than root of the initial user namespace.
pub fn is_rootless() -> bool {
    static ROOTLESS: OnceLock<bool> = OnceLock::new();
    *ROOTLESS.get_or_init(|| {
        geteuid() != 0 || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_all(&map))
    })
}

/// Device rules take a privilege over the machine (bpf(2), or a v1 hierarchy); without it no device can be made anyway.
pub fn device_policy() -> DevicePolicy {
    if is_rootless() { DevicePolicy::Skip } else { DevicePolicy::Enforce }
}

/// May the container go without a cgroup, as this one cannot be made?
///
/// COMPAT: runc's rule: nobody has named a cgroup, nobody asks for a limit, and this user may make none.
pub fn goes_without_cgroup(linux: &Linux, error: &cgroup::Error) -> bool {
    let named = linux.cgroups_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let forbidden = matches!(error.errno(), libc::EACCES | libc::EPERM | libc::EROFS);
    is_rootless() && forbidden && !named && !linux.resources().as_ref().is_some_and(has_limits)
}

fn has_limits(r: &LinuxResources) -> bool {
    let lists = [
        r.hugepage_limits().as_ref().is_some_and(|all| !all.is_empty()),
        r.rdma().as_ref().is_some_and(|all| !all.is_empty()),
        r.unified().as_ref().is_some_and(|all| !all.is_empty()),
    ];
    let given = [
        r.memory().as_ref().is_some_and(|m| *m != Default::default()),
        r.cpu().as_ref().is_some_and(|c| *c != Default::default()),
        r.pids().as_ref().is_some_and(|p| p.limit() > 0),
        r.block_io().as_ref().is_some_and(|io| *io != Default::default()),
        r.network().as_ref().is_some_and(|n| *n != Default::default()),
    ];
    lists.into_iter().chain(given).any(|asked| asked)
}

/// Lowers no OOM score below the shim's own, for which the machine's CAP_SYS_RESOURCE is needed; raising it is free.
///
/// COMPAT: containerd's CRI does the same (`restrict_oom_score_adj`).
pub fn restrict_oom_score(process: &mut Process) {
    let own = || std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse::<i32>().ok();
    if let Some(wanted) = process.oom_score_adj().filter(|_| is_rootless())
        && let Some(floor) = own()
    {
        process.set_oom_score_adj(Some(wanted.max(floor)));
    }
}

/// The initial namespace maps every id to itself.
fn maps_all(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_initial_namespace_maps_every_id_to_itself() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n         1     100000      65536\n"));
    }

    #[test]
    fn device_rules_alone_are_no_limits() {
        let limits = |json: &str| has_limits(&serde_json::from_str(json).unwrap());
        for none in ["{}", r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{},"pids":{"limit":0}}"#] {
            assert!(!limits(none), "{none}");
        }
        for some in [r#"{"memory":{"limit":1}}"#, r#"{"pids":{"limit":5}}"#, r#"{"unified":{"a.b":"c"}}"#] {
            assert!(limits(some), "{some}");
        }
    }
}
