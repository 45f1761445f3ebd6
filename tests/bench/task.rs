//! One container and its shim, driven call by call: as little as possible between the clock and the socket.

use crate::support::bundle::Bundle;
use crate::support::shim::{Host, any, read_reply};
use crate::support::subject::Subject;
use crate::support::wire::{Client, Failure};
use crate::support::{SOON, leak};
use containerd_shim_protos::api;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub struct Task {
    pub bundle: Bundle,
    pub pid: i32,
    subject: Subject,
    address: PathBuf,
    service: String,
    client: Client,
    options: Option<Any>,
}

impl Task {
    /// `start`, the connection and a first answer over it; how long that took.
    pub fn connect(host: &Host, subject: Subject, bundle: Bundle, options: Option<Any>) -> (Self, Duration) {
        bundle.write();
        let mut command = start_command(host, subject, &bundle);
        let begin = Instant::now();
        let output = command.output().expect("start the shim");
        assert!(output.status.success() && output.stderr.is_empty(), "start failed: {output:?}");
        let (address, version) = read_reply(&String::from_utf8(output.stdout).expect("text"));
        let client = Client::connect(&address)
            .unwrap_or_else(|error| panic!("connect to {}: {error}", address.display()));
        let service = format!("containerd.task.v{version}.Task");
        let mut task = Self { bundle, pid: 0, subject, address, service, client, options };
        let request = api::ConnectRequest { id: task.id(), ..Default::default() };
        task.pid = task.call::<api::ConnectResponse>("Connect", &request).shim_pid as i32;
        (task, begin.elapsed())
    }

    fn call<A: Message>(&mut self, method: &str, request: &impl Message) -> A {
        let answer = self.client.call(&self.service, method, request);
        answer.unwrap_or_else(|failure| panic!("{method} of {}: {failure:?}", self.bundle.id))
    }

    fn id(&self) -> String {
        self.bundle.id.clone()
    }

    /// The same container over a connection of its own, for calls side by side.
    pub fn again(&self) -> Task {
        let bundle = Bundle {
            folder: self.bundle.folder.clone(),
            id: self.id(),
            config: self.bundle.config.clone(),
            mounts: Vec::new(),
        };
        let client = Client::connect(&self.address).expect("connect to the shim again");
        let (address, service, options) = (self.address.clone(), self.service.clone(), self.options.clone());
        Task { bundle, subject: self.subject, address, service, client, pid: self.pid, options }
    }

    fn create_request(&self, stdout: &str, stderr: &str) -> api::CreateTaskRequest {
        api::CreateTaskRequest {
            id: self.id(),
            bundle: self.bundle.folder.display().to_string(),
            rootfs: self.bundle.mounts.clone(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            options: self.options.clone().into(),
            ..Default::default()
        }
    }

    pub fn create(&mut self, stdout: &str, stderr: &str) {
        let request = self.create_request(stdout, stderr);
        self.call::<api::CreateTaskResponse>("Create", &request);
    }

    /// Create and Start, which may fail; a container created and not started is deleted.
    pub fn attempt(&mut self) -> Result<(), String> {
        let words = |failure: Failure| failure.message;
        let create = self.create_request("", "");
        self.client.call::<api::CreateTaskResponse>(&self.service, "Create", &create).map_err(words)?;
        let start = api::StartRequest { id: self.id(), ..Default::default() };
        let started = self.client.call::<api::StartResponse>(&self.service, "Start", &start).map_err(words);
        if started.is_err() {
            self.delete("");
        }
        started.map(drop)
    }

    pub fn start(&mut self, exec: &str) {
        let request = api::StartRequest { id: self.id(), exec_id: exec.into(), ..Default::default() };
        self.call::<api::StartResponse>("Start", &request);
    }

    pub fn state(&mut self) {
        self.call::<api::StateResponse>("State", &api::StateRequest { id: self.id(), ..Default::default() });
    }

    pub fn exec(&mut self, exec: &str, arguments: &[&str]) {
        self.add(&self.exec_request(exec, arguments));
    }

    pub fn exec_request(&self, exec: &str, arguments: &[&str]) -> api::ExecProcessRequest {
        let process = self.bundle.process(arguments).to_string().into_bytes();
        let spec = any("types.containerd.io/opencontainers/runtime-spec/1/Process", process);
        let (id, exec_id) = (self.id(), exec.into());
        api::ExecProcessRequest { id, exec_id, spec: Some(spec).into(), ..Default::default() }
    }

    pub fn add(&mut self, request: &api::ExecProcessRequest) {
        self.call::<api::Empty>("Exec", request);
    }

    /// Until a process has exited, well.
    pub fn wait(&mut self, exec: &str) {
        let request = api::WaitRequest { id: self.id(), exec_id: exec.into(), ..Default::default() };
        assert_eq!(self.call::<api::WaitResponse>("Wait", &request).exit_status, 0, "exit status of {exec}");
    }

    /// Of the container's own process, once it has ended.
    pub fn exit_status(&mut self) -> u32 {
        let request = api::WaitRequest { id: self.id(), ..Default::default() };
        self.call::<api::WaitResponse>("Wait", &request).exit_status
    }

    pub fn kill(&mut self) {
        let signal = libc::SIGKILL as u32;
        self.call::<api::Empty>("Kill", &api::KillRequest { id: self.id(), signal, ..Default::default() });
    }

    pub fn delete(&mut self, exec: &str) {
        let request = api::DeleteRequest { id: self.id(), exec_id: exec.into(), ..Default::default() };
        self.call::<api::DeleteResponse>("Delete", &request);
    }

    /// The call, and until the shim's process is gone.
    pub fn shutdown(mut self) {
        let request = api::ShutdownRequest { id: self.id(), ..Default::default() };
        self.client.send(&self.service, "Shutdown", &request).expect("send Shutdown");
        // An answer or none: the end of the connection is what counts. The process may outlive it by a moment.
        let _ = self.client.raw().read_to_end(&mut Vec::new());
        let deadline = Instant::now() + SOON;
        while leak::alive(self.pid) {
            assert!(Instant::now() < deadline, "the shim {} ignores Shutdown", self.pid);
            std::thread::sleep(Duration::from_micros(100));
        }
        match self.subject {
            Subject::Ours => assert!(!self.address.exists(), "{} is left", self.address.display()),
            // The Go shim of 2.1 leaves its own now and then. Where it has not, there is none to remove.
            _ => drop(std::fs::remove_file(&self.address)),
        }
    }
}

/// The tests' command line for `start` without the `timeout` in front, whose own start would count.
fn start_command(host: &Host, subject: Subject, bundle: &Bundle) -> Command {
    let guarded = host.command(bundle, "start");
    let flags = guarded.get_args().skip_while(|argument| *argument != "-namespace");
    let mut command = Command::new(subject.binary());
    command.args(flags).current_dir(&bundle.folder).stdin(Stdio::null());
    command.envs(guarded.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}
