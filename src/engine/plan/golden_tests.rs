//! Golden plans: what becomes of the specs in tests/specs, compared line by line with the `.plan` file beside each.
//!
//! `UPDATE_GOLDEN=1` rewrites the files; the change of behaviour is then a readable diff in review. What a host would
//! contribute is fixed here. `NAME.json` is a config.json, `exec-NAME.json` the process of an exec; the plans are for
//! cgroup v2, `NAME.v1.plan` is the same on v1.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Mount, Process, Spec};

use super::init::Joined;
use super::{CgroupView, Fd, Given, HostMounts, Plan, SecurityModules, Step, exec, init};
use crate::engine::detached::Opener;
use crate::engine::inputs::personality;
use crate::engine::seccomp;
use crate::oci;
use crate::oci::mount_options::MountOptions;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs")
}

/// Any descriptor: plans only carry them.
fn fd() -> Fd {
    Arc::new(File::open("/dev/null").expect("open /dev/null").into())
}

fn given(filter: bool) -> Given {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
    let filter =
        filter.then(|| seccomp::compile(&serde_json::from_str(profile).expect("JSON")).expect("a filter"));
    Given {
        late_birth: false,
        pinned: false,
        setup_within: std::time::Duration::from_secs(60),
        proc: fd(),
        filter: filter.map(Arc::new),
        gate: true,
        modules: SecurityModules { apparmor: true, selinux: true },
        personality: None,
        memory_policy: None,
    }
}

/// Two hierarchies, one of them of two controllers, as every host with v1 has them.
fn v1() -> Vec<CgroupView> {
    let view = |name: &str, links: &[&str]| CgroupView {
        name: name.into(),
        path: format!("/sys/fs/cgroup/{name}/box").into(),
        links: links.iter().map(ToString::to_string).collect(),
    };
    vec![view("cpu,cpuacct", &["cpu", "cpuacct"]), view("memory", &[])]
}

/// What the shim would open, by the mounts' indices.
fn detached(spec: &Spec, opener: &Opener<'_>) -> HashMap<usize, Fd> {
    let takes = |mount: &Mount| {
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        opener.takes(mount, &options)
    };
    let mounts = spec.mounts().iter().flatten().enumerate();
    mounts.filter(|(_, mount)| takes(mount)).map(|(index, _)| (index, fd())).collect()
}

fn of_init(spec: &Spec, on_v1: bool) -> Plan {
    let linux = spec.linux().as_ref().expect("linux");
    let by_path = linux.namespaces().iter().flatten().filter_map(|ns| Some((ns.typ(), ns.path().clone()?)));
    let unified = CgroupView { path: "/sys/fs/cgroup/box".into(), ..CgroupView::default() };
    let joined: Vec<_> = by_path.map(|(kind, path)| Joined { kind, path, fd: fd() }).collect();
    let inputs = init::Inputs {
        id: "box".into(),
        rootfs: "/bundle/rootfs".into(),
        host: HostMounts {
            bundle: "/bundle".into(),
            cgroups: if on_v1 { v1() } else { vec![unified] },
            detached: detached(spec, &Opener::new(linux, &joined)),
            label: linux.mount_label().clone(),
        },
        given: Given {
            personality: personality(linux),
            memory_policy: linux.memory_policy().clone(),
            ..given(linux.seccomp().is_some())
        },
        stdio: [None, None, None],
        joined,
        tasks: if on_v1 { vec![fd()] } else { Vec::new() },
        cgroup: (!on_v1).then(fd),
        whole: None,
        no_new_keyring: false,
        rootless: false,
        kcore: true,
    };
    init::build(spec, &inputs).expect("a plan")
}

fn of_exec(process: &Process) -> Plan {
    let inputs = exec::Inputs {
        init: fd(),
        kinds: libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS,
        pidns: true,
        given: Given { gate: process.terminal().unwrap_or(false), ..given(false) },
        stdio: [None, None, None],
        tasks: Vec::new(),
        cgroup: Some(fd()),
        keyring: Some("_ses.box".into()),
    };
    exec::build(process, &inputs).expect("a plan")
}

/// The plan's lines, and what its last step hands to the program. How long a filter is does not belong here.
fn print(plan: &Plan) -> String {
    let mut text = String::new();
    for line in plan.to_string().lines() {
        let line = if line.starts_with("seccomp filter of") { "seccomp filter" } else { line };
        text += &format!("{line}\n");
    }
    if let Some(Step::Execve { argv, envp, .. }) = plan.steps.last() {
        for (name, strings) in [("argument", argv), ("environment", envp)] {
            for string in strings.iter() {
                text += &format!("  {name} {string:?}\n");
            }
        }
    }
    text
}

/// Lines that only one side has, with the line before them for the place.
fn difference(golden: &str, now: &str) -> String {
    let (golden, now): (Vec<_>, Vec<_>) = (golden.lines().collect(), now.lines().collect());
    let same = golden.iter().zip(&now).take_while(|(a, b)| a == b).count();
    let tail = golden.iter().rev().zip(now.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = tail.min(golden.len() - same).min(now.len() - same);
    let place = same.checked_sub(1).map_or("the beginning", |at| now[at]);
    let mut text = format!("  after: {place}\n");
    golden[same..golden.len() - tail].iter().for_each(|line| text += &format!("- {line}\n"));
    now[same..now.len() - tail].iter().for_each(|line| text += &format!("+ {line}\n"));
    text
}

/// What differs from the golden file, or nothing; rewrites it if asked to.
fn compare(path: &Path, now: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, now).expect("write the golden plan");
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (golden != now).then(|| format!("{name}\n{}", difference(&golden, now)))
}

#[test]
fn every_spec_has_the_plan_beside_it() {
    let mut differences = String::new();
    for entry in fs::read_dir(folder()).expect("tests/specs") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let json = fs::read(&path).expect("read a spec");
        let is_exec = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("exec-"));
        let plan = if is_exec {
            of_exec(&oci::spec::parse_process(&json).expect("a process").0)
        } else {
            of_init(&oci::spec::parse(&json).expect("a spec").0, false)
        };
        differences.extend(compare(&path.with_extension("plan"), &print(&plan)));
    }
    assert!(differences.is_empty(), "plans changed (UPDATE_GOLDEN=1 takes the new ones):\n{differences}");
}

#[test]
fn on_cgroup_v1_the_plan_attaches_itself_and_mounts_every_hierarchy() {
    for name in ["ctr", "docker", "odd"] {
        let json = fs::read(folder().join(format!("{name}.json"))).expect("read a spec");
        let plan = of_init(&oci::spec::parse(&json).expect("a spec").0, true);
        let difference = compare(&folder().join(format!("{name}.v1.plan")), &print(&plan));
        assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
}

#[test]
fn every_golden_plan_belongs_to_a_spec() {
    for entry in fs::read_dir(folder()).expect("tests/specs") {
        let name = entry.expect("entry").file_name().into_string().expect("text");
        let stem = name.split('.').next().expect("a name");
        assert!(folder().join(format!("{stem}.json")).exists(), "{name} is nobody's");
    }
}

#[test]
fn the_difference_shows_the_lines_and_their_place() {
    assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "  after: a\n- b\n+ x\n+ y\n");
    assert_eq!(difference("", "a\n"), "  after: the beginning\n+ a\n");
}
