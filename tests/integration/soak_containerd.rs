//! The churn again, through a real containerd that is stopped, killed and restarted meanwhile: containers and execs with random
//! pauses, kills, OOMs, crashes of shims and readers that come and go. Every exit is known to containerd, the events are in
//! order, and nothing leaks. Short here; `make soak` (hack/soak.sh) runs it long.
//!
//! `SOAK_CONTAINERS=24 SOAK_EXECS=120 SOAK_SEED=n SOAK_WORKERS=8`.

use crate::soak::{Expected, check_one, lives_on, number, random_bundle, remove};
use crate::support::bundle::Bundle;
use crate::support::containerd::Containerd;
use crate::support::ctr::Namespace;
use crate::support::events::{self, Event};
use crate::support::grpc::services::{self, Process};
use crate::support::grpc::{Client, Failure, NOT_FOUND, UNAVAILABLE};
use crate::support::shim::{any, signal};
use crate::support::subject::Subject;
use crate::support::{SOON, eventually, fifo, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::shim::event::Envelope;
use fastrand::Rng;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A restarted daemon, or one with a hundred shims to look after, takes its time.
const LONG: Duration = Duration::from_secs(90);

#[derive(Default)]
struct Counters {
    containers: AtomicUsize,
    execs: AtomicUsize,
    exits: AtomicUsize,
    pauses: AtomicUsize,
    ooms: AtomicUsize,
    crashes: AtomicUsize,
    /// Containers whose call the daemon took with it.
    disturbed: AtomicUsize,
    /// Containers whose every event was heard.
    heard: AtomicUsize,
    stops: AtomicUsize,
    restarts: AtomicUsize,
}

fn add(counter: &AtomicUsize) {
    counter.fetch_add(1, Relaxed);
}

struct Churn {
    address: PathBuf,
    namespace: String,
    folder: TempDir,
    wanted: (usize, usize),
    counters: Counters,
    /// Odd while somebody may not be listening: from before a daemon's death until its successor is subscribed to.
    epoch: AtomicUsize,
    told: Mutex<HashMap<String, Vec<Event>>>,
    /// Changes of the namespace's labels that the listener has heard of.
    labels: AtomicUsize,
    done: AtomicBool,
}

type Done<T> = Result<T, Failure>;

impl Churn {
    fn new(daemon: &Containerd, namespace: &Namespace) -> Self {
        Self {
            address: daemon.address(),
            namespace: namespace.name().into(),
            folder: tempfile::Builder::new().prefix("mst-churn-").tempdir().expect("make a folder"),
            wanted: (number("SOAK_CONTAINERS", 24), number("SOAK_EXECS", 120)),
            counters: Counters::default(),
            epoch: AtomicUsize::new(0),
            told: Mutex::default(),
            labels: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        }
    }

    fn more(&self) -> bool {
        self.counters.containers.load(Relaxed) < self.wanted.0
            || self.counters.execs.load(Relaxed) < self.wanted.1
    }

    fn connect(&self) -> Client {
        eventually("a connection to containerd", LONG, || {
            Client::connect(&self.address, &self.namespace).ok()
        })
    }

    /// Subscribes, and again when the daemon is a new one.
    fn listen(&self) {
        let filters = vec![format!("namespace=={}", self.namespace)];
        let request = services::Subscribe { filters, ..Default::default() };
        while !self.done.load(Relaxed) {
            let _ =
                self.connect().stream("events.v1.Events/Subscribe", &request, |envelope| self.take(envelope));
        }
    }

    fn take(&self, heard: services::Envelope) -> bool {
        if heard.topic.starts_with("/namespaces/") {
            add(&self.labels);
        }
        if heard.topic.starts_with("/tasks/") {
            let (topic, namespace, event) = (heard.topic, heard.namespace, heard.event);
            let event = events::event(&Envelope { topic, namespace, event, ..Default::default() });
            self.told.lock().expect("lock").entry(event.container.clone()).or_default().push(event);
        }
        !self.done.load(Relaxed)
    }

    /// The listener hears of a change made for that, if it has not ended with the work.
    fn wait_until_it_listens(&self, namespace: &Namespace) {
        let (before, mut change) = (self.labels.load(Relaxed), 0);
        eventually("the listener listens", LONG, || {
            change += 1;
            namespace.ctr(&["namespaces", "label", namespace.name(), &format!("heard={change}")]).ok();
            (self.labels.load(Relaxed) > before || self.done.load(Relaxed)).then_some(())
        });
    }

    fn told(&self, id: &str, name: &str) -> bool {
        let told = self.told.lock().expect("lock");
        told.get(id).is_some_and(|events| events.iter().any(|event| event.name() == name))
    }

    /// The daemon is stopped for a while again and again, and now and then it dies.
    fn disturb(&self, daemon: &mut Containerd, namespace: &Namespace, mut dice: Rng) {
        for turn in 0.. {
            let pause = if turn < 2 { 300..800 } else { 1000..3000 };
            let until = Instant::now() + Duration::from_millis(dice.u64(pause));
            while Instant::now() < until {
                if self.done.load(Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
            if turn % 10 == 1 {
                add(&self.counters.restarts);
                add(&self.epoch);
                daemon.crash_and_restart(|| thread::sleep(Duration::from_millis(dice.u64(..300))));
                self.wait_until_it_listens(namespace);
                add(&self.epoch);
            } else {
                add(&self.counters.stops);
                daemon.while_stopped(|| thread::sleep(Duration::from_millis(dice.u64(100..600))));
            }
        }
    }

    fn work(&self, worker: usize, mut dice: Rng) {
        let mut client = self.connect();
        let mut number = 0;
        while self.more() {
            number += 1;
            add(&self.counters.containers);
            let bundle = random_bundle(self.folder.path(), &format!("w{worker}-{number}"), &mut dice);
            let epoch = self.epoch.load(Relaxed);
            let life = Life { churn: self, client: &client, bundle: &bundle };
            match life.live(&mut dice) {
                Ok(expected) => self.check(&bundle.id, epoch, &expected),
                Err(failure) => {
                    assert!(failure.code == UNAVAILABLE, "{}: {failure:?}", bundle.id);
                    add(&self.counters.disturbed);
                    client = self.connect();
                    self.clear(&bundle.id);
                }
            }
            remove(self.folder.path(), &bundle);
            eventually("its cgroups are gone", SOON, || {
                leak::cgroups(bundle.cgroup()).is_empty().then_some(())
            });
        }
    }

    /// Everything was told in order, unless the listener was away meanwhile.
    fn check(&self, id: &str, epoch: usize, expected: &Expected) {
        self.counters.exits.fetch_add(expected.exits.len(), Relaxed);
        let there = || epoch.is_multiple_of(2) && self.epoch.load(Relaxed) == epoch;
        let last = if expected.crashed { "exit" } else { "delete" };
        eventually(&format!("{last} of {id}"), LONG, || (self.told(id, last) || !there()).then_some(()));
        let mut events = self.told.lock().expect("lock").remove(id).unwrap_or_default();
        if there() {
            // containerd publishes anew what it may not have been told of before.
            events.dedup();
            check_one(id, expected, &events);
            add(&self.counters.heard);
        }
    }

    /// Of a container that the daemon's death interrupted anywhere: nothing is in the way of its end.
    fn clear(&self, id: &str) {
        let process = Process { container_id: id.into(), ..Default::default() };
        let kill = services::Kill { container_id: id.into(), signal: 9, all: true, ..Default::default() };
        eventually(&format!("{id} is cleared"), LONG, || {
            let client = Client::connect(&self.address, &self.namespace).ok()?;
            let _ = client.call::<services::Nothing>("tasks.v1.Tasks/Kill", &kill);
            let gone = |answer: Done<()>| matches!(answer, Err(failure) if failure.code == NOT_FOUND);
            let task = client.call("tasks.v1.Tasks/Delete", &process).map(|_: services::Deleted| ());
            if task.is_err() && !gone(task) {
                return None;
            }
            let container = services::DeleteContainer { id: id.into(), ..Default::default() };
            gone(client.call("containers.v1.Containers/Delete", &container).map(|_: services::Nothing| ()))
                .then_some(())
        });
    }
}

/// One container.
struct Life<'c> {
    churn: &'c Churn,
    client: &'c Client,
    bundle: &'c Bundle,
}

impl Life<'_> {
    fn tasks<A: protobuf::Message>(&self, method: &str, request: &impl protobuf::Message) -> Done<A> {
        self.client.call(&format!("tasks.v1.Tasks/{method}"), request)
    }

    fn process(&self, exec: &str) -> Process {
        Process { container_id: self.bundle.id.clone(), exec_id: exec.into(), ..Default::default() }
    }

    fn kill(&self, all: bool) -> Done<services::Nothing> {
        let container_id = self.bundle.id.clone();
        self.tasks("Kill", &services::Kill { container_id, signal: 9, all, ..Default::default() })
    }

    fn live(&self, dice: &mut Rng) -> Done<Expected> {
        let mut reader = (dice.u8(..4) == 0).then(|| Reader::new(&self.bundle.folder.join("stdout"), dice));
        self.create(reader.as_ref())?;
        let _: services::Started = self.tasks("Start", &self.process(""))?;
        let oom = self.bundle.config["linux"]["resources"]["memory"].is_object();
        let mut expected = Expected { oom, ..Expected::default() };
        let mut may_end = !lives_on(self.bundle);
        for burst in 0..dice.usize(..8) {
            if dice.u8(..200) == 0 {
                may_end = true;
                let _ = self.kill(false);
            }
            self.execs(burst, dice, may_end, &mut expected)?;
            if dice.u8(..20) == 0 && self.tasks::<services::Nothing>("Pause", &self.process("")).is_ok() {
                add(&self.churn.counters.pauses);
                // Init may have ended while it was being paused.
                unless_ended(self.tasks::<services::Nothing>("Resume", &self.process("")), true)?;
            }
        }
        let result = match dice.u8(..60) {
            0 => self.crash(expected),
            _ => self.end(dice.bool(), expected),
        };
        if let Some(reader) = &mut reader {
            reader.end();
        }
        result
    }

    fn create(&self, reader: Option<&Reader>) -> Done<()> {
        let name = Subject::current().runtime().to_owned();
        let runtime = Some(services::container::Runtime { name, ..Default::default() }).into();
        const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
        let mut config = self.bundle.config.clone();
        if reader.is_some() && lives_on(self.bundle) {
            // A failed write would end it.
            config["process"]["args"][2] = "while echo line; do sleep 0.01; done; exit 99".into();
        }
        let spec = Some(any(SPEC, config.to_string().into_bytes())).into();
        let id = self.bundle.id.clone();
        let container = Some(services::Container { id, runtime, spec, ..Default::default() }).into();
        let request = services::CreateContainer { container, ..Default::default() };
        let _: services::CreateContainer = self.client.call("containers.v1.Containers/Create", &request)?;
        let mount = |mount: &containerd_shim_protos::api::Mount| services::Mount {
            type_: mount.type_.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Default::default()
        };
        let rootfs = self.bundle.mounts.iter().map(mount).collect();
        let stdout = reader.map(|reader| reader.path.display().to_string()).unwrap_or_default();
        let container_id = self.bundle.id.clone();
        let request = services::CreateTask { container_id, rootfs, stdout, ..Default::default() };
        self.tasks::<services::Started>("Create", &request).map(|_| ())
    }

    /// A few execs at once; init may end under them.
    fn execs(&self, burst: usize, dice: &mut Rng, may_end: bool, expected: &mut Expected) -> Done<()> {
        let mut running = Vec::new();
        for number in 0..dice.usize(1..5) {
            let (exec, status) = (format!("e{burst}-{number}"), dice.u32(..3));
            if unless_ended(self.exec(&exec, status), may_end)?.is_some() {
                add(&self.churn.counters.execs);
                running.push((exec, status));
            }
        }
        for (exec, status) in running {
            let told = self.tasks::<services::Waited>("Wait", &self.process(&exec))?.exit_status;
            assert!(told == status || (may_end && told == 137), "exit {status} was told as {told}");
            let deleted: services::Deleted = self.tasks("DeleteProcess", &self.process(&exec))?;
            assert_eq!(deleted.exit_status, told);
            expected.exits.insert(exec, told);
        }
        Ok(())
    }

    fn exec(&self, exec: &str, status: u32) -> Done<()> {
        const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
        let process = self.bundle.process(&["sh", "-c", &format!("exit {status}")]);
        let spec = Some(any(SPEC, process.to_string().into_bytes())).into();
        let (container_id, exec_id) = (self.bundle.id.clone(), exec.to_owned());
        let request = services::ExecProcess { container_id, exec_id, spec, ..Default::default() };
        let _: services::Nothing = self.tasks("Exec", &request)?;
        let _: services::Started = self.tasks("Start", &self.process(exec))?;
        Ok(())
    }

    /// Its end, and what is known of it.
    fn end(&self, all: bool, mut expected: Expected) -> Done<Expected> {
        if lives_on(self.bundle) {
            unless_ended(self.kill(all), true)?;
        }
        let status = self.tasks::<services::Waited>("Wait", &self.process(""))?.exit_status;
        assert_ne!(status, 99, "{}: a write failed", self.bundle.id);
        assert!(!lives_on(self.bundle) || status == 137, "{}: ended with {status}", self.bundle.id);
        if expected.oom {
            add(&self.churn.counters.ooms);
        }
        let deleted: services::Deleted = self.tasks("Delete", &self.process(""))?;
        assert_eq!(deleted.exit_status, status, "{}", self.bundle.id);
        expected.exits.insert(String::new(), status);
        self.delete_container()?;
        Ok(expected)
    }

    fn delete_container(&self) -> Done<()> {
        let request = services::DeleteContainer { id: self.bundle.id.clone(), ..Default::default() };
        self.client.call("containers.v1.Containers/Delete", &request).map(|_: services::Nothing| ())
    }

    /// SIGKILL for its shim: containerd clears up, with our `delete`, and tells init's exit.
    fn crash(&self, mut expected: Expected) -> Done<Expected> {
        let naming = leak::processes_naming(&format!("-id\0{}\0", self.bundle.id));
        naming.into_iter().for_each(|pid| signal(pid, libc::SIGKILL));
        add(&self.churn.counters.crashes);
        eventually(&format!("{} is given up", self.bundle.id), LONG, || {
            match self.tasks::<services::Deleted>("Delete", &self.process("")) {
                Err(failure) if failure.code == NOT_FOUND => Some(Ok(())),
                Err(failure) if failure.code == UNAVAILABLE => Some(Err(failure)),
                // It has not noticed yet, or it noticed between our call and its end.
                _ => None,
            }
        })?;
        expected.crashed = true;
        self.delete_container()?;
        Ok(expected)
    }
}

/// None: init had ended, which it must be allowed to. The daemon's own end is nobody's excuse.
fn unless_ended<T>(answer: Done<T>, may_end: bool) -> Done<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.code == UNAVAILABLE => Err(failure),
        Err(failure) => {
            assert!(may_end, "{} ({})", failure.message, failure.code);
            Ok(None)
        }
    }
}

