//! Every refusal, by the sentence it gives.

use serde_json::{Value, json};

use super::*;
use crate::oci::spec::{parse, parse_process};

/// A small spec that is accepted, with `patch` merged in; null removes.
fn with(patch: Value) -> Result<()> {
    let mut document = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/", "env": ["A=b"] },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] }
    });
    merge(&mut document, patch);
    check(&parse(document.to_string().as_bytes()).expect("well-formed").0)
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn accepted(patch: Value) {
    if let Err(error) = with(patch.clone()) {
        panic!("{patch}: {error}");
    }
}

/// The refusal begins with the field's path.
fn refused(patch: Value, beginning: &str) {
    match with(patch.clone()) {
        Ok(()) => panic!("{patch}: must be refused"),
        Err(error) => assert!(error.to_string().starts_with(beginning), "{patch}: {error}"),
    }
}

fn in_process(patch: Value, beginning: &str) {
    refused(json!({ "process": patch }), beginning);
}

fn in_linux(patch: Value, beginning: &str) {
    refused(json!({ "linux": patch }), beginning);
}

fn user_namespace(uids: Value, gids: Value) -> Value {
    json!({ "namespaces": [{ "type": "user" }, { "type": "mount" }], "uidMappings": uids, "gidMappings": gids })
}

#[test]
fn every_spec_that_containerd_wrote_is_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs");
    for entry in std::fs::read_dir(folder).expect("tests/specs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let json = std::fs::read(&path).expect("a file");
        let verdict = match path.display().to_string().contains("exec-") {
            true => check_process(&parse_process(&json).expect("well-formed").0, "process"),
            false => check(&parse(&json).expect("well-formed").0),
        };
        verdict.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn the_top_level_is_checked() {
    accepted(json!({}));
    for version in ["1.0.0", "1.0.2-dev", "1.2.1", ""] {
        accepted(json!({ "ociVersion": version }));
    }
    for version in ["2.0.0", "0.9.0", "1", "one"] {
        refused(json!({ "ociVersion": version }), "ociVersion `");
    }
    refused(json!({ "process": null }), "process is missing");
    refused(json!({ "root": null }), "root is missing");
    refused(json!({ "root": { "path": "" } }), "root.path is empty");
    refused(json!({ "root": { "path": "a\0b" } }), "root.path contains a NUL byte");
}

#[test]
fn hooks_are_checked() {
    accepted(json!({ "hooks": { "createRuntime": [{ "path": "/bin/true", "timeout": 3 }] } }));
    let relative = json!({ "hooks": { "poststop": [{ "path": "true" }] } });
    refused(relative, "hooks.poststop[0].path `true` is not absolute; write `/true`");
    let timeless = json!({ "hooks": { "prestart": [{ "path": "/bin/true", "timeout": 0 }] } });
    refused(timeless, "hooks.prestart[0].timeout 0 is no time");
}

#[test]
fn the_process_is_checked() {
    in_process(json!({ "cwd": "" }), "process.cwd is missing");
    in_process(json!({ "cwd": "srv" }), "process.cwd `srv` is not absolute; write `/srv`");
    in_process(json!({ "args": [] }), "process.args is empty");
    in_process(json!({ "args": null }), "process.args is empty");
    in_process(json!({ "args": ["a", "b\0"] }), "process.args[1] contains a NUL byte");
    in_process(json!({ "env": ["A=b", "C"] }), "process.env[1] `C` has no `=`");
    in_process(json!({ "oomScoreAdj": 1001 }), "process.oomScoreAdj 1001 is out of range");
    let limit = |soft, hard| json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard });
    accepted(json!({ "process": { "rlimits": [limit(1, 1)] } }));
    in_process(json!({ "rlimits": [limit(1, 1), limit(2, 2)] }), "process.rlimits[1] sets RLIMIT_NOFILE");
    in_process(json!({ "rlimits": [limit(2, 1)] }), "process.rlimits[0].soft 2 is above");
}

