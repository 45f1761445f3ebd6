//! AppArmor profiles and SELinux labels, of init and of exec'd processes. AppArmor is enforced in the guest.

use crate::support::run::exec_output;
use crate::support::shim::{Host, Shim};
use crate::support::subject::{ours, unique};
use crate::{needs, needs_containers};
use myshim::sys::tree::fgetxattr;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Why no profile can be loaded here, if so.
fn obstacle() -> Option<&'static str> {
    if !apparmor() {
        return Some("this kernel has no AppArmor");
    }
    let parser = Command::new("apparmor_parser").arg("--version").stdout(Stdio::null()).status();
    (!parser.is_ok_and(|status| status.success())).then_some("there is no apparmor_parser")
}

/// A loaded profile that allows everything but writing to files called `what`.
struct Profile(String);

impl Profile {
    fn denying(what: &str) -> Self {
        let name = unique("profile");
        let rules =
            "file, capability, network, mount, umount, pivot_root, signal, ptrace, unix, change_profile,";
        Self::parser("--replace", &format!("profile {name} {{ {rules} deny /tmp/{what} w, }}\n"));
        Self(name)
    }

    fn parser(action: &str, text: &str) {
        let mut parser = Command::new("apparmor_parser")
            .args([action, "--skip-cache", "--config-file", "/dev/null"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start apparmor_parser");
        parser.stdin.take().expect("piped").write_all(text.as_bytes()).expect("give it the profile");
        assert!(parser.wait().expect("apparmor_parser").success(), "{text}");
    }

    /// What a process under it says of itself.
    fn seen(&self) -> String {
        format!("{} (enforce)", self.0)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        Self::parser("--remove", &format!("profile {} {{ }}\n", self.0));
    }
}

/// Tells the profile, then tries both files.
const SCRIPT: &str =
    "cat /proc/self/attr/current; for f in one two; do echo x >/tmp/$f && echo wrote $f; done 2>&1; true";

fn told(shim: &Shim<'_>, profile: Option<&str>) -> String {
    exec_output(shim, SCRIPT, |process| match profile {
        Some(profile) => process["apparmorProfile"] = json!(profile),
        None => drop(process.as_object_mut().expect("an object").remove("apparmorProfile")),
    })
}

/// "apparmorProfile: specifies the name of the AppArmor profile for the process." (config.md, "Linux Process") It is
/// enforced on init and its children, on an exec that names none, and on an exec with another one.
#[test]
fn apparmor_profile_is_enforced_on_init_and_execs() {
    needs_containers!();
    let obstacle = obstacle();
    needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    for no_new_privileges in [true, false] {
        let (one, two) = (Profile::denying("one"), Profile::denying("two"));
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set("/process/apparmorProfile", json!(one.0));
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let shim = host.start(bundle);
        let init = shim.run();
        let label = fs::read_to_string(format!("/proc/{init}/attr/current")).expect("init lives");
        assert_eq!(label.trim(), one.seen());
        let inherited = told(&shim, None);
        assert!(inherited.starts_with(&one.seen()), "{inherited}");
        assert!(
            inherited.contains("/tmp/one: Permission denied") && inherited.ends_with("wrote two\n"),
            "{inherited}"
        );
        let own = told(&shim, Some(&two.0));
        assert!(own.starts_with(&two.seen()) && own.contains("wrote one\n"), "{own}");
        assert!(own.contains("/tmp/two: Permission denied"), "{own}");
    }
}

/// "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error and a new
/// container MUST NOT be created." (runtime.md, "Create") A profile that nobody loaded fails Create, and the text
/// says which.
#[test]
fn absent_apparmor_profile_is_refused_by_name() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/process/apparmorProfile", json!("no-such-profile"));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("refused");
    if ours() {
        assert!(failure.message.contains("no-such-profile"), "{failure:?}");
        let remedy = if apparmor() { "load it first" } else { "this kernel has no AppArmor" };
        assert!(failure.message.contains(remedy), "{failure:?}");
    }
    shim.assert_nothing_left();
}

/// The profile unconfined and no profile at all are the same; both need no AppArmor.
#[test]
fn unconfined_needs_no_apparmor() {
    needs_containers!();
    needs!(ours() || apparmor(), "runc writes it to a kernel that has no AppArmor");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/process/apparmorProfile", json!("unconfined"));
    host.start(bundle).run();
}

fn selinux() -> bool {
    fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1")
}

/// "selinuxLabel: specifies the SELinux label for the process" (config.md, "Linux Process"): of init, of an exec that
/// names none, and of one with its own. "mountLabel: will set the Selinux context for the mounts in the container."
/// (config-linux.md, "Mount Label")
#[test]
fn selinux_labels_hold_for_init_execs_and_mounts() {
    needs_containers!();
    needs!(selinux(), "SELinux does not enforce here");
    let (label, other) = ("u:r:container:s0:c1,c2", "u:r:container:s0:c1");
    for no_new_privileges in [true, false] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set("/process/selinuxLabel", json!(label));
        bundle.set("/linux/mountLabel", json!(label));
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let shim = host.start(bundle);
        let init = shim.run();
        let of_init = fs::read_to_string(format!("/proc/{init}/attr/current")).expect("init lives");
        assert_eq!(of_init.trim_end_matches('\0'), label);
        let script = "tr -d '\\0' </proc/self/attr/current; echo; grep ' /dev ' /proc/self/mountinfo";
        let inherited = exec_output(&shim, script, |process| {
            process.as_object_mut().expect("an object").remove("selinuxLabel");
        });
        assert!(inherited.starts_with(label), "{inherited}");
        assert!(inherited.contains(&format!("context=\"{label}\"")), "{inherited}");
        let own = exec_output(&shim, script, |process| process["selinuxLabel"] = json!(other));
        assert!(own.starts_with(&format!("{other}\n")), "{own}");
    }
}

