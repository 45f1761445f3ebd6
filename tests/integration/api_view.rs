//! What a process sees of itself, ours and runc's side by side: the same bundle is run by both shims and the texts
//! compared.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::{Subject, ours};
use serde_json::json;

/// Output of the bundle's init under one shim or the other.
fn under(subject: Subject, change: &dyn Fn(&mut Bundle), script: &str) -> String {
    let host = Host::of(subject);
    let out = Sink::new(host.folder().join("out"));
    // One stream: the order of two pipes is nobody's promise.
    let mut bundle = host.bundle("a", &format!("exec 2>&1; {script}"));
    change(&mut bundle);
    let terminal = bundle.config["process"]["terminal"] == true;
    let stderr = if terminal { String::new() } else { out.uri() };
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { terminal, stdout: out.uri(), stderr, ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    out.finish().replace(host.folder().to_str().expect("text"), "HOST").replace(&host.namespace, "NAMESPACE")
}

#[track_caller]
fn assert_same_view(change: &dyn Fn(&mut Bundle), script: &str) {
    let [ours, runc] = [Subject::Ours, Subject::Runc].map(|subject| under(subject, change, script));
    assert_eq!(ours, runc, "left: ours, right: runc");
    assert!(!ours.is_empty());
}

/// The lines of mountinfo without numbers that differ from run to run: ids, device numbers, superblock paths. Masks
/// are compared by their place: ours lay the host's own /dev/null there (CVE-2025-31133) and one tmpfs for all folders.
pub const MOUNTS: &str = r#"while read -r id parent dev root point options rest; do echo "$root $point $options ${rest}"; done </proc/self/mountinfo |
    sed -e 's/lowerdir.*//' -e 's/\(master\|shared\|propagate_from\):[0-9]*/\1/g' -e 's/tmpfs tmpfs .*\(ro\|rw\)/tmpfs \1/' -e 's#^\([^ ]*\) \(/proc/\(acpi\|kcore\|keys\|latency_stats\|sched_debug\|scsi\|timer_list\|timer_stats\)\|/sys/firmware\) .*#\1 \2 masked#' -e 's#/[^ ]*\(/NAMESPACE\|/mst-\)[^ ]*##' -e 's/^[^ ]* //' | sort"#;

/// "mounts: specifies additional mounts beyond root." (config.md, "Mounts")
#[test]
fn mounts_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_same_view(&|_| {}, MOUNTS);
}

/// "capabilities: is an object containing arrays that specifies the sets of capabilities for the process."
/// (config.md, "Linux Process")
#[test]
fn status_fields_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    // Not SigIgn: the Go runtime leaves signal 32 ignored, ours leaves none.
    let fields = "grep -E '^(Umask|Uid|Gid|Groups|NSpid|NSpgid|NSsid|SigPnd|SigBlk|SigCgt|Shd|Cap|NoNewPrivs|Seccomp|THP)' /proc/self/status";
    assert_same_view(&|_| {}, &format!("exec {fields}"));
    let user = |bundle: &mut Bundle| {
        bundle
            .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [50, 7], "umask": 63}));
        bundle.set("/process/capabilities/ambient", json!(["CAP_NET_RAW"]));
        bundle.set("/process/capabilities/inheritable", json!(["CAP_NET_RAW"]));
    };
    assert_same_view(&user, &format!("exec {fields}"));
}

/// "By default, only the stdin, stdout and stderr file descriptors are kept open for the application by the runtime."
/// (runtime-linux.md, "File descriptors") "env: with the same semantics as IEEE Std 1003.1-2008's environ."
/// (config.md, "Process")
#[test]
fn limits_environment_and_descriptors_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let script = "cat /proc/self/limits | grep -v 'processes\\|pending'; env | sort; ls /proc/self/fd; pwd; umask; hostname; cat /proc/self/oom_score_adj; cat /proc/self/comm; ls -l /proc/self/ns | wc -l";
    // The shim's own score is one above its starter's, and a container without a wish keeps it.
    assert_same_view(&|bundle| bundle.set("/process/oomScoreAdj", json!(100)), script);
    let set = |bundle: &mut Bundle| {
        bundle.push("/process/rlimits", json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0}));
        bundle.push("/process/env", json!("HOME=/elsewhere"));
        bundle.push("/process/env", json!("TWICE=1"));
        bundle.push("/process/env", json!("TWICE=2"));
        bundle.set("/process/oomScoreAdj", json!(500));
        bundle.set("/process/cwd", json!("/volume/new"));
    };
    assert_same_view(&set, script);
}

