//! `start` as containerd 2.3 and later call it: BootstrapParams on stdin, a BootstrapResult on stdout, task service v3.
//!
//! The messages are written and read here by their field numbers (api/runtime/bootstrap/v1/bootstrap.proto), so that the
//! shim's own message types are not tested with themselves.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::shim::{Host, Shim, any};
use crate::support::subject::ours;
use containerd_shim_protos::shim::oci::Options;
use protobuf::{CodedInputStream, CodedOutputStream, Message};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const INSTANCE_ID: u32 = 1;
const NAMESPACE: u32 = 2;
const LOG_LEVEL: u32 = 3;
const CONTAINERD_VERSION: u32 = 4;
const TTRPC_ADDRESS: u32 = 5;
const GRPC_ADDRESS: u32 = 6;
const CONTAINERD_BINARY: u32 = 7;
const EXTENSIONS: u32 = 8;
const SOCKET_DIR: u32 = 9;
const LOG_LEVEL_DEBUG: i32 = -4;

/// What containerd would write for this bundle, with these options.
fn params(host: &Host, bundle: &Bundle, socket_dir: &Path, options: Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = CodedOutputStream::vec(&mut bytes);
    let text = |path: &Path| path.display().to_string();
    out.write_string(INSTANCE_ID, &bundle.id).expect("encode");
    out.write_string(NAMESPACE, &host.namespace).expect("encode");
    out.write_enum(LOG_LEVEL, LOG_LEVEL_DEBUG).expect("encode");
    out.write_string(CONTAINERD_VERSION, "v2.3.0").expect("encode");
    out.write_string(GRPC_ADDRESS, &text(&host.folder().join("c.sock"))).expect("encode");
    out.write_string(TTRPC_ADDRESS, &text(host.events.socket())).expect("encode");
    out.write_string(CONTAINERD_BINARY, "/usr/bin/containerd").expect("encode");
    if let Some(options) = options {
        // Extension { Any value = 1 }
        let mut extension = Vec::new();
        let mut inner = CodedOutputStream::vec(&mut extension);
        inner.write_bytes(1, &options).expect("encode");
        inner.flush().expect("encode");
        drop(inner);
        out.write_bytes(EXTENSIONS, &extension).expect("encode");
    }
    out.write_string(SOCKET_DIR, &text(socket_dir)).expect("encode");
    out.flush().expect("encode");
    drop(out);
    bytes
}

/// BootstrapResult { int32 version = 1, string address = 2, string protocol = 3 }
fn read_result(bytes: &[u8]) -> (i32, String, String) {
    let mut result = (0, String::new(), String::new());
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof().expect("a tag") {
        match tag >> 3 {
            1 => result.0 = input.read_int32().expect("the version"),
            2 => result.1 = input.read_string().expect("the address"),
            3 => result.2 = input.read_string().expect("the protocol"),
            other => panic!("field {other} is none of BootstrapResult's"),
        }
    }
    result
}

/// `start` in this dialect; the socket.
#[track_caller]
fn start(host: &Host, bundle: &Bundle, socket_dir: &Path, options: Option<Vec<u8>>) -> PathBuf {
    bundle.write();
    let output = host.invoke(bundle, "start", &params(host, bundle, socket_dir, options));
    assert!(output.status.success() && output.stderr.is_empty(), "start failed: {output:?}");
    let (version, address, protocol) = read_result(&output.stdout);
    assert_eq!((version, protocol.as_str()), (3, "ttrpc"));
    address.strip_prefix("unix://").unwrap_or_else(|| panic!("no unix:// in {address:?}")).into()
}

/// A host whose environment says nothing: in this dialect everything comes by stdin.
fn host_without_environment() -> Host {
    let mut host = Host::new();
    for name in ["TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE", "MAX_SHIM_VERSION"] {
        host.environment.push((name.into(), String::new()));
    }
    host
}

#[test]
fn bootstrap_params_start_a_shim_that_speaks_version_3_and_sends_its_events() {
    needs_containers!();
    needs!(ours(), "containerd-shim-runc-v2 before 2.3 does not know BootstrapParams");
    let host = host_without_environment();
    let sockets = host.folder().join("s");
    let bundle = host.bundle("a", "exit 9");
    let options = Options { no_new_keyring: true, ..Default::default() };
    let options = any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode"));
    let socket = start(&host, &bundle, &sockets, Some(options.write_to_bytes().expect("encode")));
    assert_eq!(socket.parent(), Some(sockets.as_path()));
    assert_eq!(std::fs::metadata(&sockets).expect("the folder").permissions().mode() & 0o066, 0);
    let shim = Shim::connect(&host, bundle, socket, 3, None);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 9);
    assert_eq!(shim.delete("").expect("Delete").exit_status, 9);
    host.events.wait_for("delete");
    assert!(host.events.seen().iter().all(|event| event.namespace == host.namespace));
    shim.shutdown();
    shim.wait_until_gone();
}

#[test]
fn bootstrap_for_a_running_group_answers_with_that_shim_whichever_way_it_was_started() {
    needs_containers!();
    needs!(ours(), "containerd-shim-runc-v2 before 2.3 does not know BootstrapParams");
    let host = Host::new();
    let group = json!({"io.containerd.runc.v2.group": "pod"});
    let mut first = host.bundle("a", "sleep 1000");
    first.set("/annotations", group.clone());
    let shim = host.start(first);
    let mut second = host.bundle("b", "true");
    second.set("/annotations", group);
    let folder = shim.address.parent().expect("a folder").to_owned();
    assert_eq!(start(&host, &second, &folder, None), shim.address);
}

#[test]
fn bootstrap_params_for_another_container_are_refused() {
    needs_containers!();
    needs!(ours(), "containerd-shim-runc-v2 before 2.3 does not know BootstrapParams");
    let host = Host::new();
    let (bundle, other) = (host.bundle("a", "true"), host.bundle("b", "true"));
    bundle.write();
    let output = host.invoke(&bundle, "start", &params(&host, &other, &host.folder().join("s"), None));
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(!host.folder().join("s").exists());
    assert!(!bundle.folder.join("address").exists());
}
