//! When something has run out: descriptors, processes, memory, disk, rights. It works, or says exactly why, and leaves
//! nothing.

use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Shim};
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("start sh");
    assert!(status.success(), "{script}");
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A life with an exec in it: where it failed and with which words. Nothing may be left either way.
fn live(shim: &Shim<'_>) -> Result<(), String> {
    let lived = shim.create().and_then(|_| {
        shim.start("")?;
        shim.exec("x", "exit 3")?;
        shim.start("x")?;
        assert_eq!(shim.wait("x")?, 3);
        shim.delete("x")
    });
    if shim.state("").is_ok() {
        let _ = shim.kill("", libc::SIGKILL);
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
    }
    shim.assert_nothing_left();
    lived.map(drop).map_err(|failure| failure.message)
}

#[test]
fn with_64_descriptors_everything_works_and_with_fewer_the_error_says_so() {
    needs_containers!();
    needs!(subject::ours(), "a Go program needs more to begin with");
    for limit in [64, 40, 34, 28, 24, 20, 18, 16] {
        let mut host = Host::new();
        host.prefix = words(&format!("prlimit --nofile={limit}:{limit}"));
        let mut bundle = host.bundle("a", "exec sleep 1000");
        // Its own limit would have to be raised above the shim's.
        bundle.set("/process/rlimits", json!([]));
        let shim = host.start(bundle);
        match live(&shim) {
            Ok(()) => {}
            Err(text) => {
                assert!(limit < 64, "64 must do: {text}");
                assert!(text.contains("EMFILE") || text.contains("Too many open files"), "{limit}: {text}");
            }
        }
        assert!(leak::alive(shim.pid), "{limit}: the shim lives on");
    }
}

/// A pids cgroup that the shim is started in.
struct Few {
    folder: std::path::PathBuf,
}

impl Few {
    fn new(limit: usize) -> Option<Self> {
        let root = if subject::cgroup_v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
        let folder = Path::new(root).join(subject::unique("myshim-few"));
        std::fs::create_dir(&folder).ok()?;
        std::fs::write(folder.join("pids.max"), limit.to_string()).ok()?;
        Some(Self { folder })
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        // The last process is still leaving.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        println!("left behind: {}", self.folder.display());
    }
}

#[test]
fn without_a_thread_or_process_to_be_had_the_error_says_so_and_the_shim_lives() {
    needs_containers!();
    needs!(subject::ours(), "a Go program dies of it");
    for limit in 1..=6 {
        let few = Few::new(limit);
        needs!(few.is_some(), "this host has no pids controller at the top");
        let few = few.expect("checked");
        let host = Host::new();
        let shim = host.start(host.bundle("a", "exec sleep 1000"));
        // The shim alone, for `start` itself needs a process or two.
        std::fs::write(few.folder.join("cgroup.procs"), shim.pid.to_string()).expect("move the shim");
        match live(&shim) {
            // A container's processes are counted in its own cgroup: on v2 from their birth.
            Ok(()) => assert!(limit > 1 || subject::cgroup_v2(), "there was room for nobody"),
            Err(text) => {
                assert!(
                    text.contains("EAGAIN") || text.contains("Resource temporarily unavailable"),
                    "{limit}: {text}"
                );
            }
        }
        assert!(leak::alive(shim.pid), "{limit}: the shim lives on");
        drop(shim);
        drop(few);
    }
}

#[test]
fn too_little_memory_for_init_is_said_with_the_limit() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exec sleep 1000");
    bundle.set("/linux/resources/memory", json!({"limit": 65536}));
    let text = live(&host.start(bundle)).expect_err("64 KiB hold no process");
    // Start's words for it, or the exec's behind that.
    if text.contains("process already finished") || text.contains("init process is not running") {
        // It got as far as its program, which has to be told in another way.
        host.events.wait_for("oom");
    } else {
        assert!(text.contains("memory") && text.contains("65536"), "{text}");
    }
}

/// The lowest number that no descriptor of a process has, once it opens and closes none.
fn free_descriptor(pid: i32) -> usize {
    let numbers = || -> BTreeSet<usize> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    let mut before = numbers();
    let settled = eventually("the descriptors settle", SOON, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = numbers();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(now)
    });
    (0..).find(|number| !settled.contains(number)).expect("a number")
}

#[test]
fn connection_that_there_is_no_descriptor_for_waits_until_there_is_one() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim has its own ways");
    let host = Host::new();
    let bundle = host.bundle("a", "sleep 1000");
    let log = Sink::new(bundle.folder.join("log"));
    let shim = host.start(bundle);
    shim.run();
    let limit = |number: &str| sh(&format!("prlimit --pid {} --nofile={number}:4096", shim.pid));
    limit(&free_descriptor(shim.pid).to_string());
    let mut client = shim.client();
    let connect = api::ConnectRequest { id: shim.id(), ..Default::default() };
    client.send(shim.service(), "Connect", &connect).expect("send");
    log.wait_for("accepting a connection: ");
    std::thread::sleep(Duration::from_millis(500));
    let lines = log.so_far().matches("accepting a connection: ").count();
    assert!(lines < 30, "{lines} tries within half a second");
    limit("1024");
    client.receive::<api::ConnectResponse>("Connect").expect("it waited");
}

