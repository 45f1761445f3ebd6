//! One clone: from a plan in the shim to a child that walks it.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::super::plan::{Fd, Plan};
use super::Progress;
use super::report::{Message, Report};
use crate::engine::error::{Doing, Error};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::{self, fs, ns, process, socket};

/// A process that can die has done so within this, in milliseconds.
const DEAD_WITHIN: i32 = 2000;

/// One birth at a time. A child cloned in the middle of another's would have that one's end of the socket too, and keep it
/// until it closes what it does not need, which a hook or a mount that hangs may put off; but the end of the socket is
/// the news that the program runs.
static BIRTH: Mutex<()> = Mutex::new(());

/// A child just cloned: named by pidfd, reachable by its report socket.
#[derive(Debug)]
pub struct Born {
    /// Its pid as the shim sees it.
    pub pid: i32,
    pub pidfd: Arc<OwnedFd>,
    pub report: Report,
}

impl Born {
    /// The next message of the child. Blocks until there is one, the child is gone, or it is late.
    pub fn next(&self) -> Result<(Message, Option<OwnedFd>), Error> {
        self.report.next().doing(|| format!("reading the report of process {}", self.pid))
    }

    pub fn go(&self) -> Result<(), Error> {
        self.report.go().doing(|| format!("telling process {} to go on", self.pid))
    }

    /// Takes the process over that says it was born (`Message::Born`), and reaps the one before.
    ///
    /// # Errors
    /// When the pidfd that came along names nobody.
    pub fn reborn(&mut self, pidfd: Option<OwnedFd>) -> Result<(), Error> {
        let pidfd =
            pidfd.ok_or_else(|| Error::doing("finding the new process", "no pidfd came with the news"))?;
        self.pid = pid_of(&pidfd)?;
        let before = std::mem::replace(&mut self.pidfd, Arc::new(pidfd));
        process::waitid(before.as_fd(), libc::WEXITED).map(drop).doing(|| "reaping its forerunner".into())
    }

    /// Kills and reaps a child that did not make it. One that does not die (state D) is left to the shim's reaper.
    pub fn abandon(self) {
        let _ = process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        drop(self.report);
        let _ = process::poll_in(self.pidfd.as_fd(), DEAD_WITHIN);
        let _ = process::waitid(self.pidfd.as_fd(), libc::WEXITED | libc::WNOHANG);
    }
}

/// Clones a child that walks `plan`.
///
/// KERNEL: its parent is the calling thread, of whose end a program is told that asks for it (PR_SET_PDEATHSIG, prctl(2)). What
/// is to last is for a thread that does.
///
/// # Errors
/// When the clone itself fails. What fails later, the child reports on its socket.
pub fn spawn(plan: &Plan) -> Result<Born, Error> {
    let _alone = BIRTH.lock().unwrap_or_else(|e| e.into_inner());
    let (ours, theirs) = socket::seqpacket_pair().doing(|| "making the child's report socket".into())?;
    sys::fault::next_clone();
    let progress = Progress::new(plan.limit);
    let mut joins = plan.born_in.clone();
    let _pidns = visit_pidns(plan, &mut joins)?;
    let netns = plan.netns.as_ref().map(|ns| ns::Visit::network(ns.as_fd())).transpose();
    let _netns = netns.doing(|| "entering the new network namespace".into())?;
    let (pid, pidfd) = match joins.is_empty() {
        true => direct(plan, progress, &ours, &theirs)?,
        false => through_namespaces(plan, &joins, progress, &ours, &theirs)?,
    };
    Ok(Born { pid, pidfd: Arc::new(pidfd), report: Report::new(ours, progress) })
}

/// Has the thread's children born in the plan's pid namespace. A root of a user namespace that could not come back adds it to
/// what somebody else `joins`.
fn visit_pidns(plan: &Plan, joins: &mut Vec<(i32, Fd)>) -> Result<Option<ns::Visit>, Error> {
    let Some(pidns) = &plan.pidns else { return Ok(None) };
    match ns::Visit::pid(pidns.as_fd()) {
        Err(e) if e.is(libc::EPERM) => {
            joins.insert(0, (libc::CLONE_NEWPID, pidns.clone()));
            Ok(None)
        }
        visit => visit.map(Some).map_err(|e| not_entered("entering the pid namespace", plan, e)),
    }
}

fn direct(
    plan: &Plan,
    progress: Progress,
    ours: &OwnedFd,
    theirs: &OwnedFd,
) -> Result<(i32, OwnedFd), Error> {
    let cloned = clone_child(plan, progress, 0, &[ours], theirs).doing(|| "creating the process".into())?;
    Ok((cloned.pid, cloned.pidfd))
}

