//! Execs, created tasks, signals and statistics over the task API: what clients' own tests assert and is easy to miss.

use crate::needs;
use crate::needs_containers;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::subject::{cgroup_v2, ours};
use crate::support::wire::Client;
use crate::support::{self, SOON, leak};
use containerd_shim_protos::api::{self, Status};
use containerd_shim_protos::shim::oci::ProcessDetails;
use protobuf::Message;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use ttrpc::proto::Code;

#[test]
fn created_task_answers_kill_and_its_exit_is_published() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.create().expect("Create");
    shim.kill("", libc::SIGKILL).expect("Kill");
    let exit = host.events.wait_for("exit");
    assert_eq!((exit.pid, exit.exit_status), (pid, 137));
    assert_eq!(shim.wait("").expect("Wait"), 137);
    assert_eq!(shim.delete("").expect("Delete").exit_status, 137);
}

#[test]
fn created_task_answers_stats_and_update() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.create().expect("Create");
    assert!(!shim.stats().expect("Stats").value.is_empty());
    shim.update(&json!({"memory": {"limit": 67_108_864}})).expect("Update");
    assert_eq!(limit(shim.bundle.cgroup()), "67108864");
    shim.start("").expect("Start");
}

fn limit(cgroup: &str) -> String {
    let file = if cgroup_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    let found =
        leak::cgroups(cgroup).iter().find_map(|folder| std::fs::read_to_string(folder.join(file)).ok());
    found.expect("a memory cgroup").trim().to_owned()
}

#[test]
fn update_of_a_running_task_changes_its_limit() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for bytes in [67_108_864, 134_217_728] {
        shim.update(&json!({"memory": {"limit": bytes}})).expect("Update");
        assert_eq!(limit(shim.bundle.cgroup()), bytes.to_string());
    }
}

#[test]
fn delete_of_a_created_task_frees_its_id() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exit 6"));
    for _ in 0..2 {
        let pid = shim.create().expect("Create");
        let deleted = shim.delete("").expect("Delete");
        assert_eq!(deleted.pid, pid);
        support::eventually("init is dead", SOON, || (!leak::alive(pid as i32)).then_some(()));
        shim.assert_nothing_left();
    }
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 6);
}

#[test]
fn exec_lives_and_ends_beside_init() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "exit 11").expect("Exec");
    assert_eq!(shim.status("x"), Status::CREATED);
    let pid = shim.start("x").expect("Start");
    assert_eq!(shim.wait("x").expect("Wait"), 11);
    let state = shim.state("x").expect("State");
    assert_eq!((state.status.enum_value(), state.exit_status), (Ok(Status::STOPPED), 11));
    let deleted = shim.delete("x").expect("Delete");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 11));
    assert_eq!(shim.status(""), Status::RUNNING);
    // The id is free again.
    shim.exec("x", "exit 12").expect("Exec");
    shim.start("x").expect("Start");
    assert_eq!(shim.wait("x").expect("Wait"), 12);
}

#[test]
fn exec_never_started_is_deleted_with_status_0() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "true").expect("Exec");
    assert_eq!(shim.delete("x").expect("Delete").exit_status, 0);
}

#[test]
fn exec_start_after_inits_end_fails() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "true").expect("Exec");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    let failure = shim.start("x").expect_err("init is gone");
    if !support::differences::runc_differs("exec start after init's end") {
        assert_eq!(failure.code, ttrpc::proto::Code::FAILED_PRECONDITION, "{failure:?}");
        assert_eq!(shim.status("x"), Status::CREATED);
    }
}

#[test]
fn killed_exec_is_gone_and_the_container_lives_on() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "exec sleep 1000").expect("Exec");
    let pid = shim.start("x").expect("Start");
    shim.kill("x", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("x").expect("Wait"), 137);
    assert!(!leak::alive(pid as i32));
    assert_eq!(shim.status(""), Status::RUNNING);
    assert_eq!(leak::processes_in(shim.bundle.cgroup()).len(), 1);
}

#[test]
fn execs_die_with_init() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "exec sleep 1000").expect("Exec");
    shim.start("x").expect("Start");
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("x").expect("Wait"), 137);
    assert_eq!(shim.wait("").expect("Wait"), 137);
}

#[test]
fn pids_name_the_exec_of_a_process() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000 & wait"));
    let init = shim.run();
    shim.exec("x", "exec sleep 1000").expect("Exec");
    let exec = shim.start("x").expect("Start");
    let processes = support::eventually("three processes", SOON, || {
        let processes = shim.pids().expect("Pids");
        (processes.len() == 3).then_some(processes)
    });
    let named: Vec<_> = processes.iter().filter(|process| process.info.is_some()).collect();
    assert_eq!(named.iter().map(|process| process.pid).collect::<Vec<_>>(), [exec]);
    assert!(processes.iter().any(|process| process.pid == init));
    assert!(
        named[0].info.type_url.ends_with("containerd.runc.v1.ProcessDetails"),
        "{}",
        named[0].info.type_url
    );
    assert_eq!(ProcessDetails::parse_from_bytes(&named[0].info.value).expect("details").exec_id, "x");
}