/// Reads what a container writes, goes away, and comes back, as a client that is restarted does.
struct Reader {
    path: PathBuf,
    end: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reader {
    fn new(path: &Path, dice: &mut Rng) -> Self {
        fifo::make(path);
        let end = std::sync::Arc::<AtomicBool>::default();
        let (ended, fifo, mut dice) = (end.clone(), path.to_owned(), dice.fork());
        let thread = thread::spawn(move || {
            while !ended.load(Relaxed) {
                // Waits for a writer; the last one to come is `end` itself.
                let mut file = File::open(&fifo).expect("open a fifo");
                for _ in 0..dice.usize(1..20) {
                    if file.read(&mut [0; 4096]).expect("read a fifo") == 0 {
                        break;
                    }
                }
                drop(file);
                thread::sleep(Duration::from_millis(dice.u64(..30)));
            }
        });
        Self { path: path.to_owned(), end, thread: Some(thread) }
    }

    fn end(&mut self) {
        self.end.store(true, Relaxed);
        // Both ends, so that neither this open nor the reader's waits.
        let mut both = fs::OpenOptions::new();
        let knock = both.read(true).write(true).open(&self.path).expect("open a fifo");
        let _ = std::io::Write::write_all(&mut &knock, &[b'\n'; 32]);
        if let Some(thread) = self.thread.take() {
            eventually("the reader ends", SOON, || {
                let _ = std::io::Write::write_all(&mut &knock, b"\n");
                thread.is_finished().then_some(())
            });
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.end();
        }
    }
}

#[test]
fn soak_through_containerd_every_exit_is_known_and_nothing_leaks() {
    needs_containers!();
    needs!(subject::ours(), "the churn measures this shim");
    let mut daemon = Containerd::new();
    let namespace = daemon.namespace();
    let (churn, seed) = (Churn::new(&daemon, &namespace), number("SOAK_SEED", fastrand::usize(..1 << 32)));
    println!("soak: seed {seed}, {} containers, {} execs through containerd", churn.wanted.0, churn.wanted.1);
    let began = Instant::now();
    let state = daemon.folder().join("state");
    thread::scope(|scope| {
        let (churn, namespace, daemon) = (&churn, &namespace, &mut daemon);
        let dice = |number: usize| Rng::with_seed(seed as u64 * 1000 + number as u64);
        scope.spawn(|| churn.listen());
        churn.wait_until_it_listens(namespace);
        let workers: Vec<_> = (0..number("SOAK_WORKERS", 8))
            .map(|worker| scope.spawn(move || churn.work(worker, dice(worker))))
            .collect();
        let chaos = scope.spawn(move || churn.disturb(daemon, namespace, dice(999)));
        let failed = workers.into_iter().map(|worker| worker.join()).filter(Result::is_err).count();
        churn.done.store(true, Relaxed);
        let chaos = chaos.join();
        // The listener waits for one more event.
        namespace.ctr(&["namespaces", "label", namespace.name(), "heard=end"]);
        assert!(failed == 0 && chaos.is_ok(), "{failed} workers failed; seed {seed}");
    });
    let bundles = state.join("io.containerd.runtime.v2.task").join(namespace.name());
    // containerd gives a bundle that it removes a name with a dot first, and forgets those of a predecessor that died over it.
    let its_own = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    eventually("no bundle is left", LONG, || {
        let mut bundles = fs::read_dir(&bundles).into_iter().flatten().flatten();
        bundles.all(|bundle| its_own(&bundle.file_name())).then_some(())
    });
    eventually("no shim is left", LONG, || leak::processes_naming(namespace.name()).is_empty().then_some(()));
    assert_eq!(leak::mounts_below(&state), Vec::<String>::new());
    report(&churn.counters, began);
}

fn report(counters: &Counters, began: Instant) {
    let count = |counter: &AtomicUsize| counter.load(Relaxed);
    println!(
        "soak: through containerd {}: {} containers, {} execs, {} pauses, {} OOMs, {} shims killed, {} stops and {} kills of the \
         daemon in {:.0} s: {} exits known, every event of {} containers told in order, {} interrupted and cleared; leaks: 0",
        subject::containerd_version(),
        count(&counters.containers),
        count(&counters.execs),
        count(&counters.pauses),
        count(&counters.ooms),
        count(&counters.crashes),
        count(&counters.stops),
        count(&counters.restarts),
        began.elapsed().as_secs_f64(),
        count(&counters.exits),
        count(&counters.heard),
        count(&counters.disturbed),
    );
}
