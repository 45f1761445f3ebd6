//! `linux.intelRdt`: the container's groups in the resctrl file system. runtime-spec, "IntelRdt"; kernel document
//! `filesystems/resctrl.rst`.
//!
//! A process enters a group as it enters a v1 cgroup: it writes `0`, itself, to `tasks`; so do exec'd ones.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use super::error::{Doing, Error};

/// The groups of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Whose `tasks` its processes are written to, in this order.
    pub joined: Vec<PathBuf>,
    /// What goes with the container.
    pub owned: Vec<PathBuf>,
}

/// What the spec asks for, in terms of files.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    root: PathBuf,
    group: PathBuf,
    /// `closID` is the administrator's: the group stays when the container goes.
    named: bool,
    /// Lines for `schemata`: compared with what an existing group has, then written.
    compared: Vec<String>,
    written: Vec<String>,
    monitor: Option<PathBuf>,
}

impl Wanted {
    fn new(rdt: &LinuxIntelRdt, id: &str, root: &Path) -> Self {
        let class = rdt.clos_id().as_deref().filter(|class| !class.is_empty());
        let group = match class {
            Some("/") => root.to_owned(),
            class => root.join(class.unwrap_or(id)),
        };
        let set = |schema: &Option<String>| schema.clone().filter(|schema| !schema.is_empty());
        let compared: Vec<_> =
            set(rdt.l3_cache_schema()).into_iter().chain(set(rdt.mem_bw_schema())).collect();
        let written = compared.iter().chain(rdt.schemata().iter().flatten()).cloned().collect();
        let monitor = rdt.enable_monitoring().unwrap_or(false).then(|| group.join("mon_groups").join(id));
        Self { root: root.to_owned(), group, named: class.is_some(), compared, written, monitor }
    }

    /// Makes and sets what is wanted; `groups` grows with each thing made.
    fn carry_out(&self, groups: &mut Groups) -> Result<(), Error> {
        let at = self.group.display();
        let made = match self.named && self.written.is_empty() {
            true if !self.group.is_dir() => {
                let remedy = "make it first, or say what it holds in linux.intelRdt.schemata";
                return Err(Error::Spec(format!("linux.intelRdt.closID: there is no {at}; {remedy}")));
            }
            true => false,
            false => self.make(&self.group)?,
        };
        if made && !self.named {
            groups.owned.push(self.group.clone());
        }
        groups.joined.push(self.group.clone());
        if self.named && !made {
            self.compare()?;
        }
        if !self.written.is_empty() {
            let text = self.written.join("\n") + "\n";
            let written = fs::write(self.group.join("schemata"), &text);
            written.map_err(|e| self.failure(format!("writing {text:?} to {at}/schemata"), e))?;
        }
        if let Some(monitor) = &self.monitor {
            if self.make(monitor)? {
                groups.owned.push(monitor.clone());
            }
            groups.joined.push(monitor.clone());
        }
        Ok(())
    }

    /// True if it was not there before.
    fn make(&self, group: &Path) -> Result<bool, Error> {
        match fs::create_dir(group) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.failure(format!("making {}", group.display()), e)),
        }
    }

    /// "runtimes MUST compare l3CacheSchema and/or memBwSchema value with schemata file".
    fn compare(&self) -> Result<(), Error> {
        let path = self.group.join("schemata");
        if self.compared.is_empty() {
            return Ok(());
        }
        let there = fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))?;
        let there: Vec<_> = there.lines().flat_map(shares).collect();
        for line in &self.compared {
            if let Some((resource, domain, _)) = shares(line).into_iter().find(|share| !there.contains(share))
            {
                let remedy = "change the spec, or use another closID";
                return Err(Error::Spec(format!(
                    "linux.intelRdt: {line:?} is not what {} has for {resource}:{domain}; {remedy}",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// With the kernel's own explanation, if it has one.
    fn failure(&self, what: String, cause: std::io::Error) -> Error {
        let status = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        match status.trim() {
            "" | "ok" => Error::doing(format!("linux.intelRdt: {what}"), cause),
            status => Error::doing(format!("linux.intelRdt: {what}"), format!("{cause}: {status}")),
        }
    }
}

/// `L3:0=0ff;1=C0` as resource, cache and value, numbers without what is only notation.
fn shares(line: &str) -> Vec<(String, u32, String)> {
    let Some((resource, list)) = line.split_once(':') else { return Vec::new() };
    let share = |share: &str| {
        let (domain, value) = share.split_once('=')?;
        let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
        Some((resource.trim().to_string(), domain.trim().parse().ok()?, value))
    };
    list.split(';').filter_map(share).collect()
}

/// Prepares the groups of container `id`. On failure `groups` names what was made so far.
///
/// # Errors
/// When no resctrl is mounted, or it does not take what the spec says.
pub fn prepare(rdt: &LinuxIntelRdt, id: &str, groups: &mut Groups) -> Result<(), Error> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").doing(|| "reading /proc/self/mountinfo".into())?;
    let root = mount_point(&mounts).ok_or_else(|| {
        let remedy = "mount it on /sys/fs/resctrl, on a processor that has it";
        Error::Spec(format!("linux.intelRdt: no resctrl file system is mounted; {remedy}"))
    })?;
    Wanted::new(rdt, id, &root).carry_out(groups)
}

/// The first resctrl in a mountinfo (proc_pid_mountinfo(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| {
        line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some("resctrl"))
    })?;
    line.split(' ').nth(4).map(PathBuf::from)
}

impl Groups {
    /// The `tasks` files to join, open for writing.
    ///
    /// # Errors
    /// When a group is gone.
    pub fn tasks(&self) -> Result<Vec<std::os::fd::OwnedFd>, Error> {
        let open = |group: &PathBuf| {
            let path = group.join("tasks");
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.map(Into::into).doing(|| format!("opening {}", path.display()))
        };
        self.joined.iter().map(open).collect()
    }

    /// Removes what the container owns, innermost first. Idempotent.
    ///
    /// # Errors
    /// The first failure, after all was tried.
    pub fn remove(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for group in self.owned.iter().rev() {
            match fs::remove_dir(group) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    outcome = outcome.and(Err(Error::doing(format!("removing {}", group.display()), e)));
                }
                _ => {}
            }
        }
        outcome
    }
}

#[cfg(test)]
#[path = "resctrl_tests.rs"]
mod tests;
