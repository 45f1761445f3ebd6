//! `mounts` and their options: each test quotes the sentence of runtime-spec 1.3, or of crun(1), that it checks.

use crate::needs;
use crate::needs_containers;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::mounted::{Mounted, maps_ids};
use crate::support::run::{open_host, output, refusal};
use crate::support::subject::ours;
use myshim::oci::mount_options;
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

/// What mountinfo shows for a word that changes one mount.
const SHOWN: [(&str, &str); 13] = [
    ("dirsync", "dirsync"),
    ("lazytime", "lazytime"),
    ("mand", "mand"),
    ("noatime", "noatime"),
    ("nodev", "nodev"),
    ("nodiratime", "nodiratime"),
    ("noexec", "noexec"),
    ("nosuid", "nosuid"),
    ("nosymfollow", "nosymfollow"),
    ("relatime", "relatime"),
    ("ro", "ro"),
    ("rw", "rw"),
    ("sync", "sync"),
];

/// What undoes another word, and no longer shows.
const UNDONE: [(&str, &str); 11] = [
    ("async", "sync"),
    ("atime", "noatime"),
    ("dev", "nodev"),
    ("diratime", "nodiratime"),
    ("exec", "noexec"),
    ("nolazytime", "lazytime"),
    ("nomand", "mand"),
    ("rw", "ro"),
    ("strictatime", "relatime"),
    ("suid", "nosuid"),
    ("symfollow", "nosymfollow"),
];

/// Words that the kernel has no use for: they are taken, and change nothing.
const ACCEPTED: [&str; 6] = ["defaults", "iversion", "loud", "noiversion", "norelatime", "silent"];

/// What runc takes for the filesystem's.
const FOREIGN: [&str; 7] =
    ["nosymfollow", "symfollow", "lazytime", "nolazytime", "defaults", "loud", "silent"];

fn known(word: &str) -> bool {
    ours() || !FOREIGN.contains(&word)
}

/// Flags of the mount and of its filesystem, of a mount in a mountinfo.
fn flags<'t>(table: &'t str, place: &str) -> Vec<&'t str> {
    let line = table.lines().find(|line| line.contains(&format!(" {place} "))).expect("mounted");
    let fields: Vec<_> = line.split(' ').collect();
    fields[5].split(',').chain(fields[fields.len() - 1].split(',')).collect()
}

