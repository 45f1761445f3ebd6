//! Older kernels: newer system calls answer ENOSYS, and the shim works without them or fails with a message that names
//! the call and the kernel it came with. README's kernel table says which; this file reads it there.
//!
//! The filter is loaded into a thread of the test, which then starts the shim: children inherit it (seccomp(2)).

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::leak;
use crate::support::older_kernel::{
    without, without_cgroup_kill, without_clone_clear_sighand, without_clone_into_cgroup, without_file,
    without_form, without_mount_attribute,
};
use crate::support::run::{exec_output, open_host};
use crate::support::seccomp_agent::Agent;
use crate::support::shim::{Host, Shim, Stdio3, read_reply, signal};
use crate::support::subject::{cgroup_v2, ours};
use crate::support::{SOON, eventually};
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::Path;

/// What happens without each call, as README says it.
const TABLE: &str = include_str!("../../README.md");

/// A line of the kernel table: what may be missing, since when it is there, and what happens without.
#[derive(Clone, Copy)]
struct Row {
    calls: &'static str,
    since: &'static str,
    consequence: &'static str,
}

impl Row {
    /// A version as numbers, for comparison.
    fn version(self) -> Option<Vec<u32>> {
        let first = self.since.split(',').next()?;
        first.split('.').map(|number| number.parse().ok()).collect()
    }
}

fn section() -> &'static str {
    let section = TABLE.split("\n## Kernel\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    section.expect("the section")
}

fn rows_of(text: &'static str) -> Vec<Row> {
    let lines = text.lines().filter(|line| line.starts_with("| "));
    let cells = lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    let rows = cells.map(|cells| Row { calls: cells[0], since: cells[1], consequence: cells[3] });
    rows.filter(|row| row.calls != "call").collect()
}

/// The first failure of a life from start to an exec's end, and of the `delete` of a crashed shim; none if all works.
fn life() -> Option<String> {
    life_of(|_, _| ())
}

/// The same with a spec that asks for what is missing.
fn life_of(change: impl FnOnce(&mut Host, &mut Bundle)) -> Option<String> {
    let mut host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    change(&mut host, &mut bundle);
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
    let stdio = Stdio3 { terminal: shim.bundle.config["process"]["terminal"] == true, ..Default::default() };
    let init = Cell::new(None);
    let lived = (|| {
        shim.create_with(&stdio)?;
        init.set(Some(shim.start("")? as i32));
        shim.exec_process("x", &shim.bundle.process(&["true"]), &Stdio3::default())?;
        shim.start("x")?;
        assert_eq!(shim.wait("x")?, 0);
        shim.kill("", libc::SIGKILL)?;
        shim.wait("")?;
        shim.delete("").map(drop)
    })();
    if let (Err(_), Some(init)) = (&lived, init.get()) {
        // The shim may have no way to do it.
        signal(init, libc::SIGKILL);
        let _ = shim.wait("");
    }
    let _ = shim.delete("");
    shim.assert_nothing_left();
    if let Err(failure) = lived {
        return Some(failure.message);
    }
    shim.create_with(&stdio).and_then(|_| shim.start("")).expect("a second life");
    shim.crash();
    let output = host.invoke(&shim.bundle, "delete", b"");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn with_notify(host: &Host, bundle: &mut Bundle, flags: Value) {
    let agent = Agent::new(host.folder(), libc::EDQUOT);
    let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"});
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "flags": flags,
        "listenerPath": agent.path});
    bundle.set("/linux/seccomp", profile);
}

/// A life that needs this call.
fn life_with(call: &str) -> Option<String> {
    life_of(|host, bundle| match call {
        "fspick" => {
            bundle.push("/mounts", json!({"destination": "/mine", "type": "tmpfs", "source": "tmpfs"}));
            let options = ["remount", "size=1m"];
            bundle.push("/mounts", json!({"destination": "/mine", "type": "tmpfs", "options": options}));
        }
        "pidfd_getfd" => with_notify(host, bundle, json!([])),
        "set_mempolicy" => bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_LOCAL"})),
        _ => {}
    })
}

