//! One entry per fuzz target: any bytes, and what must hold of them. libFuzzer drives them (`make fuzz`, tests/fuzz);
//! the unit test below feeds them what is in `tests/fuzz/corpus`, where every input that ever broke something stays.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxSeccomp, Spec};

use crate::engine::plan::{CgroupView, Fd, Given, HostMounts, Plan, SecurityModules, init};
use crate::engine::{child, seccomp};
use crate::oci::mount_options::MountOptions;
use crate::shim::args::Args;
use crate::shim::{bootstrap, options, proto::Any};
use crate::{oci, shim};

/// What takes any bytes, and panics if something does not hold of them.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("config", config),
    ("mount_options", mount_options),
    ("seccomp", profile),
    ("frames", shim::service::fuzz::frames),
    ("bootstrap", bootstrap_input),
    ("report", report),
    ("states", shim::inflight::fuzz::states),
];

/// config.json to a plan: refused in words, or built and printed.
pub fn config(json: &[u8]) {
    let Ok((spec, _)) = oci::spec::parse(json) else { return };
    if let Err(e) = oci::validate::check(&spec) {
        assert!(!e.to_string().is_empty());
        return;
    }
    match plan(&spec, json.len().is_multiple_of(2)) {
        Ok(plan) => assert!(plan.to_string().lines().count() >= plan.steps.len()),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

fn fd() -> Fd {
    Arc::new(File::open("/dev/null").expect("open /dev/null").into())
}

fn plan(spec: &Spec, on_v1: bool) -> Result<Plan, crate::engine::Error> {
    let nothing = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&nothing);
    let filter = linux.seccomp().as_ref().and_then(|profile| seccomp::compile(profile).ok());
    let given = Given {
        proc: fd(),
        filter: filter.map(Arc::new),
        gate: true,
        late_birth: false,
        pinned: false,
        setup_within: std::time::Duration::from_secs(60),
        modules: SecurityModules { apparmor: true, selinux: true },
        personality: None,
        memory_policy: None,
    };
    let joined = linux
        .namespaces()
        .iter()
        .flatten()
        .filter_map(|ns| Some(init::Joined { kind: ns.typ(), path: ns.path().clone()?, fd: fd() }));
    let inputs = init::Inputs {
        id: "box".into(),
        rootfs: "/bundle/rootfs".into(),
        host: HostMounts {
            bundle: "/bundle".into(),
            cgroups: vec![CgroupView { path: "/sys/fs/cgroup/box".into(), ..CgroupView::default() }],
            detached: HashMap::new(),
            label: linux.mount_label().clone(),
        },
        given,
        stdio: [None, None, None],
        joined: joined.collect(),
        tasks: if on_v1 { vec![fd()] } else { Vec::new() },
        cgroup: (!on_v1).then(fd),
        whole: None,
        no_new_keyring: false,
        kcore: true,
        rootless: false,
    };
    init::build(spec, &inputs)
}

/// One option a line: no bit is both set and cleared, and nothing the table knows reaches the filesystem. A line with commas
/// is one word, which no table knows: the filesystem gets it as it is, as under runc.
pub fn mount_options(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let words: Vec<&str> = text.lines().collect();
    let parsed = MountOptions::parse(&words);
    for attributes in [parsed.attributes, parsed.recursive] {
        // KERNEL: a change of the access time mode sets one value of a field that is cleared as a whole.
        let both = attributes.set & attributes.clear & !libc::MOUNT_ATTR__ATIME;
        assert_eq!(both, 0, "{words:?}: {attributes:?}");
    }
    let single = !words.iter().any(|word| word.contains(','));
    for known in oci::mount_options::known().filter(|_| single) {
        assert!(!parsed.data.iter().any(|word| word == known), "{known} in {:?}", parsed.data);
    }
}

/// A profile's program answers as the profile reads, for every call number and the values that matter.
pub fn profile(json: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(json) else { return };
    let groups = profile.syscalls().as_deref().unwrap_or_default();
    let arguments: usize = groups.iter().map(|g| g.args().as_deref().unwrap_or_default().len()).sum();
    match seccomp::compile(&profile) {
        Ok(filter) if arguments <= 3 && groups.len() <= 20 => {
            assert!(!filter.program.is_empty());
            seccomp::judge::assert_like_reference(&profile, seccomp::Arch::X86_64);
        }
        Ok(filter) => assert!(filter.program.len() <= 4096),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// stdin of `start`, and the same bytes as the TOML of runtime options.
pub fn bootstrap_input(input: &[u8]) {
    let args = Args { namespace: "ns".into(), id: "box".into(), ..Args::default() };
    if let Ok(request) = bootstrap::Request::parse(input, &args, bootstrap::Environment::default()) {
        assert_eq!((request.namespace.as_str(), request.id.as_str()), ("ns", "box"));
        assert!(!bootstrap::reply(request.dialect, "unix:///s").is_empty());
    }
    // runtimeoptions.v1.Options with a config_body (field 3); lengths below 128 are one byte.
    let body = &input[..input.len().min(127)];
    let value = [&[0x1a, body.len() as u8], body].concat();
    let any = Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() };
    if let Err(e) = options::resolve(&[any], &HashMap::new()) {
        assert!(!e.to_string().is_empty());
    }
}

/// What a child sends: harmless, whatever it is.
pub fn report(record: &[u8]) {
    if let child::Message::Failed { step, call, note, .. } = child::parse(record) {
        assert!(step <= usize::from(u16::MAX) && call.len() + note.len() <= 3 * record.len());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_found_once_stays_mended() {
        for (name, target) in super::TARGETS {
            let folder =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
            let inputs =
                std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("entry").path());
            let count = inputs.map(|path| target(&std::fs::read(path).expect("an input"))).count();
            assert!(count > 0, "{name} has no inputs");
        }
    }
}
