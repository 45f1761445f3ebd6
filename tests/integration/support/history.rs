//! What can be said for certain of calls made at the same time, and whether their answers agree with it.
//!
//! Every call has a tick at which it began and one at which it had ended. The events, which are in order, give the lives of
//! the container and of its execs; the calls say between which ticks each of them began, ran, ended and went. An answer
//! is wrong if it fits no moment between the ticks of its call.

use super::events::{Event, Time};
use super::wire::Failure;
use containerd_shim_protos::api::Status;
use std::collections::HashMap;
use ttrpc::proto::Code;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Exec,
    Start,
    Kill,
    Delete,
    Wait,
    State,
    Pids,
    Pause,
    Resume,
}

#[derive(Debug, Default)]
pub struct Answer {
    pub pid: u32,
    pub status: u32,
    pub at: Option<Time>,
    pub state: Status,
    pub pids: Vec<u32>,
}

#[derive(Debug)]
pub struct Call {
    pub verb: Verb,
    /// Empty for init.
    pub exec: String,
    /// Of a Kill.
    pub signal: i32,
    pub began: u64,
    pub ended: u64,
    pub outcome: Result<Answer, Failure>,
}

impl Call {
    fn answer(&self) -> Option<&Answer> {
        self.outcome.as_ref().ok()
    }

    fn did(&self, verb: Verb, exec: &str) -> bool {
        self.verb == verb && self.exec == exec && self.outcome.is_ok()
    }

    fn overlaps(&self, other: &Call) -> bool {
        self.began < other.ended && other.began < self.ended
    }
}

/// When something happened: not before the first tick, and by the second.
type Between = (u64, u64);
const NEVER: Between = (u64::MAX, u64::MAX);

/// What one id stood for, from its Create or Exec to its Delete.
#[derive(Debug)]
pub struct Life {
    exec: String,
    /// The container's, among the lives.
    container: usize,
    pid: u32,
    started: bool,
    pub exit: Option<(u32, Time)>,
    made: Between,
    ran: Between,
    ended: Between,
    gone: Between,
}

/// Could it be so at some tick of the call?
impl Life {
    fn exists(&self, call: &Call) -> bool {
        self.made.0 < call.ended && call.began < self.gone.1
    }

    fn exists_throughout(&self, call: &Call) -> bool {
        self.made.1 < call.began && call.ended < self.gone.0
    }

    fn is_new(&self, call: &Call) -> bool {
        self.exists(call) && call.began < self.ran.1.min(self.ended.1)
    }

    fn runs(&self, call: &Call) -> bool {
        self.exists(call) && self.ran.0 < call.ended && call.began < self.ended.1
    }

    fn has_ended(&self, call: &Call) -> bool {
        self.exists(call) && self.ended.0 < call.ended
    }
}

/// The events, one after the other, against what may follow what.
#[derive(Default)]
struct Replay {
    lives: Vec<Life>,
    /// Lives of the container that is there, by exec id.
    current: HashMap<String, usize>,
}

impl Replay {
    fn life(&mut self, exec: &str) -> Result<&mut Life, &'static str> {
        let index = *self.current.get(exec).ok_or("of something that is not there")?;
        Ok(&mut self.lives[index])
    }

    fn begin(&mut self, exec: &str, pid: u32) {
        let index = self.lives.len();
        self.current.insert(exec.into(), index);
        self.lives.push(Life {
            exec: exec.into(),
            container: self.current[""],
            pid,
            started: false,
            exit: None,
            made: NEVER,
            ran: NEVER,
            ended: NEVER,
            gone: NEVER,
        });
    }

    fn follow(&mut self, event: &Event, name: &str) -> Result<(), &'static str> {
        let must = |good: bool, why| if good { Ok(()) } else { Err(why) };
        let exec = if event.exec == event.container { "" } else { &event.exec };
        if name == "create" {
            must(self.current.is_empty(), "before the last container's delete")?;
            self.begin("", event.pid);
            return Ok(());
        }
        let init = self.life("")?;
        let (started, ended, exit) = (init.started, init.exit.is_some(), init.exit);
        must(ended == (name == "delete"), "on the wrong side of init's exit")?;
        match name {
            "exec-added" => {
                let free = self.life(exec).map_or(true, |last| !last.started || last.exit.is_some());
                must(free, "while its namesake runs")?;
                self.begin(exec, 0);
            }
            "start" | "exec-started" => {
                let life = self.life(exec)?;
                must(!life.started && [0, event.pid].contains(&life.pid), "twice, or of another process")?;
                (life.started, life.pid) = (true, event.pid);
            }
            "exit" => {
                let runs = |life: &Life| life.started && life.exit.is_none() && !life.exec.is_empty();
                let alone = !self.current.values().any(|index| runs(&self.lives[*index]));
                must(alone || !exec.is_empty(), "before an exec's exit")?;
                let life = self.life(exec)?;
                must(life.started || exec.is_empty(), "of what was not started")?;
                must(life.exit.is_none() && life.pid == event.pid, "twice, or of another process")?;
                life.exit = event.exited_at.map(|at| (event.exit_status, at));
                must(life.exit.is_some(), "without a time")?;
            }
            "delete" => {
                must(exit == event.exited_at.map(|at| (event.exit_status, at)), "with another exit")?;
                self.current.clear();
            }
            "paused" | "resumed" => must(started, "before the start")?,
            _ => return Err("that nobody asked for"),
        }
        Ok(())
    }
}

