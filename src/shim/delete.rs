//! The `delete` command: cleans up after a shim that is gone, from the bundle alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message;

use super::args::Args;
use super::process::Exit;
use super::socket;
use crate::engine::state::State;
use crate::{engine, oci};

/// What a container is said to have ended with when nobody saw its end: SIGKILL.
const KILLED: u32 = 128 + libc::SIGKILL as u32;

/// containerd ends a `delete` that takes 5 s, and then knows neither pid nor status.
const WITHIN: Duration = Duration::from_millis(4500);

/// Kills, unmounts, removes what the bundle's state names, and prints a `DeleteResponse`.
///
/// # Errors
/// When something stays behind: containerd keeps the bundle then, and calls again when it is started the next time.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let deadline = Instant::now() + WITHIN;
    let bundle = bundle(args)?;
    let state = State::load(&bundle)?;
    let mut response = DeleteResponse::new();
    let mut exit = Exit::now(KILLED);
    if let Some(state) = &state {
        response.pid = state.pid.unwrap_or(0) as u32;
        if let Some(recorded) = state.exit {
            exit = Exit { status: recorded.status, at: UNIX_EPOCH + Duration::from_nanos(recorded.at) };
        }
        engine::clear(state)?;
        poststop(state, &bundle, deadline);
        engine::bury(state, &bundle)?;
    } else {
        // A crash in the middle of the very first note leaves half of one.
        State::remove(&bundle);
    }
    // Also what no state file tells of: a rootfs that somebody mounted.
    engine::rootfs::unmount(&bundle.join("rootfs"))?;
    remove_stale_socket(&bundle);
    response.exit_status = exit.status;
    response.exited_at = Some(exit.timestamp()).into();
    response.write_to_writer(&mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

/// A killed shim leaves its socket. One that still answers belongs to a living shim of the same group.
fn remove_stale_socket(bundle: &Path) {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else { return };
    let path = address.trim().strip_prefix("unix://").unwrap_or_default();
    if let Err(e) = socket::remove_stale(Path::new(path)) {
        eprintln!("{e}");
    }
}

fn bundle(args: &Args) -> std::io::Result<PathBuf> {
    match args.bundle.as_os_str().is_empty() {
        true => std::env::current_dir(),
        false => Ok(args.bundle.clone()),
    }
}

/// poststop hooks, of a container that was not created in full too (nerdctl's network depends on them). Their failures are
/// for the log, which is stderr here.
fn poststop(state: &State, bundle: &Path, deadline: Instant) {
    if !state.poststop_due {
        return;
    }
    let Ok((spec, _)) = oci::spec::load(bundle) else { return };
    for e in engine::poststop_of(&spec, &state.id, bundle, Some(deadline)) {
        eprintln!("{e}");
    }
}
