//! Id-mapped mounts: each test quotes the sentence of runtime-spec 1.3 that it checks.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::mounted::{Mounted, maps_ids};
use crate::support::run::{open_host, output, refusal};
use crate::support::subject::{image_root, ours};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

const WHY: &str = "this runc has no id-mapped mounts";

fn map(inside: u32, outside: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": 1000}])
}

/// A folder with a file of user 5, group 6.
fn volume(folder: &Path) -> String {
    let volume = folder.join("volume");
    fs::create_dir_all(&volume).expect("make a folder");
    fs::write(volume.join("file"), "").expect("write a file");
    chown(volume.join("file"), Some(5), Some(6)).expect("chown");
    volume.display().to_string()
}

fn mount(source: &str, options: &[&str], maps: Option<(Value, Value)>) -> Value {
    let mut mount = json!({"destination": "/volume", "type": "bind", "source": source, "options": options});
    if let Some((uids, gids)) = maps {
        mount["uidMappings"] = uids;
        mount["gidMappings"] = gids;
    }
    mount
}

fn user_namespace(bundle: &mut Bundle, path: Option<String>) {
    let all = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let mut namespace = json!({"type": "user"});
    if let Some(path) = path {
        namespace["path"] = path.into();
    }
    bundle.push("/linux/namespaces", namespace);
    bundle.set("/linux/uidMappings", all.clone());
    bundle.set("/linux/gidMappings", all);
}

/// "If uidMappings or gidMappings are specified for the mount, the runtime MUST use those values for the mount's
/// mapping." (config.md, "Linux mount options")
#[test]
fn mount_has_its_own_mappings() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    for options in [&["bind"][..], &["bind", "idmap"]] {
        let text = output("stat -c %u:%g /volume/file", |bundle, folder| {
            let maps = (map(0, 2000), map(0, 3000));
            bundle.push("/mounts", mount(&volume(folder), options, Some(maps)));
        });
        assert_eq!(text, "2005:3006\n", "{options:?}");
    }
}

/// "If they are not specified, the runtime MAY use the container's user namespace mapping" (config.md, "Linux mount
/// options"): as runc and crun do.
#[test]
fn mount_without_mappings_has_those_of_the_containers_user_namespace() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    let host = open_host();
    let source = volume(host.folder());
    let text = output("stat -c %u:%g /volume/file; touch /volume/new; id -u", |bundle, _| {
        user_namespace(bundle, None);
        bundle.push("/mounts", mount(&source, &["bind", "idmap"], None));
    });
    assert_eq!(text, "5:6\n0\n");
    let new = fs::metadata(Path::new(&source).join("new")).expect("the container's file");
    assert_eq!((new.uid(), new.gid()), (0, 0), "what the container's root makes is root's");
}

/// The same for a user namespace that is joined by its path.
#[test]
fn mount_without_mappings_has_those_of_a_joined_user_namespace() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    let host = open_host();
    let mut first = host.bundle("a", "sleep 1000");
    user_namespace(&mut first, None);
    let first = host.start(first);
    let pid = first.run();
    let text = output("stat -c %u:%g /volume/file", |bundle, folder| {
        user_namespace(bundle, Some(format!("/proc/{pid}/ns/user")));
        bundle.push("/mounts", mount(&volume(folder), &["bind", "idmap"], None));
    });
    assert_eq!(text, "5:6\n");
}

/// ridmap: "Indicates that the mount MUST have an idmapping applied, and the mapping is applied recursively"
/// (config.md, "Linux mount options").
#[test]
fn ridmap_maps_the_mounts_below_and_idmap_does_not() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    for (option, below) in [("idmap", "0"), ("ridmap", "2000")] {
        let host = open_host();
        let source = volume(host.folder());
        let _below = Mounted::tmpfs(&Path::new(&source).join("below"));
        let text = output("stat -c %u /volume/file /volume/below", |bundle, _| {
            let maps = (map(0, 2000), map(0, 2000));
            bundle.push("/mounts", mount(&source, &["rbind", option], Some(maps)));
        });
        assert_eq!(text, format!("2005\n{below}\n"), "{option}");
    }
}

