//! `-info` beside `runc features`: what runc claims is claimed here too, or listed with the reason.

use crate::needs;
use crate::needs_containers;
use crate::support::older_kernel;
use crate::support::subject::{Subject, ours, programs};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message;
use serde_json::Value;
use std::process::{Command, Stdio};

/// Claims of runc that are not made here: the place in the document, the value, and why.
const NOT_CLAIMED: &[(&str, &str, &str)] = &[
    ("/mountOptions", "acl", "an option of the filesystem: handed over to it as it is, like any other word"),
    ("/mountOptions", "noacl", "as acl"),
    ("/linux/seccomp/archs", "SCMP_ARCH_LOONGARCH64", "this program runs on x86_64 and aarch64"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPS", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPS64", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPS64N32", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPSEL", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPSEL64", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_MIPSEL64N32", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_PPC", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_PPC64", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_PPC64LE", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_RISCV64", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_S390", "as above"),
    ("/linux/seccomp/archs", "SCMP_ARCH_S390X", "as above"),
];

/// Every single claim of a features document: the place of a list and a word in it, or of a switch that is on.
fn claims(place: &str, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| claims(&format!("{place}/{key}"), value, all))
        }
        Value::Array(list) => {
            all.extend(list.iter().map(|word| (place.to_owned(), word.as_str().expect("a word").to_owned())))
        }
        Value::Bool(true) => all.push((place.to_owned(), "true".into())),
        _ => {}
    }
}

fn all_claims(document: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    claims("", document, &mut all);
    all.retain(|(place, _)| !place.starts_with("/annotations") && !place.starts_with("/potentiallyUnsafe"));
    all
}

fn info(stdin: Stdio) -> RuntimeInfo {
    let output =
        Command::new(Subject::Ours.binary()).arg("-info").stdin(stdin).output().expect("start the shim");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    RuntimeInfo::parse_from_bytes(&output.stdout).expect("a RuntimeInfo")
}

fn ours_document() -> Value {
    serde_json::from_slice(&info(Stdio::null()).features.value).expect("JSON")
}

/// "A runtime MAY provide a JSON structure about its implemented features to runtime callers." (features.md, "Features
/// Structure")
#[test]
fn info_carries_the_features_document_under_the_name_that_containerd_looks_for() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let info = info(Stdio::null());
    assert_eq!(info.name, "io.containerd.myshim.v1");
    assert_eq!(info.features.type_url, "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
}

#[test]
fn everything_that_runc_claims_is_claimed_or_listed_with_a_reason() {
    needs_containers!();
    needs!(ours(), "runc is the judge");
    let output = Command::new(programs().join("runc")).arg("features").output().expect("start runc");
    assert!(output.status.success(), "{output:?}");
    let theirs: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ours = all_claims(&ours_document());
    let listed =
        |(place, word): &(String, String)| NOT_CLAIMED.iter().any(|(p, w, _)| p == place && w == word);
    let missing: Vec<_> =
        all_claims(&theirs).into_iter().filter(|claim| !ours.contains(claim) && !listed(claim)).collect();
    assert!(missing.is_empty(), "runc claims these, ours does not: {missing:?}");
    let outdated: Vec<_> = NOT_CLAIMED
        .iter()
        .filter(|(place, word, _)| ours.contains(&((*place).to_owned(), (*word).to_owned())))
        .collect();
    assert!(outdated.is_empty(), "claimed after all: {outdated:?}");
}

/// "supportedFlags: The recognized and supported names of the seccomp flags. This list may be a subset of knownFlags due to
/// some flags not supported by the current kernel and/or libseccomp." (features-linux.md, "Seccomp")
#[test]
fn seccomp_flags_are_supported_as_far_as_the_kernel_is() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let flags = |document: &Value, list: &str| -> Vec<String> {
        let list = document["linux"]["seccomp"][list].as_array().expect("a list");
        list.iter()
            .map(|flag| flag.as_str().expect("a word").trim_start_matches("SECCOMP_FILTER_FLAG_").into())
            .collect()
    };
    let all = ["TSYNC", "SPEC_ALLOW", "LOG", "WAIT_KILLABLE_RECV"];
    let document = ours_document();
    assert_eq!(flags(&document, "knownFlags"), all);
    // Linux 5.12 has the first three.
    assert!(flags(&document, "supportedFlags").iter().take(3).eq(&all[..3]), "{document}");
    let older = older_kernel::without_wait_killable_recv(ours_document);
    assert_eq!(flags(&older, "knownFlags"), all);
    assert_eq!(flags(&older, "supportedFlags"), all[..3]);
}

/// CRI decides by these about user namespaces and recursive read-only mounts.
#[test]
fn what_cri_looks_up_is_there() {
    needs_containers!();
    needs!(ours(), "about this shim");
    let document = ours_document();
    let has = |place: &str, word: &str| {
        document
            .pointer(place)
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|item| item == word))
    };
    assert!(has("/mountOptions", "rro"));
    assert!(has("/linux/namespaces", "user"));
    assert!(document.pointer("/linux/mountExtensions/idmap/enabled").is_some_and(Value::is_boolean));
}