#[test]
fn scheduling_is_checked() {
    let scheduler = |json: Value| json!({ "scheduler": json });
    accepted(json!({ "process": scheduler(json!({ "policy": "SCHED_FIFO", "priority": 5 })) }));
    accepted(json!({ "process": scheduler(json!({ "policy": "SCHED_DEADLINE", "runtime": 5 })) }));
    let nice = scheduler(json!({ "policy": "SCHED_OTHER", "nice": 20 }));
    in_process(nice, "process.scheduler.nice 20 is out of range");
    let priority = scheduler(json!({ "policy": "SCHED_BATCH", "priority": 1 }));
    in_process(priority, "process.scheduler.priority is for SCHED_FIFO and SCHED_RR alone");
    let runtime = scheduler(json!({ "policy": "SCHED_RR", "runtime": 1 }));
    in_process(runtime, "process.scheduler.runtime is for SCHED_DEADLINE alone");
    let io = |priority| json!({ "ioPriority": { "class": "IOPRIO_CLASS_RT", "priority": priority } });
    accepted(json!({ "process": io(7) }));
    in_process(io(8), "process.ioPriority.priority 8 is out of range");
    in_process(io(-1), "process.ioPriority.priority -1 is out of range");
}

#[test]
fn flags_of_a_personality_are_told() {
    let told = |flags: Value| {
        let personality = json!({ "personality": { "domain": "LINUX", "flags": flags } });
        let spec = json!({ "linux": personality }).to_string();
        warnings(&parse(spec.as_bytes()).expect("well-formed").0)
    };
    assert_eq!(told(json!([])), Vec::<String>::new());
    let expected = "linux.personality.flags: ignored [\"ADDR_NO_RANDOMIZE\"], for the spec has no flags yet";
    assert_eq!(told(json!(["ADDR_NO_RANDOMIZE"])), [expected]);
}

#[test]
fn mounts_are_checked() {
    let mount = |json: Value| json!({ "mounts": [{ "destination": "/proc", "type": "proc" }, json] });
    let relative = mount(json!({ "destination": "foo", "type": "tmpfs" }));
    accepted(relative.clone());
    let told = warnings(&parse(relative.to_string().as_bytes()).expect("well-formed").0);
    let expected = "mounts[1].destination `foo` is relative, which is deprecated: taken for `/foo`";
    assert_eq!(told, [expected]);
    refused(mount(json!({ "destination": "" })), "mounts[1].destination is empty");
    let long = format!("/{}", "a".repeat(4096));
    refused(mount(json!({ "destination": long })), "mounts[1].destination is 4097 bytes long");
    refused(mount(json!({ "destination": "/a", "source": "b\0" })), "mounts[1].source contains a NUL byte");
    let bind = json!({ "destination": "/a", "source": "/b", "options": ["rbind", "ro", "size=1k"] });
    refused(mount(bind), "mounts[1].options `size=1k` means nothing to a bind mount");
    accepted(mount(json!({ "destination": "/a", "type": "tmpfs", "options": ["size=1k", "tmpcopyup"] })));
    let copy_up = json!({ "destination": "/a", "source": "b", "options": ["bind", "tmpcopyup"] });
    refused(mount(copy_up), "mounts[1].options has `tmpcopyup`, which only a tmpfs can do");
    let link =
        json!({ "destination": "/a", "source": "b", "options": ["bind", "copy-symlink", "src-nofollow"] });
    refused(mount(link), "mounts[1].options has `copy-symlink` beside `src-nofollow`");
    let again = json!({ "destination": "/a", "type": "tmpfs", "options": ["remount", "tmpcopyup"] });
    refused(mount(again), "mounts[1].options has `remount` beside an option for new mounts");
}

#[test]
fn only_procfs_and_what_lxcfs_covers_is_mounted_on_proc() {
    let mount =
        |to: &str, kind: &str| json!({ "mounts": [{ "destination": to, "type": kind, "source": "/s" }] });
    for (to, kind) in [
        ("/proc", "proc"),
        ("proc", "bind"),
        ("/proc/cpuinfo", "bind"),
        ("/proc/sys/kernel/ns_last_pid", "bind"),
        ("/process", "tmpfs"),
        ("/proc/../x", "tmpfs"),
    ] {
        accepted(mount(to, kind));
    }
    refused(
        mount("/proc", "tmpfs"),
        "mounts[0].destination `/proc` cannot be mounted because it is not of type proc",
    );
    for to in ["/proc/sys", "proc/self/attr", "/x/../proc//kcore/", "/proc/sys/kernel"] {
        let told = format!("mounts[0].destination `{to}` cannot be mounted because it is inside /proc");
        refused(mount(to, "bind"), &told);
    }
}

