//! Every call abandoned by its client after a moment and made again: the answer is the one that nobody waited for. And a
//! call that is stuck keeps nobody from killing.

use crate::support::fifo::{Sink, Source};
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::wire::{Client, Failure, read_frame};
use crate::support::{SOON, eventually, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api::{self, Status};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use ttrpc::proto::Code;

/// Milliseconds after which a client leaves.
const MOMENTS: [u64; 9] = [0, 0, 0, 0, 1, 1, 2, 5, 10];

/// Sends the call and leaves after `moment`. True if the answer was there by then: it was not abandoned.
fn abandon(shim: &Shim<'_>, method: &str, request: &impl Message, moment: u64) -> bool {
    let mut client = shim.client();
    client.send(shim.service(), method, request).expect("send");
    let wait = Duration::from_millis(moment.max(1));
    client.raw().set_read_timeout(Some(wait)).expect("set a time-out");
    match moment {
        0 => false,
        _ => read_frame(client.raw()).is_ok(),
    }
}

/// Abandoned and made again: what the second caller is told.
fn again<A: Message>(
    shim: &Shim<'_>,
    method: &str,
    request: &impl Message,
    moment: u64,
) -> Option<Result<A, Failure>> {
    match abandon(shim, method, request, moment) {
        true => None,
        false => Some(shim.call(method, request)),
    }
}

#[test]
fn every_call_that_is_abandoned_and_made_again_gives_the_first_ones_answer() {
    needs_containers!();
    needs!(subject::ours(), "a Go shim cancels what its client abandons");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exec sleep 1000"));
    let id = shim.id();
    let mut abandoned = 0;
    for moment in MOMENTS {
        let mut told = |outcome: Option<Result<(), Failure>>, what: &str| {
            abandoned += usize::from(outcome.is_some());
            let done = [Code::NOT_FOUND, Code::FAILED_PRECONDITION, Code::ALREADY_EXISTS];
            match outcome.unwrap_or(Ok(())) {
                Ok(()) => {}
                // The answer had been sent when the client left without reading it: it is not given twice.
                Err(failure) if done.contains(&failure.code) => {}
                Err(failure) => panic!("{what} after {moment} ms: {failure:?}"),
            }
        };
        let done = |answer: Option<Result<api::Empty, Failure>>| answer.map(|result| result.map(drop));
        let created = again::<api::CreateTaskResponse>(
            &shim,
            "Create",
            &shim.create_request(&Stdio3::default()),
            moment,
        );
        told(created.map(|result| result.map(|answer| assert!(answer.pid > 0))), "Create");
        let start = api::StartRequest { id: id.clone(), ..Default::default() };
        let started = again::<api::StartResponse>(&shim, "Start", &start, moment);
        told(started.map(|result| result.map(|answer| assert!(answer.pid > 0))), "Start");
        assert_eq!(shim.status(""), Status::RUNNING);
        let process = shim.bundle.process(&["sh", "-c", "exit 3"]).to_string().into_bytes();
        let exec = api::ExecProcessRequest {
            id: id.clone(),
            exec_id: "x".into(),
            spec: Some(Any { value: process, ..Default::default() }).into(),
            ..Default::default()
        };
        // The call only takes a note; a client that lost the answer finds the note, which was taken once, and goes on.
        let added = done(again(&shim, "Exec", &exec, moment)).map(|result| match result {
            Err(failure) if failure.code == Code::ALREADY_EXISTS => Ok(()),
            other => other,
        });
        told(added, "Exec");
        let start = api::StartRequest { id: id.clone(), exec_id: "x".into(), ..Default::default() };
        let started = again::<api::StartResponse>(&shim, "Start", &start, moment);
        told(started.map(|result| result.map(|answer| assert!(answer.pid > 0))), "Start of the exec");
        assert_eq!(shim.wait("x").expect("Wait"), 3);
        let delete = api::DeleteRequest { id: id.clone(), exec_id: "x".into(), ..Default::default() };
        let deleted = again::<api::DeleteResponse>(&shim, "Delete", &delete, moment);
        told(
            deleted.map(|result| result.map(|answer| assert_eq!(answer.exit_status, 3))),
            "Delete of the exec",
        );
        let pause = api::PauseRequest { id: id.clone(), ..Default::default() };
        told(done(again(&shim, "Pause", &pause, moment)), "Pause");
        assert_eq!(shim.status(""), Status::PAUSED);
        let resume = api::ResumeRequest { id: id.clone(), ..Default::default() };
        told(done(again(&shim, "Resume", &resume, moment)), "Resume");
        assert_eq!(shim.status(""), Status::RUNNING);
        let resources =
            Any { value: json!({"pids": {"limit": 77}}).to_string().into_bytes(), ..Default::default() };
        let update = api::UpdateTaskRequest {
            id: id.clone(),
            resources: Some(resources).into(),
            ..Default::default()
        };
        told(done(again(&shim, "Update", &update, moment)), "Update");
        let kill = api::KillRequest { id: id.clone(), signal: libc::SIGKILL as u32, ..Default::default() };
        abandon(&shim, "Kill", &kill, moment);
        let wait = api::WaitRequest { id: id.clone(), ..Default::default() };
        let waited = again::<api::WaitResponse>(&shim, "Wait", &wait, moment);
        told(waited.map(|result| result.map(|answer| assert_eq!(answer.exit_status, 137))), "Wait");
        let delete = api::DeleteRequest { id: id.clone(), ..Default::default() };
        let deleted = again::<api::DeleteResponse>(&shim, "Delete", &delete, moment);
        told(deleted.map(|result| result.map(|answer| assert_eq!(answer.exit_status, 137))), "Delete");
        shim.assert_nothing_left();
    }
    // How many answers had been sent by then is the machine's affair: the next test has those that cannot have been.
    assert!(abandoned >= 30, "only {abandoned} calls were abandoned");
    let exits = |name: &str| host.events.names().iter().filter(|known| *known == name).count();
    eventually("all events", SOON, || (exits("delete") == MOMENTS.len()).then_some(()));
    for name in ["create", "start", "exit", "exit/x", "exec-added/x", "exec-started/x"] {
        assert_eq!(exits(name), MOMENTS.len(), "{name}: {:?}", host.events.names());
    }
}

/// To see it fail: in `shim/process.rs` let `resize`, or `close_stdin`, only take the note.
#[test]
fn resize_and_close_of_a_client_that_left_are_done_or_can_be_done_again() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "stty -echo; while read -r _; do stty size; done; exec sleep 1000");
    bundle.set("/process/terminal", json!(true));
    let shim = host.start(bundle);
    let (mut input, out) = (Source::new(host.folder().join("in")), Sink::new(host.folder().join("out")));
    let stdio = Stdio3 { terminal: true, stdin: input.uri(), stdout: out.uri(), ..Default::default() };
    shim.run_with(&stdio);
    for (number, moment) in (50..).zip(MOMENTS) {
        let resize = api::ResizePtyRequest { id: shim.id(), width: number, height: 20, ..Default::default() };
        if let Some(again) = again::<api::Empty>(&shim, "ResizePty", &resize, moment) {
            again.expect("ResizePty once more");
        }
        input.write("\n");
        out.wait_for(&format!("20 {number}\r\n"));
    }
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        let exec = format!("x{number}");
        let (mut input, out) = (
            Source::new(host.folder().join(&exec)),
            Sink::new(host.folder().join("o").with_extension(&exec)),
        );
        let stdio = Stdio3 { stdin: input.uri(), stdout: out.uri(), ..Default::default() };
        shim.exec_process(&exec, &shim.bundle.process(&["cat"]), &stdio).expect("Exec");
        shim.start(&exec).expect("Start");
        input.write("all of it");
        out.wait_for("all of it");
        drop(input);
        let close =
            api::CloseIORequest { id: shim.id(), exec_id: exec.clone(), stdin: true, ..Default::default() };
        if let Some(again) = again::<api::Empty>(&shim, "CloseIO", &close, moment) {
            again.expect("CloseIO once more");
        }
        assert_eq!(shim.wait(&exec).expect("Wait"), 0, "cat ends with its input");
        shim.delete(&exec).expect("Delete");
    }
}

