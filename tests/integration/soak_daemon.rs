//! containerd is killed, or stopped and continued, while containers write, exec and end. Every exit is known afterwards, its
//! events are in order, and no workload ever fails to write.
//!
//! `SOAK_ROUNDS=2`, a kill and a stop in turn; the first stop is of `SOAK_STOP_SECONDS=1`.

use crate::soak::{Expected, check_one, number};
use crate::support::containerd::Containerd;
use crate::support::ctr::Namespace;
use crate::support::events::Event;
use crate::support::shim::{any, signal};
use crate::support::wire::Client;
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What an exec begun before the daemon stops ends with.
const EARLY: u32 = 7;

/// What containerd tells its clients, written down by `ctr events`.
struct Listener {
    file: PathBuf,
    ctr: Child,
}

impl Listener {
    fn new(namespace: &Namespace) -> Self {
        let file = std::env::temp_dir().join(subject::unique("mst-events"));
        let out = File::create(&file).expect("make a file");
        let ctr =
            namespace.command(&["events"]).stdout(out).stderr(Stdio::null()).spawn().expect("start ctr");
        let listener = Self { file, ctr };
        // It listens once it hears of a change made for that.
        let mut change = 0;
        eventually("ctr events listens", SOON, || {
            change += 1;
            namespace.ctr(&["namespaces", "label", namespace.name(), &format!("heard={change}")]).ok();
            listener.text().contains("/namespaces/").then_some(())
        });
        listener
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("read what was told")
    }

    /// Of one container. What was in flight when the daemon stopped comes again and counts once.
    fn events(&self, container: &str) -> Vec<Event> {
        let mut events = Vec::new();
        for event in self.text().lines().filter_map(event).filter(|event| event.container == container) {
            if !events.contains(&event) {
                events.push(event);
            }
        }
        events
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        signal(self.ctr.id() as i32, libc::SIGTERM);
        let _ = self.ctr.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// A line of `ctr events`: time, namespace, topic, and the event as JSON.
fn event(line: &str) -> Option<Event> {
    let (head, body) = line.split_once('{')?;
    let topic = head.split_whitespace().last().filter(|topic| topic.starts_with("/tasks/"))?;
    let fields: Value = serde_json::from_str(&format!("{{{body}")).ok()?;
    let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| fields[name].as_u64().unwrap_or(0) as u32;
    Some(Event {
        topic: topic.into(),
        type_url: String::new(),
        namespace: String::new(),
        container: text("container_id"),
        exec: if fields["exec_id"].is_string() { text("exec_id") } else { text("id") },
        pid: number("pid"),
        exit_status: number("exit_status"),
        exited_at: None,
    })
}

/// A container that writes as long as it lives.
struct Writer<'n> {
    namespace: &'n Namespace,
    id: String,
    pid: i32,
    status: u32,
    /// Its shim's.
    socket: PathBuf,
}

impl<'n> Writer<'n> {
    fn new(daemon: &Path, namespace: &'n Namespace, number: u32, log: &str) -> Self {
        let (id, status) = (format!("c{number}"), number + 10);
        // The loop ends with 99 if a write ever fails; TERM ends it with a status of its own.
        let script = format!("trap 'exit {status}' TERM; while echo line; do sleep 0.05; done; exit 99");
        namespace.run(&["-d", "--log-uri", log], &id, &["sh", "-c", &script]).ok();
        let pid = namespace.status(&id).expect("a task").0;
        let bundle = daemon.join("state/io.containerd.runtime.v2.task").join(namespace.name()).join(&id);
        let address = fs::read_to_string(bundle.join("address")).expect("an address");
        let socket = address.trim().strip_prefix("unix://").expect("a socket").into();
        Self { namespace, id, pid, status, socket }
    }

    /// `ctr task exec` in the foreground, of what ends when it is let.
    fn early(&self) -> Child {
        let script = format!("touch /here; while [ ! -e /go ]; do sleep 0.05; done; echo told; exit {EARLY}");
        let exec = ["task", "exec", "--exec-id", "early", &self.id, "sh", "-c", &script];
        let ctr = self.namespace.command(&exec).stdout(Stdio::piped()).spawn().expect("start ctr");
        eventually("the exec runs", SOON, || self.file("here").exists().then_some(()));
        ctr
    }

    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/root/{name}", self.pid).into()
    }

    /// Execs, made past the daemon, until it is time. Their exits by exec id.
    fn work(&self, until: Instant) -> Expected {
        let mut expected = Expected::default();
        expected.exits.insert("early".into(), EARLY);
        let mut client = Client::connect(&self.socket).expect("connect to the shim");
        fs::write(self.file("go"), "").expect("let the early one end");
        while expected.exits.len() < 4 || Instant::now() < until {
            let (exec, status) = (format!("e{}", expected.exits.len()), expected.exits.len() as u32 % 5);
            self.once(&mut client, &exec, status);
            expected.exits.insert(exec, status);
            thread::sleep(Duration::from_millis(50));
        }
        expected
    }

