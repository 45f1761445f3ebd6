//! What clients rely on when something is not as it should be: status codes, texts, and that nothing is left.

use crate::needs;
use crate::needs_containers;
use crate::support::leak;
use crate::support::shim::{Host, Stdio3, any};
use crate::support::subject::ours;
use containerd_shim_protos::api::{self, Status};
use protobuf::Message;
use serde_json::{Value, json};
use ttrpc::proto::Code;

#[test]
fn unknown_container_is_not_found() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let codes = [
        shim.state("").err(),
        shim.start("").err(),
        shim.kill("", 9).err(),
        shim.delete("").err(),
        shim.wait("").err(),
        shim.pids().err(),
        shim.stats().err(),
        shim.pause().err(),
        shim.resume().err(),
        shim.resize("", 1, 1).err(),
        shim.close_stdin("").err(),
        shim.update(&json!({})).err(),
        shim.exec("x", "true").err(),
    ];
    for (at, failure) in codes.into_iter().enumerate() {
        assert_eq!(failure.expect("a failure").code, Code::NOT_FOUND, "call {at}");
    }
}

/// "Not found" would be taken to mean the container, which is there.
#[test]
fn start_of_an_init_that_dies_is_not_told_as_not_found() {
    needs_containers!();
    needs!(ours(), "runc's Start is over before init runs its hooks");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    // In a pid namespace of its own nobody inside could kill init.
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.set("/hooks/startContainer", json!([{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $(grep -oE '\"pid\":[0-9]+' | cut -d: -f2)"]}]));
    let shim = host.start(bundle);
    shim.create().expect("Create");
    assert_eq!(shim.start("").expect_err("Start").code, Code::UNKNOWN);
    assert_eq!(shim.wait("").expect("Wait"), 137);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn unknown_exec_is_not_found() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for failure in [
        shim.state("x").err(),
        shim.start("x").err(),
        shim.kill("x", 9).err(),
        shim.delete("x").err(),
        shim.wait("x").err(),
    ] {
        assert_eq!(failure.expect("a failure").code, Code::NOT_FOUND);
    }
}

#[test]
fn duplicate_exec_id_already_exists() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("x", "true").expect("Exec");
    assert_eq!(shim.exec("x", "true").expect_err("the id is taken").code, Code::ALREADY_EXISTS);
}

/// "Attempting to send a signal to a container that is neither created nor running MUST have no effect on the
/// container and MUST generate an error." (runtime.md, "Kill")
#[test]
fn kill_of_a_stopped_process_is_not_found() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    shim.run();
    shim.wait("").expect("Wait");
    let failure = shim.kill("", 9).expect_err("it is dead");
    assert_eq!(
        (failure.code, failure.message.contains("process already finished")),
        (Code::NOT_FOUND, true),
        "{failure:?}"
    );
}

/// Whoever waits for Start handles no signal, and PID 1 of a pid namespace is spared those that nobody handles
/// (pid_namespaces(7)): it ends all the same.
#[test]
fn sigterm_ends_a_container_that_was_never_started() {
    needs_containers!();
    for all in [false, true] {
        let host = Host::new();
        let shim = host.start(host.bundle("a", "true"));
        shim.create().expect("Create");
        if all { shim.kill_all(libc::SIGTERM) } else { shim.kill("", libc::SIGTERM) }.expect("Kill");
        let status = shim.wait("").expect("Wait");
        assert!(!ours() || status == 137, "{status}");
        shim.delete("").expect("Delete");
        shim.assert_nothing_left();
    }
}

/// "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an
/// error." (runtime.md, "Delete")
#[test]
fn delete_of_a_running_task_is_a_failed_precondition() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let failure = shim.delete("").expect_err("it runs");
    if !crate::support::differences::runc_differs("code of Delete while running") {
        assert_eq!(failure.code, Code::FAILED_PRECONDITION, "{failure:?}");
    }
    assert_eq!(shim.status(""), Status::RUNNING);
    shim.exec("x", "sleep 1000").expect("Exec");
    shim.start("x").expect("Start");
    shim.delete("x").expect_err("the exec runs");
    assert_eq!(shim.status("x"), Status::RUNNING);
}

#[test]
fn second_delete_is_not_found() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    shim.run();
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(shim.delete("").expect_err("it is gone").code, Code::NOT_FOUND);
}

#[test]
fn unknown_method_is_refused_and_the_connection_lives() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let failure =
        shim.call::<api::Empty>("NoSuchMethod", &api::Empty::default()).expect_err("no such method");
    assert!(
        [Code::UNIMPLEMENTED, Code::INVALID_ARGUMENT, Code::NOT_FOUND].contains(&failure.code),
        "{failure:?}"
    );
    shim.run();
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff],
        &[0; 3],
    ] {
        let client = shim.client();
        std::io::Write::write_all(&mut client.raw(), garbage).expect("write");
        drop(client);
    }
    let mut client = shim.client();
    let request = api::StateRequest { id: shim.id(), ..Default::default() };
    let state: api::StateResponse = client.call(shim.service(), "State", &request).expect("State");
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
}

