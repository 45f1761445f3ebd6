//! What takes many containers or much time, and is measured once: memory of groups and crowds, a burst, a minute of idleness,
//! the smallest memory limit, a long run of execs.

use crate::contender::Contender;
use crate::process;
use crate::rounds::{self, SETTLE};
use crate::rows::{Figures, Row};
use crate::support::bundle::Bundle;
use crate::support::subject;
use crate::task::Task;
use serde_json::json;
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

const GROUP: usize = 10;
const SIDE_BY_SIDE: usize = 50;
const BURST: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// Memory limits to try, in KiB, and how often one has to do.
const LIMITS: [u64; 7] = [512, 768, 1024, 2048, 4096, 6144, 8192];
const TRIES: usize = 3;

pub fn measure(contender: &Contender) -> Figures {
    let mut figures = Figures::default();
    figures.add(Row::Further, further(contender));
    figures.add(Row::Side, side_by_side(contender));
    if let Some(cpu) = burst(contender) {
        figures.add(Row::Burst, cpu);
    }
    if let Some(limit) = smallest(contender) {
        figures.add(Row::Smallest, limit);
    }
    figures
}

fn sleeper(contender: &Contender, id: &str, group: Option<&str>) -> Task {
    // A day: a million execs take longer than the quarter of an hour that is enough elsewhere.
    let mut bundle = Bundle::new(contender.host.folder(), id, &["sleep", "86400"]);
    if let Some(group) = group {
        bundle.set("/annotations", json!({"io.containerd.runc.v2.group": group}));
    }
    let (mut task, _) = contender.connect(bundle);
    task.create("", "");
    task.start("");
    task
}

fn end(contender: &Contender, mut task: Task) -> Task {
    task.kill();
    contender.exits.wait_for(&task.bundle.id);
    task.delete("");
    task
}

/// KiB that the shim grows by with each further container of its group.
fn further(contender: &Contender) -> f64 {
    let mut tasks = vec![sleeper(contender, "member", Some("group"))];
    thread::sleep(SETTLE);
    let alone = process::pss(tasks[0].pid);
    tasks.extend((0..GROUP).map(|number| sleeper(contender, &format!("member{number}"), Some("group"))));
    thread::sleep(SETTLE);
    let together = process::pss(tasks[0].pid);
    let mut ended: Vec<_> = tasks.into_iter().map(|task| end(contender, task)).collect();
    ended.pop().expect("a member").shutdown();
    (together - alone) / GROUP as f64
}

/// MiB of many shims, each with one container; pages they share count once.
fn side_by_side(contender: &Contender) -> f64 {
    let tasks: Vec<_> =
        (0..SIDE_BY_SIDE).map(|number| sleeper(contender, &format!("side{number}"), None)).collect();
    thread::sleep(SETTLE);
    let total: f64 = tasks.iter().map(|task| process::pss(task.pid)).sum();
    tasks.into_iter().for_each(|task| end(contender, task).shutdown());
    total / 1024.0
}

/// CPU seconds of whole lives, but for the bench's own. Everything involved runs below the cgroup that all containers of the
/// bench share: so does the bench itself, meanwhile, and what it starts.
fn burst(contender: &Contender) -> Option<f64> {
    let seat = Seat::take()?;
    let (before, own) = (seat.usage(), process::own_cpu());
    let queue: Mutex<VecDeque<_>> = Mutex::new((0..BURST).collect());
    let names = |number: usize| format!("burst{number}");
    thread::scope(|scope| {
        for _ in 0..rounds::IN_FLIGHT {
            scope.spawn(|| {
                while let Some(number) = { queue.lock().expect("lock").pop_front() } {
                    let bundle = Bundle::new(contender.host.folder(), &names(number), &["/bin/true"]);
                    let (mut task, _) = contender.connect(bundle);
                    task.create("", "");
                    task.start("");
                    task.wait("");
                    contender.exits.wait_for(&names(number));
                    task.delete("");
                    task.shutdown();
                }
            });
        }
    });
    let own = process::own_cpu() - own;
    Some(seat.usage() - before - own.as_secs_f64())
}

