//! Rootless: the shim as root of a user namespace that an ordinary user made, as under RootlessKit. Each test prepares what
//! a login session would, and runs its inner half in the namespace.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::relay::Relay;
use crate::support::run::{exec_output, output};
use crate::support::shim::Host;
use crate::support::{SOON, eventually, leak, subject};
use serde_json::json;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// www-data: a user that every Debian has and nobody logs in as.
const USER: u32 = 33;
const DELEGATED: &str = "MYSHIM_TEST_DELEGATED";

fn as_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let user = USER.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]);
    command
}

/// May the user run what the tests run? A checkout below a closed home folder is closed to it.
fn is_open_to_user() -> bool {
    let files = [subject::image_root().join("bin/busybox"), subject::Subject::Ours.binary()];
    files.iter().all(|file| as_user("test").arg("-x").arg(file).status().is_ok_and(|status| status.success()))
}

macro_rules! needs_rootless {
    () => {
        needs_containers!();
        needs!(
            subject::ours(),
            "containerd-shim-runc-v2 needs runc's state folder, which RootlessKit would provide"
        );
        needs!(is_open_to_user(), "an ordinary user cannot reach the programs under test");
    };
}

/// The namespaces of a session, held by a process that sleeps.
struct Session {
    holder: Child,
    folder: PathBuf,
}

impl Session {
    fn new() -> Self {
        let folder = Path::new("/run").join(subject::unique("mst-rootless"));
        fs::create_dir_all("/run/containerd").expect("make /run/containerd");
        fs::create_dir(&folder).expect("make a folder");
        chown(&folder, Some(USER), Some(USER)).expect("chown");
        let holder = as_user("unshare")
            .args(["--user", "--mount", "sleep", "1000"])
            .stdout(Stdio::null())
            .spawn()
            .expect("run setpriv");
        let file = |name: &str| format!("/proc/{}/{name}", holder.id());
        eventually("the session has its namespaces", SOON, || {
            fs::read_to_string(file("comm")).is_ok_and(|name| name == "sleep\n").then_some(())
        });
        // As newuidmap(1) does: the user itself is root, and subordinate ids are the others.
        for name in ["uid_map", "gid_map"] {
            fs::write(file(name), format!("0 {USER} 1\n1 100000 65535\n")).expect(name);
        }
        Self { holder, folder }
    }

