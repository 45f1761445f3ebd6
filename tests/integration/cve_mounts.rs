//! What was exploited before in the building of a root: one test for each CVE, named after it. Each says how to see it fail.
//!
//! "Outside" is a folder of the host's that the container has no business in. The same path exists, or does not, in
//! the container's root, and links in the root lead there.

use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::fifo::{Sink, Source};
use crate::support::shim::{Call, Host, Stdio3};
use crate::support::subject::cgroup_v2;
use crate::{needs, needs_containers};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host, a container to be, and what it may not touch.
struct Scene {
    host: Host,
    bundle: Bundle,
    outside: PathBuf,
}

impl Scene {
    fn new(script: &str) -> Self {
        let host = Host::new();
        let bundle = host.bundle("a", script);
        let outside = host.folder().join("outside");
        fs::create_dir(&outside).expect("make a folder");
        // A mapped root has no rights in a folder that is closed to all but the real one.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(host.folder(), open).expect("chmod");
        Self { host, bundle, outside }
    }

    /// A path in what the container's image is on top.
    fn image(&self, path: &str) -> PathBuf {
        self.host.folder().join("upper-a").join(path.trim_start_matches('/'))
    }

    fn mount(&mut self, value: Value) {
        self.bundle.push("/mounts", value);
    }

    /// A createContainer hook, which runs among the container's mounts, puts one more there.
    fn hook_mounts(&mut self, from: &Path, to: &str) {
        let to = self.bundle.rootfs().join(to);
        let arguments = json!(["mount", "--bind", from, to]);
        self.bundle
            .set("/hooks", json!({"createContainer": [{"path": "/usr/bin/mount", "args": arguments}]}));
    }

    fn without_mounts(&mut self, below: &str) {
        let mounts = self.bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().expect("a path").starts_with(below));
    }

    /// Creates, runs and deletes the container; its exit status and output. Nothing may have appeared outside.
    #[track_caller]
    fn play(self) -> Call<(u32, String)> {
        let out = Sink::new(self.host.folder().join("out"));
        let shim = self.host.start(self.bundle);
        let stdio = Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() };
        let created = shim.create_with(&stdio);
        let left: Vec<_> =
            fs::read_dir(&self.outside).expect("list").flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "appeared outside");
        created?;
        shim.start("")?;
        let status = shim.wait("")?;
        shim.delete("")?;
        shim.assert_nothing_left();
        Ok((status, out.finish()))
    }
}

fn proc_replaced_by_a_link(name: &str) {
    let scene = Scene::new("true");
    symlink("/tmp", scene.image(name)).expect("make a link");
    // The image below has a folder of that name.
    let failure = scene.play().expect_err("a link in place of a directory");
    assert!(failure.message.contains(&format!("/{name}")), "{failure:?}");
}

/// CVE-2019-16884: a volume over /proc made the write of the AppArmor label land in the volume, without effect. Rule: what
/// is written to procfs goes through the host's own, never through the container's /proc. To see it fail: in
/// `engine/child/identity.rs` open `path` below `proc` of the container's root.
#[test]
fn cve_2019_16884_a_volume_over_proc_receives_no_write_that_is_meant_for_the_kernel() {
    needs_containers!();
    let mut scene = Scene::new("cat /proc/sys/net/ipv4/ip_forward; cat /real/sys/net/ipv4/ip_forward");
    let fake = scene.host.folder().join("fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).expect("make folders");
    fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake\n").expect("write");
    scene.bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    scene.bundle.set("/linux/maskedPaths", json!([]));
    scene.bundle.set("/linux/readonlyPaths", json!([]));
    scene.mount(json!({"destination": "/real", "type": "proc", "source": "proc"}));
    // A volume there is refused; hooks come later.
    scene.hook_mounts(&fake, "proc");
    needs!(crate::support::subject::ours(), "runc writes before the hooks");
    assert_eq!(scene.play().expect("runs"), (0, "fake\n1\n".into()));
}

/// The same by a volume in the spec: it is refused over /proc, and within it but for what lxcfs covers.
#[test]
fn volume_over_proc_or_within_it_is_refused() {
    needs_containers!();
    for (destination, told) in
        [("/proc", "/proc"), ("/proc/sys", "inside /proc"), ("/x/../proc/self", "inside /proc")]
    {
        let mut scene = Scene::new("true");
        let source = scene.host.folder().join("volume");
        fs::create_dir_all(&source).expect("make a folder");
        scene.mount(
            json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]}),
        );
        let failure = scene.play().expect_err("a volume there");
        assert!(failure.message.contains(told), "{failure:?}");
        let says_why = destination != "/proc" || failure.message.contains("nothing but procfs");
        assert!(says_why || !crate::support::subject::ours(), "{failure:?}");
    }
    let mut scene = Scene::new("cat /proc/uptime");
    let source = scene.host.folder().join("uptime");
    fs::write(&source, "1 1\n").expect("write");
    scene
        .mount(json!({"destination": "/proc/uptime", "type": "bind", "source": source, "options": ["bind"]}));
    assert_eq!(scene.play().expect("runs"), (0, "1 1\n".into()));
}

