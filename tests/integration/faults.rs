//! The shim killed, or failing, at every named point of its life (`src/sys/fault.rs`): whatever it was doing, `delete`
//! alone cleans up, tells what is known, and the same id can be created again.

use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Stdio3, read_reply};
use crate::support::wire::{Client, Failure};
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api;
use myshim::sys::fault::POINTS;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const INIT: &str = "trap 'exit 7' TERM; sleep 1000 & wait";
const STATUS: u32 = 7;
/// How far a life may take; nothing in it waits.
const LIMIT: Duration = Duration::from_secs(5);

/// What a client learnt from one life.
#[derive(Debug, Default)]
struct Told {
    shim: i32,
    pid: u32,
    created: bool,
    /// What failed, and what it said.
    failures: Vec<(String, String)>,
    /// The shim, or `start`, was there no more.
    died: bool,
}

/// Calls as containerd makes them, from `start` to Shutdown. Ends early when the shim is gone.
struct Life<'a> {
    bundle: &'a Bundle,
    client: Client,
    told: Told,
}

impl Life<'_> {
    /// None: the call failed, or there is nobody to call any more.
    fn call<A: Message>(&mut self, method: &str, request: &impl Message) -> Option<A> {
        if self.told.died {
            return None;
        }
        match self.client.try_call::<A>("containerd.task.v2.Task", method, request) {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(Failure { message, .. })) => self.told.failures.push((method.into(), message)),
            Err(_) => self.told.died = true,
        }
        None
    }

    fn live(&mut self) {
        let id = &self.bundle.id.clone();
        let connect = api::ConnectRequest { id: id.clone(), ..Default::default() };
        let Some(answer) = self.call::<api::ConnectResponse>("Connect", &connect) else { return };
        self.told.shim = answer.shim_pid as i32;
        let create = api::CreateTaskRequest {
            id: id.clone(),
            bundle: self.bundle.folder.display().to_string(),
            rootfs: self.bundle.mounts.clone(),
            ..Default::default()
        };
        if let Some(answer) = self.call::<api::CreateTaskResponse>("Create", &create) {
            self.told.pid = answer.pid;
            self.told.created = true;
            self.process(id);
        }
        self.call::<api::Empty>("Shutdown", &api::ShutdownRequest { id: id.clone(), ..Default::default() });
    }

    fn process(&mut self, id: &str) {
        let id = || id.to_owned();
        self.call::<api::StartResponse>("Start", &api::StartRequest { id: id(), ..Default::default() });
        let before = self.told.failures.len();
        self.exec(&id());
        self.told.failures[before..].iter_mut().for_each(|(method, _)| method.push_str(" of the exec"));
        self.call::<api::Empty>("Pause", &api::PauseRequest { id: id(), ..Default::default() });
        self.call::<api::Empty>("Resume", &api::ResumeRequest { id: id(), ..Default::default() });
        let kill = api::KillRequest { id: id(), signal: libc::SIGTERM as u32, ..Default::default() };
        // The trap may not be set yet: ask until it has worked.
        while self.call::<api::Empty>("Kill", &kill).is_some() {
            let state: Option<api::StateResponse> =
                self.call("State", &api::StateRequest { id: id(), ..Default::default() });
            if state.is_none_or(|state| state.status.enum_value() == Ok(api::Status::STOPPED)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.told.failures.retain(|(_, text)| !text.contains("process already finished"));
        self.call::<api::DeleteResponse>("Delete", &api::DeleteRequest { id: id(), ..Default::default() });
    }

    fn exec(&mut self, id: &str) {
        let (id, exec_id) = (id.to_owned(), "x".to_owned());
        let process = self.bundle.process(&["sh", "-c", "exit 3"]).to_string().into_bytes();
        let spec = Any { value: process, ..Default::default() };
        let exec = api::ExecProcessRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        if self.call::<api::Empty>("Exec", &exec).is_none() {
            return;
        }
        let start = api::StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
        if self.call::<api::StartResponse>("Start", &start).is_some() {
            let wait = api::WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() };
            self.call::<api::WaitResponse>("Wait", &wait);
        }
        self.call::<api::DeleteResponse>("Delete", &api::DeleteRequest { id, exec_id, ..Default::default() });
    }
}

