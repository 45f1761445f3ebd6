//! One process from its creation to its deletion, for tests that only look at what it saw.

use super::bundle::Bundle;
use super::fifo::Sink;
use super::shim::{Host, Shim, Stdio3};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Output of a container whose spec `change` has changed; it must end well.
#[track_caller]
pub fn output(script: &str, change: impl FnOnce(&mut Bundle, &Path)) -> String {
    let (status, text) = outcome(script, change);
    assert_eq!(status, 0, "{text}");
    text
}

/// Exit status and output of a container whose spec `change` has changed.
#[track_caller]
pub fn outcome(script: &str, change: impl FnOnce(&mut Bundle, &Path)) -> (u32, String) {
    let host = open_host();
    let both = Both::new(host.folder(), "out");
    let mut bundle = host.bundle("a", script);
    change(&mut bundle, host.folder());
    let shim = host.start(bundle);
    shim.run_with(&both.stdio());
    let status = shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(super::leak::mounts_below(&shim.bundle.folder), Vec::<String>::new(), "mounts left");
    (status, both.finish())
}

/// stdout and stderr, each with a fifo of its own: the Go shim opens them one after the other, and closes the first when
/// the process has ended meanwhile.
struct Both([Sink; 2]);

impl Both {
    fn new(folder: &Path, name: &str) -> Self {
        Self(["1", "2"].map(|number| Sink::new(folder.join(format!("{name}.{number}")))))
    }

    fn stdio(&self) -> Stdio3 {
        Stdio3 { stdout: self.0[0].uri(), stderr: self.0[1].uri(), ..Default::default() }
    }

    #[track_caller]
    fn finish(self) -> String {
        self.0.map(Sink::finish).concat()
    }
}

/// A host whose folder a mapped root may pass through: it has no rights in one that is closed to all but the real one.
pub fn open_host() -> Host {
    let host = Host::new();
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).expect("chmod");
    host
}

/// Why Create refuses the bundle that `change` has changed. Nothing may be left.
#[track_caller]
pub fn refusal(change: impl FnOnce(&mut Bundle, &Path)) -> String {
    let host = open_host();
    let mut bundle = host.bundle("a", "true");
    change(&mut bundle, host.folder());
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("Create fails");
    shim.assert_nothing_left();
    failure.message
}

/// Exit status and output of a further process of a running container.
#[track_caller]
pub fn exec(shim: &Shim<'_>, process: &Value) -> (u32, String) {
    let name = super::subject::unique("exec");
    let both = Both::new(shim.host.folder(), &name);
    shim.exec_process(&name, process, &both.stdio()).expect("Exec");
    shim.start(&name).expect("Start");
    let status = shim.wait(&name).expect("Wait");
    shim.delete(&name).expect("Delete");
    (status, both.finish())
}

/// Output of a script run by exec, as a process that `change` has changed; it must end well.
#[track_caller]
pub fn exec_output(shim: &Shim<'_>, script: &str, change: impl Fn(&mut Value)) -> String {
    let mut process = shim.bundle.process(&["sh", "-c", script]);
    change(&mut process);
    let (status, text) = exec(shim, &process);
    assert_eq!(status, 0, "{text}");
    text
}
