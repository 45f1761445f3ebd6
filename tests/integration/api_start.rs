//! The command line: start, grouping, options in all their encodings, idle shims, and delete after a crash.

use crate::needs;
use crate::needs_containers;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Shim, Stdio3, any, read_reply};
use crate::support::subject::ours;
use crate::support::wire::Client;
use crate::support::{self, SOON, leak};
use containerd_shim_protos::api::{self, Status};
use protobuf::Message;
use serde_json::json;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

#[test]
fn start_prints_the_address_and_nothing_else() {
    needs_containers!();
    let host = Host::new();
    let bundle = host.bundle("a", "true");
    bundle.write();
    let output = host.invoke(&bundle, "start", b"");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let reply = String::from_utf8(output.stdout).expect("text");
    let (socket, version) = read_reply(&reply);
    if ours() {
        // Generations 1.6 to 2.2 all take the bare address; JSON breaks the first two.
        assert!(reply.starts_with("unix:///") && version == 2, "{reply:?}");
    }
    let data = std::fs::metadata(&socket).expect("the socket");
    assert!(data.file_type().is_socket());
    assert_eq!(data.permissions().mode() & 0o077, 0, "others may not use the socket");
    assert!(socket.as_os_str().len() <= 107);
    let shim: api::ConnectResponse = Client::connect(&socket)
        .expect("connect")
        .call(
            &format!("containerd.task.v{version}.Task"),
            "Connect",
            &api::ConnectRequest { id: "a".into(), ..Default::default() },
        )
        .expect("Connect");
    support::shim::signal(shim.shim_pid as i32, libc::SIGKILL);
    host.invoke(&bundle, "delete", b"");
}

#[test]
fn shim_leads_a_process_group() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", shim.pid)).expect("stat");
    // Field 5 of proc_pid_stat(5); the first behind the name is number 3.
    let group = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(2));
    assert_eq!(group, Some(shim.pid.to_string().as_str()), "{stat}");
}

#[test]
fn oom_score_is_one_above_the_starters() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    let score = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .expect("score")
            .trim()
            .parse::<i32>()
            .expect("a number")
    };
    assert_eq!(score(&shim.pid.to_string()), (score("self") + 1).min(1000));
}

#[test]
fn both_names_of_the_task_service_answer() {
    needs_containers!();
    needs!(ours(), "a Go shim serves one of them");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    for version in [2, 3] {
        let request = api::StateRequest { id: shim.id(), ..Default::default() };
        let state: api::StateResponse = shim
            .client()
            .call(&format!("containerd.task.v{version}.Task"), "State", &request)
            .expect("State");
        assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    }
}

/// What `start` says for one more container of a group whose shim runs.
fn join(
    host: &Host,
    first: &Shim<'_>,
    mut bundle: support::bundle::Bundle,
    group: &serde_json::Value,
) -> support::bundle::Bundle {
    bundle.set("/annotations", group.clone());
    bundle.write();
    let output = host.invoke(&bundle, "start", b"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read_reply(&String::from_utf8(output.stdout).expect("text")).0, first.address);
    bundle
}

#[test]
fn containers_of_a_group_share_one_shim() {
    needs_containers!();
    for group in
        [json!({"io.containerd.runc.v2.group": "pod"}), json!({"io.kubernetes.cri.sandbox-id": "pod"})]
    {
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set("/annotations", group.clone());
        let shim = host.start(bundle);
        shim.run();
        let second = join(&host, &shim, host.bundle("b", "exit 8"), &group);
        let mut client = shim.client();
        let create = api::CreateTaskRequest {
            id: "b".into(),
            bundle: second.folder.display().to_string(),
            rootfs: second.mounts.clone(),
            ..Default::default()
        };
        client.call::<api::CreateTaskResponse>(shim.service(), "Create", &create).expect("Create");
        client
            .call::<api::StartResponse>(
                shim.service(),
                "Start",
                &api::StartRequest { id: "b".into(), ..Default::default() },
            )
            .expect("Start");
        let wait: api::WaitResponse = client
            .call(shim.service(), "Wait", &api::WaitRequest { id: "b".into(), ..Default::default() })
            .expect("Wait");
        assert_eq!(wait.exit_status, 8);
        client
            .call::<api::DeleteResponse>(
                shim.service(),
                "Delete",
                &api::DeleteRequest { id: "b".into(), ..Default::default() },
            )
            .expect("Delete");
        // Ignored while the first container is there.
        client
            .send(shim.service(), "Shutdown", &api::ShutdownRequest { id: "b".into(), ..Default::default() })
            .expect("send");
        let _: api::Empty = client.receive("Shutdown").expect("Shutdown");
        assert_eq!(shim.status(""), Status::RUNNING);
    }
}

#[test]
fn start_for_a_running_group_is_idempotent() {
    needs_containers!();
    let host = Host::new();
    let group = json!({"io.containerd.runc.v2.group": "pod"});
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/annotations", group.clone());
    let shim = host.start(bundle);
    for id in ["b", "c"] {
        join(&host, &shim, host.bundle(id, "true"), &group);
    }
}

#[test]
fn stale_socket_is_replaced() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    let address = shim.address.clone();
    shim.crash();
    assert!(address.exists(), "nobody removed the socket");
    let again = host.start(host.bundle("a", "true"));
    assert_eq!(again.address, address);
    again.run();
}

