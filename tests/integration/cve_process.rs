//! What was exploited before in processes on their way into a container: one test for each CVE, named after it. Each says
//! how to see it fail; `api_*.rs` has the same rules where they are ordinary behaviour.

use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::hung::{self, Hung};
use crate::support::older_kernel::while_opened;
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::subject;
use crate::support::wire::Client;
use crate::support::{SOON, eventually};
use crate::{needs, needs_containers};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

/// Waits for the file /go, and looks at every child of the process that is named there, but for init: with 0, a process from
/// outside the pid namespace, a shim's child on its way in. Prints what it gets to see of one, and what comes of a change of
/// its program's mode, which it has already: to open a program that runs for writing fails in any case (ETXTBSY).
const LOOK: &str = r#"
while [ ! -s /go ]; do sleep 0.05; done
read -r shim </go
for p in /proc/[0-9]*; do
    [ "$p" != /proc/1 ] || continue
    parent=$(sed 's/.*) . //; s/ .*//' $p/stat 2>/dev/null)
    [ "$parent" = "$shim" ] || continue
    echo "process $(cat $p/comm 2>/dev/null)"
    echo "root $(ls $p/root/marker 2>&1)"
    echo "cwd $(readlink $p/cwd)"
    # The numbers may be listed by whoever may pass over permissions (CAP_DAC_OVERRIDE); what they are is the question.
    ls -l $p/fd 2>/dev/null | sed -n 's/.* -> /fd /p' | grep -v -e '/null$' -e /dev/pts/
    echo "environment $(tr '\0' '\n' <$p/environ 2>/dev/null | grep -c .)"
    echo "program $(chmod a+x $p/exe 2>&1 && echo changed)"
done
echo done
exec sleep 1000
"#;

fn in_the_hosts_pid_namespace(bundle: &mut Bundle) {
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
}

/// A container whose root has the file /marker, so that another root than its own is told from it.
fn marked(host: &Host, id: &str, script: &str) -> Bundle {
    let bundle = host.bundle(id, script);
    fs::write(host.folder().join(format!("upper-{id}")).join("marker"), "").expect("write a marker");
    bundle
}

/// Looks around in the pid namespace of its own container, and of another's that has joined it.
struct Onlooker<'h> {
    out: Sink,
    go: PathBuf,
    pid: u32,
    _shim: Shim<'h>,
}

impl<'h> Onlooker<'h> {
    fn new(host: &'h Host, trace: bool) -> Self {
        Self::with(host, |bundle| {
            if trace {
                bundle.may_trace();
            }
        })
    }

    fn with(host: &'h Host, change: impl FnOnce(&mut Bundle)) -> Self {
        let out = Sink::new(host.folder().join("out"));
        let mut bundle = marked(host, "a", LOOK);
        change(&mut bundle);
        let shim = host.start(bundle);
        let pid = shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
        Self { out, go: host.folder().join("a/rootfs/go"), pid, _shim: shim }
    }

    /// A container that joins the pid namespace.
    fn neighbour(&self, host: &Host) -> Bundle {
        let mut bundle = marked(host, "b", "sleep 1000");
        bundle.set("/linux/namespaces/0/path", json!(format!("/proc/{}/ns/pid", self.pid)));
        bundle
    }

    /// At the children of `shim`, which is 0 where it is outside the pid namespace.
    fn look(&self, shim: i32) -> String {
        fs::write(&self.go, format!("{shim}\n")).expect("write into the container");
        self.out.wait_for("done");
        let text = self.out.so_far();
        assert!(text.contains("process "), "the other container was not seen at all: {text}");
        text
    }
}

/// What init of one container sees of another container's init that waits for Start in the same pid namespace, and what
/// that one's shim has open.
fn seen_at_the_gate(trace: bool) -> (String, Vec<String>) {
    let host = Host::new();
    let onlooker = Onlooker::new(&host, trace);
    let neighbour = host.start(onlooker.neighbour(&host));
    neighbour.create().expect("Create");
    (onlooker.look(0), open_in(neighbour.pid))
}

