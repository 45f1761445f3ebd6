//! Things that do not go on: each ends within bounded time, with an error that names the culprit, and is cleaned up when
//! the culprit lets go.

use crate::support::bundle::Bundle;
use crate::support::hung::{self, Hung};
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::wire::Client;
use crate::support::{SOON, eventually, executable, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api::{self, Status};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process on its way in is given up after this.
fn impatient(bundle: &mut Bundle) {
    bundle.set("/annotations", json!({"io.containerd.myshim.setup-timeout": "1s"}));
}

fn assert_cleared(shim: &Shim<'_>) {
    let cgroup = shim.bundle.cgroup().to_owned();
    eventually("what was left is cleared", SOON, || leak::cgroups(&cgroup).is_empty().then_some(()));
    shim.assert_nothing_left();
}

/// containerd ends a `delete` after 5 s, and takes the container's status for lost.
#[test]
fn hook_that_hangs_does_not_keep_delete_from_telling_the_status() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for its hooks as long as they take");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exit 3");
    let hangs = json!({"path": "/bin/sleep", "args": ["sleep", "300"]});
    let ran = host.folder().join("ran");
    let runs = json!({"path": "/bin/touch", "args": ["touch", ran]});
    bundle.set("/hooks", json!({"poststop": [hangs, hangs, runs]}));
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 3);
    shim.crash();
    let began = Instant::now();
    assert_eq!(host.delete(&shim.bundle).exit_status, 3);
    // A tenth of a hook's time: how much less is the machine's affair.
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    assert!(ran.exists(), "the last one had its time, too");
    shim.assert_nothing_left();
}

/// A mount whose source does not answer keeps the process that sets the container up in state D.
#[test]
fn mount_from_a_file_system_that_does_not_answer_is_given_up_by_name_and_cleared_later() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::LOOKUP) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "true");
    impatient(&mut bundle);
    let source = hung.file();
    bundle
        .push("/mounts", json!({"destination": "/x", "type": "bind", "source": source, "options": ["bind"]}));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("it hangs").message;
    assert!(failure.contains(&format!("{} -> /x", source.display())), "{failure}");
    assert!(failure.contains("not done within 1 s") && failure.contains("state D"), "{failure}");
    hung.let_go();
    assert_cleared(&shim);
}

/// A cgroup frozen from above stops a process that joins it; with the v1 freezer it does not even die.
#[test]
fn create_in_a_frozen_cgroup_is_given_up_and_cleared_when_it_thaws() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    impatient(&mut bundle);
    let above = format!("{}-above", bundle.cgroup());
    bundle.set("/linux/cgroupsPath", json!(format!("{above}/a")));
    let (folder, file, frozen, thawed) = freezer(&above);
    fs::create_dir_all(&folder).expect("make a cgroup");
    fs::write(folder.join(file), frozen).expect("freeze");
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("it is frozen").message;
    fs::write(folder.join(file), thawed).expect("thaw");
    assert!(failure.contains("not done within 1 s") && failure.contains("frozen"), "{failure}");
    assert_cleared(&shim);
    for folder in leak::cgroups(&above) {
        let _ = fs::remove_dir(folder);
    }
}

fn freezer(path: &str) -> (PathBuf, &'static str, &'static str, &'static str) {
    let root = Path::new("/sys/fs/cgroup");
    match subject::cgroup_v2() {
        true => (root.join(&path[1..]), "cgroup.freeze", "1", "0"),
        false => (root.join("freezer").join(&path[1..]), "freezer.state", "FROZEN", "THAWED"),
    }
}

