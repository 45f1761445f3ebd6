//! Older kernels: newer system calls answer ENOSYS, and the shim works without them or fails with a message that names
//! the call and the kernel it came with. README's kernel table says which; this file reads it there.
//!
//! The filter is loaded into a thread of the test, which then starts the shim: children inherit it (seccomp(2)).

use crate::needs;
use crate::needs_containers;
use crate::support::shim::{Host, Shim, Stdio3, read_reply};
use crate::support::subject::ours;
use myshim::engine::seccomp;
use myshim::sys::cred;
use std::thread;

/// What happens without each call, as README says it.
const TABLE: &str = include_str!("../../README.md");

/// The line of the kernel table that begins with this call: since when, and what happens without.
fn readme(call: &str) -> (String, String) {
    let section =
        TABLE.split("\n## Kernel\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let row = section.lines().filter(|line| line.starts_with("| ")).find_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let named = cells[0].split([',', ' ']).any(|word| word == call);
        named.then(|| (cells[1].to_owned(), cells[3].to_owned()))
    });
    row.unwrap_or_else(|| panic!("README's kernel table does not have {call}"))
}

/// Runs `what` in a thread for which, and for all of whose children, the calls do not exist.
fn without<T: Send>(calls: &[&str], what: impl FnOnce() -> T + Send) -> T {
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}],
    });
    let filter = seccomp::compile(&serde_json::from_value(profile).expect("a profile")).expect("a filter");
    let name = thread::current().name().unwrap_or_default().to_owned();
    thread::scope(|scope| {
        let run = move || {
            cred::seccomp_filter(&filter.program, u64::from(filter.flags)).expect("load the filter");
            what()
        };
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, run).expect("a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The first failure of a life from start to an exec's end, and of the `delete` of a crashed shim; none if all works.
fn life() -> Option<String> {
    let host = Host::new();
    let bundle = host.bundle("a", "sleep 1000");
    bundle.write();
    let output = host.invoke(&bundle, "start", b"");
    if !output.status.success() {
        return Some(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (socket, version) = read_reply(&String::from_utf8_lossy(&output.stdout));
    let shim = Shim::connect(&host, bundle, socket.clone(), version, None);
    let failure = first_failure(&host, shim);
    // A shim or a delete that lacked a call may have left it.
    let _ = std::fs::remove_file(socket);
    failure
}

fn first_failure(host: &Host, shim: Shim<'_>) -> Option<String> {
    let lived = (|| {
        shim.create()?;
        shim.start("")?;
        shim.exec_process("x", &shim.bundle.process(&["true"]), &Stdio3::default())?;
        shim.start("x")?;
        assert_eq!(shim.wait("x")?, 0);
        shim.kill("", libc::SIGKILL)?;
        shim.wait("")?;
        shim.delete("").map(drop)
    })();
    let _ = shim.delete("");
    shim.assert_nothing_left();
    if let Err(failure) = lived {
        return Some(failure.message);
    }
    shim.run();
    shim.crash();
    let output = host.invoke(&shim.bundle, "delete", b"");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn calls_that_older_kernels_lack_are_named_with_the_kernel_that_has_them() {
    needs_containers!();
    needs!(ours(), "about this shim");
    for call in [
        "mount_setattr",
        "close_range",
        "faccessat2",
        "openat2",
        "clone3",
        "pidfd_open",
        "fsopen",
        "fsconfig",
        "fsmount",
        "open_tree",
        "move_mount",
    ] {
        let (since, consequence) = readme(call);
        match without(&[call], life) {
            Some(message) => {
                assert!(
                    !consequence.starts_with("falls back"),
                    "{call}: README promises a way without: {message}"
                );
                let version = since.split(',').next().expect("a version");
                assert!(message.contains(call), "{call} is not named: {message}");
                assert!(
                    message.contains(&format!("Linux {version}")),
                    "{call}: no Linux {version} in {message}"
                );
            }
            None => assert!(
                !consequence.contains("fail") && !consequence.contains("nothing works"),
                "{call} is not needed, but README says: {consequence}"
            ),
        }
    }
}

/// All of it at once, as a kernel before 5.2 would answer: still in words, and nothing left.
#[test]
fn kernel_that_lacks_everything_is_told_at_the_first_call() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let calls = [
        "openat2",
        "clone3",
        "mount_setattr",
        "fsopen",
        "open_tree",
        "move_mount",
        "close_range",
        "pidfd_open",
        "faccessat2",
    ];
    let message = without(&calls, life).expect("a failure");
    assert!(message.contains("Linux 5."), "{message}");
}