/// crun(1): "The mapping can be specified after the idmap option like: idmap=uids=0-1-10#10-11-10;gids=0-100-10." "If the
/// specified mapping is prepended with a '@' then the mapping is considered relative to the container user namespace."
/// To see it fail: `idmap_option::spread` left out, which has the option refused.
#[test]
fn option_of_crun_has_mappings_of_its_own() {
    needs_containers!();
    needs!(!runc_differs("crun's bind options"), "runc takes no mappings from an option");
    let option = "idmap=uids=0-2000-3#5-2010-1;gids=0-3000-1000";
    let text = output("stat -c %u:%g /volume/file", |bundle, folder| {
        bundle.push("/mounts", mount(&volume(folder), &["bind", option], None));
    });
    assert_eq!(text, "2010:3006\n");
    // Ids 5 and 6 of the files are 7 and 8 of the container.
    let option = "idmap=uids=@5-7-1;gids=@6-8-1";
    let host = open_host();
    let source = volume(host.folder());
    let text = output("stat -c %u:%g /volume/file", |bundle, _| {
        user_namespace(bundle, None);
        bundle.push("/mounts", mount(&source, &["bind", option], None));
    });
    assert_eq!(text, "7:8\n");
    let text = refusal(|bundle, folder| {
        bundle.push("/mounts", mount(&volume(folder), &["bind", "idmap=uids=0-2000"], None));
    });
    assert!(text.contains("mounts[7].options `idmap=uids=0-2000` is not understood"), "{text}");
}

/// Attributes go with the mapping.
#[test]
fn mapped_mount_keeps_its_other_options() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    let text = output("touch /volume/new 2>&1; grep ' /volume ' /proc/self/mountinfo", |bundle, folder| {
        let options = ["bind", "ro", "noexec", "idmap", "rprivate"];
        bundle.push("/mounts", mount(&volume(folder), &options, Some((map(0, 2000), map(0, 2000)))));
    });
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("ro,noexec") && !text.contains("master:"), "{text}");
}

/// crun's meaning of `idmap` on something else than a bind: the new filesystem is mapped.
#[test]
fn new_tmpfs_can_be_mapped() {
    needs_containers!();
    needs!(!runc_differs("id-mapped new filesystem"), "runc maps binds only");
    let text = output("stat -c %u:%g:%a /volume; grep ' /volume ' /proc/self/mountinfo", |bundle, _| {
        let mut tmpfs = mount("tmpfs", &["idmap", "mode=751", "nosuid"], Some((map(0, 2000), map(0, 3000))));
        tmpfs["type"] = json!("tmpfs");
        bundle.push("/mounts", tmpfs);
    });
    assert!(text.starts_with("2000:3000:751\n") && text.contains("nosuid"), "{text}");
}

/// "If there are no uidMappings and gidMappings specified and the container isn't using user namespaces, an error
/// MUST be returned." (config.md, "Linux mount options")
#[test]
fn idmap_without_any_mapping_is_an_error() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    let text =
        refusal(|bundle, folder| bundle.push("/mounts", mount(&volume(folder), &["bind", "idmap"], None)));
    assert!(!ours() || text.contains("mounts[7] is id-mapped without mappings"), "{text}");
}

/// The kernel says EINVAL and no more about a filesystem that it cannot map.
#[test]
fn filesystem_that_cannot_be_mapped_is_named() {
    needs_containers!();
    needs!(maps_ids(), "{WHY}");
    let host = open_host();
    let place = host.folder().join("overlay");
    let lower = format!("lowerdir={}:{}", image_root().display(), host.folder().display());
    let _overlay = Mounted::new(&["-t", "overlay", "-o", &lower, "overlay"], &place);
    let source = place.display().to_string();
    let maps = || Some((map(0, 2000), map(0, 2000)));
    let text = refusal(|bundle, _| bundle.push("/mounts", mount(&source, &["bind", "idmap"], maps())));
    if ours() {
        assert!(text.contains("mounts[7] (/volume)") && text.contains("cannot id-map overlay"), "{text}");
        assert!(text.contains("give the files to the mapped ids"), "{text}");
    }
}

/// A pod's volumes lie below folders that only root may enter: the shim opens them for a mapped root.
#[test]
fn bind_in_a_user_namespace_needs_no_way_to_its_source() {
    needs_containers!();
    let text = output("ls -n /volume | grep -c file", |bundle, folder| {
        let closed = folder.join("closed");
        fs::create_dir(&closed).expect("make a folder");
        let source = volume(&closed);
        fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
        user_namespace(bundle, None);
        bundle.push("/mounts", mount(&source, &["rbind", "rprivate"], None));
    });
    assert_eq!(text, "1\n");
}
