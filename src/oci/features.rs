//! What this runtime can do, as the document that CRI and clients read before they ask for it.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/v1.3.0/features.md>. Generated from the tables that the
//! parsers use, so that it cannot claim what is not there; what the engine decides is the table below.

use serde_json::{Value, json};

use super::{capability, mount_options};

/// What the engine carries out. One line to change when one is added.
const SYSTEMD: bool = true;
const SYSTEMD_USER: bool = true;
const RDMA: bool = true;
const APPARMOR: bool = true;
const SELINUX: bool = true;
const INTEL_RDT: bool = true;
const NET_DEVICES: bool = true;
const MEMORY_POLICY: bool = true;
const IDMAP: bool = true;

pub const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
pub const HOOKS: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const SECCOMP_OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const SECCOMP_ARCHS: &[&str] =
    &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
/// With the bits by which to ask the kernel for it.
const SECCOMP_FLAGS: &[(&str, u64)] = &[
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG),
    // KERNEL: refused, if known, where there is no listener to wait for.
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ),
];
const MEMORY_POLICY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_POLICY_FLAGS: &[&str] =
    &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Annotations that change what the runtime does: clients strip them from untrusted specs. One that ends in a dot is a prefix.
const UNSAFE_ANNOTATIONS: &[&str] = &[
    "io.containerd.myshim.",
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
    "org.systemd.property.",
];

/// The features document of a host whose kernel takes the seccomp flags that `takes` says it does. All else in it is what
/// this runtime recognises, on whatever host, as the spec has it.
pub fn document(takes: impl Fn(u64) -> bool) -> Value {
    let options: Vec<_> = mount_options::known().collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": HOOKS,
        "mountOptions": options,
        "linux": linux(takes),
        "annotations": {
            "io.containerd.myshim.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

fn linux(takes: impl Fn(u64) -> bool) -> Value {
    let flags = |wanted: &dyn Fn(u64) -> bool| -> Vec<&str> {
        SECCOMP_FLAGS.iter().filter(|(_, bits)| wanted(*bits)).map(|(name, _)| *name).collect()
    };
    let mut linux = json!({
        "namespaces": NAMESPACES,
        "capabilities": capability::names().collect::<Vec<_>>(),
        "cgroup": { "v1": true, "v2": true, "systemd": SYSTEMD, "systemdUser": SYSTEMD_USER, "rdma": RDMA },
        "seccomp": {
            "enabled": true,
            "actions": SECCOMP_ACTIONS,
            "operators": SECCOMP_OPERATORS,
            "archs": SECCOMP_ARCHS,
            "knownFlags": flags(&|_| true),
            "supportedFlags": flags(&takes),
        },
        "apparmor": { "enabled": APPARMOR },
        "selinux": { "enabled": SELINUX },
        "intelRdt": { "enabled": INTEL_RDT, "schemata": INTEL_RDT, "monitoring": INTEL_RDT },
        "mountExtensions": { "idmap": { "enabled": IDMAP } },
        "netDevices": { "enabled": NET_DEVICES },
    });
    // An empty list would say "known, none supported"; the spec has no other word for "unknown" than absence.
    if MEMORY_POLICY {
        linux["memoryPolicy"] = json!({ "modes": MEMORY_POLICY_MODES, "flags": MEMORY_POLICY_FLAGS });
    }
    linux
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Features, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};

    #[test]
    fn what_cri_asks_for_is_there() {
        let document = document(|_| true);
        let options = document["mountOptions"].as_array().expect("a list");
        for option in ["rro", "idmap", "ridmap"] {
            assert!(options.contains(&json!(option)), "{option}");
        }
        assert_eq!(document["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(document["linux"]["namespaces"].as_array().expect("a list").contains(&json!("user")));
        assert_eq!(document["linux"]["capabilities"].as_array().map(Vec::len), Some(41));
    }

    #[test]
    fn seccomp_flags_that_the_kernel_refuses_are_known_and_not_supported() {
        let seccomp = &document(|bits| bits == libc::SECCOMP_FILTER_FLAG_LOG)["linux"]["seccomp"];
        assert_eq!(seccomp["supportedFlags"], json!(["SECCOMP_FILTER_FLAG_LOG"]));
        assert_eq!(seccomp["knownFlags"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn the_document_is_one_of_the_specs_type() {
        let features: Features = serde_json::from_value(document(|_| true)).expect("the spec's type");
        assert_eq!(features.oci_version_max(), "1.3.0");
    }

    #[test]
    fn every_seccomp_word_is_one_that_the_parser_takes() {
        for action in SECCOMP_ACTIONS {
            serde_json::from_value::<LinuxSeccompAction>(json!(action)).expect(action);
        }
        for operator in SECCOMP_OPERATORS {
            serde_json::from_value::<LinuxSeccompOperator>(json!(operator)).expect(operator);
        }
        for (flag, _) in SECCOMP_FLAGS {
            serde_json::from_value::<LinuxSeccompFilterFlag>(json!(flag)).expect(flag);
        }
        for arch in SECCOMP_ARCHS {
            serde_json::from_value::<oci_spec::runtime::Arch>(json!(arch)).expect(arch);
        }
        for namespace in NAMESPACES {
            serde_json::from_value::<oci_spec::runtime::LinuxNamespaceType>(json!(namespace))
                .expect(namespace);
        }
    }
}
