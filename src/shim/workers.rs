//! Threads for work that blocks: mounts, cgroups, hooks, a child's questions.
//!
//! Tokio's own pool ends the process when no thread is to be had (pids limit of the shim's cgroup, RLIMIT_NPROC). Here
//! the work is then done by whoever asked: late, but no exit is lost, and what fails for the same reason says so. A
//! thread that had nothing to do for a moment ends: an idle shim has one thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error;

/// How long a thread waits for more work.
const KEEP: Duration = Duration::from_millis(100);

/// Blocking work. It gives what is to be told of it, which is told when its thread is free: whoever asks for more work
/// then finds it waiting, and makes no other.
pub type Job = Box<dyn FnOnce() -> Tell + Send>;
pub type Tell = Box<dyn FnOnce()>;

struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait, or will when they have told of their job.
    idle: usize,
}

struct Pool {
    queue: Mutex<Queue>,
    work: Condvar,
}

static POOL: Pool = Pool::new();

/// Runs blocking work on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> ttrpc::Result<T> {
    let (answer, answered) = oneshot::channel();
    // Whoever takes the work out of here does it.
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let job = {
        let work = work.clone();
        Box::new(move || {
            let done = take(&work).map(|work| work());
            let tell = move || {
                if let Some(done) = done {
                    // Nobody may be left to hear it.
                    let _ = answer.send(done);
                }
            };
            Box::new(tell) as Tell
        })
    };
    if let Err(e) = hand_over(job)
        && let Some(work) = take(&work)
    {
        log::warn!("no thread to work with, everybody waits: {e}; raise the pids limit of the shim's cgroup");
        return Ok(work());
    }
    answered.await.map_err(|_| error::internal("a worker thread failed"))
}

/// Gives the job to a thread that waits, or to a new one.
pub fn hand_over(job: Job) -> std::io::Result<()> {
    POOL.hand_over(job)
}

impl Pool {
    const fn new() -> Self {
        Self { queue: Mutex::new(Queue { jobs: VecDeque::new(), idle: 0 }), work: Condvar::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&'static self, job: Job) -> std::io::Result<()> {
        let mut queue = self.queue();
        if queue.idle > queue.jobs.len() {
            queue.jobs.push_back(job);
            drop(queue);
            self.work.notify_one();
            return Ok(());
        }
        drop(queue);
        std::thread::Builder::new().name("worker".into()).spawn(move || self.worker(job)).map(drop)
    }

    fn worker(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            next = self.wait(job());
        }
        crate::sys::memory::give_back();
    }

    /// Tells of the last job and waits for one more.
    fn wait(&self, tell: Tell) -> Option<Job> {
        self.queue().idle += 1;
        tell();
        let (mut queue, _) = self
            .work
            .wait_timeout_while(self.queue(), KEEP, |queue| queue.jobs.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
        queue.jobs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{ThreadId, current};

    use super::*;

    /// Work that asks `pool` for more when it tells of itself.
    fn chain(pool: &'static Pool, left: usize, seen: mpsc::Sender<ThreadId>) -> Job {
        Box::new(move || {
            seen.send(current().id()).expect("somebody listens");
            Box::new(move || {
                if left > 0 {
                    pool.hand_over(chain(pool, left - 1, seen)).expect("a thread");
                }
            })
        })
    }

    #[test]
    fn work_that_follows_from_work_is_done_by_the_same_thread() {
        static OWN: Pool = Pool::new();
        let (seen, threads) = mpsc::channel();
        OWN.hand_over(chain(&OWN, 50, seen)).unwrap();
        let threads: Vec<_> = threads.iter().collect();
        assert_eq!(threads.len(), 51);
        assert!(threads.iter().all(|thread| *thread == threads[0]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_of_all_is_done_side_by_side() {
        let (gate, opened) = std::sync::mpsc::channel();
        let waits = tokio::spawn(blocking(move || opened.recv().unwrap_or(0)));
        tokio::task::yield_now().await;
        for number in 0..50 {
            assert_eq!(blocking(move || number * 2).await.unwrap(), number * 2);
        }
        gate.send(7).unwrap();
        assert_eq!(waits.await.unwrap().unwrap(), 7);
    }
}