/// An exec whose program cannot be read.
#[test]
fn exec_of_a_program_that_does_not_come_is_given_up_by_name_and_the_container_lives() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::OPEN) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "sleep 1000");
    impatient(&mut bundle);
    hung.bind(&mut bundle, "/hung");
    let shim = host.start(bundle);
    shim.run();
    shim.exec_process("e", &shim.bundle.process(&["/hung/x"]), &Stdio3::default()).expect("Exec");
    let mut client = shim.client();
    let request = api::StartRequest { id: shim.id(), exec_id: "e".into(), ..Default::default() };
    client.send(shim.service(), "Start", &request).expect("send Start");
    hung.wait_until_asked();
    let refused = shim.delete("e").expect_err("it is on its way");
    assert!(refused.message.contains("process e is being started"), "{refused:?}");
    let failure = client.receive::<api::StartResponse>("Start").expect_err("it hangs").message;
    assert!(failure.contains("exec /hung/x: not done within 1 s"), "{failure}");
    shim.exec("f", "true").expect("Exec");
    shim.start("f").expect("Start");
    assert_eq!(shim.wait("f").expect("Wait"), 0);
    hung.let_go();
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// It says where the home of a process is whose environment does not. Seen to fail with a shim whose own thread reads it.
#[test]
fn only_its_exec_waits_for_a_passwd_file_that_does_not_come() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::LOOKUP) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "sleep 1000");
    hung.bind(&mut bundle, "/etc");
    let process = bundle.process(&["sleep", "1000"]);
    bundle.push("/process/env", json!("HOME=/"));
    impatient(&mut bundle);
    let shim = host.start(bundle);
    shim.run();
    shim.exec_process("e", &process, &Stdio3::default()).expect("Exec");
    let mut client = shim.client();
    let request = api::StartRequest { id: shim.id(), exec_id: "e".into(), ..Default::default() };
    client.send(shim.service(), "Start", &request).expect("send Start");
    hung.wait_until_asked();
    assert_eq!((shim.status(""), shim.status("e")), (Status::RUNNING, Status::CREATED));
    let failure = client.receive::<api::StartResponse>("Start").expect_err("it hangs").message;
    assert!(failure.contains("HOME of user 0: not done within 1 s"), "{failure}");
    hung.let_go();
    shim.exec_process("f", &process, &Stdio3::default()).expect("Exec");
    shim.start("f").expect("it has no home, but it runs");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("f").expect("Delete of the exec");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// Without a pid namespace nothing but the shim keeps the two together.
#[test]
fn exit_is_told_though_an_exec_hangs_in_its_start() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::OPEN) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/annotations", json!({"io.containerd.myshim.setup-timeout": "1000s"}));
    bundle.config["linux"]["namespaces"].as_array_mut().expect("array").remove(0);
    hung.bind(&mut bundle, "/hung");
    let shim = host.start(bundle);
    shim.run();
    shim.exec_process("e", &shim.bundle.process(&["/hung/x"]), &Stdio3::default()).expect("Exec");
    let mut client = shim.client();
    let request = api::StartRequest { id: shim.id(), exec_id: "e".into(), ..Default::default() };
    client.send(shim.service(), "Start", &request).expect("send Start");
    hung.wait_until_asked();
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    hung.let_go();
    client.receive::<api::StartResponse>("Start").expect_err("killed");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// A process of the container in state D: Kill and Delete answer, say whom they wait for, and work later. "The poststop hooks
/// MUST be called after the container is deleted but before the delete operation returns".
#[test]
fn process_in_uninterruptible_sleep_is_named_and_goes_when_it_can() {
    needs_containers!();
    needs!(subject::ours(), "runc says only that the container is not stopped");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::LOOKUP) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "stat /hung/x");
    hung.bind(&mut bundle, "/hung");
    let log = host.folder().join("poststop");
    let script = format!("echo once >>{}", log.display());
    bundle.set("/hooks/poststop", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let shim = host.start(bundle);
    shim.run();
    hung.wait_until_asked();
    shim.kill("", libc::SIGKILL).expect("Kill of one only sends the signal");
    let begun = Instant::now();
    let failure = shim.kill_all(libc::SIGKILL).expect_err("it does not die").message;
    assert!(failure.contains("(stat) in state D") || failure.contains("(sh) in state D"), "{failure}");
    shim.delete("").expect_err("it is not dead");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    hung.let_go();
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    assert_eq!(fs::read_to_string(log).expect("the log"), "once\n");
}