/// Calls and events of one container id.
pub struct History {
    calls: Vec<Call>,
    pub lives: Vec<Life>,
    /// Init may end at any moment, and not only when it is killed.
    init_ends: bool,
}

impl History {
    pub fn new(calls: Vec<Call>, events: &[Event], init_ends: bool) -> Self {
        let mut replay = Replay::default();
        for (index, event) in events.iter().enumerate() {
            let (name, before) = (event.topic.trim_start_matches("/tasks/"), &events[..index]);
            let told: Vec<_> = before.iter().map(Event::name).collect();
            if let Err(why) = replay.follow(event, name) {
                panic!("{} {why}; told before: {told:?}\n{event:?}", event.name());
            }
        }
        assert!(replay.current.is_empty(), "events of the end are missing");
        let mut history = Self { calls, lives: replay.lives, init_ends };
        (0..history.lives.len()).for_each(|index| history.place(index));
        history
    }

    fn successes<'a>(&'a self, verb: Verb, exec: &'a str) -> impl Iterator<Item = &'a Call> {
        self.calls.iter().filter(move |call| call.did(verb, exec))
    }

    /// Of calls that have all been answered by the same deed.
    fn joined(&self, verb: Verb, life: &Life) -> Between {
        let all =
            self.successes(verb, &life.exec).filter(|call| call.answer().is_some_and(|a| a.pid == life.pid));
        all.fold(NEVER, |(first, last), call| (first.min(call.began), last.min(call.ended)))
    }

    /// Finds the ticks of a life. Containers come before their execs, and so do earlier lives before later ones.
    fn place(&mut self, index: usize) {
        let (made, next) = self.makings(index);
        let life = &self.lives[index];
        let container = &self.lives[life.container];
        let mut ran = if life.started { self.joined(Verb::Start, life) } else { NEVER };
        assert!(!life.started || ran != NEVER, "told of a start that nobody was answered: {life:?}");
        let mut ended = (if life.exec.is_empty() && !self.init_ends { u64::MAX } else { ran.0 }, u64::MAX);
        let mut gone = (u64::MAX, 0);
        for call in self.calls.iter().filter(|call| call.exec == life.exec && made.0 < call.ended) {
            // A pid namespace's init ignores a SIGTERM once its program runs; before, that ends a Create, and who waits for Start.
            let heeds = call.signal == libc::SIGTERM && (self.init_ends || call.began < ran.1);
            // So does a Delete.
            let deletes = call.verb == Verb::Delete && (call.outcome.is_ok() || call.began < made.1);
            let ends = call.signal == libc::SIGKILL || heeds || deletes;
            if life.exec.is_empty() && ends {
                ended.0 = ended.0.min(call.began);
            }
            let Some(answer) = call.answer() else { continue };
            if call.verb == Verb::Delete && answer.pid == life.pid && call.began < next {
                gone = (gone.0.min(call.began), gone.1.max(call.ended));
            }
            if life.started && call.verb == Verb::State && answer.pid == life.pid {
                let runs = [Status::RUNNING, Status::PAUSED].contains(&answer.state);
                ran.1 = if runs { ran.1.min(call.ended) } else { ran.1 };
            }
            if answer.at.is_some() && answer.at == life.exit.map(|exit| exit.1) {
                ended.1 = ended.1.min(call.ended);
            }
        }
        if !life.exec.is_empty() {
            if life.started {
                ended.1 = ended.1.min(container.ended.1);
            }
            // Deletes of what never ran cannot be told apart.
            let last = if life.started && gone.1 > 0 { gone.1 } else { u64::MAX };
            gone = (gone.0.min(container.gone.0), last.min(next).min(container.gone.1));
        }
        let life = &mut self.lives[index];
        (life.made, life.ran, life.ended, life.gone) = (made, ran, ended, gone);
    }

