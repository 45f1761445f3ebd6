//! The shim's log: a line for every call at debug, failures in words once, and never a wait for its reader.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::fifo::{Sink, make};
use crate::support::older_kernel::without;
use crate::support::shim::{Host, signal};
use crate::support::subject::ours;
use containerd_shim_protos::api::Status;
use myshim::sys::fs::is_readonly;
use serde_json::json;
use std::os::fd::AsFd;

/// A bundle whose log is read by the test.
fn logged(host: &Host, script: &str) -> (Bundle, Sink) {
    let bundle = host.bundle("a", script);
    let log = Sink::new(bundle.folder.join("log"));
    (bundle, log)
}

#[test]
fn every_call_is_a_line_with_its_duration_at_debug() {
    needs_containers!();
    needs!(ours(), "runc's shim has lines of its own");
    let mut host = Host::new();
    host.flags.push("-debug".into());
    let (bundle, log) = logged(&host, "exit 3");
    let shim = host.start(bundle);
    shim.run();
    shim.wait("").expect("Wait");
    shim.stats().expect("Stats");
    shim.pids().expect("Pids");
    shim.status("");
    shim.kill("nobody", libc::SIGKILL).expect_err("there is no such exec");
    shim.delete("").expect("Delete");
    shim.state("").expect_err("it is gone");
    for call in ["Connect", "Create", "Start", "Wait", "Stats", "Pids", "State", "Delete"] {
        log.wait_for(&format!("{call} a: done in"));
    }
    log.wait_for("Kill a/nobody: NOT_FOUND in");
    log.wait_for("State a: NOT_FOUND in");
    let text = log.so_far();
    let line = text.lines().find(|line| line.contains("Create a: done in")).expect("the line");
    assert!(line.contains("level=debug") && line.contains("time="), "{line}");
}

/// As a Go shim dumps its stacks then.
#[test]
fn sigusr1_tells_what_there_is_and_ends_nothing() {
    needs_containers!();
    needs!(ours(), "runc's shim has lines of its own");
    let host = Host::new();
    let (bundle, log) = logged(&host, "sleep 1000");
    let shim = host.start(bundle);
    let pid = shim.run();
    signal(shim.pid, libc::SIGUSR1);
    log.wait_for(&format!("container a: Running, pid {pid}, 0 execs"));
    assert_eq!(shim.status(""), Status::RUNNING);
}

#[test]
fn failure_is_told_once_in_the_words_of_the_answer_and_calls_are_not_without_debug() {
    needs_containers!();
    needs!(ours(), "runc's shim has lines of its own");
    let host = Host::new();
    let (mut bundle, log) = logged(&host, "");
    bundle.set("/process/args", json!(["/nonesuch"]));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("no such program");
    log.wait_for("/nonesuch");
    let text = log.so_far();
    let words = failure.message.replace('"', "\\\"");
    assert_eq!(text.matches(&words).count(), 1, "{words:?} in {text}");
    assert!(!text.contains("level=debug"), "{text}");
}

/// A host that gives no read-only view of the shim's file (CVE-2019-5736) is no reason to start no shim.
#[test]
fn shim_that_runs_from_its_writable_file_says_so_once() {
    needs_containers!();
    needs!(ours(), "runc copies its file");
    let mut host = Host::new();
    let file = std::fs::File::open(&host.binary).expect("open the shim");
    needs!(!is_readonly(file.as_fd()).expect("fstatvfs"), "the shim's file cannot be written here");
    host.flags.push("-debug".into());
    let (bundle, log) = logged(&host, "");
    let shim = without(&["mount_setattr"], || host.start(bundle));
    shim.state("").expect_err("there is no container");
    log.wait_for("State a: NOT_FOUND");
    let text = log.so_far();
    let line = text.lines().find(|line| line.contains("read-only view")).expect("the line");
    assert!(line.contains("level=warning") && line.contains("mount_setattr"), "{line}");
    assert_eq!(text.matches("read-only view").count(), 1, "{text}");
}

#[test]
fn log_that_nobody_reads_stalls_nothing() {
    needs_containers!();
    let mut host = Host::new();
    host.flags.push("-debug".into());
    let bundle = host.bundle("a", "sleep 1000");
    let log = bundle.folder.join("log");
    make(&log);
    // Open, as containerd keeps it, and never read.
    let _held = std::fs::OpenOptions::new().read(true).write(true).open(&log).expect("open");
    let shim = host.start(bundle);
    shim.run();
    // A line each: more than a pipe holds.
    for _ in 0..3000 {
        shim.kill("", 0).expect("Kill with signal 0");
    }
    assert_eq!(shim.status(""), Status::RUNNING);
}
