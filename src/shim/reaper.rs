//! Strangers: orphans of containers without a pid namespace end up with the shim, their subreaper, and must be reaped.
//!
//! COMPAT: nobody may take the status of a process that somebody waits for by pidfd. So only children that no task
//! knows are reaped, one by one, and only while nothing is being done that has helpers of its own (hooks, say).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::tasks::Tasks;
use crate::sys::{memory, process};

const PAUSE: Duration = Duration::from_millis(200);

/// A look is under way.
static LOOKING: AtomicBool = AtomicBool::new(false);
/// A child has ended since the look began.
static AGAIN: AtomicBool = AtomicBool::new(false);

/// Looks for dead strangers soon, if anybody is dead who was not reaped at once; several calls are one look.
pub fn later(tasks: &Tasks) {
    if !process::any_zombie() {
        return;
    }
    AGAIN.store(true, Ordering::Relaxed);
    if !LOOKING.swap(true, Ordering::Relaxed) {
        tokio::spawn(look(tasks.clone()));
    }
}

async fn look(tasks: Tasks) {
    let mut left = false;
    while AGAIN.swap(false, Ordering::Relaxed) || left {
        let dead = zombies();
        tokio::time::sleep(PAUSE).await;
        let known = known(&tasks);
        let mut strangers = dead.difference(&known).peekable();
        left = strangers.peek().is_some() && !tasks.inflight.is_idle();
        if !left {
            // Dead before the pause, nobody's, and nothing in flight that could still want it. ECHILD: an owner was quicker.
            strangers.for_each(|pid| {
                let _ = process::waitid_pid(*pid, libc::WEXITED | libc::WNOHANG);
            });
        }
    }
    LOOKING.store(false, Ordering::Relaxed);
    // Most likely nothing follows for a while.
    memory::give_back();
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
