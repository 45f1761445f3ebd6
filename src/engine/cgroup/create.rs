//! Making the container's cgroup in every hierarchy. What a failed creation has made is removed again.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::error::{Error, Result};
use super::systemd::{self, Seat};
use super::{Cgroup, DevicePolicy, Dir, Mode, file, procs};
use crate::sys::fault::fault;

impl Cgroup {
    /// Makes the cgroup, with systemd's help where a unit is wanted: the process that then holds it must live until init
    /// is in there.
    pub fn occupy(
        &self,
        r: &LinuxResources,
        annotations: &HashMap<String, String>,
        policy: DevicePolicy,
    ) -> Result<Option<Seat>> {
        let Some(unit) = self.unit() else { return self.create().map(|()| None) };
        let seat = systemd::start(unit, r, annotations, policy, self.v1().is_empty())?;
        self.complete().inspect_err(|_| {
            // The scope goes with the process that holds it, if not by this.
            let _ = systemd::stop(unit, Duration::MAX);
        })?;
        Ok(Some(seat))
    }

    /// Makes the directories of controllers that systemd does not use itself.
    fn complete(&self) -> Result<()> {
        self.v1().iter().try_for_each(|dir| {
            mkdir_all(&dir.mount, &dir.dir, &mut Vec::new())?;
            if dir.controllers.iter().any(|c| c == "cpuset") {
                inherit_cpuset(&dir.mount, &dir.dir)
            } else {
                Ok(())
            }
        })?;
        self.unified().map_or(Ok(()), |dir| domain_or_explain(&dir.dir))
    }

    /// Makes the cgroup. Directories may exist already, but not with processes in them or frozen: limits would
    /// be taken over from a stranger, and the container could never start.
    pub fn create(&self) -> Result<()> {
        let mut made = Vec::new();
        let done = self.dirs().try_for_each(|dir| {
            self.create_in(dir, &mut made)?;
            fault!("create: some cgroups made").map_err(Error::Injected)
        });
        if done.is_err() {
            for dir in made.iter().rev() {
                // A directory that cannot go now is not ours alone any more; the error told is the first one.
                let _ = fs::remove_dir(dir);
            }
        }
        done
    }

    /// Nobody is in the cgroup, as far as it exists, and it is not frozen.
    pub fn refuse_in_use(&self) -> Result<()> {
        self.dirs().filter(|dir| dir.dir.exists()).try_for_each(|dir| refuse_in_use(&dir.dir))
    }

    fn create_in(&self, dir: &Dir, made: &mut Vec<PathBuf>) -> Result<()> {
        let unified = dir.controllers.is_empty();
        // ORDER: on a unified host the parents' controllers are enabled before the leaf is made, so that it is
        // born with all its files. A hybrid host has its limits on v1; nothing is enabled there unasked.
        if unified && self.mode() == Mode::Unified {
            enable_from_top(dir, made)?;
        }
        if !mkdir_all(&dir.mount, &dir.dir, made)? {
            refuse_in_use(&dir.dir)?;
        }
        if dir.controllers.iter().any(|c| c == "cpuset") {
            inherit_cpuset(&dir.mount, &dir.dir)?;
        }
        if unified { domain_or_explain(&dir.dir) } else { Ok(()) }
    }
}

/// Makes `dir` and what is missing between it and `mount`; true if `dir` itself was made.
fn mkdir_all(mount: &Path, dir: &Path, made: &mut Vec<PathBuf>) -> Result<bool> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => {
            made.push(dir.to_owned());
            Ok(true)
        }
        Err(e) => match (e.raw_os_error(), dir.parent()) {
            (Some(libc::EEXIST), _) => Ok(false),
            (Some(libc::ENOENT), Some(parent)) if dir != mount && parent != mount => {
                mkdir_all(mount, parent, made)?;
                mkdir_all(mount, dir, made)
            }
            (Some(libc::EAGAIN), _) => Err(Error::file("mkdir", dir, &e)
                .with_remedy("cgroup.max.descendants or cgroup.max.depth of a parent is reached")),
            (Some(libc::EROFS | libc::EACCES), _) => Err(Error::file("mkdir", dir, &e).with_remedy(
                "the hierarchy that linux.cgroupsPath lies in must be writable, or delegated to this user",
            )),
            _ => Err(Error::file("mkdir", dir, &e)),
        },
    }
}

/// COMPAT: runc refuses a cgroup with processes since 1.1 and a frozen one since 1.2.
fn refuse_in_use(dir: &Path) -> Result<()> {
    let pids = procs::below(dir)?;
    if let Some(first) = pids.first() {
        return Err(Error::NotEmpty {
            path: dir.to_owned(),
            count: pids.len(),
            first: procs::describe(*first),
        });
    }
    let v1 = file::read_if_there(dir, "freezer.state")?.is_some_and(|s| s.trim() != "THAWED");
    let v2 = file::read_if_there(dir, "cgroup.freeze")?.is_some_and(|s| s.trim() == "1");
    if v1 || v2 { Err(Error::Frozen(dir.to_owned())) } else { Ok(()) }
}

