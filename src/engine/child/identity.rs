//! Steps that make the process what the spec says: limits, ids, capabilities, working directory, program.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use super::room::Room;
use super::{Outcome, report};
use crate::engine::plan::{Program, Step};
use crate::engine::seccomp::Filter;
use crate::sys::cred::CapSets;
use crate::sys::{Error, Result, cred, fs, process};

/// No link, no mount, no way up: the file written is the one below procfs and nothing else (CVE-2025-52881).
const IN_PROC: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;

pub fn run(step: &Step, room: &mut Room) -> Outcome {
    match step {
        Step::Rlimit { resource, soft, hard, .. } => rlimit(*resource, *soft, *hard),
        Step::OomScoreAdj { value, proc } => oom_score_adj(proc, value),
        Step::Scheduler(attr) => process::sched_setattr(attr),
        Step::IoPriority(value) => process::ioprio_set(*value),
        Step::Affinity(set) => process::sched_setaffinity(set),
        Step::EveryCpu => {
            // Nobody asked for it: where it is forbidden (a filter around the shim), the shim's CPUs have to do.
            let _ = process::reset_affinity();
            Ok(())
        }
        Step::Personality(persona) => cred::personality(*persona),
        Step::Umask(mask) => {
            fs::umask(*mask);
            Ok(())
        }
        Step::Label { file, label, proc } => write_proc(proc, file, label),
        Step::NoNewPrivs => cred::set_no_new_privs(),
        Step::Bounding(keep) => bounding(*keep),
        Step::Home(uid) => room.home.look_up(*uid),
        Step::User { uid, gid, groups, proc } => user(*uid, *gid, groups, proc),
        Step::Capabilities { sets, ambient } => capabilities(*sets, *ambient),
        Step::Cwd { path, early } => cwd(room, path, *early),
        Step::Lookup(program) => lookup(room, program),
        Step::MemoryPolicy { mode, nodes } => process::set_mempolicy(*mode, nodes.as_deref()),
        Step::Execve { program, argv, envp } => execve(room, program, argv, envp),
        _ => Err(Error::new("step", libc::ENOSYS)),
    }
}

/// Loads the filter. With a listener, the shim takes it from here by pidfd_getfd(2) before the child goes on.
///
/// ORDER: from the load on, every call of this process may be one that the filter sends to the agent, which does not
/// have the listener yet. So the hand-over takes only one write (which `validate` refuses to have notified) and one
/// read, which may wait for the agent: the shim needs nothing more from this process to give it the listener.
pub fn seccomp(filter: &Filter, socket: BorrowedFd<'_>) -> Outcome {
    let Some(listener) = cred::seccomp_filter(&filter.program, filter.flags.into())? else { return Ok(()) };
    // Not closed here: that were one more call for the agent; execve closes it.
    report::listener(socket, listener.into_raw_fd())
}

/// Writes `value` to `path` below procfs.
pub fn write_proc(proc: &OwnedFd, path: &CStr, value: &CStr) -> Outcome {
    let file = in_proc(proc, path, libc::O_WRONLY)?;
    fs::write(file.as_fd(), value.to_bytes())
}

