//! A container's control groups: v1, hybrid and v2, made by us (cgroupfs driver) or by systemd.
//!
//! A [`Cgroup`] is a set of directories, one per hierarchy, and nothing else: it can be written to a state file
//! and killed or removed by a process that has never seen the container. Every operation asks for a controller
//! by name and is told where it lives, so a host that has some controllers on v1 and others on v2 needs no
//! case of its own. Kernel documents: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst; cgroups(7).
//!
//! Left to others: when to apply, join and kill (the plan), and what containerd calls the numbers (the shim).

mod block_io;
mod cpu;
mod create;
mod device_filter;
mod device_rules;
mod devices;
mod error;
mod file;
mod freezer;
mod host;
mod ignored;
mod join;
mod kill;
mod limits;
mod locate;
mod memory;
mod oom;
mod owner;
mod procs;
mod remove;
mod stats;
mod stats_v1;
mod stats_v2;
mod systemd;
#[cfg(test)]
pub mod testing;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use device_rules::DeviceRules;
pub use devices::DevicePolicy;
pub use error::{Error, FileError, Process, Result};
pub use host::{Hierarchy, Host, Mode, unescape};
pub use join::Join;
pub use locate::CgroupsPath;
pub use memory::limit_and_peak;
pub use oom::OomWatch;
pub use owner::owner;
pub use procs::describe;
pub use stats::{Stats, v1, v2};
pub use systemd::Seat;

/// The container's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    /// The v1 controllers of the hierarchy, or its `name=…`; empty for cgroup2.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    pub dir: PathBuf,
}

/// A container's place in every hierarchy of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Places", into = "Places")]
pub struct Cgroup(Arc<Places>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Places {
    v1: Vec<Dir>,
    unified: Option<Dir>,
    /// The scope whose cgroup this is, with the systemd driver.
    #[serde(default)]
    unit: Option<systemd::Unit>,
}

impl From<Places> for Cgroup {
    fn from(places: Places) -> Self {
        Self(Arc::new(places))
    }
}

impl From<Cgroup> for Places {
    fn from(cgroup: Cgroup) -> Self {
        (*cgroup.0).clone()
    }
}

/// Where a controller's files of this container are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Cgroup {
    fn new(v1: Vec<Dir>, unified: Option<Dir>) -> Self {
        Places { v1, unified, unit: None }.into()
    }

    /// No cgroup at all: a rootless shim on a host that lets it make none. Nothing is limited, counted or frozen.
    pub fn none() -> Self {
        Self::new(Vec::new(), None)
    }

    fn of_unit(v1: Vec<Dir>, unified: Option<Dir>, unit: systemd::Unit) -> Self {
        Places { v1, unified, unit: Some(unit) }.into()
    }

    fn unit(&self) -> Option<&systemd::Unit> {
        self.0.unit.as_ref()
    }

    pub fn mode(&self) -> Mode {
        match (self.0.v1.is_empty(), &self.0.unified) {
            (true, _) => Mode::Unified,
            (_, Some(_)) => Mode::Hybrid,
            _ => Mode::V1,
        }
    }

    /// The container's directories in the v1 hierarchies (none on a unified host).
    pub fn v1(&self) -> &[Dir] {
        &self.0.v1
    }

    /// The container's directory in the cgroup2 hierarchy, if there is one.
    pub fn unified(&self) -> Option<&Dir> {
        self.0.unified.as_ref()
    }

    /// Every directory, v1 first.
    pub fn dirs(&self) -> impl Iterator<Item = &Dir> {
        self.0.v1.iter().chain(&self.0.unified)
    }

    /// The directory of a v1 controller.
    fn v1_dir(&self, controller: &str) -> Option<&Path> {
        let dir = self.0.v1.iter().find(|d| d.controllers.iter().any(|c| c == controller))?;
        Some(&dir.dir)
    }

    /// Where a controller lives: a v1 mount of it if there is one, else cgroup2.
    fn place(&self, v1_name: &str) -> Option<Place<'_>> {
        let v1 = self.v1_dir(v1_name).map(Place::V1);
        v1.or_else(|| self.unified().map(|d| Place::V2(&d.dir)))
    }
}
