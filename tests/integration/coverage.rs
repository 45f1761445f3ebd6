//! README's coverage tables: every test that they name is there and, in the table of the spec, quotes it; every file is
//! there.

use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../README.md");

/// The rows of the spec's table, and of the one of what the spec does not say.
fn tables() -> [Vec<&'static str>; 2] {
    let section = TABLE.split("\n## Coverage\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let tables = section.expect("the section").split_once("\nBeside the spec:\n").expect("two tables");
    let rows = |table: &'static str| table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    [rows(tables.0), rows(tables.1)]
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
    ["config", "config-linux", "runtime", "runtime-linux", "features", "features-linux"]
        .iter()
        .any(|file| place(file))
}

/// What is wrong with something that a row names.
fn offence(name: &str, must_quote: bool) -> Option<&'static str> {
    let Some((module, test)) = name.split_once("::") else {
        let path =
            if name.contains('/') { Path::new(env!("CARGO_MANIFEST_DIR")).join(name) } else { source(name) };
        return (!path.exists()).then_some("is not there");
    };
    match comment(module, test) {
        Some(comment) if must_quote && !quotes_the_spec(&comment) => Some("quotes nothing"),
        Some(_) => None,
        None => Some("is not there"),
    }
}

#[test]
fn every_row_of_the_coverage_tables_names_tests_and_those_of_the_spec_quote_it() {
    let tables = tables();
    let mut offences = Vec::new();
    for (rows, must_quote) in tables.iter().zip([true, false]) {
        for row in rows {
            let names = named(row);
            if names.is_empty() {
                offences.push(format!("no test: {row}"));
            }
            let wrong =
                names.iter().filter_map(|name| Some(format!("{name} {}", offence(name, must_quote)?)));
            offences.extend(wrong);
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert!(tables[0].len() > 30 && tables[1].len() > 7);
}
