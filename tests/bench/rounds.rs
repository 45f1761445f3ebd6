//! What one round does with one shim, and the figures it gives: five containers, one after the other, each with a shim of its own.

use crate::contender::{Contender, Floor};
use crate::process;
use crate::rows::{Figures, Row};
use crate::support::fifo;
use crate::task::Task;
use oci_spec::runtime::{LinuxResources, LinuxSeccomp};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TRUE: [&str; 1] = ["/bin/true"];
/// How many of the quick things a round does: enough for a 99th percentile over twenty rounds.
pub const EXECS: usize = 5;
const STATES: usize = 50;
pub const IN_FLIGHT: usize = 8;
/// Long enough for the 10 ms ticks of CPU time not to matter.
const BUSY: Duration = Duration::from_secs(1);
/// After this a shim is as idle as it gets within the patience of a benchmark.
pub const SETTLE: Duration = Duration::from_millis(300);
const STREAM_MIB: u64 = 256;

/// containerd's default seccomp profile, as it puts it into a spec.
fn profile_json() -> Value {
    let spec: Value =
        serde_json::from_str(include_str!("../specs/container-seccomp-default.json")).expect("a spec");
    spec["linux"]["seccomp"].clone()
}

pub fn profile() -> LinuxSeccomp {
    serde_json::from_value(profile_json()).expect("a profile")
}