/// What a process has open, by kind and inode where it has no path.
fn open_in(pid: i32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn assert_shows_nothing(text: &str) {
    assert!(text.contains("cwd \n") && text.contains("environment 0\n"), "{text}");
    assert!(!text.contains("fd "), "{text}");
    let denied = |what: &str| {
        let line = text.lines().find(|line| line.starts_with(what));
        line.is_some_and(|line| line.ends_with("Permission denied"))
    };
    assert!(denied("root ") && denied("program "), "{text}");
}

/// But for its stdio it has one end of the report socket, whose other end is the shim's, and nothing that the shim has as well.
fn assert_is_the_containers(text: &str, shims: &[String]) {
    let own_root = text.contains("root /proc/") && text.contains("/root/marker\n");
    assert!(own_root, "its root is not its own: {text}");
    assert!(text.contains("cwd /\n") && text.contains("environment 0\n"), "{text}");
    let fds: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
    let own = |fd: &&str| fd.starts_with("socket:") && !shims.iter().any(|theirs| theirs == fd);
    assert!(fds.len() == 1 && fds.iter().all(own), "{text}\nthe shim has {shims:?}");
    let programs: Vec<_> = text.lines().filter(|line| line.starts_with("program ")).collect();
    assert!(programs.iter().all(|line| line.ends_with("Read-only file system")), "{text}");
}

/// CVE-2016-9962: a process entering a container was traced, or its descriptors read, before its set-up had ended.
/// Rule: not dumpable until execve. To see it fail: drop `set_dumpable(false)` in `shim/serve.rs` and in `user` of
/// `engine/child/identity.rs`.
#[test]
fn cve_2016_9962_a_process_at_the_gate_shows_nothing_to_others_of_the_same_user() {
    needs_containers!();
    assert_shows_nothing(&seen_at_the_gate(false).0);
}

/// The same while it waits for its hooks, before pivot_root. It still holds more capabilities than who looks, which keeps
/// him out as well. To see it fail: give the onlooker CAP_SYS_PTRACE (README, Limits).
#[test]
fn cve_2016_9962_a_process_that_waits_for_its_hooks_shows_nothing() {
    needs_containers!();
    let host = Host::new();
    let onlooker = Onlooker::new(&host, false);
    let (reached, seen) = (host.folder().join("reached"), host.folder().join("seen"));
    let mut bundle = onlooker.neighbour(&host);
    let waits =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done", reached.display(), seen.display());
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", waits]}]));
    let neighbour = host.start(bundle);
    let mut client = neighbour.client();
    let request = neighbour.create_request(&Stdio3::default());
    client.send(neighbour.service(), "Create", &request).expect("send Create");
    eventually("the hook", SOON, || reached.exists().then_some(()));
    assert_shows_nothing(&onlooker.look(0));
    fs::write(seen, "").expect("tell the hook");
    client.receive::<containerd_shim_protos::api::CreateTaskResponse>("Create").expect("Create");
}

/// The same while it waits for its id maps, the first thing that it waits for at all: only the host's pid namespace has it
/// yet. To see it fail: drop `set_dumpable(false)` in `shim/serve.rs`.
#[test]
fn cve_2016_9962_a_process_that_waits_for_its_id_maps_shows_nothing() {
    needs_containers!();
    needs!(subject::ours(), "runc writes the maps of another process");
    let host = Host::new();
    let onlooker = Onlooker::with(&host, in_the_hosts_pid_namespace);
    let mut bundle = host.bundle("b", "sleep 1000");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    let ((reached, at_gate), (go_on, told)) = (channel(), channel::<()>());
    let wait = move || {
        let _ = reached.send(());
        let _ = told.recv();
    };
    let (started, shim) = channel();
    std::thread::scope(|scope| {
        let create = || {
            let neighbour = host.start(bundle);
            started.send(neighbour.pid).expect("tell the pid");
            neighbour.create().map(drop)
        };
        let created = scope.spawn(|| while_opened("/gid_map", wait, create));
        let shim = shim.recv_timeout(SOON).expect("a shim");
        at_gate.recv_timeout(SOON).expect("gid_map is opened");
        let text = onlooker.look(shim);
        drop(go_on);
        created.join().expect("the thread").expect("Create");
        assert_shows_nothing(&text);
    });
}

/// The same for who may trace everybody in its pid namespace: there is nothing of the shim's to be seen.
/// To see it fail: in `engine/child/mod.rs` let `close_descriptors` do nothing, or in `shim/serve.rs` drop
/// `erase_environment`.
#[test]
fn cve_2016_9962_a_process_at_the_gate_has_nothing_of_the_shims_even_for_a_tracer() {
    needs_containers!();
    needs!(subject::ours(), "runc's own init waits with its own descriptors");
    let (text, shims) = seen_at_the_gate(true);
    assert_is_the_containers(&text, &shims);
}

/// The same once it has loaded a filter whose agent is to answer for its execve. To see it fail: as above, the first.
#[test]
fn cve_2016_9962_a_process_that_waits_for_its_seccomp_agent_has_nothing_of_the_shims_even_for_a_tracer() {
    needs_containers!();
    needs!(subject::ours(), "runc's own init waits with its own descriptors");
    let host = Host::new();
    let onlooker = Onlooker::new(&host, true);
    let agent = host.folder().join("agent.sock");
    let listener = UnixListener::bind(&agent).expect("bind the agent's socket");
    let mut bundle = onlooker.neighbour(&host);
    let notified = json!([{"names": ["execve"], "action": "SCMP_ACT_NOTIFY"}]);
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent, "syscalls": notified}),
    );
    let neighbour = host.start(bundle);
    neighbour.create().expect("Create");
    let mut client = neighbour.client();
    let request = containerd_shim_protos::api::StartRequest { id: neighbour.id(), ..Default::default() };
    client.send(neighbour.service(), "Start", &request).expect("send Start");
    let (agent, _) = listener.accept().expect("the listener of the filter");
    let text = onlooker.look(0);
    let text = text.replace("fd anon_inode:seccomp notify\n", "");
    assert_is_the_containers(&text, &open_in(neighbour.pid));
    neighbour.kill("", libc::SIGKILL).expect("Kill");
    // That it was killed in its start, or as soon as it had started: either may be said.
    let _ = client.receive::<containerd_shim_protos::api::StartResponse>("Start");
    assert_eq!(neighbour.wait("").expect("Wait"), 137);
    drop(agent);
}

