//! Seccomp on a real kernel: every action, the flags, and notification with an agent that answers.

use crate::support::bundle::Bundle;
use crate::support::older_kernel::without_form;
use crate::support::run::{exec_output, outcome, output};
use crate::support::seccomp_agent::Agent;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::{ours, peer_lacks};
use crate::support::{executable, fifo::Sink, leak};
use crate::{needs, needs_containers};
use serde_json::{Value, json};

/// SIGSYS, as a shell tells a death by it.
const BY_SIGSYS: u32 = 128 + 31;

fn profile(bundle: &mut Bundle, action: &str, calls: &[&str]) {
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": calls, "action": action}]}),
    );
}

fn notify(bundle: &mut Bundle, agent: &Agent, calls: &[&str]) {
    profile(bundle, "SCMP_ACT_NOTIFY", calls);
    bundle.set("/linux/seccomp/listenerPath", json!(agent.path));
    bundle.set("/linux/seccomp/listenerMetadata", json!("opaque=1"));
}

/// "action: the action for seccomp rules." (config-linux.md, "Seccomp") SCMP_ACT_KILL, SCMP_ACT_KILL_PROCESS,
/// SCMP_ACT_KILL_THREAD and SCMP_ACT_TRAP all end a process of one thread by SIGSYS (seccomp(2)).
#[test]
fn actions_that_end_the_process() {
    needs_containers!();
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"] {
        let (status, text) = outcome("mkdir /x; echo \"status $?\"", |bundle, _| {
            profile(bundle, action, &["mkdir", "mkdirat"]);
        });
        assert!(text.contains(&format!("status {BY_SIGSYS}")), "{action}: {status} {text}");
    }
}

/// "Some actions like SCMP_ACT_ERRNO and SCMP_ACT_TRACE allow to specify the errno code to return." "The default is
/// EPERM." (config-linux.md, "Seccomp") SCMP_ACT_TRACE answers ENOSYS where nobody traces (seccomp(2)), SCMP_ACT_LOG
/// and SCMP_ACT_ALLOW let the call happen.
#[test]
fn actions_that_go_on() {
    needs_containers!();
    let told = [
        ("SCMP_ACT_ERRNO", "Operation not permitted"),
        ("SCMP_ACT_TRACE", "Function not implemented"),
        ("SCMP_ACT_LOG", "made"),
        ("SCMP_ACT_ALLOW", "made"),
    ];
    for (action, expected) in told {
        let text = output("mkdir /x 2>&1 && echo made; true", |bundle, _| {
            profile(bundle, action, &["mkdir", "mkdirat"]);
        });
        assert!(text.contains(expected), "{action}: {text}");
    }
}

/// "defaultErrnoRet: the errno return code to use." (config-linux.md, "Seccomp") For all that the profile, here
/// containerd's own, does not name.
#[test]
fn default_action_has_its_own_errno() {
    needs_containers!();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/specs/container-seccomp-default.json");
    let spec: Value = serde_json::from_slice(&std::fs::read(path).expect("a spec")).expect("JSON");
    let mut profile = spec["linux"]["seccomp"].clone();
    profile["defaultErrnoRet"] = json!(libc::EDQUOT);
    for group in profile["syscalls"].as_array_mut().expect("groups") {
        group["names"].as_array_mut().expect("names").retain(|name| name != "mkdir" && name != "mkdirat");
    }
    let text = output("mkdir /x 2>&1; true", |bundle, _| bundle.set("/linux/seccomp", profile.clone()));
    assert!(text.contains("quota exceeded"), "{text}");
}

/// "op: the operator for syscall arguments in seccomp." (config-linux.md, "Seccomp") A signal's number is kill(2)'s
/// second argument.
#[test]
fn arguments_decide_by_every_operator() {
    needs_containers!();
    // USR1 is 10: which of 9 < 10 < 12 may be sent (0 asks only).
    let cases = [
        ("SCMP_CMP_EQ", json!({"value": 10}), "0 refused 12"),
        ("SCMP_CMP_NE", json!({"value": 10}), "refused 10 refused"),
        ("SCMP_CMP_LT", json!({"value": 10}), "refused 10 12"),
        ("SCMP_CMP_LE", json!({"value": 10}), "refused refused 12"),
        ("SCMP_CMP_GT", json!({"value": 10}), "0 10 refused"),
        ("SCMP_CMP_GE", json!({"value": 10}), "0 refused refused"),
        ("SCMP_CMP_MASKED_EQ", json!({"value": 6, "valueTwo": 2}), "0 refused 12"),
    ];
    let script = "trap : 10 12; for s in 0 10 12; do kill -$s $$ 2>/dev/null && printf '%s ' $s || printf 'refused '; done";
    for (op, mut argument, expected) in cases {
        argument["index"] = json!(1);
        argument["op"] = json!(op);
        let text = output(script, |bundle, _| {
            profile(bundle, "SCMP_ACT_ERRNO", &["kill"]);
            bundle.set("/linux/seccomp/syscalls/0/args", json!([argument]));
        });
        assert_eq!(text.trim_end(), expected, "{op}");
    }
}

