//! Stopping: signals to the shim, escalation, the rest of a container, and calls that arrive while others are stuck.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Shim, Stdio3, signal};
use crate::support::subject::ours;
use crate::support::wire::Client;
use crate::support::{SOON, eventually, leak};
use containerd_shim_protos::api::{self, Status};
use serde_json::json;
use std::path::Path;

const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 0.05; done";

/// Runs the bundle until its script has said "ready".
fn ready<'h>(host: &'h Host, bundle: Bundle) -> Shim<'h> {
    let out = Sink::new(host.folder().join(format!("out-{}", bundle.id)));
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    out.wait_for("ready");
    shim
}

#[test]
fn second_sigterm_to_the_shim_kills_at_once() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let mut bundle = host.bundle("a", STUBBORN);
    bundle.set("/annotations", json!({"io.containerd.myshim.stop-timeout": "1000s"}));
    let shim = ready(&host, bundle);
    signal(shim.pid, libc::SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(shim.status(""), Status::RUNNING);
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.events.wait_for("exit").exit_status, 137);
    shim.assert_nothing_left();
}

#[test]
fn sigterm_to_the_shim_is_followed_by_sigkill_after_the_annotated_time() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let mut bundle = host.bundle("a", STUBBORN);
    bundle.set("/annotations", json!({"io.containerd.myshim.stop-timeout": "200ms"}));
    let shim = ready(&host, bundle);
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.events.wait_for("exit").exit_status, 137);
    assert_eq!(host.delete(&shim.bundle).exit_status, 137);
}

#[test]
fn sigterm_to_the_shim_ends_a_container_that_was_never_started_at_once() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.set("/annotations", json!({"io.containerd.myshim.stop-timeout": "1000s"}));
    let shim = host.start(bundle);
    shim.create().expect("Create");
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.events.wait_for("exit").exit_status, 137);
    shim.assert_nothing_left();
}

#[test]
fn exit_status_seen_by_a_stopped_shim_is_what_delete_tells() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let shim = ready(&host, host.bundle("a", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done"));
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.delete(&shim.bundle).exit_status, 4);
}

/// A state file that outlived a reboot: pid and cgroup it names are somebody else's by now, its mounts may be there again.
#[test]
fn delete_after_a_reboot_touches_no_process_and_no_cgroup_but_unmounts_and_tells_the_recorded_status() {
    needs_containers!();
    needs!(ours(), "the state file is this shim's");
    let host = Host::new();
    let shim = ready(&host, host.bundle("a", STUBBORN));
    let bundle = &shim.bundle;
    let pid = shim.state("").expect("State").pid as i32;
    shim.crash();
    let file = bundle.folder.join("myshim.json");
    let written = std::fs::read(&file).expect("read the state");
    let mut state: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(state["pid"], pid);
    state["boot_id"] = json!("3c0e39f4-6c5c-4b0f-9f6c-6d1f9f1ab5c2");
    state["exit"] = json!({"status": 7, "at": 1_000_000_000_u64});
    std::fs::write(&file, state.to_string()).expect("write the state");
    let (cgroups, mounts) = (leak::cgroups(bundle.cgroup()), leak::mounts_below(&bundle.folder));
    assert!(!cgroups.is_empty() && !mounts.is_empty(), "{cgroups:?}, {mounts:?}");

    let answer = host.delete(bundle);
    assert_eq!((answer.pid as i32, answer.exit_status, answer.exited_at.seconds), (pid, 7, 1));
    assert!(leak::alive(pid), "the process that has the pid now was killed");
    assert_eq!(leak::cgroups(bundle.cgroup()), cgroups);
    assert_eq!(leak::mounts_below(&bundle.folder), Vec::<String>::new());

    // The boot id alone made the difference.
    std::fs::write(&file, written).expect("write the state back");
    assert_eq!(host.delete(bundle).exit_status, 137);
    assert!(!leak::alive(pid));
    shim.assert_nothing_left();
}

/// A state file that cannot be read names what nobody would ever find again without it.
#[test]
fn delete_with_a_state_that_it_cannot_read_says_so_and_leaves_everything() {
    needs_containers!();
    needs!(ours(), "the state file is this shim's");
    let host = Host::new();
    let shim = ready(&host, host.bundle("a", STUBBORN));
    let bundle = &shim.bundle;
    let pid = shim.state("").expect("State").pid as i32;
    shim.crash();
    let file = bundle.folder.join("myshim.json");
    let written = std::fs::read(&file).expect("read the state");
    let there = || (leak::alive(pid), leak::cgroups(bundle.cgroup()), leak::mounts_below(&bundle.folder));
    let before = there();
    let foreign = "{\"version\": 7}";
    std::fs::write(&file, foreign).expect("write the state");

    let output = host.invoke(bundle, "delete", b"");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(told.contains(&file.display().to_string()) && told.contains("remove the file"), "{told}");
    assert_eq!(there(), before);
    assert_eq!(std::fs::read_to_string(&file).expect("the state"), foreign);

    std::fs::write(&file, written).expect("write the state back");
    assert_eq!(host.delete(bundle).exit_status, 137);
    shim.assert_nothing_left();
}

