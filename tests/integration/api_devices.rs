//! Device nodes, and who may use them.

use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::leak;
use crate::support::run::{exec_output, output, refusal};
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::subject::{cgroup_v2, ours};
use crate::{needs, needs_containers};
use myshim::sys::bpf;
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

/// "In addition to any devices configured with this setting, the runtime MUST also supply: /dev/null /dev/zero /dev/full
/// /dev/random /dev/urandom /dev/tty" (config-linux.md, "Default Devices"); "runtimes MUST create the following symlinks
/// if the source file exists after processing mounts" (runtime-linux.md, "Dev symbolic links").
#[test]
fn default_devices_and_links_are_there_and_work() {
    needs_containers!();
    let script = "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' $d; done
        for l in fd stdin stdout stderr; do readlink $l; done; ls -d pts/ptmx ptmx
        head -c 9 zero | wc -c; head -c 9 urandom | wc -c; echo gone >null; echo x 2>/dev/null >full || echo full";
    let text = output(script, |_, _| {});
    let nodes = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
    let mut expected: Vec<_> = nodes
        .iter()
        .map(|(name, minor)| format!("{name} character special file 1:{minor} 666 0:0"))
        .collect();
    expected.push("tty character special file 5:0 666 0:0".into());
    let links =
        ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "ptmx", "pts/ptmx"];
    expected.extend(links.map(String::from));
    expected.extend(["9", "9", "full"].map(String::from));
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

/// "runtimes MUST supply … /dev/ptmx: A bind-mount or symlink of the container's /dev/pts/ptmx" (config-linux.md,
/// "Default Devices"), also where the host's is listed, as by `--privileged`.
#[test]
fn multiplexer_is_the_containers_own_whatever_devices_say() {
    needs_containers!();
    let text = output("readlink /dev/ptmx", |bundle, _| {
        bundle.set("/linux/devices", json!([{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]));
    });
    assert_eq!(text, "pts/ptmx\n");
}

/// Owner and mode of a stream that is /dev/null, or of a file that is masked, are not the host's. To see it fail: in
/// `engine/plan/init.rs` leave out `OwnNull`; in `engine/child/mounts.rs`, `null_mask`, the attributes. (The mode asked
/// for here is the one that the node has.)
#[test]
fn null_device_of_the_host_is_out_of_reach() {
    needs_containers!();
    let host = Host::new();
    let script = "[ $(stat -L -c %d:%i /dev/null) = $(stat -L -c %d:%i /proc/self/fd/0) ] || exit 3
        readlink /proc/self/fd/0 | grep -qx /dev/null || exit 4
        echo x >/proc/keys || exit 5; chmod 666 /proc/keys && exit 6; exit 7";
    let mut bundle = host.bundle("a", script);
    bundle.set("/linux/maskedPaths", json!(["/proc/keys"]));
    let shim = host.start(bundle);
    shim.run();
    // Under runc the mask is the container's own node.
    let expected = if ours() { 7 } else { 6 };
    assert_eq!(shim.wait("").expect("Wait"), expected);
    shim.delete("").expect("Delete");
}

/// A shim that is in a container itself may not make nodes; it has the host's, then.
#[test]
fn devices_are_bound_where_none_can_be_made() {
    needs_containers!();
    let mut host = Host::new();
    host.prefix = ["setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod"].map(String::from).to_vec();
    let script = "grep -cE ' /dev/(null|tty|kmsg) ' /proc/self/mountinfo; echo x >/dev/null; head -c 2 /dev/zero | wc -c";
    let mut bundle = host.bundle("a", script);
    // What it cannot have, it must not ask for under older runc.
    bundle.set("/process/capabilities", json!({"bounding": [], "effective": [], "permitted": []}));
    bundle.set("/linux/devices", json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]));
    let out = Sink::new(host.folder().join("out"));
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    assert_eq!(shim.wait("").expect("Wait"), 0);
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "3\n2\n");
}

/// maskedPaths: "Set paths to be masked" (config-linux.md, "Masked Paths"): once each.
#[test]
fn path_that_is_masked_twice_has_one_mask() {
    needs_containers!();
    needs!(ours(), "older runc masks it as often as it is named");
    let text = output("grep -c ' /proc/keys ' /proc/self/mountinfo", |bundle, _| {
        bundle.set("/linux/maskedPaths", json!(["/proc/keys", "/proc//keys", "/proc/keys"]));
    });
    assert_eq!(text, "1\n");
}

