//! containerd's contract: command line and bootstrap, the task service, events, log.
//!
//! One binary, five ways to be called; `args` tells them apart and every one has a file of its own.

mod ahead;
pub mod args;
pub mod bootstrap;
mod calls;
mod create;
mod daemon;
mod delete;
pub mod error;
pub(crate) mod inflight;
mod info;
mod lasting;
pub mod log;
pub mod options;
mod pause;
mod peers;
mod placement;
mod process;
pub mod proto;
pub mod publisher;
mod reaper;
mod rising;
pub mod serve;
pub(crate) mod service;
pub mod socket;
mod start;
mod stats;
mod stats_v1;
mod stats_v2;
mod stop;
mod stubborn;
mod supervisor;
mod task;
mod tasks;
mod unfinished;
mod view;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use args::{Action, Args};

/// The runtime's name as clients give it.
pub const RUNTIME: &str = "io.containerd.myshim.v1";
/// The binary's name, which containerd derives from [`RUNTIME`].
pub const BINARY: &str = "containerd-shim-myshim-v1";

/// Reads the command line and does what it asks. A failure is one line on stderr and exit code 1.
pub fn main() -> ExitCode {
    let done = Args::parse(std::env::args_os().skip(1)).map_err(Into::into).and_then(dispatch);
    done.unwrap_or_else(|e| {
        let _ = writeln!(std::io::stderr(), "{BINARY}: {e}");
        ExitCode::FAILURE
    })
}

fn dispatch(args: Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match args.action {
        Action::Start => Ok(start::run(&args)?),
        Action::Delete => delete::run(&args),
        Action::Info => info::run(),
        Action::Version => print(&info::version()),
        Action::Help => print(args::HELP),
    }
}

fn print(text: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
