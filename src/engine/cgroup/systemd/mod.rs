//! The systemd driver: a container's cgroup is the cgroup of a transient scope, delegated to us.
//!
//! ```text
//! Create   StartTransientUnit(scope, PIDs=[a process that sits in for init], limits) -- JobRemoved
//!          init is born in the scope's cgroup; the sitter goes; memory limits by SetUnitProperties
//! Update   SetUnitProperties(runtime), then the cgroup's files
//! Delete   StopUnit -- JobRemoved, ResetFailedUnit
//! ```
//!
//! Everything in between (freezer, kill, statistics, joining) is the kernel's cgroup, with either driver. Each arrow is a
//! connection of its own, closed when it is done; nothing runs or stays open while a container only runs.

mod address;
mod annotation;
mod bus;
mod gvariant;
mod manager;
mod message;
mod properties;
mod seat;
mod unit;
mod value;

use std::time::Duration;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::DevicePolicy;
use super::error::{Error, Result};
pub use address::Owner;
pub use bus::BusError;
use manager::Manager;
use properties::Dialect;
pub use seat::Seat;
pub use unit::Unit;

/// The cgroup of the manager that `owner` means, below which its slices lie; without a leading slash.
pub fn manager_cgroup(owner: Owner) -> Result<PathBuf> {
    if owner == Owner::System {
        return Ok(PathBuf::new());
    }
    let asked = Manager::connect(owner).and_then(|mut manager| manager.property("ControlGroup"));
    let path =
        asked.map_err(|cause| Error::unit("find the cgroup of the user's systemd for", "a scope", cause))?;
    Ok(path.trim_start_matches('/').into())
}

/// Starts the scope, with the limits that do not have to wait.
///
/// # Errors
/// When an annotation or limit makes no sense, or systemd refuses or does not answer; no scope is left.
pub fn start(
    unit: &Unit,
    r: &LinuxResources,
    annotations: &HashMap<String, String>,
    policy: DevicePolicy,
    unified: bool,
) -> Result<Seat> {
    let wanted = annotation::properties(annotations)?;
    let failed = |cause| Error::unit("start", &unit.name, cause);
    let mut manager = Manager::connect(unit.owner).map_err(failed)?;
    let version = if properties::asks_version(r) { manager.version().map_err(failed)? } else { 0 };
    let mut all = properties::fixed(&unit.name, &unit.slice, unified);
    all.extend(properties::devices(r, policy)?);
    all.extend(properties::early(r, Dialect { unified, version })?);
    // COMPAT: the user's own words come last and win, as with runc; a name is told once only.
    all.retain(|(name, _)| !wanted.iter().any(|(other, _)| other == name));
    all.extend(wanted);
    let seat = Seat::take().map_err(Error::Seat)?;
    manager.start(unit, seat.pid(), all).map_err(failed)?;
    Ok(seat)
}

/// Which limits to tell systemd of a unit that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What waits until a container is set up: memory and the unified map.
    Late,
    All,
}

/// Tells systemd new limits of the scope, until it ends. No limit, no call.
///
/// # Errors
/// When a limit makes no sense, or systemd refuses or does not answer.
pub fn set(unit: &Unit, r: &LinuxResources, part: Part, unified: bool) -> Result<()> {
    let failed = |cause| Error::unit("change", &unit.name, cause);
    let mut manager = None;
    let mut version = 0;
    if properties::asks_version(r) {
        let connected = manager.insert(Manager::connect(unit.owner).map_err(failed)?);
        version = connected.version().map_err(failed)?;
    }
    let dialect = Dialect { unified, version };
    let mut all = properties::late(r, dialect)?;
    if part == Part::All {
        if r.devices().as_ref().is_some_and(|rules| !rules.is_empty()) {
            all.extend(properties::devices(r, DevicePolicy::Enforce)?);
        }
        all.extend(properties::early(r, dialect)?);
        // It belongs to a unit's birth: systemd refuses to change it.
        all.retain(|(name, _)| name != "OOMPolicy");
    }
    if all.is_empty() {
        return Ok(());
    }
    let mut manager = manager.map_or_else(|| Manager::connect(unit.owner).map_err(failed), Ok)?;
    manager.set(unit, &all).map_err(failed)
}

/// Stops the scope, and everything in it. systemd goes on with it when `limit` is over.
///
/// # Errors
/// When systemd refuses or does not answer.
pub fn stop(unit: &Unit, limit: Duration) -> Result<()> {
    let stopped = Manager::connect_for(unit.owner, limit).and_then(|mut manager| manager.stop(unit));
    stopped.map_err(|cause| Error::unit("stop", &unit.name, cause))
}