/// Starts an exec whose working directory, or program, does not answer.
fn exec_that_hangs(shim: &Shim<'_>, hung: &mut Hung, hangs: u32, terminal: bool) -> Client {
    let mut process = match hangs {
        hung::LOOKUP => {
            let mut process = shim.bundle.process(&["true"]);
            process["cwd"] = json!("/hung/x");
            process
        }
        _ => shim.bundle.process(&["/hung/x"]),
    };
    process["terminal"] = json!(terminal);
    shim.exec_process("e", &process, &Stdio3 { terminal, ..Default::default() }).expect("Exec");
    let mut client = shim.client();
    let request = containerd_shim_protos::api::StartRequest {
        id: shim.id(),
        exec_id: "e".into(),
        ..Default::default()
    };
    client.send(shim.service(), "Start", &request).expect("send Start");
    hung.wait_until_asked();
    client
}

/// Execs into a container, where the working directory or the program does not answer; what is seen meanwhile, and what the
/// shim has open.
fn seen_while_an_exec_is_set_up(
    id: &str,
    hangs: u32,
    trace: bool,
    terminal: bool,
) -> Option<(String, Vec<String>)> {
    let host = Host::new();
    let mut hung = Hung::on(&host.folder().join("hung"), hangs)?;
    let out = Sink::new(host.folder().join("out"));
    let mut bundle = marked(&host, id, LOOK);
    hung.bind(&mut bundle, "/hung");
    if trace {
        bundle.may_trace();
    }
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    let mut client = exec_that_hangs(&shim, &mut hung, hangs, terminal);
    fs::write(host.folder().join(id).join("rootfs/go"), "0\n").expect("write into the container");
    out.wait_for("done");
    let shims = open_in(shim.pid);
    hung.let_go();
    client
        .receive::<containerd_shim_protos::api::StartResponse>("Start")
        .expect_err("its file system is gone");
    Some((out.so_far(), shims))
}