#[test]
fn id_mapped_mounts_are_checked() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mount = |options: Value, uids: &Value, gids: &Value| {
        json!({ "mounts": [{ "destination": "/a", "source": "/b", "options": options,
            "uidMappings": uids, "gidMappings": gids }] })
    };
    let none = json!([]);
    accepted(mount(json!(["bind"]), &map, &map));
    accepted(mount(json!(["rbind", "ridmap"]), &map, &map));
    accepted(mount(json!(["idmap"]), &map, &map));
    refused(mount(json!(["bind"]), &map, &none), "mounts[0].gidMappings is empty");
    let strange = mount(json!(["bind", "idmap=uids=0-1"]), &none, &none);
    refused(strange, "mounts[0].options `idmap=uids=0-1` is not understood; it looks like");
    refused(mount(json!(["bind", "idmap"]), &none, &none), "mounts[0] is id-mapped without mappings");
    let mut in_user_namespace = mount(json!(["bind", "idmap"]), &none, &none);
    in_user_namespace["linux"] = user_namespace(map.clone(), map);
    accepted(in_user_namespace);
}

#[test]
fn namespaces_are_checked() {
    let list = |list: Value| json!({ "namespaces": list });
    let twice = list(json!([{ "type": "pid" }, { "type": "network" }, { "type": "pid", "path": "/p" }]));
    in_linux(twice, "linux.namespaces[2] names the pid namespace a second time");
    let relative = list(json!([{ "type": "pid", "path": "proc/1/ns/pid" }]));
    in_linux(relative, "linux.namespaces[0].path `proc/1/ns/pid` is not absolute");
    accepted(json!({ "linux": list(json!([{ "type": "pid", "path": "" }, { "type": "mount" }])) }));
}

#[test]
fn host_names_need_a_uts_namespace_and_fit() {
    let uts = json!({ "namespaces": [{ "type": "uts" }] });
    refused(json!({ "hostname": "a" }), "hostname needs a uts namespace");
    refused(json!({ "domainname": "a" }), "domainname needs a uts namespace");
    accepted(json!({ "hostname": "a".repeat(64), "domainname": "b", "linux": uts }));
    refused(json!({ "hostname": "a".repeat(65), "linux": uts }), "hostname `aaa");
    accepted(json!({ "hostname": "" }));
}

#[test]
fn id_mappings_are_checked() {
    let range = |container: u32, host: u32, size: u32| json!({ "containerID": container, "hostID": host, "size": size });
    let good = json!([range(0, 1000, 10)]);
    accepted(json!({ "linux": user_namespace(good.clone(), good.clone()) }));
    in_linux(json!({ "uidMappings": good }), "linux.uidMappings needs a user namespace");
    in_linux(user_namespace(json!([]), good.clone()), "linux.uidMappings is empty");
    in_linux(user_namespace(good.clone(), json!([])), "linux.gidMappings is empty");
    let refused = |table: Value, beginning: &str| in_linux(user_namespace(table, good.clone()), beginning);
    refused(json!([range(1, 1000, 10)]), "linux.uidMappings does not map container id 0");
    refused(json!([range(0, 1000, 0)]), "linux.uidMappings[0].size is 0");
    refused(json!([range(0, 1000, 10), range(9, 5000, 1)]), "linux.uidMappings[1] overlaps range 0");
    refused(json!([range(0, 1000, 10), range(20, 1009, 1)]), "linux.uidMappings[1] overlaps range 0");
    refused(json!([range(0, u32::MAX, 2)]), "linux.uidMappings[0].hostID 4294967295 and 2 ids more");
    let many: Vec<_> = (0..341).map(|at| range(at, at + 1000, 1)).collect();
    refused(json!(many), "linux.uidMappings has 341 ranges");
    let joined =
        json!({ "namespaces": [{ "type": "user", "path": "/proc/7/ns/user" }], "uidMappings": good });
    accepted(json!({ "linux": joined }));
}

#[test]
fn ids_of_the_process_must_be_mapped() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let patch = |user: Value| json!({ "process": { "user": user }, "linux": user_namespace(map.clone(), map.clone()) });
    accepted(patch(json!({ "uid": 9, "gid": 9, "additionalGids": [0] })));
    refused(patch(json!({ "uid": 10 })), "process.user.uid 10 is not in linux.uidMappings");
    refused(patch(json!({ "gid": 10 })), "process.user.gid 10 is not in linux.gidMappings");
    refused(patch(json!({ "additionalGids": [1, 77] })), "process.user.additionalGids[1] 77 is not in");
}

