//! `linux.namespaces`: which are new and which are the runtime's own.

use crate::needs_containers;
use crate::support::run::output;
use crate::support::subject::peer_lacks;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The spec's word for a namespace, and its file.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// The kinds for which a container with these namespaces does not have the runtime's.
fn new_ones(wanted: &[&str]) -> Vec<&'static str> {
    let spaces: Vec<Value> = wanted.iter().map(|kind| json!({"type": kind})).collect();
    let text = output("for n in /proc/self/ns/*; do readlink $n; done", |bundle, _| {
        bundle.set("/linux/namespaces", json!(spaces));
        if !wanted.contains(&"uts") {
            bundle.set("/hostname", json!(""));
        }
        if !wanted.contains(&"network") {
            // A sysfs shows the network of its mounter, and takes rights over it (sysfs(5)).
            bundle.config["mounts"].as_array_mut().expect("mounts").retain(|m| m["type"] != "sysfs");
        }
        if wanted.contains(&"user") {
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
            bundle.set("/linux/uidMappings", map.clone());
            bundle.set("/linux/gidMappings", map);
        }
    });
    let seen: Vec<_> = text.lines().collect();
    // Not every kernel has every kind.
    let differs = |file: &str| {
        let own = fs::read_link(format!("/proc/self/ns/{file}"));
        own.is_ok_and(|own| !seen.iter().any(|link| Path::new(link) == own))
    };
    KINDS.iter().filter(|(_, file)| differs(file)).map(|(kind, _)| *kind).collect()
}

/// "If path is not specified, the runtime MUST create a new container namespace of type type." "If a namespace type is
/// not specified in the namespaces array, the container MUST inherit the runtime namespace of that type."
/// (config-linux.md, "Namespaces")
#[test]
fn namespaces_are_new_if_named_and_else_the_runtimes() {
    needs_containers!();
    let all: Vec<_> = KINDS
        .iter()
        .filter(|(_, file)| Path::new("/proc/self/ns").join(file).exists())
        .map(|(kind, _)| *kind)
        .filter(|kind| *kind != "time" || !peer_lacks(1, 2))
        .collect();
    assert_eq!(new_ones(&all), all);
    assert_eq!(new_ones(&["mount"]), ["mount"]);
    for kind in ["pid", "network", "ipc", "uts", "cgroup"] {
        let mut both = vec![kind, "mount"];
        both.sort_by_key(|kind| KINDS.iter().position(|(name, _)| name == kind));
        assert_eq!(new_ones(&both), both);
    }
}
