//! The systemd driver, with systemd as PID 1 (in the guest that hack/test.sh boots); and a bus that does not answer, which
//! every machine can have. Quotations are from systemd.resource-control(5), systemd.scope(5) and runc's docs/systemd.md.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::relay::Relay;
use crate::support::shim::{Host, Shim, signal};
use crate::support::{SOON, eventually, leak, subject};
use containerd_shim_protos::api;
use protobuf::Message;
use serde_json::json;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

macro_rules! needs_systemd {
    () => {
        needs_containers!();
        needs!(subject::systemd_cgroups(), "systemd is not PID 1 here");
    };
}

/// The unit of a bundle's container.
fn unit(bundle: &Bundle) -> String {
    let parts: Vec<_> = bundle.cgroup().split(':').collect();
    format!("{}-{}.scope", parts[1], parts[2])
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().expect("run systemctl");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// What systemd says of a unit.
fn shown(unit: &str, property: &str) -> String {
    systemctl(&["show", "--value", "--property", property, unit])
}

fn is_loaded(unit: &str) -> bool {
    systemctl(&["list-units", "--all", "--no-legend", unit]).contains(unit)
}

#[track_caller]
fn assert_gone(unit: &str) {
    eventually(&format!("{unit} is gone"), SOON, || (!is_loaded(unit)).then_some(()));
}

/// The text of a file of the scope's cgroup.
fn file(shim: &Shim<'_>, name: &str) -> String {
    let folder = leak::cgroups(shim.bundle.cgroup()).pop().expect("a cgroup");
    std::fs::read_to_string(folder.join(name)).expect(name).trim().to_owned()
}

fn limited(host: &Host) -> Bundle {
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "cpu": {"shares": 1024, "quota": 20000, "period": 50000},
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 67_108_864},
            "pids": {"limit": 33},
        }),
    );
    bundle
}