/// Runs the shim where `change` has been done to its mounts.
fn with_mounts(host: &mut Host, change: &str) {
    let script = format!("{change} && exec \"$@\"");
    host.prefix = words("unshare --mount --propagation private sh -ec");
    host.prefix.extend([script, "sh".into()]);
}

#[test]
fn a_full_run_stops_start_which_names_the_socket() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim's words differ");
    let mut host = Host::new();
    with_mounts(
        &mut host,
        "mkdir -p /run/containerd/s && mount -t tmpfs -o nr_inodes=1 tmpfs /run/containerd/s",
    );
    let bundle = host.bundle("a", "exec sleep 1000");
    bundle.write();
    let output = host.invoke(&bundle, "start", b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("bind /run/containerd/s/") && text.contains("No space left"), "{text}");
    assert!(!bundle.folder.join("address").exists(), "start has undone what it did");
}

/// A bundle on a file system of its own, which `change` then spoils.
fn on_a_file_system(change: &str, words: &[&str]) {
    let host = Host::new();
    let folder = host.folder().join("small");
    std::fs::create_dir(&folder).expect("make a folder");
    sh(&format!("mount -t tmpfs -o size=256k tmpfs {}", folder.display()));
    let shim = host.start(Bundle::sh(&folder, "a", "exec sleep 1000"));
    let at = folder.display();
    sh(&change.replace("@", &at.to_string()));
    let failure = shim.create().expect_err("Create needs the bundle");
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {failure:?}");
    }
    assert_eq!(leak::cgroups(shim.bundle.cgroup()).len(), 0);
    shim.crash();
    assert_eq!(host.delete(&shim.bundle).exit_status, 137);
    let mounts = leak::mounts_below(&shim.bundle.folder);
    drop(shim);
    sh(&format!("umount -l {at}"));
    assert_eq!(mounts, Vec::<String>::new());
}

#[test]
fn a_read_only_bundle_is_named() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ");
    on_a_file_system("mount -o remount,ro @", &["myshim.json", "Read-only file system"]);
}

#[test]
fn a_full_bundle_is_named() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ");
    on_a_file_system("cat /dev/zero >@/fill || :", &["myshim.json", "No space left"]);
}

#[test]
fn a_bundle_that_fills_up_later_keeps_nobody_from_ending() {
    needs_containers!();
    needs!(subject::ours(), "runc keeps its state elsewhere");
    let host = Host::new();
    let folder = host.folder().join("small");
    std::fs::create_dir(&folder).expect("make a folder");
    sh(&format!("mount -t tmpfs -o size=256k tmpfs {}", folder.display()));
    let mut bundle = Bundle::sh(&folder, "a", "exec sleep 1000");
    bundle.set("/root/path", json!(subject::image_root().display().to_string()));
    bundle.mounts.clear();
    let shim = host.start(bundle);
    shim.run();
    sh(&format!("cat /dev/zero >{}/fill || :", folder.display()));
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    assert_eq!(shim.delete("").expect("Delete").exit_status, 137);
    shim.assert_nothing_left();
    shim.shutdown();
    shim.wait_until_gone();
    drop(shim);
    sh(&format!("umount -l {}", folder.display()));
}

/// Hosts run out of inotify instances (max_user_instances): none is needed.
#[test]
fn no_inotify_instance_is_used() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim uses one on cgroup v2");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exec sleep 1000");
    bundle.set("/linux/resources/memory", json!({"limit": 33_554_432}));
    let shim = host.start(bundle);
    shim.run();
    let files = std::fs::read_dir(format!("/proc/{}/fd", shim.pid)).expect("list");
    let links: Vec<_> = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
    assert!(links.len() > 5, "{links:?}");
    assert!(!links.iter().any(|link| link.to_string_lossy().contains("inotify")), "{links:?}");
}

#[test]
fn a_controller_that_is_missing_is_named_and_missed_only_when_asked_for() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ");
    needs!(
        Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists(),
        "the pids controller is not on a v1 mount"
    );
    for (limited, works) in [(false, true), (true, false)] {
        let mut host = Host::new();
        with_mounts(&mut host, "umount /sys/fs/cgroup/pids");
        let mut bundle = host.bundle("a", "exec sleep 1000");
        if limited {
            bundle.set("/linux/resources/pids", json!({"limit": 10}));
        }
        let lived = live(&host.start(bundle));
        assert_eq!(lived.is_ok(), works, "{lived:?}");
        if let Err(text) = lived {
            assert!(text.contains("pids") && text.contains("controller"), "{text}");
        }
    }
}

#[test]
fn without_cap_sys_resource_what_needs_it_is_named() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ");
    let prefix = words("setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource");
    let change = |bundle: &mut Bundle, what: &str| match what {
        "rlimit" => bundle
            .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "hard": 1_073_741_000, "soft": 1024}])),
        "oom" => bundle.set("/process/oomScoreAdj", json!(-999)),
        _ => {}
    };
    for (what, word) in [("nothing", ""), ("rlimit", "RLIMIT_NOFILE"), ("oom", "oomScoreAdj")] {
        let mut host = Host::new();
        host.prefix = prefix.clone();
        let mut bundle = host.bundle("a", "exec sleep 1000");
        change(&mut bundle, what);
        match live(&host.start(bundle)) {
            Ok(()) => assert_eq!(what, "nothing"),
            Err(text) => assert!(text.contains(word) && text.contains("CAP_SYS_RESOURCE"), "{what}: {text}"),
        }
    }
}
