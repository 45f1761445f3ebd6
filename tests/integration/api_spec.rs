//! What the spec asks for beyond the ordinary: each test quotes the sentence of runtime-spec that it checks.

use crate::needs;
use crate::needs_containers;
use crate::support::run::output;
use crate::support::shim::Host;
use crate::support::subject::peer_lacks;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// user: "the container will be able to remap user and group IDs from the host to local users and groups within the
/// container." (config-linux.md, "Namespaces")
#[test]
fn new_user_namespace_maps_root_and_its_processes_are_the_mapped_user() {
    needs_containers!();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let text = output("id -u; id -g; cat /proc/self/uid_map; ls -ln /dev/null | cut -c1-10", |bundle, _| {
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", map.clone());
        bundle.set("/linux/gidMappings", map.clone());
    });
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", "100000", "65536", "crw-rw-rw-"]);
}

/// "timeOffsets: sets the offset for Time Namespace." (config-linux.md, "Offset for Time Namespace")
#[test]
fn time_namespace_has_its_offsets() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than time namespaces");
    needs!(Path::new("/proc/self/ns/time").exists(), "this kernel has no time namespaces");
    let text = output("cut -d. -f1 /proc/uptime", |bundle, _| {
        bundle.push("/linux/namespaces", json!({"type": "time"}));
        bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 10_000_000}}));
    });
    let uptime: u64 = text.trim().parse().expect("seconds");
    assert!(uptime >= 10_000_000, "{uptime}");
}

/// "path: namespace file." "The runtime MUST place the container process in the namespace associated with that path."
/// (config-linux.md, "Namespaces")
#[test]
fn namespaces_by_path_are_joined() {
    needs_containers!();
    let host = Host::new();
    let first = host.start(host.bundle("a", "sleep 1000"));
    let pid = first.run();
    let inode = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
    let text =
        output("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done", |bundle, _| {
            let by_path =
                |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
            bundle.set("/hostname", json!(""));
            bundle.set("/linux/namespaces", json!([
            {"type": "mount"}, by_path("network", "net"), by_path("ipc", "ipc"), by_path("uts", "uts"),
            by_path("pid", "pid"),
        ]));
        });
    let seen: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    assert_eq!(seen, ["net", "ipc", "uts", "pid"].map(inode));
}

/// As Kubernetes does it: a pod's first container makes the user namespace, the others join it by path.
#[test]
fn user_namespace_by_path_is_joined_with_the_network_it_owns() {
    needs_containers!();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let host = Host::new();
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map.clone());
    let first = host.start(bundle);
    let pid = first.run();
    let text =
        output("id -u; for n in user net; do readlink /proc/self/ns/$n; done", |bundle, _| {
            let by_path =
                |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
            bundle.set("/linux/namespaces", json!([
            {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, by_path("user", "user"),
            by_path("network", "net"),
        ]));
            bundle.set("/linux/uidMappings", map.clone());
            bundle.set("/linux/gidMappings", map.clone());
        });
    let inode = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
    let seen: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    assert_eq!(seen, [PathBuf::from("0"), inode("user"), inode("net")]);
}

/// "sysctl: allows kernel parameters to be modified at runtime for the container." (config-linux.md, "Sysctl")
#[test]
fn sysctls_hold_in_the_container() {
    needs_containers!();
    let text = output("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", |bundle, _| {
        bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "123"}));
    });
    assert_eq!(text, "1\n123\n");
}

/// "errnoRet: the errno return code to use." (config-linux.md, "Seccomp")
#[test]
fn seccomp_answers_with_the_errno_of_the_profile() {
    needs_containers!();
    for no_new_privileges in [true, false] {
        let text =
            output("mkdir /x 2>&1; echo after", |bundle, _| {
                bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
                bundle.set("/linux/seccomp", json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
            }));
            });
        assert!(text.contains("No space left on device") && text.ends_with("after\n"), "{text}");
    }
}

