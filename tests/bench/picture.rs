//! The table as a picture (SVG): every row a group of bars, as long as their share of runc's figure, or of ours where that is longer.

use crate::report::{Report, short};
use crate::rows::Row;
use std::fmt::Write as _;

const COLOURS: [(&str, &str); 5] = [
    ("ours", "#2563eb"),
    ("floor", "#94a3b8"),
    ("called", "#64748b"),
    ("runc", "#f59e0b"),
    ("crun", "#d6a45c"),
];
const WIDTH: f64 = 420.0;
const LEFT: f64 = 330.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;

pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    for row in report.rows() {
        y = group(&mut body, report, row, y) + GAP;
    }
    let legend: String = COLOURS
        .iter()
        .zip([0.0, 60.0, 120.0, 190.0, 250.0])
        .map(|((name, colour), x)| {
            let at = LEFT + x;
            format!("<rect x='{at}' y='10' width='9' height='9' fill='{colour}'/><text x='{}' y='19'>{name}</text>\n", at + 13.0)
        })
        .collect();
    let width = LEFT + WIDTH + 70.0;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{y}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='white'/>\n{legend}{body}</svg>\n"
    )
}

/// The bars of one row; returns where they end.
fn group(body: &mut String, report: &Report, row: Row, top: f64) -> f64 {
    let values: Vec<_> =
        COLOURS.iter().filter_map(|(name, colour)| Some((report.median(row, name)?, *colour))).collect();
    let longest = values.iter().map(|(value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let better = if row.more_is_better() { " (more is better)" } else { "" };
    let _ = writeln!(
        body,
        "<text x='{}' y='{}' text-anchor='end'>{}{better}</text>",
        LEFT - 8.0,
        top + BAR,
        row.name().trim()
    );
    let mut y = top;
    for (value, colour) in values {
        let length = (WIDTH * value / longest).max(1.0);
        let _ = writeln!(
            body,
            "<rect x='{LEFT}' y='{y}' width='{length:.1}' height='{}' fill='{colour}'/>\
             <text x='{:.1}' y='{:.1}' font-size='9'>{}</text>",
            BAR - 1.0,
            LEFT + length + 4.0,
            y + BAR - 1.5,
            short(value)
        );
        y += BAR;
    }
    y
}
