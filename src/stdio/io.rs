//! The stdio of one process, from Create to Delete: opens it, holds it, and ends it.
//!
//! The end has two stages. `drained` (before the exit is published) makes sure that what the process wrote is out;
//! `close` (Delete) gives a background holder of the streams a moment, and then closes everything.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::logger::{Logger, taken};
use super::pump::{Pump, Sink, Source};
use super::target::{Input, open_file, open_input, open_output, own_end, owned_pipe, watch};
use super::terminal::Terminal;
use super::uri::{Program, Target, parse};
use super::{ChildEnds, Error, Request};

/// A stream that moved nothing for so long has nobody writing to it.
const QUIET: Duration = Duration::from_millis(100);

/// The shim's side of a process's stdio. Dropped, it closes everything; loggers are ended in the background.
#[derive(Default)]
pub struct Io {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outputs: Vec<Task>,
    stdin: Option<Task>,
    /// The writer that keeps stdin from ending before CloseIO.
    stdin_writer: Option<File>,
    loggers: Vec<Logger>,
    tty: Tty,
    /// How the process's exit was seen, if it was.
    exit: Option<Exit>,
}

#[derive(Default)]
enum Tty {
    #[default]
    None,
    /// Asked for; the master comes after Create. Boxed, as most processes have none.
    Expected(Box<Expected>),
    Attached(Arc<Terminal>),
}

struct Expected {
    stdin: Option<File>,
    stdout: Sink,
    size: Option<(u16, u16)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    Drained,
    /// Nobody takes the output.
    Stuck,
}

/// A pump and the task that runs it. When it ends, its descriptors close: the client sees the end of file.
struct Task {
    pump: Weak<Pump>,
    handle: JoinHandle<()>,
}

/// Opens what `req` names. Never waits for a client; waits for a logger to be ready.
pub async fn open(req: &Request) -> Result<(ChildEnds, Io), Error> {
    let mut state = State::default();
    let mut ends = ChildEnds::default();
    let input = match parse("stdin", &req.stdin)? {
        Target::Fifo(path) | Target::File(path) => Some(open_input(&path)?),
        _ => None,
    };
    let reader = match input {
        Some(Input::Fifo(reader, writer)) => {
            state.stdin_writer = Some(writer);
            Some(reader)
        }
        Some(Input::Direct(file)) if !req.terminal => {
            ends.stdin = Some(file.into());
            None
        }
        // A terminal is fed by a client or not at all.
        Some(Input::Direct(_)) | None => None,
    };
    if req.terminal {
        let stdout = state.output_of_terminal(req).await?;
        state.tty = Tty::Expected(Box::new(Expected { stdin: reader, stdout, size: None }));
    } else {
        if let Some(reader) = reader {
            ends.stdin = Some(state.input(reader, req)?);
        }
        [ends.stdout, ends.stderr] = state.outputs(req).await?;
    }
    Ok((ends, Io { state: Mutex::new(state) }))
}

impl State {
    fn input(&mut self, reader: File, req: &Request) -> Result<OwnedFd, Error> {
        let (read, write) = owned_pipe(req.owner)?;
        let source = Source::Pipe(watch(reader, Interest::READABLE)?);
        let sink = Sink::Pipe(watch(own_end(write)?, Interest::WRITABLE)?);
        self.stdin = Some(Task::spawn(Pump::new("stdin", source, sink)));
        Ok(read)
    }

    /// The write ends of stdout and stderr. The same logger address twice is one logger.
    async fn outputs(&mut self, req: &Request) -> Result<[Option<OwnedFd>; 2], Error> {
        let targets = [parse("stdout", &req.stdout)?, parse("stderr", &req.stderr)?];
        let mut ends = [None, None];
        let mut logged: Vec<(&Program, [Option<OwnedFd>; 2])> = Vec::new();
        for (i, stream) in ["stdout", "stderr"].into_iter().enumerate() {
            let sink = match &targets[i] {
                Target::Null => continue,
                Target::Fifo(path) => Some(open_output(stream, path)?),
                Target::File(path) => Some(open_file(stream, path)?),
                Target::Logger(_) => None,
            };
            let (read, write) = owned_pipe(req.owner)?;
            ends[i] = Some(write);
            match (sink, &targets[i]) {
                (Some(sink), _) => self.pump(stream, read, sink)?,
                (None, Target::Logger(program)) => match logged.iter_mut().find(|(p, _)| *p == program) {
                    Some((_, reads)) => reads[i] = Some(read),
                    None => {
                        logged.push((program, [None, None]));
                        if let Some((_, reads)) = logged.last_mut() {
                            reads[i] = Some(read);
                        }
                    }
                },
                (None, _) => {}
            }
        }
        for (program, reads) in logged {
            self.loggers.push(Logger::start(program, reads, req).await?);
        }
        Ok(ends)
    }

    fn pump(&mut self, stream: &'static str, read: OwnedFd, sink: Sink) -> Result<(), Error> {
        let source = Source::Pipe(watch(own_end(read)?, Interest::READABLE)?);
        self.outputs.push(Task::spawn(Pump::new(stream, source, sink)));
        Ok(())
    }

