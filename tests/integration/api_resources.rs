//! `linux.resources` on the kernel's own files, on v1 and on v2, at Create and by Update; and what is said where the
//! kernel has no such file or forbids the value.

use crate::support::fifo::Sink;
use crate::support::leak;
use crate::support::shim::{Host, Shim};
use crate::support::subject::{cgroup_v2, ours, peer_lacks, systemd_cgroups};
use crate::{needs, needs_containers};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn started<'h>(host: &'h Host, resources: &Value) -> Shim<'h> {
    let shim = host.start(with(host, resources));
    shim.run();
    shim
}

fn with(host: &Host, resources: &Value) -> crate::support::bundle::Bundle {
    let mut bundle = host.bundle("a", "sleep 1000");
    for (key, value) in resources.as_object().expect("an object") {
        bundle.set(&format!("/linux/resources/{key}"), value.clone());
    }
    bundle
}

/// A file of the container's cgroup, in whatever hierarchy it is.
fn read(shim: &Shim<'_>, file: &str) -> Option<String> {
    let folders = leak::cgroups(shim.bundle.cgroup());
    let text = folders.iter().find_map(|folder| fs::read_to_string(folder.join(file)).ok())?;
    Some(text.trim().to_string())
}

#[track_caller]
fn assert_files(shim: &Shim<'_>, v1: &[(&str, &str)], v2: &[(&str, &str)], of: &Value) {
    for (file, expected) in if cgroup_v2() { v2 } else { v1 } {
        assert_eq!(read(shim, file).as_deref(), Some(*expected), "{file}: {of}");
    }
}

/// A limit, the files that show it on v1 and on v2.
type Row<'a> = (Value, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

fn rows() -> Vec<Row<'static>> {
    let mut rows: Vec<Row<'static>> = vec![
        // "shares: specifies a relative share of CPU time available to the tasks in a cgroup". The curve of runc 1.3.2.
        (json!({"cpu": {"shares": 512}}), &[("cpu.shares", "512")], &[]),
        // "quota … all tasks in a cgroup can run during one period"; "period".
        (
            json!({"cpu": {"quota": 20000, "period": 50000}}),
            &[("cpu.cfs_quota_us", "20000"), ("cpu.cfs_period_us", "50000")],
            &[("cpu.max", "20000 50000")],
        ),
        // "limit: sets limit of memory usage"; "reservation: sets soft limit of memory usage"; "swap: sets limit of
        // memory+Swap usage".
        (
            json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728}}),
            &[
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
                ("memory.memsw.limit_in_bytes", "134217728"),
            ],
            &[("memory.max", "67108864"), ("memory.low", "33554432")],
        ),
        // "limit: specifies the maximum number of tasks in the cgroup"; "-1" is none.
        (json!({"pids": {"limit": 77}}), &[("pids.max", "77")], &[("pids.max", "77")]),
        (json!({"pids": {"limit": -1}}), &[("pids.max", "max")], &[("pids.max", "max")]),
        // "kernel: NOT RECOMMENDED": kernels do not know it any more, and runc passes over it.
        (json!({"memory": {"kernel": 16_777_216}}), &[], &[]),
    ];
    if ours() {
        // "swappiness", "kernelTCP": files of v1 alone. runc passes over the second, and over the first in an update.
        rows.push((json!({"memory": {"swappiness": 40}}), &[("memory.swappiness", "40")], &[]));
        let tcp = json!({"memory": {"kernelTCP": 8_388_608}});
        rows.push((tcp, &[("memory.kmem.tcp.limit_in_bytes", "8388608")], &[]));
        // "burst" and "idle", which the runcs of Debian 12 do not know yet.
        rows.push((
            json!({"cpu": {"quota": 50000, "period": 100_000, "burst": 10000}}),
            &[("cpu.cfs_burst_us", "10000")],
            &[("cpu.max.burst", "10000"), ("cpu.max", "50000 100000")],
        ));
        rows.push((json!({"cpu": {"idle": 1}}), &[("cpu.idle", "1")], &[("cpu.idle", "1")]));
        rows.push((json!({"cpu": {"shares": 512}}), &[], &[("cpu.weight", "59")]));
    }
    if leak_controller("cpuset") {
        // "cpus: list of CPUs the container will run on"; "mems".
        let files = &[("cpuset.cpus", "0"), ("cpuset.mems", "0")];
        rows.push((json!({"cpu": {"cpus": "0", "mems": "0"}}), files, files));
    }
    rows
}

fn leak_controller(name: &str) -> bool {
    match cgroup_v2() {
        true => fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|text| text.contains(name)),
        false => Path::new("/sys/fs/cgroup").join(name).exists(),
    }
}

