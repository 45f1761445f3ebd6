//! Strangers: orphans of containers without a pid namespace end up with the shim, their subreaper, and must be reaped.
//!
//! COMPAT: nobody may take the status of a process that somebody waits for by pidfd. So only children that no task
//! knows are reaped, one by one, after a pause in which short-lived helpers (hooks, loggers) are reaped by their owners.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::tasks::Tasks;
use crate::sys::process;

const PAUSE: Duration = Duration::from_millis(200);

static ARMED: AtomicBool = AtomicBool::new(false);

/// Looks for dead strangers soon; several calls are one look.
pub fn later(tasks: &Tasks) {
    if ARMED.swap(true, Ordering::Relaxed) {
        return;
    }
    let tasks = tasks.clone();
    tokio::spawn(async move {
        let before = zombies();
        tokio::time::sleep(PAUSE).await;
        ARMED.store(false, Ordering::Relaxed);
        let known = known(&tasks);
        // Seen dead before and after the pause, and nobody's: an owner would have reaped it in between.
        for pid in zombies().intersection(&before).filter(|pid| !known.contains(pid)) {
            let _ = process::waitid_pid(*pid, libc::WEXITED | libc::WNOHANG);
        }
    });
}

fn known(tasks: &Tasks) -> HashSet<i32> {
    let all = tasks.all();
    let processes = all.iter().flat_map(|task| {
        let mut processes = task.exec_processes();
        processes.push(task.init.clone());
        processes
    });
    processes.map(|process| process.pid() as i32).collect()
}

/// Dead children of this process (proc_pid_task(5): `children`, per thread).
fn zombies() -> HashSet<i32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<i32> = lists.flat_map(|list| numbers(&list)).collect();
    pids.into_iter().filter(|pid| is_dead(*pid)).collect()
}

fn numbers(list: &str) -> Vec<i32> {
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_dead(pid: i32) -> bool {
    let peek = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    matches!(process::waitid_pid(pid, peek), Ok(Some(_)))
}