#[test]
fn settings_of_the_kernel_stay_inside() {
    let sysctl = |name: &str, kind: &str| {
        let kinds = json!([{ "type": "mount" }, { "type": kind }]);
        json!({ "linux": { "sysctl": { name: "1" }, "namespaces": kinds } })
    };
    for (name, kind) in [
        ("kernel.shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("net.ipv4.ip_forward", "network"),
        ("net/ipv4/conf/eth0.1/rp_filter", "network"),
        ("kernel.domainname", "uts"),
    ] {
        accepted(sysctl(name, kind));
        let beginning = format!("linux.sysctl.{name} would change the host's");
        refused(sysctl(name, "pid"), &beginning);
    }
    refused(sysctl("kernel.hostname", "uts"), "linux.sysctl.kernel.hostname conflicts");
    refused(sysctl("kernel.panic", "pid"), "linux.sysctl.kernel.panic is not namespaced");
    refused(sysctl("vm.swappiness", "network"), "linux.sysctl.vm.swappiness is not namespaced");
    for name in ["net/../kernel/panic", "net..kernel", "net.ipv4/../../kernel", "net.", ""] {
        let beginning = format!("linux.sysctl.{name} is no name");
        refused(sysctl(name, "network"), &beginning);
    }
}

#[test]
fn the_file_of_a_setting_keeps_the_dots_of_a_device() {
    assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
    assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
    assert_eq!(sysctl_path("kernel.shmmax"), "kernel/shmmax");
}

#[test]
fn clock_offsets_are_checked() {
    let time = json!([{ "type": "time" }]);
    let offsets = |offsets: Value, list: &Value| json!({ "timeOffsets": offsets, "namespaces": list });
    accepted(json!({ "linux": offsets(json!({ "monotonic": { "secs": 5 } }), &time) }));
    in_linux(offsets(json!({ "monotonic": { "secs": 5 } }), &json!([])), "linux.timeOffsets needs a time");
    let joined = json!([{ "type": "time", "path": "/p" }]);
    in_linux(offsets(json!({ "boottime": { "secs": 5 } }), &joined), "linux.timeOffsets cannot be set");
    in_linux(offsets(json!({ "wall": { "secs": 5 } }), &time), "linux.timeOffsets.wall is no clock");
    let nanoseconds = json!({ "boottime": { "secs": 0, "nanosecs": 1_000_000_000 } });
    in_linux(offsets(nanoseconds, &time), "linux.timeOffsets.boottime.nanosecs is a second or more");
}

#[test]
fn the_cgroup_and_its_resources_are_checked() {
    accepted(json!({ "linux": { "cgroupsPath": "system.slice:cri:1234" } }));
    in_linux(json!({ "cgroupsPath": "/a/../../b" }), "linux.cgroupsPath `/a/../../b` contains `..`");
    let rule = |rule: Value| json!({ "resources": { "devices": [rule] } });
    accepted(json!({ "linux": rule(json!({ "allow": false, "access": "rwm" })) }));
    in_linux(rule(json!({ "allow": true })), "linux.resources.devices[0].access `` must be made of");
    in_linux(rule(json!({ "allow": true, "access": "rx" })), "linux.resources.devices[0].access `rx`");
    in_linux(rule(json!({ "type": "p", "access": "r" })), "linux.resources.devices[0].type must be");
    let unified = |key: &str| json!({ "resources": { "unified": { key: "1" } } });
    accepted(json!({ "linux": unified("memory.high") }));
    in_linux(unified("../memory.max"), "linux.resources.unified `../memory.max` is no cgroup file");
}

#[test]
fn values_of_resources_are_checked() {
    let resources = |json: Value| json!({ "resources": json });
    let memory = |json: Value| resources(json!({ "memory": json }));
    let unlimited = json!({ "limit": -1, "swap": -1, "reservation": 0, "kernel": -1, "swappiness": 100 });
    accepted(json!({ "linux": memory(unlimited) }));
    accepted(json!({ "linux": memory(json!({ "swappiness": u64::MAX })) }));
    for name in ["limit", "reservation", "swap", "kernel", "kernelTCP"] {
        in_linux(memory(json!({ name: -2 })), &format!("linux.resources.memory.{name} -2 is no size"));
    }
    in_linux(memory(json!({ "swappiness": 101 })), "linux.resources.memory.swappiness 101 is out of range");
    let weights = |extra: Value| {
        let mut device = json!({ "major": 8, "minor": 0 });
        merge(&mut device, extra);
        resources(json!({ "blockIO": { "weightDevice": [device] } }))
    };
    accepted(json!({ "linux": weights(json!({ "leafWeight": 10 })) }));
    in_linux(weights(json!({})), "linux.resources.blockIO.weightDevice[0] has no weight");
    accepted(json!({ "linux": resources(json!({ "rdma": { "mlx5_1": { "hcaObjects": 3 } } })) }));
    let nothing = resources(json!({ "rdma": { "mlx5_1": {} } }));
    in_linux(nothing, "linux.resources.rdma.mlx5_1 has no limit; give at least one of `hcaHandles`");
}

#[test]
fn devices_and_paths_are_checked() {
    let device = |device: Value| json!({ "devices": [device] });
    in_linux(device(json!({ "path": "null", "type": "c" })), "linux.devices[0].path `null` is not absolute");
    in_linux(device(json!({ "path": "/dev/x", "type": "a" })), "linux.devices[0].type must be `b`");
    let negative = json!({ "path": "/dev/x", "type": "c", "major": -1, "minor": 0 });
    in_linux(device(negative), "linux.devices[0].major -1 is no device number");
    in_linux(json!({ "maskedPaths": ["proc"] }), "linux.maskedPaths[0] `proc` is not absolute");
    let shared = json!({ "namespaces": [], "readonlyPaths": ["/proc"] });
    in_linux(shared, "linux.readonlyPaths needs a mount namespace");
    in_linux(json!({ "rootfsPropagation": "sideways" }), "linux.rootfsPropagation `sideways` is unknown");
    accepted(json!({ "linux": { "rootfsPropagation": "rslave" } }));
}

#[test]
fn network_devices_memory_policy_and_rdt_are_checked() {
    let network = |name: &str| json!({ "namespaces": [{ "type": "network" }], "netDevices": { name: {} } });
    accepted(json!({ "linux": network("eth0") }));
    in_linux(json!({ "netDevices": { "eth0": {} } }), "linux.netDevices needs a network namespace");
    for name in ["", "..", "a/b", "a:b", "a b", "sixteen_letters_"] {
        in_linux(network(name), "linux.netDevices `");
    }
    let policy = |mode: &str, nodes: &str| json!({ "memoryPolicy": { "mode": mode, "nodes": nodes } });
    accepted(json!({ "linux": policy("MPOL_BIND", "0-1,3") }));
    accepted(json!({ "linux": policy("MPOL_DEFAULT", "") }));
    in_linux(policy("MPOL_BIND", ""), "linux.memoryPolicy.nodes is empty");
    in_linux(policy("MPOL_LOCAL", "0"), "linux.memoryPolicy.nodes must be empty");
    in_linux(policy("MPOL_BIND", "1-0"), "linux.memoryPolicy.nodes `1-0` is no list");
    accepted(json!({ "linux": { "intelRdt": { "closID": "/" } } }));
    in_linux(json!({ "intelRdt": { "closID": "a/b" } }), "linux.intelRdt.closID `a/b`");
}

#[test]
fn seccomp_is_checked() {
    let profile = |json: Value| json!({ "seccomp": json });
    let notify = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
    let base = |more: Value| {
        let mut base = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        merge(&mut base, more);
        profile(base)
    };
    accepted(json!({ "linux": base(json!({ "syscalls": notify, "listenerPath": "/run/agent" })) }));
    in_linux(base(json!({ "syscalls": notify })), "linux.seccomp.listenerPath is missing");
    let relative = base(json!({ "syscalls": notify, "listenerPath": "agent" }));
    in_linux(relative, "linux.seccomp.listenerPath `agent` is not absolute");
    in_linux(base(json!({ "listenerMetadata": "x" })), "linux.seccomp.listenerMetadata is for an agent");
    in_linux(profile(json!({ "defaultAction": "SCMP_ACT_NOTIFY" })), "linux.seccomp.defaultAction cannot be");
    let write = json!([{ "names": ["read", "write"], "action": "SCMP_ACT_NOTIFY" }]);
    in_linux(base(json!({ "syscalls": write })), "linux.seccomp.syscalls[0] cannot send `write`");
    let errno = json!([{ "names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1 }]);
    in_linux(base(json!({ "syscalls": errno })), "linux.seccomp.syscalls[0].errnoRet has no meaning");
    let nameless = json!([{ "names": [], "action": "SCMP_ACT_KILL" }]);
    in_linux(base(json!({ "syscalls": nameless })), "linux.seccomp.syscalls[0].names must name");
}

#[test]
fn ids_are_checked() {
    for id in ["a", "A1_.+-", "0123456789abcdef", "my.container"] {
        assert!(check_id("container", id).is_ok(), "{id}");
    }
    let long = "a".repeat(1025);
    for id in ["", ".", "..", "-a", "_a", "a/b", "a..b", "a b", "a\n", "ä", "../x", &long] {
        let error = check_id("container", id).expect_err(id).to_string();
        assert!(error.starts_with("container id "), "{error}");
    }
}
