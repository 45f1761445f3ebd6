//! User namespaces as Kubernetes and Docker (`userns-remap`) use them: pinned by path, owner of the network beside it.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::cgroup_v2;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const FIRST: u32 = 100_000;

fn map() -> Value {
    json!([{"containerID": 0, "hostID": FIRST, "size": 65_536}])
}

fn host() -> Host {
    let host = Host::new();
    // A mapped root has no rights in a folder that is closed to all but the real one.
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).expect("chmod");
    host
}

/// A user namespace and what it owns, kept by bind mounts on files as the kubelet's and Docker's are; nobody lives in it.
struct Pinned {
    folder: PathBuf,
}

impl Pinned {
    const KINDS: [(&'static str, &'static str, &'static str); 4] =
        [("user", "user", "-U"), ("network", "net", "-n"), ("ipc", "ipc", "-i"), ("uts", "uts", "-u")];

    fn new(folder: &Path) -> Self {
        Self::with_setgroups(folder, "allow")
    }

    /// `setgroups` is what namespaces made by unprivileged users have as "deny" (user_namespaces(7)).
    fn with_setgroups(folder: &Path, setgroups: &str) -> Self {
        let mut keeper = Command::new("unshare")
            .args(Self::KINDS.map(|(_, _, flag)| flag))
            .args(["sh", "-c", "echo in; read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare");
        let mut line = String::new();
        let stdout = keeper.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("read");
        let map = format!("0 {FIRST} 65536");
        for (file, text) in [("setgroups", setgroups), ("uid_map", &map), ("gid_map", &map)] {
            fs::write(format!("/proc/{}/{file}", keeper.id()), text).expect("write to the namespace");
        }
        let pinned = Self { folder: folder.to_owned() };
        for (_, file, _) in Self::KINDS {
            fs::write(pinned.path(file), "").expect("make a file");
            pinned.pin(&keeper, file);
        }
        drop(keeper.stdin.take());
        keeper.wait().expect("wait for unshare");
        pinned
    }

    fn pin(&self, keeper: &Child, file: &str) {
        let from = format!("/proc/{}/ns/{file}", keeper.id());
        let bound = Command::new("mount").args(["--bind", &from]).arg(self.path(file)).status();
        assert!(bound.expect("start mount").success());
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(format!("ns-{file}"))
    }

    fn join(&self, bundle: &mut Bundle) {
        let mut namespaces =
            vec![json!({"type": "pid"}), json!({"type": "mount"}), json!({"type": "cgroup"})];
        for (kind, file, _) in Self::KINDS {
            namespaces.push(json!({"type": kind, "path": self.path(file)}));
        }
        bundle.set("/linux/namespaces", json!(namespaces));
        bundle.set("/linux/uidMappings", map());
        bundle.set("/linux/gidMappings", map());
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (_, file, _) in Self::KINDS {
            let _ = Command::new("umount").arg(self.path(file)).status();
        }
    }
}

/// Runs the script in a container of pinned namespaces.
#[track_caller]
fn in_pinned(script: &str, change: impl FnOnce(&mut Bundle)) -> String {
    let host = host();
    let pinned = Pinned::new(host.folder());
    run(&host, script, |bundle| {
        pinned.join(bundle);
        change(bundle);
    })
}

/// Runs the script in a container.
#[track_caller]
fn run(host: &Host, script: &str, change: impl FnOnce(&mut Bundle)) -> String {
    let out = Sink::new(host.folder().join("out"));
    let mut bundle = host.bundle("a", script);
    change(&mut bundle);
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    let status = shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    let text = out.finish();
    assert_eq!(status, 0, "{text}");
    shim.assert_nothing_left();
    text
}

/// "additionalGids: specifies additional group IDs in the container namespace to be added to the process." (config.md,
/// "POSIX-platform User") Nobody may be given any in a namespace whose `setgroups` is denied; that is no reason to fail.
#[test]
fn groups_are_left_out_where_the_namespace_forbids_them() {
    needs_containers!();
    for (setgroups, groups) in [("allow", "7 5"), ("deny", "7")] {
        let host = host();
        let pinned = Pinned::with_setgroups(host.folder(), setgroups);
        let text = run(&host, "cat /proc/self/setgroups; id -G", |bundle| {
            pinned.join(bundle);
            bundle.set("/process/user", json!({"uid": 7, "gid": 7, "additionalGids": [5]}));
        });
        assert_eq!(text, format!("{setgroups}\n{groups}\n"));
    }
}

/// "The runtime MUST place the container process in the namespace associated with that path." (config-linux.md,
/// "Namespaces")
#[test]
fn pinned_user_namespace_without_a_process_is_joined() {
    needs_containers!();
    let text = in_pinned("id -u; cat /proc/self/uid_map; hostname", |_| {});
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &FIRST.to_string(), "65536", "box"]);
}

/// proc, sysfs, mqueue and cgroup can be mounted by the owner of their namespaces only.
#[test]
fn filesystems_are_mounted_as_the_namespaces_owner() {
    needs_containers!();
    let text = in_pinned(
        "for m in /proc /sys /dev/mqueue /sys/fs/cgroup; do grep -c \" $m \" /proc/self/mounts; done; echo 1 >/proc/sys/kernel/shmmni; cat /proc/sys/kernel/shmmni; ls /sys/class/net",
        |bundle| {
            bundle.set("/linux/readonlyPaths", json!([]));
            bundle.push("/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}));
        },
    );
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[..4].iter().all(|count| *count != "0"), "{text}");
    assert_eq!((lines[4], lines[5]), ("1", "lo"), "{text}");
}

/// user: "the container will be able to remap user and group IDs from the host to local users and groups within the
/// container" (config-linux.md, "Namespaces"): its streams are its own.
#[test]
fn standard_streams_belong_to_the_mapped_user() {
    needs_containers!();
    needs!(
        !runc_differs("owner of the streams in a user namespace"),
        "runc's shim gives them to nobody inside"
    );
    for user in [0, 1000] {
        let script = "echo again >/dev/stdout; stat -L -c %u:%g /dev/stdout /dev/stderr";
        let text = in_pinned(script, |bundle| {
            bundle.set("/process/user", json!({"uid": user, "gid": user}));
        });
        assert_eq!(text, format!("again\n{user}:{user}\n{user}:{user}\n"));
    }
}

#[test]
fn exec_enters_the_pinned_user_namespace_with_streams_and_a_terminal_of_its_own() {
    needs_containers!();
    needs!(
        !runc_differs("owner of the streams in a user namespace"),
        "runc's shim gives them to nobody inside"
    );
    let host = host();
    let pinned = Pinned::new(host.folder());
    let mut bundle = host.bundle("a", "sleep 1000");
    pinned.join(&mut bundle);
    let shim = host.start(bundle);
    shim.run();
    for terminal in [false, true] {
        let out = Sink::new(host.folder().join(format!("out-{terminal}")));
        let mut process =
            shim.bundle.process(&["sh", "-c", "id -u; readlink /proc/self/ns/user; echo end >/dev/stdout"]);
        process["terminal"] = terminal.into();
        process["user"] = json!({"uid": 1000, "gid": 1000});
        let stderr = if terminal { String::new() } else { out.uri() };
        let stdio = Stdio3 { terminal, stdout: out.uri(), stderr, ..Default::default() };
        let exec = format!("x-{terminal}");
        shim.exec_process(&exec, &process, &stdio).expect("Exec");
        shim.start(&exec).expect("Start");
        assert_eq!(shim.wait(&exec).expect("Wait"), 0);
        shim.delete(&exec).expect("Delete");
        let inode = fs::metadata(pinned.path("user")).expect("the namespace").ino();
        let text = out.finish().replace('\r', "");
        assert_eq!(text, format!("1000\nuser:[{inode}]\nend\n"));
    }
}

/// As containerd's snapshotters without id-mapped mounts prepare it: the files belong to the mapped ids already.
#[test]
fn root_filesystem_of_the_mapped_ids_can_be_written() {
    needs_containers!();
    let text = in_pinned("touch /mine && stat -c %u /mine", |bundle| {
        let upper = bundle.mounts[0].options[1].trim_start_matches("upperdir=").to_owned();
        std::os::unix::fs::chown(upper, Some(FIRST), Some(FIRST)).expect("chown");
    });
    assert_eq!(text, "0\n");
}

/// Who owns the cgroup and some of its files, and whether a container may make cgroups of its own below it.
const MANAGES: &str = "cd /sys/fs/cgroup && stat -c %u . cgroup.procs cgroup.subtree_control cgroup.threads pids.max; \
    mkdir sub 2>/dev/null && echo 0 >sub/cgroup.procs && grep ^0: /proc/self/cgroup; cd /";

fn mounts_cgroups(bundle: &mut Bundle, access: &str) {
    let mount =
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [access]});
    bundle.push("/mounts", mount);
}

