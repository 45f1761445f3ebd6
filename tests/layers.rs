//! The layers of the program, read from its sources: who may name whom, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// A layer, and the crate's own modules that it may name.
const LAYERS: [(&str, &[&str]); 5] = [
    ("sys", &[]),
    ("oci", &[]),
    ("engine", &["oci", "sys"]),
    ("stdio", &["sys"]),
    ("shim", &["oci", "sys", "engine", "stdio"]),
];

/// Crates that belong to one layer's subject; a layer further down must not know them.
const FOREIGN: [(&str, &[&str]); 4] = [
    (
        "sys",
        &[
            "tokio",
            "ttrpc",
            "containerd_shim",
            "containerd_shim_protos",
            "oci_spec",
            "protobuf",
            "serde_json",
        ],
    ),
    ("oci", &["tokio", "ttrpc", "containerd_shim", "containerd_shim_protos", "protobuf", "nix"]),
    ("engine", &["tokio", "ttrpc", "containerd_shim", "containerd_shim_protos", "protobuf"]),
    ("stdio", &["ttrpc", "containerd_shim", "containerd_shim_protos", "oci_spec", "protobuf"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder of src/") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

fn code(path: &Path) -> Vec<(usize, String)> {
    code_of(&fs::read_to_string(path).expect("read a source file"))
}

/// Lines that are code: comments may name whom they like.
fn code_of(text: &str) -> Vec<(usize, String)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("").to_owned()));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let is_word =
            |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        !is_word(before) && !is_word(after)
    })
}

/// The first word of every item in a group such as `crate::{a, b::{c, d}}`, wherever its lines end: `a` and `b`.
fn grouped(lines: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // How many braces are open, the group's own included, and whether an item begins here.
    let (mut depth, mut fresh) = (0, false);
    for (number, line) in lines {
        let mut rest = line.as_str();
        while !rest.is_empty() {
            if depth == 0 {
                let Some((_, inside)) = rest.split_once("crate::{").or(rest.split_once("myshim::{")) else {
                    break;
                };
                (rest, depth, fresh) = (inside, 1, true);
                continue;
            }
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if !word.is_empty() && depth == 1 && fresh {
                found.push((*number, word.to_owned()));
                fresh = false;
            }
            match after.chars().next() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                Some(',') if depth == 1 => fresh = true,
                _ => {}
            }
            rest = after.get(1..).unwrap_or_default();
        }
    }
    found
}

/// Modules named by `use crate::{a, b::c}` or `crate::a`.
fn own_modules(lines: &[(usize, String)]) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let grouped = grouped(lines);
    for (layer, _) in LAYERS {
        for (number, line) in lines {
            if names(line, &format!("crate::{layer}")) || names(line, &format!("myshim::{layer}")) {
                found.push((*number, layer));
            }
        }
        found.extend(grouped.iter().filter(|(_, word)| word == layer).map(|(number, _)| (*number, layer)));
    }
    found
}

#[test]
fn groups_are_read_to_their_end() {
    let text = "use crate::{\n    oci::{self, stdio}, sys,\n    shim::{\n        task, // engine\n    },\n    names,\n};\n\
        use myshim::{sys::fs, engine};\nfn f() { crate::stdio::g(); }\n{ shim }";
    let mut found = own_modules(&code_of(text));
    found.sort();
    assert_eq!(found, [(2, "oci"), (2, "sys"), (3, "shim"), (8, "engine"), (8, "sys"), (9, "stdio")]);
}

#[test]
fn no_layer_names_a_layer_above_it() {
    let mut offences = Vec::new();
    for (layer, allowed) in LAYERS {
        for path in files(&source().join(layer)) {
            for (number, named) in own_modules(&code(&path)) {
                if named != layer && !allowed.contains(&named) {
                    offences.push(format!("{}:{number}: {layer} may not use {named}", path.display()));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn no_layer_names_a_crate_of_another_subject() {
    let mut offences = Vec::new();
    for (layer, foreign) in FOREIGN {
        for path in files(&source().join(layer)) {
            for (number, line) in code(&path) {
                for name in foreign.iter().filter(|name| names(&line, &format!("{name}::"))) {
                    offences
                        .push(format!("{}:{number}: {layer} may not use the crate {name}", path.display()));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn unsafe_stands_only_below_sys() {
    let mut offences = Vec::new();
    for path in files(&source()) {
        if path.starts_with(source().join("sys")) {
            continue;
        }
        for (number, line) in code(&path) {
            let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
            if opens.iter().any(|text| line.contains(text)) {
                offences.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn every_file_says_what_it_decides() {
    let silent: Vec<_> = files(&source())
        .into_iter()
        .filter(|path| !fs::read_to_string(path).expect("read a source file").starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no //! at the top of {}", silent.join(", "));
}
