//! From the clone of a process to its program: no thread waits for that.

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