/// "Hooks MUST be called in the listed order. The state of the container MUST be passed to hooks over stdin"
/// (config.md, "POSIX-platform Hooks").
#[test]
fn hooks_run_at_their_moments_with_the_state() {
    needs_containers!();
    let host = Host::new();
    let log = host.folder().join("hooks");
    let hook = |moment: &str| {
        let script = format!(
            r#"s=$(cat); echo "{moment} $(echo "$s" | grep -o '"status":"[a-z]*"')" >>{}"#,
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20}])
    };
    let mut bundle = host.bundle("a", "sleep 1000");
    let moments = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for moment in moments {
        bundle.set(&format!("/hooks/{moment}"), hook(moment));
    }
    let shim = host.start(bundle);
    shim.run();
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    let text = fs::read_to_string(&log).expect("the hooks' log");
    let seen: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(seen, moments, "{text}");
    assert!(text.contains(r#"poststop "status":"stopped""#), "{text}");
}

/// "If any createRuntime hook fails, the runtime MUST generate an error, stop the container" (runtime.md,
/// "Lifecycle").
#[test]
fn failing_hook_fails_create_in_words_and_leaves_nothing() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no network today; exit 3"]}]);
    bundle.set("/hooks/createRuntime", hook);
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("a failure");
    if crate::support::subject::ours() {
        assert!(
            failure.message.contains("hooks.createRuntime[0] /bin/sh: exit status 3"),
            "{}",
            failure.message
        );
        assert!(failure.message.contains("no network today"), "{}", failure.message);
    }
    shim.assert_nothing_left();
}

/// "personality: sets the Linux execution personality." (config-linux.md, "Personality") PER_LINUX32 is 8
/// (personality(2)).
#[test]
fn personality_is_the_one_asked_for() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `personality`");
    let text = output("cat /proc/self/personality", |bundle, _| {
        bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
    });
    assert_eq!(text, "00000008\n");
}

fn mount(arguments: &[&str]) {
    let status = Command::new(arguments[0]).args(&arguments[1..]).status().expect("start mount");
    assert!(status.success(), "{arguments:?}");
}

/// "rootfsPropagation: sets the rootfs's mount propagation. Its value is either shared, slave, private or
/// unbindable." (config-linux.md, "Rootfs Mount Propagation") Kubernetes asks for rshared when a volume's
/// mountPropagation is Bidirectional.
#[test]
fn mounts_on_a_shared_volume_of_a_shared_rootfs_travel_both_ways() {
    needs_containers!();
    for word in ["shared", "rshared"] {
        let host = Host::new();
        let volume = host.folder().join("volume");
        let path = volume.to_str().expect("text");
        fs::create_dir(&volume).expect("mkdir");
        mount(&["mount", "-t", "tmpfs", "volume", path]);
        mount(&["mount", "--make-shared", path]);
        for name in ["inside", "outside", "before"] {
            fs::create_dir(volume.join(name)).expect("mkdir");
        }
        mount(&["mount", "-t", "tmpfs", "before", volume.join("before").to_str().expect("text")]);
        fs::write(volume.join("before/file"), "").expect("write");
        let script = "mount -t tmpfs inside /volume/inside && : >/volume/inside/file
            until [ -e /volume/outside/file ]; do sleep 0.02; done
            grep -q ' / / .* shared:' /proc/self/mountinfo";
        let mut bundle = host.bundle("a", script);
        bundle.set("/linux/rootfsPropagation", json!(word));
        for set in ["bounding", "effective", "permitted"] {
            bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
        }
        let options = ["rbind", "rshared"];
        bundle.push(
            "/mounts",
            json!({"destination": "/volume", "type": "bind", "source": path, "options": options}),
        );
        let shim = host.start(bundle);
        shim.run();
        mount(&["mount", "-t", "tmpfs", "outside", volume.join("outside").to_str().expect("text")]);
        fs::write(volume.join("outside/file"), "").expect("write");
        let status = shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
        let on_host = ["inside", "before"].map(|name| volume.join(name).join("file").exists());
        mount(&["umount", "-R", path]);
        if !peer_lacks(1, 4) {
            assert_eq!(status, 0, "{word}: no shared root");
        }
        assert_eq!(
            on_host,
            [true, true],
            "{word}: mounted on the host: the container's, and what was there before"
        );
    }
}