/// CVE-2019-19921: a link in place of /proc made the volume of another container the place of procfs. Rule: the target of
/// procfs is a real directory. To see it fail: in `engine/plan/mounts.rs`, `step`, say `(true, _) => Links::InRoot`.
#[test]
fn cve_2019_19921_a_link_in_place_of_proc_is_refused() {
    needs_containers!();
    proc_replaced_by_a_link("proc");
}

/// CVE-2023-27561: the regression of CVE-2019-19921, with /proc itself a link and a volume beside it. Rule and how to see it
/// fail: as there; this container binds its procfs.
#[test]
fn cve_2023_27561_a_link_in_place_of_proc_is_refused_for_a_bind_as_well() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "runc looks at procfs itself only");
    for destination in ["/proc", "proc", "/a/../proc"] {
        let mut scene = Scene::new("true");
        symlink("/tmp", scene.image("proc")).expect("make a link");
        scene.without_mounts("/proc");
        let options = ["rbind", "ro"];
        scene.mount(
            json!({"destination": destination, "type": "bind", "source": "/proc", "options": options}),
        );
        scene.play().expect_err("a link in place of a directory");
    }
}

/// CVE-2023-28642: with /proc or /sys a link, what should be masked or labelled was another file. To see it fail: as for
/// CVE-2019-19921.
#[test]
fn cve_2023_28642_a_link_in_place_of_sys_is_refused() {
    needs_containers!();
    proc_replaced_by_a_link("sys");
}

/// CVE-2021-30465: the target of a mount was a link to the host's directory. Rule: targets are resolved in the root. To see
/// it fail: in `engine/child/place.rs` say `const IN_ROOT: u64 = 0`.
#[test]
fn cve_2021_30465_the_target_of_a_mount_is_found_in_the_root_through_any_link() {
    needs_containers!();
    let mut scene = Scene::new("true");
    let inside = scene.image(scene.outside.to_str().expect("text"));
    let script = format!("ls /link/sub {}/sub", scene.outside.display());
    scene.bundle.set("/process/args", json!(["sh", "-c", script]));
    fs::create_dir_all(&inside).expect("make the same folder in the image");
    symlink(&scene.outside, scene.image("link")).expect("make a link");
    // Where temporary files are below /run, the container's own /run would be in the way.
    scene.without_mounts("/run");
    let source = scene.host.folder().join("source");
    fs::create_dir(&source).expect("make a folder");
    fs::write(source.join("marker"), "").expect("write");
    scene.mount(json!({"destination": "/link/sub", "type": "bind", "source": source, "options": ["bind"]}));
    let (status, text) = scene.play().expect("runs");
    assert_eq!((status, text.matches("marker").count()), (0, 2), "{text}");
}

/// CVE-2024-45310: making the target's parents through a dangling link made them on the host. Rule: component by component,
/// on descriptors; where a link leads is found in the root. To see it fail: in `engine/child/place.rs`, `directory`, give
/// `openat2` no `RESOLVE_` flag.
#[test]
fn cve_2024_45310_nothing_is_made_on_the_host_through_a_dangling_link() {
    needs_containers!();
    let mut scene = Scene::new("grep -cE '/sub/(dir|other) .* tmpfs ' /proc/self/mountinfo");
    // Where temporary files are below /run, the container's own /run would be in the way.
    scene.without_mounts("/run");
    symlink(&scene.outside, scene.image("link")).expect("make a link");
    for name in ["dir", "other"] {
        let destination = format!("/link/sub/{name}");
        scene.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
    }
    assert_eq!(scene.play().expect("runs"), (0, "2\n".into()));
}

/// CVE-2023-25809: a cgroup mount that was meant to be read-only was writable in a user namespace. Rule: read-only means all
/// of it, and it shows the container's own cgroup only. To see it fail: in `engine/plan/mounts.rs`, `cgroup`, clear `attr`
/// of what `bind` makes.
#[test]
fn cve_2023_25809_a_read_only_cgroup_mount_is_so_in_a_user_namespace() {
    needs_containers!();
    needs!(
        cgroup_v2() || !runc_differs("folder above read-only v1 cgroup mounts"),
        "runc leaves the folder above its v1 cgroup mounts writable"
    );
    for mapped in [false, true] {
        let mut scene = Scene::new(
            "cd /sys/fs/cgroup; ls | wc -l; for d in . *; do (mkdir $d/x && echo made $d/x) 2>&1 | grep -v -e Read-only -e 'Not a directory' -e 'File exists'; done; echo end",
        );
        let options = ["nosuid", "noexec", "nodev", "ro"];
        scene.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        if mapped {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            scene.bundle.push("/linux/namespaces", json!({"type": "user"}));
            scene.bundle.set("/linux/uidMappings", map.clone());
            scene.bundle.set("/linux/gidMappings", map);
        }
        let (_, text) = scene.play().expect("runs");
        let (count, rest) = text.split_once('\n').expect("lines");
        assert!(count.trim().parse::<u32>().expect("a number") > 0, "nothing is mounted there");
        assert_eq!(rest, "end\n", "user namespace: {mapped}");
    }
}