/// With a container it does nothing, however often; without one the shim ends, and whoever asks again may find nobody. To
/// see it fail: in `shim/service.rs`, `shutdown`, drop `self.done.send`.
#[test]
fn shutdown_of_a_client_that_left_is_done_or_can_be_done_again() {
    needs_containers!();
    for moment in MOMENTS {
        let host = Host::new();
        let shim = host.start(host.bundle("a", "exec sleep 1000"));
        shim.run();
        let request = api::ShutdownRequest { id: shim.id(), ..Default::default() };
        if let Some(again) = again::<api::Empty>(&shim, "Shutdown", &request, moment) {
            again.expect("Shutdown once more");
        }
        assert_eq!(shim.status(""), Status::RUNNING);
        shim.kill("", libc::SIGKILL).expect("Kill");
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
        abandon(&shim, "Shutdown", &request, moment);
        // The second one is refused, hung up on or answered, as far as the first one has come.
        if let Ok(mut client) = Client::connect(&shim.address)
            && let Ok(Ok(answer)) = client.try_call::<api::Empty>(shim.service(), "Shutdown", &request)
        {
            assert_eq!(answer, api::Empty::new());
        }
        shim.wait_until_gone();
        assert!(!subject::ours() || !shim.address.exists(), "its socket is left");
        shim.assert_nothing_left();
    }
}

