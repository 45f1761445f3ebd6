//! Tasks that go on: exec, kill, pause, statistics, deletion, events, and a containerd that dies and comes back.

use crate::needs_containers;
use crate::support::containerd::Containerd;
use crate::support::ctr::Namespace;
use crate::support::{self, SOON, leak, subject};
use std::process::Stdio;

fn namespace() -> Namespace {
    Containerd::shared().namespace()
}

#[test]
fn detached_task_is_listed_until_it_is_deleted() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&[], "a");
    let (pid, status) = namespace.status("a").expect("the task");
    assert_eq!(status, "RUNNING");
    assert!(leak::alive(pid));
    namespace.ctr(&["task", "kill", "-s", "SIGKILL", "a"]).ok();
    namespace.wait_for_status("a", "STOPPED");
    assert_eq!(namespace.remove_task("a"), 137);
    assert_eq!(namespace.status("a"), None);
    assert!(leak::cgroups(&namespace.cgroup("a")).is_empty());
}

#[test]
fn init_is_a_child_of_the_shim_and_pid_1_inside() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&[], "a");
    let (pid, _) = namespace.status("a").expect("the task");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of init");
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned()
    };
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
    let parent =
        std::fs::read_to_string(format!("/proc/{}/cmdline", field("PPid:"))).expect("cmdline of the parent");
    assert!(parent.contains("containerd-shim"), "{parent:?}");
}

#[test]
fn exec_runs_in_the_container_and_returns_its_status() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&["--env", "COLOUR=green"], "a");
    let answer = namespace.ctr(&[
        "task",
        "exec",
        "--exec-id",
        "x",
        "a",
        "sh",
        "-c",
        "cat /proc/1/cmdline | tr '\\0' ' '; echo $COLOUR; exit 3",
    ]);
    assert_eq!((answer.status, answer.stdout.as_str()), (3, "sleep 1000 green\n"), "{answer:?}");
    // The same id is free again.
    assert_eq!(namespace.ctr(&["task", "exec", "--exec-id", "x", "a", "echo", "again"]).ok(), "again\n");
}

#[test]
fn exec_gets_standard_input() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&[], "a");
    let mut command = namespace.command(&["task", "exec", "--exec-id", "x", "a", "wc", "-c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start ctr");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), &[b'x'; 100_000]).expect("write");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "100000\n");
}

#[test]
fn processes_are_listed_with_the_exec_they_belong_to() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&[], "a");
    namespace.ctr(&["task", "exec", "-d", "--exec-id", "second", "a", "sleep", "1000"]).ok();
    let (pid, _) = namespace.status("a").expect("the task");
    let list = namespace.ctr(&["task", "ps", "a"]).ok();
    assert!(list.lines().any(|line| line.starts_with(&pid.to_string())), "{list}");
    assert!(list.lines().any(|line| line.contains("second")), "{list}");
    assert_eq!(list.lines().count(), 3, "{list}");
}

#[test]
fn exec_in_a_stopped_task_fails() {
    needs_containers!();
    let namespace = namespace();
    namespace.run(&["-d"], "a", &["true"]).ok();
    namespace.wait_for_status("a", "STOPPED");
    assert_ne!(namespace.ctr(&["task", "exec", "--exec-id", "x", "a", "true"]).status, 0);
}

#[test]
fn signal_reaches_a_program_that_handles_it() {
    needs_containers!();
    let namespace = namespace();
    namespace.run(&["-d"], "a", &["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"]).ok();
    support::eventually("the handled signal ends the task", SOON, || {
        namespace.ctr(&["task", "kill", "a"]);
        (namespace.status("a")?.1 == "STOPPED").then_some(())
    });
    assert_eq!(namespace.remove_task("a"), 9);
}

#[test]
fn paused_task_stands_still_until_it_is_resumed() {
    needs_containers!();
    let namespace = namespace();
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!("type=bind,src={},dst=/volume,options=rbind:rw", folder.path().display());
    namespace
        .run(
            &["-d", "--mount", &mount],
            "a",
            &["sh", "-c", "while :; do echo . >>/volume/beat; sleep 0.02; done"],
        )
        .ok();
    let beats = || std::fs::metadata(folder.path().join("beat")).map_or(0, |data| data.len());
    support::eventually("it runs", SOON, || (beats() > 2).then_some(()));
    namespace.ctr(&["task", "pause", "a"]).ok();
    assert_eq!(namespace.status("a").expect("the task").1, "PAUSED");
    let before = beats();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(beats(), before);
    namespace.ctr(&["task", "resume", "a"]).ok();
    assert_eq!(namespace.status("a").expect("the task").1, "RUNNING");
    support::eventually("it runs again", SOON, || (beats() > before).then_some(()));
}