/// "devices: lists devices that MUST be available in the container." "The path MAY be anywhere in the container filesystem,
/// notably outside of /dev." "fileMode: file mode for the device." "uid: id of device owner in the container namespace."
/// (config-linux.md, "Devices")
#[test]
fn devices_of_the_spec_are_made_wherever_they_belong() {
    needs_containers!();
    let script = "stat -c '%F %t:%T %a %u:%g' /dev/my/fuse /dev/fuse /srv/disk /srv/pipe";
    let text = output(script, |bundle, _| {
        bundle.set(
            "/linux/devices",
            json!([
                {"path": "/dev/my/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o604, "gid": 5},
                {"path": "/srv/disk", "type": "b", "major": 8, "minor": 17, "fileMode": 0o600},
                {"path": "/srv/pipe", "type": "p", "fileMode": 0o622},
            ]),
        );
    });
    let expected = [
        "character special file a:e5 640 3:4",
        "character special file a:e5 604 0:5",
        "block special file 8:11 600 0:0",
        "fifo 0:0 622 0:0",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

/// "devices: configures the allowed device list. The runtime MUST apply entries in the listed order." "access: cgroup
/// permissions for device. A composition of r (read), w (write), and m (mknod)." (config-linux.md, "Allowed Device list")
#[test]
fn device_rules_hold_in_their_order() {
    needs_containers!();
    // Making nodes is always allowed, as under runc: the rules decide about opening them.
    let script = "mknod /n c 1 11 && echo made; true 2>/dev/null </dev/my && echo read || echo refused; dd if=/dev/null of=/dev/my conv=notrunc 2>/dev/null && echo written || echo refused";
    let rule = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 1, "minor": 11, "access": access});
    let all = |allow: bool| json!({"allow": allow, "access": "rwm"});
    let cases = [
        (vec![all(false)], "made refused refused"),
        (vec![all(false), rule(true, "r")], "made read refused"),
        (vec![all(false), rule(true, "rw")], "made read written"),
        (vec![all(false), rule(true, "rw"), rule(false, "w")], "made read refused"),
        (vec![rule(true, "rw"), all(false)], "made refused refused"),
    ];
    for (rules, expected) in cases {
        let text = output(script, |bundle, _| {
            let kmsg = json!({"path": "/dev/my", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666});
            bundle.set("/linux/devices", json!([kmsg]));
            bundle.set("/linux/resources/devices", json!(rules));
            // Without it the kernel's log may not be read (dmesg_restrict, proc_sys_kernel(5)).
            for set in ["bounding", "effective", "permitted"] {
                bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYSLOG"));
            }
        });
        assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{rules:?}");
    }
}

fn rule(allow: bool, access: &str) -> Value {
    json!({"allow": allow, "type": "c", "major": 1, "minor": 11, "access": access})
}

fn deny_all() -> Value {
    json!({"allow": false, "access": "rwm"})
}

/// A running container that has a node for the kernel's log, of which its rules say nothing.
fn with_a_denied_node(host: &Host) -> Shim<'_> {
    let mut bundle = host.bundle("a", "sleep 1000");
    let kmsg = json!({"path": "/dev/my", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666});
    bundle.set("/linux/devices", json!([kmsg]));
    bundle.set("/linux/resources/devices", json!([deny_all()]));
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYSLOG"));
    }
    let shim = host.start(bundle);
    shim.run();
    shim
}

/// How the node can be opened: `r`, `w`, both or neither; /dev/null always can.
fn opens(shim: &Shim<'_>) -> String {
    let script = "true 2>/dev/null </dev/my && printf r; dd if=/dev/null of=/dev/my conv=notrunc 2>/dev/null && printf w; true </dev/null >/dev/null && echo";
    exec_output(shim, script, |_| ()).trim().to_owned()
}

