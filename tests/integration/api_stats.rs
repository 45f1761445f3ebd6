//! Statistics: every field that runc's shim fills, ours fills.

use crate::needs;
use crate::needs_containers;
use crate::support::shim::Host;
use crate::support::subject::{Subject, cgroup_v2, ours};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::Message;
use serde_json::json;
use std::collections::BTreeSet;

/// Names of all fields, with the messages they lie in, that one container's statistics have.
fn fields(subject: Subject) -> BTreeSet<String> {
    let host = Host::of(subject);
    let mut bundle = host.bundle("a", "head -c 1000000 /bin/busybox >/tmp/x; cat /tmp/x >/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000");
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.set("/linux/resources/pids", json!({"limit": 50}));
    bundle.set("/linux/resources/cpu", json!({"quota": 20_000, "period": 50_000}));
    let shim = host.start(bundle);
    shim.run();
    // Until the numbers that start at nothing are there.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let stats = shim.stats().expect("Stats");
    let text = match cgroup_v2() {
        true => protobuf::text_format::print_to_string_pretty(
            &v2::Metrics::parse_from_bytes(&stats.value).expect("Metrics"),
        ),
        false => protobuf::text_format::print_to_string_pretty(
            &v1::Metrics::parse_from_bytes(&stats.value).expect("Metrics"),
        ),
    };
    names(&text)
}

/// The text format has a line for every field, and braces around messages.
fn names(text: &str) -> BTreeSet<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(message) = line.strip_suffix(" {") {
            path.push(message);
        } else if line == "}" {
            path.pop();
        } else if let Some((name, _)) = line.split_once(':') {
            names.insert([&path[..], &[name]].concat().join("."));
        }
    }
    names
}

#[test]
fn every_statistic_that_runc_fills_is_filled() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    // On which of its lists the kernel has a page is its own affair.
    let lists = |name: String| name.replace("inactive_", "active_");
    let [ours, runc] =
        [Subject::Ours, Subject::Runc].map(|subject| fields(subject).into_iter().map(lists).collect());
    let (ours, runc): (BTreeSet<String>, BTreeSet<String>) = (ours, runc);
    // What comes and goes with the moment, not with the shim. KERNEL: time in the kernel is counted in ticks, and the
    // stack of a process that is born in its cgroup is its parent's account.
    let momentary = |name: &str| {
        let parts = [
            "throttl",
            "psi",
            "fault",
            "workingset",
            "activate",
            "scan",
            "steal",
            "writeback",
            "dirty",
            "file",
        ];
        name.starts_with("blkio.")
            || parts.iter().any(|part| name.contains(part))
            || [
                "cpu.usage.kernel",
                "cpu.usage.user",
                "cpu.system_usec",
                "cpu.user_usec",
                "memory.kernel_stack",
            ]
            .contains(&name)
    };
    let missing: Vec<_> = runc.difference(&ours).filter(|name| !momentary(name)).collect();
    assert!(missing.is_empty(), "runc fills these: {missing:?}\nours has: {ours:?}");
    assert!(ours.len() > 20, "{ours:?}");
}