    /// When it was made, and a tick by which the next of its name was.
    fn makings(&self, index: usize) -> (Between, u64) {
        let life = &self.lives[index];
        if life.exec.is_empty() {
            return (self.joined(Verb::Create, life), u64::MAX);
        }
        // Execs that were added at the same time cannot be told apart: the n-th was added neither before the n-th call
        // began nor after the n-th had ended.
        let (mut began, mut ended): (Vec<_>, Vec<_>) =
            self.successes(Verb::Exec, &life.exec).map(|call| (call.began, call.ended)).unzip();
        let namesakes: Vec<_> = (0..self.lives.len()).filter(|i| self.lives[*i].exec == life.exec).collect();
        assert_eq!(began.len(), namesakes.len(), "answers and events of Exec {}", life.exec);
        began.sort_unstable();
        ended.sort_unstable();
        let place = namesakes.iter().position(|i| *i == index).expect("one of them");
        ((began[place], ended[place]), ended.get(place + 1).copied().unwrap_or(u64::MAX))
    }

    /// Every answer fits.
    pub fn check(&self) {
        for (index, call) in self.calls.iter().enumerate() {
            let shown = || self.of(&call.exec).iter().map(|life| format!("\n{life:?}")).collect::<String>();
            assert!(self.fits(call), "{call:?} cannot be:{}", shown());
            let once = [Verb::Create, Verb::Start, Verb::Delete].contains(&call.verb);
            let Some(answer) = call.answer().filter(|answer| once && answer.pid > 0) else { continue };
            for other in self.calls[..index].iter().filter(|other| other.did(call.verb, &call.exec)) {
                let same = other.answer().is_some_and(|a| a.pid == answer.pid);
                assert!(!same || call.overlaps(other), "done twice: {call:#?} {other:#?}");
            }
        }
    }

    fn of(&self, exec: &str) -> Vec<&Life> {
        self.lives.iter().filter(|life| life.exec == exec).collect()
    }

    fn fits(&self, call: &Call) -> bool {
        match &call.outcome {
            Ok(answer) => self.fits_answer(call, answer),
            Err(failure) => self.fits_refusal(call, failure.code),
        }
    }

    fn any(&self, exec: &str, good: impl Fn(&Life) -> bool) -> bool {
        self.of(exec).into_iter().any(good)
    }

    fn fits_refusal(&self, call: &Call, code: Code) -> bool {
        use Code::{ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, UNKNOWN};
        let any = |good: &dyn Fn(&Life) -> bool| self.any(&call.exec, good);
        let init = |good: &dyn Fn(&Life) -> bool| self.any("", good);
        let init_does_not_run = || init(&|l| l.is_new(call) || l.has_ended(call));
        let is_init = call.exec.is_empty();
        match (call.verb, code) {
            (Verb::Create, ALREADY_EXISTS) => any(&|l| l.exists(call)),
            (Verb::Create, UNKNOWN) => self.is_given_up(call),
            (Verb::Create, _) => false,
            (Verb::Exec, NOT_FOUND) => !init(&|l| l.exists_throughout(call)),
            (_, NOT_FOUND) if !any(&|l| l.exists_throughout(call)) => true,
            (Verb::Exec, ALREADY_EXISTS) => any(&|l| l.exists(call)),
            (Verb::Exec, FAILED_PRECONDITION) => init(&|l| l.has_ended(call)),
            // Init may have died at the gate.
            (Verb::Start, UNKNOWN) => is_init && any(&|l| l.has_ended(call)),
            (Verb::Start, FAILED_PRECONDITION) => {
                let is_over = any(&|l| l.runs(call) || l.has_ended(call));
                let cannot_be = || init(&|l| l.has_ended(call)) || init(&|l| self.is_paused(l, call));
                is_over || !is_init && cannot_be()
            }
            (Verb::Kill, NOT_FOUND) => any(&|l| l.has_ended(call)),
            (Verb::Kill, FAILED_PRECONDITION) => !is_init && any(&|l| l.is_new(call)),
            (Verb::Delete, FAILED_PRECONDITION) => {
                any(&|l| l.runs(call)) || !is_init && self.is_being_started(call)
            }
            (Verb::Pause, FAILED_PRECONDITION) => init_does_not_run(),
            (Verb::Resume, FAILED_PRECONDITION) => !self.is_paused_throughout(call),
            _ => false,
        }
    }