/// "You can configure a container's cgroups via the resources field of the Linux configuration." (config-linux.md,
/// "Cgroups Path") Each row of the list quotes a sentence of its own.
#[test]
fn limits_are_in_the_kernel_after_create() {
    needs_containers!();
    for (resources, v1, v2) in rows() {
        let host = Host::new();
        let shim = started(&host, &resources);
        assert_files(&shim, v1, v2, &resources);
    }
}

/// The same by Update: "Do not specify resources unless limits have to be updated." (config-linux.md, "Cgroups Path")
#[test]
fn limits_are_in_the_kernel_after_an_update() {
    needs_containers!();
    let host = Host::new();
    for (resources, v1, v2) in rows() {
        let shim = started(&host, &json!({}));
        shim.update(&resources).unwrap_or_else(|failure| panic!("{resources}: {failure:?}"));
        assert_files(&shim, v1, v2, &resources);
        shim.kill("", libc::SIGKILL).expect("Kill");
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
    }
}

/// "limit (int64, OPTIONAL) - specifies the maximum number of tasks in the cgroup" (config-linux.md, "PIDs"): one that is not
/// given limits nothing, and changes nothing.
#[test]
fn pids_without_a_limit_are_not_limited() {
    needs_containers!();
    needs!(ours(), "the runcs of Debian 12 and 13 take it for 0");
    let host = Host::new();
    let empty = json!({"pids": {}});
    let shim = started(&host, &empty);
    // systemd has a limit of its own for every unit.
    assert!(systemd_cgroups() || read(&shim, "pids.max").as_deref() == Some("max"));
    assert_ne!(read(&shim, "pids.max").as_deref(), Some("1"));
    shim.update(&json!({"pids": {"limit": 44}})).expect("Update");
    for resources in [empty, json!({"pids": {"limit": null}})] {
        shim.update(&resources).expect("Update");
        assert_eq!(read(&shim, "pids.max").as_deref(), Some("44"), "{resources}");
    }
}

/// "disableOOMKiller: enables or disables the OOM killer." (config-linux.md, "Memory") A file of v1; v2 has no such
/// thing.
#[test]
fn oom_killer_is_switched_off_on_v1() {
    needs_containers!();
    needs!(!cgroup_v2(), "cgroup v2 has no switch for the OOM killer");
    let host = Host::new();
    let shim = started(&host, &json!({"memory": {"limit": 67_108_864, "disableOOMKiller": true}}));
    assert!(read(&shim, "memory.oom_control").is_some_and(|text| text.starts_with("oom_kill_disable 1")));
}

/// "hugepageLimits: represents the hugetlb controller which allows to limit the HugeTLB reservations (if supported)
/// or usage (page fault)." (config-linux.md, "Huge page limits") On a hybrid host it is cgroup v2's.
#[test]
fn huge_pages_are_limited() {
    needs_containers!();
    let hybrid = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    let has = leak_controller("hugetlb") || hybrid.is_ok_and(|text| text.contains("hugetlb"));
    needs!(has, "no hugetlb controller");
    needs!(ours(), "runc looks for it on v1 only on this host");
    let host = Host::new();
    let shim = started(&host, &json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}));
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        assert_eq!(read(&shim, file).as_deref(), Some("4194304"), "{file}");
    }
    shim.update(&json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2_097_152}]})).expect("Update");
    assert_eq!(read(&shim, "hugetlb.2MB.max").as_deref(), Some("2097152"));
}

/// A whole disk's major and minor number, as `/sys/block` has them.
fn disk() -> Option<String> {
    let mut disks: Vec<PathBuf> =
        fs::read_dir("/sys/block").ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    disks.sort();
    let disk = disks
        .into_iter()
        .find(|disk| fs::read_to_string(disk.join("size")).is_ok_and(|size| size.trim() != "0"))?;
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim().to_string())
}

/// "an array of per-device bandwidth rate limits"; "an array of per-device IO rate limits" (config-linux.md, "Block
/// IO"). A rate of 0 takes the limit away again.
#[test]
fn disks_are_throttled() {
    needs_containers!();
    let disk = disk();
    needs!(disk.is_some(), "no disk in /sys/block");
    needs!(leak_controller(if cgroup_v2() { "io" } else { "blkio" }), "no controller for block devices");
    let disk = disk.unwrap();
    let (major, minor) = disk.split_once(':').expect("major:minor");
    let rate = |rate: u64| json!([{"major": major.parse::<u32>().unwrap(), "minor": minor.parse::<u32>().unwrap(), "rate": rate}]);
    let all = |bps: u64, iops: u64| {
        json!({"blockIO": {
            "throttleReadBpsDevice": rate(bps), "throttleWriteBpsDevice": rate(bps * 2),
            "throttleReadIOPSDevice": rate(iops), "throttleWriteIOPSDevice": rate(iops * 2),
        }})
    };
    let host = Host::new();
    let shim = started(&host, &all(1_048_576, 100));
    let seen = |file: &str| read(&shim, file).unwrap_or_default();
    match cgroup_v2() {
        true => assert_eq!(seen("io.max"), format!("{disk} rbps=1048576 wbps=2097152 riops=100 wiops=200")),
        false => {
            assert_eq!(seen("blkio.throttle.read_bps_device"), format!("{disk} 1048576"));
            assert_eq!(seen("blkio.throttle.write_bps_device"), format!("{disk} 2097152"));
            assert_eq!(seen("blkio.throttle.read_iops_device"), format!("{disk} 100"));
            assert_eq!(seen("blkio.throttle.write_iops_device"), format!("{disk} 200"));
        }
    }
    needs!(!peer_lacks(1, 2), "this runc does not take throttles away");
    shim.update(&all(0, 0)).expect("Update");
    let file = if cgroup_v2() { "io.max" } else { "blkio.throttle.read_bps_device" };
    assert_eq!(seen(file), "");
}

