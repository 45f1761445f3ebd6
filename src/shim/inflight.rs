//! Mutating calls that survive their callers.
//!
//! ttrpc drops a handler when its client goes away or its deadline passes. So every mutating call runs as a task of
//! its own, and a retry finds it: it joins the operation in flight, or gets the result that nobody was there to take.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::process::Exit;

/// What is being done to whom: verb, container, exec.
pub type Key = (&'static str, String, String);

/// What a mutating call answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Done,
    Pid(u32),
    Deleted { pid: u32, exit: Option<Exit> },
}

pub type Outcome = Result<Reply, ttrpc::Error>;

type Pending = watch::Receiver<Option<Outcome>>;

/// What cannot be done twice: a result that nobody was there to take answers the retry. Anything else is done again.
const KEPT: [&str; 3] = ["Create", "Start", "Delete"];

/// The operations in flight, and successes not yet taken.
#[derive(Clone, Default)]
pub struct Inflight {
    operations: Arc<Mutex<HashMap<Key, Pending>>>,
}

impl Inflight {
    /// Runs `operation`, or joins the one that runs under the same key.
    pub async fn run<F>(&self, key: Key, operation: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut pending = self.join_or_spawn(&key, operation);
        let outcome = match pending.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        self.forget(&key, &pending);
        outcome
            .unwrap_or_else(|| Err(super::error::internal(format!("{} of {} was abandoned", key.0, key.1))))
    }

    fn join_or_spawn<F>(&self, key: &Key, operation: impl FnOnce() -> F) -> Pending
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pending) = operations.get(key) {
            return pending.clone();
        }
        let (done, pending) = watch::channel(None);
        operations.insert(key.clone(), pending.clone());
        drop(operations);
        let (this, key, operation, own) = (self.clone(), key.clone(), operation(), pending.clone());
        tokio::spawn(async move {
            let outcome = operation.await;
            // A failure is not kept: its retry shall find the world as it is then.
            if outcome.is_err() || !KEPT.contains(&key.0) {
                this.forget(&key, &own);
            }
            drop(own);
            if let Err(e) = &outcome
                && done.receiver_count() == 0
            {
                log::info!("{} {}: failed when its caller had left: {e}", key.0, key.1);
            }
            done.send_replace(Some(outcome));
        });
        pending
    }

    /// Is nothing being done?
    pub fn is_idle(&self) -> bool {
        let operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        operations.values().all(|pending| pending.borrow().is_some())
    }

    /// Is something in flight under a key that `matches`?
    pub fn any(&self, matches: impl Fn(&Key) -> bool) -> bool {
        let operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        operations.iter().any(|(key, pending)| matches(key) && pending.borrow().is_none())
    }

    /// Is there an operation, or a result nobody took, under `key`?
    pub fn has(&self, key: &Key) -> bool {
        self.operations.lock().unwrap_or_else(|e| e.into_inner()).contains_key(key)
    }

    /// Until nothing is in flight under `key`.
    pub async fn settled(&self, key: &Key) {
        let pending = self.operations.lock().unwrap_or_else(|e| e.into_inner()).get(key).cloned();
        if let Some(mut pending) = pending {
            // Abandoned is settled too.
            let _ = pending.wait_for(Option::is_some).await;
        }
    }

    /// Forgets `operation`, but not another that has begun under its key since.
    fn forget(&self, key: &Key, operation: &Pending) {
        let mut operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        if operations.get(key).is_some_and(|pending| pending.same_channel(operation)) {
            operations.remove(key);
        }
    }

    /// Drops the results under keys that `are` of an earlier life: the id has been given to somebody new, or to nobody.
    pub fn drop_results(&self, are: impl Fn(&Key) -> bool) {
        let mut operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        operations.retain(|key, pending| pending.borrow().is_none() || !are(key));
    }
}

