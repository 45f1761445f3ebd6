//! Real cgroups for tests: made under /myshim-test-<pid>, skipped with a printed reason where that is impossible.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, Dir, Host, Mode, file};

pub fn host() -> Option<&'static Host> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("skipped: needs root");
        return None;
    }
    Host::get().inspect_err(|e| eprintln!("skipped: {e}")).ok()
}

/// A cgroup of this test's own, not created yet.
pub fn cgroup(name: &str) -> Option<Cgroup> {
    let path = format!("/myshim-test-{}-{name}", std::process::id());
    Some(Cgroup::locate(Some(Path::new(&path)), name, host()?, false).unwrap())
}

/// What an update would write into which file, on v1 or on v2: for controllers and disks that no machine of ours has, a
/// folder with these files stands for the container's cgroup.
pub fn written(mode: Mode, r: &LinuxResources, files: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for name in files {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let controllers = ["rdma", "net_prio", "blkio"].map(str::to_owned).to_vec();
    let dir = |controllers| Dir { controllers, mount: folder.path().into(), dir: folder.path().into() };
    let cgroup = match mode {
        Mode::Unified => {
            std::fs::write(folder.path().join("cgroup.controllers"), "io rdma").unwrap();
            Cgroup::new(Vec::new(), Some(dir(Vec::new())))
        }
        _ => Cgroup::new(vec![dir(controllers)], None),
    };
    cgroup.update(r).unwrap();
    files.iter().map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap()).collect()
}

/// A process that sleeps inside a cgroup.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn inside(cgroup: &Cgroup) -> Self {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        for dir in cgroup.dirs() {
            file::write(&dir.dir, "cgroup.procs", &child.id().to_string()).unwrap();
        }
        Self(child)
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Ends and reaps it; tells the signal that it died of.
    pub fn end(&mut self) -> i32 {
        let _ = self.0.kill();
        self.0.wait().unwrap().signal().unwrap_or(0)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}
