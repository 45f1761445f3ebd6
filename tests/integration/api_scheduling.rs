//! Scheduler, I/O priority, CPU affinity and memory policy, of init and of exec'd processes.

use crate::support::fifo::Sink;
use crate::support::run::{exec_output, output};
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::subject::{cgroup_v2, ours, peer_lacks, run_name};
use crate::{needs, needs_containers};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Policy, real-time priority and nice value of a process (fields 41, 40 and 19 of proc_pid_stat(5)).
fn scheduling(pid: u32) -> (u32, u32, i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    // The first field behind the name is number 3.
    let number = |field: usize| fields[field - 3].parse::<i32>().expect("a number");
    (number(41) as u32, number(40) as u32, number(19))
}

/// KERNEL: with CONFIG_RT_GROUP_SCHED a v1 cgroup has no real-time for its tasks unless it is given some, and its parent
/// before it. In microseconds.
fn real_time_for_the_run() -> Option<Value> {
    let root = Path::new("/sys/fs/cgroup/cpu");
    if cgroup_v2() || !root.join("cpu.rt_runtime_us").exists() {
        return None;
    }
    let parent = root.join(run_name());
    fs::create_dir_all(&parent).expect("make the run's cgroup");
    fs::write(parent.join("cpu.rt_runtime_us"), "50000").expect("give real-time to the run");
    Some(json!({"realtimeRuntime": 20000, "realtimePeriod": 1_000_000}))
}

fn sleeper<'h>(host: &'h Host, process: &[(&str, Value)]) -> Shim<'h> {
    let mut bundle = host.bundle("a", "exec sleep 1000");
    for (field, value) in process {
        bundle.set(&format!("/process/{field}"), value.clone());
    }
    host.start(bundle)
}

/// "policy: represents the scheduling policy." "nice: is the nice value for the process, affecting its priority."
/// "runtime: represents the amount of time in nanoseconds during which the process is allowed to run in a given
/// period, used by the deadline scheduler." (config.md, "Linux Process")
#[test]
fn init_has_its_scheduling_policy() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    let (_, _, inherited) = scheduling(std::process::id());
    let cases = [
        (json!({"policy": "SCHED_OTHER", "nice": 5}), (0, 0, 5)),
        (json!({"policy": "SCHED_BATCH", "nice": 7}), (3, 0, 7)),
        (json!({"policy": "SCHED_IDLE"}), (5, 0, inherited)),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 99_000_000,
                "period": 100_000_000, "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]}),
            (6, 0, inherited),
        ),
    ];
    for (scheduler, expected) in cases {
        let host = Host::new();
        let shim = sleeper(&host, &[("scheduler", scheduler.clone())]);
        assert_eq!(scheduling(shim.run()), expected, "{scheduler}");
    }
}

/// "priority: represents the static priority of the process, used by real-time policies like SCHED_FIFO and
/// SCHED_RR." (config.md, "Linux Process") On cgroup v1 they take "realtimeRuntime" and "realtimePeriod", which are
/// tested along.
#[test]
fn init_has_its_real_time_policy() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    needs!(!cgroup_v2(), "CONFIG_RT_GROUP_SCHED keeps real time out of v2 cgroups");
    let (_, _, inherited) = scheduling(std::process::id());
    for (policy, number, priority) in [("SCHED_FIFO", 1, 10), ("SCHED_RR", 2, 20)] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "exec sleep 1000");
        bundle.set("/process/scheduler", json!({"policy": policy, "priority": priority}));
        if let Some(real_time) = real_time_for_the_run() {
            bundle.set("/linux/resources/cpu", real_time);
        }
        let shim = host.start(bundle);
        assert_eq!(scheduling(shim.run()), (number, priority, inherited), "{policy}");
    }
}