/// As systemd in a container does. A cgroup2 cgroup that hands controllers on takes no processes (cgroups(7)).
#[test]
fn exec_joins_an_init_that_moved_and_made_its_cgroup_a_parent() {
    needs_containers!();
    needs!(cgroup_v2(), "a cgroup v1 that has children takes processes too");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let init = shim.run();
    let ours = leak::cgroups(shim.bundle.cgroup()).pop().expect("its cgroup");
    let below = ours.join("below");
    let added = |exec: &str, folder: &Path| {
        shim.exec(exec, "exec sleep 1000").expect("Exec");
        let pid = shim.start(exec).expect("Start").to_string();
        let members = std::fs::read_to_string(folder.join("cgroup.procs")).expect("members");
        assert!(members.lines().any(|member| member == pid), "{exec} is not in {}", folder.display());
        pid
    };
    let first = added("x", &ours);
    std::fs::create_dir(&below).expect("make a cgroup below");
    for pid in [init.to_string(), first] {
        std::fs::write(below.join("cgroup.procs"), pid).expect("move a process");
    }
    std::fs::write(ours.join("cgroup.subtree_control"), "+pids").expect("hand a controller on");
    added("y", &below);
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("y").expect("Wait"), 137);
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn kill_all_reaches_every_process() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000 & sleep 1000 & wait");
    // Without a pid namespace, the end of init ends nobody else by itself.
    bundle.config["linux"]["namespaces"].as_array_mut().expect("array").remove(0);
    let shim = host.start(bundle);
    shim.run();
    let pids = support::eventually("three processes", SOON, || {
        Some(leak::processes_in(shim.bundle.cgroup())).filter(|pids| pids.len() == 3)
    });
    shim.kill_all(libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    support::eventually("all are dead", SOON, || pids.iter().all(|pid| !leak::alive(*pid)).then_some(()));
}

#[test]
fn rest_of_the_cgroup_dies_with_init_in_the_hosts_pid_namespace() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000 & sleep 1000 & sleep 0.3");
    bundle.config["linux"]["namespaces"].as_array_mut().expect("array").remove(0);
    let shim = host.start(bundle);
    shim.run();
    let pids = support::eventually("processes", SOON, || {
        Some(leak::processes_in(shim.bundle.cgroup())).filter(|pids| pids.len() >= 3)
    });
    shim.wait("").expect("Wait");
    support::eventually("all are dead", SOON, || pids.iter().all(|pid| !leak::alive(*pid)).then_some(()));
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn rest_of_the_cgroup_dies_with_init_in_a_pid_namespace_that_is_anothers() {
    needs_containers!();
    let host = Host::new();
    let first = host.start(host.bundle("a", "sleep 1000"));
    let pid = first.run();
    let mut bundle = host.bundle("b", "sleep 1000 & sleep 1000 & sleep 0.3");
    bundle.set("/linux/namespaces/0/path", json!(format!("/proc/{pid}/ns/pid")));
    let shim = host.start(bundle);
    shim.run();
    let pids = support::eventually("processes", SOON, || {
        Some(leak::processes_in(shim.bundle.cgroup())).filter(|pids| pids.len() >= 3)
    });
    shim.wait("").expect("Wait");
    support::eventually("all are dead", SOON, || pids.iter().all(|pid| !leak::alive(*pid)).then_some(()));
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    assert_eq!(first.status(""), Status::RUNNING);
}

#[test]
fn exec_runs_in_a_container_that_waits_for_its_start() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exit 4"));
    shim.create().expect("Create");
    shim.exec("x", "exit 3").expect("Exec");
    shim.start("x").expect("Start of the exec");
    assert_eq!(shim.wait("x").expect("Wait"), 3);
    shim.delete("x").expect("Delete of the exec");
    assert_eq!(shim.status(""), Status::CREATED);
    shim.start("").expect("Start");
    assert_eq!(shim.wait("").expect("Wait"), 4);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn exec_killed_in_a_paused_container_leaves_it_paused() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "sleep 1000").expect("Exec");
    shim.start("x").expect("Start of the exec");
    shim.pause().expect("Pause");
    shim.kill("x", libc::SIGKILL).expect("Kill");
    // Longer than a process that can die is given before the shim looks why it does not.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(leak::is_frozen(shim.bundle.cgroup()), "it runs");
    assert_eq!(shim.status(""), Status::PAUSED);
    shim.resume().expect("Resume");
    assert_eq!(shim.wait("x").expect("Wait"), 137);
    shim.delete("x").expect("Delete of the exec");
}

#[test]
fn stats_carry_the_bare_type_name_and_answer_until_delete() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    shim.run();
    shim.wait("").expect("Wait");
    let stats = shim.stats().expect("Stats after the exit");
    let version = if cgroup_v2() { 2 } else { 1 };
    assert_eq!(stats.type_url, format!("io.containerd.cgroups.v{version}.Metrics"));
}

