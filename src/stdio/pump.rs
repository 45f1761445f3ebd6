//! Moves one stream: splice(2) between pipes, a copy through a small buffer for terminals and files.
//!
//! A pump is a state machine that anybody may advance (`step`): its own task, and `drained`, which wants to know that
//! nothing is left. Each step ends because the source is empty, the sink is full, or the stream is over; the task
//! then waits for just that. Nothing polls, and an idle pump holds no buffer.
//!
//! Output outlives its reader: a FIFO has a reader of the shim's own, and a sink that fails (disk full) loses what is
//! written to it while it fails, with one warning. Waiting would stop the workload for a fault that is not its own.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::target::Watched;
use super::terminal::Terminal;
use crate::sys::pipe;

/// Pipes start at the kernel's 64 KiB and are grown to this when traffic fills them (pipe(7): pipe-max-size).
const LARGE_PIPE: i32 = 1 << 20;
/// A splice of this much means that the default pipe was about full.
const BUSY: usize = 48 << 10;
/// How much is moved before the other tasks get their turn.
const TURN: usize = 8 << 20;
const COPY_TURN: usize = 1 << 20;
const BUFFER: usize = 16 << 10;

pub(super) enum Source {
    Pipe(Watched),
    Terminal(Arc<Terminal>),
}

pub(super) enum Sink {
    Pipe(Watched),
    /// Something that can be full but not spliced into: a terminal of the host, a socket.
    Device(Watched),
    /// Always ready.
    File(File),
    Terminal(Arc<Terminal>),
    Null,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The source has nothing at present, and all it had is in the sink.
    Empty,
    Full,
    /// The turn is over, there is more.
    More,
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Sink,
}

pub(super) struct Pump {
    stream: &'static str,
    source: Source,
    sink: Sink,
    state: Mutex<State>,
    moved: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Read, but not yet taken by the sink.
    pending: Vec<u8>,
    /// The last byte moved to a terminal.
    last: u8,
    /// The source is over, the sink is gone.
    ended: bool,
    gone: bool,
    grown: bool,
    copies: bool,
    warned: bool,
}

impl Pump {
    pub fn new(stream: &'static str, source: Source, sink: Sink) -> Self {
        let copies = !matches!((&source, &sink), (Source::Pipe(_), Sink::Pipe(_)));
        let state = Mutex::new(State { copies, last: b'\n', ..State::default() });
        Self { stream, source, sink, state, moved: AtomicU64::new(0) }
    }

    /// The bytes moved so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Until the stream is over.
    pub async fn run(&self) {
        let mut side = Side::Source;
        while self.advance(&mut side).await != Step::End {}
    }

    /// Until all that is in the source now has been moved.
    pub async fn settle(&self) {
        let mut side = Side::Sink;
        let mut step = self.step();
        while matches!(step, Step::Full | Step::More) {
            step = match step {
                Step::Full => self.advance(&mut side).await,
                _ => {
                    tokio::task::yield_now().await;
                    self.step()
                }
            };
        }
    }

    /// One step, as soon as `side` is ready; then `side` is what to wait for next.
    async fn advance(&self, side: &mut Side) -> Step {
        // Re-read each time: a terminal that was hung up has a new descriptor.
        let fd = match side {
            Side::Source => Some(self.source.fd()),
            Side::Sink => self.sink.fd(),
        };
        let Some(fd) = fd else { return self.step() };
        let ready = match side {
            Side::Source => fd.readable().await,
            Side::Sink => fd.writable().await,
        };
        // Only a runtime that shuts down fails here.
        let Ok(mut guard) = ready else { return Step::End };
        // ORDER: the guard is older than the step, so that readiness which comes up after the step is not cleared.
        let step = self.step();
        match (step, *side) {
            (Step::Empty, Side::Source) | (Step::Full, Side::Sink) => {
                let ready = guard.ready();
                guard.clear_ready();
                // A hang-up stays ready: should the step not have met it, the others get their turn at least.
                if ready.is_read_closed() || ready.is_write_closed() {
                    tokio::task::yield_now().await;
                }
            }
            (Step::Empty, Side::Sink) => *side = Side::Source,
            (Step::Full, Side::Source) => *side = Side::Sink,
            (Step::More, _) => tokio::task::yield_now().await,
            (Step::End, _) => {}
        }
        step
    }

    fn step(&self) -> Step {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (&self.source, &self.sink) {
            (Source::Pipe(source), Sink::Pipe(sink)) if !state.copies => {
                self.splice(&mut state, source.get_ref().as_fd(), sink.get_ref().as_fd())
            }
            _ => self.copy(&mut state),
        }
    }