/// CVE-2019-5736 and CVE-2016-9962 for an exec'd process: while it is set up, who may trace in its pid namespace does not
/// see it at all; when it is there, its root, directory and descriptors are the container's. To see it fail: in
/// `engine/exec.rs` say `late_birth: false`.
#[test]
fn cve_2019_5736_an_execd_process_comes_to_its_tracers_only_when_it_is_set_up() {
    needs_containers!();
    needs!(subject::ours(), "runc's own init is in the pid namespace while it sets itself up");
    for terminal in [false, true] {
        let Some((text, _)) = seen_while_an_exec_is_set_up("a", hung::LOOKUP, true, terminal) else {
            needs!(false, "this machine has no FUSE");
            return;
        };
        assert!(!text.contains("process "), "{text}");
        let (text, shims) = seen_while_an_exec_is_set_up("b", hung::OPEN, true, terminal).expect("FUSE");
        assert!(text.contains("process "), "{text}");
        assert_is_the_containers(&text, &shims);
    }
}

/// The same where the tracer is another container of the pod, which has joined the pid namespace (`kubectl debug --target`).
/// To see it fail: in `shim/create.rs` drop `expect_tracers`.
#[test]
fn cve_2019_5736_an_execd_process_is_kept_from_tracers_of_another_container_of_the_pod() {
    needs_containers!();
    needs!(subject::ours(), "runc's own init is in the pid namespace while it sets itself up");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::LOOKUP) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let out = Sink::new(host.folder().join("out"));
    let mut target = host.bundle("a", "sleep 1000");
    target.push(
        "/mounts",
        json!({"destination": "/hung", "type": "bind", "source": hung.folder, "options": ["bind"]}),
    );
    let mut shim = host.start(target);
    let pid = shim.run();
    let mut tracer = host.bundle("b", LOOK);
    tracer.set("/linux/namespaces/0/path", json!(format!("/proc/{pid}/ns/pid")));
    tracer.may_trace();
    tracer.write();
    let target = std::mem::replace(&mut shim.bundle, tracer);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    let tracer = std::mem::replace(&mut shim.bundle, target);
    let mut client = exec_that_hangs(&shim, &mut hung, hung::LOOKUP, false);
    fs::write(tracer.folder.join("rootfs/go"), "0\n").expect("write into the container");
    out.wait_for("done");
    // Itself, and nobody else who came from outside.
    assert_eq!(out.so_far().matches("process ").count(), 1, "{}", out.so_far());
    hung.let_go();
    client
        .receive::<containerd_shim_protos::api::StartResponse>("Start")
        .expect_err("its file system is gone");
    let target = std::mem::replace(&mut shim.bundle, tracer);
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.bundle = target;
}

/// The same without CAP_SYS_PTRACE: it is seen and cannot be looked into. To see it fail: as above.
#[test]
fn cve_2016_9962_an_execd_process_that_is_set_up_shows_nothing() {
    needs_containers!();
    needs!(subject::ours(), "runc's own init chooses its directory elsewhere");
    let Some((text, _)) = seen_while_an_exec_is_set_up("a", hung::LOOKUP, false, false) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    assert!(text.contains("process ") && !text.contains("fd ") && text.contains("cwd \n"), "{text}");
    let program = text.lines().find(|line| line.starts_with("program ")).unwrap_or_default();
    assert!(text.contains("environment 0\n") && program.ends_with("Permission denied"), "{text}");
}

