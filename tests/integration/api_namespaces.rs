//! `linux.namespaces`: which are new, which are the runtime's own, which are joined, and what time it is in them.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::run::{exec_output, output, refusal};
use crate::support::shim::{Host, Shim};
use crate::support::subject::{self, peer_lacks};
use crate::support::{SOON, eventually};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error" (runtime.md,
/// "Create"): whoever is in a user namespace may mount a sysfs only of a network namespace that belongs to it.
#[test]
fn sysfs_without_rights_over_the_network_is_refused_with_the_remedy() {
    needs_containers!();
    let message = refusal(|bundle, _| {
        bundle.set("/linux/namespaces", json!([{"type": "pid"}, {"type": "mount"}, {"type": "user"}]));
        bundle.set("/hostname", json!(""));
        bundle.config["mounts"].as_array_mut().expect("mounts").retain(|m| m["type"] != "mqueue");
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.set("/linux/uidMappings", map.clone());
        bundle.set("/linux/gidMappings", map);
    });
    assert!(!subject::ours() || message.contains("give the container one of its own"), "{message}");
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

fn has_time_namespaces() -> bool {
    Path::new("/proc/self/ns/time").exists() && !peer_lacks(1, 2)
}

fn file_of(pid: u32, name: &str) -> String {
    format!("/proc/{pid}/ns/{name}")
}

/// A namespace that the bundle names is the one at this path.
fn join(bundle: &mut Bundle, kind: &str, path: &str) {
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|ns| ns["type"] != kind);
    bundle.push("/linux/namespaces", json!({"type": kind, "path": path}));
}

/// Init is in the namespace at `path`, and so is an exec; the shim is not.
#[track_caller]
fn assert_in(shim: &Shim<'_>, init: u32, name: &str, path: &str) {
    let wanted = fs::read_link(path).expect("a namespace");
    assert_ne!(fs::read_link(file_of(shim.pid as u32, name)).expect("the shim's"), wanted);
    assert_eq!(fs::read_link(file_of(init, name)).expect("init's"), wanted, "init");
    let text = exec_output(shim, &format!("readlink /proc/self/ns/{name}"), |_| ());
    assert_eq!(PathBuf::from(text.trim()), wanted, "an exec");
}

/// "If `path` is not specified, the runtime MUST create a new container namespace of type `type`." (config-linux.md,
/// "Namespaces") That of the network is made by a thread of the shim's, perhaps before Create comes: it is the container's alone all
/// the same: no thread stays in it, and no descriptor holds it. To see it fail: in `sys/ns.rs` leave the way home out, or in
/// `engine/netns.rs`, `serve`, forget a copy of the descriptor.
#[test]
fn new_network_namespace_is_the_containers_alone() {
    needs_containers!();
    needs!(subject::ours(), "runc makes it in a process of its own");
    let host = Host::new();
    let own = fs::read_link("/proc/self/ns/net").expect("the host's");
    let spaces = ["a", "b"].map(|id| {
        let shim = &host.start(host.bundle(id, "exec sleep 1000"));
        let space = fs::read_link(file_of(shim.create().expect("Create"), "net")).expect("init's");
        let threads = fs::read_dir(format!("/proc/{}/task", shim.pid)).expect("list the threads");
        for thread in threads {
            // One that had nothing to do has ended.
            let at = fs::read_link(thread.expect("a thread").path().join("ns/net"));
            assert!(at.as_ref().is_ok_and(|at| *at == own) || at.is_err(), "{at:?}");
        }
        // The thread that has made it may take a moment to forget it.
        eventually("no descriptor holds it", SOON, || {
            let held = fs::read_dir(format!("/proc/{}/fd", shim.pid)).expect("list descriptors");
            let mut held = held.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            (!held.any(|link| link.display().to_string().starts_with("net:"))).then_some(())
        });
        shim.start("").expect("Start");
        let seen = exec_output(shim, "readlink /proc/self/ns/net; ip link show lo", |_| ());
        assert!(seen.contains("LOOPBACK,UP") && seen.contains(&space.display().to_string()), "{seen}");
        space
    });
    assert!(!spaces.contains(&own), "{spaces:?}");
}