/// "flags: is an array of strings representing scheduling flags." (config.md, "Linux Process")
/// SCHED_FLAG_RESET_ON_FORK: children start without what takes privilege (sched(7)). SCHED_FLAG_KEEP_POLICY,
/// SCHED_FLAG_KEEP_PARAMS: what was there stays.
#[test]
fn scheduling_flags_have_their_effect() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    let host = Host::new();
    let reset = json!({"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    let shim = sleeper(&host, &[("scheduler", reset), ("args", json!(["sh", "-c", "sleep 1000 & wait"]))]);
    let init = shim.run();
    let child = crate::support::eventually("a child", crate::support::SOON, || {
        shim.pids().expect("Pids").into_iter().map(|process| process.pid).find(|pid| *pid != init)
    });
    assert_eq!((scheduling(init).2, scheduling(child).2), (-5, 0));

    let host = Host::new();
    let keep = json!({"policy": "SCHED_IDLE", "flags": ["SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS"]});
    let shim = sleeper(&host, &[("scheduler", keep)]);
    assert_eq!(scheduling(shim.run()).0, 0);
}

/// "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error" (runtime.md,
/// "Create"): it says which field and why. (SCHED_ISO is reserved and was never built.)
#[test]
fn impossible_scheduling_is_refused_in_words() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    let cases = [
        (json!({"policy": "SCHED_ISO"}), "scheduler policy 4"),
        (json!({"policy": "SCHED_OTHER", "nice": 30}), "process.scheduler.nice"),
        (json!({"policy": "SCHED_OTHER", "priority": 3}), "process.scheduler.priority"),
        (json!({"policy": "SCHED_RR", "runtime": 3}), "process.scheduler.runtime"),
        (json!({"policy": "SCHED_DEADLINE", "runtime": 3, "deadline": 2, "period": 1}), "scheduler policy 6"),
    ];
    for (scheduler, told) in cases {
        let host = Host::new();
        let shim = sleeper(&host, &[("scheduler", scheduler.clone())]);
        let failure = shim.create().expect_err("refused");
        assert!(!ours() || failure.message.contains(told), "{failure:?}");
        shim.assert_nothing_left();
    }
}

