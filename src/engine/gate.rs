//! The gate at which a container's init waits from Create to Start.

use super::child::{Message, Report};
use super::container::Process;
use super::error::{Doing, Error};
use super::failure::{MemoryLimit, failure};
use super::plan::{Plan, Step, Sync};

/// A process on its way to its program, and what it says.
pub trait InSetup {
    fn report(&mut self) -> &mut Report;
    /// Is it at its last step?
    fn is_at_execve(&self) -> bool;
}

impl InSetup for Gate {
    fn report(&mut self) -> &mut Report {
        &mut self.report
    }

    fn is_at_execve(&self) -> bool {
        self.report.step() + 1 == self.done + self.plan.steps.len()
    }
}

/// The report socket of an init that waits for Start, and the rest of its plan for error messages.
pub struct Gate {
    report: Report,
    plan: Plan,
    /// How many steps are done and forgotten.
    done: usize,
    /// Where one was set: for the message of a Start that fails for want of memory.
    pub memory_limit: Option<MemoryLimit>,
}

impl Gate {
    /// Keeps what is still to be done. The rest goes, and with it our copies of the process's descriptors: a stream
    /// ends when the process's own ends are closed.
    pub fn new(report: Report, mut plan: Plan, memory_limit: Option<MemoryLimit>) -> Self {
        let ready = |step: &Step| matches!(step, Step::Sync(Sync::Ready));
        let done = plan.steps.iter().position(ready).unwrap_or(0);
        let steps = plan.steps.split_off(done);
        Self { report, plan: Plan { steps, ..Plan::default() }, done, memory_limit }
    }

    /// Lets init go.
    pub fn open(&self) -> Result<(), Error> {
        self.report.go().doing(|| "telling init to start".into())
    }

    /// Waits until the program of an init that was let go runs; `listens` gives a seccomp listener to its agent.
    ///
    /// # Errors
    /// `Gone` if init has died, else the step that failed.
    pub fn settle(&self, init: &Process, listens: impl Fn(i32) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            let message = match self.report.next().doing(|| "reading init's report".into())?.0 {
                Message::Closed if init.died_early(self.is_at_execve()) => {
                    return Err(Error::Gone("the process died before its program ran".into()));
                }
                Message::Closed => return Ok(()),
                Message::Listener(number) => {
                    match listens(number) {
                        Ok(()) => self.open()?,
                        // It has not waited for that: it says why.
                        Err(_) if self.report.has_word() => {}
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
        match self.report.has_word().then(|| self.report.next())?.ok()?.0 {
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
}