/// A hook that ends when it is let, and says when it runs.
fn held(host: &Host, moment: &str) -> Value {
    let file = |name| host.folder().join(format!("{name}-{moment}")).display().to_string();
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", file("runs"), file("go"));
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

/// The shim's ends of its clients' connections: an accepted socket bears the listener's name. A process on its way into the
/// container holds them as well for a while, so the shim's own descriptors are what counts.
fn connections(shim: &Shim<'_>) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").expect("read the table of sockets");
    let own = table.lines().filter(|line| line.ends_with(&*shim.address.to_string_lossy()));
    let own: Vec<_> = own.filter_map(|line| line.split_whitespace().nth(6)).collect();
    let links = std::fs::read_dir(format!("/proc/{}/fd", shim.pid)).expect("list descriptors");
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| own.iter().any(|inode| link.as_os_str() == &*format!("socket:[{inode}]"))).count()
}

/// Makes a call that its hook holds up, and leaves. The shim has seen that before the hook may end.
fn leave(shim: &Shim<'_>, method: &str, request: &impl Message, moment: &str) {
    let mut client = shim.client();
    client.send(shim.service(), method, request).expect("send");
    let file = |name| shim.host.folder().join(format!("{name}-{moment}"));
    eventually(&format!("the {moment} hook runs"), SOON, || file("runs").exists().then_some(()));
    let before = connections(shim);
    drop(client);
    eventually("the shim sees it leave", SOON, || (connections(shim) < before).then_some(()));
    std::fs::write(file("go"), "").expect("let the hook end");
}

#[test]
fn an_answer_that_nobody_was_there_to_take_is_given_to_the_next_and_only_once() {
    needs_containers!();
    needs!(subject::ours(), "a Go shim cancels what its client abandons");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exec sleep 1000");
    for moment in ["createRuntime", "poststart", "poststop"] {
        bundle.set(&format!("/hooks/{moment}"), held(&host, moment));
    }
    let shim = host.start(bundle);
    let refusal = |code: Code, outcome: Result<(), Failure>| {
        assert_eq!(outcome.map_err(|failure| failure.code), Err(code));
    };
    let create = shim.create_request(&Stdio3::default());
    leave(&shim, "Create", &create, "createRuntime");
    // With its event the call is done.
    let pid = host.events.wait_for("create").pid;
    assert_eq!(shim.create().expect("the first one's answer"), pid);
    refusal(Code::ALREADY_EXISTS, shim.create().map(drop));
    leave(&shim, "Start", &api::StartRequest { id: shim.id(), ..Default::default() }, "poststart");
    assert_eq!(shim.start("").expect("the first one's answer"), pid);
    refusal(Code::FAILED_PRECONDITION, shim.start("").map(drop));
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    leave(&shim, "Delete", &api::DeleteRequest { id: shim.id(), ..Default::default() }, "poststop");
    assert_eq!(host.events.wait_for("delete").pid, pid);
    let deleted = shim.delete("").expect("the first one's answer");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    refusal(Code::NOT_FOUND, shim.delete("").map(drop));
    shim.assert_nothing_left();
}

#[test]
fn a_create_that_is_stuck_can_be_joined_and_keeps_nobody_from_killing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let mut host = Host::new();
    host.binary = subject::faults_binary().expect("checked");
    host.environment.push(("MYSHIM_FAULT".into(), "pause:create: hooks ran".into()));
    host.environment.push(("MYSHIM_FAULT_FOLDER".into(), host.folder().display().to_string()));
    // Two containers in one shim: one lives, the other is stuck between its hooks and its start.
    let mut shim = host.start(host.bundle("a", "exec sleep 1000"));
    shim.run();
    let mut stuck = host.bundle("b", "exec sleep 1000");
    stuck.set("/hooks", json!({"createRuntime": [{"path": "/bin/true"}]}));
    stuck.write();
    let lively = std::mem::replace(&mut shim.bundle, stuck);
    let request = shim.create_request(&Stdio3::default());
    assert!(!abandon(&shim, "Create", &request, 5), "it is stuck");
    eventually("Create is stuck", SOON, || host.folder().join("reached").exists().then_some(()));
    // A second client joins, and waits as well.
    let mut second = shim.client();
    second.send(shim.service(), "Create", &request).expect("send");
    let stuck = std::mem::replace(&mut shim.bundle, lively);
    // Requests without end, from as many clients as like.
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let mut client = shim.client();
            client.send(shim.service(), "Create", &request).expect("send");
            client
        })
        .collect();
    let began = Instant::now();
    shim.stats().expect("Stats");
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    assert!(began.elapsed() < SOON, "the other container's end took {:?}", began.elapsed());
    drop(crowd);
    std::fs::write(host.folder().join("go"), "").expect("let it go on");
    let answer: api::CreateTaskResponse = second.receive("Create").expect("the first call's answer");
    assert!(answer.pid > 0);
    shim.bundle = stuck;
    assert_eq!(shim.status(""), Status::CREATED);
}