    /// Runs an inner half, in `cgroup` if one is given; it must pass.
    #[track_caller]
    fn run(&self, inner: &str, cgroup: Option<&Path>, environment: &[(&str, &str)]) {
        const ENTER: &str = r#"[ -z "$0" ] || echo $$ >"$0/cgroup.procs"; exec "$@""#;
        const PREPARE: &str = r#"mount -t tmpfs -o mode=755 tmpfs /run/containerd && exec "$@""#;
        let holder = self.holder.id().to_string();
        let output = Command::new("sh")
            .args(["-c", ENTER])
            .arg(cgroup.unwrap_or(Path::new("")))
            .args([
                "nsenter", "--target", &holder, "--user", "--mount", "--setuid", "0", "--setgid", "0",
                "--wd=/",
            ])
            .args(["sh", "-c", PREPARE, "sh"])
            .arg(std::env::current_exe().expect("own program"))
            .args(["--exact", &format!("api_rootless::{inner}"), "--ignored", "--nocapture"])
            .env("TMPDIR", &self.folder)
            .envs(environment.iter().copied())
            .output()
            .expect("run sh");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Gives a cgroup to the user, as cgroups(7) says under "Cgroup delegation".
fn delegate(cgroup: &Path) {
    fs::create_dir_all(cgroup).expect("make a cgroup");
    for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(cgroup.join(name), Some(USER), Some(USER)).expect("chown");
    }
}

/// COMPAT: runc, "no limits + no cgrouppath + no permission succeeds".
#[test]
fn container_without_limits_runs_without_a_cgroup_where_none_is_to_be_had() {
    needs_rootless!();
    Session::new().run("inside_without_cgroup", None, &[]);
}

fn nowhere(bundle: &mut Bundle) {
    bundle.set("/linux/cgroupsPath", json!(""));
}

#[test]
#[ignore = "#3: the inner half of a test, which runs it as root of a user namespace"]
fn inside_without_cgroup() {
    let script =
        "id -u; echo x >/dev/null && ls -l /dev/null | cut -c1-10; cut -d: -f1 /proc/self/uid_map | wc -l";
    let text = output(script, |bundle, _| {
        nowhere(bundle);
        bundle.set("/process/oomScoreAdj", json!(-500));
    });
    assert_eq!(text, "0\ncrw-rw-rw-\n2\n");
    let host = Host::new();
    let mut bundle = host.bundle("b", "sleep 1000");
    nowhere(&mut bundle);
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(exec_output(&shim, "echo again; exit 0", |_| ()), "again\n");
    assert_eq!(shim.pids().expect("Pids").len(), 1);
    shim.kill_all(libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
}

/// nerdctl's way again, where the network is the host's ("detach-netns"): a thread that went into a container's namespaces could
/// not come back, for the host's belong to somebody else (setns(2)). To see it fail: in `sys/ns.rs`, `Visit::begin`, leave
/// without looking for the way home.
#[test]
fn hooks_are_in_the_hosts_namespaces() {
    needs_rootless!();
    Session::new().run("inside_with_hooks", None, &[]);
}

#[test]
#[ignore = "#5: the inner half of a test, which runs it as root of a user namespace"]
fn inside_with_hooks() {
    let host = Host::new();
    let said = host.folder().join("said");
    let look = "for name in net pid; do readlink /proc/self/ns/$name; done";
    let script = format!("({look}) >>{}", said.display());
    let hooks = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let mut bundle = host.bundle("a", "exec sleep 1000");
    nowhere(&mut bundle);
    bundle.set("/hooks", json!({"createRuntime": hooks, "poststart": hooks, "poststop": hooks}));
    let shim = host.start(bundle);
    let init = shim.run();
    let own = ["net", "pid"].map(|name| fs::read_link(format!("/proc/self/ns/{name}")).expect("own"));
    let inside = exec_output(&shim, look, |_| ());
    assert!(own.iter().all(|own| !inside.contains(&own.display().to_string())), "{inside}");
    let inits = fs::read_link(format!("/proc/{init}/ns/net")).expect("init's");
    assert!(inside.contains(&inits.display().to_string()), "{inside}");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    let said = fs::read_to_string(&said).expect("what the hooks said");
    assert_eq!(said, format!("{}\n{}\n", own[0].display(), own[1].display()).repeat(3));
}

/// COMPAT: runc, "limits + no cgrouppath + no permission fails with informative error".
#[test]
fn limit_without_permission_is_refused_in_words() {
    needs_rootless!();
    Session::new().run("inside_with_limit_but_without_cgroup", None, &[]);
}

#[test]
#[ignore = "#3: the inner half of a test, which runs it as root of a user namespace"]
fn inside_with_limit_but_without_cgroup() {
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    nowhere(&mut bundle);
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("a failure");
    assert!(failure.message.contains("delegated to this user"), "{}", failure.message);
}

/// "A nonprivileged user … can be given a subtree": limits, Update, Exec and Delete are what they are for root.
#[test]
fn delegated_subtree_takes_limits() {
    needs_rootless!();
    needs!(subject::cgroup_v2(), "cgroup v1 cannot be delegated");
    let cgroup = Path::new("/sys/fs/cgroup").join(subject::unique("mst-delegated"));
    let session = cgroup.join("session");
    delegate(&cgroup);
    delegate(&session);
    let name = cgroup.file_name().and_then(|name| name.to_str()).expect("a name");
    Session::new().run("inside_delegated", Some(&session), &[(DELEGATED, name)]);
    eventually("the session's processes are gone", SOON, || fs::remove_dir(&session).ok());
    fs::remove_dir(&cgroup).expect("nothing is left in the delegated cgroup");
}

#[test]
#[ignore = "#3: the inner half of a test, which runs it as root of a user namespace"]
fn inside_delegated() {
    let delegated = std::env::var(DELEGATED).expect("a delegated cgroup");
    let path = format!("/{delegated}/box");
    lives_within_limits(&Host::new(), &path);
}

/// A container at `path` has the limits that it is given, then others, and leaves nothing.
fn lives_within_limits(host: &Host, path: &str) {
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/linux/cgroupsPath", json!(path));
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.set("/linux/resources/pids", json!({"limit": 33}));
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let options = json!(["ro", "nosuid", "noexec", "nodev"]);
    bundle.push(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}),
    );
    let shim = host.start(bundle);
    shim.run();
    let read = || {
        exec_output(&shim, "cd /sys/fs/cgroup; cat memory.max pids.max; grep ^0: /proc/self/cgroup", |_| ())
    };
    assert_eq!(read(), "67108864\n33\n0::/\n");
    // Device rules take rights that this shim has not, and are left out as at Create.
    let devices = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "r"}]);
    shim.update(&json!({"memory": {"limit": 134_217_728}, "pids": {"limit": 44}, "devices": devices}))
        .expect("Update");
    assert_eq!(read(), "134217728\n44\n0::/\n");
    shim.pause().expect("Pause");
    shim.resume().expect("Resume");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(leak::mounts_below(&shim.bundle.folder), Vec::<String>::new());
}

