//! The rootfs mounts of a Create request, as containerd's snapshotters describe them.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::fifo::Sink;
use crate::support::leak;
use crate::support::mounted::Mounted;
use crate::support::run::{open_host, output, refusal};
use crate::support::shim::Stdio3;
use crate::support::subject::{containerd_version, image_root, ours};
use containerd_shim_protos::api::Mount;
use serde_json::json;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAPPED: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];

fn user_namespace(bundle: &mut Bundle) {
    let all = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", all.clone());
    bundle.set("/linux/gidMappings", all);
}

/// The bundle's overlay, with its layers mapped: as containerd's overlay snapshotter does it for a pod with a user
/// namespace, the upper directory belongs to the mapped root already.
fn map_layers(bundle: &mut Bundle, folder: &Path) {
    chown(folder.join("upper-a"), Some(100_000), Some(100_000)).expect("chown");
    bundle.mounts[0].options.extend(MAPPED.map(str::to_owned));
    user_namespace(bundle);
}

/// The image in a layer of the test's own: the machine's root may be a filesystem that cannot be mapped (in the guest).
fn copied_layer(bundle: &mut Bundle, folder: &Path) {
    let layer = folder.join("layer");
    copy_image(&layer);
    bundle.mounts[0].options[0] = format!("lowerdir={}", layer.display());
}

/// Does the Go shim of this containerd know `uidmap=`? Ours does.
fn knows_mappings() -> bool {
    ours() || containerd_version().starts_with("2.1")
}

fn copy_image(to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    let status = Command::new("cp").arg("-a").arg(image_root().join(".")).arg(to).status();
    assert!(status.expect("start cp").success());
}

fn devices_of(file: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let with = all.filter(|device| {
        let name = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        name.trim_end() == file.display().to_string()
    });
    with.map(|device| device.path()).collect()
}

/// "The runtime SHOULD NOT modify the ownership of referenced filesystems to realize the mapping." (config-linux.md,
/// "User namespace mappings")
#[test]
fn overlay_with_mapped_layers_is_the_mapped_roots() {
    needs_containers!();
    needs!(knows_mappings(), "containerd's shim knows uidmap= since 2.0");
    let host = open_host();
    let out = Sink::new(host.folder().join("out"));
    let mut bundle = host.bundle("a", "stat -c %u:%g /bin/busybox /etc; echo new >/etc/hostname; touch /new");
    copied_layer(&mut bundle, host.folder());
    map_layers(&mut bundle, host.folder());
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    assert_eq!(shim.wait("").expect("Wait"), 0);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    assert_eq!(out.finish(), "0:0\n0:0\n");
    let new = fs::metadata(host.folder().join("upper-a/new")).expect("the container's file");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 100_000, "the upper layer is not mapped");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    assert!(!table.contains("ovl-idmapped"), "no temporary mount stays: {table}");
}

/// So many layers that mount(2)'s page would overflow, mapped.
#[test]
fn many_mapped_layers_fit() {
    needs_containers!();
    needs!(knows_mappings(), "containerd's shim knows uidmap= since 2.0");
    let text = output("cat /layer-1 /layer-90; stat -c %u /layer-1", |bundle, folder| {
        let layers = folder.join("layers-with-a-long-name-as-snapshotters-have-them");
        let mut lower = Vec::new();
        for n in 1..=90 {
            let layer = layers.join(format!("{n}/fs"));
            fs::create_dir_all(&layer).expect("make a layer");
            fs::write(layer.join(format!("layer-{n}")), format!("{n}\n")).expect("write a layer");
            lower.push(layer.display().to_string());
        }
        let image = layers.join("image");
        copy_image(&image);
        lower.push(image.display().to_string());
        bundle.mounts[0].options[0] = format!("lowerdir={}", lower.join(":"));
        map_layers(bundle, folder);
    });
    assert_eq!(text, "1\n90\n0\n");
}

#[test]
fn mapped_bind_is_the_mapped_roots() {
    needs_containers!();
    needs!(knows_mappings(), "containerd's shim knows uidmap= since 2.0");
    let text = output("stat -c %u:%g /bin/busybox", |bundle, folder| {
        let root = folder.join("root");
        copy_image(&root);
        let options = ["rbind", "rw"].into_iter().chain(MAPPED).map(str::to_owned).collect();
        let source = root.display().to_string();
        bundle.mounts = vec![Mount { type_: "bind".into(), source, options, ..Mount::default() }];
        user_namespace(bundle);
    });
    assert_eq!(text, "0:0\n");
}

#[test]
fn layer_that_cannot_be_mapped_is_named_and_nothing_stays() {
    needs_containers!();
    needs!(knows_mappings(), "containerd's shim knows uidmap= since 2.0");
    let host = open_host();
    let place = host.folder().join("overlay");
    let lower = format!("lowerdir={}:{}", image_root().display(), host.folder().display());
    let _overlay = Mounted::new(&["-t", "overlay", "-o", &lower, "overlay"], &place);
    let text = refusal(|bundle, folder| {
        bundle.mounts[0].options[0] = format!("lowerdir={}", place.display());
        map_layers(bundle, folder);
    });
    assert!(!ours() || text.contains("cannot id-map overlay"), "{text}");
    let text = refusal(|bundle, folder| {
        map_layers(bundle, folder);
        bundle.mounts[0].options.pop();
        bundle.mounts[0].options.push("gidmap=0:x:1".into());
    });
    assert!(!ours() || text.contains("gidmap=\"0:x:1\" must be container:host:size"), "{text}");
}