/// A host whose shims obey `fault`, a bundle that has something to do at every moment, and the shim's log.
fn host(fault: &str) -> (Host, Bundle, Sink) {
    let mut host = Host::new();
    host.binary = subject::faults_binary().expect("checked by the test");
    let config = host.folder().join("host.toml");
    std::fs::write(&config, "IdleTimeout = \"2s\"\n").expect("write the host's configuration");
    host.environment.push(("MYSHIM_CONFIG".into(), config.display().to_string()));
    host.environment.push(("MYSHIM_FAULT".into(), fault.into()));
    host.environment.push(("MYSHIM_FAULT_FOLDER".into(), host.folder().display().to_string()));
    let mut bundle = host.bundle("a", INIT);
    let hook = json!([{"path": "/bin/true"}]);
    bundle.set("/hooks", json!({"createRuntime": hook, "startContainer": hook, "poststop": hook}));
    let log = Sink::new(bundle.folder.join("log"));
    bundle.write();
    (host, bundle, log)
}

fn reached(host: &Host) -> String {
    std::fs::read_to_string(host.folder().join("reached")).unwrap_or_default()
}

fn live(host: &Host, bundle: &Bundle) -> Told {
    let output = host.invoke(bundle, "start", b"");
    if !output.status.success() {
        let failures = vec![("start".into(), String::from_utf8_lossy(&output.stderr).into_owned())];
        return Told { died: true, failures, ..Told::default() };
    }
    let (address, _) = read_reply(&String::from_utf8(output.stdout).expect("text"));
    assert_eq!(address, host.socket(bundle));
    let Ok(client) = Client::connect(&address) else { return Told { died: true, ..Told::default() } };
    let mut life = Life { bundle, client, told: Told::default() };
    life.live();
    if life.told.shim > 0 && !life.told.died {
        // A Delete that failed keeps the container, and the shim with it: that is what a crash is for.
        eventually_gone(life.told.shim);
    }
    life.told
}

fn eventually_gone(shim: i32) {
    let limit = Instant::now() + Duration::from_secs(3);
    while leak::alive(shim) {
        if Instant::now() > limit {
            crate::support::shim::signal(shim, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn assert_nothing_left(host: &Host, bundle: &Bundle, at: &str) {
    assert_eq!(leak::cgroups(bundle.cgroup()), Vec::<std::path::PathBuf>::new(), "{at}: cgroups left");
    assert_eq!(leak::mounts_below(&bundle.folder), Vec::<String>::new(), "{at}: mounts left");
    eventually(&format!("{at}: no process of {}", host.namespace), SOON, || {
        leak::processes_naming(&host.namespace).is_empty().then_some(())
    });
    assert!(!host.socket(bundle).exists(), "{at}: socket left");
    assert!(!bundle.folder.join(".myshim.json.new").exists(), "{at}: half a state left");
}

/// The same id again, without faults: it must live as if nothing had been.
#[track_caller]
fn assert_lives(host: &mut Host, bundle: &Bundle, at: &str) {
    host.environment.retain(|(name, _)| !name.starts_with("MYSHIM_FAULT"));
    let told = live(host, bundle);
    assert!(told.created && !told.died && told.failures.is_empty(), "{at}, the same id again: {told:?}");
    assert_eq!(host.delete(bundle).exit_status, STATUS, "{at}: status of the second life");
    assert_nothing_left(host, bundle, at);
}

/// Does `one` for every point, several at a time.
fn every_point(one: impl Fn(&'static str) + Sync) {
    let next = AtomicUsize::new(0);
    // systemd makes one cgroup, or none.
    let passed = |point: &&str| !subject::systemd_cgroups() || *point != "create: some cgroups made";
    let points: Vec<_> = POINTS.iter().copied().filter(passed).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(point);
                }
            });
        }
    });
}