#[test]
fn statistics_count_memory_and_processor_time() {
    needs_containers!();
    let namespace = namespace();
    // In a guest processor time is counted in ticks of 10 ms: of a sleeper there may be none.
    namespace.run(&["-d"], "a", &["sh", "-c", "while :; do :; done"]).ok();
    let wanted = if subject::cgroup_v2() {
        ["memory.usage", "cpu.usage_usec", "pids.current"]
    } else {
        ["memory.usage_in_bytes", "cpuacct.usage", "pids.current"]
    };
    support::eventually("all of it is counted", SOON, || {
        let table = namespace.ctr(&["task", "metrics", "a"]).ok();
        let counted = |name: &&str| {
            let line = table.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {table}"));
            line.split_whitespace().last() != Some("0")
        };
        wanted.iter().all(counted).then_some(())
    });
}

#[test]
fn events_arrive_in_order_through_containerd() {
    needs_containers!();
    let daemon = Containerd::new();
    let namespace = daemon.namespace();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut listener =
        namespace.command(&["events"]).stdout(log.reopen().expect("open")).spawn().expect("start ctr");
    let topics = || -> Vec<String> {
        let text = std::fs::read_to_string(log.path()).expect("read");
        text.split_whitespace().filter(|word| word.starts_with("/tasks/")).map(str::to_owned).collect()
    };
    // The listener is there when it reports something.
    support::eventually("ctr events listens", SOON, || {
        namespace.ctr(&["image", "label", support::ctr::IMAGE, "x=y"]);
        std::fs::read_to_string(log.path()).ok()?.contains("/images/update").then_some(())
    });
    namespace.sleeper(&[], "a");
    namespace.ctr(&["task", "exec", "--exec-id", "x", "a", "true"]).ok();
    namespace.ctr(&["task", "pause", "a"]).ok();
    namespace.ctr(&["task", "resume", "a"]).ok();
    namespace.ctr(&["task", "kill", "-s", "KILL", "a"]).ok();
    namespace.wait_for_status("a", "STOPPED");
    namespace.ctr(&["task", "rm", "a"]);
    let expected =
        ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    let expected: Vec<_> = expected.iter().map(|name| format!("/tasks/{name}")).collect();
    support::eventually("the last event", SOON, || topics().contains(&expected[8]).then_some(()));
    let _ = listener.kill();
    let _ = listener.wait();
    // containerd itself adds a delete for the exec in some versions.
    let mut seen = topics();
    if seen.iter().filter(|topic| topic.ends_with("/delete")).count() == 2 {
        let first = seen.iter().position(|topic| topic.ends_with("/delete")).expect("counted");
        seen.remove(first);
    }
    assert_eq!(seen, expected);
}

#[test]
fn task_outlives_a_crash_of_containerd_and_its_end_is_seen() {
    needs_containers!();
    let mut daemon = Containerd::new();
    let namespace = daemon.namespace();
    namespace.sleeper(&[], "lives");
    namespace.sleeper(&[], "dies");
    let before = namespace.status("lives").expect("the task");
    let dying = namespace.status("dies").expect("the task").0;
    daemon.crash_and_restart(|| support::shim::signal(dying, libc::SIGKILL));
    assert_eq!(namespace.status("lives"), Some(before));
    // containerd removes at once what has no process left, or shows it as stopped.
    support::eventually("the end is known", SOON, || {
        namespace.status("dies").is_none_or(|(_, status)| status == "STOPPED").then_some(())
    });
    assert_eq!(namespace.ctr(&["task", "exec", "--exec-id", "x", "lives", "echo", "alive"]).ok(), "alive\n");
    namespace.ctr(&["task", "kill", "-s", "KILL", "lives"]).ok();
    namespace.wait_for_status("lives", "STOPPED");
    assert_eq!(namespace.remove_task("lives"), 137);
}

#[test]
fn task_of_a_killed_shim_is_cleaned_up() {
    needs_containers!();
    let namespace = namespace();
    namespace.sleeper(&[], "a");
    let (pid, _) = namespace.status("a").expect("the task");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of init");
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("PPid")
        .trim()
        .parse()
        .expect("a pid");
    support::shim::signal(shim, libc::SIGKILL);
    support::eventually("containerd cleans up", SOON, || {
        namespace.status("a").is_none_or(|(_, status)| status == "STOPPED").then_some(())
    });
    support::eventually("init is dead", SOON, || (!leak::alive(pid)).then_some(()));
    namespace.ctr(&["task", "rm", "--force", "a"]);
    support::eventually("cgroups are gone", SOON, || {
        leak::cgroups(&namespace.cgroup("a")).is_empty().then_some(())
    });
}