/// Frozen by somebody else, not by Pause: a SIGKILL gets through all the same.
#[test]
fn kill_of_a_container_that_somebody_else_froze_ends_it() {
    needs_containers!();
    needs!(subject::ours(), "runc leaves a frozen task with the signal pending");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let (folder, file, frozen, _) = freezer(shim.bundle.cgroup());
    fs::write(folder.join(file), frozen).expect("freeze");
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// Nobody reads stdout: the process waits in its write, but neither its end nor Delete do.
#[test]
fn fifo_that_nobody_reads_holds_up_neither_exit_nor_delete() {
    needs_containers!();
    let host = Host::new();
    let fifo = host.folder().join("out");
    crate::support::fifo::make(&fifo);
    // Held open, never read.
    let _reader = fs::File::options().read(true).write(true).open(&fifo).expect("open a fifo");
    let shim = host.start(host.bundle("a", "yes"));
    let uri = fifo.display().to_string();
    shim.run_with(&Stdio3 { stdout: uri.clone(), stderr: uri, ..Default::default() });
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    shim.assert_nothing_left();
}

/// Somebody holds a file of the root: Delete does not wait for him, and nothing stays mounted.
#[test]
fn busy_root_is_unmounted_all_the_same() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim fails Delete with EBUSY");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "echo text >/file; sleep 1000"));
    shim.run();
    let file = shim.bundle.rootfs().join("file");
    let held = eventually("the file is there", SOON, || fs::File::open(&file).ok());
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    assert!(held.metadata().expect("still his").len() <= 5);
}

/// "Hooks": one without a timeout that hangs. A Kill of the container that is being created ends it, and with it Create.
#[test]
fn hook_that_hangs_ends_with_the_container_and_is_named() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let (mark, mut bundle) = (host.folder().join("hook-runs"), host.bundle("a", "true"));
    let script = format!("echo here; touch {}; sleep 1000", mark.display());
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]),
    );
    let shim = host.start(bundle);
    let mut client = shim.client();
    client.send(shim.service(), "Create", &shim.create_request(&Stdio3::default())).expect("send Create");
    eventually("the hook runs", SOON, || mark.exists().then_some(()));
    shim.kill("", libc::SIGKILL).expect("Kill of a container that is being created");
    let failure = client.receive::<api::CreateTaskResponse>("Create").expect_err("given up").message;
    assert!(failure.contains("hooks.createRuntime[0] /bin/sh: was killed"), "{failure}");
    assert!(failure.contains("output: here"), "{failure}");
    assert_cleared(&shim);
    let text = mark.display().to_string();
    eventually("the hook is gone", SOON, || leak::processes_naming(&text).is_empty().then_some(()));
}

/// A client that has given a Create up ends the shim, as containerd does: the Create ends first.
#[test]
fn shutdown_gives_up_the_create_that_nobody_waits_for() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let (mark, mut bundle) = (host.folder().join("hook-runs"), host.bundle("a", "true"));
    let script = format!("touch {}; sleep 1000", mark.display());
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]),
    );
    let shim = host.start(bundle);
    let mut client = shim.client();
    client.send(shim.service(), "Create", &shim.create_request(&Stdio3::default())).expect("send Create");
    eventually("the hook runs", SOON, || mark.exists().then_some(()));
    drop(client);
    shim.shutdown();
    shim.wait_until_gone();
    shim.assert_nothing_left();
    let text = mark.display().to_string();
    eventually("the hook is gone", SOON, || leak::processes_naming(&text).is_empty().then_some(()));
}