    fn splice(&self, state: &mut State, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Step {
        let mut turn = 0;
        while turn < TURN {
            match pipe::splice(source, sink, LARGE_PIPE as usize) {
                Ok(0) => return Step::End,
                Ok(n) => {
                    turn += n;
                    self.moved.fetch_add(n as u64, Ordering::Relaxed);
                    if n >= BUSY {
                        state.grow(source, sink);
                    }
                    // Cheaper than a splice that fails; the end of the stream comes as an event of its own.
                    if pipe::readable_bytes(source) == Ok(0) {
                        return Step::Empty;
                    }
                }
                Err(e) if e.is(libc::EINTR) => {}
                Err(e) if e.is(libc::EAGAIN) => match pipe::readable_bytes(source) {
                    // A full sink hides the end, which stays ready for ever: to wait for more would be to spin.
                    Ok(0) if pipe::is_at_end(source) => return Step::End,
                    Ok(0) => return Step::Empty,
                    // The first time the sink is full it may only have been small.
                    _ if state.grow(source, sink) => {}
                    _ => return Step::Full,
                },
                // stdin that nobody can read any more. Output has the shim itself as a reader.
                Err(e) if e.is(libc::EPIPE) => return Step::End,
                Err(e) => {
                    log::warn!("{}: {e}: copying instead", self.stream);
                    state.copies = true;
                    return Step::More;
                }
            }
        }
        Step::More
    }

    fn copy(&self, state: &mut State) -> Step {
        let mut buffer = [0; BUFFER];
        let mut turn = 0;
        while turn < COPY_TURN {
            let pending = std::mem::take(&mut state.pending);
            if !self.push(state, &pending) || state.gone {
                match self.sink.fd() {
                    _ if state.gone => return Step::End,
                    Some(sink) if state.grow(self.source.fd().get_ref().as_fd(), sink.get_ref().as_fd()) => {
                        continue;
                    }
                    _ => return Step::Full,
                }
            }
            if state.ended {
                return Step::End;
            }
            match self.source.read(&mut buffer) {
                Ok(0) => self.end(state),
                Ok(n) => {
                    turn += n;
                    self.moved.fetch_add(n as u64, Ordering::Relaxed);
                    // What the sink refuses is pending, and the next round's business.
                    self.push(state, &buffer[..n]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Empty,
                Err(_) if self.source.revive() => return Step::More,
                Err(_) => self.end(state),
            }
        }
        Step::More
    }

    /// The source is over. A terminal has to be told so by typing; that is pending then.
    fn end(&self, state: &mut State) {
        state.ended = true;
        if let Sink::Terminal(terminal) = &self.sink {
            state.pending = terminal.end_of_input(state.last);
        }
    }

    /// Writes `data`; false = the rest is pending, or the sink is gone.
    fn push(&self, state: &mut State, mut data: &[u8]) -> bool {
        if let Some(last) = data.last() {
            state.last = *last;
        }
        while !data.is_empty() {
            match self.sink.write(data) {
                Ok(n) if n > 0 => data = &data[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() != ErrorKind::WouldBlock => return self.lose(state, data.len(), &e),
                _ => {
                    state.pending = data.to_vec();
                    return false;
                }
            }
        }
        true
    }

    /// A sink that fails: true = go on without these bytes.
    fn lose(&self, state: &mut State, bytes: usize, error: &std::io::Error) -> bool {
        if self.stream == "stdin" {
            state.gone = true;
            return false;
        }
        if !std::mem::replace(&mut state.warned, true) {
            log::warn!("{}: write: {error}: {bytes} bytes are lost, and more while this lasts", self.stream);
        }
        true
    }
}

impl State {
    /// Once: gives both pipes room. Not permitted (EPERM) or no memory: they work at their size.
    fn grow(&mut self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> bool {
        if std::mem::replace(&mut self.grown, true) {
            return false;
        }
        let _ = pipe::set_pipe_size(source, LARGE_PIPE);
        let _ = pipe::set_pipe_size(sink, LARGE_PIPE);
        true
    }
}

impl Source {
    fn fd(&self) -> Watched {
        match self {
            Source::Pipe(fd) => fd.clone(),
            Source::Terminal(terminal) => terminal.master(),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.fd().get_ref().read(buffer)
    }

    fn revive(&self) -> bool {
        matches!(self, Source::Terminal(terminal) if terminal.revive())
    }
}

impl Sink {
    /// What can be waited for.
    fn fd(&self) -> Option<Watched> {
        match self {
            Sink::Pipe(fd) | Sink::Device(fd) => Some(fd.clone()),
            Sink::Terminal(terminal) => Some(terminal.master()),
            Sink::File(_) | Sink::Null => None,
        }
    }

    fn write(&self, data: &[u8]) -> std::io::Result<usize> {
        match (self, self.fd()) {
            (_, Some(fd)) => fd.get_ref().write(data),
            (Sink::File(file), None) => (&*file).write(data),
            (_, None) => Ok(data.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use tokio::io::Interest;

    use super::super::target::watch;
    use super::*;

    fn ends(pair: (OwnedFd, OwnedFd)) -> (File, File) {
        pipe::set_nonblocking(pair.0.as_fd()).unwrap();
        pipe::set_nonblocking(pair.1.as_fd()).unwrap();
        (pair.0.into(), pair.1.into())
    }

    /// Nobody reads, and another pump has filled the sink: two streams into one FIFO.
    #[tokio::test(flavor = "current_thread")]
    async fn a_stream_ends_though_its_sink_is_full() {
        let (source, writer) = ends(pipe::pipe().unwrap());
        let (_reader, mut sink) = ends(pipe::pipe().unwrap());
        while sink.write(&[0; 4096]).is_ok() {}
        let source = Source::Pipe(watch(source, Interest::READABLE).unwrap());
        let pump = Pump::new("stderr", source, Sink::Pipe(watch(sink, Interest::WRITABLE).unwrap()));
        assert_eq!(pump.step(), Step::Empty);
        drop(writer);
        assert_eq!(pump.step(), Step::End);
    }
}
