//! Every encoding, every rank, and what is said about mistakes.

use super::*;

fn any<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: name.into(), value: message.write_to_bytes().unwrap(), ..Default::default() }
}

fn body(text: &str) -> Any {
    let options = RuntimeOptions { config_body: text.as_bytes().to_vec(), ..Default::default() };
    any("runtimeoptions.v1.Options", &options)
}

/// Host file, request and annotations, without the machine's own host file.
fn layers(host: &str, request: &[Any], annotations: &[(&str, &str)]) -> Result<Resolved, OptionsError> {
    let annotations = annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut resolved = Resolved::default();
    resolved.toml(host.as_bytes(), "host.toml")?;
    request.iter().try_for_each(|a| resolved.any(a))?;
    resolved.annotations(&annotations)?;
    Ok(resolved)
}

#[test]
fn no_options_are_the_defaults() {
    for request in [vec![], vec![Any::default()], vec![body("")]] {
        assert_eq!(layers("", &request, &[]).unwrap(), Resolved::default());
    }
    let defaults = Options::default();
    assert_eq!((defaults.stop_signal, defaults.stop_timeout), (libc::SIGTERM, Duration::from_secs(10)));
    assert!(!defaults.escalate_kill);
}

#[test]
fn runc_options_are_taken_over() {
    let message = RuncOptions {
        no_pivot_root: true,
        no_new_keyring: true,
        systemd_cgroup: true,
        shim_cgroup: "/shims".into(),
        io_uid: 7,
        io_gid: 8,
        root: "/run/r".into(),
        criu_image_path: "/i".into(),
        criu_work_path: "/w".into(),
        ..Default::default()
    };
    let expected = Options {
        no_pivot_root: true,
        no_new_keyring: true,
        systemd_cgroup: true,
        shim_cgroup: "/shims".into(),
        io_uid: 7,
        io_gid: 8,
        root: "/run/r".into(),
        criu_image_path: "/i".into(),
        criu_work_path: "/w".into(),
        ..Default::default()
    };
    for name in ["containerd.runc.v1.Options", "type.googleapis.com/containerd.runc.v1.Options"] {
        assert_eq!(layers("", &[any(name, &message)], &[]).unwrap().options, expected);
    }
}

#[test]
fn toml_text_carries_the_same_keys() {
    let text =
        "SystemdCgroup = true\nIoUid = 7\nShimCgroup = \"/s\"\nStopTimeout = 3\nStopSignal = \"SIGINT\"\n";
    let options = layers("", &[body(text)], &[]).unwrap().options;
    assert!(options.systemd_cgroup);
    assert_eq!((options.io_uid, options.shim_cgroup.as_str()), (7, "/s"));
    assert_eq!((options.stop_signal, options.stop_timeout), (libc::SIGINT, Duration::from_secs(3)));
}

#[test]
fn a_config_path_wins_over_the_text() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("o.toml");
    std::fs::write(&path, "IoGid = 5").unwrap();
    let options = RuntimeOptions {
        config_path: path.display().to_string(),
        config_body: b"IoGid = 6".to_vec(),
        ..Default::default()
    };
    assert_eq!(layers("", &[any("runtimeoptions.v1.Options", &options)], &[]).unwrap().options.io_gid, 5);
    let missing = RuntimeOptions { config_path: "/no/such.toml".into(), ..Default::default() };
    let error = layers("", &[any("runtimeoptions.v1.Options", &missing)], &[]).unwrap_err().to_string();
    assert!(error.contains("/no/such.toml"), "{error}");
}

#[test]
fn annotation_outranks_request_outranks_host_outranks_default() {
    let annotation = ("io.containerd.myshim.stop-timeout", "4s");
    let request = [body("StopTimeout = \"3s\"")];
    let timeout = |r: Result<Resolved, OptionsError>| r.unwrap().options.stop_timeout.as_secs();
    assert_eq!(timeout(layers("StopTimeout = 2", &request, &[annotation])), 4);
    assert_eq!(timeout(layers("StopTimeout = 2", &request, &[])), 3);
    assert_eq!(timeout(layers("StopTimeout = 2", &[], &[])), 2);
    assert_eq!(timeout(layers("", &[], &[])), 10);
}

#[test]
fn a_request_may_switch_off_what_the_host_switched_on() {
    assert!(
        !layers("SystemdCgroup = true", &[body("SystemdCgroup = false")], &[])
            .unwrap()
            .options
            .systemd_cgroup
    );
}

#[test]
fn annotations_set_how_a_container_stops() {
    let annotations =
        [("io.containerd.myshim.stop-signal", "RTMIN+3"), ("io.containerd.myshim.kill-escalation", "true")];
    let options = layers("", &[], &annotations).unwrap().options;
    assert_eq!((options.stop_signal, options.escalate_kill), (libc::SIGRTMIN() + 3, true));
}

#[test]
fn an_unknown_key_is_a_warning_with_key_and_place() {
    let resolved = layers("Nope = 1", &[body("BinaryName = \"crun\"")], &[]).unwrap();
    assert_eq!(resolved.warnings.len(), 2);
    assert!(resolved.warnings[0].contains("Nope in host.toml"), "{:?}", resolved.warnings);
    assert!(resolved.warnings[1].contains("crun"), "{:?}", resolved.warnings);
}

#[test]
fn options_of_an_unknown_type_are_a_warning() {
    let resolved = layers("", &[any("some.Options", &RuncOptions::new())], &[]).unwrap();
    assert!(resolved.warnings[0].contains("some.Options"));
}

#[test]
fn a_bad_value_is_an_error_that_names_key_and_place() {
    for (host, annotation, needles) in [
        ("SystemdCgroup = 3", "1s", ["SystemdCgroup", "host.toml"]),
        ("IoUid = -1", "1s", ["IoUid", "host.toml"]),
        ("StopSignal = \"NOPE\"", "1s", ["StopSignal", "NOPE"]),
        ("", "soon", ["StopTimeout", "io.containerd.myshim.stop-timeout"]),
        ("not toml", "1s", ["host.toml", "TOML"]),
    ] {
        let error =
            layers(host, &[], &[("io.containerd.myshim.stop-timeout", annotation)]).unwrap_err().to_string();
        assert!(needles.iter().all(|n| error.contains(n)), "{error}");
    }
}

/// What README's tables name, `-help` explains: it is the only manual page.
#[test]
fn every_option_and_annotation_of_readme_is_in_the_help_text() {
    let (readme, help) = (include_str!("../../README.md"), include_str!("help.txt"));
    let section = readme.split("\n## Options\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows =
        section.expect("README has a section on options").lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        let first = row.trim_start_matches('|').split('|').next().unwrap_or_default();
        for name in first.split('`').skip(1).step_by(2) {
            assert!(help.contains(name), "{name} is not in the help text");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn what_annotations_change_is_told_to_clients() {
    let document = crate::oci::features::document(|_| true);
    let told = document["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    let is_told = |name: &str| told.iter().any(|prefix| name.starts_with(prefix.as_str().unwrap()));
    assert!(ANNOTATIONS.iter().all(|(name, _)| is_told(name)));
    assert!(crate::shim::start::GROUP_ANNOTATIONS.iter().all(|name| is_told(name)));
}
