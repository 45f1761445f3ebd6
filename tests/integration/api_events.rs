//! The order of events, and that none is lost while nobody listens.

use crate::needs_containers;
use crate::support::shim::Host;
use serde_json::json;

#[test]
fn events_of_a_whole_life_are_in_order_and_once_each() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.run();
    shim.exec("x", "exit 3").expect("Exec");
    let exec_pid = shim.start("x").expect("Start");
    shim.wait("x").expect("Wait");
    host.events.wait_for("exit/x");
    shim.delete("x").expect("Delete");
    shim.pause().expect("Pause");
    shim.resume().expect("Resume");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    let delete = host.events.wait_for("delete");
    assert_eq!((delete.pid, delete.exit_status), (pid, 137));
    let exec_exit = host.events.wait_for("exit/x");
    assert_eq!((exec_exit.pid, exec_exit.exit_status), (exec_pid, 3));
    // Not every shim tells of an exec's deletion, and no client asks.
    let names: Vec<_> = host.events.names().into_iter().filter(|name| name != "delete/x").collect();
    assert_eq!(
        names,
        [
            "create",
            "start",
            "exec-added/x",
            "exec-started/x",
            "exit/x",
            "paused",
            "resumed",
            "exit",
            "delete"
        ]
    );
    assert!(
        host.events.seen().iter().all(|event| event.namespace == host.namespace && event.container == "a")
    );
}

#[test]
fn start_precedes_exit_however_short_the_life() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    for _ in 0..5 {
        shim.run();
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
    }
    let exits = || host.events.names().iter().filter(|name| *name == "delete").count();
    crate::support::eventually("all events", crate::support::SOON, || (exits() == 5).then_some(()));
    let mut names = host.events.names();
    if crate::support::differences::runc_differs("OOM without one") {
        names.retain(|name| name != "oom");
    }
    for life in names.chunks(4) {
        assert_eq!(life, ["create", "start", "exit", "delete"]);
    }
}

#[test]
fn inits_exit_is_the_last_exit() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for number in 0..5 {
        let exec = format!("x{number}");
        shim.exec(&exec, "exec sleep 1000").expect("Exec");
        shim.start(&exec).expect("Start");
    }
    shim.kill("", libc::SIGKILL).expect("Kill");
    host.events.wait_for("exit");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let exits: Vec<_> = host.events.names().into_iter().filter(|name| name.starts_with("exit")).collect();
    assert_eq!((exits.len(), exits.last().map(String::as_str)), (6, Some("exit")), "{exits:?}");
}

#[test]
fn out_of_memory_is_told_before_the_exit_it_explains() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "x=y; while :; do x=$x$x; done");
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 137);
    if crate::support::differences::runc_differs("order of OOM and exit") {
        return;
    }
    host.events.wait_for("exit");
    assert_eq!(host.events.names(), ["create", "start", "oom", "exit"]);
}

#[test]
fn events_wait_for_a_listener_that_is_away() {
    needs_containers!();
    if crate::support::differences::runc_differs("events while containerd is away") {
        return;
    }
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    host.events.wait_for("start");
    host.events.stop();
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    std::thread::sleep(std::time::Duration::from_secs(2));
    host.events.resume();
    host.events.wait_for("delete");
    let mut names = host.events.names();
    // A duplicate after a reconnect is tolerated.
    names.dedup();
    assert_eq!(names, ["create", "start", "exit", "delete"]);
}

#[test]
fn failed_create_publishes_nothing() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "");
    bundle.set("/process/args", json!(["/nonesuch"]));
    let shim = host.start(bundle);
    shim.create().expect_err("no such program");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(host.events.names(), Vec::<String>::new());
}
