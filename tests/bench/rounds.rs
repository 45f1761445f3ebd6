//! What one round does with one shim, and the figures it gives: three containers, one after the other, each with a shim of its own.

use crate::exits::Exits;
use crate::process;
use crate::report::{Figures, Row};
use crate::support::bundle::Bundle;
use crate::support::fifo;
use crate::support::shim::Host;
use crate::support::subject::Subject;
use crate::task::Task;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TRUE: [&str; 1] = ["/bin/true"];
/// How many of the quick things a round does: enough for a 99th percentile over twenty rounds.
const EXECS: usize = 5;
const STATES: usize = 50;
const IN_FLIGHT: usize = 8;
/// Long enough for the 10 ms ticks of CPU time not to matter.
const BUSY: Duration = Duration::from_secs(1);
/// After this a shim is as idle as it gets within the patience of a benchmark.
const SETTLE: Duration = Duration::from_millis(300);
const STREAM_MIB: u64 = 256;

pub struct Contender {
    pub subject: Subject,
    host: Host,
    exits: Exits,
}

impl Contender {
    pub fn new(subject: Subject) -> Self {
        let mut host = Host::new();
        let socket = host.folder().join("x.sock");
        let exits = Exits::listen(&socket);
        host.environment.push(("TTRPC_ADDRESS".into(), socket.display().to_string()));
        Self { subject, host, exits }
    }

    pub fn round(&self, round: usize) -> Figures {
        let mut figures = Figures::default();
        self.short_life(&mut figures, &format!("true{round}"));
        self.long_life(&mut figures, &format!("idle{round}"));
        self.stream(&mut figures, &format!("data{round}"));
        figures
    }

    fn task(&self, id: &str, arguments: &[&str]) -> (Task, Duration) {
        Task::connect(&self.host, self.subject, Bundle::new(self.host.folder(), id, arguments))
    }

    /// /bin/true from nothing to nothing.
    fn short_life(&self, figures: &mut Figures, id: &str) {
        let birth = Instant::now();
        let (mut task, connected) = self.task(id, &TRUE);
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
        figures.time(Row::Run, exit.max(started) - create);

        let delete = Instant::now();
        task.delete("");
        let shutdown = Instant::now();
        task.shutdown();
        figures.time(Row::Delete, shutdown - delete);
        figures.time(Row::Shutdown, shutdown.elapsed());
        figures.time(Row::Life, birth.elapsed().saturating_sub(preparation));
    }

    /// A container that only waits: what it costs, then execs in it, then its end by SIGKILL.
    fn long_life(&self, figures: &mut Figures, id: &str) {
        let (mut task, _) = self.task(id, &["sleep", "1000"]);
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
        for number in 0..EXECS {
            let exec = format!("{id}-one{number}");
            let begin = Instant::now();
            task.exec(&exec, &TRUE);
            task.start(&exec);
            // A process may be gone before Start is answered; the client is done when it has both.
            let started = Instant::now();
            let exit = self.exits.wait_for(&exec).max(started);
            figures.time(Row::Exec, exit - begin);
            task.delete(&exec);
        }
        in_flight(figures, &task);

        // What the execs left to do, here and in the kernel, is not the work of Kill.
        thread::sleep(SETTLE);
        let kill = Instant::now();
        task.kill();
        figures.time(Row::Kill, self.exits.wait_for(id) - kill);
        task.delete("");
        task.shutdown();
    }

    /// Zeros through the shim into a reader that throws them away without copying.
    fn stream(&self, figures: &mut Figures, id: &str) {
        let count = format!("count={STREAM_MIB}");
        let (mut task, _) = self.task(id, &["dd", "if=/dev/zero", "bs=1M", &count]);
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
        figures.time(Row::StreamCpu, process::cpu_of_threads(task.pid).saturating_sub(before));
        task.delete("");
        let elapsed = reader.join().expect("the reader");
        figures.add(Row::Stream, STREAM_MIB as f64 * 1.048_576 / elapsed.as_secs_f64());
        task.shutdown();
    }
}

/// Execs as fast as they go, some at a time, each with all its calls; its CPU is the shim's and that of all it reaped.
fn in_flight(figures: &mut Figures, task: &Task) {
    let done = AtomicU32::new(0);
    let before = process::cpu_with_children(task.pid);
    let begin = Instant::now();
    thread::scope(|scope| {
        for worker in 0..IN_FLIGHT {
            let mut task = task.again();
            let done = &done;
            scope.spawn(move || {
                for number in 0.. {
                    if begin.elapsed() > BUSY {
                        return;
                    }
                    let exec = format!("{}-{worker}-{number}", task.bundle.id);
                    task.exec(&exec, &TRUE);
                    task.start(&exec);
                    task.wait(&exec);
                    task.delete(&exec);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let done = f64::from(done.into_inner());
    figures.add(Row::InFlight, done / begin.elapsed().as_secs_f64());
    let cpu = process::cpu_with_children(task.pid) - before;
    figures.add(Row::ExecCpu, cpu.as_secs_f64() * 1e3 / done);
}
