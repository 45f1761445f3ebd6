//! Churn: many containers and execs with random kills, pauses, OOMs, crashes of shims and restarts of the listener. Every
//! exit is told exactly once and in order, and nothing leaks. Short here; `make soak` (hack/soak.sh) runs it long.
//!
//! `SOAK_CONTAINERS=40 SOAK_EXECS=400 SOAK_SEED=n SOAK_WORKERS=8`.

use crate::support::bundle::Bundle;
use crate::support::events::{Event, EventServer};
use crate::support::shim::{Host, Shim};
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use fastrand::Rng;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a worker did to one container, and so what must have been told of it.
#[derive(Default)]
pub struct Expected {
    /// Exit status by exec id; init's under the empty id. None: init was killed together with its shim.
    pub exits: HashMap<String, u32>,
    pub crashed: bool,
    pub oom: bool,
}

#[derive(Default)]
struct Counters {
    containers: AtomicUsize,
    execs: AtomicUsize,
    pauses: AtomicUsize,
    crashes: AtomicUsize,
    ooms: AtomicUsize,
    restarts: AtomicUsize,
}

impl Counters {
    fn add(counter: &AtomicUsize) -> usize {
        counter.fetch_add(1, Ordering::Relaxed)
    }
}

struct Soak<'a> {
    host: &'a Host,
    wanted: (usize, usize),
    counters: Counters,
    expected: Mutex<HashMap<String, Expected>>,
}

impl Soak<'_> {
    fn more(&self) -> bool {
        self.counters.containers.load(Ordering::Relaxed) < self.wanted.0
            || self.counters.execs.load(Ordering::Relaxed) < self.wanted.1
    }

    /// Shims one after the other, each with up to twenty containers.
    fn work(&self, mut dice: Rng) {
        let mut shims = 0;
        while self.more() {
            shims += 1;
            let worker = dice.u32(..);
            let mut shim = self.host.start(self.bundle(&format!("s{worker:x}-{shims}"), &mut dice));
            let mut descriptors = None;
            for life in 0..dice.usize(1..20) {
                if life > 0 {
                    let old = std::mem::replace(
                        &mut shim.bundle,
                        self.bundle(&format!("s{worker:x}-{shims}-{life}"), &mut dice),
                    );
                    // `start` left the socket's address in the first bundle only.
                    let address = std::fs::read(old.folder.join("address")).expect("read the address");
                    std::fs::write(shim.bundle.folder.join("address"), address).expect("write the address");
                    remove(self.host.folder(), &old);
                    shim.bundle.write();
                }
                if !self.live(&shim, &mut dice) {
                    break;
                }
                let first = *descriptors.get_or_insert_with(|| open_files(shim.pid));
                // What follows a SIGKILL keeps its pidfd for a moment.
                eventually(&format!("no more than {first} descriptors and a few"), SOON, || {
                    (open_files(shim.pid) <= first + 2).then_some(())
                });
            }
            if leak::alive(shim.pid) {
                shim.shutdown();
                shim.wait_until_gone();
            }
            let bundle = shim.bundle.clone();
            drop(shim);
            remove(self.host.folder(), &bundle);
        }
    }

    fn bundle(&self, id: &str, dice: &mut Rng) -> Bundle {
        let bundle = random_bundle(self.host.folder(), id, dice);
        // A plain file for the log: thousands of fifos would want thousands of readers.
        std::fs::write(bundle.folder.join("log"), "").expect("make a log");
        bundle
    }

    /// One container from Create to Delete. False: its shim was killed.
    fn live(&self, shim: &Shim<'_>, dice: &mut Rng) -> bool {
        Counters::add(&self.counters.containers);
        let mut expected = Expected {
            oom: shim.bundle.config["linux"]["resources"]["memory"].is_object(),
            ..Expected::default()
        };
        shim.run();
        for burst in 0..dice.usize(..8) {
            self.execs(shim, dice, burst, &mut expected);
            match dice.u8(..40) {
                0 | 1 if shim.pause().is_ok() => {
                    Counters::add(&self.counters.pauses);
                    // Init may have ended while it was being paused.
                    let _ = shim.resume();
                }
                2 => drop(shim.stats().expect("Stats")),
                3 => break,
                _ => {}
            }
        }
        if dice.u8(..60) == 0 {
            self.crash(shim, expected);
            return false;
        }
        if lives_on(&shim.bundle) {
            let _ = if dice.bool() { shim.kill("", libc::SIGKILL) } else { shim.kill_all(libc::SIGKILL) };
        }
        let status = shim.wait("").expect("Wait");
        if expected.oom {
            Counters::add(&self.counters.ooms);
        }
        expected.exits.insert(String::new(), status);
        assert_eq!(shim.delete("").expect("Delete").exit_status, status);
        shim.assert_nothing_left();
        self.note(shim, expected);
        true
    }

    /// A few execs at once; init may end under them.
    fn execs(&self, shim: &Shim<'_>, dice: &mut Rng, burst: usize, expected: &mut Expected) {
        let mut running = Vec::new();
        for number in 0..dice.usize(1..5) {
            let exec = format!("e{burst}-{number}");
            let status = dice.u32(..3);
            let started = shim.exec(&exec, &format!("exit {status}")).and_then(|()| shim.start(&exec));
            match started {
                Ok(pid) => {
                    assert!(pid > 0);
                    Counters::add(&self.counters.execs);
                    running.push((exec, status));
                }
                // Init's end is the one excuse.
                Err(failure) => assert!(
                    shim.status("") != containerd_shim_protos::api::Status::RUNNING || shim.wait("").is_ok(),
                    "{failure:?}"
                ),
            }
        }
        if dice.u8(..200) == 0 {
            let _ = shim.kill("", libc::SIGKILL);
        }
        for (exec, status) in running {
            let told = shim.wait(&exec).expect("Wait");
            assert!(told == status || told == 137, "exit {status} was told as {told}");
            assert_eq!(shim.delete(&exec).expect("Delete").exit_status, told);
            expected.exits.insert(exec, told);
        }
    }

    fn crash(&self, shim: &Shim<'_>, mut expected: Expected) {
        Counters::add(&self.counters.crashes);
        // What is still to be told of the shim's earlier containers would die with it.
        eventually("the shim has told what it has", SOON, || {
            self.host.events.told(&shim.bundle.id, "start").then_some(())
        });
        shim.crash();
        let answer = self.host.delete(&shim.bundle);
        assert!(answer.pid > 0);
        shim.assert_nothing_left();
        expected.crashed = true;
        self.note(shim, expected);
    }

    fn note(&self, shim: &Shim<'_>, expected: Expected) {
        self.expected.lock().expect("lock").insert(shim.bundle.id.clone(), expected);
    }

    /// Every exit once, in order. Duplicates are only what was in flight when the listener went away.
    fn check(&self, events: Vec<Event>) -> (usize, usize) {
        let mut by_container: HashMap<String, Vec<Event>> = HashMap::new();
        for event in events {
            by_container.entry(event.container.clone()).or_default().push(event);
        }
        let (mut exits, mut duplicates) = (0, 0);
        for (id, expected) in self.expected.lock().expect("lock").iter() {
            let mut events = by_container.remove(id).unwrap_or_default();
            let before = events.len();
            events.dedup();
            duplicates += before - events.len();
            exits += check_one(id, expected, &events);
        }
        assert!(by_container.is_empty(), "events of containers that never were: {:?}", by_container.keys());
        (exits, duplicates)
    }
}