/// "weight: specifies per-cgroup weight." (config-linux.md, "Block IO") Where the kernel has a file for it, it is
/// there; where no disk has weights, the error says so.
#[test]
fn block_weight_is_set_or_explained() {
    needs_containers!();
    needs!(ours(), "runc passes over it where the kernel has no weights");
    needs!(leak_controller(if cgroup_v2() { "io" } else { "blkio" }), "no controller for block devices");
    let host = Host::new();
    let probe = started(&host, &json!({}));
    let files = ["blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight"];
    let file = files.iter().find(|file| read(&probe, file).is_some());
    let outcome = probe.update(&json!({"blockIO": {"weight": 500}}));
    match file {
        Some(file) => {
            outcome.expect("Update");
            let expected = if *file == "io.weight" { "default 4950" } else { "500" };
            assert!(read(&probe, file).is_some_and(|text| text.contains(expected)), "{file}");
        }
        None => {
            let failure = outcome.expect_err("no file for it");
            assert!(
                failure.message.contains("no disk of this host has a scheduler with weights"),
                "{failure:?}"
            );
        }
    }
}

/// "Configuration unknown to the runtime MUST still be written to the relevant file." "The runtime MUST generate an
/// error when the configuration refers to a cgroup controller that is not present or that cannot be enabled."
/// (config-linux.md, "Unified")
#[test]
fn unified_map_is_written_on_v2_and_refused_elsewhere() {
    needs_containers!();
    let host = Host::new();
    let map = json!({"unified": {"pids.max": "33", "memory.high": "50331648", "cpu.weight": "77"}});
    if cgroup_v2() {
        let shim = started(&host, &map);
        for (file, expected) in [("pids.max", "33"), ("memory.high", "50331648"), ("cpu.weight", "77")] {
            assert_eq!(read(&shim, file).as_deref(), Some(expected), "{file}");
        }
        shim.update(&json!({"unified": {"memory.high": "max"}})).expect("Update");
        assert_eq!(read(&shim, "memory.high").as_deref(), Some("max"));
        let failure = shim.update(&json!({"unified": {"memory.novelty": "1"}})).expect_err("no such file");
        assert!(failure.message.contains("memory.novelty"), "{failure:?}");
    } else {
        let shim = host.start(with(&host, &map));
        let failure = shim.create().expect_err("refused");
        assert!(!ours() || failure.message.contains("cgroup v2 alone"), "{failure:?}");
        shim.assert_nothing_left();
    }
}

/// "checkBeforeUpdate: enables container memory usage check before setting a new limit." (config-linux.md, "Memory")
#[test]
fn limit_below_the_usage_is_refused_when_asked_to_look_first() {
    needs_containers!();
    needs!(ours(), "the runcs of Debian 12 and 13 do not look on v1");
    let host = Host::new();
    let mut bundle = with(&host, &json!({"memory": {"limit": 268_435_456}}));
    // 64 MiB of a tmpfs are the container's memory for as long as they are there.
    bundle.set(
        "/process/args",
        json!(["sh", "-c", "head -c 48000000 /dev/zero >/dev/shm/x; echo done; sleep 1000"]),
    );
    let shim = host.start(bundle);
    shim.run();
    crate::support::eventually("memory in use", crate::support::SOON, || {
        let file = if cgroup_v2() { "memory.current" } else { "memory.usage_in_bytes" };
        read(&shim, file)?.parse::<u64>().ok().filter(|bytes| *bytes > 45_000_000)
    });
    let tiny = json!({"memory": {"limit": 8_388_608, "checkBeforeUpdate": true}});
    let failure = shim.update(&tiny).expect_err("refused");
    assert!(
        failure.message.contains("already uses") && failure.message.contains("memory.limit"),
        "{failure:?}"
    );
    assert_files(&shim, &[("memory.limit_in_bytes", "268435456")], &[("memory.max", "268435456")], &tiny);
}