/// "devices: lists devices that MUST be available in the container." (config-linux.md, "Devices")
#[test]
fn devices_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let devices = |bundle: &mut Bundle| {
        let fuse = json!({"path": "/dev/my/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4});
        bundle.set("/linux/devices", json!([fuse]));
    };
    let script = "cd /dev; ls -ln . my | sed 's/ [A-Z][a-z][a-z] *[0-9]* *[0-9:]* / /' | grep -v total; readlink fd stdin stdout stderr core ptmx";
    assert_same_view(&devices, script);
}

/// "maskedPaths: will mask over the provided paths inside the container so that they cannot be read."
/// (config-linux.md, "Masked Paths") "readonlyPaths: will set the provided paths as readonly inside the container."
/// (config-linux.md, "Readonly Paths")
#[test]
fn masked_and_read_only_paths_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let script = "cat /proc/kcore 2>&1 | head -c 10; ls /sys/firmware; echo x 2>&1 >/proc/sys/kernel/hostname; echo x 2>&1 >/proc/sysrq-trigger; cat /proc/timer_list; cat /proc/1/mounts; cat /proc/1/limits | wc -l";
    // A link: what it leads to in the container's own procfs is masked.
    assert_same_view(&|bundle| bundle.push("/linux/maskedPaths", json!("/proc/mounts")), script);
}

/// cgroup: "the container will have an isolated view of the cgroup hierarchy." (config-linux.md, "Namespaces")
#[test]
fn cgroups_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let set = |bundle: &mut Bundle, namespace: bool| {
        if namespace {
            bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        }
        bundle.set("/linux/resources/pids", json!({"limit": 77}));
        // Every formula for cpu.weight agrees on the least share; runc changed its own in 1.3.
        bundle.set("/linux/resources/cpu", json!({"shares": 2, "quota": 20000, "period": 50000}));
        bundle.push("/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}));
    };
    let script = "cut -d: -f1,2 /proc/self/cgroup | sort; cd /sys/fs/cgroup; ls -d * | sort | head -40; cat */pids.max */cpu.shares */cpu.cfs_quota_us pids.max cpu.max cpu.weight 2>/dev/null; grep ' - cgroup' /proc/self/mountinfo | cut -d' ' -f4-6 | sed 's#^/[^ ]*/[^ ]* #below #' | sort; cat devices/devices.list 2>/dev/null | sort";
    // Without a namespace of its own, runc shows the host's whole tree on v2.
    for namespace in [true, false] {
        assert_same_view(&|bundle| set(bundle, namespace), script);
    }
}

/// "options: Mount options of the filesystem to be used." (config.md, "Mounts")
#[test]
fn tmpfs_of_shm_and_extra_mounts_are_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let volume = |bundle: &mut Bundle| {
        let mount = |target: &str, options: serde_json::Value| json!({"destination": target, "type": "bind", "source": "/run", "options": options});
        bundle.push("/mounts", mount("/volume/a", json!(["rbind", "ro"])));
        bundle.push("/mounts", mount("/volume/b", json!(["bind", "nosuid", "nodev", "noexec", "rslave"])));
        bundle.push("/mounts", json!({"destination": "/volume/c", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777", "noatime"]}));
    };
    assert_same_view(&volume, &format!("{MOUNTS}; stat -c '%a %u %g' /volume /volume/a /volume/c"));
}

#[derive(Clone, Copy, Debug)]
pub enum Who {
    Root,
    User,
    Privileged,
}

/// The bundle as clients write it for such a process.
pub fn of(who: Who, terminal: bool, bundle: &mut Bundle) {
    bundle.set("/process/terminal", json!(terminal));
    bundle.set("/process/oomScoreAdj", json!(100));
    match who {
        Who::Root => {}
        Who::User => {
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [50]}));
            bundle.set("/process/cwd", json!("/home/app"));
        }
        Who::Privileged => {
            // As clients do it: what the host itself has.
            let have = myshim::sys::cred::capget().expect("capget").permitted;
            let held = (0..41).filter(|number| have & 1 << number != 0);
            let all: Vec<_> = held.filter_map(myshim::oci::capability::name).collect();
            for set in ["bounding", "effective", "permitted", "inheritable"] {
                bundle.set(&format!("/process/capabilities/{set}"), json!(all));
            }
            bundle.set("/process/noNewPrivileges", json!(false));
            bundle.set("/process/rlimits", json!([]));
            bundle.set("/linux/maskedPaths", json!([]));
            bundle.set("/linux/readonlyPaths", json!([]));
            bundle.set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
            bundle.set("/mounts/5/options", json!(["nosuid", "noexec", "nodev", "rw"]));
        }
    }
}