/// What holds the scope for init must not take its place.
#[test]
fn a_limit_of_one_process_has_room_for_init() {
    needs_systemd!();
    let host = Host::new();
    let mut bundle = Bundle::new(host.folder(), "a", &["sleep", "1000"]);
    bundle.set("/linux/resources/pids", json!({"limit": 1}));
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(file(&shim, "pids.max"), "1");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// "runc requests systemd (over dbus) to create a transient unit for the container, and place it into a specified slice."
/// "The resource limits of the systemd unit are set … by translating the runtime spec resources to systemd unit properties."
#[test]
fn scope_has_slice_delegation_accounting_and_limits() {
    needs_systemd!();
    let host = Host::new();
    let shim = host.start(limited(&host));
    let pid = shim.run();
    let unit = unit(&shim.bundle);
    let properties = [
        ("ActiveState", "active"),
        ("Slice", &format!("{}.slice", subject::run_name())),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("CollectMode", if subject::ours() { "inactive-or-failed" } else { "inactive" }),
        ("MemoryAccounting", "yes"),
        ("CPUAccounting", "yes"),
        ("TasksAccounting", "yes"),
        ("CPUQuotaPerSecUSec", "400ms"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("CPUWeight", if subject::ours() { "100" } else { "39" }),
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        // runc tells systemd of no swap limit where that is 0, and only writes the file.
        ("MemorySwapMax", if subject::ours() { "0" } else { "infinity" }),
        ("TasksMax", "33"),
        ("DevicePolicy", "strict"),
    ];
    for (property, value) in properties {
        assert_eq!(shown(&unit, property), value, "{property}");
    }
    assert!(shown(&unit, "DeviceAllow").contains("/dev/char/1:3 rwm"));
    let files = [("memory.max", "67108864"), ("cpu.max", "20000 50000"), ("pids.max", "33")];
    for (name, value) in files {
        assert_eq!(file(&shim, name), value, "{name}");
    }
    assert_eq!(leak::processes_in(shim.bundle.cgroup()), [pid as i32], "nobody but init is in the scope");
}

/// "Update … of all resources, systemd included": what systemd shows and what the kernel enforces stay one.
#[test]
fn update_goes_to_systemd_and_to_the_kernel() {
    needs_systemd!();
    let host = Host::new();
    let shim = host.start(limited(&host));
    shim.run();
    let resources = json!({"memory": {"limit": 134_217_728, "swap": 134_217_728}, "pids": {"limit": 44},
        "cpu": {"quota": 10000, "period": 20000}});
    shim.update(&resources).expect("Update");
    let unit = unit(&shim.bundle);
    let properties = [("MemoryMax", "134217728"), ("TasksMax", "44"), ("CPUQuotaPerSecUSec", "500ms")];
    for (property, value) in properties {
        assert_eq!(shown(&unit, property), value, "{property}");
    }
    systemctl(&["daemon-reload"]);
    let files = [("memory.max", "134217728"), ("pids.max", "44"), ("cpu.max", "10000 20000")];
    for (name, value) in files {
        assert_eq!(file(&shim, name), value, "{name} after systemd has looked again");
    }
}

/// "IODeviceWeight=: Set the per-device overall block I/O weight"; "MemoryZSwapMax=: Specify the absolute limit on zswap
/// usage" (systemd.resource-control(5)). systemd is told first: it knows the weight even where no disk has a scheduler with
/// weights, and the file refuses it. To see it fail: either left out of `systemd::properties`.
#[test]
fn systemd_knows_the_weight_of_a_device_and_the_limit_of_zswap() {
    needs_systemd!();
    needs!(subject::ours(), "runc tells neither");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let unit = unit(&shim.bundle);
    let _ = shim.update(&json!({"blockIO": {"weightDevice": [{"major": 98, "minor": 0, "weight": 500}]}}));
    assert_eq!(shown(&unit, "IODeviceWeight"), "/dev/block/98:0 4950");
    let _ = shim.update(&json!({"unified": {"memory.zswap.max": "4096"}}));
    let version = systemctl(&["--version"]);
    let version = version.split_whitespace().nth(1).and_then(|number| number.parse::<u32>().ok());
    // Before 253 it has no word for it.
    let known = version.expect("a version") >= 253;
    assert_eq!(shown(&unit, "MemoryZSwapMax"), if known { "4096" } else { "" });
}

/// "Auxiliary properties of a systemd unit … can be set (or overwritten) by adding annotations to the container runtime spec."
#[test]
fn annotations_set_properties_of_the_unit() {
    needs_systemd!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set(
        "/annotations",
        json!({
            "org.systemd.property.TimeoutStopSec": "uint32 123",
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.Description": "'a box of its own'",
            "org.systemd.property.Before": "['shutdown.target']",
        }),
    );
    let shim = host.start(bundle);
    shim.run();
    let unit = unit(&shim.bundle);
    let properties = [
        ("TimeoutStopUSec", "2min 3s"),
        ("CollectMode", "inactive"),
        ("Description", "a box of its own"),
        ("Before", "shutdown.target"),
    ];
    for (property, value) in properties {
        assert_eq!(shown(&unit, property), value, "{property}");
    }
}

#[test]
fn exec_lands_in_the_scope_and_delete_removes_the_unit() {
    needs_systemd!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    shim.exec("e", "sleep 1000").expect("Exec");
    let exec = shim.start("e").expect("Start") as i32;
    assert!(leak::processes_in(shim.bundle.cgroup()).contains(&exec));
    let unit = unit(&shim.bundle);
    assert!(is_loaded(&unit));
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_gone(&unit);
    shim.assert_nothing_left();
}

/// A unit's name is free again at once: a container that is restarted keeps its id.
#[test]
fn same_id_can_be_created_again_after_delete() {
    needs_systemd!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "true"));
    for _ in 0..5 {
        shim.run();
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
    }
}

#[test]
fn failed_create_leaves_no_unit() {
    needs_systemd!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.set("/process/args", json!(["/no/such/program"]));
    let shim = host.start(bundle);
    shim.create().and_then(|_| shim.start("").map(drop)).expect_err("a failure");
    let _ = shim.delete("");
    assert_gone(&unit(&shim.bundle));
    shim.assert_nothing_left();
}

