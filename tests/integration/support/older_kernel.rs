//! An older kernel, for a thread and all its children: seccomp(2) filters answer as it would.
//!
//! A call that it lacks as a whole is refused by the filter itself. What a filter cannot see, a flag in memory or the
//! name of a file, is looked at by a supervisor that the filter notifies (seccomp_unotify(2)).

use super::seccomp_listener::answer;
use libc::{c_long, seccomp_notif};
use myshim::engine::seccomp;
use myshim::sys::cred;
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// From `linux/sched.h`; libc's constants are too narrow for them.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `what` in a thread for which, and for all of whose children, the calls do not exist.
pub fn without<T: Send>(calls: &[&str], what: impl FnOnce() -> T + Send) -> T {
    let rule = json!({"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS});
    filtered(rule, None, what)
}

/// As a kernel that has the call, but not this form of it: refused where the argument's bits under `mask` are `value`.
pub fn without_form<T: Send>(
    call: &str,
    (index, mask, value): (usize, u64, u64),
    errno: i32,
    what: impl FnOnce() -> T + Send,
) -> T {
    let args = json!([{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]);
    filtered(
        json!({"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args}),
        None,
        what,
    )
}

/// As a kernel before 5.7, which knows neither the flag (EINVAL) nor the field (E2BIG).
pub fn without_clone_into_cgroup<T: Send>(errno: i32, what: impl FnOnce() -> T + Send) -> T {
    without_clone_flag(CLONE_INTO_CGROUP, errno, what)
}

/// As a kernel before 5.5.
pub fn without_clone_clear_sighand<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    without_clone_flag(CLONE_CLEAR_SIGHAND, libc::EINVAL, what)
}

fn without_clone_flag<T: Send>(flag: u64, errno: i32, what: impl FnOnce() -> T + Send) -> T {
    supervised(&["clone3"], what, move |asked| {
        let mut flags = [0; 8];
        let read = memory(asked.pid, asked.data.args[0], &mut flags);
        (read == flags.len() && u64::from_ne_bytes(flags) & flag != 0).then_some(errno)
    })
}

/// As a kernel before 5.19, which does not know the flag.
pub fn without_wait_killable_recv<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    supervised(&["seccomp"], what, |asked| {
        (asked.data.args[1] & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0).then_some(libc::EINVAL)
    })
}

/// As a kernel built without CONFIG_CHECKPOINT_RESTORE.
pub fn without_set_mm<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    supervised(&["prctl"], what, |asked| {
        (asked.data.args[0] == libc::PR_SET_MM as u64).then_some(libc::EINVAL)
    })
}

/// As a cgroup v2 before 5.14: no folder has the file `cgroup.kill`.
pub fn without_cgroup_kill<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    without_file("/cgroup.kill", what)
}

/// No path that ends so is there.
pub fn without_file<T: Send>(end: &'static str, what: impl FnOnce() -> T + Send) -> T {
    supervised(&OPENS, what, move |asked| opened(asked).ends_with(end).then_some(libc::ENOENT))
}

/// As a kernel that does not know an attribute of mounts, or cannot give it to this filesystem (mount_setattr(2)).
pub fn without_mount_attribute<T: Send>(bit: u64, what: impl FnOnce() -> T + Send) -> T {
    supervised(&["mount_setattr", "fsmount"], what, move |asked| {
        let mut set = [0; 8];
        let asks = match c_long::from(asked.data.nr) {
            libc::SYS_fsmount => asked.data.args[2],
            _ if memory(asked.pid, asked.data.args[3], &mut set) == set.len() => u64::from_ne_bytes(set),
            _ => 0,
        };
        (asks & bit != 0).then_some(libc::EINVAL)
    })
}

/// No older kernel, but one that takes its time: while a file whose path ends with `name` is opened, `meanwhile` happens.
pub fn while_opened<T: Send>(
    name: &'static str,
    meanwhile: impl Fn() + Send + 'static,
    what: impl FnOnce() -> T + Send,
) -> T {
    watched(&OPENS, what, move |asked| {
        if opened(asked).ends_with(name) {
            meanwhile();
        }
        None
    })
}

const OPENS: [&str; 3] = ["open", "openat", "openat2"];

/// The path that one of `OPENS` was given.
fn opened(asked: &seccomp_notif) -> String {
    let path = asked.data.args[usize::from(!is_open(asked.data.nr.into()))];
    let mut name = [0; libc::PATH_MAX as usize];
    let read = memory(asked.pid, path, &mut name);
    let name = name[..read].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// Runs `what` in a thread whose `calls` are refused where `judge` says so, and in no other case. It must have been.
fn supervised<T: Send>(
    calls: &[&str],
    what: impl FnOnce() -> T + Send,
    judge: impl Fn(&seccomp_notif) -> Option<i32> + Send + 'static,
) -> T {
    let refused = Arc::new(AtomicU32::new(0));
    let count = refused.clone();
    let result = watched(calls, what, move |asked| {
        judge(asked).inspect(|_| _ = count.fetch_add(1, Ordering::Relaxed))
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "nobody asked for what this kernel lacks");
    result
}

/// Runs `what` in a thread whose `calls` each wait for what `judge` says of them.
fn watched<T: Send>(
    calls: &[&str],
    what: impl FnOnce() -> T + Send,
    judge: impl Fn(&seccomp_notif) -> Option<i32> + Send + 'static,
) -> T {
    let (sender, receiver) = channel();
    // From outside of the filter, or it would have to answer itself. It ends with the last process that has the filter.
    thread::spawn(move || {
        let Ok(listener) = receiver.recv() else { return };
        answer(&listener, judge);
    });
    filtered(json!({"names": calls, "action": "SCMP_ACT_NOTIFY"}), Some(sender), what)
}

fn filtered<T: Send>(rule: Value, listener: Option<Sender<OwnedFd>>, what: impl FnOnce() -> T + Send) -> T {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let filter = seccomp::compile(&serde_json::from_value(profile).expect("a profile")).expect("a filter");
    let name = thread::current().name().unwrap_or_default().to_owned();
    thread::scope(|scope| {
        let run = move || {
            let fd = cred::seccomp_filter(&filter.program, u64::from(filter.flags)).expect("load the filter");
            if let (Some(supervisor), Some(fd)) = (listener, fd) {
                supervisor.send(fd).expect("a supervisor");
            }
            what()
        };
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, run).expect("a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How many bytes of a process's memory could be read; none if it is gone.
fn memory(pid: u32, address: u64, into: &mut [u8]) -> usize {
    File::open(format!("/proc/{pid}/mem")).and_then(|file| file.read_at(into, address)).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn is_open(call: c_long) -> bool {
    call == libc::SYS_open
}

#[cfg(not(target_arch = "x86_64"))]
fn is_open(_: c_long) -> bool {
    false
}
