//! A shim driven the way containerd drives it, without a containerd: `start`, ttrpc calls, `delete`.

use super::bundle::Bundle;
use super::events::EventServer;
use super::subject::{self, Subject};
use super::wire::{Client, Failure};
use containerd_shim_protos::api;
use myshim::shim::socket;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub type Call<T> = Result<T, Failure>;

/// Where shims of one test live: a folder, a containerd namespace, and somebody who takes the events.
pub struct Host {
    folder: TempDir,
    pub namespace: String,
    pub events: EventServer,
    pub environment: Vec<(String, String)>,
    /// Further flags of the command line.
    pub flags: Vec<String>,
    pub binary: PathBuf,
    /// A command that the shim is started through.
    pub prefix: Vec<String>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.events.end();
    }
}

impl Host {
    pub fn new() -> Self {
        Self::of(Subject::current())
    }

    /// For a comparison of both shims in one test.
    pub fn of(subject: Subject) -> Self {
        let folder = tempfile::Builder::new().prefix("mst-").tempdir().expect("make a folder");
        let events = EventServer::new(&folder.path().join("e.sock"));
        Self {
            folder,
            namespace: subject::unique("mst"),
            events,
            environment: Vec::new(),
            flags: Vec::new(),
            binary: subject.binary(),
            prefix: Vec::new(),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn bundle(&self, id: &str, script: &str) -> Bundle {
        Bundle::sh(self.folder(), id, script)
    }

    /// The shim's command line as containerd makes it.
    pub fn command(&self, bundle: &Bundle, action: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30"]).args(&self.prefix).arg(&self.binary);
        command.args(["-namespace", &self.namespace, "-id", &bundle.id, "-address"]).arg(self.grpc_address());
        command.arg("-publish-binary").arg(subject::programs().join("containerd"));
        if action == "delete" {
            command.arg("-bundle").arg(&bundle.folder);
        }
        command.args(&self.flags).arg(action).current_dir(&bundle.folder).env("PATH", subject::search_path());
        command.env("TTRPC_ADDRESS", self.events.socket()).env("GRPC_ADDRESS", self.grpc_address());
        command.env("NAMESPACE", &self.namespace).env("MAX_SHIM_VERSION", "2");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Where the shim of a bundle without a group listens, whether or not it has said so.
    pub fn socket(&self, bundle: &Bundle) -> PathBuf {
        let grpc = self.grpc_address().display().to_string();
        socket::path(Path::new(socket::DEFAULT_DIR), &grpc, &self.namespace, &bundle.id).expect("a path")
    }

    fn grpc_address(&self) -> PathBuf {
        self.folder().join("c.sock")
    }

    pub fn invoke(&self, bundle: &Bundle, action: &str, stdin: &[u8]) -> Output {
        let mut child = self
            .command(bundle, action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the shim");
        let _ = child.stdin.take().expect("piped").write_all(stdin);
        child.wait_with_output().expect("wait for the shim")
    }

    /// `start`, then a connection.
    #[track_caller]
    pub fn start(&self, bundle: Bundle) -> Shim<'_> {
        self.start_with(bundle, systemd_option())
    }

    #[track_caller]
    pub fn start_with(&self, bundle: Bundle, options: Option<Any>) -> Shim<'_> {
        bundle.write();
        let stdin = options.as_ref().map(|any| any.write_to_bytes().expect("encode")).unwrap_or_default();
        let output = self.invoke(&bundle, "start", &stdin);
        assert!(output.status.success() && output.stderr.is_empty(), "start failed: {output:?}");
        let reply = String::from_utf8(output.stdout).expect("text");
        let (address, version) = read_reply(&reply);
        Shim::connect(self, bundle, address, version, options)
    }

    /// `delete`, as containerd calls it for a shim that is gone.
    pub fn delete(&self, bundle: &Bundle) -> api::DeleteResponse {
        let output = self.invoke(bundle, "delete", b"");
        assert!(output.status.success(), "delete failed: {output:?}");
        api::DeleteResponse::parse_from_bytes(&output.stdout).expect("a DeleteResponse on stdout")
    }
}

/// runc takes systemd's driver only if it is told to; ours knows it by the form of the cgroups path.
fn systemd_option() -> Option<Any> {
    let told = subject::systemd_cgroups() && !subject::ours();
    let options = containerd_shim_protos::shim::oci::Options { systemd_cgroup: true, ..Default::default() };
    told.then(|| any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode")))
}

/// The socket's path and the version of the task service: a bare address means 2.
pub fn read_reply(reply: &str) -> (PathBuf, u64) {
    let (address, version) = match serde_json::from_str::<Value>(reply) {
        Ok(json) => (
            json["address"].as_str().expect("an address").to_owned(),
            json["version"].as_u64().expect("a version"),
        ),
        Err(_) => (reply.to_owned(), 2),
    };
    (address.strip_prefix("unix://").unwrap_or_else(|| panic!("no unix:// in {address:?}")).into(), version)
}

/// Stdio of a process: URIs, empty for none.
#[derive(Default, Clone)]
pub struct Stdio3 {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

pub struct Shim<'h> {
    pub host: &'h Host,
    pub bundle: Bundle,
    pub address: PathBuf,
    pub pid: i32,
    options: Option<Any>,
    service: String,
    client: std::cell::RefCell<Client>,
    gone: std::cell::Cell<bool>,
}

impl<'h> Shim<'h> {
    #[track_caller]
    pub fn connect(
        host: &'h Host,
        bundle: Bundle,
        address: PathBuf,
        version: u64,
        options: Option<Any>,
    ) -> Self {
        let client = Client::connect(&address)
            .unwrap_or_else(|error| panic!("connect to {}: {error}", address.display()));
        let service = format!("containerd.task.v{version}.Task");
        let client = std::cell::RefCell::new(client);
        let mut shim = Self { host, bundle, address, pid: 0, options, service, client, gone: false.into() };
        let request = api::ConnectRequest { id: shim.bundle.id.clone(), ..Default::default() };
        let answer: api::ConnectResponse = shim.call("Connect", &request).expect("Connect");
        shim.pid = answer.shim_pid as i32;
        assert!(shim.pid > 0);
        shim
    }

    /// A second connection, for calls beside one that waits.
    pub fn client(&self) -> Client {
        Client::connect(&self.address).expect("connect to the shim again")
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Call<A> {
        self.client.borrow_mut().call(&self.service, method, request)
    }

    fn done(&self, method: &str, request: &impl Message) -> Call<()> {
        self.call::<api::Empty>(method, request).map(drop)
    }

    pub fn id(&self) -> String {
        self.bundle.id.clone()
    }

    pub fn create_request(&self, stdio: &Stdio3) -> api::CreateTaskRequest {
        api::CreateTaskRequest {
            id: self.id(),
            bundle: self.bundle.folder.display().to_string(),
            rootfs: self.bundle.mounts.clone(),
            terminal: stdio.terminal,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            options: self.options.clone().into(),
            ..Default::default()
        }
    }

    pub fn create_with(&self, stdio: &Stdio3) -> Call<u32> {
        self.call::<api::CreateTaskResponse>("Create", &self.create_request(stdio)).map(|answer| answer.pid)
    }

    pub fn create(&self) -> Call<u32> {
        self.create_with(&Stdio3::default())
    }

    pub fn start(&self, exec: &str) -> Call<u32> {
        let request = api::StartRequest { id: self.id(), exec_id: exec.into(), ..Default::default() };
        self.call::<api::StartResponse>("Start", &request).map(|answer| answer.pid)
    }

    /// Create and Start; the pid.
    #[track_caller]
    pub fn run(&self) -> u32 {
        self.run_with(&Stdio3::default())
    }

    #[track_caller]
    pub fn run_with(&self, stdio: &Stdio3) -> u32 {
        let pid = self.create_with(stdio).expect("Create");
        assert_eq!(self.start("").expect("Start"), pid, "pid of Create and of Start");
        pid
    }

    pub fn state(&self, exec: &str) -> Call<api::StateResponse> {
        self.call("State", &api::StateRequest { id: self.id(), exec_id: exec.into(), ..Default::default() })
    }

    pub fn status(&self, exec: &str) -> api::Status {
        self.state(exec).expect("State").status.enum_value().expect("a known status")
    }

    pub fn kill(&self, exec: &str, signal: i32) -> Call<()> {
        let request = api::KillRequest {
            id: self.id(),
            exec_id: exec.into(),
            signal: signal as u32,
            ..Default::default()
        };
        self.done("Kill", &request)
    }

    pub fn kill_all(&self, signal: i32) -> Call<()> {
        let request =
            api::KillRequest { id: self.id(), signal: signal as u32, all: true, ..Default::default() };
        self.done("Kill", &request)
    }

    /// The exit status.
    pub fn wait(&self, exec: &str) -> Call<u32> {
        let request = api::WaitRequest { id: self.id(), exec_id: exec.into(), ..Default::default() };
        self.call::<api::WaitResponse>("Wait", &request).map(|answer| answer.exit_status)
    }

    pub fn delete(&self, exec: &str) -> Call<api::DeleteResponse> {
        self.call("Delete", &api::DeleteRequest { id: self.id(), exec_id: exec.into(), ..Default::default() })
    }

    pub fn pids(&self) -> Call<Vec<api::ProcessInfo>> {
        self.call::<api::PidsResponse>("Pids", &api::PidsRequest { id: self.id(), ..Default::default() })
            .map(|answer| answer.processes)
    }

    pub fn stats(&self) -> Call<Any> {
        let request = api::StatsRequest { id: self.id(), ..Default::default() };
        self.call::<api::StatsResponse>("Stats", &request).map(|answer| answer.stats.unwrap_or_default())
    }

    pub fn pause(&self) -> Call<()> {
        self.done("Pause", &api::PauseRequest { id: self.id(), ..Default::default() })
    }

    pub fn resume(&self) -> Call<()> {
        self.done("Resume", &api::ResumeRequest { id: self.id(), ..Default::default() })
    }

    pub fn exec_process(&self, exec: &str, process: &Value, stdio: &Stdio3) -> Call<()> {
        let spec = any(
            "types.containerd.io/opencontainers/runtime-spec/1/Process",
            process.to_string().into_bytes(),
        );
        let request = api::ExecProcessRequest {
            id: self.id(),
            exec_id: exec.into(),
            terminal: stdio.terminal,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.done("Exec", &request)
    }

    pub fn exec(&self, exec: &str, script: &str) -> Call<()> {
        self.exec_process(exec, &self.bundle.process(&["sh", "-c", script]), &Stdio3::default())
    }

    pub fn resize(&self, exec: &str, width: u32, height: u32) -> Call<()> {
        let request = api::ResizePtyRequest {
            id: self.id(),
            exec_id: exec.into(),
            width,
            height,
            ..Default::default()
        };
        self.done("ResizePty", &request)
    }

    pub fn close_stdin(&self, exec: &str) -> Call<()> {
        let request =
            api::CloseIORequest { id: self.id(), exec_id: exec.into(), stdin: true, ..Default::default() };
        self.done("CloseIO", &request)
    }

    pub fn update_request(&self, resources: &Value) -> api::UpdateTaskRequest {
        let resources = any(
            "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
            resources.to_string().into_bytes(),
        );
        api::UpdateTaskRequest { id: self.id(), resources: Some(resources).into(), ..Default::default() }
    }

    pub fn update(&self, resources: &Value) -> Call<()> {
        self.done("Update", &self.update_request(resources))
    }

    /// Ends as containerd does after the last Delete. The shim may be gone before it can answer.
    pub fn shutdown(&self) {
        let request = api::ShutdownRequest { id: self.id(), ..Default::default() };
        let _ = self.client.borrow_mut().send(&self.service, "Shutdown", &request);
    }

    #[track_caller]
    pub fn wait_until_gone(&self) {
        super::eventually("the shim ends", super::SOON, || (!super::leak::alive(self.pid)).then_some(()));
        self.gone.set(true);
    }

    /// SIGKILL to the shim itself.
    pub fn crash(&self) {
        signal(self.pid, libc::SIGKILL);
        self.wait_until_gone();
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let cgroup = self.bundle.cgroup();
        assert_eq!(super::leak::cgroups(cgroup), Vec::<PathBuf>::new(), "cgroups left");
        assert_eq!(super::leak::mounts_below(&self.bundle.folder), Vec::<String>::new(), "mounts left");
    }
}

impl Drop for Shim<'_> {
    /// Whatever the test left behind goes away. A test that failed does not ask the shim, which may be what is broken.
    fn drop(&mut self) {
        if !self.gone.get() && !std::thread::panicking() {
            if self.kill("", libc::SIGKILL).is_ok() {
                let _ = self.wait("");
            }
            let _ = self.delete("");
            self.shutdown();
            let limit = std::time::Instant::now() + super::SOON;
            while super::leak::alive(self.pid) && std::time::Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if !self.gone.get() && self.pid > 0 && super::leak::alive(self.pid) {
            signal(self.pid, libc::SIGKILL);
        }
        let _ = self.host.invoke(&self.bundle, "delete", b"");
    }
}

pub fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.into(), value, ..Any::default() }
}

pub fn signal(pid: i32, signal: i32) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).stderr(Stdio::null()).status();
}