const LOG: &str = "SECCOMP_FILTER_FLAG_LOG";
const SPEC_ALLOW: &str = "SECCOMP_FILTER_FLAG_SPEC_ALLOW";
/// It says something about more than one thread, and who loads is one.
const TSYNC: &str = "SECCOMP_FILTER_FLAG_TSYNC";
/// KERNEL: refused where there is no listener, and left out there; `api_fallback` has it with one.
const WAIT_KILLABLE_RECV: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";

/// Does a container with these flags start? Why not?
fn started(flags: Option<&[&str]>) -> Result<(), String> {
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    profile(&mut bundle, "SCMP_ACT_ERRNO", &["mkdir", "mkdirat"]);
    if let Some(flags) = flags {
        bundle.set("/linux/seccomp/flags", json!(flags));
    }
    let shim = host.start(bundle);
    shim.create().and_then(|_| shim.start("")).map(drop).map_err(|failure| failure.message)
}

/// "flags: list of flags to use with seccomp(2)." (config-linux.md, "Seccomp") Each is taken, alone and together, and the
/// kernel is given it: one that does not know it gets no container with it, and every one without. To see it fail: a flag
/// less in `seccomp::flags`, or one more than asked for.
#[test]
fn every_flag_is_taken() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc does not take seccomp flags");
    let all = [TSYNC, LOG, SPEC_ALLOW, WAIT_KILLABLE_RECV];
    let known = if ours() { &all[..] } else { &all[..3] };
    for flags in known.iter().map(std::slice::from_ref).chain([&[][..], known]) {
        assert_eq!(started(Some(flags)), Ok(()), "{flags:?}");
    }
    needs!(ours(), "libseccomp looks itself for what the kernel takes");
    for (flag, bit) in [
        (LOG, libc::SECCOMP_FILTER_FLAG_LOG),
        (SPEC_ALLOW, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        (TSYNC, libc::SECCOMP_FILTER_FLAG_TSYNC),
        (WAIT_KILLABLE_RECV, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
    ] {
        let with = |flags| without_form("seccomp", (1, bit, bit), libc::EINVAL, || started(flags));
        let needed = flag == LOG || flag == SPEC_ALLOW;
        for flags in [Some(&[flag][..]), Some(&all), Some(&[]), None] {
            // COMPAT: as with runc, no list means this one.
            let asks = flags.map_or(flag == SPEC_ALLOW, |flags| needed && flags.contains(&flag));
            match with(flags) {
                Ok(()) => assert!(!asks, "{flag} did not get to the kernel: {flags:?}"),
                Err(why) => assert!(
                    asks && why.contains("the kernel does not know one of the flags"),
                    "{flag}, {flags:?}: {why}"
                ),
            }
        }
    }
}

/// "specifies the path of UNIX domain socket over which the runtime will send the container process state data
/// structure when the SCMP_ACT_NOTIFY action is used." (config-linux.md, "Seccomp") "pid: is the container process
/// ID, as seen by the runtime." "metadata: opaque metadata." "state: is the state of the container."
/// (config-linux.md, "The Container Process State")
#[test]
fn agent_gets_the_listener_with_the_containers_state_and_answers() {
    needs_containers!();
    for no_new_privileges in [true, false] {
        let host = Host::new();
        let agent = Agent::new(host.folder(), libc::EDQUOT);
        let (out, err) = (Sink::new(host.folder().join("out")), Sink::new(host.folder().join("err")));
        let mut bundle = host.bundle("a", "mkdir /x 2>&1; echo after");
        notify(&mut bundle, &agent, &["mkdir", "mkdirat"]);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.set("/annotations", json!({"colour": "blue"}));
        let shim = host.start(bundle);
        let pid = shim.run_with(&Stdio3 { stdout: out.uri(), stderr: err.uri(), ..Default::default() });
        assert_eq!(shim.wait("").expect("Wait"), 0);
        let text = out.finish();
        assert!(text.contains("quota exceeded") && text.ends_with("after\n"), "{text}");
        let [state] = &agent.states()[..] else { panic!("{:?}", agent.states()) };
        assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("opaque=1")));
        assert_eq!((&state["pid"], &state["state"]["pid"]), (&json!(pid), &json!(pid)));
        assert_eq!(state["state"]["bundle"], json!(shim.bundle.folder));
        assert_eq!(state["state"]["annotations"]["colour"], "blue");
        for document in [state, &state["state"]] {
            assert!(document["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")));
        }
        if ours() {
            assert_eq!((&state["state"]["id"], &state["state"]["status"]), (&json!("a"), &json!("created")));
        }
    }
}

