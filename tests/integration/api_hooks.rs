//! Hooks: all six moments, their namespaces, what they are given, their time-outs and failures.

use crate::needs_containers;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::run::{exec_output, output};
use crate::support::shim::{Host, Shim};
use crate::support::subject::ours;
use crate::support::{self, SOON, leak};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A shell's hook; `timeout` in seconds.
fn hook(script: &str, timeout: Option<u32>) -> Value {
    let mut hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    if let Some(seconds) = timeout {
        hook[0]["timeout"] = json!(seconds);
    }
    hook
}

fn end(shim: &Shim<'_>) {
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
}

/// "The createContainer hooks MUST be executed in the container namespace." "The startContainer hooks MUST be
/// executed in the container namespace." The others "MUST be executed in the runtime namespace." "The state of the
/// container MUST be passed to hooks over stdin so that they may do work appropriate to the current state of the
/// container." (config.md, "POSIX-platform Hooks")
#[test]
fn hooks_run_in_their_namespaces_in_order_with_the_state() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("log");
    let mut bundle = host.bundle("a", "sleep 1000");
    // Where the container sees the log: its /log is the host's file.
    fs::write(&log, "").expect("make the log");
    bundle
        .push("/mounts", json!({"destination": "/log", "type": "bind", "source": log, "options": ["bind"]}));
    bundle.set("/annotations", json!({"colour": "blue"}));
    let outside = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let say = |moment: &str, file: &Path| {
        format!(
            "read state; echo \"{moment} $(readlink /proc/self/ns/uts) $(echo \"$state\" | grep -o '\"status\":\"[a-z]*\"') \
             $(echo \"$state\" | grep -c '\"colour\":\"blue\"')\" >>{}",
            file.display()
        )
    };
    for moment in outside {
        // stdin has no newline at its end, which is no failure of the hook.
        bundle.set(
            &format!("/hooks/{moment}"),
            hook(&say(moment, &log).replace("read state;", "state=$(cat);"), None),
        );
    }
    let inside = say("startContainer", Path::new("/log")).replace("read state;", "state=$(cat);");
    bundle.set("/hooks/startContainer", hook(&inside, None));
    let shim = host.start(bundle);
    let pid = shim.create().expect("Create");
    let uts = |of: &str| fs::read_link(format!("/proc/{of}/ns/uts")).expect("ns").display().to_string();
    let (theirs, ours_) = (uts(&pid.to_string()), uts(&shim.pid.to_string()));
    let moments = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    if !runc_differs("poststart hooks at Create") {
        let so_far = fs::read_to_string(&log).expect("the log");
        assert_eq!(moments(&so_far), ["prestart", "createRuntime", "createContainer"], "{so_far}");
    }
    shim.start("").expect("Start");
    end(&shim);
    let text = fs::read_to_string(&log).expect("the log");
    let order = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    if ours() {
        assert_eq!(moments(&text), order, "{text}");
    }
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let in_container = ["createContainer", "startContainer"].contains(&words[0]);
        assert_eq!(words[1], if in_container { &theirs } else { &ours_ }, "{line}");
        assert_eq!(words.last(), Some(&"1"), "annotations: {line}");
        let status = match words[0] {
            "startContainer" => "created",
            "poststart" if ours() => "running",
            "poststart" => "created",
            "poststop" => "stopped",
            _ => "creating",
        };
        assert!(line.contains(&format!("\"status\":\"{status}\"")), "{line}");
    }
}

/// env: "with the same semantics as IEEE Std 1003.1-2008's environ" (config.md, "POSIX-platform Hooks"): that and
/// nothing of the shim's.
#[test]
fn hooks_have_the_environment_and_arguments_of_the_spec() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("log");
    let script = format!("echo \"$0 $1\" >{0}; /usr/bin/env | sort >>{0}", log.display());
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set(
        "/hooks/createRuntime",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one"], "env": ["A=1"]}]),
    );
    let shim = host.start(bundle);
    shim.run();
    let text = fs::read_to_string(&log).expect("the log");
    // A shell adds these by itself.
    let own = |line: &&str| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|name| line.starts_with(name));
    assert_eq!(text.lines().filter(own).collect::<Vec<_>>(), ["zero one", "A=1"]);
}

