//! ShimCgroup: where the shim itself stands, on v1 in every hierarchy, on v2 in the unified one.

use crate::needs;
use crate::needs_containers;
use crate::support::leak;
use crate::support::shim::{Host, any};
use crate::support::subject::{cgroup_v2, ours, run_name, unique};
use containerd_shim_protos::shim::oci::Options;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::fs;
use std::path::PathBuf;

fn options(cgroup: &str) -> Any {
    let options = Options { shim_cgroup: cgroup.into(), ..Default::default() };
    any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode"))
}

/// Removes what the shim made for itself: nobody else does, for others may have moved there by then.
fn remove(cgroup: &str) {
    for folder in leak::cgroups(cgroup) {
        crate::support::eventually("the cgroup is empty", crate::support::SOON, || {
            fs::remove_dir(&folder).ok()
        });
    }
}

#[test]
fn shim_cgroup_is_joined_in_every_hierarchy() {
    needs_containers!();
    needs!(ours(), "runc's shim wants the cgroup to be there");
    let host = Host::new();
    let cgroup = format!("/{}/{}/shim", run_name(), unique("placed"));
    let shim = host.start_with(host.bundle("a", "exit 3"), Some(options(&cgroup)));
    let table = fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).expect("the shim's cgroups");
    let mut seen = 0;
    for line in table.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{line}") };
        // The unified tree of a hybrid host carries no controller of ours, and runc's shim leaves systemd's alone.
        if (controllers.is_empty() && !cgroup_v2()) || controllers.starts_with("name=") {
            continue;
        }
        assert_eq!(path, cgroup, "{line}");
        seen += 1;
    }
    assert!(seen > 0, "{table}");
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 3);
    shim.delete("").expect("Delete");
    shim.shutdown();
    shim.wait_until_gone();
    remove(&cgroup);
    remove(cgroup.trim_end_matches("/shim"));
}

/// A start that fails after it has joined the cgroup: no process may be added there, so that fork(2) fails.
#[test]
fn failed_start_leaves_no_shim_cgroup_no_socket_and_no_address() {
    needs_containers!();
    needs!(ours(), "a Go shim leaves the folder");
    let host = Host::new();
    let parent = format!("{}/{}", run_name(), unique("full"));
    let root = PathBuf::from("/sys/fs/cgroup").join(if cgroup_v2() { "" } else { "pids" });
    let full = root.join(&parent);
    fs::create_dir_all(&full).expect("make a cgroup");
    if cgroup_v2() {
        fs::write(root.join(run_name()).join("cgroup.subtree_control"), "+pids").expect("delegate pids");
    }
    fs::write(full.join("pids.max"), "1").expect("limit it");
    let bundle = host.bundle("a", "true");
    bundle.write();
    let cgroup = format!("/{parent}/shim");
    let output = host.invoke(&bundle, "start", &options(&cgroup).write_to_bytes().expect("encode"));
    let left = leak::cgroups(&cgroup);
    for folder in leak::cgroups(&cgroup).iter().chain(&leak::cgroups(&format!("/{parent}"))) {
        let _ = fs::remove_dir(folder);
    }
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{output:?}");
    assert_eq!(left, Vec::<PathBuf>::new());
    assert!(!bundle.folder.join("address").exists());
}
