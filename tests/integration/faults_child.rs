//! Every step of a child's plan failing in turn, and every system call that it makes answering EPERM or ENOSYS: the
//! error names the step, and nothing is left.

use crate::support::shim::{Call, Host, Shim, Stdio3};
use crate::support::wire::Failure;
use crate::support::{bundle::Bundle, leak, subject};
use crate::{needs, needs_containers};
use myshim::sys::tree::fsetxattr;
use serde_json::json;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use ttrpc::proto::Code;

/// The shim's clones in their order: init, its one hook, an exec.
const INIT: usize = 0;
const HOOK: usize = 1;
const EXEC: usize = 2;

/// The calls of a child between clone3 and execve: who makes them, and what an error may call them, if not by their name.
/// `every_call_of_a_child_is_in_the_list` holds it against what is done.
const CALLS: &[(&str, i64, &[usize], &[&str])] = &[
    ("capget", libc::SYS_capget, &ALL, &[]),
    ("capset", libc::SYS_capset, &ALL, &[]),
    ("chdir", libc::SYS_chdir, &ALL, &[]),
    ("chroot", libc::SYS_chroot, &[INIT], &[]),
    ("clone3", libc::SYS_clone3, &[EXEC], &[]),
    ("close_range", libc::SYS_close_range, &ALL, &[]),
    ("dup3", libc::SYS_dup3, &ALL, &[]),
    ("execve", libc::SYS_execve, &ALL, &[]),
    ("faccessat2", libc::SYS_faccessat2, &ALL, &[]),
    ("fchdir", libc::SYS_fchdir, &[INIT], &[]),
    ("fchmod", libc::SYS_fchmod, &[INIT], &[]),
    ("fchownat", libc::SYS_fchownat, &[INIT, EXEC], &[]),
    ("fcntl", libc::SYS_fcntl, &[INIT], &[]),
    ("fgetxattr", libc::SYS_fgetxattr, &[INIT], &[]),
    ("flistxattr", libc::SYS_flistxattr, &[INIT], &[]),
    ("fsconfig", libc::SYS_fsconfig, &[INIT], &[]),
    ("fsetxattr", libc::SYS_fsetxattr, &[INIT], &[]),
    ("fsmount", libc::SYS_fsmount, &[INIT], &[]),
    ("fsopen", libc::SYS_fsopen, &[INIT], &[]),
    ("fspick", libc::SYS_fspick, &[INIT], &[]),
    ("fstatfs", libc::SYS_fstatfs, &ALL, &[]),
    ("getcwd", libc::SYS_getcwd, &ALL, &[]),
    ("getdents64", libc::SYS_getdents64, &[INIT], &[]),
    ("ioctl", libc::SYS_ioctl, &[INIT, EXEC], &["SIOCSIFFLAGS", "ioctl(TIOCSPTLCK)"]),
    ("ioprio_set", libc::SYS_ioprio_set, &ALL, &[]),
    ("keyctl", libc::SYS_keyctl, &ALL, &[]),
    ("lseek", libc::SYS_lseek, &[INIT], &[]),
    ("mkdirat", libc::SYS_mkdirat, &[INIT], &[]),
    ("mknodat", libc::SYS_mknodat, &[INIT], &[]),
    ("mount", libc::SYS_mount, &[INIT], &[]),
    ("mount_setattr", libc::SYS_mount_setattr, &[INIT], &[]),
    ("move_mount", libc::SYS_move_mount, &[INIT], &[]),
    ("newfstatat", libc::SYS_newfstatat, &ALL, &["fstatat"]),
    ("open_tree", libc::SYS_open_tree, &[INIT], &[]),
    ("openat", libc::SYS_openat, &[INIT, EXEC], &[]),
    ("openat2", libc::SYS_openat2, &ALL, &[]),
    ("personality", libc::SYS_personality, &ALL, &[]),
    ("pidfd_open", libc::SYS_pidfd_open, &[EXEC], &[]),
    ("pivot_root", libc::SYS_pivot_root, &[INIT], &[]),
    ("poll", POLL, &[HOOK], &[]),
    ("prctl", libc::SYS_prctl, &ALL, &["PR_SET_NO_NEW_PRIVS", "PR_CAPBSET_DROP"]),
    ("prlimit64", libc::SYS_prlimit64, &ALL, &["setrlimit", "getrlimit"]),
    ("read", libc::SYS_read, &ALL, &[]),
    ("readlinkat", libc::SYS_readlinkat, &[INIT], &[]),
    ("recvmsg", libc::SYS_recvmsg, &[INIT, EXEC], &[]),
    ("sched_setaffinity", libc::SYS_sched_setaffinity, &[HOOK, EXEC], &[]),
    ("sched_setattr", libc::SYS_sched_setattr, &ALL, &[]),
    ("seccomp", libc::SYS_seccomp, &[INIT, EXEC], &[]),
    ("sendfile", libc::SYS_sendfile, &[INIT], &[]),
    ("sendmsg", libc::SYS_sendmsg, &[INIT, EXEC], &[]),
    ("set_mempolicy", libc::SYS_set_mempolicy, &ALL, &[]),
    ("setdomainname", libc::SYS_setdomainname, &[INIT], &[]),
    ("setgroups", libc::SYS_setgroups, &ALL, &[]),
    ("sethostname", libc::SYS_sethostname, &[INIT], &[]),
    ("setns", libc::SYS_setns, &ALL, &[]),
    ("setresgid", libc::SYS_setresgid, &ALL, &[]),
    ("setresuid", libc::SYS_setresuid, &ALL, &[]),
    ("setsid", libc::SYS_setsid, &ALL, &[]),
    ("socket", libc::SYS_socket, &[INIT], &[]),
    ("symlinkat", libc::SYS_symlinkat, &[INIT], &[]),
    ("umount2", libc::SYS_umount2, &[INIT], &[]),
    ("unshare", libc::SYS_unshare, &[INIT], &[]),
    ("write", libc::SYS_write, &ALL, &[]),
];
const ALL: [usize; 3] = [INIT, HOOK, EXEC];
#[cfg(target_arch = "x86_64")]
const POLL: i64 = libc::SYS_poll;
#[cfg(not(target_arch = "x86_64"))]
const POLL: i64 = libc::SYS_ppoll;

