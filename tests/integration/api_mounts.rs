//! `mounts` and their options: each test quotes the sentence of runtime-spec 1.3, or of crun(1), that it checks.

use crate::needs;
use crate::needs_containers;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::mounted::{Mounted, maps_ids};
use crate::support::run::{open_host, output, refusal};
use crate::support::subject::ours;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": kind, "source": source, "options": options})
}

fn tmpfs(target: &str, options: &[&str]) -> Value {
    mount("tmpfs", Path::new("tmpfs"), target, options)
}

/// A folder of the image: in the upper layer of the bundle `a`.
fn image_folder(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join("upper-a").join(name);
    fs::create_dir_all(&path).expect("make a folder of the image");
    path
}

fn file(path: PathBuf, content: &str) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    fs::write(&path, content).expect("write a file");
    path
}

/// A folder with a file in it and a mount below.
fn tree(folder: &Path) -> (PathBuf, Mounted) {
    let volume = folder.join("volume");
    let below = Mounted::tmpfs(&volume.join("below"));
    (volume, below)
}

/// "The runtime MUST mount entries in the listed order." (config.md, "Mounts")
#[test]
fn mounts_are_made_in_the_listed_order() {
    needs_containers!();
    let text =
        output("ls -d /a/in /b/in 2>&1; cut -d' ' -f5 /proc/self/mountinfo | grep ^/[ab]", |bundle, _| {
            for target in ["/a", "/a/in", "/b/in", "/b"] {
                bundle.push("/mounts", tmpfs(target, &["size=64k"]));
            }
        });
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0] == "/a/in" || lines[1] == "/a/in", "{text}");
    assert!(text.contains("/b/in: No such file"), "{text}");
    assert_eq!(lines[2..], ["/a", "/a/in", "/b/in", "/b"]);
}

/// "Runtimes MUST/SHOULD/MAY implement the following option strings for Linux" (config.md, "Linux mount options"): each
/// word of that table which changes one mount, what mountinfo shows for it, and what it does not show.
#[test]
fn every_mount_option_of_the_spec_has_its_effect() {
    needs_containers!();
    let shown = [
        ("dirsync", "dirsync"),
        ("noatime", "noatime"),
        ("nodev", "nodev"),
        ("nodiratime", "nodiratime"),
        ("noexec", "noexec"),
        ("nosuid", "nosuid"),
        ("relatime", "relatime"),
        ("ro", "ro"),
        ("rw", "rw"),
        ("sync", "sync"),
        ("lazytime", "lazytime"),
        ("nosymfollow", "nosymfollow"),
    ];
    // What undoes another word.
    let undone = [
        ("atime", "noatime"),
        ("async", "sync"),
        ("dev", "nodev"),
        ("diratime", "nodiratime"),
        ("exec", "noexec"),
        ("nolazytime", "lazytime"),
        ("strictatime", "relatime"),
        ("suid", "nosuid"),
        ("symfollow", "nosymfollow"),
    ];
    // runc takes these for the filesystem's.
    let foreign = ["nosymfollow", "symfollow", "lazytime", "nolazytime", "defaults", "loud", "silent"];
    let known = |word: &str| ours() || !foreign.contains(&word);
    let cases = shown.map(|(word, flag)| (vec![word], flag, true)).into_iter();
    let cases = cases.chain(undone.map(|(word, flag)| (vec![flag, word], flag, false)));
    let cases = cases.chain([(vec!["strictatime", "nostrictatime"], "relatime", true)]);
    let accepted = ["defaults", "loud", "silent", "iversion", "noiversion", "norelatime"];
    let cases = cases.chain(accepted.map(|word| (vec![word], "ro", false)));
    let cases: Vec<_> = cases.filter(|(words, ..)| words.iter().all(|word| known(word))).collect();
    let text = output("cat /proc/self/mountinfo", |bundle, _| {
        for (index, (words, ..)) in cases.iter().enumerate() {
            bundle.push("/mounts", tmpfs(&format!("/m{index}"), words));
        }
    });
    for (index, (words, flag, expected)) in cases.iter().enumerate() {
        let line = text.lines().find(|line| line.contains(&format!(" /m{index} "))).expect("mounted");
        let fields: Vec<_> = line.split(' ').collect();
        let flags = [fields[5], fields[fields.len() - 1]].join(",");
        assert_eq!(flags.split(',').any(|has| has == *flag), *expected, "{words:?}: {line}");
    }
}