#[test]
fn pause_and_resume_show_in_state_and_a_paused_task_can_be_killed() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.pause().expect("Pause");
    assert_eq!(shim.status(""), Status::PAUSED);
    shim.resume().expect("Resume");
    assert_eq!(shim.status(""), Status::RUNNING);
    shim.pause().expect("Pause");
    if !support::differences::runc_differs("SIGKILL of a paused task") {
        shim.kill("", libc::SIGKILL).expect("Kill");
        assert_eq!(shim.wait("").expect("Wait"), 137);
    } else {
        shim.resume().expect("Resume");
    }
}

#[test]
fn many_execs_at_once_all_end() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for number in 0..20 {
        shim.exec_process(
            &format!("x{number}"),
            &shim.bundle.process(&["sh", "-c", &format!("exit {number}")]),
            &Stdio3::default(),
        )
        .expect("Exec");
    }
    for number in 0..20 {
        shim.start(&format!("x{number}")).expect("Start");
    }
    for number in 0..20 {
        assert_eq!(shim.wait(&format!("x{number}")).expect("Wait"), number);
        shim.delete(&format!("x{number}")).expect("Delete");
    }
}

const CROWD: usize = 70;

/// Whenever init dies, every client is answered; whom Start promised a process hears of its end once, before init's.
#[test]
fn execs_that_start_while_init_dies_are_all_answered_and_end_once_before_it() {
    needs_containers!();
    needs!(ours(), "runc's codes for an exec without an init vary");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    for _ in 0..4 {
        shim.run();
        let (before, at) = (host.events.seen().len(), RandomState::new().hash_one(()) as usize % CROWD);
        let mut started = crowd(&shim, at);
        assert_eq!(shim.delete("").expect("Delete").exit_status, 137);
        let names = || host.events.names().split_off(before);
        support::eventually("the end is told", SOON, || names().contains(&"delete".into()).then_some(()));
        let mut exits: Vec<_> = names().into_iter().filter(|name| name.starts_with("exit")).collect();
        assert_eq!(exits.pop().as_deref(), Some("exit"), "init's is the last, killed after {at}");
        exits.sort();
        started.sort();
        assert_eq!(exits, started, "killed after {at}");
    }
}

/// Execs that start all at once, each for a client of its own; init is killed when `at` of them have their answer. The
/// exit events that have to come.
fn crowd(shim: &Shim<'_>, at: usize) -> Vec<String> {
    let numbers: Vec<_> = (0..CROWD).collect();
    numbers.iter().for_each(|number| shim.exec(&format!("x{number}"), "exec sleep 1000").expect("Exec"));
    let (sender, answered) = channel();
    let (id, service) = (shim.id(), shim.service());
    thread::scope(|scope| {
        let clients = numbers.iter().map(|number| {
            let (client, sender, id) = (shim.client(), sender.clone(), id.clone());
            scope.spawn(move || start_and_wait(client, service, (id, format!("x{number}")), &sender))
        });
        let clients: Vec<_> = clients.collect();
        answered.iter().take(at).for_each(drop);
        shim.kill("", libc::SIGKILL).expect("Kill");
        assert_eq!(shim.wait("").expect("Wait"), 137);
        clients.into_iter().filter_map(|client| client.join().expect("a client")).collect()
    })
}

/// The name of the exit event that has to come, if the exec started.
fn start_and_wait(
    mut client: Client,
    service: &str,
    (id, exec_id): (String, String),
    answered: &Sender<()>,
) -> Option<String> {
    let request = api::StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
    let start = client.call::<api::StartResponse>(service, "Start", &request);
    answered.send(()).expect("a listener");
    if let Err(failure) = start {
        assert_eq!(failure.code, Code::FAILED_PRECONDITION, "{failure:?}");
        return None;
    }
    let request = api::WaitRequest { id, exec_id: exec_id.clone(), ..Default::default() };
    let wait = client.call::<api::WaitResponse>(service, "Wait", &request).expect("Wait");
    assert_eq!(wait.exit_status, 137);
    Some(format!("exit/{exec_id}"))
}

/// Kill with `all`: every process of the container, whatever the signal, and each once.
#[test]
fn any_signal_reaches_all_processes_of_the_container() {
    needs_containers!();
    let host = Host::new();
    let out = Sink::new(host.folder().join("out"));
    let waits = "trap 'echo told' USR1; echo ready; while :; do sleep 0.05; done";
    let shim = host.start(host.bundle("a", &format!("({waits}) & ({waits}) & {waits}")));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    support::eventually("all are ready", SOON, || (out.so_far().matches("ready").count() == 3).then_some(()));
    shim.kill_all(libc::SIGUSR1).expect("Kill");
    support::eventually("all are told", SOON, || (out.so_far().matches("told").count() == 3).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(out.so_far().matches("told").count(), 3, "{}", out.so_far());
}