#[test]
fn running_unit_of_that_name_is_named_and_left_alone() {
    needs_systemd!();
    let host = Host::new();
    let bundle = host.bundle("a", "true");
    let unit = unit(&bundle);
    let mut other = Command::new("systemd-run")
        .args(["--scope", "--quiet", "--unit", &unit, "sleep", "1000"])
        .spawn()
        .expect("run systemd-run");
    eventually("the other unit runs", SOON, || (shown(&unit, "ActiveState") == "active").then_some(()));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("a failure");
    assert!(failure.message.contains(&unit) || !subject::ours(), "{}", failure.message);
    if !runc_differs("another's unit of the same name") {
        assert_eq!(shown(&unit, "ActiveState"), "active");
    }
    other.kill().expect("kill");
    other.wait().expect("wait");
    assert_gone(&unit);
}

#[test]
fn delete_after_a_crash_leaves_no_unit() {
    needs_systemd!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let unit = unit(&shim.bundle);
    shim.crash();
    assert!(is_loaded(&unit), "the container outlives its shim");
    host.delete(&shim.bundle);
    assert_gone(&unit);
    shim.assert_nothing_left();
}

/// The option makes systemd the driver; a path of another form is then refused.
#[test]
fn option_without_systemds_form_of_the_path_is_refused_in_words() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.set("/linux/cgroupsPath", json!("/plain/path"));
    let mut options = containerd_shim_protos::shim::oci::Options::new();
    options.systemd_cgroup = true;
    let value = options.write_to_bytes().expect("encode");
    let shim = host.start_with(bundle, Some(crate::support::shim::any("containerd.runc.v1.Options", value)));
    let failure = shim.create().expect_err("a failure");
    assert!(failure.message.contains("slice:prefix:name"), "{}", failure.message);
}

/// "runc requests systemd (over dbus)": where the environment names the bus, a whole life goes over it, with what only a
/// bus asks for: a name (Hello), a rule for signals (AddMatch) and systemd's word that it sends any (Subscribe).
#[test]
fn system_bus_takes_a_container_from_create_to_delete() {
    needs_systemd!();
    needs!(subject::ours(), "about this shim's calls");
    let mut host = Host::new();
    let bus = Relay::to(Path::new("/run/dbus/system_bus_socket"), host.folder());
    host.environment.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), bus.address()));
    let shim = host.start(limited(&host));
    shim.run();
    let unit = unit(&shim.bundle);
    assert_eq!(shown(&unit, "TasksMax"), "33");
    shim.update(&json!({"pids": {"limit": 44}})).expect("Update");
    assert_eq!(shown(&unit, "TasksMax"), "44");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_gone(&unit);
    shim.assert_nothing_left();
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "SetUnitProperties"]);
    bus.assert_said(&["AUTH EXTERNAL", "BEGIN", "Hello", "AddMatch", "Subscribe", "StopUnit"]);
}

/// A bus that accepts and says nothing: Create ends in bounded time, and says who did not answer for how long.
#[test]
fn bus_that_does_not_answer_ends_create_with_its_name() {
    needs_containers!();
    needs!(subject::ours(), "runc waits without end for a bus that does not authenticate");
    let mut host = Host::new();
    let socket = host.folder().join("bus");
    let _mute = UnixListener::bind(&socket).expect("bind");
    host.environment.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), format!("unix:path={}", socket.display())));
    host.environment.push(("SYSTEMD_BUS_TIMEOUT".into(), "1".into()));
    let mut bundle = host.bundle("a", "true");
    bundle.set("/linux/cgroupsPath", json!("mst.slice:mst:mute"));
    let shim = host.start(bundle);
    let begun = Instant::now();
    let failure = shim.create().expect_err("a failure");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for word in ["mst-mute.scope", &socket.display().to_string(), "within 1 s", "cgroupfs driver"] {
        assert!(failure.message.contains(word), "{word}: {}", failure.message);
    }
    shim.assert_nothing_left();
}

