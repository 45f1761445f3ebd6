//! Who is measured: our shim, containerd-shim-runc-v2 with runc and with crun, and the floor, each with what it needs to be asked.

use crate::exits::Exits;
use crate::support::bundle::Bundle;
use crate::support::shim::{Host, any};
use crate::support::subject::{self, Subject};
use crate::task::Task;
use myshim::shim::proto::RuncOptions;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A shim, and the daemon's end of its events.
pub struct Contender {
    pub name: &'static str,
    pub subject: Subject,
    pub host: Host,
    pub exits: Exits,
    options: Option<Any>,
}

impl Contender {
    fn new(name: &'static str, subject: Subject, options: Option<Any>) -> Self {
        let mut host = Host::new();
        let socket = host.folder().join("x.sock");
        let exits = Exits::listen(&socket);
        host.environment.push(("TTRPC_ADDRESS".into(), socket.display().to_string()));
        Self { name, subject, host, exits, options }
    }

    /// Ours first. One that cannot run a container here is left out, with its own words for it.
    pub fn all() -> Vec<Self> {
        let crun = subject::programs().join("crun");
        let options = RuncOptions { binary_name: crun.display().to_string(), ..Default::default() };
        let options = any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode"));
        let mut all = vec![Self::new("ours", Subject::Ours, None), Self::new("runc", Subject::Runc, None)];
        if !crun.exists() {
            eprintln!("crun: Debian's does not run on this machine's libraries");
            return all;
        }
        let crun = Self::new("crun", Subject::Runc, Some(options));
        let (mut task, _) = crun.task("try", &["true"], None);
        match task.attempt() {
            Ok(()) => {
                crun.exits.wait_for("try");
                task.delete("");
                all.push(crun);
            }
            Err(failure) => eprintln!("crun: {failure}"),
        }
        task.shutdown();
        all
    }

    /// A shim for a new container, and how long it took until it answered.
    pub fn task(&self, id: &str, arguments: &[&str], seccomp: Option<&Value>) -> (Task, Duration) {
        let mut bundle = Bundle::new(self.host.folder(), id, arguments);
        if let Some(profile) = seccomp {
            bundle.set("/linux/seccomp", profile.clone());
        }
        self.connect(bundle)
    }

    /// The same for a bundle that is there.
    pub fn connect(&self, bundle: Bundle) -> (Task, Duration) {
        Task::connect(&self.host, self.subject, bundle, self.options.clone())
    }
}

/// The floor's process; see `floor`.
pub struct Floor(RefCell<(Child, BufReader<ChildStdout>)>);

impl Floor {
    pub fn start() -> Self {
        Self::with(&["--floor"])
    }

    /// The one that is called like a shim, for one container; see `called`.
    pub fn called(id: &str, program: &str, profile: &str) -> Self {
        let floor = Self::with(&["--called", id, program, profile]);
        floor.hear();
        floor
    }

    fn with(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("find this program");
        let mut command = Command::new(program);
        let child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("start the floor");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self(RefCell::new((child, answers)))
    }

    /// One request, its milliseconds.
    pub fn ask(&self, request: &str) -> Vec<f64> {
        let line = format!("{request}\n");
        let said = self.0.borrow_mut().0.stdin.as_mut().expect("piped").write_all(line.as_bytes());
        said.expect("ask the floor");
        self.hear()
    }

    /// What it says next.
    pub fn hear(&self) -> Vec<f64> {
        let mut answer = String::new();
        self.0.borrow_mut().1.read_line(&mut answer).expect("the floor's answer");
        assert!(!answer.is_empty(), "the floor failed");
        answer.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }
}

impl Drop for Floor {
    /// The end of its input is the floor's end.
    fn drop(&mut self) {
        // Closes the pipe and waits; there is nothing to be told.
        let _ = self.0.get_mut().0.wait();
    }
}