/// KERNEL: a v1 cpuset starts without cpus and memory nodes, and refuses tasks until it has both: every cgroup
/// from the mount down to ours takes its parent's where it has none.
fn inherit_cpuset(mount: &Path, dir: &Path) -> Result<()> {
    ["cpuset.cpus", "cpuset.mems"].iter().try_for_each(|name| inherited(mount, dir, name).map(drop))
}

/// The value of `name` in `dir`, which is filled in if it was empty.
fn inherited(mount: &Path, dir: &Path, name: &str) -> Result<String> {
    let own = file::read(dir, name)?.trim().to_owned();
    let Some(parent) = dir.parent().filter(|_| own.is_empty() && dir != mount) else { return Ok(own) };
    let value = inherited(mount, parent, name)?;
    file::write(dir, name, &value)?;
    Ok(value)
}

/// Makes the parents of `dir` and enables every controller they are given for their children.
fn enable_from_top(dir: &Dir, made: &mut Vec<PathBuf>) -> Result<()> {
    let Some(parent) = dir.dir.parent() else { return Ok(()) };
    if parent != dir.mount {
        mkdir_all(&dir.mount, parent, made)?;
    }
    enable(&dir.mount, parent, None)
}

/// Enables controllers (all that are on offer, or one) in `cgroup.subtree_control` from `mount` down to `last`.
///
/// A controller that cannot be enabled (processes in a parent, no delegation) is no error here: only a limit that
/// needs it is, and it then says so.
pub(super) fn enable(mount: &Path, last: &Path, only: Option<&str>) -> Result<()> {
    if last != mount
        && let Some(parent) = last.parent()
    {
        enable(mount, parent, only)?;
    }
    let offered = file::read(last, "cgroup.controllers")?;
    let enabled = file::read(last, "cgroup.subtree_control")?;
    let wanted =
        |name: &&str| only.is_none_or(|o| o == *name) && !enabled.split_whitespace().any(|e| e == *name);
    let missing: Vec<String> = offered.split_whitespace().filter(wanted).map(|c| format!("+{c}")).collect();
    if !missing.is_empty() && file::write(last, "cgroup.subtree_control", &missing.join(" ")).is_err() {
        for one in &missing {
            let _ = file::write(last, "cgroup.subtree_control", one);
        }
    }
    Ok(())
}

/// KERNEL: below a threaded cgroup, or below one that holds processes, a new cgroup is `domain invalid` and takes
/// no process until it is made threaded, which excludes memory and io limits.
fn domain_or_explain(dir: &Path) -> Result<()> {
    match file::read_if_there(dir, "cgroup.type")?.as_deref().map(str::trim) {
        Some("domain invalid") => Err(Error::Path {
            path: dir.display().to_string(),
            reason: "the kernel calls it 'domain invalid', because a parent is threaded or holds processes; \
                     choose a cgroups path below an ordinary cgroup",
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing;
    use super::*;

    #[test]
    fn a_created_cgroup_exists_everywhere_can_be_created_again_and_goes_without_a_trace() {
        let Some(cgroup) = testing::cgroup("create") else { return };
        cgroup.create().unwrap();
        assert!(cgroup.dirs().all(|d| d.dir.is_dir()));
        if let Some(dir) = cgroup.v1_dir("cpuset") {
            assert!(!file::read(dir, "cpuset.cpus").unwrap().trim().is_empty());
        }
        cgroup.create().unwrap();
        cgroup.remove(Duration::ZERO).unwrap();
        assert!(cgroup.dirs().all(|d| !d.dir.exists()));
        cgroup.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_cgroup_with_a_process_is_refused_and_left_alone() {
        let Some(cgroup) = testing::cgroup("busy") else { return };
        cgroup.create().unwrap();
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        let e = cgroup.create().unwrap_err();
        assert!(e.to_string().contains("container's cgroup is not empty"), "{e}");
        assert!(cgroup.dirs().all(|d| d.dir.is_dir()));
        sleeper.end();
        cgroup.remove(Duration::from_secs(2)).unwrap();
    }

    #[test]
    fn a_frozen_cgroup_is_refused() {
        let Some(cgroup) = testing::cgroup("frozen") else { return };
        cgroup.create().unwrap();
        cgroup.freeze(Duration::from_secs(1)).unwrap();
        assert!(matches!(cgroup.create(), Err(Error::Frozen(_))));
        cgroup.thaw().unwrap();
        cgroup.create().unwrap();
        cgroup.remove(Duration::ZERO).unwrap();
    }
}
