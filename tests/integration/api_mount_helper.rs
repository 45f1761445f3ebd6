//! Rootfs mounts that a program of the host makes: types `fuse.…` and `fuse3.…`, as containerd's `core/mount` has it. The
//! helpers here are scripts that mount an overlay: what is tested is how they are called and what is left of them. The
//! last test is with a real file server.

use crate::needs;
use crate::needs_containers;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::subject::{ours, search_path};
use crate::support::{executable, leak};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes what it is asked for, and says how it was asked.
const MOUNTS: &str = r#"
printf '%s\n' "$@" >HERE/arguments
tr '\0' '\n' </proc/$$/environ >HERE/environment
readlink /proc/$$/fd/* >HERE/descriptors
source=$1; target=$2; shift 2; all=
while [ $# -gt 0 ]; do [ "$1" = -t ] || all=$all,$2; shift 2; done
mount -t overlay -o "${all#,}" "$source" "$target"
"#;

/// A host with the helper `name`, which does `script`; HERE is the host's folder.
fn host_with(name: &str, script: &str) -> Host {
    let mut host = Host::new();
    let folder = host.folder().join("bin");
    fs::create_dir(&folder).expect("make a folder");
    let here = host.folder().display().to_string();
    executable(&folder.join(name), format!("#!/bin/sh\n{}", script.replace("HERE", &here)));
    host.environment.push(("PATH".into(), format!("{}:{}", folder.display(), search_path())));
    host
}

fn start<'h>(host: &'h Host, kind: &str, script: &str) -> Shim<'h> {
    let mut bundle = host.bundle("a", script);
    bundle.mounts[0].type_ = kind.into();
    bundle.set("/annotations", json!({"io.containerd.myshim.setup-timeout": "1s"}));
    host.start(bundle)
}

fn read(host: &Host, name: &str) -> String {
    fs::read_to_string(host.folder().join(name)).expect("the helper ran")
}

/// Create fails with all of `words`, and nothing is left: neither mount nor process.
#[track_caller]
fn refused(shim: &Shim<'_>, words: &[&str]) {
    let failure = shim.create().expect_err("Create fails");
    for word in words {
        assert!(!ours() || failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
    }
    shim.assert_nothing_left();
    let here = shim.host.folder().join("bin").display().to_string();
    assert_eq!(leak::processes_naming(&here), Vec::<i32>::new(), "helpers left");
}

/// Seen to fail with the options joined by commas, with `-t` left out, and without `PATH` in `serve.rs`'s `NEEDED`.
#[test]
fn helper_is_called_as_containerd_calls_it_and_its_mount_goes_with_delete() {
    needs_containers!();
    for (kind, program) in [("fuse.some-fs", "mount.fuse"), ("fuse3.some-fs", "mount.fuse3")] {
        let host = host_with(program, MOUNTS);
        let out = Sink::new(host.folder().join("out"));
        let shim = start(&host, kind, "echo up; echo new >/etc/hostname");
        shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
        assert_eq!(shim.wait("").expect("Wait"), 0);
        assert_eq!(leak::mounts_below(&shim.bundle.folder).len(), 1);
        shim.delete("").expect("Delete");
        shim.assert_nothing_left();
        assert_eq!(out.finish(), "up\n");
        assert!(host.folder().join("upper-a/etc/hostname").exists(), "what the helper mounted is the root");
        let mut expected = vec!["overlay".to_owned(), shim.bundle.rootfs().display().to_string()];
        let options = shim.bundle.mounts[0].options.iter();
        expected.extend(options.flat_map(|option| ["-o".into(), option.clone()]));
        expected.extend(["-t".into(), "some-fs".into()]);
        assert_eq!(read(&host, "arguments").lines().collect::<Vec<_>>(), expected);
        if ours() {
            let (_, path) = &host.environment[0];
            assert_eq!(read(&host, "environment"), format!("PATH={path}\n"), "a clean environment");
        }
    }
}

/// The file server stays as long as the mount. Without `CloseDescriptors` this failed in one run of two: the shim's descriptors are
/// close-on-exec besides.
#[test]
fn server_that_a_helper_leaves_behind_has_nothing_of_the_shims_and_ends_with_the_mount() {
    needs_containers!();
    let server = r#"setsid sh -c 'echo $$ >HERE/server; while grep -q rootfs /proc/self/mountinfo; do sleep 0.05; done; mv HERE/server HERE/ended' HERE &"#;
    needs!(ours(), "the Go shim waits for the end of a pipe that such a server holds");
    let host = host_with("mount.fuse3", &format!("{MOUNTS}{server}"));
    let shim = start(&host, "fuse3.some-fs", "sleep 1000");
    shim.run();
    let server: i32 = crate::support::eventually("the server runs", crate::support::SOON, || {
        fs::read_to_string(host.folder().join("server")).ok()?.trim().parse().ok()
    });
    let all = fs::read_dir(format!("/proc/{server}/fd")).expect("it lives").flatten();
    let mut held: Vec<_> = all.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    held.retain(|path| path != Path::new("/dev/null"));
    let said = |path: &PathBuf| path.starts_with("/memfd:stdio (deleted)");
    assert!(held.len() == 2 && held.iter().all(said), "{held:?}");
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    assert!(leak::alive(server), "the container's end is not the server's");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    crate::support::eventually("the server ends", crate::support::SOON, || {
        (!leak::alive(server) && host.folder().join("ended").exists()).then_some(())
    });
}

/// What it said is told, what it mounted goes, and the same id can be created again. Seen to fail with an exit status that
/// nobody looks at.
#[test]
fn helper_that_fails_is_told_with_its_words_and_its_mount_goes() {
    needs_containers!();
    let fails = "[ ! -e HERE/fail ] || { echo no such layer >&2; exit 3; }";
    let host = host_with("mount.fuse3", &format!("{MOUNTS}{fails}"));
    let shim = start(&host, "fuse3.some-fs", "exit 5");
    fs::write(host.folder().join("fail"), "").expect("write");
    refused(
        &shim,
        &["rootfs mount 0 (fuse3.some-fs overlay)", "mount.fuse3", "exit status 3", "no such layer"],
    );
    fs::remove_file(host.folder().join("fail")).expect("remove");
    shim.run();
    assert_eq!(shim.wait("").expect("Wait"), 5, "the same id again");
}

#[test]
fn helper_that_is_missing_or_mounts_nothing_is_explained() {
    needs_containers!();
    needs!(ours(), "the Go shim says less");
    let host = host_with("mount.else", MOUNTS);
    refused(&start(&host, "fuse.some-fs", "true"), &["mount.fuse", "not found in $PATH", "install it"]);
    let host = host_with("mount.fuse", "echo nothing to do");
    refused(&start(&host, "fuse.some-fs", "true"), &["mount.fuse", "mounted nothing", "nothing to do"]);
}

/// Seen to fail without the limit: Create then waits for ever.
#[test]
fn helper_that_hangs_is_killed_with_its_children_and_its_mount_goes() {
    needs_containers!();
    needs!(ours(), "the Go shim waits for ever");
    let host = host_with("mount.fuse3", &format!("{MOUNTS}echo waiting; sh -c 'sleep 1000; :' HERE/bin"));
    refused(&start(&host, "fuse3.some-fs", "true"), &["mount.fuse3", "not done within 1 s", "waiting"]);
}

/// A helper that says too much fills neither memory nor the error. Seen to fail without the seal: the helper then ends well.
#[test]
fn helper_that_talks_without_end_is_cut_short() {
    needs_containers!();
    needs!(ours(), "the Go shim keeps all of it");
    let host = host_with("mount.fuse3", "exec head -c 100000000 /dev/zero");
    refused(&start(&host, "fuse3.some-fs", "true"), &["mount.fuse3", "exit status 1"]);
}

fn hangs(host: &Host) {
    crate::support::eventually("the helper runs", crate::support::SOON, || {
        host.folder().join("hangs").exists().then_some(())
    });
}

/// Seen to fail without `until`: Create then ends with the time-out.
#[test]
fn kill_gives_a_create_up_that_waits_for_its_helper() {
    needs_containers!();
    needs!(ours(), "the Go shim serves no Kill meanwhile");
    let host = host_with("mount.fuse3", &format!("{MOUNTS}touch HERE/hangs; sleep 1000"));
    let mut bundle = host.bundle("a", "true");
    bundle.mounts[0].type_ = "fuse3.some-fs".into();
    let shim = host.start(bundle);
    std::thread::scope(|scope| {
        let mut client = shim.client();
        let request = shim.create_request(&Stdio3::default());
        let service = shim.service().to_owned();
        let create = scope.spawn(move || {
            client.call::<containerd_shim_protos::api::CreateTaskResponse>(&service, "Create", &request)
        });
        hangs(&host);
        let _ = shim.kill("", libc::SIGKILL);
        let failure = create.join().expect("a thread").expect_err("Create is given up");
        assert!(failure.message.contains("killed with its Create"), "{failure:?}");
    });
    shim.assert_nothing_left();
}

/// Seen to fail without `DieWithShim`: the helper then lives on.
#[test]
fn delete_after_a_crash_takes_what_a_helper_mounted_away() {
    needs_containers!();
    needs!(ours(), "the Go shim's helper lives on");
    let host = host_with(
        "mount.fuse3",
        &format!("{MOUNTS}[ ! -e HERE/hang ] || {{ touch HERE/hangs; exec tail -f HERE/hang; }}"),
    );
    let shim = start(&host, "fuse3.some-fs", "sleep 1000");
    shim.run();
    shim.crash();
    host.delete(&shim.bundle);
    shim.assert_nothing_left();
    drop(shim);
    // Once more, while the helper runs.
    fs::write(host.folder().join("hang"), "1000").expect("write");
    let mut bundle = host.bundle("b", "true");
    bundle.mounts[0].type_ = "fuse3.some-fs".into();
    let shim = host.start(bundle);
    // Nobody will answer.
    let request = shim.create_request(&Stdio3::default());
    let mut client = shim.client();
    client.send(shim.service(), "Create", &request).expect("send");
    hangs(&host);
    shim.crash();
    host.delete(&shim.bundle);
    shim.assert_nothing_left();
    let here = host.folder().display().to_string();
    let helpers = || leak::processes_naming(&here).is_empty().then_some(());
    crate::support::eventually("the helper ends with the shim", crate::support::SOON, helpers);
}

/// A type that nobody knows, and a mount that only containerd's mount manager understands.
#[test]
fn type_that_is_not_known_is_explained() {
    needs_containers!();
    for (kind, options, words) in [
        ("galaxyfs", vec![], ["rootfs mount 0 (galaxyfs", "does not know this type"]),
        ("format/overlay", vec![], ["rootfs mount 0 (format/overlay", "mount manager"]),
        ("overlay", vec!["X-containerd.mkdir.path=/x".to_owned()], ["X-containerd.mkdir", "mount manager"]),
    ] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "true");
        kind.clone_into(&mut bundle.mounts[0].type_);
        bundle.mounts[0].options.extend(options);
        refused(&host.start(bundle), &words);
    }
}

/// fuse-overlayfs, as containerd's snapshotter of that name asks for it.
#[test]
fn fuse_overlayfs_is_a_root() {
    needs_containers!();
    needs!(Path::new("/dev/fuse").exists(), "this machine has no FUSE");
    for program in ["mount.fuse3", "fuse-overlayfs"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        needs!(found.is_ok_and(|o| o.status.success()), "{program} is not installed");
    }
    let mut host = Host::new();
    let path = std::env::var("PATH").unwrap_or_default();
    host.environment.push(("PATH".into(), format!("{}:{path}", search_path())));
    let out = Sink::new(host.folder().join("out"));
    let shim =
        start(&host, "fuse3.fuse-overlayfs", "grep ' / / ' /proc/self/mountinfo; echo new >/etc/hostname");
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    assert_eq!(shim.wait("").expect("Wait"), 0);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    assert!(out.finish().contains(" fuse.fuse-overlayfs "));
    assert!(host.folder().join("upper-a/etc/hostname").exists());
    let here = host.folder().join("upper-a").display().to_string();
    let servers = || leak::processes_naming(&here).is_empty().then_some(());
    crate::support::eventually("the file server ends", crate::support::SOON, servers);
}
