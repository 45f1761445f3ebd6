//! The gate at which a container's init waits from Create to Start.

use std::os::fd::{AsFd, OwnedFd};

use super::child::{self, Message, Progress};
use super::container::Process;
use super::error::{Doing, Error};
use super::failure::{MemoryLimit, failure};
use super::plan::{Plan, Step, Sync};

/// The report socket of an init that waits for Start, and the rest of its plan for error messages.
pub struct Gate {
    socket: OwnedFd,
    progress: Progress,
    plan: Plan,
    /// How many steps are done and forgotten.
    done: usize,
    /// Where one was set: for the message of a Start that fails for want of memory.
    pub memory_limit: Option<MemoryLimit>,
}

impl Gate {
    /// Keeps what is still to be done. The rest goes, and with it our copies of the process's descriptors: a stream
    /// ends when the process's own ends are closed.
    pub fn new(
        socket: OwnedFd,
        progress: Progress,
        mut plan: Plan,
        memory_limit: Option<MemoryLimit>,
    ) -> Self {
        let ready = |step: &Step| matches!(step, Step::Sync(Sync::Ready));
        let done = plan.steps.iter().position(ready).unwrap_or(0);
        let steps = plan.steps.split_off(done);
        Self { socket, progress, plan: Plan { steps, ..Plan::default() }, done, memory_limit }
    }

    /// Lets init go and waits until its program runs; `listens` gives a seccomp listener to its agent.
    ///
    /// # Errors
    /// `Gone` if init has died, else the step that failed.
    pub fn open(self, init: &Process, listens: impl Fn(i32) -> Result<(), Error>) -> Result<(), Error> {
        let go = || child::go(self.socket.as_fd()).doing(|| "telling init to start".into());
        go()?;
        loop {
            let received = child::receive(self.socket.as_fd(), self.progress);
            let message = match received.doing(|| "reading init's report".into())?.0 {
                Message::Closed if init.died_early(self.is_at_execve()) => {
                    return Err(Error::Gone("the process died before its program ran".into()));
                }
                Message::Closed => return Ok(()),
                Message::Listener(number) => {
                    match listens(number) {
                        Ok(()) => go()?,
                        // It has not waited for that: it says why.
                        Err(_) if child::has_word(self.socket.as_fd()) => {}
                        Err(e) => return Err(e),
                    }
                    continue;
                }
                message => message,
            };
            return Err(self.explain(message));
        }
    }

    /// What init said when it died before it was let go, if it did.
    pub fn last_words(&self) -> Option<Error> {
        let said =
            child::has_word(self.socket.as_fd()).then(|| child::receive(self.socket.as_fd(), self.progress));
        match said?.ok()?.0 {
            message @ Message::Failed { .. } => Some(self.explain(message)),
            _ => None,
        }
    }

    fn explain(&self, message: Message) -> Error {
        let message = match message {
            Message::Failed { step, call, errno, note } => {
                Message::Failed { step: step.saturating_sub(self.done), call, errno, note }
            }
            Message::Late { step, limit } => Message::Late { step: step.saturating_sub(self.done), limit },
            message => message,
        };
        failure(&self.plan, &message)
    }

    fn is_at_execve(&self) -> bool {
        self.progress.step() + 1 == self.done + self.plan.steps.len()
    }
}
