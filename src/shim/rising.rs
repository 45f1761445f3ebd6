//! From the clone of a process to its program: no thread waits for one that has nothing to ask on its way.

use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::time::timeout;

use super::workers::blocking;
use crate::engine::InSetup;
use crate::stdio::register;

/// Waits until `process` has something to say, or has had its time, and has `end` take that up. Mostly there is nothing but the
/// end of its report, and `end` does not block; else it does so on a worker.
pub async fn until_executed<P, T>(
    mut process: P,
    end: impl FnOnce(P) -> T + Send + 'static,
) -> ttrpc::Result<T>
where
    P: InSetup + Send + 'static,
    T: Send + 'static,
{
    if !has_spoken(&mut process).await {
        process.report().set_due();
    }
    match process.report().has_closed() && process.is_at_execve() {
        true => Ok(end(process)),
        false => blocking(move || end(process)).await,
    }
}

async fn has_spoken(process: &mut impl InSetup) -> bool {
    let report = process.report();
    match register(report.as_fd(), Interest::READABLE) {
        Ok(socket) => timeout(report.limit(), socket.readable()).await.is_ok(),
        // Out of epoll watches: the worker waits.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::thread::{ThreadId, current};
    use std::time::Duration;

    use super::*;
    use crate::engine::child::{Message, Progress, Report};
    use crate::sys::socket;

    struct Fake {
        report: Report,
        is_at_execve: bool,
    }

    impl InSetup for Fake {
        fn report(&mut self) -> &mut Report {
            &mut self.report
        }

        fn is_at_execve(&self) -> bool {
            self.is_at_execve
        }
    }

    /// Who took up what was heard of a child, which does as `child` does with its end of the socket.
    async fn heard(limit: Duration, is_at_execve: bool, child: impl FnOnce(OwnedFd)) -> (ThreadId, Message) {
        let (theirs, ours) = socket::seqpacket_pair().unwrap();
        let process = Fake { report: Report::new(ours, Progress::new(Some(limit))), is_at_execve };
        child(theirs);
        let end = |mut process: Fake| (current().id(), process.report().next().unwrap().0);
        until_executed(process, end).await.unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_end_of_a_report_is_heard_by_the_shims_own_thread() {
        assert_eq!(heard(LONG, true, drop).await, (current().id(), Message::Closed));
        let (thread, message) = heard(LONG, false, drop).await;
        assert!(thread != current().id() && message == Message::Closed, "it died on its way");
        let says = |theirs: OwnedFd| assert!(socket::send(theirs.as_fd(), &[3], None).is_ok());
        let (thread, message) = heard(LONG, true, says).await;
        assert!(thread != current().id() && matches!(message, Message::Reached(_)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn silence_is_late_after_one_limit() {
        let mut held = None;
        let limit = Duration::from_secs(2);
        let begun = std::time::Instant::now();
        let (thread, message) = heard(limit, true, |theirs| held = Some(theirs)).await;
        assert!(thread != current().id() && matches!(message, Message::Late { .. }));
        assert!(begun.elapsed() < 2 * limit);
    }
}