#[test]
fn after_sigkill_at_every_point_delete_alone_leaves_nothing_and_tells_the_truth() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    every_point(|point| {
        let (mut host, bundle, _log) = host(&format!("kill:{point}"));
        let told = live(&host, &bundle);
        assert_eq!(reached(&host), point, "{point:?} was never reached: {told:?}");
        host.environment.retain(|(name, _)| name != "MYSHIM_FAULT");
        let began = Instant::now();
        let answer = host.delete(&bundle);
        assert!(began.elapsed() < LIMIT, "{point}: delete took {:?}", began.elapsed());
        let noted = index(point) >= index("create: pid noted");
        assert!(!noted || answer.pid > 0, "{point}: the pid was known");
        assert!(told.pid == 0 || answer.pid == told.pid, "{point}: {} for pid {}", answer.pid, told.pid);
        let ended = index(point) >= index("exit: noted") && point != "exit: reaped" && point != "exit: told";
        // The exec's exit comes first: at these two points init is still alive.
        let expected = if ended && point != "Delete: exec gone" { STATUS } else { 137 };
        assert_eq!(answer.exit_status, expected, "{point}: status");
        assert_nothing_left(&host, &bundle, point);
        assert_eq!(host.delete(&bundle).exit_status, answer.exit_status, "{point}: delete once more");
        assert_lives(&mut host, &bundle, point);
    });
}

fn index(point: &str) -> usize {
    POINTS.iter().position(|known| *known == point).expect("a known point")
}

/// Who hears of a failure at a point: the caller of a method (`start`: on stderr), whoever reads the log, or, where nothing
/// can fail, nobody.
#[derive(Clone, Copy, Debug)]
enum Hears {
    Caller(&'static str),
    Log,
    Nobody,
}

const TOLD: &[(Hears, &[&str])] = &[
    (
        Hears::Caller("start"),
        &[
            "start: request read",
            "start: address written",
            "start: socket bound",
            "start: shim forked",
            "start: replied",
        ],
    ),
    (Hears::Log, &["start: shim detached"]),
    (
        Hears::Caller("Create"),
        &[
            "state: written but not in place",
            "create: state noted",
            "create: rootfs mounted",
            "create: some cgroups made",
            "create: cgroups made",
            "create: limits set",
            "create: init cloned",
            "create: pid noted",
            "create: hooks ran",
            "create: init ready",
            "create: done",
        ],
    ),
    (Hears::Caller("Start"), &["Start: hooks ran"]),
    (Hears::Caller("Start of the exec"), &["Exec: cloned"]),
    (Hears::Caller("Kill"), &["Kill: before the signal"]),
    (
        Hears::Caller("Delete"),
        &[
            "Delete: begun",
            "Delete: processes dead",
            "Delete: cgroups gone",
            "Delete: unmounted",
            "Delete: hooks ran",
            "Delete: buried",
        ],
    ),
    (
        Hears::Nobody,
        &[
            "create: told",
            "Start: gate open",
            "Start: told",
            "Exec: added",
            "Exec: streams open",
            "Exec: runs",
            "Exec: told",
            "Pause: frozen",
            "Resume: thawed",
            "Kill: after the signal",
            "exit: seen",
            "exit: noted",
            "exit: reaped",
            "exit: told",
            "Delete: told",
            "Delete: exec gone",
            "Shutdown: begun",
            "Shutdown: events flushed",
            "Shutdown: socket gone",
        ],
    ),
];

fn who_hears(point: &str) -> Hears {
    let row = TOLD.iter().find(|(_, points)| points.contains(&point));
    row.unwrap_or_else(|| panic!("no row of the table says who is told of {point:?}")).0
}

/// To see it fail: give a point another row, or swallow what one gives (`let _ = fault!(…)` in `engine/clear.rs`).
#[test]
fn a_failure_at_any_point_is_told_to_whom_it_concerns_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    every_point(|point| {
        let (mut host, bundle, log) = host(&format!("fail:{point}"));
        let told = live(&host, &bundle);
        assert_eq!(reached(&host), point, "never reached: {told:?}");
        let text = format!("injected fault at {point:?}");
        let named: Vec<_> = told.failures.iter().filter(|(_, said)| said.contains(&text)).collect();
        match who_hears(point) {
            Hears::Caller(method) => {
                assert!(
                    !named.is_empty() && named.iter().all(|(whose, _)| whose == method),
                    "{point} is to fail {method}: {told:?}"
                );
            }
            Hears::Log => {
                assert!(told.died && named.is_empty(), "{point}: {told:?}");
                // In a line, quotation marks are escaped.
                log.wait_for(&text.replace('"', "\\\""));
            }
            Hears::Nobody => {
                let fine = told.created && !told.died && told.failures.is_empty();
                assert!(fine, "nothing can fail at {point}: {told:?}");
                assert!(!log.finish().contains("injected"), "{point}: nothing can fail there");
            }
        }
        if !told.created && told.shim > 0 {
            assert_eq!(leak::cgroups(bundle.cgroup()).len(), 0, "{point}: a failed Create leaves nothing");
            assert_eq!(
                leak::mounts_below(&bundle.folder).len(),
                0,
                "{point}: a failed Create leaves nothing"
            );
        }
        host.environment.retain(|(name, _)| name != "MYSHIM_FAULT");
        host.delete(&bundle);
        assert_nothing_left(&host, &bundle, point);
        assert_lives(&mut host, &bundle, point);
    });
}

