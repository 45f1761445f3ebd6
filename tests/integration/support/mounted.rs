//! Mounts that a test makes on the host: gone when dropped, also when the test fails.

use super::subject;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Mounted(PathBuf);

impl Mounted {
    /// mount(8) with `arguments`, on the folder `place`, which is made.
    #[track_caller]
    pub fn new(arguments: &[&str], place: &Path) -> Self {
        std::fs::create_dir_all(place).expect("make a mount point");
        let output = Command::new("mount").args(arguments).arg(place).output().expect("start mount");
        assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Self(place.to_owned())
    }

    #[track_caller]
    pub fn tmpfs(place: &Path) -> Self {
        Self::new(&["-t", "tmpfs", "tmpfs"], place)
    }

    /// A folder bound on itself, with a propagation of its own (`--make-shared`, …).
    #[track_caller]
    pub fn with_propagation(place: &Path, option: &str) -> Self {
        std::fs::create_dir_all(place).expect("make a mount point");
        let path = place.to_str().expect("a plain path");
        let mounted = Self::new(&["--bind", path], place);
        let status = Command::new("mount").arg(option).arg(place).status().expect("start mount");
        assert!(status.success(), "mount {option}");
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
    }
}

/// Does the runc beside the containerd under test id-map mounts? Ours does.
pub fn maps_ids() -> bool {
    let features = || Command::new(subject::programs().join("runc")).arg("features").output().ok();
    subject::ours() || features().is_some_and(|o| String::from_utf8_lossy(&o.stdout).contains("\"idmap\""))
}