/// "The runtime MUST place the container process in the namespace associated with that path." (config-linux.md,
/// "Namespaces") With a cgroup namespace that is another container's.
#[test]
fn cgroup_namespace_by_path_is_joined() {
    needs_containers!();
    let host = Host::new();
    let mut first = host.bundle("a", "sleep 1000");
    first.push("/linux/namespaces", json!({"type": "cgroup"}));
    let first = host.start(first);
    let path = file_of(first.run(), "cgroup");
    let mut second = host.bundle("b", "sleep 1000");
    join(&mut second, "cgroup", &path);
    let second = host.start(second);
    assert_in(&second, second.run(), "cgroup", &path);
    // Its own cgroup is not below that namespace's root.
    let seen = exec_output(&second, "cat /proc/self/cgroup", |_| ());
    assert!(seen.contains(":/../"), "{seen}");
}

/// "This value MUST be an absolute path in the runtime mount namespace." "The runtime MUST place the container process in
/// the namespace associated with that path." (config-linux.md, "Namespaces")
#[test]
fn mount_namespace_by_path_is_joined_and_has_the_containers_mounts() {
    needs_containers!();
    let host = Host::new();
    let mut holder = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "1000"])
        .spawn()
        .expect("run unshare");
    let path = file_of(holder.id(), "mnt");
    eventually("the holder has its namespace", SOON, || {
        fs::read_to_string(format!("/proc/{}/comm", holder.id()))
            .is_ok_and(|name| name == "sleep\n")
            .then_some(())
    });
    let mut bundle = host.bundle("a", "sleep 1000");
    // Nothing that is mounted from now on gets there: the root is a plain folder.
    bundle.mounts.clear();
    let copied =
        Command::new("cp").arg("-aT").arg(subject::image_root()).arg(bundle.folder.join("rootfs")).status();
    assert!(copied.expect("run cp").success());
    join(&mut bundle, "mount", &path);
    bundle.push("/mounts", json!({"destination": "/mine", "type": "tmpfs", "source": "tmpfs"}));
    let shim = host.start(bundle);
    assert_in(&shim, shim.run(), "mnt", &path);
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", holder.id())).expect("mountinfo");
    assert!(table.lines().any(|line| line.split(' ').nth(4) == Some("/mine")), "{table}");
    assert_eq!(exec_output(&shim, "grep -c ' /mine ' /proc/mounts", |_| ()), "1\n");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    holder.kill().expect("kill");
    holder.wait().expect("wait");
}

/// "The runtime MUST place the container process in the namespace associated with that path." (config-linux.md,
/// "Namespaces") The clock there is another container's.
#[test]
fn time_namespace_by_path_is_joined() {
    needs_containers!();
    needs!(has_time_namespaces(), "no time namespaces here");
    let host = Host::new();
    let mut first = host.bundle("a", "sleep 1000");
    first.push("/linux/namespaces", json!({"type": "time"}));
    first.set("/linux/timeOffsets", json!({"boottime": {"secs": 10_000_000}}));
    let first = host.start(first);
    let path = file_of(first.run(), "time");
    let mut second = host.bundle("b", "sleep 1000");
    join(&mut second, "time", &path);
    let second = host.start(second);
    assert_in(&second, second.run(), "time", &path);
    let uptime = exec_output(&second, "cut -d. -f1 /proc/uptime", |_| ());
    assert!(uptime.trim().parse::<u64>().expect("seconds") >= 10_000_000, "{uptime}");
}

/// "secs (int64, OPTIONAL) - is the offset of clock (in seconds) in the container." "nanosecs (uint32, OPTIONAL) - is the
/// offset of clock (in nanoseconds) in the container." (config-linux.md, "Offset for Time Namespace")
#[test]
fn time_offsets_of_both_clocks_hold_for_init_and_execs() {
    needs_containers!();
    needs!(has_time_namespaces(), "no time namespaces here");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    let offsets =
        json!({"monotonic": {"secs": -2, "nanosecs": 250_000_000}, "boottime": {"secs": 5, "nanosecs": 7}});
    bundle.set("/linux/timeOffsets", offsets);
    let shim = host.start(bundle);
    let init = shim.run();
    assert_in(&shim, init, "time", &file_of(init, "time"));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let wanted = ["monotonic", "-2", "250000000", "boottime", "5", "7"];
    let of_init = fs::read_to_string(format!("/proc/{init}/timens_offsets")).expect("offsets");
    assert_eq!(words(&of_init), wanted, "init");
    assert_eq!(words(&exec_output(&shim, "cat /proc/self/timens_offsets", |_| ())), wanted, "an exec");
}
