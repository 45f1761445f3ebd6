//! Older kernels: newer system calls answer ENOSYS, and the shim works without them or fails with a message that names
//! the call and the kernel it came with. README's kernel table says which; this file reads it there.
//!
//! The filter is loaded into a thread of the test, which then starts the shim: children inherit it (seccomp(2)).

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::leak;
use crate::support::older_kernel::{without, without_cgroup_kill, without_clone_into_cgroup};
use crate::support::run::{exec_output, open_host};
use crate::support::shim::{Host, Shim, Stdio3, read_reply};
use crate::support::subject::{cgroup_v2, ours};
use crate::support::{SOON, eventually};
use serde_json::json;
use std::path::Path;

/// What happens without each call, as README says it.
const TABLE: &str = include_str!("../../README.md");

/// The line of the kernel table that begins with this call: since when, and what happens without.
fn readme(call: &str) -> (String, String) {
    let section =
        TABLE.split("\n## Kernel\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let row = section.lines().filter(|line| line.starts_with("| ")).find_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let named = cells[0].split([',', ' ']).any(|word| word == call);
        named.then(|| (cells[1].to_owned(), cells[3].to_owned()))
    });
    row.unwrap_or_else(|| panic!("README's kernel table does not have {call}"))
}

/// The first failure of a life from start to an exec's end, and of the `delete` of a crashed shim; none if all works.
fn life() -> Option<String> {
    let host = Host::new();
    let bundle = host.bundle("a", "sleep 1000");
    bundle.write();
    let output = host.invoke(&bundle, "start", b"");
    if !output.status.success() {
        return Some(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (socket, version) = read_reply(&String::from_utf8_lossy(&output.stdout));
    let shim = Shim::connect(&host, bundle, socket.clone(), version, None);
    let failure = first_failure(&host, shim);
    // A shim or a delete that lacked a call may have left it.
    let _ = std::fs::remove_file(socket);
    failure
}

fn first_failure(host: &Host, shim: Shim<'_>) -> Option<String> {
    let lived = (|| {
        shim.create()?;
        shim.start("")?;
        shim.exec_process("x", &shim.bundle.process(&["true"]), &Stdio3::default())?;
        shim.start("x")?;
        assert_eq!(shim.wait("x")?, 0);
        shim.kill("", libc::SIGKILL)?;
        shim.wait("")?;
        shim.delete("").map(drop)
    })();
    let _ = shim.delete("");
    shim.assert_nothing_left();
    if let Err(failure) = lived {
        return Some(failure.message);
    }
    shim.run();
    shim.crash();
    let output = host.invoke(&shim.bundle, "delete", b"");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn calls_that_older_kernels_lack_are_named_with_the_kernel_that_has_them() {
    needs_containers!();
    needs!(ours(), "about this shim");
    for call in [
        "mount_setattr",
        "close_range",
        "faccessat2",
        "openat2",
        "clone3",
        "pidfd_open",
        "fsopen",
        "fsconfig",
        "fsmount",
        "open_tree",
        "move_mount",
    ] {
        let (since, consequence) = readme(call);
        match without(&[call], life) {
            Some(message) => {
                assert!(
                    !consequence.starts_with("falls back"),
                    "{call}: README promises a way without: {message}"
                );
                let version = since.split(',').next().expect("a version");
                assert!(message.contains(call), "{call} is not named: {message}");
                assert!(
                    message.contains(&format!("Linux {version}")),
                    "{call}: no Linux {version} in {message}"
                );
            }
            None => assert!(
                !consequence.contains("fail") && !consequence.contains("nothing works"),
                "{call} is not needed, but README says: {consequence}"
            ),
        }
    }
}

/// All of it at once, as a kernel before 5.2 would answer: still in words, and nothing left.
#[test]
fn kernel_that_lacks_everything_is_told_at_the_first_call() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let calls = [
        "openat2",
        "clone3",
        "mount_setattr",
        "fsopen",
        "open_tree",
        "move_mount",
        "close_range",
        "pidfd_open",
        "faccessat2",
    ];
    let message = without(&calls, life).expect("a failure");
    assert!(message.contains("Linux 5."), "{message}");
}

/// Cgroup v2, alone or beside v1.
fn has_cgroup_v2() -> bool {
    cgroup_v2() || Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
}

fn falls_back(call: &str) {
    let (_, consequence) = readme(call);
    assert!(consequence.starts_with("falls back"), "{call} is not needed, but README says: {consequence}");
}

fn with_user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
}

/// Init and an exec are in their cgroup all the same, see it as the root of their cgroup namespace, and its limits hold.
fn cgroup_is_entered(change: impl Fn(&mut Bundle)) {
    let host = open_host();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    bundle.set("/linux/resources/pids", json!({"limit": 8}));
    change(&mut bundle);
    let shim = host.start(bundle);
    let init = shim.run() as i32;
    let text = exec_output(&shim, "cat /proc/self/cgroup", |_| {});
    assert!(!text.is_empty() && text.lines().all(|line| line.ends_with(":/")), "{text}");
    shim.exec("x", "sleep 1000").expect("Exec");
    let exec = shim.start("x").expect("Start") as i32;
    for folder in leak::cgroups(shim.bundle.cgroup()) {
        let members = std::fs::read_to_string(folder.join("cgroup.procs")).expect("members");
        let members: Vec<_> = members.lines().map(|pid| pid.parse::<i32>().expect("a pid")).collect();
        assert!(members.contains(&init) && members.contains(&exec), "{}: {members:?}", folder.display());
    }
    let text = exec_output(&shim, "(for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done) 2>&1; true", |_| {});
    assert!(text.contains("can't fork"), "the limit does not hold: {text}");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn process_that_cannot_be_born_in_its_cgroup_enters_it() {
    needs_containers!();
    needs!(ours(), "about this shim");
    needs!(has_cgroup_v2(), "no cgroup v2 on this machine");
    falls_back("CLONE_INTO_CGROUP");
    for errno in [libc::EINVAL, libc::E2BIG] {
        assert_eq!(without_clone_into_cgroup(errno, life), None);
        without_clone_into_cgroup(errno, || {
            cgroup_is_entered(|_| {});
            cgroup_is_entered(with_user_namespace);
        });
    }
}

/// Processes that fork all the time, ignore signals and leave their session, in the host's pid namespace: nobody but
/// the shim ends them, all of them.
#[test]
fn everybody_is_killed_without_cgroup_kill() {
    needs_containers!();
    needs!(ours(), "about this shim");
    needs!(has_cgroup_v2(), "no cgroup v2 on this machine");
    falls_back("cgroup.kill");
    without_cgroup_kill(|| {
        assert_eq!(life(), None);
        for paused in [false, true] {
            everybody_is_killed(paused, |shim| shim.kill_all(libc::SIGKILL).expect("Kill"));
            everybody_is_killed(paused, |shim| shim.kill("", libc::SIGKILL).expect("Kill"));
        }
        deleted_unstarted();
    });
}

fn everybody_is_killed(paused: bool, kill: impl Fn(&Shim<'_>)) {
    let host = Host::new();
    let script = "trap '' TERM HUP; forks() { while :; do sleep 0.01; done; }; forks & forks & setsid sleep 1000 & wait";
    let mut bundle = host.bundle("a", script);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|ns| ns["type"] != "pid");
    let shim = host.start(bundle);
    shim.run();
    shim.exec("x", "setsid sleep 1000 & wait").expect("Exec");
    shim.start("x").expect("Start");
    eventually("all of them live", SOON, || (shim.pids().expect("Pids").len() >= 6).then_some(()));
    if paused {
        shim.pause().expect("Pause");
    }
    kill(&shim);
    assert_eq!(shim.wait("").expect("Wait"), 128 + libc::SIGKILL as u32);
    assert_eq!(leak::processes_in(shim.bundle.cgroup()), [0; 0]);
    shim.delete("x").expect("Delete");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

fn deleted_unstarted() {
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.create().expect("Create");
    shim.delete("").expect("Delete");
    assert!(!leak::alive(pid as i32));
    shim.assert_nothing_left();
}
