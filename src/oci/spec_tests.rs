//! Parsing specs: what is accepted, what is warned about, what is refused and how.

use std::fs;
use std::path::PathBuf;

use super::*;

fn fixtures() -> impl Iterator<Item = (String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/specs");
    let files = fs::read_dir(folder).expect("tests/specs").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).map(|path| {
        (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("a file"))
    })
}

fn spec_with(linux: &str) -> String {
    format!(r#"{{"ociVersion":"1.0.0","root":{{"path":"rootfs"}},"linux":{linux}}}"#)
}

fn refusal<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_spec_that_containerd_wrote_parses_without_a_warning() {
    let mut seen = 0;
    for (name, json) in fixtures() {
        let warnings = if name.starts_with("exec") {
            let (process, warnings) = parse_process(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(process.args().is_some(), "{name}");
            warnings
        } else {
            let (spec, warnings) = parse(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(spec.process().is_some() && spec.root().is_some(), "{name}");
            warnings
        };
        assert_eq!(warnings, Warnings::new(), "{name}");
        seen += 1;
    }
    assert!(seen >= 13);
}

#[test]
fn a_missing_config_names_the_file_and_the_remedy() {
    let bundle = tempfile::tempdir().expect("a folder");
    let text = refusal(load(bundle.path()));
    assert!(text.contains("config.json"), "{text}");
    assert!(text.contains("the bundle must hold a config.json"), "{text}");
}

#[test]
fn the_file_is_named_when_its_content_is_wrong() {
    let bundle = tempfile::tempdir().expect("a folder");
    fs::write(bundle.path().join("config.json"), "{\"linux\": 3}").expect("written");
    let text = refusal(load(bundle.path()));
    assert!(text.starts_with(&bundle.path().display().to_string()), "{text}");
    assert!(text.contains("config.json: linux: invalid type"), "{text}");
}

#[test]
fn every_truncation_of_a_config_is_refused_as_one() {
    let (_, json) = fixtures().find(|(name, _)| name == "ctr.json").expect("ctr.json");
    let whole = json.trim_ascii_end();
    for length in 1..whole.len() {
        let text = refusal(parse(&whole[..length]));
        assert!(text.contains("the document ends in the middle"), "{length}: {text}");
    }
    assert!(refusal(parse(b"")).contains("the document is empty"));
}

#[test]
fn what_is_not_json_is_placed_by_line_and_column() {
    let text = refusal(parse(b"{\n \"ociVersion\": 1.0.0\n}"));
    assert_eq!(text, "config.json: line 2, column 19: not JSON: expected `,` or `}`");
    assert_eq!(refusal(parse(b"null")), "config.json: the top level: must be a JSON object");
}

#[test]
fn an_unknown_capability_is_dropped_with_one_warning() {
    let json = br#"{"process":{"user":{},"cwd":"/","args":["sh"],"capabilities":{
        "bounding":["CAP_CHOWN","CAP_FLY"],"permitted":["CAP_FLY"],"effective":["CAP_KILL"]}}}"#;
    let (spec, warnings) = parse(json).expect("tolerated");
    let expected = "process.capabilities: ignored the unknown capability \"CAP_FLY\" (bounding, permitted)";
    assert_eq!(warnings, [expected]);
    let capabilities = spec.process().as_ref().and_then(|p| p.capabilities().clone()).expect("capabilities");
    assert_eq!(capabilities.bounding().as_ref().map(|set| set.len()), Some(1));
    assert_eq!(capabilities.permitted().as_ref().map(|set| set.len()), Some(0));
    assert_eq!(capabilities.effective().as_ref().map(|set| set.len()), Some(1));
}

#[test]
fn unknown_fields_are_told_in_one_line_by_their_places() {
    let json = br#"{"process":{"user":{"uid":0,"gid":0,"shoe size":45},"cwd":"/","args":["sh"],"\u006dood":{"a":[1]}},
        "annotations":{"any":"name"},"mounts":[{"destination":"/a"},{"destination":"/b","colour":null}],"linux":{}}"#;
    let told = "ignored unknown fields: process.user.shoe size, process.mood, mounts[1].colour";
    assert_eq!(parse(json).expect("tolerated").1, [told]);
    // The same where the strict types refuse something else; what was null is gone by then.
    let lenient = String::from_utf8_lossy(json).replace(r#""gid":0"#, r#""gid":null"#);
    let told = "ignored unknown fields: process.mood, process.user.shoe size";
    assert_eq!(parse(lenient.as_bytes()).expect("tolerated").1, [told]);
    let process = br#"{"user":{"uid":0,"gid":0,"x":1},"cwd":"/","args":["sh"]}"#;
    assert_eq!(parse_process(process).expect("tolerated").1, ["ignored unknown fields: user.x"]);
    let many: Vec<_> = (0..20).map(|n| format!("\"f{n}\":0")).collect();
    let (_, warnings) = parse(format!("{{{}}}", many.join(",")).as_bytes()).expect("tolerated");
    assert_eq!(warnings, ["ignored unknown fields: f0, f1, f2, f3, f4, f5, f6, f7 and 12 more"]);
}

