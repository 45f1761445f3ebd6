//! The figures of all rounds, their medians and tails, as a table to read and as JSON to keep.

use crate::rows::{Figures, Row};
use crate::support::subject::{self, Subject};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

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

/// The samples of every row, by column: `ours`, `floor`, `called` (the floor as a shim), `runc`, `crun`, where they have
/// something to say.
#[derive(Default)]
pub struct Report(BTreeMap<Row, BTreeMap<&'static str, Samples>>);

impl Report {
    pub fn add(&mut self, column: &'static str, figures: Figures) {
        for (row, value) in figures.0 {
            self.0.entry(row).or_default().entry(column).or_default().0.push(value);
        }
    }

    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.0.keys().copied()
    }

    pub fn median(&self, row: Row, column: &str) -> Option<f64> {
        self.0.get(&row)?.get(column).map(Samples::median)
    }

    /// Ours as a multiple of another column.
    pub fn ratio(&self, row: Row, column: &str) -> Option<f64> {
        Some(self.median(row, "ours")? / self.median(row, column).filter(|other| *other > 0.0)?)
    }

    pub fn table(&self) -> String {
        let mut text = String::from(
            "| | ours | p99 | target | floor | ours/floor | called | ours/called | runc | p99 | ours/runc | crun |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in self.rows() {
            let median = |column| self.median(row, column).map(short);
            let p99 =
                |column| self.0[&row].get(column).map(|samples| short(samples.p99(row.more_is_better())));
            let ratio = |column| self.ratio(row, column).map(|ratio| format!("{ratio:.2}"));
            let target = Some(row.target().to_owned());
            let cells = [
                median("ours"),
                p99("ours"),
                target,
                median("floor"),
                ratio("floor"),
                median("called"),
                ratio("called"),
                median("runc"),
                p99("runc"),
                ratio("runc"),
                median("crun"),
            ];
            let cells = cells.map(Option::unwrap_or_default).join(" | ");
            let _ = writeln!(text, "| {} | {cells} |", row.name().trim());
        }
        text
    }

    pub fn json(&self, rounds: usize) -> String {
        let rows = self.0.iter().map(|(row, columns)| {
            let side = |samples: &Samples| json!({"median": samples.median(), "p99": samples.p99(row.more_is_better()), "samples": samples.0});
            let columns: serde_json::Map<_, _> =
                columns.iter().map(|(name, samples)| ((*name).to_owned(), side(samples))).collect();
            let ratios = json!({"floor": self.ratio(*row, "floor"), "called": self.ratio(*row, "called"), "runc": self.ratio(*row, "runc"), "crun": self.ratio(*row, "crun")});
            json!({"name": row.name(), "target": row.target(), "more_is_better": row.more_is_better(), "columns": columns, "ours_to": ratios})
        });
        let rows: Value = rows.collect();
        let report = json!({"rounds": rounds, "host": host(), "rows": rows});
        serde_json::to_string_pretty(&report).expect("encode")
    }
}

/// Three digits that mean something.
pub fn short(value: f64) -> String {
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
        "crun": said("crun", "--version"),
    })
}
