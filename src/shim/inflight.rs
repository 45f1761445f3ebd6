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
        self.forget(&key);
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
        let (this, key, operation) = (self.clone(), key.clone(), operation());
        tokio::spawn(async move {
            let outcome = operation.await;
            // A failure is not kept: its retry shall find the world as it is then.
            if outcome.is_err() {
                this.forget(&key);
            }
            done.send_replace(Some(outcome));
        });
        pending
    }

    /// Is there an operation, or a result nobody took, under `key`?
    pub fn has(&self, key: &Key) -> bool {
        self.operations.lock().unwrap_or_else(|e| e.into_inner()).contains_key(key)
    }

    fn forget(&self, key: &Key) {
        self.operations.lock().unwrap_or_else(|e| e.into_inner()).remove(key);
    }

    /// Drops what nobody took of earlier lives of `container`, but for operations of `verb`.
    pub fn forget_all(&self, container: &str, but: &'static str) {
        let mut operations = self.operations.lock().unwrap_or_else(|e| e.into_inner());
        operations
            .retain(|(verb, id, _), pending| id != container || *verb == but || pending.borrow().is_none());
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
    async fn a_failure_is_not_kept() {
        let inflight = Inflight::default();
        let failing = || async { Err(super::super::error::internal("no")) };
        begin_and_leave(inflight.run(key(), failing)).await;
        assert_eq!(inflight.run(key(), || async { Ok(Reply::Done) }).await.unwrap(), Reply::Done);
    }
}