#[test]
fn delete_after_a_crash_of_the_shim_kills_and_cleans_up() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.run() as i32;
    shim.crash();
    assert!(leak::alive(pid), "a container outlives its shim");
    let begin = std::time::Instant::now();
    let answer = host.delete(&shim.bundle);
    assert!(begin.elapsed().as_secs() < 5);
    assert_eq!(answer.exit_status, 137);
    if !support::differences::runc_differs("pid in the answer of delete") {
        assert_eq!(answer.pid as i32, pid);
    }
    support::eventually("init is dead", SOON, || (!leak::alive(pid)).then_some(()));
    shim.assert_nothing_left();
}

#[test]
fn delete_works_where_nothing_ever_ran_and_twice() {
    needs_containers!();
    needs!(ours(), "runc's shim needs a file that its Create wrote");
    let host = Host::new();
    let bundle = host.bundle("a", "true");
    bundle.write();
    for _ in 0..2 {
        assert_eq!(host.delete(&bundle).exit_status, 137);
    }
}

#[test]
fn idle_shim_ends_by_itself() {
    needs_containers!();
    needs!(ours(), "a Go shim waits for ever");
    let mut host = Host::new();
    let file = host.folder().join("host.toml");
    std::fs::write(&file, "IdleTimeout = \"1s\"\n").expect("write");
    host.environment.push(("MYSHIM_CONFIG".into(), file.display().to_string()));
    let shim = host.start(host.bundle("a", "true"));
    shim.wait_until_gone();
    assert!(!shim.address.exists());
}

#[test]
fn options_arrive_in_every_encoding() {
    needs_containers!();
    let runc = containerd_shim_protos::shim::oci::Options {
        io_uid: 1000,
        io_gid: 1001,
        no_new_keyring: true,
        ..Default::default()
    };
    let runc = any("containerd.runc.v1.Options", runc.write_to_bytes().expect("encode"));
    let mut choices = vec![None, Some(runc)];
    if ours() {
        choices.push(Some(any(
            "runtimeoptions.v1.Options",
            toml_options("NoNewKeyring = true\nIoUid = 1000\nIoGid = 1001\n"),
        )));
    }
    for options in choices {
        let host = Host::new();
        let (out, owner) =
            (Sink::new(host.folder().join("out")), if options.is_some() { "0 1001\n" } else { "0 0\n" });
        let shim = host.start_with(host.bundle("a", "stat -L -c '%u %g' /proc/self/fd/1; exit 3"), options);
        shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
        assert_eq!(shim.wait("").expect("Wait"), 3);
        shim.delete("").expect("Delete");
        assert_eq!(out.finish(), owner, "the pipe is the process's user's, and IoGid's");
    }
}

/// "no_pivot_root": the root is moved and chrooted to. Whoever makes a user namespace in it still cannot mount a procfs
/// without the masks of the container's. To see it fail: leave out `hide` in `engine/child/mounts.rs`.
#[test]
fn root_that_is_not_pivoted_shows_no_more_than_another() {
    needs_containers!();
    let options = containerd_shim_protos::shim::oci::Options { no_pivot_root: true, ..Default::default() };
    let options = any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode"));
    let host = Host::new();
    let out = Sink::new(host.folder().join("out"));
    let nested = "unshare -U -r -m -p -f sh -c 'mount -t proc proc /mnt && echo mounted'";
    let mut bundle =
        host.bundle("a", &format!("mkdir -p /mnt; ls -d /marker /proc/self /dev/null; {nested}; echo end"));
    bundle.set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/keys"]));
    std::fs::write(host.folder().join("upper-a").join("marker"), "").expect("write a marker");
    let shim = host.start_with(bundle, Some(options));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    out.wait_for("end\n");
    let text = out.so_far();
    assert!(text.contains("/dev/null\n/marker\n/proc/self\n"), "{text}");
    assert!(!text.contains("mounted\n") && text.contains("denied"), "{text}");
}

