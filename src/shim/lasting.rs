//! Clones of processes that outlive whoever asked for them.
//!
//! KERNEL: the parent that PR_SET_PDEATHSIG is about is the thread that cloned (prctl(2)): a program that has set it would be
//! killed when an idle worker ends. The shim's own thread is the last to go.

use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

type Work<R> = Box<dyn FnOnce() -> R + Send>;

/// Two ends: with the first a worker has its work done by the thread that makes this call, while that one waits for the second.
/// The first gives `None` when nobody waits any more.
pub fn here<R: Send + 'static>() -> (impl FnOnce(Work<R>) -> Option<R> + Send, impl Future<Output = ()>) {
    let here = thread::current().id();
    let (ask, asked) = oneshot::channel::<(Work<R>, mpsc::SyncSender<R>)>();
    let there = move |work: Work<R>| {
        // Without a thread to be had there is no worker.
        if thread::current().id() == here {
            return Some(work());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        ask.send((work, answer)).ok()?;
        answered.recv().ok()
    };
    let serve = async {
        if let Ok((work, answer)) = asked.await {
            // Nobody may be left to take it.
            let _ = answer.send(work());
        }
    };
    (there, serve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::workers::blocking;

    #[tokio::test(flavor = "current_thread")]
    async fn a_worker_has_its_work_done_here() {
        let (there, serve) = here();
        let (done, ()) = tokio::join!(blocking(|| there(Box::new(|| thread::current().id()))), serve);
        assert_eq!(done.unwrap(), Some(thread::current().id()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_waits_for_anybody_who_is_gone() {
        let (there, serve) = here::<()>();
        drop(there);
        serve.await;
        let (there, serve) = here::<()>();
        drop(serve);
        assert_eq!(blocking(|| there(Box::new(|| ()))).await.unwrap(), None);
        assert_eq!(here().0(Box::new(|| 1)), Some(1));
    }
}