/// A container in the host's pid namespace, without CAP_SYS_PTRACE, sees the shim's pid and no more. The shim holds more
/// capabilities than it does, which keeps it out as well. To see it fail: give the container CAP_SYS_PTRACE.
#[test]
fn cve_2016_9962_the_shim_shows_nothing_to_a_container_in_the_hosts_pid_namespace() {
    needs_containers!();
    let host = Host::new();
    let out = Sink::new(host.folder().join("out"));
    let look = "read p; cat /proc/$p/comm; for link in /proc/$p/fd/* /proc/$p/cwd /proc/$p/root /proc/$p/exe; do readlink $link; done; cat /proc/$p/environ; echo done";
    let mut bundle = host.bundle("a", &format!("exec 2>/dev/null; {look}"));
    in_the_hosts_pid_namespace(&mut bundle);
    let shim = host.start(bundle);
    let mut stdin = crate::support::fifo::Source::new(host.folder().join("in"));
    shim.run_with(&Stdio3 { stdin: stdin.uri(), stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    stdin.write(&format!("{}\n", shim.pid));
    out.wait_for("done");
    assert_eq!(out.so_far(), "containerd-shim\ndone\n");
}

/// Descriptors of a process that its programs would get, beside /dev/null as 0, 1 and 2.
fn inheritable(pid: i32) -> Vec<String> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let inheritable = numbers.filter_map(|number| {
        // Closed since it was listed: none.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?.display().to_string();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        let kept = flags & O_CLOEXEC != 0 || number < 3 && link == "/dev/null";
        (!kept).then(|| format!("{number} -> {link}"))
    });
    inheritable.collect()
}

/// CVE-2016-9962, CVE-2024-21626: what the shim opens is close-on-exec from that moment on, whatever it is for. To see it
/// fail: in `sys/pipe.rs`, `pipe`, drop `O_CLOEXEC`.
#[test]
fn cve_2024_21626_every_descriptor_of_the_shim_is_close_on_exec_at_every_moment() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim itself runs nothing but runc, which closes what it was given");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exec sleep 1000");
    bundle.set("/process/terminal", json!(true));
    bundle.set("/hooks/poststart", json!([{"path": "/bin/true"}]));
    let shim = host.start(bundle);
    assert_eq!(inheritable(shim.pid), [""; 0], "at rest");
    let (pid, done) = (shim.pid, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(inheritable(pid), [""; 0]);
                looks += 1;
            }
            looks
        });
        let out = Sink::new(host.folder().join("out"));
        shim.run_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() });
        for number in 0..10 {
            let (exec, terminal) = (format!("e{number}"), number % 2 == 0);
            let mut process = shim.bundle.process(&["sleep", "1000"]);
            process["terminal"] = json!(terminal);
            let out = Sink::new(host.folder().join(&exec));
            let stdio = Stdio3 { terminal, stdout: out.uri(), ..Default::default() };
            shim.exec_process(&exec, &process, &stdio).expect("Exec");
            shim.start(&exec).expect("Start");
            shim.stats().expect("Stats");
        }
        assert_eq!(inheritable(pid), [""; 0], "with container and execs");
        done.store(true, Ordering::Relaxed);
        assert!(looks.join().expect("a look") > 10);
    });
}

fn capabilities(shim: &Shim<'_>, exec: &str, process: &Value) -> String {
    let out = Sink::new(shim.host.folder().join(format!("out-{exec}")));
    shim.exec_process(exec, process, &Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() })
        .expect("Exec");
    shim.start(exec).expect("Start");
    shim.wait(exec).expect("Wait");
    shim.delete(exec).expect("Delete");
    out.finish()
}

/// CVE-2022-29162 (exec) and CVE-2022-27650 (crun): inheritable capabilities that nobody asked for came back when a program
/// with file capabilities was executed. Rule: the inheritable set is the spec's. To see it fail: in
/// `engine/child/identity.rs`, `capabilities`, set `inheritable` to `permitted`.
#[test]
fn cve_2022_29162_no_capability_is_inheritable_unless_the_spec_says_so() {
    needs_containers!();
    let host = Host::new();
    let out = Sink::new(host.folder().join("out"));
    let shim = host.start(host.bundle("a", "grep CapInh /proc/self/status; sleep 1000"));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    out.wait_for("CapInh:\t0000000000000000\n");
    let look = ["grep", "CapInh", "/proc/self/status"];
    let mut process = shim.bundle.process(&look);
    assert_eq!(capabilities(&shim, "same", &process), "CapInh:\t0000000000000000\n");
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN"]);
    }
    assert_eq!(capabilities(&shim, "more", &process), "CapInh:\t0000000000000000\n");
}