/// tmpcopyup: "copy up the contents to a tmpfs" (config.md, "Linux mount options").
#[test]
fn tmpcopyup_copies_all_that_the_image_has() {
    needs_containers!();
    let host = open_host();
    let script = "cd /data && stat -c '%n %a %u:%g %F %t' file link fifo sub sub/deep/leaf && readlink link && cat file sub/deep/leaf && echo changed >file && stat -c %a . && stat -f -c %T .";
    let text = output(script, |bundle, folder| {
        let data = image_folder(folder, "data");
        file(data.join("file"), "content\n");
        chown(data.join("file"), Some(7), Some(8)).expect("chown");
        fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
        symlink("/etc/hostname", data.join("link")).expect("make a link");
        // runc cannot copy a pipe: a file stands in for it.
        let make = if runc_differs("tmpcopyup of a pipe") { "touch" } else { "mkfifo" };
        assert!(Command::new(make).arg(data.join("fifo")).status().expect("make a pipe").success());
        file(data.join("sub/deep/leaf"), "leaf\n");
        fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o711)).expect("chmod");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("chmod");
        bundle.push("/mounts", tmpfs("/data", &["tmpcopyup", "nosuid"]));
    });
    drop(host);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "file 640 7:8 regular file 0");
    assert!(lines[1].contains("symbolic link") && lines[2].starts_with("fifo 644 0:0 "), "{text}");
    assert!(runc_differs("tmpcopyup of a pipe") || lines[2].contains(" fifo "), "{text}");
    assert_eq!(lines[3], "sub 711 0:0 directory 0");
    assert_eq!(&lines[5..], ["/etc/hostname", "content", "leaf", "750", "tmpfs"]);
}

/// A link in the image leads nowhere: it is copied as a link, and the covered folder is found inside the root.
#[test]
fn tmpcopyup_never_leaves_the_image() {
    needs_containers!();
    let secret = file(open_host_file(), "secret of the host\n");
    let text = output("cat /data/out/* 2>&1; ls /data; readlink /data/out", |bundle, folder| {
        image_folder(folder, "");
        image_folder(folder, "real");
        symlink(secret.parent().expect("a folder"), folder.join("upper-a/real/out")).expect("make a link");
        symlink("/../../../../real", folder.join("upper-a/data")).expect("make a link");
        bundle.push("/mounts", tmpfs("/data", &["tmpcopyup"]));
    });
    assert!(!text.contains("secret") && text.contains("\nout\n"), "{text}");
    fs::remove_file(secret).expect("remove the secret");
}

fn open_host_file() -> PathBuf {
    std::env::temp_dir().join(crate::support::subject::unique("secret"))
}

/// COMPAT: a tmpfs over a folder has the folder's mode, unless it is given one; a new folder the kernel's.
#[test]
fn tmpfs_has_the_mode_of_the_folder_that_it_covers() {
    needs_containers!();
    let text = output("stat -c %a /root /home /new", |bundle, _| {
        bundle.push("/mounts", tmpfs("/root", &["nosuid"]));
        bundle.push("/mounts", tmpfs("/home", &["mode=711"]));
        bundle.push("/mounts", tmpfs("/new", &[]));
    });
    assert_eq!(text, "700\n711\n1777\n");
}

/// remount: "Corresponds to mount(8) (filesystem-independent)" (config.md, "Linux mount options"): a mount that is
/// there gets other options.
#[test]
fn remount_changes_a_mount_that_is_there() {
    needs_containers!();
    let text = output(
        "touch /t/a /volume/a; touch /etc/a && grep -E ' (/t|/volume) ' /proc/self/mountinfo",
        |bundle, folder| {
            let volume = folder.join("volume");
            fs::create_dir(&volume).expect("make a folder");
            bundle.push("/mounts", tmpfs("/t", &["nosuid", "size=2m"]));
            bundle.push("/mounts", tmpfs("/t", &["remount", "nosuid", "ro", "size=1m"]));
            bundle.push("/mounts", mount("bind", &volume, "/volume", &["bind"]));
            bundle.push("/mounts", mount("bind", &volume, "/volume", &["bind", "remount", "ro"]));
        },
    );
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("nosuid") && text.contains("size=1024k"), "{text}");
}

/// crun(1): "if the source of a bind mount is a symlink, the symlink is recreated at the specified destination"
#[test]
fn copy_symlink_makes_the_link_again() {
    needs_containers!();
    needs!(!runc_differs("crun's bind options"), "runc has no copy-symlink");
    let copy = |target: &str, link: &Path| mount("bind", link, target, &["bind", "copy-symlink"]);
    let text = output("readlink /new/link; cat /file", |bundle, folder| {
        symlink("/somewhere/else", folder.join("link")).expect("make a link");
        bundle.push("/mounts", copy("/new/link", &folder.join("link")));
        bundle.push("/mounts", copy("/file", &file(folder.join("plain"), "plain\n")));
    });
    assert_eq!(text, "/somewhere/else\nplain\n");
    // "If the destination already exists and it is not a symlink with the expected content, crun will return an error."
    let text = refusal(|bundle, folder| {
        symlink("/somewhere/else", folder.join("link")).expect("make a link");
        bundle.push("/mounts", copy("/etc/passwd", &folder.join("link")));
    });
    assert!(text.contains("mounts[7]") && text.contains("EEXIST"), "{text}");
}

