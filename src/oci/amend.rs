//! What is put right in a document that the strict types refuse, so that what runc accepts is accepted.
//!
//! COMPAT: Go ignores null, other platforms' sections and a missing `user`; runc drops unknown capabilities with
//! a warning. oci-spec refuses all of these. Anything else stays as it is, and is refused with its path.

use oci_spec::runtime::Capability;
use serde_json::{Map, Value};

use super::idmap_option;

/// The `config.json` document.
pub fn spec(document: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(document);
    let Some(spec) = document.as_object_mut() else { return };
    for foreign in ["solaris", "windows", "vm", "zos", "uid_mappings", "gid_mappings"] {
        spec.remove(foreign);
    }
    idmap_option::spread(spec);
    if let Some(value) = spec.get_mut("process") {
        process_fields(value, "process.", warnings);
    }
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        if let Some(value) = linux.get_mut("resources") {
            resource_fields(value);
        }
        if linux.get("seccomp").is_some_and(is_no_profile) {
            linux.remove("seccomp");
        }
    }
}

/// A `process` on its own, as an exec request carries it.
pub fn process(document: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(document);
    process_fields(document, "", warnings);
}

/// A `linux.resources` on its own, as an update request carries it.
pub fn resources(document: &mut Value, _warnings: &mut Vec<String>) {
    drop_nulls(document);
    resource_fields(document);
}

/// COMPAT: a profile with neither default action nor rules means no seccomp to runc.
fn is_no_profile(seccomp: &Value) -> bool {
    let empty = |name: &str| match seccomp.get(name) {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    empty("defaultAction") && empty("syscalls")
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn drop_empty_strings(map: &mut Map<String, Value>) {
    map.retain(|_, member| member.as_str() != Some(""));
}

fn process_fields(value: &mut Value, at: &str, warnings: &mut Vec<String>) {
    let Some(process) = value.as_object_mut() else { return };
    process.entry("user").or_insert_with(|| Value::Object(Map::new()));
    // An empty cwd is refused by `validate`, which knows the remedy.
    process.entry("cwd").or_insert_with(|| Value::String(String::new()));
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        drop_unknown_capabilities(sets, at, warnings);
    }
    if let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        drop_empty_strings(affinity);
    }
    if let Some(Value::Array(flags)) = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")) {
        flags.iter_mut().for_each(respell_scheduler_flag);
    }
}

/// oci-spec spells two of the spec's flags in its own way.
fn respell_scheduler_flag(flag: &mut Value) {
    match flag.as_str() {
        Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
        Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
        _ => {}
    }
}

fn drop_unknown_capabilities(sets: &mut Map<String, Value>, at: &str, warnings: &mut Vec<String>) {
    let mut unknown = Vec::new();
    for (set, value) in sets.iter_mut() {
        let Some(names) = value.as_array_mut() else { continue };
        names.retain(|name| {
            let Some(text) = name.as_str() else { return true };
            if serde_json::from_value::<Capability>(name.clone()).is_ok() {
                return true;
            }
            unknown.push((text.to_owned(), set.clone()));
            false
        });
    }
    unknown.sort();
    for named in unknown.chunk_by(|a, b| a.0 == b.0) {
        let sets: Vec<_> = named.iter().map(|(_, set)| set.as_str()).collect();
        let name = &named[0].0;
        warnings
            .push(format!("{at}capabilities: ignored the unknown capability {name:?} ({})", sets.join(", ")));
    }
}

fn resource_fields(value: &mut Value) {
    let Some(resources) = value.as_object_mut() else { return };
    let rules = resources.get_mut("devices").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        if rule.get("type").and_then(Value::as_str) == Some("") {
            rule.remove("type");
        }
    }
    // COMPAT: the limit is optional since spec 1.3, and what is not given is not changed. oci-spec would make 0 of it.
    if resources.get("pids").and_then(Value::as_object).is_some_and(|pids| !pids.contains_key("limit")) {
        resources.remove("pids");
    }
    let pages = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut);
    for limit in pages.into_iter().flatten().filter_map(|page| page.get_mut("limit")) {
        // The spec's number is unsigned, oci-spec's is not; both ends mean "no limit".
        if limit.as_u64().is_some_and(|bytes| i64::try_from(bytes).is_err()) {
            *limit = i64::MAX.into();
        }
    }
}