/// "env (array of strings, OPTIONAL) with the same semantics as IEEE Std 1003.1-2008's environ." (config.md,
/// "POSIX-platform Hooks") The spec does not say what a hook without it has. As under runc, a startContainer hook has
/// the environment of the container's process; the others find programs, and have nothing of the shim's.
#[test]
fn hook_without_an_environment_has_the_processes_in_the_container_and_a_path_outside() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("log");
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.push(
        "/mounts",
        json!({"destination": "/log", "type": "bind", "source": host.folder(), "options": ["bind"]}),
    );
    bundle.set("/process/env", json!(["PATH=/bin", "COLOUR=red", "COLOUR=blue"]));
    let without =
        |file: &Path| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("env >{}", file.display())]}]);
    bundle.set("/hooks/startContainer", without(Path::new("/log/startContainer")));
    if ours() {
        for moment in ["createRuntime", "createContainer", "poststart"] {
            bundle.set(&format!("/hooks/{moment}"), without(&log.with_file_name(moment)));
        }
    }
    let shim = host.start(bundle);
    shim.run();
    // A shell adds these by itself.
    let own = |line: &&str| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|name| line.starts_with(name));
    let told = |moment: &str| {
        let text = fs::read_to_string(log.with_file_name(moment)).expect("written by the hook");
        let mut lines: Vec<_> = text.lines().filter(own).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(told("startContainer"), ["COLOUR=blue", "HOME=/root", "PATH=/bin"]);
    if ours() {
        for moment in ["createRuntime", "createContainer", "poststart"] {
            let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
            assert_eq!(told(moment), [path], "{moment}");
        }
    }
}

/// Of the working directory the spec says nothing. As under runc, hooks of the runtime's namespaces are in the bundle, those
/// of the container's in its root.
#[test]
fn hooks_are_in_the_bundle_or_in_the_root() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("log");
    let mut bundle = host.bundle("a", "sleep 1000");
    for moment in ["createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.set(&format!("/hooks/{moment}"), hook(&format!("pwd >>{}", log.display()), None));
    }
    let (folder, rootfs) = (bundle.folder.display().to_string(), bundle.rootfs().display().to_string());
    let shim = host.start(bundle);
    shim.run();
    end(&shim);
    let text = fs::read_to_string(&log).expect("the log");
    assert_eq!(text.lines().collect::<Vec<_>>(), [&folder, &rootfs, &folder, &folder]);
}

/// timeout: "is the number of seconds before aborting the hook." (config.md, "POSIX-platform Hooks") Of every moment.
#[test]
fn hook_that_hangs_is_killed_and_told_in_words() {
    needs_containers!();
    let moments = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    // Side by side: each waits for a time-out, and hangs under a number of its own.
    std::thread::scope(|scope| {
        for (moment, number) in moments.into_iter().zip(987650..) {
            let known =
                [("startContainer", "failing startContainer hook"), ("poststop", "failing poststop hook")];
            if known.iter().any(|(of, name)| *of == moment && runc_differs(name)) {
                continue;
            }
            scope.spawn(move || hangs(moment, &number.to_string()));
        }
    });
}

fn hangs(moment: &str, number: &str) {
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    let log = Sink::new(bundle.folder.join("log"));
    bundle.set(
        &format!("/hooks/{moment}"),
        hook(&format!("echo going on and on; exec sleep {number}"), Some(1)),
    );
    let shim = host.start(bundle);
    let told = format!("hooks.{moment}[0] /bin/sh: did not end within its timeout of 1 s and was killed");
    if moment == "poststop" {
        shim.run();
        end(&shim);
        if ours() {
            log.wait_for(&told);
        }
    } else {
        let created = shim.create();
        let had_container = created.is_ok();
        let failure = created.and_then(|_| shim.start("")).expect_err("a failure");
        if ours() {
            assert!(failure.message.contains(&told), "{failure:?}");
            assert!(failure.message.contains("going on and on"), "{failure:?}");
            assert_eq!(had_container, ["startContainer", "poststart"].contains(&moment), "{moment}");
        }
        if had_container {
            // The hook took its container with it.
            shim.wait("").expect("Wait");
            shim.delete("").expect("Delete");
        }
    }
    support::eventually("the hook is gone", SOON, || leak::processes_naming(number).is_empty().then_some(()));
    shim.assert_nothing_left();
}

/// "If set, timeout MUST be greater than zero." (config.md, "POSIX-platform Hooks")
#[test]
fn timeout_of_nothing_is_refused() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.set("/hooks/poststop", hook("true", Some(0)));
    let shim = host.start(bundle);
    if ours() {
        let failure = shim.create().expect_err("refused");
        assert!(failure.message.contains("hooks.poststop[0].timeout"), "{failure:?}");
    }
}