#[test]
fn stop_signal_of_the_annotation_is_the_one_that_is_sent() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let mut bundle = host.bundle("a", "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done");
    bundle.set("/annotations", json!({"io.containerd.myshim.stop-signal": "SIGUSR1"}));
    let shim = ready(&host, bundle);
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.events.wait_for("exit").exit_status, 6);
}

#[test]
fn stop_signal_and_time_out_of_the_host_file_are_those_that_count() {
    needs_containers!();
    needs!(ours(), "a Go shim has no such file");
    let mut host = Host::new();
    let file = host.folder().join("host.toml");
    std::fs::write(&file, "StopSignal = \"SIGUSR1\"\nStopTimeout = \"200ms\"\n").expect("write");
    host.environment.push(("MYSHIM_CONFIG".into(), file.display().to_string()));
    let out = Sink::new(host.folder().join("out"));
    let script = "trap 'echo told' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let shim = host.start(host.bundle("a", script));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    out.wait_for("ready");
    signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert_eq!(host.events.wait_for("exit").exit_status, 137);
    assert!(out.finish().contains("told"));
}

fn escalating(host: &Host, timeout: &str) -> Bundle {
    let mut bundle = host.bundle("a", STUBBORN);
    bundle.set(
        "/annotations",
        json!({"io.containerd.myshim.kill-escalation": "true", "io.containerd.myshim.stop-timeout": timeout}),
    );
    bundle
}

#[test]
fn kill_with_the_stop_signal_escalates_only_where_it_was_asked_for() {
    needs_containers!();
    needs!(ours(), "runc's shim has no escalation");
    let host = Host::new();
    let shim = ready(&host, escalating(&host, "100ms"));
    shim.kill("", libc::SIGTERM).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);

    let mut plain = host.bundle("b", STUBBORN);
    plain.set("/annotations", json!({"io.containerd.myshim.stop-timeout": "100ms"}));
    let shim = ready(&host, plain);
    shim.kill("", libc::SIGTERM).expect("Kill");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(shim.status(""), Status::RUNNING);
}

/// On cgroup v1 a frozen process takes no signal, not even the one that ends it.
#[test]
fn escalation_ends_a_container_that_was_paused_meanwhile() {
    needs_containers!();
    needs!(ours(), "runc's shim has no escalation");
    let host = Host::new();
    let shim = ready(&host, escalating(&host, "1s"));
    shim.kill("", libc::SIGTERM).expect("Kill");
    shim.pause().expect("Pause");
    assert_eq!(shim.wait("").expect("Wait"), 137);
}

