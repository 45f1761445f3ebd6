//! Attackers beside Create: threads that swap directories and files of the root for links to a folder outside, and back,
//! as fast as they can (renameat2(2) `RENAME_EXCHANGE`), while containers are made from that root. Nothing may ever appear
//! outside, whatever Create answers.
//!
//! `make race` runs it for `RACE_SECONDS` and prints the figures; `make test` for a moment.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::leak;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject;
use containerd_shim_protos::api;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is swapped in the root: mount targets, what is masked and made read-only, /dev with its nodes and console, /proc.
const VICTIMS: [&str; 9] =
    ["vol", "vol/below", "masked", "guarded", "dev", "dev/pts", "dev/console", "dev/null", "proc"];

/// How long to attack, if nobody says.
fn seconds(short: u64) -> u64 {
    std::env::var("RACE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// A thread that swaps until it is told to stop.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Attacker {
    fn new(root: &Path, victim: &str, outside: &Path, swaps: &Arc<AtomicU64>) -> Self {
        let place = root.join(victim);
        let (link, stop) =
            (root.join(format!("link-{}", victim.replace('/', "-"))), Arc::<AtomicBool>::default());
        symlink(outside.join(victim.replace('/', "-")), &link).expect("make a link");
        let (told, swaps) = (stop.clone(), swaps.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // Its parent may have been swapped away by another attacker: then the next try.
                if renameat2(AT_FDCWD, &place, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
                thread::yield_now();
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("an attacker");
    }
}

/// A root of its own, which the attackers can write: no overlay hides them.
fn root(host: &Host) -> PathBuf {
    let root = host.folder().join("root");
    let copied =
        Command::new("cp").arg("-a").arg(subject::image_root()).arg(&root).status().expect("start cp");
    assert!(copied.success(), "copy the image");
    for folder in ["vol/below", "guarded", "dev/pts", "proc"] {
        fs::create_dir_all(root.join(folder)).expect("make a folder");
    }
    for file in ["masked", "dev/console"] {
        let _ = fs::remove_file(root.join(file));
        fs::write(root.join(file), "").expect("make a file");
    }
    let null = root.join("dev/null");
    let _ = fs::remove_file(&null);
    mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("make a device");
    root
}

/// Files where links into the outside lead: some are there, some are not.
fn outside(host: &Host) -> PathBuf {
    let outside = host.folder().join("outside");
    for folder in ["vol", "dev", "guarded", "proc/sys/net/ipv4"] {
        fs::create_dir_all(outside.join(folder)).expect("make a folder");
    }
    for file in ["masked", "proc/sys/net/ipv4/ip_forward"] {
        fs::write(outside.join(file), "untouched").expect("make a file");
    }
    outside
}

/// Everything below `folder`: name, mode, owner, device number, content.
fn picture(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("list the outside").flatten() {
        let data = fs::symlink_metadata(entry.path()).expect("stat");
        let (path, mode, rdev) = (entry.path(), data.mode(), data.rdev());
        let content = data.is_file().then(|| fs::read_to_string(&path).expect("read"));
        all.push(format!("{} {mode:o} {}:{} {rdev} {content:?}", path.display(), data.uid(), data.gid()));
        if data.is_dir() {
            all.extend(picture(&path));
        }
    }
    all.sort();
    all
}

/// Rounds of every kind: with the image's own /dev and with one that is mounted, with a terminal and without.
const QUIET: u64 = 4;

fn has_terminal(round: u64) -> bool {
    round % 4 >= 2
}

fn bundle(host: &Host, round: u64, root: &Path, mounts_seen: &Path) -> Bundle {
    let mut bundle = host.bundle(&format!("r{round}"), "true");
    bundle.set("/process/terminal", json!(has_terminal(round)));
    bundle.mounts = vec![api::Mount {
        type_: "bind".into(),
        source: root.display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    }];
    // Every other round /dev is the image's own.
    if round.is_multiple_of(2) {
        let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| {
            !["/dev", "/dev/shm", "/dev/mqueue"].iter().any(|path| mount["destination"] == *path)
        });
    }
    for target in ["/vol", "/vol/below/deep/er"] {
        bundle.push("/mounts", json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
    }
    bundle.push("/linux/maskedPaths", json!("/masked"));
    bundle.push("/linux/readonlyPaths", json!("/guarded"));
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    // Runs in the container's mount namespace, before the old root is gone: what has been mounted where?
    let look = format!("cat /proc/self/mountinfo >>{}", mounts_seen.display());
    bundle.set(
        "/hooks/createContainer",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", look], "env": ["PATH=/bin:/usr/bin"]}]),
    );
    bundle
}

#[test]
fn swapped_links_never_lead_a_create_outside_the_root() {
    needs_containers!();
    needs!(subject::ours(), "runc makes links outside now and then");
    let seconds = seconds(3);
    let host = Host::new();
    let (root, outside, seen) = (root(&host), outside(&host), host.folder().join("mounts"));
    let (before, forwarding) = (picture(&outside), fs::read("/proc/sys/net/ipv4/ip_forward").expect("read"));
    // Without an attack there is nothing to refuse.
    for round in 0..QUIET {
        let quiet = host.start(bundle(&host, round, &root, &seen));
        let stdio = Stdio3 { terminal: has_terminal(round), ..Default::default() };
        quiet.create_with(&stdio).expect("a quiet Create");
    }
    let _ = fs::remove_file(&seen);
    let swaps = Arc::<AtomicU64>::default();
    let attackers: Vec<_> =
        VICTIMS.iter().map(|victim| Attacker::new(&root, victim, &outside, &swaps)).collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut made, mut refused) = (0, 0);
    while Instant::now() < until || made + refused < 10 {
        let round = QUIET + made + refused;
        let shim = host.start(bundle(&host, round, &root, &seen));
        match shim.create_with(&Stdio3 { terminal: has_terminal(round), ..Default::default() }) {
            Ok(pid) => {
                made += 1;
                assert_is_protected(pid, has_terminal(round));
            }
            Err(_) => refused += 1,
        }
        assert_eq!(
            picture(&outside),
            before,
            "something appeared outside, after {made} and {refused} rounds"
        );
        assert_eq!(fs::read("/proc/sys/net/ipv4/ip_forward").expect("read"), forwarding, "the host's sysctl");
        drop(shim);
        let mounts = fs::read_to_string(&seen).unwrap_or_default();
        let _ = fs::remove_file(&seen);
        let strange: Vec<_> = mounts.lines().filter(|line| is_on(line, &outside)).collect();
        assert!(strange.is_empty(), "mounted outside: {strange:?}");
    }
    attackers.into_iter().for_each(Attacker::end);
    assert_eq!(leak::mounts_below(&outside), Vec::<String>::new());
    let swaps = swaps.load(Ordering::Relaxed);
    assert!(swaps > 0, "no attack was made");
    println!(
        "race: {seconds} s, {swaps} swaps, {made} containers created, {refused} refused, nothing outside"
    );
}

/// Links whose text leads through a directory that is missing, and from there up and out: Create makes it, and the attacker
/// takes it away again. To see it fail: in `engine/child/place.rs` say `const BENEATH: u64 = 0`.
#[test]
fn links_through_what_is_made_and_taken_away_lead_nowhere_outside() {
    needs_containers!();
    needs!(subject::ours(), "runc's words differ, and older ones make what they should not");
    let seconds = seconds(2);
    let host = Host::new();
    let (root, outside) = (root(&host), outside(&host));
    let up = "../".repeat(outside.components().count() + 2);
    let to = format!("gone/../{up}{}", outside.strip_prefix("/").expect("absolute").display());
    symlink(format!("{to}/vol/made"), root.join("deep")).expect("make a link");
    let before = picture(&outside);
    let (stop, taken) = (AtomicBool::default(), AtomicU64::default());
    let (mut made, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if fs::remove_dir(root.join("gone")).is_ok() {
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            let round = made + refused;
            let mut bundle = bundle(&host, round, &root, &host.folder().join("mounts"));
            for target in ["/deep", "/deep/below"] {
                bundle.push("/mounts", json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
            }
            let shim = host.start(bundle);
            match shim.create_with(&Stdio3 { terminal: has_terminal(round), ..Default::default() }) {
                Ok(_) => made += 1,
                Err(_) => refused += 1,
            }
            drop(shim);
            // For the next round all is missing again.
            let _ = fs::remove_dir_all(root.join(outside.strip_prefix("/").expect("absolute")));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(picture(&outside), before, "something appeared outside");
    assert_eq!(leak::mounts_below(&outside), Vec::<String>::new());
    let taken = taken.into_inner();
    assert!(taken > 0, "no attack was made");
    println!(
        "race: {seconds} s, {taken} directories taken away, {made} created, {refused} refused, nothing outside"
    );
}

/// What comes after that hook, seen in a container that has been made: the sysctl is its own, what /proc has to mask and to
/// keep from being written is masked and read-only, and the console is its terminal. The names are swapped still: a mount
/// point may be found at its link's.
#[track_caller]
fn assert_is_protected(pid: u32, terminal: bool) {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("read mountinfo");
    let has = |place: &str, what: &str| {
        mounts.lines().any(|line| {
            line.split(' ').nth(4).is_some_and(|point| point.ends_with(place)) && line.contains(what)
        })
    };
    let masked = ["proc/kcore", "proc/keys", "proc/timer_list"];
    for place in masked.iter().filter(|place| Path::new("/").join(place).exists()) {
        assert!(has(place, " /null "), "{place} is not masked: {mounts}");
    }
    assert!(has("proc/sys", " ro,"), "not read-only: {mounts}");
    assert!(!terminal || has("console", " - devpts "), "no console: {mounts}");
    let enter = ["-t", &pid.to_string(), "-n", "cat", "/proc/sys/net/ipv4/ip_forward"];
    let output = Command::new("nsenter").args(enter).output().expect("start nsenter");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "its sysctl");
}

/// Is the mount point of this line of mountinfo below `folder`?
fn is_on(line: &str, folder: &Path) -> bool {
    line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(folder))
}
