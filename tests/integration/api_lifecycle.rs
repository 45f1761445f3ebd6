//! The life of one container over the task API: create, start, state, kill, wait, delete, shutdown.

use crate::needs;
use crate::needs_containers;
use crate::support::shim::Host;
use crate::support::shim::Stdio3;
use crate::support::subject::ours;
use crate::support::{SOON, eventually};
use containerd_shim_protos::api::{self, Status};
use serde_json::json;

/// "The lifecycle describes the timeline of events that happen from when a container is created to when it ceases to
/// exist." (runtime.md, "Lifecycle") "Deleting a container MUST delete the resources that were created during the
/// create step." (runtime.md, "Delete")
#[test]
fn life_from_create_to_shutdown() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exit 7"));
    let pid = shim.create().expect("Create");
    assert!(pid > 0);
    assert_eq!(shim.status(""), Status::CREATED);
    assert_eq!(shim.start("").expect("Start"), pid);
    assert_eq!(shim.wait("").expect("Wait"), 7);
    let state = shim.state("").expect("State");
    assert_eq!((state.status.enum_value(), state.exit_status, state.pid), (Ok(Status::STOPPED), 7, pid));
    assert!(state.exited_at.seconds > 0);
    let deleted = shim.delete("").expect("Delete");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert!(deleted.exited_at.seconds > 0);
    shim.assert_nothing_left();
    shim.shutdown();
    shim.wait_until_gone();
    assert!(!shim.address.exists(), "the socket is left");
}

/// As `nerdctl restart` does: the shim that was told to end may still be busy telling its events.
#[test]
fn start_after_shutdown_never_finds_the_shim_that_ends() {
    needs_containers!();
    let mut host = Host::new();
    // Events that nobody takes keep the shim busy at its end.
    host.environment.push(("TTRPC_ADDRESS".into(), host.folder().join("nobody").display().to_string()));
    let first = host.start(host.bundle("a", "exit 7"));
    first.run();
    assert_eq!(first.wait("").expect("Wait"), 7);
    first.delete("").expect("Delete");
    let request = api::ShutdownRequest { id: first.id(), ..Default::default() };
    // Its end may be faster than its answer.
    first.client().send(first.service(), "Shutdown", &request).expect("send Shutdown");
    eventually("the socket goes", SOON, || (!first.address.exists()).then_some(()));
    let second = host.start(host.bundle("a", "exit 8"));
    assert_ne!(second.pid, first.pid);
    second.run();
    assert_eq!(second.wait("").expect("Wait"), 8);
    first.wait_until_gone();
    assert!(second.address.exists(), "the first shim's end took the second one's socket");
}

/// Shutdown comes after every Delete, and in a pod another container may be on its way.
#[test]
fn shutdown_is_ignored_while_another_container_is_being_created() {
    needs_containers!();
    needs!(ours(), "Go's shim answers nobody while it creates");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    shim.run();
    shim.wait("").expect("Wait");
    let mut other = host.bundle("b", "exit 5");
    let [begun, go] = ["begun", "go"].map(|name| host.folder().join(name));
    let script = format!(": >{}; until [ -e {} ]; do sleep 0.02; done", begun.display(), go.display());
    other.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    other.write();
    let mut request = shim.create_request(&Stdio3::default());
    request.id = "b".into();
    request.bundle = other.folder.display().to_string();
    request.rootfs = other.mounts.clone();
    let mut client = shim.client();
    client.send(shim.service(), "Create", &request).expect("send Create");
    eventually("the hook begins", SOON, || begun.exists().then_some(()));
    shim.delete("").expect("Delete");
    let shutdown = api::ShutdownRequest { id: shim.id(), ..Default::default() };
    shim.call::<api::Empty>("Shutdown", &shutdown).expect("Shutdown");
    std::fs::write(&go, "").expect("let Create go on");
    client.receive::<api::CreateTaskResponse>("Create").expect("Create");
    let delete = api::DeleteRequest { id: "b".into(), ..Default::default() };
    client.call::<api::DeleteResponse>(shim.service(), "Delete", &delete).expect("Delete");
}
