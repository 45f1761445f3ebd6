//! Our shim beside containerd-shim-runc-v2 with runc: the same calls over ttrpc, the same spec, round by round in turn.
//!
//! Run through `hack/bench.sh`, which gives it both programs, a `/run` of its own and a clean end.
//! `ROUNDS=n` (20) chooses the length, `BENCH_JSON=path` the file that the figures go to. What is measured: `rounds.rs`.

#[path = "../integration/support/mod.rs"]
#[allow(dead_code)]
mod support;

mod exits;
mod process;
mod report;
mod rounds;
mod task;

use report::Report;
use rounds::Contender;
use support::subject::{self, Subject};

fn main() {
    if let Some(obstacle) = subject::obstacle() {
        eprintln!("cannot measure here: {obstacle}");
        std::process::exit(1);
    }
    let rounds = std::env::var("ROUNDS").map_or(20, |text| text.parse().expect("ROUNDS is a number"));
    let mut contenders = [Contender::new(Subject::Ours), Contender::new(Subject::Runc)];
    let mut report = Report::default();
    // One round that does not count: it brings both programs and the image into the page cache.
    for round in 0..=rounds {
        eprint!("\rround {round} of {rounds} ");
        for contender in &contenders {
            let figures = contender.round(round);
            if round > 0 {
                report.add(contender.subject, figures);
            }
        }
        // Whoever goes second finds the machine warmer: take turns.
        contenders.reverse();
    }
    eprintln!();
    println!("{}", report.table());
    if let Some(path) = std::env::var_os("BENCH_JSON") {
        std::fs::write(&path, report.json(rounds)).expect("write the figures");
    }
}