/// What the container is asked for and does not get is no secret.
#[test]
fn settings_of_v1_alone_are_told_of_in_the_log_on_v2() {
    needs_containers!();
    needs!(ours() && cgroup_v2(), "on cgroup v1 they have their effect; runc says nothing");
    let host = Host::new();
    let swappiness = json!({"memory": {"swappiness": 40}});
    let bundle = with(&host, &swappiness);
    let log = Sink::new(bundle.folder.join("log"));
    let shim = host.start(bundle);
    shim.run();
    let told = "container a: linux.resources: cgroup v2 has nothing for memory.swappiness: left out";
    log.wait_for(told);
    shim.update(&json!({"memory": {"disableOOMKiller": true}})).expect("Update");
    log.wait_for("nothing for memory.disableOOMKiller");
    assert_eq!(log.so_far().matches(told).count(), 1);
}

/// A hybrid host with a hierarchy that few hosts mount, for this test's thread and the shims it starts. Only in the
/// guest: it is the whole machine's kernel that gets the hierarchy.
fn become_hybrid() {
    myshim::sys::ns::unshare(libc::CLONE_NEWNS).expect("a mount namespace for the test");
    let script = "mount --make-rslave / && umount -l /sys/fs/cgroup && mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup && \
        mkdir unified net_cls && mount -t cgroup2 cgroup2 unified && mount -t cgroup -o net_cls cgroup net_cls";
    let status = Command::new("sh").args(["-c", script]).status().expect("start sh");
    assert!(status.success(), "{script}");
}

/// "classID: is the network class identifier the cgroup's network packets will be tagged with" (config-linux.md,
/// "Network").
#[test]
fn network_class_is_set_where_its_hierarchy_is() {
    needs_containers!();
    let guest = fs::read_to_string("/proc/cmdline").is_ok_and(|text| text.contains("guest_share="));
    needs!(guest, "mounting net_cls would change the whole machine");
    needs!(!systemd_cgroups(), "systemd keeps the cgroups of this guest");
    become_hybrid();
    let host = Host::new();
    let shim = started(&host, &json!({"network": {"classID": 1_048_577}}));
    assert_eq!(read(&shim, "net_cls.classid").as_deref(), Some("1048577"));
    shim.update(&json!({"network": {"classID": 7}})).expect("Update");
    assert_eq!(read(&shim, "net_cls.classid").as_deref(), Some("7"));
}

/// "Runtimes MUST generate an error when invalid or unsupported values are encountered." (config.md, "Valid values")
/// The error has the field and the reason, and nothing is left.
#[test]
fn forbidden_values_are_explained() {
    needs_containers!();
    needs!(ours(), "runc has other words");
    let mut cases = vec![
        (json!({"cpu": {"quota": 10}}), "at least 1000"),
        (json!({"cpu": {"quota": 10}}), "linux.resources.cpu.quota"),
        (json!({"cpu": {"quota": 10000, "burst": 20000}}), "burst at most the quota"),
        (json!({"memory": {"limit": 67_108_864, "swap": 33_554_432}}), "must not be less than memory"),
        (json!({"unified": {"../pids.max": "3"}}), "linux.resources.unified"),
        (json!({"devices": [{"allow": true, "access": "rwx"}]}), "linux.resources.devices[0].access"),
        (json!({"rdma": {"mlx5_0": {"hcaHandles": 3}}}), "linux.resources.rdma"),
        (json!({"rdma": {"mlx5_0": {}}}), "linux.resources.rdma.mlx5_0"),
        (json!({"memory": {"limit": -2}}), "linux.resources.memory.limit"),
        (json!({"memory": {"swappiness": 101}}), "linux.resources.memory.swappiness"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
            "linux.resources.blockIO.weightDevice[0]",
        ),
    ];
    if cgroup_v2() {
        cases.push((json!({"cpu": {"realtimeRuntime": 5000}}), "no real-time limits"));
    } else {
        cases.push((json!({"cpu": {"shares": 1}}), "2 to 262144"));
    }
    if leak_controller("cpuset") {
        cases.push((json!({"cpu": {"cpus": "999"}}), "within the parent's cpuset"));
        cases.push((json!({"cpu": {"cpus": "999"}}), "linux.resources.cpu.cpus"));
    }
    if !leak_controller("net_cls") {
        cases.push((json!({"network": {"classID": 1_048_577}}), "network.classID"));
        cases.push((
            json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}),
            "network.priorities",
        ));
    }
    for (resources, told) in cases {
        let host = Host::new();
        let shim = host.start(with(&host, &resources));
        let failure = shim.create().expect_err("refused");
        assert!(failure.message.contains(told), "{resources}: {failure:?}");
        shim.assert_nothing_left();
    }
}