pub fn check_one(id: &str, expected: &Expected, events: &[Event]) -> usize {
    let names: Vec<String> = events.iter().map(Event::name).collect();
    if expected.crashed {
        // What its shim still had to say died with it.
        return 0;
    }
    let at = |name: &str| {
        let mut all = names.iter().enumerate().filter(|(_, known)| *known == name).map(|(at, _)| at);
        let first = all.next().unwrap_or_else(|| panic!("{id}: no {name} in {names:?}"));
        assert_eq!(all.next(), None, "{id}: {name} twice in {names:?}");
        first
    };
    let end = at("exit");
    assert!(at("create") < at("start") && at("start") < end && end < at("delete"), "{id}: {names:?}");
    for (exec, status) in expected.exits.iter().filter(|(exec, _)| !exec.is_empty()) {
        let exit = at(&format!("exit/{exec}"));
        assert!(at(&format!("exec-added/{exec}")) < at(&format!("exec-started/{exec}")), "{id}: {names:?}");
        assert!(at(&format!("exec-started/{exec}")) < exit && exit < end, "{id}: {names:?}");
        assert_eq!(events[exit].exit_status, *status, "{id}/{exec}");
    }
    assert_eq!(events[end].exit_status, expected.exits[""], "{id}");
    let told = names.iter().filter(|name| name.starts_with("exit")).count();
    assert_eq!(told, expected.exits.len(), "{id}: {names:?}");
    if expected.oom && expected.exits[""] == 137 && names.iter().any(|name| name == "oom") {
        assert!(
            names.iter().position(|name| name == "oom") < Some(end),
            "{id}: OOM after its exit: {names:?}"
        );
    }
    told
}

/// Of four that are killed one ends by itself, and a few are out of memory at once.
pub fn random_bundle(folder: &Path, id: &str, dice: &mut Rng) -> Bundle {
    let script = match dice.u8(..100) {
        0..4 => "x=y; while :; do x=$x$x; done",
        4..20 => "exit 5",
        20..30 => "sleep 0.05; exit 6",
        _ => "exec sleep 1000",
    };
    let mut bundle = Bundle::sh(folder, id, script);
    if script.starts_with('x') {
        bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    }
    if dice.u8(..4) == 0 {
        // Everything in init's absence has to be ended by the shim.
        bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").remove(0);
    }
    bundle
}

/// Does its init live until it is killed?
pub fn lives_on(bundle: &Bundle) -> bool {
    bundle.config["process"]["args"][2].as_str().is_some_and(|script| script.starts_with("exec"))
}

