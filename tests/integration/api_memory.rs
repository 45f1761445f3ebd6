//! Memory limits at the small end: what is small enough to run runs; what is not says so, with limit and peak.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::shim::Host;
use crate::support::subject::{cgroup_v2, ours};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;

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
    let program = host.folder().join(format!("upper-{id}/tiny"));
    fs::write(&program, tiny()).expect("write the program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
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