/// CVE-2024-21626: the working directory was reached through a descriptor that the runtime had left open. Rule: after
/// chdir the kernel's own getcwd must lie in the root. To see it fail: in `engine/child/identity.rs` let `cwd` accept
/// whatever getcwd says.
#[test]
fn cve_2024_21626_no_working_directory_outside_the_root() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for number in 3..24 {
        let exec = format!("e{number}");
        let mut process = shim.bundle.process(&["ls", "-l", ".."]);
        process["cwd"] = json!(format!("/proc/self/fd/{number}"));
        shim.exec_process(&exec, &process, &Stdio3::default()).expect("Exec");
        let failure = shim.start(&exec).expect_err("there is no such directory");
        assert!(failure.message.contains("cwd") || failure.message.contains("chdir"), "{failure:?}");
    }
    let mut bundle = host.bundle("b", "ls -l ..");
    bundle.set("/process/cwd", json!("/proc/self/fd/7"));
    let second = host.start(bundle);
    second.create().expect_err("there is no such directory");
    second.assert_nothing_left();
}

/// "Hooks … run with a clean environment and only stdio": what a hook of the host gets to see of the shim.
/// To see it fail: in `engine/hooks.rs` add a variable to `envp`.
#[test]
fn hooks_have_their_own_environment_and_stdio_only() {
    needs_containers!();
    let host = Host::new();
    let (log, mut bundle) = (host.folder().join("hook"), host.bundle("a", "true"));
    let script = format!("(echo environment; env; echo fds; ls /proc/self/fd) >{}", log.display());
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "A=b"]}]),
    );
    let shim = host.start(bundle);
    shim.run();
    let text = fs::read_to_string(&log).expect("the hook's log");
    let (environment, fds) = text.split_once("fds\n").expect("both");
    let known = ["environment", "PATH=/bin:/usr/bin", "A=b"];
    let strange: Vec<_> = environment
        .lines()
        .filter(|line| {
            !known.contains(line)
                && !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| line.starts_with(own))
        })
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    // 3 is ls reading the directory.
    assert_eq!(fds, "0\n1\n2\n3\n");
}

/// Only root, and whoever the shim runs as, is served, even where the socket's mode lets others connect.
/// To see it fail: in `shim/peers.rs` let `admits` say yes to everybody; or, for the mode, in `shim/socket.rs` bind it with
/// 0o644.
#[test]
fn another_users_connection_is_turned_away() {
    needs_containers!();
    needs!(subject::ours(), "containerd-shim-runc-v2 relies on the socket's mode");
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let mode = fs::metadata(&shim.address).expect("stat").mode();
    assert_eq!(mode & 0o777, 0o600);
    let (address, service, id) = (shim.address.clone(), shim.service().to_owned(), shim.id());
    let ask = move || {
        let mut client = crate::support::wire::Client::connect(&address).map_err(|e| e.kind())?;
        let request = containerd_shim_protos::api::StateRequest { id, ..Default::default() };
        client.send(&service, "State", &request).map_err(|e| e.kind())?;
        crate::support::wire::read_frame(client.raw()).map(drop).map_err(|e| e.kind())
    };
    let (as_root, as_stranger) = (ask.clone(), ask.clone());
    assert_eq!(as_root(), Ok(()));
    let other = |ask: Box<dyn FnOnce() -> Result<(), std::io::ErrorKind> + Send>| {
        // The raw call changes this thread's user only.
        let thread = std::thread::spawn(move || {
            myshim::sys::cred::setresuid(65_534).expect("setresuid");
            ask()
        });
        thread.join().expect("the thread")
    };
    assert_eq!(other(Box::new(ask)), Err(std::io::ErrorKind::PermissionDenied), "the socket's mode");
    fs::set_permissions(&shim.address, fs::Permissions::from_mode(0o666)).expect("chmod");
    assert!(other(Box::new(as_stranger)).is_err(), "a stranger was answered");
    shim.state("").expect("root is served still");
}

/// Files that the shim makes in the bundle are root's alone. To see it fail: in `engine/state.rs`, `save`, or in
/// `shim/start.rs`, `write_address`, say mode 0o644.
#[test]
fn files_of_the_shim_in_the_bundle_are_for_root_only() {
    needs_containers!();
    needs!(subject::ours(), "which files there are is the shim's own affair");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let before = ["config.json", "log", "rootfs"];
    shim.run();
    let mut seen = 0;
    for entry in fs::read_dir(&shim.bundle.folder).expect("list the bundle") {
        let entry = entry.expect("an entry");
        if !before.iter().any(|name| entry.file_name() == *name) {
            let mode = entry.metadata().expect("stat").mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
            seen += 1;
        }
    }
    assert!(seen >= 2, "address and state");
}
