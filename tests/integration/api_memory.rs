//! Memory limits: what is small enough to run runs, and what is not says so, with limit and peak; whose limit an OOM
//! tells of.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::shim::Host;
use crate::support::subject::{cgroup_v2, ours, run_name, unique};
use crate::support::{SOON, eventually, executable, leak};
use containerd_shim_protos::api::Status;
use serde_json::json;
use std::fs;

/// The smallest static program there is, as bytes: an ELF header, one segment, and exit(7). elf(5)
fn tiny() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    // mov edi, 7; mov eax, 60; syscall
    let (machine, code) = (62u16, [0xbfu8, 7, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    #[cfg(target_arch = "aarch64")]
    // mov x0, #7; mov x8, #93; svc #0
    let (machine, code) = (183u16, [0xe0u8, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4]);
    let base = 0x40_0000u64;
    let (head, segment) = (64u64, 56u64);
    let size = head + segment + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable of this machine: entry, where the segments are, no sections.
    elf.extend(2u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    [base + head + segment, head, 0].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    [64u16, 56, 1, 0, 0, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    // One segment, readable and executable: the whole file.
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    [0, base, base, size, size, 0x1000].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}

/// A container of the tiny program with a memory limit in bytes, and no swap to flee to.
fn limited(host: &Host, id: &str, bytes: i64) -> Bundle {
    let mut bundle = Bundle::new(host.folder(), id, &["/tiny"]);
    executable(&host.folder().join(format!("upper-{id}/tiny")), tiny());
    bundle.set("/linux/resources/memory", json!({"limit": bytes}));
    bundle
}

#[test]
fn static_program_runs_within_512_kib() {
    needs_containers!();
    needs!(ours(), "runc needs some mebibytes for its own init");
    let host = Host::new();
    let shim = host.start(limited(&host, "a", 512 << 10));
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 7);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

#[test]
fn limit_that_is_too_small_is_told_with_limit_and_peak() {
    needs_containers!();
    needs!(ours(), "runc says it in other words");
    let host = Host::new();
    let shim = host.start(limited(&host, "a", 4096));
    let failure = shim.create().and_then(|_| shim.start("")).expect_err("4 KiB are not enough for anything");
    assert_told(&failure.message, 4096);
    let _ = shim.delete("");
    shim.assert_nothing_left();
}

/// The message has the limit, and a peak that is above it.
#[track_caller]
fn assert_told(message: &str, limit: u64) {
    assert!(message.contains(&format!("limit {limit} bytes, peak ")), "{message}");
    let peak = message.split("peak ").nth(1).and_then(|rest| rest.split_once(" bytes")).expect("a peak").0;
    assert!(peak.parse::<u64>().is_ok_and(|bytes| bytes > limit), "{message}");
}

#[test]
fn limit_that_kills_before_start_is_told_by_start_on_v2() {
    needs_containers!();
    needs!(ours(), "runc says that there is no such process");
    needs!(cgroup_v2(), "cgroup v1 refuses a limit below what is used");
    let host = Host::new();
    let shim = host.start(limited(&host, "a", 64 << 20));
    shim.create().expect("Create");
    // systemd may be so fast that the scope is gone before the rest of the update.
    let _ = shim.update(&json!({"memory": {"limit": 4096}}));
    eventually("the end of init", SOON, || (shim.status("") == Status::STOPPED).then_some(()));
    let failure = shim.start("").expect_err("init is dead");
    let why = failure.message.strip_prefix("container a has stopped: process already finished: ");
    match why.expect("a reason") {
        // Nobody knows any more what it was killed for: a guess, by the limit of Create.
        guess if guess.starts_with("its memory limit may be too small (limit 67108864 bytes") => {
            assert!(leak::cgroups(shim.bundle.cgroup()).is_empty(), "{guess}");
        }
        known => assert_told(known, 4096),
    }
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// Who ends it is not told that it was the memory.
#[test]
fn start_behind_a_kill_does_not_speak_of_memory() {
    needs_containers!();
    needs!(ours(), "runc says that there is no such process");
    let host = Host::new();
    let shim = host.start(limited(&host, "a", 64 << 20));
    shim.create().expect("Create");
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 137);
    let failure = shim.start("").expect_err("init is dead");
    assert_eq!(failure.message, "container a has stopped: process already finished");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// On v2 the kernel kills for it instead.
#[test]
fn update_below_what_is_used_is_told_with_limit_and_peak_on_v1() {
    needs_containers!();
    needs!(ours() && !cgroup_v2(), "cgroup v2 takes any limit");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    // Without swap nothing of it can be moved away.
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864, "swap": 67_108_864, "swappiness": 0}));
    let shim = host.start(bundle);
    shim.run();
    let failure = shim.update(&json!({"memory": {"limit": 4096}})).expect_err("it uses more");
    assert!(failure.message.contains("memory.limit = 4096: the container uses more"), "{failure:?}");
    assert_told(&failure.message, 4096);
}

/// A child that grows until it is killed; init goes on only if that was its end.
const KILLED: &str = "sh -c 'x=y; while :; do x=$x$x; done'; [ $? = 137 ] || exit 1";

/// What was told, but for the start: a kill may come while that is on its way.
fn told(host: &Host) -> Vec<String> {
    host.events.names().into_iter().filter(|name| name != "start").collect()
}

/// Not its end, and nothing that the end of init could tell again.
#[test]
fn child_out_of_memory_is_told_and_init_ends_later_by_itself() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", &format!("trap 'exit 143' TERM; {KILLED}; sleep 1000 & wait"));
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    let shim = host.start(bundle);
    shim.run();
    host.events.wait_for("oom");
    assert_eq!(shim.status(""), Status::RUNNING);
    shim.kill("", libc::SIGTERM).expect("Kill");
    assert_eq!(shim.wait("").expect("Wait"), 143);
    shim.delete("").expect("Delete");
    host.events.wait_for("delete");
    if !runc_differs("OOM without one") {
        assert_eq!(told(&host), ["create", "oom", "exit", "delete"]);
    }
}

