//! The child of a clone: walks its plan, reports, executes the program.
//!
//! Between clone3 and execve the child calls only `sys` (see `sys`): the shim may have other threads, whose locks
//! nobody in the copy will ever release. Everything it needs was made before.
//!
//! ```text
//! shim                                   child
//!  clone3 ------------------------------> step, step, …
//!   <------------------------ IdMap ----- writes nothing itself: the maps are the shim's to write
//!  uid_map, gid_map
//!   ------------------------- go -------> step, …
//!   <------------------------ Hooks ----- before pivot_root
//!  prestart, createRuntime, createContainer
//!   ------------------------- go -------> step, …
//!   <------------- Ready (+ terminal) --- Create ends
//!  startContainer hooks
//!   ------------------------- go -------> seccomp
//!   <------------------ Listener(fd) ---- only with SCMP_ACT_NOTIFY
//!  pidfd_getfd, to the agent
//!   ------------------------- go -------> execve: the socket closes
//!   <------- Failed(step, errno) -------- at any moment instead, then _exit
//!   <---------------- Born (+ pidfd) ---- an exec'd process that comes to its pid namespace only after set-up
//! ```

mod copy;
mod home;
mod identity;
mod mounts;
mod namespaces;
mod place;
mod progress;
mod report;
mod room;
mod spawn;
mod terminal;

pub use mounts::configure;
pub use progress::Progress;
#[cfg(any(test, feature = "fuzzing"))]
pub use report::parse;
pub use report::{Message, Report};
pub use spawn::{Born, spawn};

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::plan::{Plan, Step, Sync};
use crate::sys;
use room::Room;

/// What a step answers.
type Outcome = sys::Result<()>;

/// Carries out `plan` in the child and never returns. `cgroup` is the cgroup v2 directory that it could not be born in.
fn walk(plan: &Plan, socket: BorrowedFd<'_>, progress: Progress, cgroup: Option<BorrowedFd<'_>>) -> ! {
    sys::fault::call();
    if let Some(Err(e)) = cgroup.map(namespaces::enter_cgroup) {
        report::failed(socket, 0, &e, b"a process could not enter the container's cgroup");
        sys::process::exit(1);
    }
    walk_from(0, plan, socket, progress, &mut Room::new())
}

fn walk_from(first: usize, plan: &Plan, socket: BorrowedFd<'_>, progress: Progress, room: &mut Room) -> ! {
    for (index, step) in plan.steps.iter().enumerate().skip(first) {
        progress.begins(index);
        let done = sys::fault::step(index).and_then(|()| match step {
            Step::Sync(point) => sync(*point, room, socket),
            Step::CloseDescriptors => close_descriptors(room, socket),
            Step::DieWithShim => die_with_shim(socket),
            Step::Birth => birth(index, socket, || walk_from(index + 1, plan, socket, progress, room)),
            Step::Seccomp(filter) => identity::seccomp(filter, socket),
            _ => run(step, room),
        });
        if let Err(e) = done {
            report::failed(socket, index, &e, room.note());
            sys::process::exit(1);
        }
    }
    sys::process::exit(0)
}

/// Tells the shim that a point is reached and waits for its go; the terminal travels with `Ready`.
fn sync(point: Sync, room: &mut Room, socket: BorrowedFd<'_>) -> Outcome {
    let terminal = if point == Sync::Ready { room.terminal.take() } else { None };
    report::reached(socket, point, terminal)?;
    report::wait_for_go(socket)
}

/// Clones the process that goes on with `rest`, a child of the shim's as this one is, and ends this one.
///
/// Whoever shares the pid namespace sees a process that has the container's root, privileges and descriptors already;
/// with CAP_SYS_PTRACE it could take over one that still has the host's.
fn birth(index: usize, socket: BorrowedFd<'_>, rest: impl FnOnce() -> Infallible) -> Outcome {
    let sibling = libc::CLONE_PARENT as u64;
    sys::clone::clone3(sibling, None, || match report::born(socket) {
        Ok(()) => rest(),
        Err(e) => {
            report::failed(socket, index, &e, b"");
            sys::process::exit(1)
        }
    })?;
    sys::process::exit(0)
}

/// Nothing of the shim's stays open, not even until execve: who may trace this process (CAP_SYS_PTRACE in a pid namespace
/// that it shares) finds only its own stdio and a socket that carries fixed-size records.
fn close_descriptors(room: &Room, socket: BorrowedFd<'_>) -> Outcome {
    let socket = socket.as_raw_fd() as u32;
    let terminal = room.terminal.as_ref().map_or(socket, |fd| fd.as_raw_fd() as u32);
    let (first, second) = (socket.min(terminal), socket.max(terminal));
    sys::fs::close_range(3, first - 1)?;
    sys::fs::close_range(first + 1, second.saturating_sub(1))?;
    sys::fs::close_range(second + 1, u32::MAX)
}

/// Nobody says go before the next report: a socket with something to read is one whose other end is gone.
fn die_with_shim(socket: BorrowedFd<'_>) -> Outcome {
    sys::process::die_with_parent()?;
    match sys::process::poll_in(socket, 0)? {
        true => sys::process::exit(1),
        false => Ok(()),
    }
}

fn run(step: &Step, room: &mut Room) -> Outcome {
    match step {
        Step::JoinCgroups(files) => namespaces::join_cgroups(files),
        Step::JoinNamespace { kind, fd, .. } => namespaces::join(fd, *kind),
        Step::JoinProcess { kinds, pidfd } => namespaces::join(pidfd, *kinds),
        Step::Unshare { kinds, .. } => sys::ns::unshare(*kinds),
        Step::TimeNamespace { offsets, proc } => namespaces::time(offsets, proc),
        // These are `walk`'s, which has the socket.
        Step::Sync(_) | Step::CloseDescriptors | Step::DieWithShim | Step::Birth | Step::Seccomp(_) => Ok(()),
        Step::BecomeRoot => namespaces::become_root(),
        Step::Setsid => sys::cred::setsid(),
        Step::ControllingTerminal => sys::tty::set_controlling(sys::fs::STDIN),
        Step::Keyring(name) => identity::keyring(name),
        Step::Loopback => sys::ns::loopback_up(),
        Step::Hostname(name) => sys::ns::sethostname(name),
        Step::Domainname(name) => sys::ns::setdomainname(name),
        Step::Propagation(flags) => mounts::propagation(*flags),
        Step::Root { path, slave } => mounts::root(room, path, *slave),
        Step::Mount(mount) => mounts::mount(room, mount),
        Step::Remount { target, attr } => mounts::remount(room, target, attr),
        Step::Directory(target) => mounts::directory(room, target),
        Step::Device(device) => mounts::device(room, device),
        Step::Link { target, name } => mounts::link(room, target, name),
        Step::Console { bind, uid, size } => terminal::open(room, *bind, *uid, *size),
        Step::Sysctl { path, value, proc } => identity::write_proc(proc, path, value),
        Step::ReadonlyPath(target) => mounts::readonly_path(room, target),
        Step::MaskPath { target, label } => mounts::mask_path(room, target, label.as_deref()),
        Step::ReadonlyRoot => mounts::readonly_root(room),
        Step::Pivot => mounts::pivot(room),
        Step::MoveRoot(whole) => mounts::move_root(room, whole),
        Step::RootPropagation(flags) => mounts::propagation(*flags),
        Step::Stdio(fds) => terminal::stdio(fds),
        Step::OwnNull(of) => terminal::own_null(room, *of),
        _ => identity::run(step, room),
    }
}
