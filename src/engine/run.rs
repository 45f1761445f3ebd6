//! Programs of the host that the shim runs and waits for: hooks and mount helpers. What they say is kept for their error.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;

use super::child::{self, Message};
use super::error::{Doing, Error};
use super::exec::died_early;
use super::plan::{Fd, Plan};
use crate::sys::{fs, process};

/// How much of a failed program's output its error quotes.
const QUOTED: u64 = 1024;

/// What a program came to.
pub enum End {
    /// It could not be executed.
    Refused(Message),
    Exited(u32),
    /// It was killed: its time was up.
    Late,
    /// It was killed: whom it was run for is gone.
    CutShort,
}

/// Runs `plan`, which begins a session, to its end, for `limit` milliseconds at most, or until `until` becomes readable.
///
/// # Errors
/// When there is no process at all, or it cannot be waited for.
pub fn to_its_end(plan: &Plan, limit: i32, until: Option<&Fd>) -> Result<End, Error> {
    let process = child::spawn(plan)?;
    let message = process.next()?.0;
    if message != Message::Closed || died_early(plan, &process) {
        process.abandon();
        return Ok(End::Refused(message));
    }
    let fds = [Some(process.pidfd.as_fd()), until.map(|fd| fd.as_fd())];
    let [ended, cut_short] = process::poll_either(fds, limit).doing(|| "waiting for it".into())?;
    if !ended {
        // Its own children too: it leads a session, and its number is taken as long as it is not reaped.
        let _ = process::kill(-process.pid, libc::SIGKILL);
        process.abandon();
        return Ok(if cut_short { End::CutShort } else { End::Late });
    }
    let exit = process::waitid(process.pidfd.as_fd(), libc::WEXITED).doing(|| "reaping it".into())?;
    Ok(End::Exited(exit.map_or(255, |exit| exit.status)))
}

/// Where a program's output goes, or its input comes from: not a pipe, which whom it leaves behind would hold open.
pub fn memory() -> Result<File, Error> {
    fs::memfd(c"stdio").map(File::from).doing(|| "making a memory file".into())
}

/// The beginning of what a program has said.
pub fn quote(mut output: File) -> String {
    let mut text = Vec::new();
    let _ = output.rewind().and_then(|()| output.take(QUOTED).read_to_end(&mut text));
    match String::from_utf8_lossy(&text).trim_matches(|c: char| c == '\0' || c.is_whitespace()) {
        "" => "no output".into(),
        text => format!("output: {text}"),
    }
}