/// "Runtimes MUST/SHOULD/MAY implement the following option strings for Linux" (config.md, "Linux mount options"): each
/// word of that table which changes one mount, what mountinfo shows for it, and what it does not show. To see it fail: a
/// word less in `mount_options::TABLE`, or another effect there.
#[test]
fn every_mount_option_of_the_spec_has_its_effect() {
    needs_containers!();
    let cases = SHOWN.map(|(word, flag)| (vec![word], flag, true)).into_iter();
    let cases = cases.chain(UNDONE.map(|(word, flag)| (vec![flag, word], flag, false)));
    let cases = cases.chain([(vec!["strictatime", "nostrictatime"], "relatime", true)]);
    let cases: Vec<_> = cases.filter(|(words, ..)| words.iter().all(|word| known(word))).collect();
    let accepted: Vec<_> = ACCEPTED.into_iter().filter(|word| known(word)).collect();
    let text = output("cat /proc/self/mountinfo", |bundle, _| {
        for (index, (words, ..)) in cases.iter().enumerate() {
            bundle.push("/mounts", tmpfs(&format!("/m{index}"), words));
        }
        bundle.push("/mounts", tmpfs("/plain", &[]));
        for word in &accepted {
            bundle.push("/mounts", tmpfs(&format!("/{word}"), &[word]));
        }
    });
    for (index, (words, flag, expected)) in cases.iter().enumerate() {
        let seen = flags(&text, &format!("/m{index}"));
        // One that is written is so as mount and as filesystem.
        let has = seen.contains(flag) && (*flag != "rw" || !seen.contains(&"ro"));
        assert_eq!(has, *expected, "{words:?}: {seen:?}");
    }
    for word in accepted {
        assert_eq!(flags(&text, &format!("/{word}")), flags(&text, "/plain"), "{word}");
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

/// "ro … Corresponds to mount(8) (filesystem-independent)" (config.md, "Linux mount options"): one attribute given, and
/// the bind mount has none of its source's.
#[test]
fn bind_with_an_attribute_of_its_own_has_none_of_its_sources() {
    needs_containers!();
    let mut mounted = None;
    let text = output("grep -oE ' /(as|ro|nodev) [a-z,]+' /proc/self/mountinfo", |bundle, folder| {
        let source = folder.join("source");
        let restricted = ["-t", "tmpfs", "-o", "nosuid,nodev,noexec,noatime", "tmpfs"];
        mounted = Some(Mounted::new(&restricted, &source));
        bundle.push("/mounts", mount("bind", &source, "/as", &["rbind", "rprivate"]));
        bundle.push("/mounts", mount("bind", &source, "/ro", &["rbind", "ro"]));
        bundle.push("/mounts", mount("bind", &source, "/nodev", &["rbind", "nodev"]));
    });
    assert_eq!(text, " /as rw,nosuid,nodev,noexec,noatime\n /ro ro,noatime\n /nodev rw,nodev,noatime\n");
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

/// Images link to files that only a running system has: /etc/resolv.conf to one of systemd's below /run, say.
#[test]
fn what_a_target_links_to_is_made_if_it_is_not_there() {
    needs_containers!();
    let text =
        output("cat /etc/resolv.conf /run-1/stub; cat /link/d/f /run-1/folder/d/f", |bundle, folder| {
            let image = image_folder(folder, "etc");
            let _ = fs::remove_file(image.join("resolv.conf"));
            symlink("../run-1/stub", image.join("resolv.conf")).expect("make a link");
            symlink("/run-1/folder", image.parent().expect("a root").join("link")).expect("make a link");
            let volume = folder.join("volume");
            fs::create_dir(&volume).expect("make a folder");
            file(volume.join("f"), "volume ");
            bundle.push(
                "/mounts",
                mount("bind", &file(folder.join("f"), "names "), "/etc/resolv.conf", &["bind"]),
            );
            bundle.push("/mounts", mount("bind", &volume, "/link/d", &["bind"]));
        });
    assert_eq!(text, "names names volume volume ");
}

/// What a mount has that lies below the bound one, by the word for all of them; what it had before.
const RECURSIVE: [(&str, &str, &str, bool); 20] = [
    ("rro", "", "ro", true),
    ("rnosuid", "", "nosuid", true),
    ("rnodev", "", "nodev", true),
    ("rnoexec", "", "noexec", true),
    ("rnoatime", "", "noatime", true),
    ("rnodiratime", "", "nodiratime", true),
    ("rnosymfollow", "", "nosymfollow", true),
    ("rstrictatime", "", "relatime", false),
    ("rnorelatime", "", "relatime", true),
    ("rrelatime", "noatime", "relatime", true),
    ("rrelatime", "strictatime", "relatime", true),
    ("rrw", "ro", "ro", false),
    ("rsuid", "nosuid", "nosuid", false),
    ("rdev", "nodev", "nodev", false),
    ("rexec", "noexec", "noexec", false),
    ("ratime", "noatime", "noatime", false),
    ("ratime", "noatime", "relatime", true),
    ("rdiratime", "nodiratime", "nodiratime", false),
    ("rsymfollow", "nosymfollow", "nosymfollow", false),
    ("rnostrictatime", "strictatime", "relatime", true),
];

/// rro: "Recursive ro", and its kin: "These AT_RECURSIVE options need kernel 5.12 or later." (config.md, "Linux mount
/// options") To see it fail: a word of `mount_options::TABLE` with another effect, or no AT_RECURSIVE.
#[test]
fn recursive_attributes_reach_the_mounts_below() {
    needs_containers!();
    needs!(maps_ids(), "runc before 1.2 does not manage `ratime`");
    let host = open_host();
    let befores =
        ["", "ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow", "strictatime"];
    let volume = |before: &str| host.folder().join(format!("volume-{before}"));
    let below = befores.map(|before| {
        let options = if before.is_empty() { "rw" } else { before };
        Mounted::new(&["-t", "tmpfs", "-o", options, "tmpfs"], &volume(before).join("below"))
    });
    let cases: Vec<_> = RECURSIVE.into_iter().filter(|(word, ..)| ours() || *word != "rnorelatime").collect();
    let text = output("cat /proc/self/mountinfo", |bundle, _| {
        for (index, (word, before, ..)) in cases.iter().enumerate() {
            bundle.push("/mounts", mount("bind", &volume(before), &format!("/r{index}"), &["rbind", word]));
            // The same without the r: of the bound mount alone.
            let alone = mount("bind", &volume(before), &format!("/a{index}"), &["rbind", &word[1..]]);
            bundle.push("/mounts", alone);
        }
    });
    drop(below);
    // Of the mount, not of its filesystem, of which `ro` and `rw` are told as well.
    let has = |place: &str, flag: &str| {
        let line = text.lines().find(|line| line.contains(&format!(" {place} "))).expect("mounted");
        line.split(' ').nth(5).expect("flags").split(',').any(|seen| seen == flag)
    };
    for (index, (word, before, flag, expected)) in cases.iter().enumerate() {
        assert_eq!(has(&format!("/r{index}/below"), flag), *expected, "{word} over {before:?}");
        let unchanged = if before.is_empty() { *flag == "relatime" } else { before == flag };
        assert_eq!(has(&format!("/a{index}/below"), flag), unchanged, "{} over {before:?}", &word[1..]);
    }
}

/// Words that do more than to set a flag, and the tests that show it.
const ELSEWHERE: [(&str, &str, &[&str]); 9] = [
    (IDMAP, "mount_has_its_own_mappings", &["bind", "idmap"]),
    (IDMAP, "ridmap_maps_the_mounts_below_and_idmap_does_not", &["ridmap", "rbind"]),
    (
        PROPAGATION,
        "binds_have_the_propagation_that_they_ask_for",
        &["shared", "slave", "private", "unbindable"],
    ),
    (
        PROPAGATION,
        "binds_have_the_propagation_that_they_ask_for",
        &["rshared", "rslave", "rprivate", "runbindable"],
    ),
    (HERE, "tmpcopyup_copies_all_that_the_image_has", &["tmpcopyup"]),
    (HERE, "remount_changes_a_mount_that_is_there", &["remount"]),
    (HERE, "copy_symlink_makes_the_link_again", &["copy-symlink"]),
    (HERE, "src_nofollow_binds_the_link_itself", &["src-nofollow"]),
    (HERE, "dest_nofollow_mounts_on_the_link_itself", &["dest-nofollow"]),
];
const HERE: &str = include_str!("api_mounts.rs");
const IDMAP: &str = include_str!("api_idmap.rs");
const PROPAGATION: &str = include_str!("api_propagation.rs");

/// Each word of the table that `features` prints has its effect tested on a kernel: none is added without.
#[test]
fn every_mount_option_of_the_table_has_a_test() {
    let mut tested: Vec<&str> = ACCEPTED.to_vec();
    tested.extend(SHOWN.iter().chain(&UNDONE).map(|(word, _)| word));
    tested.extend(RECURSIVE.iter().map(|(word, ..)| word));
    tested.push("nostrictatime");
    for (file, test, words) in ELSEWHERE {
        let body = file.split(&format!("\nfn {test}()")).nth(1).expect(test);
        let body = body.split("\n}\n").next().expect("an end");
        for word in words {
            assert!(body.contains(&format!("\"{word}\"")), "{test} does not use {word}");
        }
        tested.extend(words);
    }
    let untested: Vec<_> = mount_options::known().filter(|word| !tested.contains(word)).collect();
    assert_eq!(untested, [""; 0]);
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