#[test]
fn storm_of_kills_is_told_before_the_exit() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", &format!("for i in 1 2 3 4 5; do {KILLED}; done; exit 5"));
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 5, "each was killed");
    shim.delete("").expect("Delete");
    host.events.wait_for("delete");
    if runc_differs("order of OOM and exit") {
        return;
    }
    let names = told(&host);
    let [create, ooms @ .., exit, delete] = &names[..] else { panic!("{names:?}") };
    assert_eq!([create, exit, delete], ["create", "exit", "delete"], "{names:?}");
    // Kills that come one right after the other may be told as one.
    assert!((1..=5).contains(&ooms.len()) && ooms.iter().all(|name| name == "oom"), "{names:?}");
}

/// A cgroup that holds a container's, gone with this.
struct Parent(String);

impl Parent {
    /// Writes to a file of the memory controller, if this kernel has it.
    fn limit(&self, file: &str, value: &str) {
        for path in leak::cgroups(&self.0).iter().map(|folder| folder.join(file)).filter(|path| path.exists())
        {
            fs::write(&path, value).expect(file);
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let gone =
            || leak::cgroups(&self.0).iter().all(|folder| fs::remove_dir(folder).is_ok()).then_some(());
        match std::thread::panicking() {
            true => drop(gone()),
            false => eventually("the parent is empty", SOON, gone),
        }
    }
}

/// The kernel kills in the container and says so in its cgroup too, but for want of what its parent may have.
#[test]
fn kill_at_the_parents_limit_is_no_oom_of_the_container() {
    needs_containers!();
    needs!(ours(), "runc tells of a parent's limit as well");
    let parent = Parent(format!("/{}/{}", run_name(), unique("parent")));
    let host = Host::new();
    let mut bundle = host.bundle("a", &format!("{KILLED}; exit 5"));
    bundle.set("/linux/cgroupsPath", json!(format!("{}/a", parent.0)));
    bundle.set("/linux/resources/memory", json!({"limit": 1_073_741_824}));
    let shim = host.start(bundle);
    shim.create().expect("Create");
    let (memory, swap, none) = match cgroup_v2() {
        true => ("memory.max", "memory.swap.max", "0"),
        false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "33554432"),
    };
    parent.limit(memory, "33554432");
    parent.limit(swap, none);
    shim.start("").expect("Start");
    assert_eq!(shim.wait("").expect("Wait"), 5, "its child was killed");
    shim.delete("").expect("Delete");
    host.events.wait_for("delete");
    assert_eq!(host.events.names(), ["create", "start", "exit", "delete"]);
    shim.assert_nothing_left();
}