/// Random interleavings of callers that stay, leave and retry, against a model (tests/fuzz).
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::sync::oneshot;

    use super::*;

    /// What the model knows of one key.
    #[derive(Default)]
    struct Known {
        running: Option<(u32, oneshot::Sender<Outcome>)>,
        /// Callers that wait for the run.
        waiting: Vec<tokio::task::JoinHandle<Outcome>>,
        kept: Option<u32>,
    }

    const VERBS: [&str; 4] = ["Create", "Start", "Delete", "Pause"];

    /// Each byte is a step: which verb, and what happens to it.
    pub fn states(steps: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (inflight, runs) = (Inflight::default(), Rc::new(RefCell::new(0)));
            let mut known: [Known; 4] = Default::default();
            for step in steps.iter().take(200) {
                let (verb, what) = (usize::from(step % 4), step / 4 % 4);
                one(&inflight, &runs, VERBS[verb], &mut known[verb], what).await;
            }
            let running = known.iter().any(|known| known.running.is_some());
            assert_eq!(inflight.is_idle(), !running);
        });
    }

    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    async fn one(
        inflight: &Inflight,
        runs: &Rc<RefCell<u32>>,
        verb: &'static str,
        known: &mut Known,
        what: u8,
    ) {
        match what {
            // A call; its caller leaves at once, or stays.
            0 | 1 => {
                let started = Rc::new(RefCell::new(None));
                let operation = {
                    let (runs, started) = (runs.clone(), started.clone());
                    move || {
                        *runs.borrow_mut() += 1;
                        let (finish, finished) = oneshot::channel();
                        *started.borrow_mut() = Some((*runs.borrow(), finish));
                        async move { finished.await.expect("the model ends every run") }
                    }
                };
                let (this, key) = (inflight.clone(), (verb, "c".to_owned(), String::new()));
                let call = tokio::task::spawn_local(async move { this.run(key, operation).await });
                settle().await;
                let began = started.borrow_mut().take();
                if let Some(number) = known.kept.take() {
                    assert!(began.is_none(), "{verb}: a result was there to be taken");
                    assert_eq!(call.await.expect("a task").expect("it was kept"), Reply::Pid(number));
                    return;
                }
                assert_eq!(began.is_some(), known.running.is_none(), "{verb}: one run at a time");
                known.running = began.or(known.running.take());
                match what {
                    0 => call.abort(),
                    _ => known.waiting.push(call),
                }
                settle().await;
            }
            // The end of the run, good or bad.
            _ => {
                let Some((number, finish)) = known.running.take() else { return };
                let good = what == 2;
                let outcome =
                    if good { Ok(Reply::Pid(number)) } else { Err(super::super::error::internal("no")) };
                assert!(finish.send(outcome).is_ok(), "{verb}: the run outlives its callers");
                settle().await;
                let taken = !known.waiting.is_empty();
                for call in known.waiting.drain(..) {
                    let answer = call.await.expect("a task");
                    assert_eq!(answer.ok(), good.then_some(Reply::Pid(number)), "{verb}");
                }
                known.kept = Some(number).filter(|_| good && !taken && KEPT.contains(&verb));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn key() -> Key {
        ("Create", "c".into(), String::new())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_retry_joins_the_operation_in_flight() {
        let (inflight, runs) = (Inflight::default(), Arc::new(AtomicU32::new(0)));
        let operation = || {
            let runs = runs.clone();
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Reply::Pid(7))
            }
        };
        let (a, b) = tokio::join!(inflight.run(key(), operation), inflight.run(key(), operation));
        assert_eq!((a.unwrap(), b.unwrap()), (Reply::Pid(7), Reply::Pid(7)));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    /// A client that goes away right after its request; the operation then runs to its end.
    async fn begin_and_leave(call: impl Future<Output = Outcome>) {
        tokio::select! {
            biased;
            _ = call => panic!("answered at once"),
            () = std::future::ready(()) => {}
        }
        tokio::task::yield_now().await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_result_nobody_took_answers_the_retry_once() {
        let inflight = Inflight::default();
        begin_and_leave(inflight.run(key(), || async { Ok(Reply::Pid(1)) })).await;
        assert_eq!(inflight.run(key(), || async { Ok(Reply::Pid(2)) }).await.unwrap(), Reply::Pid(1));
        assert_eq!(inflight.run(key(), || async { Ok(Reply::Pid(3)) }).await.unwrap(), Reply::Pid(3));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_can_be_done_again_is_done_again() {
        let inflight = Inflight::default();
        let pause = || ("Pause", "c".to_string(), String::new());
        begin_and_leave(inflight.run(pause(), || async { Ok(Reply::Pid(1)) })).await;
        assert_eq!(inflight.run(pause(), || async { Ok(Reply::Pid(2)) }).await.unwrap(), Reply::Pid(2));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_life_gets_no_result_of_the_last() {
        let inflight = Inflight::default();
        begin_and_leave(inflight.run(key(), || async { Ok(Reply::Pid(1)) })).await;
        inflight.drop_results(|(_, id, _)| id == "other");
        assert!(inflight.has(&key()));
        inflight.drop_results(|(_, id, _)| id == "c");
        assert!(!inflight.has(&key()) && inflight.is_idle());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failure_is_not_kept() {
        let inflight = Inflight::default();
        let failing = || async { Err(super::super::error::internal("no")) };
        begin_and_leave(inflight.run(key(), failing)).await;
        assert_eq!(inflight.run(key(), || async { Ok(Reply::Done) }).await.unwrap(), Reply::Done);
    }
}