    fn fits_answer(&self, call: &Call, answer: &Answer) -> bool {
        let (exit, pid) = (answer.at.map(|at| (answer.status, at)), answer.pid);
        if call.verb == Verb::Kill && call.exec.is_empty() && self.is_given_up(call) {
            return true;
        }
        self.any(if call.verb == Verb::Exec { "" } else { &call.exec }, |life| {
            let is_paused = |life: &Life| life.runs(call) && self.is_paused(life, call);
            let fits = match call.verb {
                Verb::Create => life.pid == pid,
                Verb::Start => life.pid == pid && life.started,
                Verb::Exec => true,
                Verb::Kill => life.runs(call) || call.exec.is_empty() && life.is_new(call),
                Verb::Wait => exit.is_some() && life.exit == exit,
                Verb::Delete => {
                    life.pid == pid && life.exit == exit && (exit.is_some() || answer.status == 0)
                }
                Verb::Pids => answer.pids.contains(&life.pid),
                Verb::Pause => life.runs(call),
                Verb::Resume => is_paused(life),
                Verb::State => match answer.state {
                    Status::CREATED => life.is_new(call) && exit.is_none() && [0, life.pid].contains(&pid),
                    Status::RUNNING => life.runs(call) && exit.is_none() && life.pid == pid,
                    Status::PAUSED => life.pid == pid && exit.is_none() && self.any("", is_paused),
                    Status::STOPPED => life.has_ended(call) && life.exit == exit && life.pid == pid,
                    _ => false,
                },
            };
            fits && life.exists(call)
        })
    }

    /// Is it a Create that a signal or a Delete may have ended, or that signal? Others may have joined the Create after it.
    fn is_given_up(&self, call: &Call) -> bool {
        let ends = |other: &Call| {
            let is_deadly = [libc::SIGTERM, libc::SIGKILL].contains(&other.signal);
            other.exec.is_empty() && (is_deadly || other.verb == Verb::Delete)
        };
        let given_up = |create: &Call| self.calls.iter().any(|other| ends(other) && other.overlaps(create));
        let mut creates =
            self.calls.iter().filter(|other| other.verb == Verb::Create && other.overlaps(call));
        creates.any(given_up)
    }

    fn is_being_started(&self, call: &Call) -> bool {
        let starts =
            |other: &&Call| other.verb == Verb::Start && other.exec == call.exec && other.overlaps(call);
        self.calls.iter().any(|other| starts(&other))
    }

    /// Could it be paused during the call?
    fn is_paused(&self, life: &Life, call: &Call) -> bool {
        self.successes(Verb::Pause, "").any(|pause| {
            let undone = |resume: &Call| pause.ended < resume.began && resume.ended < call.began;
            life.runs(call)
                && life.runs(pause)
                && pause.began < call.ended
                && !self.successes(Verb::Resume, "").any(undone)
        })
    }

    /// Must it be paused throughout the call? A Resume that takes place meanwhile leaves it open.
    fn is_paused_throughout(&self, call: &Call) -> bool {
        self.successes(Verb::Pause, "").any(|pause| {
            let undoes = |resume: &Call| pause.began < resume.ended && resume.began < call.ended;
            let runs_on = |l: &&Life| l.ran.1 < pause.began && call.ended < l.ended.0;
            pause.ended < call.began
                && self.of("").iter().any(runs_on)
                && !self.successes(Verb::Resume, "").any(undoes)
        })
    }
}