/// Create fails with every expected word in its message, publishes no exit, leaves nothing, and the id stays usable.
#[track_caller]
fn assert_create_fails(change: impl FnOnce(&mut crate::support::bundle::Bundle), words: &[&str]) {
    let host = Host::new();
    let mut bundle = host.bundle("a", "exit 5");
    let sound = bundle.config.clone();
    change(&mut bundle);
    let mut shim = host.start(bundle);
    let failure = shim.create().expect_err("Create must fail");
    for word in words {
        // runc begins some sentences with a capital letter.
        assert!(
            failure.message.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is not in {:?}",
            failure.message
        );
    }
    assert_eq!(shim.state("").expect_err("no such task").code, Code::NOT_FOUND);
    shim.assert_nothing_left();
    shim.bundle.config = sound;
    shim.bundle.write();
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 5, "the same id, mended");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    host.events.wait_for("delete");
    let events = host.events.names();
    assert_eq!(events.iter().filter(|name| *name == "exit").count(), 1, "{events:?}");
}

/// "that entry is used with the same semantics as execvp's file" (config.md, "Process").
#[test]
fn create_fails_when_the_program_is_not_in_path() {
    needs_containers!();
    assert_create_fails(
        |b| b.set("/process/args", json!(["nonesuch"])),
        &[r#"exec: "nonesuch": executable file not found in $PATH"#],
    );
}

#[test]
fn create_fails_when_the_program_does_not_exist() {
    needs_containers!();
    assert_create_fails(
        |b| b.set("/process/args", json!(["/nonesuch"])),
        &[r#"exec: "/nonesuch": stat /nonesuch: no such file or directory"#],
    );
}

/// What is in the way in PATH without being executable is passed over, as execvp(3) would not.
#[test]
fn file_in_path_that_is_not_executable_is_not_the_program() {
    needs_containers!();
    assert_create_fails(
        |b| b.set("/process/args", json!(["plain"])),
        &[r#"exec: "plain": executable file not found in $PATH"#],
    );
}

#[test]
fn create_fails_when_the_program_is_not_executable() {
    needs_containers!();
    assert_create_fails(
        |b| b.set("/process/args", json!(["/bin/plain"])),
        &[r#"exec: "/bin/plain": permission denied"#],
    );
}

#[test]
fn create_fails_when_a_mount_source_is_missing_and_names_it() {
    needs_containers!();
    let mount =
        json!({"destination": "/volume", "type": "bind", "source": "/no/such/source", "options": ["rbind"]});
    // runc does not say where it was to be mounted.
    let words = if ours() { &["/no/such/source", "/volume"][..] } else { &["/no/such/source"] };
    assert_create_fails(|b| b.push("/mounts", mount), words);
}

/// Docker adds its hint, "Are you trying to mount a directory onto a file (or vice-versa)?", to these very words.
#[test]
fn create_fails_when_a_file_is_mounted_on_a_directory_or_the_reverse_and_says_not_a_directory() {
    needs_containers!();
    for (source, target) in [("/etc/passwd", "/etc"), ("/etc", "/etc/passwd")] {
        let mount = json!({"destination": target, "type": "bind", "source": source, "options": ["rbind"]});
        assert_create_fails(|b| b.push("/mounts", mount), &["not a directory", source, target]);
    }
}

#[test]
fn create_fails_when_a_namespace_path_is_wrong_and_names_it() {
    needs_containers!();
    let wrong = json!({"type": "network", "path": "/no/such/namespace"});
    assert_create_fails(|b| b.set("/linux/namespaces/4", wrong), &["/no/such/namespace"]);
}

#[test]
fn create_fails_when_a_sysctl_does_not_exist_and_names_it() {
    needs_containers!();
    assert_create_fails(|b| b.set("/linux/sysctl", json!({"net.no.such": "1"})), &["net"]);
}

#[test]
fn create_fails_when_a_create_runtime_hook_fails() {
    needs_containers!();
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo hook says no >&2; exit 3"]}]});
    assert_create_fails(|b| b.set("/hooks", hooks), &["hook"]);
}

#[test]
fn create_fails_without_args_and_names_them() {
    needs_containers!();
    assert_create_fails(|b| b.set("/process/args", json!([])), &["args"]);
}

#[test]
fn create_fails_when_cwd_is_relative_and_names_it() {
    needs_containers!();
    assert_create_fails(|b| b.set("/process/cwd", json!("tmp")), &["cwd"]);
}

#[test]
fn create_fails_when_a_rootfs_mount_fails() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.mounts[0].options[0] = "lowerdir=/no/such/lower".into();
    let shim = host.start(bundle);
    shim.create().expect_err("no such folder");
    shim.assert_nothing_left();
}

#[test]
fn create_fails_when_config_is_not_json() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    std::fs::write(shim.bundle.folder.join("config.json"), "{").expect("write");
    shim.create().expect_err("not JSON");
    shim.assert_nothing_left();
    assert!(host.events.names().is_empty(), "{:?}", host.events.names());
}

#[test]
fn exec_of_a_missing_program_fails_in_start_and_init_lives_on() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for (program, text) in [
        ("nonesuch", r#"exec: "nonesuch": executable file not found in $PATH"#),
        ("/nonesuch", r#"exec: "/nonesuch": stat /nonesuch: no such file or directory"#),
        ("/bin/plain", r#"exec: "/bin/plain": permission denied"#),
    ] {
        shim.exec_process("x", &shim.bundle.process(&[program]), &Stdio3::default()).expect("Exec");
        let failure = shim.start("x").expect_err("no such program");
        assert!(failure.message.contains(text), "{failure:?}");
        let _ = shim.delete("x");
    }
    assert_eq!(shim.status(""), Status::RUNNING);
    assert_eq!(leak::processes_in(shim.bundle.cgroup()).len(), 1);
}

#[test]
fn exec_with_a_malformed_process_is_refused() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let broken = Value::String("not a process".into());
    let refused =
        shim.exec_process("x", &broken, &Stdio3::default()).and_then(|()| shim.start("x").map(drop));
    assert!(refused.is_err());
    shim.exec("x", "exit 4")
        .or_else(|_| shim.delete("x").and_then(|_| shim.exec("x", "exit 4")))
        .expect("the id stays usable");
    shim.start("x").expect("Start");
    assert_eq!(shim.wait("x").expect("Wait"), 4);
}

#[test]
fn options_that_cannot_be_read_fail_create_by_name_and_the_next_one_works() {
    needs_containers!();
    needs!(ours(), "runc's shim names no type, and knows no TOML");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exit 3"));
    // runtimeoptions.v1.Options, config_body (3).
    let toml = |body: &str| [&[0x1a, body.len() as u8], body.as_bytes()].concat();
    for (name, value, words) in [
        ("containerd.runc.v1.Options", vec![0xff; 7], ["decode", "containerd.runc.v1.Options"]),
        ("runtimeoptions.v1.Options", toml("StopTimeout = 'soon'"), ["StopTimeout", "soon"]),
        ("runtimeoptions.v1.Options", toml("StopTimeout ="), ["config_body", "is not TOML"]),
    ] {
        let mut request = shim.create_request(&Stdio3::default());
        request.options = Some(any(name, value)).into();
        let failure =
            shim.call::<api::CreateTaskResponse>("Create", &request).expect_err("malformed options");
        assert_eq!(failure.code, Code::INVALID_ARGUMENT, "{failure:?}");
        assert!(words.iter().all(|word| failure.message.contains(word)), "{failure:?}");
        shim.assert_nothing_left();
    }
    let mut request = shim.create_request(&Stdio3::default());
    request.options = Some(any("of.somebody.Else", vec![0xff; 7])).into();
    shim.call::<api::CreateTaskResponse>("Create", &request).expect("unknown types are warned about");
    shim.start("").expect("Start");
    assert_eq!(shim.wait("").expect("Wait"), 3);
}

#[test]
fn start_with_options_that_cannot_be_read_says_so_and_leaves_nothing() {
    needs_containers!();
    needs!(ours(), "runc's shim reads them in Create");
    let host = Host::new();
    let bundle = host.bundle("a", "true");
    bundle.write();
    let options = any("containerd.runc.v1.Options", vec![0xff; 7]).write_to_bytes().expect("encode");
    let output = host.invoke(&bundle, "start", &options);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("containerd.runc.v1.Options"), "{output:?}");
    assert!(!bundle.folder.join("address").exists());
    assert!(leak::processes_naming(&host.namespace).is_empty());
}

#[test]
fn checkpoint_and_restore_are_not_implemented_in_words() {
    needs_containers!();
    needs!(ours(), "runc has CRIU, or says that it has not");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let restore =
        api::CreateTaskRequest { checkpoint: "/nonesuch".into(), ..shim.create_request(&Stdio3::default()) };
    let restored = shim.call::<api::CreateTaskResponse>("Create", &restore).map(drop);
    shim.run();
    let checkpoint =
        api::CheckpointTaskRequest { id: shim.id(), path: "/nonesuch".into(), ..Default::default() };
    let checkpointed = shim.call::<api::Empty>("Checkpoint", &checkpoint).map(drop);
    for refusal in [restored, checkpointed] {
        let failure = refusal.expect_err("not implemented");
        assert_eq!(failure.code, Code::UNIMPLEMENTED, "{failure:?}");
        assert!(failure.message.contains("not implemented"), "{failure:?}");
    }
}