/// The bench's place in the hierarchy that counts CPU, until dropped.
struct Seat {
    parent: PathBuf,
    back: PathBuf,
}

impl Seat {
    fn take() -> Option<Self> {
        let (root, controller) = match subject::cgroup_v2() {
            true => ("/sys/fs/cgroup", ""),
            false => ("/sys/fs/cgroup/cpuacct", "cpuacct"),
        };
        let own = fs::read_to_string("/proc/self/cgroup").expect("read the own cgroup");
        let mut lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let (_, home) = lines.find(|(names, _)| names.split(',').any(|name| name == controller))?;
        let parent = PathBuf::from(root).join(subject::run_name());
        let seat = Self { back: PathBuf::from(root).join(home.trim_start_matches('/')), parent };
        let driver = seat.parent.join("driver");
        fs::create_dir_all(&driver).expect("make the driver's cgroup");
        fs::write(driver.join("cgroup.procs"), "0").expect("move the bench");
        Some(seat)
    }

    /// Seconds so far, of all that ever ran below.
    fn usage(&self) -> f64 {
        let text = match subject::cgroup_v2() {
            true => fs::read_to_string(self.parent.join("cpu.stat")).expect("read cpu.stat"),
            false => fs::read_to_string(self.parent.join("cpuacct.usage")).expect("read cpuacct.usage"),
        };
        let number = text.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
        number / if subject::cgroup_v2() { 1e6 } else { 1e9 }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        fs::write(self.back.join("cgroup.procs"), "0").expect("move the bench back");
    }
}

/// The least memory limit with which /bin/true starts and ends well, every time.
fn smallest(contender: &Contender) -> Option<f64> {
    let works = |kib: u64| {
        (0..TRIES).all(|number| {
            let mut bundle =
                Bundle::new(contender.host.folder(), &format!("small{kib}-{number}"), &["/bin/true"]);
            bundle.set("/linux/resources/memory", json!({"limit": kib * 1024}));
            let (mut task, _) = contender.connect(bundle);
            let worked = task.attempt().is_ok() && {
                contender.exits.wait_for(&task.bundle.id);
                let worked = task.exit_status() == 0;
                task.delete("");
                worked
            };
            task.shutdown();
            worked
        })
    };
    LIMITS.into_iter().find(|kib| works(*kib)).map(|kib| kib as f64)
}

/// Wake-ups of a shim with one container in a minute in which nobody asks for anything, all contenders at once.
pub fn idle(contenders: &[Contender]) -> Vec<(&'static str, Figures)> {
    let tasks: Vec<_> = contenders.iter().map(|one| (one, sleeper(one, "quiet", None))).collect();
    thread::sleep(Duration::from_secs(2));
    let before: Vec<_> = tasks.iter().map(|(_, task)| process::wakeups(task.pid)).collect();
    thread::sleep(MINUTE);
    let report = |((contender, task), before): ((&Contender, Task), f64)| {
        let mut figures = Figures::default();
        figures.add(Row::Wakeups, (process::wakeups(task.pid) - before).max(0.0));
        end(contender, task).shutdown();
        (contender.name, figures)
    };
    tasks.into_iter().zip(before).map(report).collect()
}

/// What the shim has grown by after `count` execs in one container, once it has found its size.
pub fn execs(contender: &Contender, count: usize) -> Figures {
    let task = sleeper(contender, "many", None);
    rounds::flight_of_execs(&task, &|done| done < 1000);
    thread::sleep(SETTLE);
    let (pss, own) = (process::pss(task.pid), process::own(task.pid));
    rounds::flight_of_execs(&task, &|done| done < count);
    thread::sleep(SETTLE);
    let mut figures = Figures::default();
    figures.add(Row::Growth, process::pss(task.pid) - pss);
    figures.add(Row::OwnGrowth, process::own(task.pid) - own);
    // The exits of the execs came too: nobody waits for them by event.
    end(contender, task).shutdown();
    figures
}