/// clone3 with what the plan wants it to create; the child walks the plan.
///
/// KERNEL: clone3 has CLONE_INTO_CGROUP since 5.7. Before, the flag is EINVAL and the field beyond the end E2BIG; then the
/// child enters its cgroup itself, first of all, which is slower (see `cgroup::join`).
fn clone_child(
    plan: &Plan,
    progress: Progress,
    extra: u64,
    others: &[&OwnedFd],
    theirs: &OwnedFd,
) -> sys::Result<Cloned> {
    let child = |enters: Option<BorrowedFd<'_>>| {
        // A socket that a child holds as well would not be at its end when its owner is.
        others.iter().for_each(|fd| fs::close(fd.as_raw_fd()));
        let _ = process::reset_signals();
        super::walk(plan, theirs.as_fd(), progress, enters)
    };
    let flags = plan.clone_flags | extra;
    let into = plan.cgroup.as_ref().map(|dir| dir.as_fd());
    match clone3(flags, into, || child(None)) {
        Err(e) if into.is_some() && matches!(e.errno, libc::EINVAL | libc::E2BIG) => {
            clone3(flags, None, || child(into))
        }
        cloned => cloned,
    }
}

/// Born in namespaces that exist: an intermediate process joins them (setns(2) to a user namespace wants a single
/// thread) and clones the child as its sibling, so that the shim is the parent all the same.
fn through_namespaces(
    plan: &Plan,
    joins: &[(i32, Fd)],
    progress: Progress,
    ours: &OwnedFd,
    theirs: &OwnedFd,
) -> Result<(i32, OwnedFd), Error> {
    const DOING: &str = "joining its namespaces and creating the process";
    let doing = || DOING.to_string();
    let (to_us, from_it) = socket::seqpacket_pair().doing(doing)?;
    let intermediate =
        clone3(0, None, || join_and_clone(plan, joins, progress, ours, theirs, &from_it)).doing(doing)?;
    drop(from_it);
    let mut record = [0; 4];
    let answer = socket::recv(to_us.as_fd(), &mut record);
    let _ = process::waitid(intermediate.pidfd.as_fd(), libc::WEXITED);
    match answer.doing(doing)? {
        (1, Some(pidfd)) => Ok((pid_of(&pidfd)?, pidfd)),
        _ => {
            let e = sys::Error::new("setns or clone3", i32::from_le_bytes(record));
            Err(not_entered(DOING, plan, e))
        }
    }
}

/// The intermediate process: sends the sibling's pidfd, or the errno that prevented it.
fn join_and_clone(
    plan: &Plan,
    joins: &[(i32, Fd)],
    progress: Progress,
    ours: &OwnedFd,
    theirs: &OwnedFd,
    answer: &OwnedFd,
) -> Infallible {
    let sibling = libc::CLONE_PARENT as u64;
    let joined = joins.iter().try_for_each(|(kind, fd)| ns::setns(fd.as_fd(), *kind));
    let cloned = joined.and_then(|()| clone_child(plan, progress, sibling, &[ours, answer], theirs));
    let sent = match cloned {
        Ok(cloned) => socket::send(answer.as_fd(), &[0], Some(cloned.pidfd.as_fd())),
        Err(e) => socket::send(answer.as_fd(), &e.errno.to_le_bytes(), None),
    };
    process::exit(i32::from(sent.is_err()))
}

/// The pid of the process behind a pidfd. One whose pid cannot be told is ended: who gets an error takes it that there is none.
fn pid_of(pidfd: &OwnedFd) -> Result<i32, Error> {
    told_pid(pidfd).inspect_err(|_| _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL))
}

/// As the shim's own procfs tells it (proc_pid_fdinfo(5)).
fn told_pid(pidfd: &OwnedFd) -> Result<i32, Error> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
    // -1: it has been reaped; 0: it is in no pid namespace that the shim sees.
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| Error::doing("finding the new process", "its pidfd names no pid"))
}

fn not_entered(doing: &str, plan: &Plan, e: sys::Error) -> Error {
    match e.errno {
        // Its pidfd names a process that is gone.
        libc::ESRCH if plan.pidns.is_some() => Error::Gone("the container's init process is gone".into()),
        _ => Error::doing(doing, e),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use super::super::super::plan::{Step, Sync};
    use super::*;

    fn child(steps: Vec<Step>) -> Born {
        spawn(&Plan { steps, limit: Some(Duration::from_secs(20)), ..Plan::default() }).unwrap()
    }

    #[test]
    fn a_child_that_waits_for_long_does_not_hold_up_the_news_of_one_born_at_the_same_time() {
        let mut waiting = Vec::new();
        for _ in 0..50 {
            let together = Barrier::new(2);
            let quick = std::thread::scope(|threads| {
                threads.spawn(|| {
                    together.wait();
                    waiting.push(child(vec![Step::Sync(Sync::Hooks)]));
                });
                together.wait();
                child(Vec::new())
            });
            assert_eq!(quick.next().unwrap().0, Message::Closed);
            quick.abandon();
        }
        waiting.into_iter().for_each(Born::abandon);
    }
}
