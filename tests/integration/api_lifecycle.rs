//! The life of one container over the task API: create, start, state, kill, wait, delete, shutdown.

use crate::needs_containers;
use crate::support::shim::Host;
use containerd_shim_protos::api::Status;

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
