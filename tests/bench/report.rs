//! The figures of all rounds, their medians and tails, as a table to read and as JSON to keep.

use crate::support::subject::{self, Subject};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

/// In the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Connected,
    Create,
    Start,
    Run,
    Exec,
    InFlight,
    ExecCpu,
    Kill,
    Delete,
    Shutdown,
    Life,
    Pss,
    Threads,
    Stream,
    StreamCpu,
    State,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Connected => "shim start to connected, ms",
            Self::Create => "Create, ms",
            Self::Start => "Start, ms",
            Self::Run => "Create + Start + exit event of /bin/true, ms",
            Self::Exec => "Exec + Start + exit event, ms",
            Self::InFlight => "execs per second, 8 in flight",
            Self::ExecCpu => "CPU per exec, ms",
            Self::Kill => "Kill (SIGKILL) to exit event, ms",
            Self::Delete => "Delete, ms",
            Self::Shutdown => "Shutdown until the shim is gone, ms",
            Self::Life => "whole life cycle, ms",
            Self::Pss => "one idle container: PSS of the shim, MiB",
            Self::Threads => "threads of the shim",
            Self::Stream => "stdout through the FIFO, MB/s",
            Self::StreamCpu => "CPU of the shim for 256 MiB of stdout, ms",
            Self::State => "State round trip, us",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::InFlight | Self::Stream)
    }
}

/// What a round gave, row by row.
#[derive(Default)]
pub struct Figures(Vec<(Row, f64)>);

impl Figures {
    pub fn add(&mut self, row: Row, value: f64) {
        self.0.push((row, value));
    }

    /// In milliseconds, as every row of times but one.
    pub fn time(&mut self, row: Row, time: Duration) {
        self.add(row, time.as_secs_f64() * 1e3);
    }
}

#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    /// The figure that 99 of 100 samples do not fall behind: the tail is the bad end, whichever that is.
    fn p99(&self, more_is_better: bool) -> f64 {
        let mut sorted = self.sorted();
        if more_is_better {
            sorted.reverse();
        }
        sorted[(sorted.len() * 99).div_ceil(100) - 1]
    }
}

#[derive(Default)]
struct Pair {
    ours: Samples,
    runc: Samples,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.ours.median() / self.runc.median()
    }
}

#[derive(Default)]
pub struct Report(BTreeMap<Row, Pair>);

impl Report {
    pub fn add(&mut self, subject: Subject, figures: Figures) {
        for (row, value) in figures.0 {
            let pair = self.0.entry(row).or_default();
            let samples = if subject == Subject::Ours { &mut pair.ours } else { &mut pair.runc };
            samples.0.push(value);
        }
    }

    pub fn table(&self) -> String {
        let mut text =
            String::from("| | ours | p99 | runc | p99 | ours/runc |\n|---|---:|---:|---:|---:|---:|\n");
        for (row, pair) in &self.0 {
            let cells = [
                pair.ours.median(),
                pair.ours.p99(row.more_is_better()),
                pair.runc.median(),
                pair.runc.p99(row.more_is_better()),
            ];
            let cells = cells.map(short).join(" | ");
            let _ = writeln!(text, "| {} | {cells} | {:.2} |", row.name(), pair.ratio());
        }
        text
    }

    pub fn json(&self, rounds: usize) -> String {
        let rows = self.0.iter().map(|(row, pair)| {
            let side = |samples: &Samples| json!({"median": samples.median(), "p99": samples.p99(row.more_is_better()), "samples": samples.0});
            json!({"name": row.name(), "more_is_better": row.more_is_better(), "ours": side(&pair.ours), "runc": side(&pair.runc), "ratio": pair.ratio()})
        });
        let rows: Value = rows.collect();
        let report = json!({"rounds": rounds, "host": host(), "rows": rows});
        serde_json::to_string_pretty(&report).expect("encode")
    }
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    let places = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.places$}")
}

/// What the figures depend on.
fn host() -> Value {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).env("PATH", subject::search_path()).output();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    json!({
        "date": said("date", "+%F"),
        "kernel": said("uname", "-sr"),
        "machine": said("uname", "-m"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "cgroup": if subject::cgroup_v2() { "v2" } else { "v1" },
        "ours": said(&Subject::Ours.binary().display().to_string(), "-v"),
        "containerd-shim-runc-v2": said("containerd-shim-runc-v2", "-v"),
        "runc": said("runc", "--version"),
    })
}