/// A kernel may have no keyrings: then there is none. A hook reads nothing but the passwd file, and without that its home is `/`.
fn is_forgiven(clone: usize, call: &str, errno: i32) -> bool {
    (call, errno) == ("keyctl", libc::ENOSYS) || (clone, call) == (HOOK, "read")
}

/// Calls whose refusal nobody is told of: they cannot fail, or nothing depends on them. In a debug build, std looks by
/// fcntl at a descriptor that it closes.
const UNTOLD: &[i64] =
    &[libc::SYS_close, libc::SYS_umask, libc::SYS_getpid, libc::SYS_exit_group, libc::SYS_fcntl];

/// A host whose shims obey one fault, and a container whose processes make every call that there is. `config`: of the host.
fn host(variable: &str, value: &str, config: &str) -> (Host, Bundle, UnixListener) {
    let mut host = Host::new();
    host.binary = subject::faults_binary().expect("checked by the test");
    let file = host.folder().join("host.toml");
    fs::write(&file, config).expect("write the host's configuration");
    for (name, value) in [
        (variable, value.to_owned()),
        ("MYSHIM_FAULT_FOLDER", host.folder().display().to_string()),
        ("MYSHIM_CONFIG", file.display().to_string()),
    ] {
        host.environment.push((name.into(), value));
    }
    let mut bundle = host.bundle("a", "sleep 1000");
    fill_process(&mut bundle);
    fill_mounts(&host, &mut bundle);
    bundle.set("/domainname", json!("domain"));
    bundle.set("/hooks/startContainer", json!([{"path": "/bin/true"}]));
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    if Path::new("/proc/self/ns/time").exists() {
        bundle.push("/linux/namespaces", json!({"type": "time"}));
        bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1000}}));
    }
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    bundle.set("/linux/personality", json!({"domain": "LINUX"}));
    if has_memory_policies() {
        bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_LOCAL"}));
    }
    // Nothing is notified: whoever listens has nothing to do.
    let (agent, notified) = (host.folder().join("agent"), ["swapon"]);
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent,
            "syscalls": [{"names": notified, "action": "SCMP_ACT_NOTIFY"}]}),
    );
    let agent = UnixListener::bind(agent).expect("bind the agent's socket");
    (host, bundle, agent)
}

