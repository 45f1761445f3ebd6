//! What a later `delete` must know when the shim is gone: one small file in the bundle (architecture: nothing else is
//! written to disk). Written before each thing it names exists, so that a crash never hides one.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::error::{Doing, Error};
use super::resctrl::Groups;
use crate::sys::fault::fault;

const FILE: &str = "myshim.json";
/// The next content of the file, until it takes its place.
const NEW: &str = ".myshim.json.new";

/// The file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub id: String,
    /// /proc/sys/kernel/random/boot_id: a pid of another boot names nobody.
    pub boot_id: String,
    pub cgroup: Option<Cgroup>,
    /// Create found nobody in the cgroup, or no cgroup: whoever is in it now is the container's. Noted before the
    /// cgroup is made.
    #[serde(default)]
    pub owns_cgroup: bool,
    /// Init, once cloned.
    pub pid: Option<i32>,
    /// Its start time (field 22 of proc_pid_stat(5)): tells it from a later process with the same pid.
    #[serde(default)]
    pub start_time: u64,
    pub rootfs: Option<PathBuf>,
    /// Groups of `linux.intelRdt`.
    #[serde(default)]
    pub resctrl: Groups,
    /// Rootfs mounts that have a place of their own below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rootfs_targets: Vec<String>,
    /// Set once init has been reaped.
    pub exit: Option<Exit>,
    /// There is, or was, an init: whatever becomes of it, poststop hooks are due.
    #[serde(default, alias = "created")]
    pub poststop_due: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Exit {
    pub status: u32,
    /// Nanoseconds since the epoch.
    pub at: u64,
}

impl State {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            boot_id: boot_id().into(),
            cgroup: None,
            owns_cgroup: false,
            pid: None,
            start_time: 0,
            rootfs: None,
            resctrl: Groups::default(),
            rootfs_targets: Vec::new(),
            exit: None,
            poststop_due: false,
        }
    }

    /// Reads the bundle's state; `None` if there is none: nothing has been made.
    ///
    /// # Errors
    /// When there is one that cannot be read: what it names is still there.
    pub fn load(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = bundle.join(FILE);
        let unread = |cause: &dyn fmt::Display| {
            let remedy = "what it names is left as it is: call again when it can be read, or, if it never can, end what \
                          runs in the container's cgroup, unmount what is below the bundle, and remove the file";
            Error::doing(format!("reading {}", path.display()), format!("{cause}; {remedy}"))
        };
        match fs::read(&path) {
            // KERNEL: a host that lost its power may have kept the first note's name without a byte of it.
            Ok(json) if json.is_empty() => Ok(None),
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| unread(&e)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unread(&e)),
        }
    }

    /// Replaces the file in one step: a reader sees the old state or the new one.
    ///
    /// # Errors
    /// When the bundle cannot be written.
    pub fn save(&self, bundle: &Path) -> Result<(), Error> {
        let path = bundle.join(FILE);
        let new = bundle.join(NEW);
        let doing = || format!("writing {}", path.display());
        let json = serde_json::to_vec(self).map_err(|e| Error::doing(doing(), e))?;
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create(true).truncate(true).open(&new).doing(doing)?;
        file.write_all(&json).doing(doing)?;
        fault!("state: written but not in place")?;
        fs::rename(&new, &path).doing(doing)
    }

    pub fn remove(bundle: &Path) {
        for name in [FILE, NEW] {
            // Gone already, or the whole bundle is: both are what is wanted.
            let _ = fs::remove_file(bundle.join(name));
        }
    }

    /// What is left to say of a container that is gone: the pid and the exit that a repeated `delete` answers with.
    /// Nothing is named any more that could belong to somebody else by then.
    pub fn buried(&self) -> Self {
        Self {
            boot_id: String::new(),
            cgroup: None,
            owns_cgroup: false,
            rootfs: None,
            poststop_due: false,
            resctrl: Groups::default(),
            ..self.clone()
        }
    }

    /// Was this written in the boot we are in?
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }
}

fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    if ID.get().is_none()
        && let Ok(text) = fs::read_to_string("/proc/sys/kernel/random/boot_id")
    {
        // Another thread's is the same.
        let _ = ID.set(text);
    }
    ID.get().map_or("", |text| text.trim())
}

/// Start time of `pid` in clock ticks since boot; 0 if there is no such process.
pub fn start_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the fields behind the last one are numbers.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new("c1");
        state.pid = Some(42);
        state.exit = Some(Exit { status: 137, at: 5 });
        state.save(dir.path()).unwrap();
        let again = State::load(dir.path()).unwrap().unwrap();
        assert_eq!((again.id.as_str(), again.pid, again.exit.unwrap().status), ("c1", Some(42), 137));
        assert!(again.is_of_this_boot());
        State::remove(dir.path());
        assert!(State::load(dir.path()).unwrap().is_none());
    }

    #[test]
    fn only_a_state_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path();
        let file = bundle.join(FILE);
        assert!(State::load(bundle).unwrap().is_none() && State::load(&file).unwrap().is_none());
        fs::write(&file, "").unwrap();
        assert!(State::load(bundle).unwrap().is_none());
        let refused = || {
            let text = State::load(bundle).unwrap_err().to_string();
            assert!(text.contains(&file.display().to_string()) && text.contains("remove the file"), "{text}");
        };
        for foreign in [&b"{\"id\":\"c1\""[..], b"{\"version\":7}", b"\xff"] {
            fs::write(&file, foreign).unwrap();
            refused();
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        refused();
    }

    #[test]
    fn a_running_process_has_a_start_time_and_a_missing_one_none() {
        assert!(start_time(std::process::id() as i32) > 0);
        assert_eq!(start_time(i32::MAX), 0);
    }
}