    fn once(&self, client: &mut Client, exec: &str, status: u32) {
        const TASK: &str = "containerd.task.v2.Task";
        let process = json!({"args": ["sh", "-c", format!("exit {status}")], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0}});
        let (id, exec_id) = (self.id.clone(), exec.to_owned());
        let spec = Some(any("", process.to_string().into_bytes())).into();
        let request = api::ExecProcessRequest { id, exec_id, spec, ..Default::default() };
        client.call::<api::Empty>(TASK, "Exec", &request).expect("Exec");
        let (id, exec_id) = (self.id.clone(), exec.to_owned());
        let request = api::StartRequest { id, exec_id, ..Default::default() };
        client.call::<api::StartResponse>(TASK, "Start", &request).expect("Start");
        let (id, exec_id) = (self.id.clone(), exec.to_owned());
        let request = api::WaitRequest { id, exec_id, ..Default::default() };
        let waited: api::WaitResponse = client.call(TASK, "Wait", &request).expect("Wait");
        assert_eq!(waited.exit_status, status);
        let (id, exec_id) = (self.id.clone(), exec.to_owned());
        let request = api::DeleteRequest { id, exec_id, ..Default::default() };
        client.call::<api::DeleteResponse>(TASK, "Delete", &request).expect("Delete");
    }

    fn end(&self) {
        signal(self.pid, libc::SIGTERM);
        eventually("the workload ends", SOON, || (!leak::alive(self.pid)).then_some(()));
    }

    /// Its end is known to containerd.
    fn assert_known(&self) {
        self.namespace.wait_for_status(&self.id, "STOPPED");
        let status = self.namespace.remove_task(&self.id) as u32;
        assert_eq!(status, self.status, "{}: 99 would be a failed write", self.id);
    }
}

/// Four containers.
fn writers<'n>(daemon: &Path, namespace: &'n Namespace, log: &str) -> Vec<Writer<'n>> {
    thread::scope(|scope| {
        let make = |number| scope.spawn(move || Writer::new(daemon, namespace, number, log));
        let all: Vec<_> = (0..4).map(make).collect();
        all.into_iter().map(|one| one.join().expect("a container")).collect()
    })
}

/// Everything that happens while the daemon is stopped is told when it goes on. How many exits.
fn stopped(daemon: &Containerd, namespace: &Namespace, log: &str, time: Duration) -> usize {
    let listener = Listener::new(namespace);
    let writers = writers(daemon.folder(), namespace, log);
    let early: Vec<_> = writers.iter().map(Writer::early).collect();
    let mut expected = Vec::new();
    daemon.while_stopped(|| {
        let until = Instant::now() + time;
        thread::scope(|scope| {
            let all: Vec<_> = writers.iter().map(|writer| scope.spawn(move || writer.work(until))).collect();
            expected.extend(all.into_iter().map(|one| one.join().expect("execs")));
        });
        writers.iter().for_each(Writer::end);
    });
    for ctr in early {
        let output = ctr.wait_with_output().expect("wait for ctr");
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(EARLY as i32), &b"told\n"[..]),
            "{output:?}"
        );
    }
    let mut exits = 0;
    for (writer, mut expected) in writers.iter().zip(expected) {
        writer.assert_known();
        expected.exits.insert(String::new(), writer.status);
        let told = || listener.events(&writer.id).iter().any(|event| event.name() == "delete").then_some(());
        eventually("the events arrive", SOON, told);
        exits += check_one(&writer.id, &expected, &listener.events(&writer.id));
    }
    exits
}

#[test]
fn soak_through_containerd_that_is_killed_and_stopped_under_load() {
    needs_containers!();
    needs!(subject::ours(), "the churn measures this shim");
    let rounds = number("SOAK_ROUNDS", 2);
    let mut daemon = Containerd::new();
    let (began, mut exits) = (Instant::now(), 0);
    for round in 0..rounds {
        let namespace = daemon.namespace();
        let log = std::env::temp_dir().join(subject::unique("mst-log"));
        let uri = format!("file://{}", log.display());
        if round % 2 == 0 {
            let writers = writers(daemon.folder(), &namespace, &uri);
            daemon.crash_and_restart(|| writers.iter().for_each(Writer::end));
            writers.iter().for_each(Writer::assert_known);
            exits += writers.len();
        } else {
            let seconds = if round == 1 { number("SOAK_STOP_SECONDS", 1) } else { 1 };
            exits += stopped(&daemon, &namespace, &uri, Duration::from_secs(seconds as u64));
        }
        let _ = fs::remove_file(&log);
    }
    println!(
        "soak: through containerd {}: {rounds} kills or stops of the daemon in {:.0} s: {exits} exits known, no failed write",
        subject::containerd_version(),
        began.elapsed().as_secs_f64()
    );
}