#[test]
fn the_ordinary_build_has_no_fault_points() {
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let traces = |binary: &std::path::Path| {
        let mut grep = std::process::Command::new("grep");
        grep.args(["-a", "-o", "-h", "-F"]);
        for word in ["MYSHIM_FAULT", "injected fault"].iter().chain(POINTS) {
            grep.args(["-e", word]);
        }
        let output = grep.arg(binary).output().expect("start grep");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        found.lines().map(str::to_owned).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(traces(&subject::Subject::Ours.binary()), 0);
    assert_eq!(traces(&subject::faults_binary().expect("checked")), POINTS.len() + 2, "where they should be");
}

#[test]
fn a_hook_dies_with_the_shim_that_runs_it() {
    needs_containers!();
    needs!(subject::ours(), "runc lets its hooks live on");
    for (number, moment) in
        ["createRuntime", "createContainer", "startContainer", "poststart"].iter().enumerate()
    {
        let host = Host::new();
        let mut bundle = host.bundle("a", "exec sleep 1000");
        // So long sleeps nobody else.
        let time = (1_000_000 + std::process::id() as usize * 10 + number).to_string();
        bundle.set(&format!("/hooks/{moment}"), json!([{"path": "/bin/sleep", "args": ["sleep", time]}]));
        let shim = host.start(bundle);
        let mut client = shim.client();
        let id = shim.id();
        if moment.starts_with("create") {
            client.send(shim.service(), "Create", &shim.create_request(&Stdio3::default())).expect("send");
        } else {
            shim.create().expect("Create");
            let request = api::StartRequest { id, ..Default::default() };
            client.send(shim.service(), "Start", &request).expect("send");
        }
        let hooks = || leak::processes_naming(&time);
        eventually(&format!("the {moment} hook runs"), SOON, || (!hooks().is_empty()).then_some(()));
        shim.crash();
        eventually(&format!("the {moment} hook is gone"), SOON, || hooks().is_empty().then_some(()));
        host.delete(&shim.bundle);
        shim.assert_nothing_left();
    }
}
