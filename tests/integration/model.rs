//! The book-keeping under random interleavings: clients that know nothing of each other create, start, signal, wait for and
//! delete one container and a few execs of it, all under the same few ids. Every answer must fit some moment of its call,
//! and the events must tell one story (`support/history.rs` has the rules).
//!
//! That it can fail was seen: with the exits of one exec left out, and with `Wait` answering another time than the event has.
//!
//! `MODEL_SEED=n` repeats the choices of a run, though not the kernel's; `MODEL_STEPS=100000` makes it long.

use crate::support::events::time;
use crate::support::history::{Answer, Call, History, Verb};
use crate::support::shim::{Host, Shim, Stdio3, any};
use crate::support::wire::{Client, Failure};
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api;
use fastrand::Rng;
use protobuf::Message;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope};

const CLIENTS: usize = 6;
/// Steps of one client in the life of one shim.
const STEPS: usize = 120;
const EXECS: [&str; 3] = ["x", "y", "z"];
/// What an exec's process does; none but a signal makes it end otherwise.
const SCRIPTS: [&str; 3] = ["exit 3", "sleep 0.02; exit 3", "exec sleep 1000"];
const STATUSES: [u32; 3] = [3, 128 + libc::SIGKILL as u32, 128 + libc::SIGTERM as u32];

/// What the clients of one shim share.
struct Round {
    address: PathBuf,
    service: String,
    create: api::CreateTaskRequest,
    /// An exec of each script.
    processes: Vec<Vec<u8>>,
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Round {
    fn new(shim: &Shim<'_>) -> Self {
        let process = |script| shim.bundle.process(&["sh", "-c", script]).to_string().into_bytes();
        Self {
            address: shim.address.clone(),
            service: shim.service().into(),
            create: shim.create_request(&Stdio3::default()),
            processes: SCRIPTS.map(process).into(),
            clock: AtomicU64::new(0),
            calls: Mutex::default(),
        }
    }

    fn caller(&self) -> Caller<'_> {
        Caller { round: self, client: Client::connect(&self.address).expect("connect to the shim") }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// One connection, one call at a time.
struct Caller<'r> {
    round: &'r Round,
    client: Client,
}

impl<'r> Caller<'r> {
    fn ask<A: Message>(&mut self, method: &str, request: &impl Message) -> Result<A, Failure> {
        self.client.call(&self.round.service, method, request)
    }

    fn done(&mut self, method: &str, request: &impl Message) -> Result<Answer, Failure> {
        self.ask::<api::Empty>(method, request).map(|_| Answer::default())
    }

    /// Makes the call and takes it down; true if it was done. Number: the signal of a Kill, the script of an Exec.
    fn call(&mut self, verb: Verb, exec: &str, number: i32) -> bool {
        let began = self.round.tick();
        let outcome = self.outcome(verb, exec, number);
        let signal = if verb == Verb::Kill { number } else { 0 };
        let call = Call { verb, exec: exec.into(), signal, began, ended: self.round.tick(), outcome };
        let done = call.outcome.is_ok();
        self.round.calls.lock().expect("lock").push(call);
        done
    }

    fn outcome(&mut self, verb: Verb, exec: &str, number: i32) -> Result<Answer, Failure> {
        let (round, id, exec_id) = (self.round, self.round.create.id.clone(), exec.to_owned());
        let pid = |pid| Answer { pid, ..Answer::default() };
        match verb {
            Verb::Create => {
                self.ask("Create", &round.create).map(|answer: api::CreateTaskResponse| pid(answer.pid))
            }
            Verb::Exec => {
                let spec = any("", round.processes[number as usize].clone());
                let request =
                    api::ExecProcessRequest { id, exec_id, spec: Some(spec).into(), ..Default::default() };
                self.done("Exec", &request)
            }
            Verb::Start => {
                let request = api::StartRequest { id, exec_id, ..Default::default() };
                self.ask("Start", &request).map(|answer: api::StartResponse| pid(answer.pid))
            }
            Verb::Kill => {
                let request = api::KillRequest { id, exec_id, signal: number as u32, ..Default::default() };
                self.done("Kill", &request)
            }
            Verb::Pause => self.done("Pause", &api::PauseRequest { id, ..Default::default() }),
            Verb::Resume => self.done("Resume", &api::ResumeRequest { id, ..Default::default() }),
            Verb::Delete | Verb::Wait | Verb::State | Verb::Pids => self.question(verb, id, exec_id),
        }
    }

    fn question(&mut self, verb: Verb, id: String, exec_id: String) -> Result<Answer, Failure> {
        match verb {
            Verb::Delete => {
                let request = api::DeleteRequest { id, exec_id, ..Default::default() };
                self.ask("Delete", &request).map(|answer: api::DeleteResponse| Answer {
                    pid: answer.pid,
                    status: answer.exit_status,
                    at: time(&answer.exited_at),
                    ..Answer::default()
                })
            }
            Verb::Wait => {
                let request = api::WaitRequest { id, exec_id, ..Default::default() };
                self.ask("Wait", &request).map(|answer: api::WaitResponse| Answer {
                    status: answer.exit_status,
                    at: time(&answer.exited_at),
                    ..Answer::default()
                })
            }
            Verb::State => {
                let request = api::StateRequest { id, exec_id, ..Default::default() };
                self.ask("State", &request).map(|answer: api::StateResponse| Answer {
                    pid: answer.pid,
                    status: answer.exit_status,
                    at: time(&answer.exited_at),
                    state: answer.status.enum_value_or_default(),
                    ..Answer::default()
                })
            }
            _ => self.ask("Pids", &api::PidsRequest { id, ..Default::default() }).map(
                |answer: api::PidsResponse| Answer {
                    pids: answer.processes.iter().map(|process| process.pid).collect(),
                    ..Answer::default()
                },
            ),
        }
    }

