//! The floor, called: what is left of a shim that does only the kernel's work. A process begun for one container, which a client
//! asks to create and to start, to add an exec and to start that, and which tells of each end by itself. Pipes and empty lines
//! instead of sockets and ttrpc, no other event than the end, nothing read, checked or noted; but the calls are there, with their
//! sleeps and wake-ups, and code and memory are as cold as a shim's.

use crate::contender::Floor as Client;
use crate::floor::{Floor, News, end};
use crate::rounds::{EXECS, SETTLE};
use crate::rows::{Figures, Row};
use myshim::sys::pipe;
use std::ffi::CString;
use std::io::{BufRead, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Answers the calls for container `id` and its `program`, /bin/true or one that lasts.
pub fn serve(id: &str, program: &str, filtered: bool) {
    let floor = Floor::new();
    let filter = filtered.then_some(&floor.filter);
    let (folders, lasts) = (floor.folders(id), program != "true");
    let program = CString::new(program).expect("no NUL");
    say();
    let mut container = None;
    for call in std::io::stdin().lock().lines() {
        match (call.expect("a call").as_str(), &container) {
            ("create", None) => {
                container = Some(floor.start(id, folders.clone(), &program, filter, true));
                say();
            }
            ("start", Some(container)) => {
                container.news.go();
                container.news.wait();
                say();
                if !lasts {
                    end(&container.pidfd);
                    say();
                }
            }
            ("add", Some(_)) => say(),
            ("exec", Some(container)) => {
                let (seen, running) = pipe::pipe().expect("pipe");
                let pidfd = floor.exec(container, filter, Some(running));
                News(seen).wait();
                say();
                end(&pidfd);
                say();
            }
            ("kill", Some(container)) => {
                container.kill();
                say();
                end(&container.pidfd);
                say();
            }
            ("delete", Some(container)) => {
                floor.clear(container);
                say();
            }
            (call, _) => panic!("call {call:?}"),
        }
    }
}

fn say() {
    println!();
    std::io::stdout().flush().expect("answer");
}

/// What one round gives.
pub fn measure(round: usize) -> Figures {
    let mut figures = Figures::default();
    let plain = life(&format!("called{round}"), "");
    figures.time(Row::CreateStart, plain[0]);
    figures.time(Row::Run, plain[1]);
    figures.time(Row::Delete, plain[2]);
    figures.time(Row::RunSeccomp, life(&format!("calleds{round}"), "seccomp")[1]);
    let killed = execs(&mut figures, Row::Exec, &format!("callede{round}"), "");
    figures.time(Row::Kill, killed);
    execs(&mut figures, Row::ExecSeccomp, &format!("calledes{round}"), "seccomp");
    figures
}

/// /bin/true: until it is started, until it has ended; and Delete.
fn life(id: &str, profile: &str) -> [Duration; 3] {
    let floor = Client::called(id, "true", profile);
    let begin = Instant::now();
    floor.ask("create");
    floor.ask("start");
    let started = begin.elapsed();
    floor.hear();
    let ended = begin.elapsed();
    let delete = Instant::now();
    floor.ask("delete");
    [started, ended, delete.elapsed()]
}

/// Execs in a container that lasts; how long its end by SIGKILL took.
fn execs(figures: &mut Figures, row: Row, id: &str, profile: &str) -> Duration {
    let floor = Client::called(id, "sleep", profile);
    floor.ask("create");
    floor.ask("start");
    for _ in 0..EXECS {
        let begin = Instant::now();
        floor.ask("add");
        floor.ask("exec");
        floor.hear();
        figures.time(row, begin.elapsed());
    }
    // As idle as a shim is before its Kill.
    thread::sleep(SETTLE);
    let begin = Instant::now();
    floor.ask("kill");
    floor.hear();
    let killed = begin.elapsed();
    floor.ask("delete");
    killed
}