/// "mountLabel: will set the Selinux context for the mounts in the container." (config-linux.md, "Mount Label") So it does
/// for what masks a directory, and for message queues, which take a label in another way. The session keyring has the
/// process's, whoever joins it.
#[test]
fn selinux_labels_hold_for_masks_message_queues_and_the_keyring() {
    needs_containers!();
    needs!(selinux(), "SELinux does not enforce here");
    let (label, other) = ("u:r:container:s0:c1,c2", "u:r:container:s0:c1");
    let host = Host::new();
    let id = unique("labels");
    let mut bundle = host.bundle(&id, "sleep 1000");
    bundle.set("/process/selinuxLabel", json!(label));
    bundle.set("/linux/mountLabel", json!(label));
    bundle.set("/linux/maskedPaths", json!(["/home", "/root"]));
    bundle.push("/mounts", json!({"destination": "/queues", "type": "mqueue", "source": "mqueue"}));
    let shim = host.start(bundle);
    let init = shim.run();
    let masks = exec_output(&shim, "grep -E ' /(home|root) ' /proc/self/mountinfo", |process| {
        process["selinuxLabel"] = json!(other);
    });
    assert_eq!(masks.matches(&format!("context=\"{label}\"")).count(), 2, "{masks}");
    let queues = fs::File::open(format!("/proc/{init}/root/queues")).expect("init lives");
    let mut seen = [0; 256];
    let seen = fgetxattr(queues.as_fd(), c"security.selinux", &mut seen).expect("a label");
    assert_eq!(seen.strip_suffix(b"\0").unwrap_or(seen), label.as_bytes());
    needs!(Path::new("/proc/keys").exists(), "this kernel has no keyrings");
    let keys = fs::read_to_string("/proc/keys").expect("keyrings");
    let ring: Vec<_> = keys.lines().filter(|line| line.contains(&format!("_ses.{id}:"))).collect();
    assert_eq!(ring.len(), 1, "{keys}");
    let serial = u32::from_str_radix(&ring[0][..8], 16).expect("a serial number");
    assert_eq!(label_of_key(serial), label);
}

/// keyctl(2) `KEYCTL_GET_SECURITY`.
#[allow(unsafe_code, reason = "no crate of the tests has keyctl(2)")]
fn label_of_key(serial: u32) -> String {
    const KEYCTL_GET_SECURITY: i32 = 17;
    let mut text = [0_u8; 256];
    // SAFETY: text is writable for the length that is given.
    let length = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_GET_SECURITY, serial, text.as_mut_ptr(), text.len())
    };
    assert!(length > 0, "{}", std::io::Error::last_os_error());
    String::from_utf8_lossy(&text[..length as usize]).trim_end_matches('\0').to_owned()
}

/// A label that the policy does not allow, or does not know, does not start.
#[test]
fn selinux_refusals_are_told() {
    needs_containers!();
    needs!(selinux(), "SELinux does not enforce here");
    for (label, told) in [("u:r:forbidden:s0", "permission denied"), ("u:r:nobody:s0", "u:r:nobody:s0")] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set("/process/selinuxLabel", json!(label));
        let shim = host.start(bundle);
        let failure = shim.create().and_then(|_| shim.start("")).expect_err("refused");
        assert!(!ours() || failure.message.contains(told), "{failure:?}");
    }
}

/// "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error" (runtime.md,
/// "Create"): on a kernel without SELinux both kinds of labels are refused, not passed over.
#[test]
fn selinux_labels_without_selinux_are_refused() {
    needs_containers!();
    needs!(!Path::new("/sys/fs/selinux/enforce").exists(), "SELinux is at work here");
    let label = "system_u:system_r:svirt_lxc_net_t:s0:c124,c675";
    for field in ["/process/selinuxLabel", "/linux/mountLabel"] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "sleep 1000");
        bundle.set(field, json!(label));
        let shim = host.start(bundle);
        let failure = shim.create().expect_err("refused");
        if ours() {
            let field = field.trim_start_matches('/').replace('/', ".");
            assert!(failure.message.contains(&field), "{failure:?}");
            assert!(failure.message.contains("this kernel has no SELinux"), "{failure:?}");
        }
        shim.assert_nothing_left();
    }
}