/// CVE-2025-31133: a file was masked by the container's own /dev/null, which the image had made a link. Rule: by the host's,
/// verified. To see it fail: in `engine/child/mounts.rs`, `mask_path`, take `dev/null` of the root.
#[test]
fn cve_2025_31133_a_file_is_masked_by_the_hosts_null_device() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "runc refuses such a container, or is too old to");
    for kind in ["file", "link", "device"] {
        let mut scene = Scene::new("stat -c '%t:%T' /secret; cat /secret");
        // /dev is a volume: nobody but the volume's owner decides what null is there.
        let dev = scene.host.folder().join("dev");
        fs::create_dir(&dev).expect("make a folder");
        let null = dev.join("null");
        match kind {
            "file" => fs::write(null, "not null at all\n").expect("write"),
            "link" => symlink("/proc/sysrq-trigger", null).expect("make a link"),
            _ => {
                let zero = Command::new("mknod").arg(null).args(["c", "1", "5"]).status();
                assert!(zero.expect("start mknod").success(), "mknod");
            }
        }
        fs::write(scene.image("secret"), "secret\n").expect("write");
        scene.without_mounts("/dev");
        scene.mount(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}));
        scene.bundle.push("/linux/maskedPaths", json!("/secret"));
        assert_eq!(scene.play().expect("runs"), (0, "1:3\n".into()), "null is a {kind}");
    }
}

/// The same where the host's own is none. To see it fail: in `engine/child/mounts.rs`, `host_null`, return it unseen.
#[test]
fn cve_2025_31133_a_null_device_of_the_host_that_is_none_masks_nothing() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "runc's words differ");
    for other in ["/dev/zero", "$(mktemp -p /run)"] {
        let mut scene = Scene::new("true");
        let script = format!("mount --bind {other} /dev/null && exec \"$@\"");
        let start = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"];
        scene.host.prefix = start.map(str::to_owned).to_vec();
        // Not of the device that is missing: the process has streams.
        let input = Source::new(scene.host.folder().join("in"));
        let shim = scene.host.start(scene.bundle);
        let out = Sink::new(scene.host.folder().join("out"));
        let stdio = Stdio3 { stdin: input.uri(), stdout: out.uri(), stderr: out.uri(), ..Default::default() };
        let failure = shim.create_with(&stdio).expect_err("there is nothing to mask with");
        assert!(failure.message.contains("/dev/null is not character device 1:3"), "{failure:?}");
        shim.assert_nothing_left();
    }
}

/// "Failure to mask is fatal", but for a path that is not there. To see it fail: in `engine/child/mounts.rs`, `existing`,
/// take ELOOP for absence as well.
#[test]
fn cve_2025_31133_a_path_that_cannot_be_masked_fails_create() {
    needs_containers!();
    let mut scene = Scene::new("true");
    symlink("loop", scene.image("loop")).expect("make a link");
    scene.bundle.push("/linux/maskedPaths", json!("/not/there"));
    scene.bundle.push("/linux/maskedPaths", json!("/loop"));
    let failure = scene.play().expect_err("it cannot be masked");
    assert!(failure.message.contains("/loop"), "{failure:?}");
}

/// CVE-2025-52565: the bind of the terminal on /dev/console followed a link. Rule: the target is opened without following
/// one. To see it fail: in `engine/child/terminal.rs`, `bind_console`, drop both `O_NOFOLLOW` and `O_EXCL`.
#[test]
fn cve_2025_52565_a_link_in_place_of_the_console_is_not_followed() {
    needs_containers!();
    let mut scene = Scene::new("true");
    // /dev of the image itself, where the console is a link to a file that is not there yet.
    scene.without_mounts("/dev");
    scene.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}));
    fs::create_dir_all(scene.image("dev/pts")).expect("make a folder");
    symlink(scene.outside.join("console"), scene.image("dev/console")).expect("make a link");
    let outside = scene.outside.clone();
    let shim = scene.host.start(scene.bundle);
    let out = Sink::new(scene.host.folder().join("out"));
    // Whether it runs is not the question.
    let created = shim.create_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() });
    if created.is_ok() {
        let _ = shim.start("");
        let _ = shim.wait("");
    }
    assert!(fs::symlink_metadata(outside.join("console")).is_err(), "made on the host");
}