/// `linux.resources` of every bundle of the bench: devices are denied but for the ordinary ones.
pub fn resources() -> LinuxResources {
    serde_json::from_str(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#).expect("resources")
}

/// All that is measured in every round.
pub fn shim(contender: &Contender, round: usize) -> Figures {
    let mut figures = Figures::default();
    contender.short_life(&mut figures, &format!("true{round}"));
    contender.short_with_seccomp(&mut figures, &format!("trues{round}"));
    contender.long_life(&mut figures, &format!("idle{round}"));
    contender.long_with_seccomp(&mut figures, &format!("idles{round}"));
    contender.stream(&mut figures, &format!("data{round}"));
    figures
}

/// The same of the floor, as far as it has it.
pub fn floor(floor: &Floor, round: usize) -> Figures {
    let mut figures = Figures::default();
    let run = floor.ask(&format!("run plain{round}"));
    for (row, time) in [Row::CreateStart, Row::Run, Row::Delete].into_iter().zip(&run) {
        figures.add(row, *time);
    }
    figures.add(Row::Life, run[1] + run[2]);
    figures.add(Row::RunSeccomp, floor.ask(&format!("run filtered{round} seccomp"))[1]);
    for (row, request) in [(Row::Exec, "hold held"), (Row::ExecSeccomp, "hold tight")] {
        let seccomp = if row == Row::ExecSeccomp { " seccomp" } else { "" };
        floor.ask(&format!("{request}{round}{seccomp}"));
        (0..EXECS).for_each(|_| figures.add(row, floor.ask("exec")[0]));
        let killed = floor.ask("kill")[0];
        if row == Row::Exec {
            figures.add(Row::Kill, killed);
        }
    }
    figures
}

impl Contender {
    /// /bin/true from nothing to nothing.
    fn short_life(&self, figures: &mut Figures, id: &str) {
        let birth = Instant::now();
        let (mut task, connected) = self.task(id, &TRUE, None);
        // Writing the bundle is not the shim's work.
        let preparation = birth.elapsed().saturating_sub(connected);
        figures.time(Row::Connected, connected);

        let create = Instant::now();
        task.create("", "");
        let start = Instant::now();
        task.start("");
        let started = Instant::now();
        let exit = self.exits.wait_for(id);
        figures.time(Row::Create, start - create);
        figures.time(Row::Start, started - start);
        figures.time(Row::CreateStart, started - create);
        figures.time(Row::Run, exit.max(started) - create);

        let delete = Instant::now();
        task.delete("");
        let shutdown = Instant::now();
        task.shutdown();
        figures.time(Row::Delete, shutdown - delete);
        figures.time(Row::Shutdown, shutdown.elapsed());
        figures.time(Row::Life, birth.elapsed().saturating_sub(preparation));
    }

    fn short_with_seccomp(&self, figures: &mut Figures, id: &str) {
        let (mut task, _) = self.task(id, &TRUE, Some(&profile_json()));
        let create = Instant::now();
        task.create("", "");
        task.start("");
        let started = Instant::now();
        figures.time(Row::RunSeccomp, self.exits.wait_for(id).max(started) - create);
        task.delete("");
        task.shutdown();
    }

    /// A container that only waits: what it costs, then execs in it, then its end by SIGKILL.
    fn long_life(&self, figures: &mut Figures, id: &str) {
        let (mut task, _) = self.task(id, &["sleep", "1000"], None);
        task.create("", "");
        task.start("");
        thread::sleep(SETTLE);
        figures.add(Row::Pss, process::pss(task.pid) / 1024.0);
        figures.add(Row::Threads, process::threads(task.pid));
        for _ in 0..STATES {
            let ask = Instant::now();
            task.state();
            figures.add(Row::State, ask.elapsed().as_secs_f64() * 1e6);
        }
        self.execs(figures, Row::Exec, &mut task);
        in_flight(figures, &task);

        // What the execs left to do, here and in the kernel, is not the work of Kill.
        thread::sleep(SETTLE);
        let kill = Instant::now();
        task.kill();
        figures.time(Row::Kill, self.exits.wait_for(id) - kill);
        task.delete("");
        task.shutdown();
    }

    fn long_with_seccomp(&self, figures: &mut Figures, id: &str) {
        let (mut task, _) = self.task(id, &["sleep", "1000"], Some(&profile_json()));
        task.create("", "");
        task.start("");
        self.execs(figures, Row::ExecSeccomp, &mut task);
        task.kill();
        self.exits.wait_for(id);
        task.delete("");
        task.shutdown();
    }

    fn execs(&self, figures: &mut Figures, row: Row, task: &mut Task) {
        for number in 0..EXECS {
            let exec = format!("{}-one{number}", task.bundle.id);
            let request = task.exec_request(&exec, &TRUE);
            let begin = Instant::now();
            task.add(&request);
            task.start(&exec);
            // A process may be gone before Start is answered; the client is done when it has both.
            let started = Instant::now();
            let exit = self.exits.wait_for(&exec).max(started);
            figures.time(row, exit - begin);
            task.delete(&exec);
        }
    }

    /// Zeros through the shim into a reader that throws them away without copying.
    fn stream(&self, figures: &mut Figures, id: &str) {
        let count = format!("count={STREAM_MIB}");
        let (mut task, _) = self.task(id, &["dd", "if=/dev/zero", "bs=1M", &count], None);
        let path = task.bundle.folder.join("stdout");
        fifo::make(&path);
        // COMPAT: containerd-shim-runc-v2 1.6 takes both streams or none.
        let errors = task.bundle.folder.join("stderr");
        fifo::drain(&errors);
        let uri = path.display().to_string();
        let reader = thread::spawn(move || {
            let mut fifo = File::open(path).expect("open the fifo");
            let mut void = OpenOptions::new().write(true).open("/dev/null").expect("open /dev/null");
            fifo.read_exact(&mut [0]).expect("read the first byte");
            let begin = Instant::now();
            let rest = STREAM_MIB * 1024 * 1024 - 1;
            // From a pipe into a file, this is splice(2).
            let moved = io::copy(&mut (&mut fifo).take(rest), &mut void).expect("read the fifo");
            assert_eq!(moved, rest, "bytes from the fifo");
            let elapsed = begin.elapsed();
            io::copy(&mut fifo, &mut void).expect("read the fifo to its end");
            elapsed
        });
        task.create(&uri, &errors.display().to_string());
        let before = process::cpu_of_threads(task.pid);
        task.start("");
        self.exits.wait_for(id);
        let cpu = process::cpu_of_threads(task.pid).saturating_sub(before);
        figures.add(Row::StreamCpu, cpu.as_secs_f64() * 1024.0 / STREAM_MIB as f64);
        task.delete("");
        let elapsed = reader.join().expect("the reader");
        figures.add(Row::Stream, STREAM_MIB as f64 * 1.048_576 / elapsed.as_secs_f64());
        task.shutdown();
    }
}

/// Execs as fast as they go, some at a time; their CPU is the shim's and that of all it reaped.
fn in_flight(figures: &mut Figures, task: &Task) {
    let before = process::cpu_with_children(task.pid);
    let begin = Instant::now();
    let done = flight_of_execs(task, &|_| begin.elapsed() < BUSY) as f64;
    figures.add(Row::InFlight, done / begin.elapsed().as_secs_f64());
    let cpu = process::cpu_with_children(task.pid) - before;
    figures.add(Row::ExecCpu, cpu.as_secs_f64() * 1e3 / done);
}

/// Execs, each with all its calls, as long as `go_on` says of their count; how many there were.
pub fn flight_of_execs(task: &Task, go_on: &(dyn Fn(usize) -> bool + Sync)) -> usize {
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..IN_FLIGHT {
            let mut task = task.again();
            let done = &done;
            scope.spawn(move || {
                while go_on(done.fetch_add(1, Ordering::Relaxed)) {
                    let exec = format!("{}-{worker}", task.bundle.id);
                    task.exec(&exec, &TRUE);
                    task.start(&exec);
                    task.wait(&exec);
                    task.delete(&exec);
                }
            });
        }
    });
    done.into_inner() - IN_FLIGHT
}