/// Rows that are not tried here: two of cgroups have tests of their own below; of the others README says so.
const NOT_HERE: [&str; 6] = [
    "CLONE_INTO_CGROUP (clone3)",
    "cgroup.kill",
    "memory.peak, memory.swap.peak",
    "overlay over id-mapped layers",
    "LOOP_CONFIGURE",
    "BPF_F_REPLACE",
];

/// A life with what came late in resources, mounts and policies, by the word that a message names it by.
fn late_forms(calls: &str) -> Option<Vec<(&'static str, Option<String>)>> {
    const MODE: u64 = 0xfff;
    let cpu = |file, resources: Value| {
        let life = || life_of(|_, bundle| bundle.set("/linux/resources/cpu", resources));
        (file, without_file(file, life))
    };
    let mount = |bit, named, mount: Value| {
        (named, without_mount_attribute(bit, || life_of(|_, bundle| bundle.push("/mounts", mount))))
    };
    let policy = |mode, name| {
        let policy = json!({"mode": name, "nodes": "0"});
        let life = || life_of(|_, bundle| bundle.set("/linux/memoryPolicy", policy));
        ("the kernel must know the mode", without_form("set_mempolicy", (0, MODE, mode), libc::EINVAL, life))
    };
    let map = json!([{"containerID": 0, "hostID": 2000, "size": 1}]);
    let tmpfs = json!({"destination": "/mine", "type": "tmpfs", "source": "tmpfs"});
    let with = |key: &str, value: Value| {
        let mut mount = tmpfs.clone();
        mount[key] = value;
        mount
    };
    Some(match calls {
        "cpu.max.burst, cpu.idle" => {
            let burst = if cgroup_v2() { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
            let quota = json!({"quota": 20_000, "period": 50_000, "burst": 10_000});
            vec![cpu(burst, quota), cpu("cpu.idle", json!({"idle": 1}))]
        }
        "`nosymfollow`" => {
            let options = with("options", json!(["nosymfollow"]));
            vec![mount(libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", options)]
        }
        "id-mapped tmpfs" => {
            let mut mapped = with("uidMappings", map.clone());
            mapped["gidMappings"] = map;
            vec![mount(libc::MOUNT_ATTR_IDMAP, "tmpfs", mapped)]
        }
        "MPOL_PREFERRED_MANY, MPOL_WEIGHTED_INTERLEAVE" => {
            vec![policy(5, "MPOL_PREFERRED_MANY"), policy(6, "MPOL_WEIGHTED_INTERLEAVE")]
        }
        _ => return None,
    })
}

/// What is missing, by the word that a message names it by, and a life without it: all calls of a row one by one, or the
/// form of a call that the row is about.
fn lives_without(row: Row) -> Vec<(&'static str, Option<String>)> {
    const ALL: u64 = u32::MAX as u64;
    const MOUNT_AND_IPC: u64 = (libc::CLONE_NEWNS | libc::CLONE_NEWIPC) as u64;
    const PR_SCHED_CORE: u64 = 62;
    if let Some(lives) = late_forms(row.calls) {
        return lives;
    }
    let (mine, life) = match row.calls {
        "setns with a pidfd" => {
            // Of namespace files one is entered at a time, of a pidfd several.
            ("setns", without_form("setns", (1, MOUNT_AND_IPC, MOUNT_AND_IPC), libc::EINVAL, life))
        }
        "CLONE_CLEAR_SIGHAND (clone3)" => ("clone3", without_clone_clear_sighand(life)),
        "waitid P_PIDFD" => {
            ("waitid", without_form("waitid", (0, ALL, libc::P_PIDFD.into()), libc::EINVAL, life))
        }
        "clone3, CLONE_PIDFD" => ("clone3", without(&["clone3"], life)),
        "TIOCGPTPEER" => {
            let peer = (1, ALL, libc::TIOCGPTPEER);
            let life = || life_of(|_, bundle| bundle.set("/process/terminal", json!(true)));
            ("TIOCGPTPEER", without_form("ioctl", peer, libc::ENOTTY, life))
        }
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
            let bit = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            let flags = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
            let life = || life_of(|host, bundle| with_notify(host, bundle, flags));
            ("does not know one of the flags", without_form("seccomp", (1, bit, bit), libc::EINVAL, life))
        }
        "MADV_POPULATE_READ" => (
            "madvise",
            without_form("madvise", (2, ALL, libc::MADV_POPULATE_READ as u64), libc::EINVAL, life),
        ),
        "PR_SCHED_CORE" => {
            let life = || life_of(|host, _| host.environment.push(("SCHED_CORE".into(), "1".into())));
            ("SCHED_CORE", without_form("prctl", (0, ALL, PR_SCHED_CORE), libc::EINVAL, life))
        }
        "PR_SET_MM_MAP" => {
            let set_mm = libc::PR_SET_MM as u64;
            ("prctl", without_form("prctl", (0, ALL, set_mm), libc::EINVAL, life))
        }
        "pidfd_getfd, and SECCOMP_FILTER_FLAG_NEW_LISTENER (5.0)" => {
            ("pidfd_getfd", without(&["pidfd_getfd"], || life_with("pidfd_getfd")))
        }
        "time namespaces" => {
            let time = libc::CLONE_NEWTIME as u64;
            let life = || life_of(|_, bundle| bundle.push("/linux/namespaces", json!({"type": "time"})));
            ("new time namespace", without_form("unshare", (0, time, time), libc::EINVAL, life))
        }
        "keyrings" => ("keyctl", without(&["keyctl", "add_key", "request_key"], life)),
        calls => return calls.split(", ").map(|call| (call, without(&[call], || life_with(call)))).collect(),
    };
    vec![(mine, life)]
}

/// To see it fail: another consequence in README, or a call that the shim makes no more.
#[test]
fn every_row_of_readmes_table_is_what_happens_without() {
    needs_containers!();
    needs!(ours(), "about this shim");
    for row in rows_of(section()).into_iter().filter(|row| !NOT_HERE.contains(&row.calls)) {
        let Row { calls, since, consequence } = row;
        let works =
            ["falls back", "left out", "mapped one by one"].iter().any(|way| consequence.starts_with(way));
        for (name, life) in lives_without(row) {
            match life {
                Some(message) => {
                    assert!(!works, "{calls}: README promises a way without {name}: {message}");
                    assert!(message.contains(name), "{name} is not named: {message}");
                    // Refusals of a form, or of a kernel built without, can mean other things as well.
                    let whole = calls.split(", ").any(|call| call == name);
                    let tells =
                        since.split(", ").any(|version| message.contains(&format!("Linux {version}")));
                    assert!(
                        tells || !whole || FORMS.contains(&calls),
                        "{name}: no Linux {since} in {message}"
                    );
                }
                None => assert!(works, "{name} is not needed, but README says: {consequence}"),
            }
        }
    }
    for calls in NOT_HERE {
        assert!(
            rows_of(section()).iter().any(|row| row.calls == calls),
            "README's table has no {calls} any more"
        );
    }
}

/// Rows whose call answers otherwise than ENOSYS, or is missing from newer kernels too.
const FORMS: [&str; 2] = ["TIOCGPTPEER", "set_mempolicy"];

/// A kernel is older than a form of a call only where it also lacks all calls that came later: in words, at the first of
/// them, and nothing left.
#[test]
fn kernel_that_is_older_than_a_row_is_told_which_it_has_to_be() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let needed = rows_of(section().split("\nThese are used").next().expect("the first table"));
    assert!(needed.len() >= 12 && needed.len() < rows_of(section()).len());
    for row in &needed {
        let missing = needed.iter().filter(|other| other.version() >= row.version());
        let calls: Vec<_> = missing
            .flat_map(|row| row.calls.split(", "))
            .filter(|call| !call.contains(|c: char| c == ' ' || c.is_uppercase()))
            .collect();
        let message = without(&calls, life).expect("a failure");
        let told = needed.iter().any(|other| {
            other.version() >= row.version() && message.contains(&format!("Linux {} ", other.since))
        });
        assert!(told, "before {}: {message}", row.since);
    }
}

/// Cgroup v2, alone or beside v1.
fn has_cgroup_v2() -> bool {
    cgroup_v2() || Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
}

fn falls_back(call: &str) {
    let row = rows_of(section()).into_iter().find(|row| row.calls.split(' ').any(|word| word == call));
    let consequence = row.expect(call).consequence;
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
