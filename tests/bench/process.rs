//! What a process costs, as the kernel counts it: proc_pid_stat(5), proc_pid_smaps(5), proc_pid_schedstat.

use std::fs;
use std::time::Duration;

/// Ticks of the times in /proc/PID/stat: USER_HZ, the same on every architecture that Linux containers run on.
const USER_HZ: f64 = 100.0;

fn read(pid: i32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}"))
        .unwrap_or_else(|error| panic!("read {name} of process {pid}: {error}"))
}

/// CPU of the process and of every child it has waited for, to 10 ms. A runtime or a workload that the shim has reaped is in it.
pub fn cpu_with_children(pid: i32) -> Duration {
    ticks(&pid.to_string(), 4)
}

/// The first `fields` of utime, stime, cutime, cstime in proc_pid_stat(5).
fn ticks(process: &str, fields: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("read stat");
    // The command may contain blanks; the fields after it cannot. utime is field 14, twelve after the state.
    let (_, rest) = stat.rsplit_once(')').expect("a command in stat");
    let ticks: f64 =
        rest.split_whitespace().skip(11).take(fields).map(|field| field.parse::<f64>().expect("ticks")).sum();
    Duration::from_secs_f64(ticks / USER_HZ)
}

/// CPU of this process alone, to 10 ms.
pub fn own_cpu() -> Duration {
    ticks("self", 2)
}

/// CPU of the process's own threads that are alive, to the nanosecond.
pub fn cpu_of_threads(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// KiB of memory that would come back if the process ended, shared pages shared out.
pub fn pss(pid: i32) -> f64 {
    field(&read(pid, "smaps_rollup"), "Pss:")
}

/// Memory that no file stands for, in KiB.
pub fn own(pid: i32) -> f64 {
    field(&read(pid, "smaps_rollup"), "Anonymous:")
}

pub fn threads(pid: i32) -> f64 {
    field(&read(pid, "status"), "Threads:")
}

/// How often its threads went to sleep and were woken since they began.
pub fn wakeups(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    texts.map(|text| field(&text, "voluntary_ctxt_switches:")).sum()
}

fn field(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().next().and_then(|value| value.parse().ok()).expect("a number")
}