/// "scheduler: is an object describing the scheduler properties for the process." (config.md, "Linux Process") An
/// exec has its own, and its own ioPriority; without them, as in runc, those of init's process.
#[test]
fn exec_has_its_own_scheduling_or_inits() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    let host = Host::new();
    let scheduler = json!({"policy": "SCHED_BATCH", "nice": 4});
    let priority = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    let shim = sleeper(&host, &[("scheduler", scheduler), ("ioPriority", priority)]);
    shim.run();
    let script = "cut -d' ' -f19,41 /proc/self/stat; ionice -p $$";
    assert_eq!(exec_output(&shim, script, |_| ()), "4 3\nbest-effort: prio 6\n");
    let own = exec_output(&shim, script, |process| {
        process["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 9});
        process["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    });
    assert!(own.starts_with("9 0\nidle"), "{own}");
}

/// The same where an exec is born only after its set-up, which a clone must not make it lose (SCHED_FLAG_RESET_ON_FORK,
/// sched(7)).
#[test]
fn exec_among_tracers_has_its_scheduling() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `scheduler`");
    let host = Host::new();
    let mut bundle = host.bundle("a", "exec sleep 1000");
    bundle.may_trace();
    let shim = host.start(bundle);
    shim.run();
    for flags in [json!([]), json!(["SCHED_FLAG_RESET_ON_FORK"])] {
        let text = exec_output(&shim, "cut -d' ' -f19 /proc/$$/stat", |process| {
            process["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -5, "flags": flags});
        });
        assert_eq!(text, "-5\n", "{flags}");
    }
}

/// "class: specifies the I/O scheduling class. Possible values are IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, and
/// IOPRIO_CLASS_IDLE." "The value should be an integer ranging from 0 (highest) to 7 (lowest)." (config.md, "Linux
/// Process")
#[test]
fn init_has_its_io_priority() {
    needs_containers!();
    needs!(!peer_lacks(1, 2), "this runc is older than `ioPriority`");
    let cases = [
        ("RT", 1, "realtime: prio 1"),
        ("BE", 7, "best-effort: prio 7"),
        ("BE", 0, "best-effort: prio 0"),
        ("IDLE", 0, "idle"),
    ];
    for (class, priority, expected) in cases {
        let text = output("ionice -p 1", |bundle, _| {
            let class = format!("IOPRIO_CLASS_{class}");
            bundle.set("/process/ioPriority", json!({"class": class, "priority": priority}));
        });
        assert!(text.starts_with(expected), "{expected}: {text}");
    }
}

/// "initial: is a list of CPUs a runtime parent process to be run on initially, before the transition to container's
/// cgroup." "final: is a list of CPUs the process will be run on after the transition to container's cgroup." "This
/// setting is not applicable to the container's init process." (config.md, "Linux Process")
#[test]
fn exec_runs_on_its_cpus() {
    needs_containers!();
    needs!(!peer_lacks(1, 3), "this runc is older than `execCPUAffinity`");
    needs!(thread_count() > 1, "there is one CPU only");
    let allowed = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let everywhere = output(allowed, |_, _| ());
    let host = Host::new();
    let shim = sleeper(&host, &[("execCPUAffinity", json!({"final": "0"}))]);
    let init = shim.run();
    let status = fs::read_to_string(format!("/proc/{init}/status")).expect("init lives");
    assert!(status.contains(&format!("Cpus_allowed_list:\t{everywhere}")), "{status}");
    assert_eq!(exec_output(&shim, allowed, |_| ()), "0\n", "init's, for want of its own");
    for (affinity, expected) in [
        (json!({"final": "1"}), "1\n"),
        (json!({"initial": "0", "final": "1"}), "1\n"),
        (json!({"initial": "0", "final": "0-1"}), "0-1\n"),
        (json!({"initial": "1"}), "1\n"),
        (json!({"initial": "", "final": "0,1"}), "0-1\n"),
    ] {
        let text = exec_output(&shim, allowed, |process| process["execCPUAffinity"] = affinity.clone());
        assert_eq!(text, expected, "{affinity}");
    }
}

fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// Keeps what follows to the first CPU.
const PINNED: [&str; 3] = ["taskset", "-c", "0"];

/// A shim that is kept to one CPU, from its start or later, keeps its containers to none: "the final affinity is
/// determined by the Linux kernel" (config.md, "Linux Process"), and init's setting "is not applicable". Their cpuset holds.
#[test]
fn pinned_shim_does_not_pin_its_containers() {
    needs_containers!();
    needs!(!peer_lacks(1, 4), "this runc is older than the reset of affinities");
    needs!(thread_count() > 1, "there is one CPU only");
    let allowed = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let everywhere = output(allowed, |_, _| ());
    for from_the_start in [true, false] {
        let mut host = Host::new();
        if from_the_start {
            host.prefix = PINNED.map(str::to_owned).to_vec();
        }
        let shim = sleeper(&host, &[]);
        if !from_the_start {
            let pinned =
                Command::new("taskset").args(["-a", "-p", "-c", "0", &shim.pid.to_string()]).output();
            assert!(pinned.expect("start taskset").status.success());
        }
        let list = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        assert!(list(shim.pid).contains("Cpus_allowed_list:\t0\n"), "{}", list(shim.pid));
        let init = shim.run();
        assert!(list(init as i32).contains(&format!("Cpus_allowed_list:\t{everywhere}")));
        assert_eq!(exec_output(&shim, allowed, |_| ()), everywhere);
        for affinity in [json!({"initial": "0"}), json!({"final": "0"})] {
            let text = exec_output(&shim, allowed, |process| process["execCPUAffinity"] = affinity.clone());
            assert_eq!(text, "0\n", "{affinity}");
        }
    }
}

/// "cpus: list of CPUs the container will run on." (config-linux.md, "CPU") The shim is kept to one of them.
#[test]
fn pinned_shim_does_not_keep_a_container_from_its_cpuset() {
    needs_containers!();
    needs!(!peer_lacks(1, 4), "this runc is older than the reset of affinities");
    needs!(thread_count() > 1, "there is one CPU only");
    let mut host = Host::new();
    host.prefix = PINNED.map(str::to_owned).to_vec();
    let out = Sink::new(host.folder().join("out"));
    let mut bundle = host.bundle("a", "grep Cpus_allowed_list /proc/self/status | cut -f2");
    bundle.set("/linux/resources/cpu", json!({"cpus": "0-1"}));
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "0-1\n");
}

/// A list that is none, or names no CPU that is there, fails the exec and names the field.
#[test]
fn impossible_affinity_fails_the_exec_in_words() {
    needs_containers!();
    needs!(!peer_lacks(1, 3), "this runc is older than `execCPUAffinity`");
    let host = Host::new();
    let shim = sleeper(&host, &[]);
    shim.run();
    for list in ["zero", "3-1", "1000"] {
        let mut process = shim.bundle.process(&["true"]);
        process["execCPUAffinity"] = json!({"final": list});
        let failure = shim
            .exec_process(list, &process, &Default::default())
            .and_then(|()| shim.start(list))
            .expect_err("refused");
        assert!(!ours() || failure.message.contains("execCPUAffinity"), "{failure:?}");
    }
}

/// "memoryPolicy: sets the NUMA memory policy for the container." (config-linux.md, "Memory policy") All modes and
/// flags, for init and exec alike.
#[test]
fn memory_policy_is_the_containers() {
    needs_containers!();
    needs!(!peer_lacks(1, 4), "this runc is older than `memoryPolicy`");
    needs!(Path::new("/proc/self/numa_maps").exists(), "this kernel has no NUMA support");
    let cases = [
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
        (json!({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"}), "weighted interleave:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}), "prefer (many):0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}), "bind=relative:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}), "bind"),
    ];
    let script = "head -n 1 /proc/self/numa_maps";
    for (policy, expected) in cases {
        let text = output(script, |bundle, _| bundle.set("/linux/memoryPolicy", policy.clone()));
        let seen = text.split_once(' ').map_or("", |(_, rest)| rest);
        assert!(seen.starts_with(expected), "{policy}: {text}");
    }
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
    let shim = host.start(bundle);
    shim.run();
    assert!(exec_output(&shim, script, |_| ()).contains(" interleave:0"));
}

/// "Some modes require that there are no nodes, e.g. MPOL_DEFAULT and MPOL_LOCAL. Others that there is at least one
/// node, e.g. MPOL_BIND and MPOL_INTERLEAVE." (config-linux.md, "Memory policy")
#[test]
fn impossible_memory_policy_is_refused_in_words() {
    needs_containers!();
    needs!(!peer_lacks(1, 4), "this runc is older than `memoryPolicy`");
    let numa = Path::new("/proc/self/numa_maps").exists();
    let cases = [
        (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "linux.memoryPolicy.nodes must be empty"),
        (json!({"mode": "MPOL_BIND"}), "needs at least one node"),
        (json!({"mode": "MPOL_BIND", "nodes": "x"}), "is no list of nodes"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "1000"}),
            if numa { "must be online" } else { "no NUMA support" },
        ),
    ];
    for (policy, told) in cases {
        let host = Host::new();
        let mut bundle = host.bundle("a", "true");
        bundle.set("/linux/memoryPolicy", policy);
        let shim = host.start(bundle);
        let failure = shim.create().expect_err("refused");
        assert!(!ours() || failure.message.contains(told), "{told}: {failure:?}");
        shim.assert_nothing_left();
    }
}
