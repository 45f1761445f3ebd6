//! An OCI bundle made by hand: config.json as `ctr run` would write it, changed by the test, and a busybox root that
//! the shim mounts from the request.

use super::subject;
use containerd_shim_protos::api;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

#[derive(Clone)]
pub struct Bundle {
    pub folder: PathBuf,
    pub id: String,
    pub config: Value,
    pub mounts: Vec<api::Mount>,
}

impl Bundle {
    /// In a folder of its own below `parent`.
    pub fn new(parent: &Path, id: &str, arguments: &[&str]) -> Self {
        let folder = parent.join(id);
        for name in ["rootfs", "../upper-", "../work-"] {
            let path =
                if name == "rootfs" { folder.join(name) } else { parent.join(format!("{}{id}", &name[3..])) };
            fs::create_dir_all(path).expect("make a bundle's folder");
        }
        let overlay = api::Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                format!("lowerdir={}", subject::image_root().display()),
                format!("upperdir={}", parent.join(format!("upper-{id}")).display()),
                format!("workdir={}", parent.join(format!("work-{id}")).display()),
            ],
            ..api::Mount::default()
        };
        let unique = parent.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let cgroup = match subject::systemd_cgroups() {
            true => format!("{}.slice:{unique}:{id}", subject::run_name()),
            false => format!("/{}/{unique}-{id}", subject::run_name()),
        };
        Self { folder, id: id.into(), config: config(arguments, &cgroup), mounts: vec![overlay] }
    }

    pub fn sh(parent: &Path, id: &str, script: &str) -> Self {
        Self::new(parent, id, &["sh", "-c", script])
    }

    /// Changes one place of config.json, named by a JSON pointer; missing objects on the way are made.
    pub fn set(&mut self, pointer: &str, value: Value) {
        let mut place = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            place = match key.parse::<usize>() {
                Ok(index) if place.is_array() => &mut place[index],
                _ => &mut place[key],
            };
        }
        *place = value;
    }

    pub fn push(&mut self, pointer: &str, value: Value) {
        self.config
            .pointer_mut(pointer)
            .and_then(Value::as_array_mut)
            .expect("an array in config.json")
            .push(value);
    }

    /// Its processes may trace others: execs come to the pid namespace only when they are set up.
    pub fn may_trace(&mut self) {
        for set in ["bounding", "effective", "permitted"] {
            self.push(&format!("/process/capabilities/{set}"), "CAP_SYS_PTRACE".into());
        }
    }

    pub fn cgroup(&self) -> &str {
        self.config["linux"]["cgroupsPath"].as_str().expect("a path")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Puts the bundle on disk, with the log fifo that containerd makes.
    pub fn write(&self) {
        let log = self.folder.join("log");
        if !log.exists() {
            super::fifo::drain(&log);
        }
        fs::write(self.folder.join("config.json"), self.config.to_string()).expect("write config.json");
    }

    /// `process` of the bundle with other arguments: what an exec is asked for with.
    pub fn process(&self, arguments: &[&str]) -> Value {
        let mut process = self.config["process"].clone();
        process["args"] = json!(arguments);
        process
    }
}

fn config(arguments: &[&str], cgroup: &str) -> Value {
    let deny = json!([{"allow": false, "access": "rwm"}]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": deny},
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    let mount = |target: &str, kind: &str, source: &str, options: &str| json!({"destination": target, "type": kind, "source": source, "options": options.split(',').collect::<Vec<_>>()});
    json!([
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/run", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ])
}
