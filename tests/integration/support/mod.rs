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

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Makes a program. By another process: one that a test beside this one forks while the file is open here keeps it open for
/// writing until its own execve, and as long as that nobody can execute it (ETXTBSY, execve(2)).
pub fn executable(path: &Path, content: impl AsRef<[u8]>) {
    let script = r#"cat >"$0" && chmod 755 "$0""#;
    let mut writer =
        Command::new("sh").args(["-c", script]).arg(path).stdin(Stdio::piped()).spawn().expect("run sh");
    writer.stdin.take().expect("a pipe").write_all(content.as_ref()).expect("write a program");
    assert!(writer.wait().expect("wait").success(), "{} is not made", path.display());
}

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
