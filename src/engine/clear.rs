//! Taking away what a state file names, with or without the shim that made it: Delete, `delete`, a Create that failed.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::error::{Doing, Error};
use super::rootfs;
use super::state::{self, State};
use crate::sys::fault::fault;
use crate::sys::process;

/// Everything is tried within this: containerd ends a `delete` that takes 5 s.
const CLEAR_WITHIN: Duration = Duration::from_secs(4);
/// Everybody in a cgroup is dead within this, or is named in the error.
pub const KILL_WITHIN: Duration = Duration::from_secs(2);

/// The last act of a deletion, after the poststop hooks: from here on nothing is done twice.
///
/// # Errors
/// None outside tests.
pub fn bury(state: &State, bundle: &Path) -> Result<(), Error> {
    fault!("Delete: hooks ran")?;
    if state.buried().save(bundle).is_err() {
        // The bundle is gone, full or read-only: what it says now, a repeated deletion finds done.
        State::remove(bundle);
    }
    Ok(fault!("Delete: buried")?)
}

/// Takes away what `state` names: processes, cgroup, mounts. Idempotent; works without the shim.
///
/// # Errors
/// The first failure, after everything was tried.
pub fn clear(state: &State) -> Result<(), Error> {
    let deadline = Instant::now() + CLEAR_WITHIN;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut outcome = Ok(());
    let mut keep = |result: Result<(), Error>| outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
    // A reboot takes processes and groups with it, and what has their names then is somebody else's.
    if state.is_of_this_boot() {
        keep(kill_init(state));
        // One that turned out to be somebody else's stays.
        if let Some(cgroup) = state.cgroup.as_ref().filter(|_| state.owns_cgroup) {
            keep(cgroup.kill(left().min(KILL_WITHIN)).map_err(Error::from));
            keep(fault!("Delete: processes dead").map_err(Error::from));
            keep(cgroup.remove(left()).map_err(Error::from));
            keep(fault!("Delete: cgroups gone").map_err(Error::from));
        }
        keep(state.resctrl.remove());
    }
    if let Some(rootfs) = &state.rootfs {
        keep(rootfs::unmount(rootfs));
        keep(rootfs::unmount_below(rootfs, &state.rootfs_targets));
    }
    keep(fault!("Delete: unmounted").map_err(Error::from));
    outcome
}

/// Kills the recorded init, if that pid is still the same process, and reaps it where it is our child.
fn kill_init(state: &State) -> Result<(), Error> {
    let Some(pid) = state.pid else { return Ok(()) };
    let pidfd = match process::pidfd_open(pid) {
        Err(e) if e.is(libc::ESRCH) => return Ok(()),
        opened => opened.doing(|| format!("looking for process {pid}"))?,
    };
    // ORDER: compare after the pidfd is open: from here on the pid cannot change hands unnoticed.
    if state::start_time(pid) != state.start_time {
        return Ok(());
    }
    let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = state.cgroup.as_ref().map(Cgroup::thaw);
    let limit = KILL_WITHIN.as_millis() as i32;
    let ended =
        process::poll_in(pidfd.as_fd(), limit).doing(|| format!("waiting for process {pid} to die"))?;
    // ECHILD: somebody else's child, reaped by its parent.
    let _ = process::waitid(pidfd.as_fd(), libc::WEXITED | libc::WNOHANG);
    match ended {
        true => Ok(()),
        false => Err(Error::doing(
            format!("killing process {pid}"),
            "it does not die; it may be in uninterruptible sleep (state D)",
        )),
    }
}