fn fill_process(bundle: &mut Bundle) {
    for (place, value) in [
        ("terminal", json!(true)),
        ("consoleSize", json!({"width": 80, "height": 24})),
        ("user/additionalGids", json!([7])),
        ("oomScoreAdj", json!(500)),
        ("scheduler", json!({"policy": "SCHED_BATCH"})),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 5})),
        ("execCPUAffinity", json!({"initial": "0", "final": "0"})),
        ("capabilities/inheritable", json!(["CAP_CHOWN"])),
        ("capabilities/ambient", json!(["CAP_CHOWN"])),
    ] {
        bundle.set(&format!("/process/{place}"), value);
    }
    bundle.may_trace();
}

/// A new filesystem changed afterwards, one that takes over a tree, a bind with ids mapped, a copied link, a device, and a
/// read-only root.
fn fill_mounts(host: &Host, bundle: &mut Bundle) {
    let (data, link) = (host.folder().join("upper-a/data"), host.folder().join("link"));
    fs::create_dir_all(data.join("sub")).expect("make folders");
    fs::write(data.join("file"), "text").expect("write");
    symlink("file", data.join("link")).expect("make a link");
    symlink("elsewhere", &link).expect("make a link");
    let file = fs::File::open(data.join("file")).expect("open");
    // Where the file system has no attributes, the calls that copy them are not made: such a test fails, and says so.
    fsetxattr(file.as_fd(), c"user.a", b"value").expect("set an attribute");
    let volume = host.folder().join("volume");
    fs::create_dir(&volume).expect("make a folder");
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
    for mount in [
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/data", "type": "tmpfs", "options": ["remount", "size=1m"]}),
        json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["bind", "ro"],
            "uidMappings": ids, "gidMappings": ids}),
        json!({"destination": "/link", "type": "bind", "source": link, "options": ["bind", "copy-symlink"]}),
    ] {
        bundle.push("/mounts", mount);
    }
    bundle.set("/linux/devices", json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}]));
    bundle.set("/root/readonly", json!(true));
}

fn has_memory_policies() -> bool {
    Path::new("/proc/self/numa_maps").exists()
}

/// Create and Start, then Exec and its Start: the first failure. Afterwards nothing is left, in either case.
fn first_failure(variable: &str, value: &str, config: &str) -> Result<(), Failure> {
    let (host, bundle, _agent) = host(variable, value, config);
    let shim = host.start(bundle);
    let outcome = shim.create_with(&terminal()).and_then(|_| {
        shim.start("")?;
        exec(&shim)
    });
    if shim.state("").is_ok() {
        remove(&shim);
    }
    shim.assert_nothing_left();
    let known = [shim.pid, std::process::id() as i32];
    crate::support::eventually(
        &format!("{variable}={value}: only the shim is left"),
        crate::support::SOON,
        || leak::processes_naming(&host.namespace).iter().all(|pid| known.contains(pid)).then_some(()),
    );
    outcome.map(drop)
}

fn terminal() -> Stdio3 {
    Stdio3 { terminal: true, ..Default::default() }
}

fn exec(shim: &Shim<'_>) -> Call<u32> {
    shim.exec_process("x", &shim.bundle.process(&["sleep", "1000"]), &terminal())?;
    shim.start("x")
}

fn remove(shim: &Shim<'_>) {
    let _ = shim.kill("", libc::SIGKILL);
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
}

