//! README's coverage table: every test that it names is there and quotes the spec, every file is there.

use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../README.md");

fn rows() -> impl Iterator<Item = &'static str> {
    let section = TABLE.split("\n## Coverage\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    section.expect("the section").lines().filter(|line| line.starts_with("| ")).skip(1)
}

/// What the row's second cell has between backticks.
fn named(row: &str) -> Vec<&str> {
    let tests = row.trim_matches('|').rsplit(" | ").next().expect("a cell");
    tests.split('`').skip(1).step_by(2).collect()
}

fn source(module: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration").join(format!("{module}.rs"))
}

/// The comment of a test: the lines with `///` above `#[test]`.
fn comment(module: &str, test: &str) -> Option<String> {
    let text = fs::read_to_string(source(module)).ok()?;
    let (before, _) = text.split_once(&format!("\n#[test]\nfn {test}("))?;
    let lines: Vec<_> = before.lines().rev().map_while(|line| line.strip_prefix("///")).collect();
    Some(lines.into_iter().rev().collect())
}

/// A sentence in quotation marks, then file and section: `"…" (config.md, "Mounts")`.
fn quotes_the_spec(comment: &str) -> bool {
    let place =
        |file: &str| comment.find(&format!("({file}.md, \"")).is_some_and(|at| comment[..at].contains('"'));
    ["config", "config-linux", "runtime", "runtime-linux"].iter().any(|file| place(file))
}

#[test]
fn every_row_of_the_coverage_table_names_tests_that_quote_the_spec() {
    let mut offences = Vec::new();
    for row in rows() {
        let names = named(row);
        if names.is_empty() {
            offences.push(format!("no test: {row}"));
        }
        for name in names {
            let offence = match name.split_once("::") {
                Some((module, test)) => match comment(module, test) {
                    Some(comment) if quotes_the_spec(&comment) => None,
                    Some(_) => Some("quotes nothing"),
                    None => Some("is not there"),
                },
                None if name.contains('/') => {
                    (!Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists()).then_some("is not there")
                }
                None => (!source(name).exists()).then_some("is not there"),
            };
            offences.extend(offence.map(|what| format!("{name} {what}")));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert!(rows().count() > 30);
}
