//! `linux.netDevices`: devices of test-made network namespaces, moved into containers.

use crate::support::differences::runc_differs;
use crate::support::run::outcome;
use crate::support::shim::Host;
use crate::support::subject::{self, ours, peer_lacks};
use crate::{needs, needs_containers};
use serde_json::json;
use std::process::Command;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("start ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// From here on this thread, and what it starts, have a network namespace of their own: no device of the host's is
/// in sight. Can devices be made here, and is the runtime one that moves them (runc does since 1.4)?
fn obstacle() -> Option<&'static str> {
    if peer_lacks(1, 4) {
        return Some("this runc does not move network devices");
    }
    myshim::sys::ns::unshare(libc::CLONE_NEWNET).expect("a network namespace for the test");
    let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    (!has_ip).then_some("there is no `ip` (iproute2) to make devices with")
}

/// A pair of devices in the network namespace that this test and its shims have to themselves.
struct Pair {
    name: String,
}

impl Pair {
    fn new() -> Self {
        let name = subject::unique("v").replace('-', "");
        ip(&format!("link add {name} type veth peer name {name}p"));
        Self { name }
    }
}

/// "The runtime MUST preserve existing network interface attributes, including all permanent IP addresses
/// (IFA_F_PERMANENT flag) of any family with global scope (RT_SCOPE_UNIVERSE value)". "The runtime MUST set the
/// network device state to "up" after moving it to the network namespace". "name: the name of the network device
/// inside the container namespace." (config-linux.md, "Network Devices")
#[test]
fn device_moves_with_its_global_addresses_gets_its_name_and_is_up() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    let pair = Pair::new();
    ip(&format!("addr add 192.0.2.7/24 brd 192.0.2.255 dev {}", pair.name));
    ip(&format!("addr add 198.51.100.1/32 scope link dev {}", pair.name));
    ip(&format!("addr add 203.0.113.9/24 valid_lft 1000 preferred_lft 1000 dev {}", pair.name));
    let mut kept = vec!["192.0.2.7/24 brd 192.0.2.255", "mtu 1400", "02:00:00:00:12:34", ",UP"];
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        ip(&format!("-6 addr add 2001:db8::7/64 nodad dev {}", pair.name));
        kept.push("2001:db8::7/64");
    }
    ip(&format!("link set {} mtu 1400 address 02:00:00:00:12:34", pair.name));
    let (status, text) = outcome("ip addr show dev inner0", |bundle, _| {
        bundle.set(&format!("/linux/netDevices/{}/name", pair.name), json!("inner0"));
    });
    assert_eq!(status, 0, "{text}");
    for kept in kept {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    for left in ["198.51.100.1", "203.0.113.9"] {
        assert!(!text.contains(left), "{left}: {text}");
    }
}

/// "If not specified, the host name is used." "unless the user has provided a template by appending %d to the new
/// name. In that case, the runtime MUST allow the move, and the kernel will generate a unique name for the interface"
/// (config-linux.md, "Network Devices").
#[test]
fn names_are_kept_or_made_from_a_template() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    needs!(!runc_differs("name templates of netDevices"), "runc looks for the template");
    let (kept, first, second) = (Pair::new(), Pair::new(), Pair::new());
    ip(&format!("addr add 192.0.2.8/24 dev {}", second.name));
    let (_, text) = outcome("ip addr show", |bundle, _| {
        bundle.set(
            "/linux/netDevices",
            json!({&kept.name: {}, &first.name: {"name": "net%d"}, &second.name: {"name": "net%d"}}),
        );
    });
    for name in [kept.name.as_str(), "net0", "net1"] {
        assert!(
            text.contains(&format!(": {name}@")) || text.contains(&format!(": {name}:")),
            "{name}: {text}"
        );
    }
    let second = text.split("net1").nth(1).expect("net1");
    assert!(second.contains("192.0.2.8"), "{text}");
}

/// "netDevices: A set of network devices that MUST be made available in the container." (config-linux.md, "Network
/// Devices") They are there before the hooks run, and in a joined namespace as in a new one.
#[test]
fn device_moves_into_a_namespace_by_path() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    let host = Host::new();
    let first = host.start(host.bundle("a", "sleep 1000"));
    let pid = first.run();
    let pair = Pair::new();
    let (status, text) = outcome("ip link show dev inner1", |bundle, _| {
        bundle.set(
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network", "path": format!("/proc/{pid}/ns/net")}]),
        );
        bundle.set(&format!("/linux/netDevices/{}/name", pair.name), json!("inner1"));
    });
    assert_eq!(status, 0, "{text}");
}

/// "If a network device with the specified name already exists in the container namespace, the runtime MUST generate
/// an error". "The runtime MUST check if moving the network interface to the container namespace is possible."
/// (config-linux.md, "Network Devices")
#[test]
fn impossible_moves_are_refused_by_the_devices_name() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    let pair = Pair::new();
    let cases = [
        (pair.name.as_str(), json!({"name": "lo"}), "give it another one"),
        ("no-such-device", json!({}), "there is no such device"),
        ("lo", json!({"name": "lo2"}), "keeps devices of this kind"),
    ];
    for (device, with, told) in cases {
        let host = Host::new();
        let mut bundle = host.bundle("a", "true");
        bundle.set(&format!("/linux/netDevices/{device}"), with);
        let shim = host.start(bundle);
        let failure = shim.create().expect_err("refused");
        let field = format!("linux.netDevices[{device}]");
        assert!(!ours() || failure.message.contains(&field) && failure.message.contains(told), "{failure:?}");
        shim.assert_nothing_left();
    }
    let left = Command::new("ip").args(["link", "show", "dev", &pair.name]).output().expect("start ip");
    let stays = left.status.success() || runc_differs("device that cannot be moved");
    assert!(stays, "a refused device stays where it was");
}

/// "netDevices" needs a network namespace that is the container's.
#[test]
fn devices_without_a_network_namespace_are_refused() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.set("/linux/namespaces", json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}]));
    bundle.set("/linux/netDevices", json!({"eth9": {}}));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("refused");
    let words = if ours() { "linux.netDevices needs a network namespace" } else { "NET namespace" };
    assert!(failure.message.contains(words), "{failure:?}");
}