/// CVE-2025-52565: the terminal was opened by a name that the container controls. Rule: the multiplexer is opened in the
/// root, is no link, and must be the device 5:2 of a devpts. To see it fail: in `engine/child/terminal.rs`, `open`,
/// drop `O_NOFOLLOW` of the flags.
#[test]
fn cve_2025_52565_the_terminal_comes_from_a_devpts_or_not_at_all() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "runc opens the terminal at another moment");
    for link in [true, false] {
        let mut scene = Scene::new("true");
        scene.without_mounts("/dev");
        let (dev, another) = (scene.host.folder().join("dev"), "/another");
        fs::create_dir_all(dev.join("pts")).expect("make folders");
        match link {
            // To a true multiplexer, but not the one of the container's terminals.
            true => symlink(format!("{another}/ptmx"), dev.join("pts/ptmx")).expect("make a link"),
            false => fs::write(dev.join("pts/ptmx"), "").expect("write"),
        }
        let options = ["newinstance", "ptmxmode=0666"];
        scene
            .mount(json!({"destination": another, "type": "devpts", "source": "devpts", "options": options}));
        scene.mount(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}));
        let shim = scene.host.start(scene.bundle);
        let out = Sink::new(scene.host.folder().join("out"));
        let created = shim.create_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() });
        let failure = created.expect_err("no terminal of the container's");
        let told = if link { "terminal" } else { "verify ptmx" };
        assert!(failure.message.contains(told), "a link: {link}: {failure:?}");
    }
}

/// CVE-2025-52881: the write of a sysctl was redirected to another file of procfs by mounts in the container's /proc.
/// Rule: as for CVE-2019-16884, and no mount, link or other file system on the way. To see it fail: as there.
#[test]
fn cve_2025_52881_a_sysctl_is_written_where_it_belongs_whatever_is_mounted_in_proc() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "runc writes before the hooks");
    let mut scene = Scene::new(
        "cat /proc/sys/net/ipv4/ip_forward /real/sys/net/ipv4/ip_forward /real/sys/net/ipv4/ip_default_ttl",
    );
    scene.bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    scene.bundle.set("/linux/maskedPaths", json!([]));
    scene.bundle.set("/linux/readonlyPaths", json!([]));
    scene.mount(json!({"destination": "/real", "type": "proc", "source": "proc"}));
    // The other file: one of procfs too, so that its kind alone does not tell it.
    let other = scene.bundle.rootfs().join("proc/sys/net/ipv4/ip_default_ttl");
    scene.hook_mounts(&other, "proc/sys/net/ipv4/ip_forward");
    let (status, text) = scene.play().expect("runs");
    assert_eq!((status, text.as_str()), (0, "64\n1\n64\n"));
}

/// CVE-2026-41579 (and CVE-2026-47766): with /dev a link in the image, device nodes and links were made on the host. Rule:
/// no link on the way to a node. To see it fail: in `engine/child/place.rs` say `const IN_ROOT: u64 = 0`, drop
/// `RESOLVE_NO_SYMLINKS` in `device` and `link` of `child/mounts.rs`, and the flags in `directory`.
#[test]
fn cve_2026_41579_a_link_in_place_of_dev_makes_no_node_on_the_host() {
    needs_containers!();
    needs!(
        crate::support::subject::ours(),
        "runc follows the link within the root, or is older than the rule"
    );
    let mut scene = Scene::new("true");
    scene.without_mounts("/dev");
    symlink(&scene.outside, scene.image("dev")).expect("make a link");
    scene.play().expect_err("a link in place of a directory");
}

/// CVE-2026-47766: the same with a link that leads to a directory of the image: nodes belong in /dev, not where it points.
/// To see it fail: in `engine/child/mounts.rs`, `device`, drop `RESOLVE_NO_SYMLINKS`.
#[test]
fn cve_2026_47766_a_node_is_made_in_a_real_dev_only() {
    needs_containers!();
    needs!(crate::support::subject::ours(), "older runc follows the link inside the root");
    let mut scene = Scene::new("true");
    scene.without_mounts("/dev");
    symlink("/tmp", scene.image("dev")).expect("make a link");
    let tmp = scene.host.folder().join("upper-a/tmp");
    let failure = scene.play().expect_err("a link in place of a directory");
    assert!(failure.message.contains("/dev"), "{failure:?}");
    let nodes = fs::read_dir(tmp).into_iter().flatten().flatten().count();
    assert_eq!(nodes, 0, "made where the link leads");
}

/// What a test of the kind above must be able to see: that is what `Scene` relies on.
#[test]
fn a_container_without_tricks_plays_and_touches_nothing_outside() {
    needs_containers!();
    assert_eq!(Scene::new("echo hello").play().expect("runs"), (0, "hello\n".into()));
}