/// "Runtimes SHOULD change the cgroup ownership if and only if the cgroup filesystem is to be mounted read/write". "A runtime
/// that changes the cgroup ownership SHOULD only change the ownership of the container's cgroup directory and files within
/// that directory that are listed in /sys/kernel/cgroup/delegate." (config-linux.md, "Cgroup ownership")
#[test]
fn cgroup_that_is_mounted_read_write_is_the_containers_own() {
    needs_containers!();
    needs!(cgroup_v2(), "on cgroup v1 the owner does not change");
    let new = |access: &str| {
        run(&host(), MANAGES, |bundle| {
            for kind in ["user", "cgroup"] {
                bundle.push("/linux/namespaces", json!({"type": kind}));
            }
            bundle.set("/linux/uidMappings", map());
            bundle.set("/linux/gidMappings", map());
            mounts_cgroups(bundle, access);
        })
    };
    assert_eq!(new("rw"), "0\n0\n0\n0\n65534\n0::/sub\n");
    assert_eq!(new("ro"), "65534\n".repeat(5));
    let joined = in_pinned(MANAGES, |bundle| mounts_cgroups(bundle, "rw"));
    assert_eq!(joined, "0\n0\n0\n0\n65534\n0::/sub\n");
}

/// The shim still puts others in there.
#[test]
fn exec_enters_a_cgroup_that_is_the_containers_own() {
    needs_containers!();
    needs!(cgroup_v2(), "on cgroup v1 the owner does not change");
    let host = host();
    let pinned = Pinned::new(host.folder());
    let mut bundle = host.bundle("a", "sleep 1000");
    pinned.join(&mut bundle);
    mounts_cgroups(&mut bundle, "rw");
    let shim = host.start(bundle);
    shim.run();
    shim.exec("e", "mkdir /sys/fs/cgroup/execs && grep -q '^0::/$' /proc/self/cgroup").expect("Exec");
    shim.start("e").expect("Start");
    assert_eq!(shim.wait("e").expect("Wait"), 0);
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}