/// The same under `delete`, which containerd does not wait for as long as a bus is waited for else: what it can do without
/// systemd is done, and told.
#[test]
fn bus_that_does_not_answer_holds_up_no_delete_after_a_crash() {
    needs_systemd!();
    needs!(subject::ours(), "runc waits without end for a bus that does not authenticate");
    let host = Host::new();
    let socket = host.folder().join("bus");
    let _mute = UnixListener::bind(&socket).expect("bind");
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let init = shim.run();
    shim.crash();
    let begun = Instant::now();
    let mut delete = host.command(&shim.bundle, "delete");
    delete.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", socket.display()));
    let output = delete.output().expect("start the shim");
    // A bus is waited for 30 s else.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(output.status.success(), "{output:?}");
    let answer = api::DeleteResponse::parse_from_bytes(&output.stdout).expect("a DeleteResponse on stdout");
    assert_eq!((answer.pid, answer.exit_status), (init, 137));
    assert!(!leak::alive(init as i32));
    shim.assert_nothing_left();
}

/// "no bus connection kept open": neither to systemd itself nor to the bus it is on, after Create and after an Update.
/// To see it fail: `std::mem::forget` of the connection in `systemd::set`. That the look finds a connection where there is
/// one, the Update shows that is held up half-way.
#[test]
fn no_connection_to_a_bus_outlives_its_call() {
    needs_systemd!();
    needs!(subject::ours(), "a statement about this shim");
    for socket in ["/run/systemd/private", "/run/dbus/system_bus_socket"] {
        let mut host = Host::new();
        let bus = Relay::to(Path::new(socket), host.folder());
        host.environment.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), bus.address()));
        let shim = host.start(limited(&host));
        let mut client = shim.client();
        shim.run();
        let threads = || std::fs::read_dir(format!("/proc/{}/task", shim.pid)).expect("list").count();
        eventually("one thread is left", SOON, || (threads() == 1).then_some(()));
        eventually("Create has hung up", SOON, || (bus.connections() == 0).then_some(()));
        let before = leak::sockets_of(shim.pid);
        let held = bus.hold();
        let request = shim.update_request(&json!({"pids": {"limit": 44}}));
        client.send(shim.service(), "Update", &request).expect("send Update");
        eventually("the connection of a call under way is seen", SOON, || {
            let more = leak::sockets_of(shim.pid).difference(&before).count();
            (bus.connections() == 1 && more == 1).then_some(())
        });
        drop(held);
        client.receive::<api::Empty>("Update").expect("Update");
        assert_eq!(shown(&unit(&shim.bundle), "TasksMax"), "44");
        eventually("Update has hung up", SOON, || (bus.connections() == 0).then_some(()));
        let left: Vec<_> = leak::sockets_of(shim.pid).difference(&before).cloned().collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "sockets of the shim");
        eventually("one thread is left", SOON, || (threads() == 1).then_some(()));
    }
}

/// systemd removes a scope as soon as nobody is in it, here before the shim has had a look at its counters. The kernel's
/// cgroup-v2.rst: "memory.events … the file generates a value change event … reflects the state of the subtree", which the
/// slice's do too.
///
/// Seen to fail without the look at the slice's counters: no "oom" is told.
#[test]
fn out_of_memory_is_told_though_systemd_was_faster() {
    needs_systemd!();
    needs!(subject::ours(), "runc's shim loses this race");
    let host = Host::new();
    let script = "while [ ! -e /go ]; do sleep 0.05; done; x=y; while :; do x=$x$x; done";
    let mut bundle = host.bundle("a", script);
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    let shim = host.start(bundle);
    let init = shim.run();
    signal(shim.pid, libc::SIGSTOP);
    std::fs::write(format!("/proc/{init}/root/go"), "").expect("let it go on");
    eventually("the scope is gone", SOON, || leak::cgroups(shim.bundle.cgroup()).is_empty().then_some(()));
    signal(shim.pid, libc::SIGCONT);
    assert_eq!(shim.wait("").expect("Wait"), 137);
    host.events.wait_for("exit");
    assert_eq!(host.events.names(), ["create", "start", "oom", "exit"]);
}