/// status, mountinfo, limits, environment, descriptors and terminal, all at once.
fn assert_everything_is_the_same(who: Who, terminal: bool) {
    let status = "grep -E '^(Umask|Uid|Gid|Groups|NSpgid|NSsid|SigPnd|SigBlk|SigCgt|Cap|NoNewPrivs|Seccomp|THP)' /proc/self/status";
    let limits = "grep -v 'processes\\|pending' /proc/self/limits";
    // Not the group of a pipe: ours gives it the process's, runc leaves root's.
    let streams = "ls /proc/self/fd; tty; stty size; stat -L -c '%F %a %u' /dev/stdin /dev/stdout; stat -c '%F %a %u:%g' /dev/console /dev/pts/0";
    let rest = "env | sort; pwd; id; hostname; cat /proc/self/oom_score_adj /proc/self/comm; ls -ln /dev | cut -c 1-40; ls /proc/sys/kernel | wc -l";
    let script = format!("{status}; {MOUNTS}; {limits}; {streams}; {rest}");
    assert_same_view(&|bundle| of(who, terminal, bundle), &script);
}

#[test]
fn everything_is_the_same_for_root() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_everything_is_the_same(Who::Root, false);
}

#[test]
fn everything_is_the_same_for_root_with_a_terminal() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_everything_is_the_same(Who::Root, true);
}

#[test]
fn everything_is_the_same_for_another_user() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_everything_is_the_same(Who::User, false);
}

#[test]
fn everything_is_the_same_for_another_user_with_a_terminal() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_everything_is_the_same(Who::User, true);
}

#[test]
fn everything_is_the_same_for_a_privileged_process() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    assert_everything_is_the_same(Who::Privileged, false);
    assert_everything_is_the_same(Who::Privileged, true);
}

/// A read-only bind of a read-only mount cannot become writable, and a read-only source stays so without being asked.
#[test]
fn bind_of_a_read_only_source_is_as_under_runc() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let change = |bundle: &mut Bundle| {
        let mount = |target: &str, options: serde_json::Value| json!({"destination": target, "type": "bind", "source": "/sys/kernel", "options": options});
        bundle.push("/mounts", mount("/volume/a", json!(["rbind"])));
        bundle.push("/mounts", mount("/volume/b", json!(["rbind", "ro"])));
        bundle.push("/mounts", json!({"destination": "/volume/c", "type": "bind", "source": bundle.folder.join("ro"), "options": ["bind"]}));
    };
    assert_same_view(
        &|bundle| {
            let folder = bundle.folder.join("ro");
            std::fs::create_dir_all(&folder).expect("make a folder");
            change(bundle);
        },
        MOUNTS,
    );
}

/// "shares: specifies a relative share of CPU time available to the tasks in a cgroup" (config-linux.md, "CPU"); on
/// v2 the default of one is to be the default of the other.
#[test]
fn default_shares_are_the_default_weight_on_cgroup_v2() {
    needs_containers!();
    needs!(crate::support::subject::cgroup_v2(), "cpu.weight is of cgroup v2");
    needs!(
        !crate::support::differences::runc_differs("cpu.weight from shares"),
        "an older runc converts otherwise"
    );
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/linux/resources/cpu", json!({"shares": 1024}));
    let shim = host.start(bundle);
    shim.run();
    let folders = crate::support::leak::cgroups(shim.bundle.cgroup());
    let weight = folders.iter().find_map(|folder| std::fs::read_to_string(folder.join("cpu.weight")).ok());
    assert_eq!(weight.as_deref().map(str::trim), Some("100"));
}