/// The profile holds for every process of the container, and each has a listener of its own: "The runtime MUST send
/// exactly one container process state per connection." (config-linux.md, "Seccomp")
#[test]
fn exec_has_a_listener_of_its_own() {
    needs_containers!();
    let host = Host::new();
    let agent = Agent::new(host.folder(), libc::EDQUOT);
    let mut bundle = host.bundle("a", "sleep 1000");
    notify(&mut bundle, &agent, &["mkdir", "mkdirat"]);
    let shim = host.start(bundle);
    let init = shim.run();
    for no_new_privileges in [true, false] {
        let text = exec_output(&shim, "mkdir /x 2>&1; true", |process| {
            process["noNewPrivileges"] = json!(no_new_privileges);
        });
        assert!(text.contains("quota exceeded"), "{text}");
    }
    let states = agent.states();
    assert_eq!(states.len(), 3);
    for state in &states[1..] {
        assert_eq!(state["state"]["pid"], json!(init));
        assert!(state["pid"] != json!(init) && state["pid"].as_i64() > Some(0), "{state}");
        assert_eq!(state["state"]["status"], "running");
    }
}

/// Whatever the profile sends to the agent, set-up needs no answer before the agent can give one. (`write` is refused
/// by runc and by us.)
#[test]
fn setup_does_not_wait_for_an_agent_that_has_nothing_yet() {
    needs_containers!();
    let calls = [
        "execve",
        "openat",
        "open",
        "read",
        "close",
        "fcntl",
        "capset",
        "capget",
        "prctl",
        "sendmsg",
        "recvmsg",
        "sendto",
        "recvfrom",
        "mkdir",
        "exit_group",
        "futex",
    ];
    needs!(!peer_lacks(1, 2), "this runc waits for ever");
    for no_new_privileges in [true, false] {
        let host = Host::new();
        let agent = Agent::new(host.folder(), libc::EDQUOT);
        let mut bundle = host.bundle("a", "exit 7");
        notify(&mut bundle, &agent, &calls);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let shim = host.start(bundle);
        shim.run();
        assert_eq!(shim.wait("").expect("Wait"), 7);
        assert!(agent.was_asked(libc::SYS_execve));
    }
}

/// "If sending to this socket fails, the runtime MUST generate an error." (config-linux.md, "Seccomp")
#[test]
fn absent_agent_fails_the_start_by_its_path() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    profile(&mut bundle, "SCMP_ACT_NOTIFY", &["mkdir"]);
    bundle.set("/linux/seccomp/listenerPath", json!("/no/such/agent.sock"));
    let shim = host.start(bundle);
    let failure = match shim.create() {
        Ok(pid) => {
            let failure = shim.start("").expect_err("nobody listens");
            shim.wait("").expect("Wait");
            assert!(!leak::alive(pid as i32));
            shim.delete("").expect("Delete");
            failure
        }
        Err(failure) => failure,
    };
    assert!(failure.message.contains("/no/such/agent.sock"), "{failure:?}");
    if ours() {
        assert!(failure.message.contains("linux.seccomp.listenerPath"), "{failure:?}");
        assert!(failure.message.contains("start the agent first"), "{failure:?}");
    }
    shim.assert_nothing_left();
}

/// "If the SCMP_ACT_NOTIFY action is not used this value is ignored." (config-linux.md, "Seccomp")
#[test]
fn listener_path_without_notification_is_ignored() {
    needs_containers!();
    let text = output("mkdir /x && echo made", |bundle, _| {
        profile(bundle, "SCMP_ACT_ERRNO", &["reboot"]);
        bundle.set("/linux/seccomp/listenerPath", json!("/no/such/agent.sock"));
    });
    assert_eq!(text, "made\n");
}

