//! What `oci::features` claims, put before the parts of the engine that would have to carry it out: a test per list.

use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde_json::{Value, json};

use super::plan::init;
use super::seccomp;
use crate::oci::{self, features, mount_options::MountOptions};

fn claimed(pointer: &str) -> Vec<String> {
    let document = features::document(|_| true);
    let list = document.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no {pointer}"));
    list.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

/// The shortest spec that validation accepts, with this put into it.
fn spec(pointer: &str, value: Value) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.3.0", "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"},
        "root": {"path": "rootfs"}, "mounts": [], "hooks": {},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]},
    });
    let (at, key) = pointer.rsplit_once('/').expect("a pointer");
    spec.pointer_mut(at).expect("a place")[key] = value;
    oci::spec::parse(spec.to_string().as_bytes()).unwrap_or_else(|error| panic!("{pointer}: {error}")).0
}

#[track_caller]
fn accepted(pointer: &str, value: Value) {
    let spec = spec(pointer, value);
    oci::validate::check(&spec).expect("valid");
}

fn compiles(profile: Value) -> seccomp::Filter {
    let text = profile.to_string();
    let profile: LinuxSeccomp =
        serde_json::from_value(profile).unwrap_or_else(|error| panic!("{text}: {error}"));
    seccomp::compile(&profile).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_mount_option_that_is_claimed_is_accepted_and_is_no_option_of_the_filesystem() {
    for option in claimed("/mountOptions") {
        assert!(MountOptions::parse(&[&option]).data.is_empty(), "{option}");
        let mut mount =
            json!({"destination": "/x", "type": "bind", "source": "/y", "options": ["bind", option]});
        match option.as_str() {
            "idmap" | "ridmap" => {
                let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
                mount["uidMappings"] = map.clone();
                mount["gidMappings"] = map;
            }
            "tmpcopyup" => mount = json!({"destination": "/x", "type": "tmpfs", "options": [option]}),
            _ => {}
        }
        accepted("/mounts", json!([mount]));
    }
}

#[test]
fn every_namespace_that_is_claimed_is_accepted_under_its_name() {
    for name in claimed("/linux/namespaces") {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let (mut namespaces, mut linux) = (vec![json!({"type": name})], json!({}));
        if name != "mount" {
            namespaces.push(json!({"type": "mount"}));
        }
        if name == "user" {
            linux = json!({"uidMappings": ids, "gidMappings": ids});
        }
        linux["namespaces"] = json!(namespaces);
        let spec = spec("/linux", linux);
        oci::validate::check(&spec).unwrap_or_else(|error| panic!("{name}: {error}"));
        let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).expect("namespaces");
        assert_eq!(init::name(all[0].typ()), name);
    }
}

#[test]
fn every_hook_that_is_claimed_is_accepted() {
    for moment in claimed("/hooks") {
        accepted("/hooks", json!({ moment: [{"path": "/bin/true"}] }));
    }
}

#[test]
fn every_capability_that_is_claimed_has_a_number() {
    for (number, name) in claimed("/linux/capabilities").iter().enumerate() {
        assert_eq!(oci::capability::name(number as u8), Some(name.as_str()));
        accepted("/process/capabilities", json!({"bounding": [name]}));
    }
}

#[test]
fn every_seccomp_action_that_is_claimed_compiles_to_an_answer_of_its_own() {
    let of = |action: &str| {
        let rule = json!({"names": ["getpid"], "action": action});
        let profile =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerPath": "/run/agent"});
        compiles(profile).program
    };
    let allowed = of("SCMP_ACT_ALLOW");
    for action in claimed("/linux/seccomp/actions").iter().filter(|action| *action != "SCMP_ACT_ALLOW") {
        assert!(of(action) != allowed, "{action} changes nothing");
    }
}

#[test]
fn every_seccomp_operator_architecture_and_flag_that_is_claimed_compiles() {
    let with = |rule: Value, more: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        profile.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        compiles(profile)
    };
    let rule = |op: &str| {
        let arg = json!({"index": 0, "value": 7, "valueTwo": 3, "op": op});
        json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg]})
    };
    for operator in claimed("/linux/seccomp/operators") {
        with(rule(&operator), json!({}));
    }
    for arch in claimed("/linux/seccomp/archs") {
        with(rule("SCMP_CMP_EQ"), json!({"architectures": [arch]}));
    }
    for flag in claimed("/linux/seccomp/supportedFlags") {
        with(rule("SCMP_CMP_EQ"), json!({"flags": [flag]}));
    }
}

#[test]
fn every_memory_policy_that_is_claimed_is_accepted() {
    for mode in claimed("/linux/memoryPolicy/modes") {
        let nodes = if matches!(mode.as_str(), "MPOL_DEFAULT" | "MPOL_LOCAL") { "" } else { "0" };
        accepted("/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes}));
    }
    for flag in claimed("/linux/memoryPolicy/flags") {
        accepted("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}));
    }
}

#[test]
fn every_switch_that_is_on_is_accepted_and_what_is_off_is_refused() {
    let document = features::document(|_| true);
    let on = |pointer: &str| document.pointer(pointer).and_then(Value::as_bool).expect("a switch");
    let idmap = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mount = json!({"destination": "/x", "type": "bind", "source": "/y", "options": ["bind"],
        "uidMappings": idmap, "gidMappings": idmap});
    for (switch, pointer, value) in [
        ("/linux/mountExtensions/idmap/enabled", "/mounts", json!([mount])),
        ("/linux/netDevices/enabled", "/linux/netDevices", json!({"eth7": {}})),
        ("/linux/intelRdt/enabled", "/linux/intelRdt", json!({"closID": "gold"})),
    ] {
        let spec = spec(pointer, value);
        let verdict = oci::validate::check(&spec).is_ok();
        assert_eq!(verdict, on(switch), "{switch}");
    }
}
