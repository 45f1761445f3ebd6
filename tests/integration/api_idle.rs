//! A shim whose container runs and of which nobody asks anything: one thread, no wake-up, little memory.

use crate::support::shim::Host;
use crate::support::{SOON, eventually, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api::Status;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Longer than any timer a shim could want while it waits.
const QUIET: Duration = Duration::from_secs(3);
/// Two events each, of some 200 bytes.
const PAUSES: usize = 2000;
/// KiB that an idle shim may be larger than before.
const SPARE: u64 = 200;

fn status(pid: i32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the shim's status");
    let value = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    value.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// KiB of the process's own, once it has one thread.
fn own_memory(pid: i32) -> u64 {
    eventually("the worker threads end", SOON, || (status(pid, "Threads:") == 1).then_some(()));
    status(pid, "RssAnon:")
}

/// KiB of the program's file that are mapped into the process as code, and KiB that could be.
fn program(pid: i32) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("read smaps");
    let mut lines = maps.lines().skip_while(|line| !(line.contains(" r-xp ") && line.contains('/')));
    let mut field = |name: &str| -> u64 {
        let line = lines.find_map(|line| line.strip_prefix(name)).expect("the field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let size = field("Size:");
    (field("Rss:"), size)
}

#[test]
fn an_idle_shim_has_one_thread_lets_go_of_its_program_and_sleeps() {
    needs_containers!();
    needs!(subject::ours(), "Go's runtime has threads and timers of its own");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    eventually("the worker threads end", SOON, || (status(shim.pid, "Threads:") == 1).then_some(()));
    eventually("the program's pages are given back", SOON, || {
        let (mapped, size) = program(shim.pid);
        (mapped < size / 2).then_some(())
    });
    eventually("a time without wake-ups", SOON, || {
        let before = status(shim.pid, "voluntary_ctxt_switches:");
        std::thread::sleep(QUIET);
        (status(shim.pid, "voluntary_ctxt_switches:") == before).then_some(())
    });
}

/// "the "parent" in this case is considered to be the thread that created this process" (PR_SET_PDEATHSIG(2const)): a program
/// that asks for a signal at its end gets none when worker threads end. Seen to fail with a worker that clones, for both.
#[test]
fn the_end_of_a_worker_thread_is_nobodys_parents() {
    needs_containers!();
    needs!(Path::new("/usr/bin/setpriv").exists(), "setpriv (util-linux) is not there");
    let host = Host::new();
    let script = "exec /usr/bin/setpriv --pdeathsig KILL sleep 1000";
    let mut bundle = host.bundle("a", script);
    for dir in ["/usr", "/lib", "/lib64"].into_iter().filter(|dir| Path::new(dir).exists()) {
        bundle.push(
            "/mounts",
            json!({"destination": dir, "type": "bind", "source": dir, "options": ["bind", "ro"]}),
        );
    }
    let shim = host.start(bundle);
    shim.create().expect("Create");
    let init = shim.start("").expect("Start");
    shim.exec("x", script).expect("Exec");
    let exec = shim.start("x").expect("Start of the exec");
    for pid in [init, exec] {
        let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        eventually("setpriv has executed its program", SOON, || (name() == "sleep\n").then_some(()));
    }
    if subject::ours() {
        eventually("the worker threads end", SOON, || (status(shim.pid, "Threads:") == 1).then_some(()));
    }
    assert_eq!((shim.status(""), shim.status("x")), (Status::RUNNING, Status::RUNNING));
}

/// Seen to fail where only idle worker threads give memory back: the events outlive them.
#[test]
fn memory_of_events_that_had_to_wait_is_given_back_when_they_are_told() {
    needs_containers!();
    needs!(subject::ours(), "Go's collector gives memory back when it sees fit");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let before = own_memory(shim.pid);
    host.events.stop();
    for _ in 0..PAUSES {
        shim.pause().expect("Pause");
        shim.resume().expect("Resume");
    }
    let waiting = own_memory(shim.pid);
    assert!(waiting > before + SPARE, "{before} KiB before, {waiting} while the events wait");
    host.events.resume();
    let told = || host.events.seen().iter().filter(|event| event.name() == "resumed").count();
    eventually("all are told", SOON, || (told() == PAUSES).then_some(()));
    eventually("what the events took is given back", SOON, || {
        (status(shim.pid, "RssAnon:") < before + SPARE).then_some(())
    });
}