/// Does `one` with 0, 1, 2, …, several at a time, until it says that there are no more.
fn counted(one: impl Fn(usize) -> bool + Sync) -> usize {
    let (next, end) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    if !one(number) {
                        end.fetch_min(number, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    end.into_inner()
}

fn every_step(clone: usize) -> usize {
    counted(|step| match first_failure("MYSHIM_FAULT_STEP", &format!("{clone}:{step}:{}", libc::EIO), "") {
        Ok(()) => false,
        Err(failure) => {
            let (named, _) = failure.message.split_once("injected fault").unwrap_or_default();
            assert!(named.len() > 4 || is_of_program(&failure), "step {step} is not named: {failure:?}");
            true
        }
    })
}

/// runc's words for a program that cannot be run, which clients match.
fn is_of_program(failure: &Failure) -> bool {
    let text = failure.message.rsplit("cannot be started: ").next().unwrap_or_default();
    text.starts_with("exec")
}

#[test]
fn every_step_of_init_that_fails_is_named_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let steps = every_step(INIT);
    assert!(steps > 55, "only {steps} steps");
}

#[test]
fn every_step_of_a_hook_that_fails_is_named_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let steps = every_step(HOOK);
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn every_step_of_an_exec_that_fails_is_named_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let steps = every_step(EXEC);
    assert!(steps > 20, "only {steps} steps");
}

/// How the host is configured for a call to be made.
fn config_for(call: &str) -> &'static str {
    if call == "chroot" { "NoPivotRoot = true\n" } else { "" }
}

/// To see it fail: in `engine/child/report.rs`, `failed`, drop the second way to tell; or strike a name from the list's
/// last column.
#[test]
fn every_system_call_of_a_child_that_is_refused_is_told_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    counted(|number| {
        let Some((call, nr, made_by, names)) = CALLS.get(number / 2) else { return false };
        let (errno, name) = [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")][number % 2];
        for clone in made_by.iter().filter(|_| *call != "set_mempolicy" || has_memory_policies()) {
            let outcome =
                first_failure("MYSHIM_FAULT_CALL", &format!("{clone}:{nr}:{errno}"), config_for(call));
            match outcome {
                Ok(()) => assert!(
                    is_forgiven(*clone, call, errno),
                    "clone {clone}, {call}: nobody was told of {name}"
                ),
                Err(failure) => {
                    let said = |call: &&str| failure.message.contains(&format!("{call}: {name}: "));
                    let told = said(call) || names.iter().any(said);
                    let program = ["execve", "faccessat2"].contains(call) && is_of_program(&failure);
                    // It may be gone when Create has been answered and nobody listens.
                    let gone = *call == "recvmsg" && failure.code == Code::FAILED_PRECONDITION;
                    assert!(told || program || gone, "clone {clone}, {call} answering {name}: {failure:?}");
                }
            }
        }
        true
    });
}

/// Who makes a call that is not in the list is killed by it. Who comes as far as its program is killed then, for programs
/// make other calls: SIGSYS is how such a life ends. To see it fail: strike a call from the list.
#[test]
fn every_call_of_a_child_is_in_the_list() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    const KILLED: u32 = 128 + libc::SIGSYS as u32;
    for (clone, config) in [(INIT, ""), (INIT, config_for("chroot")), (HOOK, ""), (EXEC, "")] {
        let made = CALLS.iter().filter(|(_, _, made_by, _)| made_by.contains(&clone)).map(|call| &call.1);
        let all: Vec<_> = made.chain(UNTOLD).map(|nr| format!(":{nr}")).collect();
        let (host, bundle, _agent) = host("MYSHIM_FAULT_ONLY", &format!("{clone}{}", all.concat()), config);
        let shim = host.start(bundle);
        shim.create_with(&terminal()).expect("Create");
        match clone {
            HOOK => {
                let failure = shim.start("").expect_err("its hook is killed");
                assert!(failure.message.contains(&format!("exit status {KILLED}")), "{failure:?}");
            }
            _ => {
                shim.start("").expect("Start");
                let who = if clone == EXEC { "x" } else { "" };
                if clone == EXEC {
                    exec(&shim).expect("Start of the exec");
                }
                assert_eq!(shim.wait(who).expect("Wait"), KILLED, "clone {clone} {config:?}");
            }
        }
        remove(&shim);
        shim.assert_nothing_left();
    }
}