/// "This field MUST NOT be set if listenerPath is not set." "When the action doesn't support an errno, the runtime
/// MUST print and error and fail." (config-linux.md, "Seccomp") SCMP_ACT_NOTIFY needs a path, cannot be the default,
/// and cannot be for `write`.
#[test]
fn impossible_profiles_are_refused_by_their_field() {
    needs_containers!();
    let rule = |action: &str, call: &str| json!([{"names": [call], "action": action}]);
    let allow = |syscalls: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls});
    let with = |mut profile: Value, key: &str, value: Value| {
        profile[key] = value;
        profile
    };
    let notify = |call: &str| with(allow(rule("SCMP_ACT_NOTIFY", call)), "listenerPath", json!("/s"));
    let mut errno = allow(rule("SCMP_ACT_KILL", "mkdir"));
    errno["syscalls"][0]["errnoRet"] = json!(5);
    let profiles = [
        (allow(rule("SCMP_ACT_NOTIFY", "mkdir")), "listenerPath"),
        (with(notify("mkdir"), "defaultAction", json!("SCMP_ACT_NOTIFY")), "defaultAction"),
        (notify("write"), "syscalls[0]"),
        (errno, "syscalls[0].errnoRet"),
    ];
    // COMPAT: runc passes over an errno that has no meaning.
    let count = if ours() { profiles.len() } else { profiles.len() - 1 };
    for (profile, field) in profiles.into_iter().take(count) {
        let host = Host::new();
        let mut bundle = host.bundle("a", "true");
        bundle.set("/linux/seccomp", profile);
        let shim = host.start(bundle);
        let failure = shim.create().expect_err("refused");
        if ours() {
            assert!(failure.message.contains(&format!("linux.seccomp.{field}")), "{failure:?}");
        }
        shim.assert_nothing_left();
    }
}

/// Containers of a pod have a filter each, whether their profiles are the same or differ.
#[test]
fn containers_of_one_shim_have_their_own_profiles() {
    needs_containers!();
    let host = Host::new();
    let bundle = |id: &str, errno: i32| {
        let mut bundle = host.bundle(id, "mkdir /x 2>&1; sleep 1000");
        profile(&mut bundle, "SCMP_ACT_ERRNO", &["mkdir", "mkdirat"]);
        bundle.set("/linux/seccomp/syscalls/0/errnoRet", json!(errno));
        bundle.write();
        bundle
    };
    let mut shim = host.start(bundle("a", libc::EMLINK));
    let mut earlier = Vec::new();
    for (id, errno, words) in [
        ("", libc::EMLINK, "Too many links"),
        ("b", libc::EMLINK, "Too many links"),
        ("c", libc::ENOSPC, "No space left"),
    ] {
        if !id.is_empty() {
            earlier.push(std::mem::replace(&mut shim.bundle, bundle(id, errno)));
        }
        let out = Sink::new(host.folder().join(format!("out{id}")));
        shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
        out.wait_for(words);
        assert!(exec_output(&shim, "mkdir /y 2>&1 || true", |_| {}).contains(words));
    }
    for bundle in earlier.into_iter().rev() {
        shim.kill("", libc::SIGKILL).expect("Kill");
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
        shim.bundle = bundle;
    }
}

/// "architectures: the architecture used for system calls." (config-linux.md, "Seccomp") A program of another one is held
/// to the rules of its own numbers if that is in the list, and ended if it is not.
#[cfg(target_arch = "x86_64")]
#[test]
fn architectures_have_their_own_numbers() {
    needs_containers!();
    let told = |architectures: Option<&[&str]>| {
        output("/i386; echo status $?", |bundle, folder| {
            executable(&folder.join("upper-a/i386"), mkdir_of_i386());
            if let Some(architectures) = architectures {
                profile(bundle, "SCMP_ACT_ERRNO", &["mkdir"]);
                bundle.set("/linux/seccomp/syscalls/0/errnoRet", json!(libc::EMLINK));
                bundle.set("/linux/seccomp/architectures", json!(architectures));
            }
        })
    };
    needs!(told(None).contains("status 0\n"), "this kernel runs no program of i386");
    assert!(
        told(Some(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])).contains(&format!("status {}\n", libc::EMLINK))
    );
    assert!(told(Some(&["SCMP_ARCH_X86_64"])).contains(&format!("status {BY_SIGSYS}\n")));
}

/// An executable of i386 that ends with the errno of `mkdir("/x", 0755)`. elf(5)
#[cfg(target_arch = "x86_64")]
fn mkdir_of_i386() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 39; mov ebx, path; mov ecx, 0755; int 0x80; neg eax; mov ebx, eax; mov eax, 1; int 0x80; path: "/x"
    let mut code = vec![0xb8, 39, 0, 0, 0, 0xbb];
    code.extend((BASE + HEADERS + 28).to_le_bytes());
    code.extend([
        0xb9, 0xed, 1, 0, 0, 0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80, b'/', b'x', 0,
    ]);
    let size = HEADERS + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, BASE + HEADERS, 52, 0, 0, 52 | 32 << 16, 1, 0, 1, 0, BASE, BASE, size, size, 5, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}