/// nerdctl's way: a session of the user has a systemd of its own, which makes the scopes; first over the user's bus, then
/// with no bus in between.
#[test]
fn users_systemd_makes_the_scope() {
    needs_rootless!();
    needs!(subject::systemd_cgroups(), "systemd is not PID 1 here");
    let unit = format!("{}.service", subject::unique("mst-user"));
    let runtime = unit.trim_end_matches(".service");
    let user = USER.to_string();
    let started = Command::new("systemd-run")
        .args(["--quiet", "--collect", "--unit", &unit, "--uid", &user, "--property=Delegate=yes"])
        .args(["--property=Type=notify", &format!("--property=RuntimeDirectory={runtime}")])
        .args(["--setenv", &format!("XDG_RUNTIME_DIR=/run/{runtime}"), "/usr/lib/systemd/systemd", "--user"])
        .arg("--unit=dbus.socket")
        .status();
    assert!(started.expect("run systemd-run").success());
    let shown =
        Command::new("systemctl").args(["show", "--value", "--property=ControlGroup", &unit]).output();
    let group = String::from_utf8(shown.expect("run systemctl").stdout).expect("text");
    let session = Path::new("/sys/fs/cgroup").join(group.trim().trim_start_matches('/')).join("session");
    delegate(&session);
    let directory = format!("/run/{runtime}");
    for inner in ["inside_with_users_bus", "inside_with_users_systemd"] {
        Session::new().run(inner, Some(&session), &[("XDG_RUNTIME_DIR", &directory)]);
    }
    let left = as_user("systemctl")
        .args(["--user", "list-units", "--all", "--no-legend", "mst-*.scope"])
        .env("XDG_RUNTIME_DIR", &directory)
        .output();
    assert_eq!(String::from_utf8_lossy(&left.expect("run systemctl").stdout), "");
    let stopped = Command::new("systemctl").args(["stop", &unit]).status();
    assert!(stopped.expect("run systemctl").success());
}

/// A socket of the session.
fn runtime(name: &str) -> PathBuf {
    Path::new(&std::env::var_os("XDG_RUNTIME_DIR").expect("a session")).join(name)
}

/// A shim whose session has this bus and no other.
fn host_with_bus(address: String) -> Host {
    let mut host = Host::new();
    host.environment.push(("DBUS_SESSION_BUS_ADDRESS".into(), address));
    host
}

#[test]
#[ignore = "#3: the inner half of a test, which runs it as root of a user namespace"]
fn inside_with_users_bus() {
    let folder = tempfile::tempdir().expect("make a folder");
    let bus = Relay::to(&runtime("bus"), folder.path());
    lives_within_limits(&host_with_bus(bus.address()), ":mst:box");
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "SetUnitProperties"]);
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "AddMatch", "Subscribe", "StopUnit"]);
}

#[test]
#[ignore = "#3: the inner half of a test, which runs it as root of a user namespace"]
fn inside_with_users_systemd() {
    let address = format!("unix:path={}", runtime("systemd/private").display());
    lives_within_limits(&host_with_bus(address), ":mst:box");
}