/// "The startContainer hooks MUST be executed in the container namespace." (config.md, "StartContainer Hooks") What
/// they execute comes from the image, so it has no more rights than the container's process.
#[test]
fn start_container_hooks_have_the_rights_of_the_process_and_no_more() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("log");
    fs::write(&log, "").expect("make the log");
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle
        .push("/mounts", json!({"destination": "/log", "type": "bind", "source": log, "options": ["bind"]}));
    bundle.set("/process/user", json!({"uid": 0, "gid": 7}));
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]));
    // Another test may mount net_cls between the two looks.
    let script = "grep -E '^(Cap|Gid|Seccomp:|NoNew)' /proc/self/status >/log; ulimit -n >>/log; \
        grep -v net_cls /proc/self/cgroup >>/log";
    bundle.set("/hooks/startContainer", hook(script, None));
    let shim = host.start(bundle);
    shim.create().expect("Create");
    shim.start("").expect("Start");
    let said = || fs::read_to_string(&log).expect("the log");
    if !ours() {
        // Its hook may still be at it.
        support::eventually("the hook's last words", SOON, || said().contains(":/").then_some(()));
    }
    let said = said();
    let theirs = exec_output(&shim, &script.replace(">>/log", "").replace(">/log", ""), |process| {
        process["user"] = json!({"uid": 0, "gid": 7});
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]);
    });
    assert_eq!(said, theirs);
    assert!(said.contains("\n99\n"), "{said}");
    end(&shim);
}

/// "If any startContainer hook fails, the runtime MUST generate an error, stop the container"; "If any poststart hook
/// fails, the runtime MUST generate an error, stop the container" (runtime.md, "Lifecycle").
#[test]
fn failing_hooks_of_start_fail_it_and_end_the_container() {
    needs_containers!();
    for moment in ["startContainer", "poststart"] {
        if moment == "startContainer" && runc_differs("failing startContainer hook") {
            continue;
        }
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set(&format!("/hooks/{moment}"), hook("echo bad day; exit 4", None));
        let shim = host.start(bundle);
        let created = shim.create();
        if runc_differs("poststart hooks at Create") {
            created.expect_err("a failure");
            continue;
        }
        let pid = created.expect("Create");
        let failure = shim.start("").expect_err("a failure");
        if ours() {
            let told = format!("hooks.{moment}[0] /bin/sh: exit status 4");
            assert!(failure.message.contains(&told) && failure.message.contains("bad day"), "{failure:?}");
            support::eventually("init is dead", SOON, || (!leak::alive(pid as i32)).then_some(()));
            shim.delete("").expect("Delete");
            shim.assert_nothing_left();
        }
    }
}

/// "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue as if
/// the hook had succeeded." (runtime.md, "Lifecycle")
#[test]
fn failing_poststop_hook_does_not_keep_the_next_from_running() {
    needs_containers!();
    if runc_differs("failing poststop hook") {
        return;
    }
    let host = Host::new();
    let log = host.folder().join("log");
    let mut bundle = host.bundle("a", "sleep 1000");
    let mut hooks = hook("exit 3", None);
    hooks
        .as_array_mut()
        .expect("a list")
        .push(hook(&format!("echo second >{}", log.display()), None)[0].clone());
    bundle.set("/hooks/poststop", hooks);
    let shim = host.start(bundle);
    shim.run();
    end(&shim);
    assert_eq!(fs::read_to_string(&log).expect("the log"), "second\n");
    shim.assert_nothing_left();
}

/// "The createContainer hooks MUST be called as part of the create operation after the runtime environment has been
/// created (according to the configuration in config.json) but before the pivot_root or any equivalent operation has
/// been executed." (config.md, "CreateContainer Hooks") What they mount into the root is there in the container.
#[test]
fn create_container_hook_can_change_the_mounts() {
    needs_containers!();
    let text = output("cat /volume/file", |bundle, folder| {
        let source = folder.join("source");
        fs::create_dir_all(&source).expect("make a folder");
        fs::write(source.join("file"), "from the hook\n").expect("write");
        let target = bundle.rootfs().join("volume");
        let script = format!("mount --bind {} {}", source.display(), target.display());
        bundle.set("/hooks/createContainer", hook(&script, None));
    });
    assert_eq!(text, "from the hook\n");
}

/// "If any createRuntime hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step
/// 12", which ends with the poststop hooks (runtime.md, "Lifecycle"); whatever else ends a Create after them too: nerdctl's
/// poststop hook takes down the network that its createRuntime hook has made.
#[test]
fn create_that_fails_after_its_hooks_runs_the_poststop_hooks() {
    needs_containers!();
    for program in ["nonesuch", "true"] {
        let host = Host::new();
        let log = host.folder().join("log");
        let mut bundle = host.bundle("a", "true");
        let say = |moment: &str, then: &str| {
            let script = format!("grep -q '\"status\":' && echo {moment} >>{}; {then}", log.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        bundle.set("/process/args", json!([program]));
        let end = if program == "true" { "exit 1" } else { "exit 0" };
        bundle.set(
            "/hooks",
            json!({"createRuntime": say("made", end), "poststop": say("taken down", "exit 0")}),
        );
        let shim = host.start(bundle);
        shim.create().expect_err("no such program, or a failing hook");
        shim.assert_nothing_left();
        assert_eq!(fs::read_to_string(&log).expect("the log"), "made\ntaken down\n", "{program}");
        host.delete(&shim.bundle);
        assert_eq!(fs::read_to_string(&log).expect("the log"), "made\ntaken down\n", "once");
    }
}
