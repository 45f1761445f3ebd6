//! What the tests are written with: a private containerd, ctr, a shim driven directly over ttrpc, bundles, leak checks.

pub mod bundle;
pub mod containerd;
pub mod ctr;
pub mod differences;
pub mod events;
pub mod fifo;
pub mod grpc;
pub mod history;
pub mod hung;
pub mod leak;
pub mod mounted;
pub mod older_kernel;
pub mod relay;
pub mod run;
pub mod seccomp_agent;
pub mod seccomp_listener;
pub mod shim;
pub mod subject;
pub mod wire;

use std::time::{Duration, Instant};

/// Asks until the answer is there; a test that never gets one fails with what it was waiting for.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub const SOON: Duration = Duration::from_secs(20);
