//! Whose the container's cgroup is: its user's, where it is to manage the cgroup itself (runtime-spec config-linux.md,
//! "Cgroup ownership"; cgroups(7), "Cgroup delegation").

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount, Spec};

use super::error::{Error, Result};
use super::{Cgroup, Mode};
use crate::engine::idmap;

/// The files that a kernel lets a delegate own, one a line.
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";
/// KERNEL: before 4.15 there was no such list. These are the ones that the spec names.
const FALLBACK: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The host's id of the user that the container's cgroup is for; `None` where it stays the shim's.
pub fn owner(spec: &Spec) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let namespaces = || linux.namespaces().iter().flatten();
    let is_new = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path.as_os_str().is_empty());
    let new = namespaces().any(|ns| ns.typ() == Kind::Cgroup && is_new(ns.path()));
    if !new || !spec.mounts().iter().flatten().any(is_writable) {
        return None;
    }
    let uid = spec.process().as_ref()?.user().uid();
    if namespaces().all(|ns| ns.typ() != Kind::User) {
        return Some(uid);
    }
    idmap::host_id(linux.uid_mappings().as_deref().unwrap_or_default(), uid)
}

/// The mount of which the spec says that it hands the cgroup over.
fn is_writable(mount: &Mount) -> bool {
    let read_only = |option: &String| option == "ro" || option == "rro";
    mount.source().as_deref() == Some(Path::new("cgroup"))
        && mount.destination() == Path::new("/sys/fs/cgroup")
        && !mount.options().iter().flatten().any(read_only)
}

impl Cgroup {
    /// Gives the directory to user `uid` of the host, and those of its files that a delegate may have: no limits. v1 has no
    /// such delegation: nothing is done there.
    ///
    /// # Errors
    /// When the kernel refuses a change of owner. A file that this cgroup does not have is none.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        let (Mode::Unified, Some(unified)) = (self.mode(), self.unified()) else { return Ok(()) };
        let listed = std::fs::read_to_string(DELEGATE).unwrap_or_else(|_| FALLBACK.to_owned());
        give(&unified.dir, uid)?;
        listed.lines().try_for_each(|name| match give(&unified.dir.join(name), uid) {
            Err(e) if e.errno() == libc::ENOENT => Ok(()),
            done => done,
        })
    }
}

fn give(path: &Path, uid: u32) -> Result<()> {
    chown(path, Some(uid), None).map_err(|e| Error::file("chown", path, &e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::{Value, json};

    use super::super::{Dir, testing};
    use super::*;

    fn wanted(uid: u32, namespaces: Value, mount: Value) -> Option<u32> {
        let spec = json!({
            "ociVersion": "1.3.0", "root": {"path": "rootfs"}, "mounts": [mount],
            "process": {"user": {"uid": uid, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": namespaces, "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}]},
        });
        owner(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_new_cgroup_namespace_and_a_writable_mount_make_the_user_the_owner() {
        let mount = |source: &str, target: &str, options: &[&str]| json!({"type": "cgroup", "source": source, "destination": target, "options": options});
        let writable = mount("cgroup", "/sys/fs/cgroup", &["nosuid", "rw"]);
        let (user, new) = (json!({"type": "user"}), json!({"type": "cgroup"}));
        let joined = json!({"type": "cgroup", "path": "/proc/1/ns/cgroup"});
        assert_eq!(wanted(3, json!([user, new]), writable.clone()), Some(5003));
        assert_eq!(wanted(10, json!([user, new]), writable.clone()), None, "nobody on the host");
        assert_eq!(wanted(3, json!([new]), writable.clone()), Some(3));
        assert_eq!(wanted(3, json!([user]), writable.clone()), None);
        assert_eq!(wanted(3, json!([user, joined]), writable), None);
        for other in [
            mount("cgroup", "/sys/fs/cgroup", &["ro"]),
            mount("cgroup", "/sys/fs/cgroup", &["rro"]),
            mount("cgroup", "/cgroup", &[]),
            mount("tmpfs", "/sys/fs/cgroup", &[]),
        ] {
            assert_eq!(wanted(3, json!([user, new]), other.clone()), None, "{other}");
        }
    }

    #[test]
    fn only_what_is_listed_changes_hands_and_nothing_on_v1() {
        if testing::host().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["cgroup.procs", "pids.max"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let dir = Dir { controllers: Vec::new(), mount: folder.path().into(), dir: folder.path().into() };
        let owners =
            || ["", "cgroup.procs", "pids.max"].map(|n| folder.path().join(n).metadata().unwrap().uid());
        Cgroup::new(vec![dir.clone()], Some(dir.clone())).give_to(5000).unwrap();
        assert_eq!(owners(), [0, 0, 0]);
        Cgroup::new(Vec::new(), Some(dir)).give_to(5000).unwrap();
        assert_eq!(owners(), [5000, 5000, 0]);
    }
}