/// A container whose poststart hook runs, with the call of Start that waits for it. The mark is in the hook's arguments.
fn starting<'h>(host: &'h Host, program: &str, then: &str) -> (Shim<'h>, Client, PathBuf) {
    let (mark, mut bundle) = (host.folder().join("hook-runs"), host.bundle("a", program));
    let script = format!("touch {}; {then}", mark.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    bundle.set("/hooks/poststart", hook);
    let shim = host.start(bundle);
    shim.create().expect("Create");
    let mut client = shim.client();
    let request = api::StartRequest { id: shim.id(), ..Default::default() };
    client.send(shim.service(), "Start", &request).expect("send Start");
    eventually("the hook runs", SOON, || mark.exists().then_some(()));
    (shim, client, mark)
}

/// The same after Create: a Kill ends init, and with init the hook that Start waits for.
#[test]
fn start_waits_for_no_hook_of_a_container_that_is_killed() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let (shim, mut client, _) = starting(&host, "sleep 1000", "sleep 1000");
    shim.kill("", libc::SIGKILL).expect("Kill");
    let failure = client.receive::<api::StartResponse>("Start").expect_err("given up").message;
    assert!(failure.contains("hooks.poststart[0] /bin/sh: was killed"), "{failure}");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// "The poststart hooks MUST be called after the user-specified process is executed but before the start operation
/// returns" (config.md, "Poststart"): it may be done by then, which its hooks neither fail for nor keep from being told.
#[test]
fn program_that_is_done_before_its_poststart_hook_has_its_exit_told_at_once() {
    needs_containers!();
    needs!(subject::ours(), "runc runs poststart hooks in Create");
    let host = Host::new();
    let go = host.folder().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done", go.display());
    let (shim, mut client, _) = starting(&host, "exit 7", &wait);
    assert_eq!(shim.wait("").expect("Wait"), 7);
    assert_eq!(host.events.wait_for("exit").exit_status, 7);
    assert_eq!(host.events.names(), ["create", "start", "exit"]);
    fs::write(&go, "").expect("let the hook go");
    client.receive::<api::StartResponse>("Start").expect("Start");
}

/// Nobody may be left to kill such a container: Delete ends its hooks.
#[test]
fn delete_ends_the_poststart_hook_of_a_program_that_is_done() {
    needs_containers!();
    needs!(subject::ours(), "runc runs poststart hooks in Create");
    let host = Host::new();
    let (shim, mut client, mark) = starting(&host, "true", "sleep 1000");
    assert_eq!(shim.wait("").expect("Wait"), 0);
    shim.delete("").expect("Delete");
    let failure = client.receive::<api::StartResponse>("Start").expect_err("given up").message;
    assert!(failure.contains("hooks.poststart[0] /bin/sh: was killed"), "{failure}");
    shim.assert_nothing_left();
    let text = mark.display().to_string();
    eventually("the hook is gone", SOON, || leak::processes_naming(&text).is_empty().then_some(()));
}

/// A hook's own timeout ends everything that it started.
#[test]
fn hook_beyond_its_timeout_is_ended_with_its_children() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for what its hook has started");
    let host = Host::new();
    let mark = host.folder().join("nap");
    executable(&mark, fs::read("/bin/sleep").expect("read sleep"));
    let mut bundle = host.bundle("a", "true");
    let script = format!("{} 1000; true", mark.display());
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]),
    );
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("it hangs").message;
    assert!(
        failure.contains("hooks.createRuntime[0] /bin/sh: did not end within its timeout of 1 s"),
        "{failure}"
    );
    let text = mark.display().to_string();
    eventually("its child is gone", SOON, || leak::processes_naming(&text).is_empty().then_some(()));
    shim.assert_nothing_left();
}

/// What the shim cannot clear when it is told to end it clears later: it stays for that, out of everybody's way.
#[test]
fn shim_stays_until_what_a_failed_create_left_is_cleared() {
    needs_containers!();
    needs!(subject::ours(), "runc waits for ever");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::LOOKUP) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "true");
    impatient(&mut bundle);
    bundle.push(
        "/mounts",
        json!({"destination": "/x", "type": "bind", "source": hung.file(), "options": ["bind"]}),
    );
    let shim = host.start(bundle);
    shim.create().expect_err("it hangs");
    shim.shutdown();
    eventually("its socket is gone", SOON, || (!shim.address.exists()).then_some(()));
    assert!(leak::alive(shim.pid), "it left its child alone");
    hung.let_go();
    shim.wait_until_gone();
    shim.assert_nothing_left();
}