#[test]
fn a_create_that_is_stuck_keeps_a_shim_that_is_to_end_from_ending_nobody() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let mut host = Host::new();
    host.binary = subject::faults_binary().expect("checked");
    host.environment.push(("MYSHIM_FAULT".into(), "pause:create: hooks ran".into()));
    host.environment.push(("MYSHIM_FAULT_FOLDER".into(), host.folder().display().to_string()));
    let mut shim = host.start(host.bundle("a", "exec sleep 1000"));
    shim.run();
    let mut stuck = host.bundle("b", "exec sleep 1000");
    stuck.set("/hooks", json!({"createRuntime": [{"path": "/bin/true"}]}));
    stuck.write();
    let lively = std::mem::replace(&mut shim.bundle, stuck);
    assert!(!abandon(&shim, "Create", &shim.create_request(&Stdio3::default()), 5), "it is stuck");
    eventually("Create is stuck", SOON, || host.folder().join("reached").exists().then_some(()));
    let stuck = std::mem::replace(&mut shim.bundle, lively);
    crate::support::shim::signal(shim.pid, libc::SIGTERM);
    assert_eq!(host.events.wait_for("exit").container, "a");
    std::fs::write(host.folder().join("go"), "").expect("let it go on");
    shim.wait_until_gone();
    host.delete(&shim.bundle);
    shim.assert_nothing_left();
    host.delete(&stuck);
    shim.bundle = stuck;
    shim.assert_nothing_left();
}

/// A container whose Pause is stuck between the frozen cgroup and the word that it is paused, and the client that waits for it.
fn stuck_in_pause(host: &mut Host) -> (Shim<'_>, Client) {
    host.binary = subject::faults_binary().expect("checked");
    host.environment.push(("MYSHIM_FAULT".into(), "pause:Pause: frozen".into()));
    host.environment.push(("MYSHIM_FAULT_FOLDER".into(), host.folder().display().to_string()));
    let host = &*host;
    let shim = host.start(host.bundle("a", "exec sleep 1000"));
    shim.run();
    let mut client = shim.client();
    client
        .send(shim.service(), "Pause", &api::PauseRequest { id: shim.id(), ..Default::default() })
        .expect("send");
    eventually("Pause is stuck", SOON, || host.folder().join("reached").exists().then_some(()));
    (shim, client)
}

#[test]
fn resume_waits_for_the_pause_in_flight() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let mut host = Host::new();
    let (shim, mut pausing) = stuck_in_pause(&mut host);
    let mut resuming = shim.client();
    let resume = api::ResumeRequest { id: shim.id(), ..Default::default() };
    resuming.send(shim.service(), "Resume", &resume).expect("send");
    // Answered behind the Resume: that has been seen by then.
    assert_eq!(shim.status(""), Status::RUNNING, "not paused yet");
    std::fs::write(shim.host.folder().join("go"), "").expect("let it go on");
    pausing.receive::<api::Empty>("Pause").expect("Pause");
    resuming.receive::<api::Empty>("Resume").expect("Resume");
    assert_eq!(shim.status(""), Status::RUNNING);
    shim.host.events.wait_for("resumed");
    let order: Vec<_> = shim.host.events.names().into_iter().filter(|name| name.ends_with("ed")).collect();
    assert_eq!(order, ["paused", "resumed"]);
}

#[test]
fn container_killed_during_its_pause_does_not_stay_frozen() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let mut host = Host::new();
    let (shim, mut pausing) = stuck_in_pause(&mut host);
    shim.kill("", libc::SIGKILL).expect("Kill");
    std::fs::write(shim.host.folder().join("go"), "").expect("let it go on");
    let refused = pausing.receive::<api::Empty>("Pause").expect_err("it is to die");
    assert_eq!(refused.code, Code::FAILED_PRECONDITION);
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// containerd deletes a container whose Create it has given up, and then removes the bundle.
#[test]
fn delete_of_a_container_that_is_being_created_ends_its_create() {
    needs_containers!();
    needs!(subject::ours(), "a Go shim's Delete waits for the Create, however long that takes");
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    let reached = host.folder().join("reached");
    let script = format!("touch {}; exec sleep 1000", reached.display());
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let shim = host.start(bundle);
    let mut client = shim.client();
    client.send(shim.service(), "Create", &shim.create_request(&Stdio3::default())).expect("send");
    eventually("the hook runs", SOON, || reached.exists().then_some(()));
    assert_eq!(shim.delete("").expect_err("it never was").code, Code::NOT_FOUND);
    shim.assert_nothing_left();
    client.receive::<api::CreateTaskResponse>("Create").expect_err("given up");
}