/// "Update of all resources": the rules that an update brings are in force for whoever opens a device from then on, with
/// those for the default devices. To see it fail: `DevicePolicy::Skip` in `Container::update`.
#[test]
fn update_changes_the_device_rules() {
    needs_containers!();
    let host = Host::new();
    let shim = with_a_denied_node(&host);
    assert_eq!(opens(&shim), "");
    let cases = [
        (vec![deny_all(), rule(true, "r")], "r"),
        (vec![deny_all(), rule(true, "rw")], "rw"),
        (vec![json!({"allow": true, "access": "rwm"})], "rw"),
        (vec![json!({"allow": true, "access": "rwm"}), rule(false, "w")], "r"),
        (vec![deny_all()], ""),
    ];
    for (rules, expected) in cases {
        shim.update(&json!({"devices": rules, "pids": {"limit": 50}})).expect("Update");
        let expected = if runc_differs("device rules of an Update") { "" } else { expected };
        assert_eq!(opens(&shim), expected, "{rules:?}");
        // And an update without any leaves them alone.
        shim.update(&json!({"pids": {"limit": 60}})).expect("Update");
        assert_eq!(opens(&shim), expected, "{rules:?}, then none");
    }
}

fn devices_cgroup(shim: &Shim<'_>) -> PathBuf {
    let mut all = leak::cgroups(shim.bundle.cgroup()).into_iter();
    all.find(|folder| cgroup_v2() || folder.join("devices.list").exists()).expect("a cgroup")
}

/// The programs that decide about devices on v2.
fn filters(shim: &Shim<'_>) -> Vec<u32> {
    let mut ids = [0; bpf::MAX_ATTACHED];
    let cgroup = fs::File::open(devices_cgroup(shim)).expect("open the cgroup");
    bpf::query_cgroup_device(cgroup.as_fd(), &mut ids).expect("look for device filters").to_vec()
}

/// containerd's CRI sends all of a container's resources with each update: rules that are those of Create again undo nothing
/// that a hook has done since (nvidia's allows its devices that way). To see it fail: no comparison in
/// `Container::update`.
#[test]
fn update_that_repeats_the_device_rules_leaves_them_alone() {
    needs_containers!();
    let host = Host::new();
    let shim = with_a_denied_node(&host);
    let repeat = json!({"devices": [deny_all()], "pids": {"limit": 50}});
    if cgroup_v2() {
        let before = filters(&shim);
        shim.update(&repeat).expect("Update");
        // systemd may put one of its own beside it.
        let kept = |id| filters(&shim).contains(id);
        assert!(before.iter().all(kept), "{before:?}, and now {:?}", filters(&shim));
        if ours() {
            shim.update(&json!({"devices": [deny_all(), rule(true, "r")]})).expect("Update");
            assert!(!before.iter().any(kept), "other rules are another program");
        }
    } else {
        fs::write(devices_cgroup(&shim).join("devices.allow"), "c 1:11 r").expect("allow the device");
        shim.update(&repeat).expect("Update");
        assert_eq!(opens(&shim), "r");
    }
}

/// "If a file already exists at path that does not match the requested device, the runtime MUST generate an error."
/// (config-linux.md, "Devices") One that matches is taken. To see it fail: EEXIST taken for success in `mounts::device`.
#[test]
fn another_file_in_a_devices_place_is_an_error() {
    needs_containers!();
    let fifo = json!({"path": "/srv/pipe", "type": "p", "fileMode": 0o622});
    for content in ["a file", "another device", "a link"] {
        let refusal = || {
            refusal(|bundle, folder| {
                let srv = folder.join("upper-a/srv");
                fs::create_dir_all(&srv).expect("make a folder of the image");
                let made = match content {
                    "a file" => Command::new("touch").arg(srv.join("pipe")).status(),
                    "a link" => Command::new("ln").arg("-s").arg("/dev/null").arg(srv.join("pipe")).status(),
                    _ => Command::new("mknod").arg(srv.join("pipe")).args(["c", "1", "3"]).status(),
                };
                assert!(made.expect("run a program").success());
                bundle.set("/linux/devices", json!([fifo]));
            })
        };
        if !runc_differs("another file in a device's place") {
            let text = refusal();
            for word in ["/srv/pipe", "EEXIST", "has something else there"] {
                assert!(text.contains(word), "{content}: {word} is not in {text}");
            }
        }
    }
    let text = output("stat -c %F:%a /srv/pipe", |bundle, folder| {
        fs::create_dir_all(folder.join("upper-a/srv")).expect("make a folder of the image");
        let made = Command::new("mkfifo").args(["-m", "600"]).arg(folder.join("upper-a/srv/pipe")).status();
        assert!(made.expect("run mkfifo").success());
        bundle.set("/linux/devices", json!([fifo]));
    });
    assert_eq!(text, "fifo:600\n");
}