/// A hook that waits for a file, and says that it does.
fn stuck_hook(host: &Host) -> serde_json::Value {
    let (begun, go) = (host.folder().join("begun"), host.folder().join("go"));
    let script = format!("touch {}; while ! test -e {}; do sleep 0.02; done", begun.display(), go.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

fn begun(host: &Host) {
    eventually("the hook runs", SOON, || host.folder().join("begun").exists().then_some(()));
}

fn let_go(host: &Host) {
    std::fs::write(host.folder().join("go"), "").expect("let the hook go");
}

/// What was sent on this connection has begun: frames are read one after the other, and this one is answered.
fn arrived(client: &mut Client, shim: &Shim<'_>) {
    let request = api::ConnectRequest { id: shim.id(), ..Default::default() };
    client.call::<api::ConnectResponse>(shim.service(), "Connect", &request).expect("Connect");
}

#[test]
fn retried_create_joins_the_one_in_flight() {
    needs_containers!();
    needs!(ours(), "a Go shim starts a second one");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/hooks/createRuntime", stuck_hook(&host));
    let shim = host.start(bundle);
    let request = shim.create_request(&Stdio3::default());
    let mut abandoned = shim.client();
    abandoned.send(shim.service(), "Create", &request).expect("send");
    begun(&host);
    drop(abandoned);
    let mut retry = shim.client();
    retry.send(shim.service(), "Create", &request).expect("send");
    arrived(&mut retry, &shim);
    let_go(&host);
    let answer: api::CreateTaskResponse = retry.receive("Create").expect("the first one's result");
    assert_eq!(shim.state("").expect("State").pid, answer.pid);
    let mut names = Vec::new();
    eventually("the create event", SOON, || {
        names = host.events.names();
        (!names.is_empty()).then_some(())
    });
    assert_eq!(names, ["create"]);
}

#[test]
fn retried_start_and_delete_join_the_one_in_flight() {
    needs_containers!();
    needs!(ours(), "a Go shim starts a second one");
    for (moment, verb) in [("poststart", "Start"), ("poststop", "Delete")] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set(&format!("/hooks/{moment}"), stuck_hook(&host));
        let shim = host.start(bundle);
        let pid = shim.create().expect("Create");
        if verb == "Delete" {
            shim.start("").expect("Start");
            shim.kill("", libc::SIGKILL).expect("Kill");
            shim.wait("").expect("Wait");
        }
        let send = || {
            let mut client = shim.client();
            let sent = match verb {
                "Start" => client.send(
                    shim.service(),
                    verb,
                    &api::StartRequest { id: shim.id(), ..Default::default() },
                ),
                _ => client.send(
                    shim.service(),
                    verb,
                    &api::DeleteRequest { id: shim.id(), ..Default::default() },
                ),
            };
            sent.expect("send");
            client
        };
        let abandoned = send();
        begun(&host);
        drop(abandoned);
        let mut retry = send();
        arrived(&mut retry, &shim);
        let_go(&host);
        let answered = match verb {
            "Start" => retry.receive::<api::StartResponse>(verb).expect("the first one's result").pid,
            _ => retry.receive::<api::DeleteResponse>(verb).expect("the first one's result").pid,
        };
        assert_eq!(answered, pid, "{verb}");
    }
}

#[test]
fn kill_is_served_while_start_is_stuck_in_a_hook() {
    needs_containers!();
    needs!(ours(), "runc's shim holds its lock during Start");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/hooks/poststart", stuck_hook(&host));
    let shim = host.start(bundle);
    shim.create().expect("Create");
    let mut client = shim.client();
    client
        .send(shim.service(), "Start", &api::StartRequest { id: shim.id(), ..Default::default() })
        .expect("send");
    begun(&host);
    let pid = shim.state("").expect("State").pid as i32;
    shim.kill("", libc::SIGKILL).expect("Kill");
    eventually("init is dead", SOON, || (!leak::alive(pid)).then_some(()));
    let_go(&host);
    assert_eq!(shim.wait("").expect("Wait"), 137);
}

/// "The shim is subreaper and reaps strangers too": nothing of the container stays a zombie.
#[test]
fn orphans_of_a_container_without_a_pid_namespace_are_reaped() {
    needs_containers!();
    let host = Host::new();
    let mut bundle =
        host.bundle("a", "(sh -c 'exit 0' & sh -c 'exit 0' &) ; (sleep 0.1 &); echo ready; sleep 1000");
    bundle.config["linux"]["namespaces"].as_array_mut().expect("array").remove(0);
    let shim = ready(&host, bundle);
    let init = shim.state("").expect("State").pid as i32;
    eventually("only init is left of the shim's children", SOON, || {
        (leak::children_of(shim.pid) == [init]).then_some(())
    });
}

/// "Pids must never be empty while init lives, even if the workload moved itself to a sub-cgroup" (containerd#13784).
#[test]
fn pids_finds_a_workload_that_moved_to_a_sub_cgroup() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.run();
    let folders = leak::cgroups(shim.bundle.cgroup());
    assert!(!folders.is_empty());
    for folder in &folders {
        let below = folder.join("below");
        std::fs::create_dir(&below).expect("make a sub-cgroup");
        for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| folder.join(file).exists()) {
            std::fs::write(below.join(file), std::fs::read(folder.join(file)).expect("read")).expect("write");
        }
        std::fs::write(below.join("cgroup.procs"), pid.to_string()).expect("move init");
    }
    let pids: Vec<_> = shim.pids().expect("Pids").iter().map(|process| process.pid).collect();
    assert_eq!(pids, [pid]);
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn killed_execs_streams_close_at_once_and_its_children_do_not_hold_up_anybody() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let out = Sink::new(host.folder().join("out"));
    let stdio = Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() };
    shim.exec_process("x", &shim.bundle.process(&["sleep", "1000"]), &stdio).expect("Exec");
    shim.start("x").expect("Start");
    shim.kill("x", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("x").expect("Wait"), 137);
    shim.delete("x").expect("Delete");
    assert_eq!(out.finish(), "");
    assert_eq!(shim.status(""), Status::RUNNING);
}

#[test]
fn hooks_get_the_live_pid_and_the_bundle() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("state");
    let script = format!("cat >>{0}; echo >>{0}; printf '%s\\n' /proc/[0-9]* >{0}.pids", log.display());
    let mut bundle = host.bundle("a", "sleep 1000");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    bundle.set("/hooks/createRuntime", hook);
    let folder = bundle.folder.clone();
    let shim = host.start(bundle);
    let pid = shim.create().expect("Create");
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&log).expect("the hook's input")).expect("JSON");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["bundle"].as_str().map(Path::new), Some(folder.as_path()));
    let alive = std::fs::read_to_string(log.with_extension("pids")).expect("the hook's output");
    assert!(alive.lines().any(|line| line == format!("/proc/{pid}")), "{pid} is not in {alive}");
}