fn open_files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Private memory in KiB, once the shim has nothing to do: what it can do without it has given back by then.
fn anonymous(pid: i32) -> usize {
    eventually("one thread", SOON, || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        (threads == 1).then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// As containerd does after Delete.
pub fn remove(folder: &Path, bundle: &Bundle) {
    std::fs::remove_dir_all(&bundle.folder).expect("remove a bundle");
    for kind in ["upper", "work"] {
        std::fs::remove_dir_all(folder.join(format!("{kind}-{}", bundle.id))).expect("remove a layer");
    }
}

/// The listener goes away and comes back, until told to stop.
fn restart_now_and_then(events: &EventServer, stop: &AtomicBool, restarts: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(700));
        events.stop();
        std::thread::sleep(Duration::from_millis(100));
        events.resume();
        Counters::add(restarts);
    }
}

#[test]
fn soak_every_exit_is_told_once_and_in_order_and_nothing_leaks() {
    needs_containers!();
    needs!(subject::ours(), "the churn measures this shim");
    let host = Host::new();
    let seed = number("SOAK_SEED", fastrand::usize(..1 << 32));
    let wanted = (number("SOAK_CONTAINERS", 40), number("SOAK_EXECS", 400));
    println!("soak: seed {seed}, {} containers, {} execs", wanted.0, wanted.1);
    let soak = Soak { host: &host, wanted, counters: Counters::default(), expected: Mutex::default() };
    let (began, stop) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let chaos = scope.spawn(|| restart_now_and_then(&host.events, &stop, &soak.counters.restarts));
        let workers = number("SOAK_WORKERS", 8);
        let all: Vec<_> = (0..workers)
            .map(|worker| {
                let soak = &soak;
                scope.spawn(move || soak.work(Rng::with_seed(seed as u64 * 1000 + worker as u64)))
            })
            .collect();
        let failed = all.into_iter().map(|worker| worker.join()).filter(Result::is_err).count();
        stop.store(true, Ordering::Relaxed);
        chaos.join().expect("the restarts");
        assert_eq!(failed, 0, "workers failed; seed {seed}");
    });
    eventually("all shims are gone", SOON, || {
        leak::processes_naming(&host.namespace).is_empty().then_some(())
    });
    let (exits, duplicates) = soak.check(host.events.seen());
    assert_eq!(leak::mounts_below(host.folder()), Vec::<String>::new());
    let left: Vec<_> =
        std::fs::read_dir(host.folder()).expect("list").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name == "e.sock"), "files left: {left:?}");
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let c = &soak.counters;
    println!(
        "soak: {} containers, {} execs, {} pauses, {} OOMs, {} shims killed, {} restarts of the listener in {:.0} s: \
         {exits} exits, each told once and in order ({duplicates} repeated after a restart); leaks: 0",
        count(&c.containers),
        count(&c.execs),
        count(&c.pauses),
        count(&c.ooms),
        count(&c.crashes),
        count(&c.restarts),
        began.elapsed().as_secs_f64()
    );
}

/// How often memory is looked at on the way, after a first look.
const LOOKS: usize = 10;
/// KiB that the least of some looks may differ by.
const SLACK: usize = 32;

#[test]
fn soak_execs_leave_no_memory_and_no_descriptor_in_the_shim() {
    needs_containers!();
    needs!(subject::ours(), "the churn measures this shim");
    let execs = number("SOAK_EXECS", 400);
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exec sleep 1000"));
    shim.run();
    let once = |number: usize| {
        let exec = format!("e{number}");
        shim.exec(&exec, "exit 3").expect("Exec");
        shim.start(&exec).expect("Start");
        assert_eq!(shim.wait(&exec).expect("Wait"), 3);
        shim.delete(&exec).expect("Delete");
    };
    // The first ones warm the allocator and the runtime up.
    (0..100).for_each(once);
    let descriptors = open_files(shim.pid);
    let mut looks = vec![anonymous(shim.pid)];
    for look in 0..LOOKS {
        (100 + execs * look / LOOKS..100 + execs * (look + 1) / LOOKS).for_each(once);
        looks.push(anonymous(shim.pid));
    }
    let after = open_files(shim.pid);
    println!(
        "soak: {execs} execs in one container: private memory {looks:?} KiB, descriptors {descriptors} -> {after}"
    );
    // What stays in half-used pages differs from look to look, early as late. What leaks stays in all.
    let (early, late) = looks.split_at(LOOKS / 2);
    let least = |of: &[usize]| of.iter().copied().min().unwrap_or_default();
    assert!(least(late) <= least(early) + SLACK, "memory grows: {looks:?}");
    assert!(after <= descriptors + 2, "descriptors grow: {descriptors} to {after}");
    let started = host.events.names().iter().filter(|name| name.starts_with("exit/")).count();
    eventually("all exits", SOON, || {
        (host.events.names().iter().filter(|name| name.starts_with("exit/")).count() == execs + 100)
            .then_some(())
    });
    assert!(started <= execs + 100);
}