/// crun(1): "if … the source of the bind mount is a symbolic link, crun will use the symlink itself"
#[test]
fn src_nofollow_binds_the_link_itself() {
    needs_containers!();
    needs!(!runc_differs("crun's bind options"), "runc has no src-nofollow");
    let text = output("readlink /bound; readlink /followed || cat /followed", |bundle, folder| {
        let link = folder.join("link");
        symlink(file(folder.join("plain"), "plain\n"), &link).expect("make a link");
        bundle.push("/mounts", mount("bind", &link, "/bound", &["bind", "src-nofollow"]));
        bundle.push("/mounts", mount("bind", &link, "/followed", &["bind"]));
    });
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with("/plain"), "{text}");
    assert_eq!(lines[1], "plain");
}

/// crun(1): "if … the destination of the bind mount is a symbolic link, crun will mount the symbolic link itself at the
/// target destination"
#[test]
fn dest_nofollow_mounts_on_the_link_itself() {
    needs_containers!();
    needs!(!runc_differs("crun's bind options"), "runc has no dest-nofollow");
    for (options, passwd) in [(&["bind", "dest-nofollow"][..], "root:x:0"), (&["bind"], "volume")] {
        let text = output("cat /link | head -c 6; echo; head -c 8 /etc/passwd", |bundle, folder| {
            symlink("/etc/passwd", image_folder(folder, "").join("link")).expect("make a link");
            bundle.push("/mounts", mount("bind", &file(folder.join("f"), "volume"), "/link", options));
        });
        assert_eq!(text, format!("volume\n{passwd}"), "{options:?}");
    }
}

/// rro: "Recursive ro", and its kin: "These AT_RECURSIVE options need kernel 5.12 or later." (config.md, "Linux mount
/// options")
#[test]
fn recursive_attributes_reach_the_mounts_below() {
    needs_containers!();
    let host = open_host();
    let (volume, _below) = tree(host.folder());
    let script = "grep ' /volume/below ' /proc/self/mountinfo | cut -d' ' -f6";
    let cases = [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rrelatime", "relatime"),
    ];
    for (option, seen) in cases {
        let text = output(script, |bundle, _| {
            bundle.push("/mounts", mount("bind", &volume, "/volume", &["rbind", option]));
        });
        assert!(text.trim().split(',').any(|word| word == seen), "{option}: {text}");
        if let Some(plain) = option.strip_prefix('r').filter(|plain| *plain != "relatime") {
            let text = output(script, |bundle, _| {
                bundle.push("/mounts", mount("bind", &volume, "/volume", &["rbind", plain]));
            });
            assert!(!text.trim().split(',').any(|word| word == seen), "{plain}: {text}");
        }
    }
}

/// The other direction: what a mount below has is taken away.
#[test]
fn recursive_opposites_take_attributes_away() {
    needs_containers!();
    needs!(maps_ids(), "runc before 1.2 does not manage `ratime`");
    let host = open_host();
    let volume = host.folder().join("volume");
    let _below =
        Mounted::new(&["-t", "tmpfs", "-o", "nosuid,nodev,noexec,noatime", "tmpfs"], &volume.join("below"));
    let script = "grep ' /volume/below ' /proc/self/mountinfo | cut -d' ' -f6";
    let text = output(script, |bundle, _| {
        let options = ["rbind", "rsuid", "rdev", "rexec", "ratime"];
        bundle.push("/mounts", mount("bind", &volume, "/volume", &options));
    });
    assert_eq!(text.trim(), "rw,relatime");
}

/// "Destination of mount point: path inside container." (config.md, "Mounts") What is missing of it is made, a file
/// for a file; links stay inside.
#[test]
fn missing_targets_are_made_and_links_stay_inside() {
    needs_containers!();
    let text = output(
        "cat /new/a/file /real/file /etc/deep/file; stat -c %a:%F /new/a /new/a/file",
        |bundle, folder| {
            let volume = file(folder.join("f"), "volume\n");
            symlink("real", image_folder(folder, "").join("relative")).expect("make a link");
            symlink("../../../../../../etc/deep", image_folder(folder, "").join("up")).expect("make a link");
            for name in ["real", "etc/deep"] {
                image_folder(folder, name);
            }
            for target in ["/new/a/file", "/relative/file", "/up/file"] {
                bundle.push("/mounts", mount("bind", &volume, target, &["bind", "ro"]));
            }
        },
    );
    assert_eq!(text, "volume\nvolume\nvolume\n755:directory\n644:regular file\n");
}

/// "Linux: This value SHOULD be an absolute path. For compatibility with old tools and configurations, it MAY be a
/// relative path, in which case it MUST be interpreted as relative to "/"." (config.md, "Mounts") The log says so. A
/// relative `proc` is guarded as /proc is: no link in its place.
#[test]
fn relative_targets_are_taken_from_the_root() {
    needs_containers!();
    let mut log = None;
    let text = output("cut -d' ' -f5 /proc/self/mountinfo | grep -E '/(data|x/y)$'", |bundle, _| {
        bundle.push("/mounts", tmpfs("data", &[]));
        bundle.push("/mounts", tmpfs("./x/z/../y", &[]));
        log = Some(Sink::new(bundle.folder.join("log")));
    });
    assert_eq!(text, "/data\n/x/y\n");
    let log = log.expect("made above");
    if ours() {
        log.wait_for("mounts[7].destination `data` is relative, which is deprecated: taken for `/data`");
    }
}