#[test]
fn delete_after_a_crash_takes_mapped_layers_away() {
    needs_containers!();
    needs!(knows_mappings(), "containerd's shim knows uidmap= since 2.0");
    let host = open_host();
    let mut bundle = host.bundle("a", "sleep 1000");
    copied_layer(&mut bundle, host.folder());
    map_layers(&mut bundle, host.folder());
    let shim = host.start(bundle);
    shim.run();
    shim.crash();
    host.delete(&shim.bundle);
    shim.assert_nothing_left();
}

/// "loop": a file with a filesystem in it, as the erofs and blockfile snapshotters send it.
#[test]
fn file_with_a_filesystem_is_mounted_through_a_loop_device() {
    needs_containers!();
    let free = Command::new("losetup").arg("-f").output();
    needs!(free.is_ok_and(|o| o.status.success()), "this machine has no free loop device");
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    needs!(known.contains("\text4\n"), "this kernel has no ext4");
    needs!(Command::new("mkfs.ext4").arg("-V").output().is_ok(), "e2fsprogs is missing");
    for (options, expected) in
        [(&["loop", "ro"][..], "no\n"), (&["loop"], "yes\n"), (&["loop", "direct-io"], "yes\n")]
    {
        let host = open_host();
        let file = host.folder().join("image.ext4");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-d"]).arg(image_root()).arg(&file).arg("32M");
        let made = mkfs.output().expect("start mkfs.ext4");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let out = Sink::new(host.folder().join("out"));
        let mut bundle =
            host.bundle("a", "(echo yes >/etc/new) 2>/dev/null; cat /etc/new 2>/dev/null || echo no");
        let source = file.display().to_string();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        bundle.mounts =
            vec![Mount { type_: "ext4".into(), source, options: options.clone(), ..Mount::default() }];
        let shim = host.start(bundle);
        let stdio = Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() };
        shim.create_with(&stdio).expect("Create");
        assert_eq!(devices_of(&file).len(), 1, "{options:?}");
        shim.start("").expect("Start");
        assert_eq!(shim.wait("").expect("Wait"), 0);
        shim.delete("").expect("Delete");
        shim.assert_nothing_left();
        assert_eq!(out.finish(), expected, "{options:?}");
        // The kernel clears the device once the last mount is really gone.
        let gone = || devices_of(&file).is_empty().then_some(());
        crate::support::eventually("the loop device is free again", crate::support::SOON, gone);
    }
}

#[test]
fn loop_mount_that_fails_leaves_no_device() {
    needs_containers!();
    needs!(Path::new("/dev/loop-control").exists(), "this machine has no loop devices");
    let host = open_host();
    let file = host.folder().join("garbage");
    fs::write(&file, vec![7; 1 << 20]).expect("write a file");
    let text = refusal(|bundle, _| {
        let source = file.display().to_string();
        let options = vec!["loop".into(), "ro".into()];
        bundle.mounts = vec![Mount { type_: "ext4".into(), source, options, ..Mount::default() }];
    });
    assert!(!ours() || text.contains("rootfs mount 0 (ext4"), "{text}");
    let gone = || devices_of(&file).is_empty().then_some(());
    crate::support::eventually("the loop device is free again", crate::support::SOON, gone);
}

/// A mount with a place of its own below the rootfs; the rootfs itself need be no mount.
#[test]
fn mounts_below_the_rootfs_come_and_go() {
    needs_containers!();
    let host = open_host();
    let mut bundle = host.bundle("a", "sleep 1000");
    copy_image(&bundle.rootfs());
    let options = vec!["mode=751".into()];
    bundle.mounts = vec![Mount {
        type_: "tmpfs".into(),
        source: "tmpfs".into(),
        target: "/volume".into(),
        options,
        ..Mount::default()
    }];
    let shim = host.start(bundle);
    shim.run();
    assert_eq!(leak::mounts_below(&shim.bundle.folder).len(), 1);
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    if ours() {
        shim.assert_nothing_left();
    }
    let _ = Command::new("umount").arg(shim.bundle.rootfs().join("volume")).output();
}

#[test]
fn options_of_the_superblock_reach_it() {
    needs_containers!();
    let text = output("grep ' / / ' /proc/self/mountinfo", |bundle, _| {
        bundle.mounts[0].options.extend(["nosuid", "dirsync"].map(str::to_owned));
    });
    let (mount, superblock) = text.split_once(" - overlay ").expect("an overlay");
    assert!(mount.contains("nosuid") && superblock.contains("rw,dirsync,"), "{text}");
}