    /// A terminal has one output; without an address it is read and thrown away, lest the process block.
    async fn output_of_terminal(&mut self, req: &Request) -> Result<Sink, Error> {
        match parse("stdout", &req.stdout)? {
            Target::Null => Ok(Sink::Null),
            Target::Fifo(path) => open_output("stdout", &path),
            Target::File(path) => open_file("stdout", &path),
            Target::Logger(program) => {
                let (read, write) = owned_pipe(req.owner)?;
                self.loggers.push(Logger::start(&program, [Some(read), None], req).await?);
                Ok(Sink::Pipe(watch(own_end(write)?, Interest::WRITABLE)?))
            }
        }
    }

    fn attach(&mut self, master: OwnedFd) -> Result<(), Error> {
        let Tty::Expected(expected) = std::mem::take(&mut self.tty) else { return Err(Error::NoTerminal) };
        let Expected { stdin, stdout, size } = *expected;
        let terminal = Arc::new(Terminal::new(master)?);
        if let Some((width, height)) = size {
            terminal.resize(width, height)?;
        }
        if let Some(reader) = stdin {
            let source = Source::Pipe(watch(reader, Interest::READABLE)?);
            self.stdin = Some(Task::spawn(Pump::new("stdin", source, Sink::Terminal(terminal.clone()))));
        }
        let source = Source::Terminal(terminal.clone());
        self.outputs.push(Task::spawn(Pump::new("stdout", source, stdout)));
        self.tty = Tty::Attached(terminal);
        Ok(())
    }
}

impl Io {
    /// Gives a process with a terminal its pty master, after Create. To be called in the runtime.
    pub fn attach_terminal(&self, master: OwnedFd) -> Result<(), Error> {
        self.lock().attach(master)
    }

    /// Before the terminal is attached, the size is remembered. Without a terminal there is nothing to do.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        match &mut self.lock().tty {
            Tty::None => Ok(()),
            Tty::Expected(expected) => {
                expected.size = Some((width, height));
                Ok(())
            }
            Tty::Attached(terminal) => terminal.resize(width, height),
        }
    }

    /// CloseIO: stdin ends when the client has closed it too and what it wrote has arrived.
    pub fn close_stdin(&self) {
        self.lock().stdin_writer = None;
    }

    /// After the process's exit, before it is published: all that it wrote is out, or `limit` is over.
    pub async fn drained(&self, limit: Duration) {
        let (pumps, logged): (Vec<Weak<Pump>>, Vec<_>) = {
            let mut state = self.lock();
            state.exit = Some(Exit::Stuck);
            if let Tty::Attached(terminal) = &state.tty {
                terminal.exited();
            }
            let logged = state.loggers.iter().flat_map(|logger| logger.reads.clone());
            (state.outputs.iter().map(|task| task.pump.clone()).collect(), logged.collect())
        };
        let settled = timeout(limit, async {
            for pump in pumps {
                // Held no longer than needed: an ended pump closes its descriptors.
                if let Some(pump) = pump.upgrade() {
                    pump.settle().await;
                }
            }
            // COMPAT: nerdctl's logger gives up what it has not read when it hears of the exit.
            for read in logged {
                taken(&read).await;
            }
        });
        if settled.await.is_ok() {
            self.lock().exit = Some(Exit::Drained);
        }
    }

    /// After `drained`: is there something that nobody took?
    pub fn is_stuck(&self) -> bool {
        self.lock().exit == Some(Exit::Stuck)
    }

    /// Delete: waits up to `grace` for streams that others still write to, then closes all and ends the loggers.
    pub async fn close(&self, grace: Duration) {
        let State { outputs, stdin, stdin_writer, loggers, tty, exit } = std::mem::take(&mut *self.lock());
        drop((stdin_writer, tty));
        let deadline = Instant::now() + grace;
        for mut task in outputs {
            // Without an exit nothing was ever written; with a stuck sink waiting has been tried.
            if exit == Some(Exit::Drained) {
                task.quiet(deadline).await;
            }
            task.stop().await;
        }
        if let Some(mut task) = stdin {
            task.stop().await;
        }
        for logger in loggers {
            let left = deadline.saturating_duration_since(Instant::now());
            logger.end(if exit.is_some() { left } else { Duration::ZERO }).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    fn spawn(pump: Pump) -> Self {
        let pump = Arc::new(pump);
        let weak = Arc::downgrade(&pump);
        Self { pump: weak, handle: tokio::spawn(async move { pump.run().await }) }
    }

    fn moved(&self) -> Option<u64> {
        self.pump.upgrade().map(|pump| pump.moved())
    }

    /// Until the end of the stream, `deadline`, or a time without traffic.
    async fn quiet(&mut self, deadline: Instant) {
        let mut before = self.moved();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if timeout(left.min(QUIET), &mut self.handle).await.is_ok() {
                return;
            }
            let now = self.moved();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Returns when the descriptors are closed.
    async fn stop(&mut self) {
        if !self.handle.is_finished() {
            self.handle.abort();
            let _ = (&mut self.handle).await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