    fn step<'s>(&mut self, scope: &'s Scope<'s, '_>, dice: &mut Rng)
    where
        'r: 's,
    {
        use Verb::{Create, Delete, Exec, Kill, Pause, Pids, Start, State, Wait};
        const OF_INIT: [Verb; 8] = [Create, Create, Start, Delete, Kill, Wait, State, Pids];
        const OF_EXEC: [Verb; 8] = [Exec, Exec, Start, Kill, Delete, Delete, Wait, State];
        let exec = if dice.u8(..4) == 0 { "" } else { EXECS[dice.usize(..3)] };
        let mut verb = if exec.is_empty() { OF_INIT } else { OF_EXEC }[dice.usize(..8)];
        if dice.u8(..40) == 0 {
            verb = Pause;
        }
        let signal = [0, libc::SIGTERM, libc::SIGKILL, libc::SIGKILL][dice.usize(..4)];
        match verb {
            Wait => {
                let mut beside = self.round.caller();
                scope.spawn(move || beside.call(Wait, exec, 0));
            }
            Kill => drop(self.call(Kill, exec, signal)),
            // What is only made, or is not there, does not do much.
            Create | Exec => {
                let made = self.call(verb, exec, dice.i32(0..3));
                if made && dice.u8(..4) > 0 {
                    self.call(Start, exec, 0);
                } else if dice.bool() && self.call(Create, "", 0) {
                    self.call(Start, "", 0);
                }
            }
            Pause => {
                self.call(Pause, "", 0);
                for _ in 0..dice.u8(..4) {
                    let _ = match dice.u8(..3) {
                        0 => self.call(State, EXECS[dice.usize(..3)], 0),
                        1 => self.call(Pids, "", 0),
                        _ => self.call(Kill, EXECS[dice.usize(..3)], signal),
                    };
                }
                // Whoever has paused resumes, or everybody would wait in the end for what cannot run.
                self.call(Verb::Resume, "", 0);
            }
            _ => drop(self.call(verb, exec, 0)),
        }
    }
}

/// One shim from its first Create to its end.
fn round(seed: u64, init_ends: bool) {
    let host = Host::new();
    let mut bundle = host.bundle("m", if init_ends { "sleep 0.2; exit 6" } else { "exec sleep 1000" });
    if init_ends {
        // What init leaves behind has to be ended by the shim.
        bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").remove(0);
    }
    let shim = host.start(bundle);
    let round = Round::new(&shim);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|client| {
                let (round, mut dice) = (&round, Rng::with_seed(seed.wrapping_mul(1000) + client));
                scope.spawn(move || {
                    let mut caller = round.caller();
                    (0..STEPS).for_each(|_| caller.step(scope, &mut dice));
                })
            })
            .collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
        // Everybody who still waits gets an answer by this.
        let mut last = round.caller();
        last.call(Verb::Kill, "", libc::SIGKILL);
        last.call(Verb::Wait, "", 0);
        last.call(Verb::Delete, "", 0);
        assert_eq!(failed, 0, "clients failed");
    });
    shim.assert_nothing_left();
    // Orphans of the container are reaped a moment later.
    eventually("the shim has no children", SOON, || leak::children_of(shim.pid).is_empty().then_some(()));
    shim.shutdown();
    shim.wait_until_gone();
    check(&host, round, init_ends);
}

fn check(host: &Host, round: Round, init_ends: bool) {
    let calls = round.calls.into_inner().expect("lock");
    let count = |name: &str| host.events.names().iter().filter(|told| *told == name).count();
    let pids = |verb| {
        let done = calls.iter().filter(move |call| call.verb == verb && call.exec.is_empty());
        done.filter_map(|call| Some(call.outcome.as_ref().ok()?.pid)).collect::<BTreeSet<_>>()
    };
    let created = pids(Verb::Create);
    assert_eq!(pids(Verb::Delete), created, "containers created and deleted");
    eventually("all events", SOON, || (count("delete") == created.len()).then_some(()));
    let ok = calls.iter().filter(|call| call.outcome.is_ok()).count();
    let all = calls.len();
    let history = History::new(calls, &host.events.seen(), init_ends);
    history.check();
    let ends: Vec<_> = history.lives.iter().filter_map(|life| life.exit).collect();
    println!(
        "model: {all} calls, {ok} of them done, {} containers, {} processes that ended",
        created.len(),
        ends.len()
    );
    let own = if init_ends { 6 } else { 3 };
    assert!(ends.iter().all(|(status, _)| *status == own || STATUSES.contains(status)), "{ends:?}");
    // A run in which nothing happens would prove nothing.
    assert!(
        created.len() > 1 && ends.len() > created.len(),
        "{} containers, {} ends",
        created.len(),
        ends.len()
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn run(init_ends: bool) {
    let steps = number("MODEL_STEPS").unwrap_or(0);
    let first = number("MODEL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    for seed in first..=first + steps / (CLIENTS * STEPS) as u64 {
        println!("model: MODEL_SEED={seed}");
        round(seed, init_ends);
    }
}

#[test]
fn every_interleaving_of_calls_gives_answers_that_fit_and_events_in_order() {
    needs_containers!();
    needs!(subject::ours(), "the model is of this shim's answers");
    run(false);
}

#[test]
fn so_does_every_interleaving_with_an_init_that_ends_by_itself() {
    needs_containers!();
    needs!(subject::ours(), "the model is of this shim's answers");
    run(true);
}
