//! Every step of a child's plan failing in turn, and every system call that it makes answering EPERM or ENOSYS: the
//! error names the step, and nothing is left.

use crate::support::shim::{Host, Shim};
use crate::support::wire::Failure;
use crate::support::{bundle::Bundle, leak, subject};
use crate::{needs, needs_containers};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The shim's first clone is init when there are no hooks; the next is the exec.
const INIT: usize = 0;
const EXEC: usize = 1;

/// The calls of a child between clone3 and execve, by strace(1).
const CALLS: [(&str, i64); 40] = [
    ("capget", libc::SYS_capget),
    ("capset", libc::SYS_capset),
    ("chdir", libc::SYS_chdir),
    ("clone", libc::SYS_clone),
    ("close_range", libc::SYS_close_range),
    ("dup3", libc::SYS_dup3),
    ("execve", libc::SYS_execve),
    ("faccessat2", libc::SYS_faccessat2),
    ("fchdir", libc::SYS_fchdir),
    ("fchmodat", libc::SYS_fchmodat),
    ("fchownat", libc::SYS_fchownat),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("fstatfs", libc::SYS_fstatfs),
    ("getcwd", libc::SYS_getcwd),
    ("ioctl", libc::SYS_ioctl),
    ("keyctl", libc::SYS_keyctl),
    ("mkdirat", libc::SYS_mkdirat),
    ("mknodat", libc::SYS_mknodat),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("newfstatat", libc::SYS_newfstatat),
    ("open_tree", libc::SYS_open_tree),
    ("openat", libc::SYS_openat),
    ("openat2", libc::SYS_openat2),
    ("pivot_root", libc::SYS_pivot_root),
    ("prctl", libc::SYS_prctl),
    ("prlimit64", libc::SYS_prlimit64),
    ("sethostname", libc::SYS_sethostname),
    ("setgroups", libc::SYS_setgroups),
    ("setns", libc::SYS_setns),
    ("setresgid", libc::SYS_setresgid),
    ("setresuid", libc::SYS_setresuid),
    ("setsid", libc::SYS_setsid),
    ("socket", libc::SYS_socket),
    ("symlinkat", libc::SYS_symlinkat),
    ("umount2", libc::SYS_umount2),
    ("write", libc::SYS_write),
];

fn host(variable: &str, value: &str) -> (Host, Bundle) {
    let mut host = Host::new();
    host.binary = subject::faults_binary().expect("checked by the test");
    host.environment.push((variable.into(), value.into()));
    host.environment.push(("MYSHIM_FAULT_FOLDER".into(), host.folder().display().to_string()));
    let mut bundle = host.bundle("a", "sleep 1000");
    // A seccomp profile, a read-only root and a hostname, so that these steps are there.
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    bundle.set("/root/readonly", json!(true));
    bundle.set("/process/oomScoreAdj", json!(500));
    (host, bundle)
}

/// Create and Start, then Exec and its Start: the first failure. Afterwards nothing is left, in either case.
fn first_failure(host: &Host, bundle: Bundle, what: &str) -> Result<(), Failure> {
    let shim = host.start(bundle);
    let outcome = shim.create().and_then(|_| {
        shim.start("")?;
        shim.exec("x", "sleep 1000")?;
        shim.start("x")
    });
    if shim.state("").is_ok() {
        remove(&shim);
    }
    shim.assert_nothing_left();
    let outcome = outcome.map(drop);
    let known = [shim.pid, std::process::id() as i32];
    crate::support::eventually(&format!("{what}: only the shim is left"), crate::support::SOON, || {
        leak::processes_naming(&host.namespace).iter().all(|pid| known.contains(pid)).then_some(())
    });
    outcome
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
    counted(|step| {
        let (host, bundle) = host("MYSHIM_FAULT_STEP", &format!("{clone}:{step}:{}", libc::EIO));
        match first_failure(&host, bundle, &format!("step {step}")) {
            Ok(()) => false,
            Err(failure) => {
                let (named, _) = failure.message.split_once("injected fault").unwrap_or_default();
                let of_program = failure.message.starts_with("exec: ") && failure.message.contains("error");
                assert!(named.len() > 4 || of_program, "step {step} is not named: {failure:?}");
                true
            }
        }
    })
}

#[test]
fn every_step_of_init_that_fails_is_named_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let steps = every_step(INIT);
    assert!(steps > 35, "only {steps} steps");
}

#[test]
fn every_step_of_an_exec_that_fails_is_named_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let steps = every_step(EXEC);
    assert!(steps > 8, "only {steps} steps");
}

#[test]
fn every_system_call_of_a_child_that_is_refused_is_told_and_leaves_nothing() {
    needs_containers!();
    needs!(subject::faults_binary().is_some(), "needs the build with fault points: run hack/test.sh");
    let refused = AtomicUsize::new(0);
    counted(|number| {
        let Some((call, nr)) = CALLS.get(number / 2) else { return false };
        let (errno, name) = [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")][number % 2];
        for clone in [INIT, EXEC] {
            let (host, bundle) = host("MYSHIM_FAULT_CALL", &format!("{clone}:{nr}:{errno}"));
            if let Err(failure) = first_failure(&host, bundle, call) {
                refused.fetch_add(1, Ordering::SeqCst);
                let text = &failure.message;
                let told = text.contains(&format!(": {name}: "));
                // runc's words for a program that cannot be run, which clients match.
                let of_program = text.starts_with("exec: ") || text.starts_with("exec sh: ");
                assert!(told || of_program, "{call} answering {name}: {failure:?}");
            }
        }
        true
    });
    let refused = refused.into_inner();
    assert!(refused > 60, "only {refused} refusals were noticed: are the filters loaded?");
}