#[test]
fn another_unknown_value_is_refused_with_its_path() {
    let text = refusal(parse(spec_with(r#"{"namespaces":[{"type":"pid"},{"type":"moon"}]}"#).as_bytes()));
    assert!(text.starts_with("config.json: linux.namespaces[1].type: unknown variant `moon`"), "{text}");
    let profile = r#"{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_SHRUG"}]}}"#;
    let text = refusal(parse(spec_with(profile).as_bytes()));
    assert!(text.contains("linux.seccomp.syscalls[0].action: unknown variant `SCMP_ACT_SHRUG`"), "{text}");
}

#[test]
fn a_process_may_lack_user_capabilities_and_cwd() {
    let (spec, _) = parse(br#"{"process":{"args":["sh"]}}"#).expect("tolerated");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    assert_eq!(process.cwd(), Path::new(""));
    assert!(process.capabilities().is_none());
}

#[test]
fn null_means_absent_everywhere() {
    let json =
        br#"{"process":{"user":{"uid":null,"additionalGids":null},"cwd":"/","args":["sh"]},"mounts":null,
        "linux":{"resources":{"pids":{"limit":null},"devices":null}}}"#;
    parse(json).expect("tolerated");
}

#[test]
fn sections_of_other_platforms_are_not_looked_at() {
    parse(br#"{"windows":{"layerFolders":7},"vm":1,"linux":{}}"#).expect("tolerated");
}

#[test]
fn a_profile_without_action_and_rules_is_none() {
    let (spec, _) = parse(spec_with(r#"{"seccomp":{"syscalls":[]}}"#).as_bytes()).expect("tolerated");
    assert!(spec.linux().as_ref().expect("linux").seccomp().is_none());
    let text = refusal(parse(spec_with(r#"{"seccomp":{"architectures":[],"syscalls":[1]}}"#).as_bytes()));
    assert!(text.contains("linux.seccomp"), "{text}");
}

#[test]
fn the_deadline_scheduler_flag_is_accepted_as_the_spec_spells_it() {
    let json = br#"{"process":{"user":{},"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_DEADLINE",
        "flags":["SCHED_FLAG_DL_OVERRUN","SCHED_FLAG_RESET_ON_FORK"]}}}"#;
    parse(json).expect("accepted");
}

#[test]
fn resources_of_an_update_are_parsed() {
    let json =
        br#"{"memory":{"limit":1048576},"hugepageLimits":[{"pageSize":"2MB","limit":18446744073709551615}],
        "devices":[{"allow":false,"type":"","access":"rwm"}]}"#;
    let (resources, _) = parse_resources(json).expect("accepted");
    assert_eq!(resources.memory().as_ref().and_then(|memory| memory.limit()), Some(1_048_576));
    assert_eq!(resources.hugepage_limits().as_ref().expect("limits")[0].limit(), i64::MAX);
    assert!(
        refusal(parse_resources(br#"{"memory":{"limit":"much"}}"#)).contains("memory.limit: invalid type")
    );
    let (_, warnings) = parse_resources(br#"{"memory":{"limit":4096,"novel":1}}"#).expect("accepted");
    assert!(warnings.iter().any(|warning| warning.contains("memory.novel")), "{warnings:?}");
}

#[test]
fn deep_nesting_is_refused_and_not_a_crash() {
    let json = "[".repeat(100_000);
    assert!(refusal(parse(json.as_bytes())).contains("recursion limit"));
}

/// "limit (int64, OPTIONAL)"; "0 is a valid limit value for the pids cgroup controller from the kernel's perspective and SHOULD
/// be treated as such by runtimes." (config-linux.md, "PIDs")
#[test]
fn a_pids_limit_that_is_not_given_is_told_from_zero() {
    let limit = |pids: &str| {
        let resources = format!(r#"{{"pids":{pids}}}"#);
        let (spec, _) =
            parse(spec_with(&format!(r#"{{"resources":{resources}}}"#)).as_bytes()).expect("a spec");
        let of = |r: &LinuxResources| r.pids().as_ref().map(|pids| pids.limit());
        let created = spec.linux().as_ref().and_then(|linux| of(linux.resources().as_ref()?));
        assert_eq!(created, of(&parse_resources(resources.as_bytes()).expect("resources").0), "{pids}");
        created
    };
    assert_eq!([limit("{}"), limit(r#"{"limit":null}"#), limit("null")], [None; 3]);
    assert_eq!([limit(r#"{"limit":0}"#), limit(r#"{"limit":-1}"#)], [Some(0), Some(-1)]);
}
