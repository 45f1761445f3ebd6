//! Our shim beside containerd-shim-runc-v2 with runc and crun, and the floor below all of them, by itself and called: the same
//! calls over ttrpc, the same spec, round by round in turn.
//!
//! Run through `hack/bench.sh`, which gives it the programs, a `/run` of its own and a clean end. `ROUNDS=n` (20) chooses the
//! length, `EXECS=n` adds so many execs in one container, `BENCH_OUT=folder` takes `bench.json` and `bench.svg`.
//! What is measured: `rounds.rs` (every round), `crowd.rs` (once).

#[path = "../integration/support/mod.rs"]
#[allow(dead_code)]
mod support;

mod called;
mod contender;
mod crowd;
mod exits;
mod floor;
mod picture;
mod process;
mod report;
mod rounds;
mod rows;
mod task;

use contender::{Contender, Floor};
use report::Report;
use support::subject;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--floor"] => return floor::serve(),
        ["--called", id, program, profile] => return called::serve(id, program, !profile.is_empty()),
        _ => {}
    }
    if let Some(obstacle) = subject::obstacle() {
        eprintln!("cannot measure here: {obstacle}");
        std::process::exit(1);
    }
    let rounds = number("ROUNDS", 20);
    let (mut contenders, floor) = (Contender::all(), Floor::start());
    let mut report = Report::default();
    // One round that does not count: it brings the programs and the image into the page cache.
    for round in 0..=rounds {
        eprint!("\rround {round} of {rounds} ");
        let mut figures: Vec<_> = contenders.iter().map(|one| (one.name, rounds::shim(one, round))).collect();
        figures.push(("floor", rounds::floor(&floor, round)));
        figures.push(("called", called::measure(round)));
        if round > 0 {
            figures.into_iter().for_each(|(name, figures)| report.add(name, figures));
        }
        // Whoever goes second finds the machine warmer: take turns.
        contenders.reverse();
    }
    contenders.sort_by_key(|one| one.subject != subject::Subject::Ours);
    for contender in &contenders {
        eprint!("\rcrowds of {}       ", contender.name);
        report.add(contender.name, crowd::measure(contender));
    }
    eprint!("\ra minute of idleness  ");
    crowd::idle(&contenders).into_iter().for_each(|(name, figures)| report.add(name, figures));
    let execs = number("EXECS", 0);
    if execs > 0 {
        eprint!("\r{execs} execs          ");
        report.add(contenders[0].name, crowd::execs(&contenders[0], execs));
    }
    eprintln!();
    println!("{}", report.table());
    if let Some(folder) = std::env::var_os("BENCH_OUT").map(std::path::PathBuf::from) {
        std::fs::write(folder.join("bench.json"), report.json(rounds)).expect("write the figures");
        std::fs::write(folder.join("bench.svg"), picture::draw(&report)).expect("write the picture");
    }
}