/// `runtimeoptions.v1.Options` with `config_body` (field 3) only.
fn toml_options(body: &str) -> Vec<u8> {
    let mut message = vec![0x1a, u8::try_from(body.len()).expect("short")];
    message.extend(body.bytes());
    message
}

#[test]
fn longest_names_work() {
    needs_containers!();
    let mut host = Host::new();
    host.namespace = format!("n{:075}", std::process::id());
    let shim = host.start(host.bundle(&"x".repeat(64), "exit 2"));
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 2);
}

#[test]
fn identifiers_that_are_paths_are_refused() {
    needs_containers!();
    needs!(ours(), "runc's shim leaves this to containerd");
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.write();
    for id in ["..", "../x", "a/b", ""] {
        bundle.id = id.into();
        let output = host.invoke(&bundle, "start", b"");
        assert!(!output.status.success(), "{id:?} was taken");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn sigterm_stops_the_container_and_the_shim() {
    needs_containers!();
    needs!(ours(), "a Go shim only logs the signal");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "trap 'exit 4' TERM; while :; do sleep 0.05; done"));
    let pid = shim.run() as i32;
    std::thread::sleep(std::time::Duration::from_millis(300));
    support::shim::signal(shim.pid, libc::SIGTERM);
    shim.wait_until_gone();
    assert!(!leak::alive(pid));
    assert_eq!(host.events.wait_for("exit").exit_status, 4);
    shim.assert_nothing_left();
}

#[test]
fn abandoned_calls_do_not_undo_the_operation() {
    needs_containers!();
    needs!(ours(), "a Go shim cancels what its client abandons");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let mut client = shim.client();
    client.send(shim.service(), "Create", &shim.create_request(&Stdio3::default())).expect("send");
    drop(client);
    support::eventually("the task is created", SOON, || shim.state("").ok());
    let mut client = shim.client();
    client
        .send(shim.service(), "Start", &api::StartRequest { id: shim.id(), ..Default::default() })
        .expect("send");
    drop(client);
    support::eventually("the task runs", SOON, || (shim.status("") == Status::RUNNING).then_some(()));
}

/// "The binary works from any absolute path, alone."
#[test]
fn binary_works_from_any_place_with_nothing_beside_it_and_an_empty_path() {
    needs_containers!();
    needs!(ours(), "runc's shim needs runc in its PATH");
    let mut host = Host::new();
    let place = host.folder().join("an other place");
    std::fs::create_dir(&place).expect("make a folder");
    let binary = place.join("containerd-shim-myshim-v1");
    let shim = std::fs::read(support::subject::Subject::Ours.binary()).expect("read the shim");
    support::executable(&binary, shim);
    host.binary = binary;
    // timeout(1), which starts it, is looked for before.
    host.environment.push(("PATH".into(), "/usr/bin:/bin".into()));
    let shim = host.start(host.bundle("a", "exit 7"));
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 7);
}

/// Clients leave out what is optional: "capabilities (object, OPTIONAL)", and "user" in a Windows-born template.
#[test]
fn process_may_lack_capabilities_and_user() {
    needs_containers!();
    let host = Host::new();
    let mut bundle =
        host.bundle("a", "grep -c '^CapEff:.*0000000000000000$' /proc/self/status; test $(id -u) = 0");
    let process = bundle.config["process"].as_object_mut().expect("an object");
    process.remove("capabilities");
    process.remove("user");
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 0);
}

/// "Any value which cannot be mapped to a relevant kernel interface … MUST be logged as a warning", and the container runs.
#[test]
fn capabilities_that_the_host_or_the_world_lacks_are_tolerated() {
    needs_containers!();
    needs!(
        !support::differences::runc_differs("capabilities that the host lacks"),
        "runc fails to apply them"
    );
    let host = Host::new();
    let mut bundle = host.bundle("a", "exit 8");
    let mut all: Vec<_> = (0..41).filter_map(myshim::oci::capability::name).collect();
    all.push("CAP_TIME_TRAVEL");
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(all));
    }
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 8);
}