/// A file below procfs, which is on that filesystem and regular.
fn in_proc(proc: &OwnedFd, path: &CStr, flags: i32) -> Result<OwnedFd> {
    let file = fs::openat2(proc.as_fd(), path, flags | libc::O_NONBLOCK | libc::O_NOCTTY, 0, IN_PROC)?;
    let regular = fs::fstat(file.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFREG;
    match regular && fs::fstatfs_magic(file.as_fd())? == fs::PROC_SUPER_MAGIC {
        true => Ok(file),
        false => Err(Error::new("verify procfs", libc::EXDEV)),
    }
}

/// A session keyring of the container's own, which its execs join by name; a kernel without keyrings is fine.
pub fn keyring(name: &CStr) -> Outcome {
    /// The kernel's own choice for a new session keyring (possessor all; user view, read, link), and user search:
    /// without that the name is found by nobody, and every exec would have a keyring of its own.
    const FOUND_BY_NAME: u32 = 0x3f1b_0000;
    match cred::join_session_keyring(name) {
        Err(e) if e.is(libc::ENOSYS) => Ok(()),
        r => cred::key_setperm(r?, FOUND_BY_NAME),
    }
}

/// COMPAT: as under runc, a limit that is already there is no error, though raising it would be forbidden.
fn rlimit(resource: u32, soft: u64, hard: u64) -> Outcome {
    match process::setrlimit(resource, soft, hard) {
        Err(e) if e.is(libc::EPERM) && process::getrlimit(resource)? == (soft, hard) => Ok(()),
        r => r,
    }
}

/// Lowering below the start value needs CAP_SYS_RESOURCE; a value that is already there is no error.
fn oom_score_adj(proc: &OwnedFd, value: &CStr) -> Outcome {
    let Err(error) = write_proc(proc, c"self/oom_score_adj", value) else { return Ok(()) };
    let file = in_proc(proc, c"self/oom_score_adj", libc::O_RDONLY)?;
    let mut buf = [0; 16];
    let now = fs::read(file.as_fd(), &mut buf)?;
    if now.trim_ascii_end() == value.to_bytes() { Ok(()) } else { Err(error) }
}

fn bounding(keep: u64) -> Outcome {
    for cap in 0..64u8 {
        if keep & 1 << cap != 0 {
            continue;
        }
        match cred::capbset_drop(cap) {
            // EINVAL: the first number this kernel does not know; there are none above it.
            Err(e) if e.is(libc::EINVAL) => break,
            // What is not there need not be dropped, and dropping it may be forbidden (nested containers).
            Err(e) if e.is(libc::EPERM) && matches!(cred::capbset_read(cap), Ok(false)) => {}
            r => r?,
        }
    }
    Ok(())
}

fn user(uid: u32, gid: u32, groups: &[u32], proc: &OwnedFd) -> Outcome {
    // ORDER: KEEPCAPS before the uid changes, or the permitted set is lost with it.
    cred::set_keepcaps(true)?;
    match cred::setgroups(groups) {
        // COMPAT: as under runc, groups that nobody may have there are no error.
        Err(e) if e.is(libc::EPERM) && (groups.is_empty() || setgroups_is_denied(proc)?) => {}
        r => r?,
    }
    cred::setresgid(gid)?;
    cred::setresuid(uid)?;
    // KERNEL: a change of ids sets this to fs.suid_dumpable, which may say 1 (proc_sys_fs(5); CVE-2016-9962).
    cred::set_dumpable(false)?;
    cred::set_keepcaps(false)
}

/// In namespaces made by unprivileged users it is (user_namespaces(7)).
fn setgroups_is_denied(proc: &OwnedFd) -> Result<bool> {
    let file = in_proc(proc, c"self/setgroups", libc::O_RDONLY)?;
    let mut buf = [0; 16];
    Ok(fs::read(file.as_fd(), &mut buf)?.trim_ascii_end() == b"deny")
}

/// COMPAT: capabilities that the host lacks are left out, as runc does; the shim has warned about them.
fn capabilities(sets: CapSets, ambient: u64) -> Outcome {
    let have = cred::capget()?.permitted;
    let permitted = sets.permitted & have;
    let effective = sets.effective & permitted;
    let inheritable = sets.inheritable & (have | cred::capget()?.inheritable);
    cred::ambient_clear()?;
    cred::capset(CapSets { effective, permitted, inheritable })?;
    let ambient = ambient & permitted & inheritable;
    (0..64u8).filter(|cap| ambient & 1 << cap != 0).try_for_each(cred::ambient_raise)
}

/// chdir, then the kernel's own answer to "where am I" must be inside the root (CVE-2024-21626).
fn cwd(room: &mut Room, path: &CStr, early: bool) -> Outcome {
    if room.arrived {
        return Ok(());
    }
    match fs::chdir(path) {
        Err(e) if early && matches!(e.errno, libc::EACCES | libc::EPERM) => return Ok(()),
        r => r?,
    }
    room.arrived = true;
    let mut buf = [0; libc::PATH_MAX as usize];
    match fs::getcwd(&mut buf)? {
        [b'/', ..] => Ok(()),
        _ => Err(Error::new("getcwd", libc::ENOENT)),
    }
}

/// The first candidate that is an executable file. COMPAT: what is in the way in PATH without being one counts as not found,
/// as under runc; of a path that was named itself, the failure is told.
fn lookup(room: &mut Room, program: &Program) -> Outcome {
    let mut worst = Error::new("stat", libc::ENOENT);
    for (index, path) in program.candidates.iter().enumerate() {
        match executable(path) {
            Ok(()) => {
                room.program = index;
                return Ok(());
            }
            Err(e) if e.is(libc::ENOSYS) || program.explicit => worst = e,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn executable(path: &CStr) -> Outcome {
    let st = fs::fstatat(fs::CWD, path, 0)?;
    match st.st_mode & libc::S_IFMT {
        libc::S_IFDIR => return Err(Error::new("stat", libc::EISDIR)),
        libc::S_IFREG => {}
        _ => return Err(Error::new("stat", libc::EACCES)),
    }
    fs::faccessat(fs::CWD, path, libc::X_OK)
}

/// Executes the candidate that `Lookup` found. Returns only on failure.
fn execve(room: &Room, program: &Program, argv: &cred::Strings, envp: &cred::Strings) -> Outcome {
    match program.candidates.get(room.program) {
        Some(path) => Err(cred::execve(path, argv, envp, room.home.entry())),
        None => Err(Error::new("execve", libc::ENOENT)),
    }
}
