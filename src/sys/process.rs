//! Processes by descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2), and what a process is given before execve:
//! setrlimit(2), sched_setattr(2), ioprio_set(2), sched_setaffinity(2), signal masks.

use std::mem::{MaybeUninit, size_of, size_of_val};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use super::error::check;
use super::fs::own;
use super::{Error, Result};

/// How a process ended (waitid(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    /// The exit code, or 128 + the signal that ended it.
    pub status: u32,
}

/// pidfd_open(2) (Linux 5.3). ESRCH: there is no such process.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check("pidfd_open", r).map(own).map_err(|e| match e.is(libc::EINVAL) {
        // KERNEL: a process that is being reaped at this moment leads no thread group any more.
        true => Error::new("pidfd_open", libc::ESRCH),
        false => e,
    })
}

/// getpid(2): the caller's pid as its own pid namespace counts.
pub fn getpid() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::getpid() }
}

/// pidfd_send_signal(2) (Linux 5.1).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill it in as kill(2) does.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    check("pidfd_send_signal", r).map(drop)
}

/// pidfd_getfd(2) (Linux 5.6): a copy of descriptor `number` of the process, close-on-exec.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    check("pidfd_getfd", r).map(own)
}

/// waitid(2) by pidfd. `flags` = `WEXITED` and `WNOHANG`, `WNOWAIT`; `None` = still running (`WNOHANG`).
pub fn waitid(pidfd: BorrowedFd<'_>, flags: i32) -> Result<Option<Exit>> {
    wait(libc::P_PIDFD, pidfd.as_raw_fd() as u32, flags)
}

/// Is any child dead and not yet reaped? Leaves it so.
pub fn any_zombie() -> bool {
    matches!(wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT), Ok(Some(_)))
}

/// waitid(2) by pid, for a child whose pidfd nobody has.
pub fn waitid_pid(pid: i32, flags: i32) -> Result<Option<Exit>> {
    wait(libc::P_PID, pid as u32, flags)
}

fn wait(kind: libc::idtype_t, id: u32, flags: i32) -> Result<Option<Exit>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is valid.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    loop {
        // SAFETY: info is a live siginfo_t.
        let r = unsafe { libc::waitid(kind, id, &mut info, flags | libc::__WALL) };
        match check("waitid", r.into()) {
            Err(e) if e.is(libc::EINTR) => continue,
            r => {
                r?;
                break;
            }
        }
    }
    // SAFETY: after waitid the SIGCHLD fields are the valid ones; without a child they are zero.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() } as u32;
    let status = if info.si_code == libc::CLD_EXITED { status } else { 128 + status };
    Ok((pid != 0).then_some(Exit { pid, status }))
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::kill(pid, signal) };
    check("kill", r.into()).map(drop)
}

/// prctl(2) `PR_SET_PDEATHSIG`: SIGKILL when the thread that cloned this process ends.
pub fn die_with_parent() -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    check("prctl", r.into()).map(drop)
}

/// `_exit(2)`.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(status) }
}

/// setrlimit(2), by prlimit64 on the calling process.
pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit is a live rlimit64; the old value is not asked for.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &limit, ptr::null::<libc::rlimit64>()) };
    check("setrlimit", r).map(drop)
}

/// getrlimit(2): soft and hard.
pub fn getrlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is a live rlimit64; no new value is given.
    let r =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<libc::rlimit64>(), &mut limit) };
    check("getrlimit", r)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// `struct sched_attr` of sched_setattr(2), version 1 (Linux 5.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// Utilisation clamps, 0 to 1024; read only with their flags.
    pub util_min: u32,
    pub util_max: u32,
}

/// sched_setattr(2) of the calling thread.
pub fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: attr is live and says its own size.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr, 0) };
    check("sched_setattr", r).map(drop)
}

/// ioprio_set(2) of the calling thread: class and priority in one number.
pub fn ioprio_set(value: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    check("ioprio_set", r).map(drop)
}

/// A set of CPUs as sched_setaffinity(2) takes it: 1024 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet(pub [u64; 16]);

/// sched_setaffinity(2) of the calling thread.
pub fn sched_setaffinity(set: &CpuSet) -> Result<()> {
    // SAFETY: the set is live and of the size passed.
    let r = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of::<CpuSet>(), set.0.as_ptr()) };
    check("sched_setaffinity", r).map(drop)
}

/// As many CPUs as any kernel is built for (`NR_CPUS`), as a mask.
const EVERY_CPU: [u64; 128] = [u64::MAX; 128];

/// sched_setaffinity(2) of the calling thread to all CPUs: the kernel leaves out those that are not there or not in the
/// cpuset, until they are.
pub fn reset_affinity() -> Result<()> {
    let (size, set) = (size_of_val(&EVERY_CPU), EVERY_CPU.as_ptr());
    // SAFETY: the set is live and of the size passed.
    let r = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size, set) };
    check("sched_setaffinity", r).map(drop)
}

/// sched_getaffinity(2) of the calling thread: the number of CPUs that it may run on and that are online.
pub fn cpus_allowed() -> Result<u32> {
    let mut set = [0u64; EVERY_CPU.len()];
    let size = size_of_val(&set);
    // SAFETY: the set is live and of the size passed.
    let r = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size, set.as_mut_ptr()) };
    check("sched_getaffinity", r).map(|_| set.iter().map(|bits| bits.count_ones()).sum())
}

/// A set of memory nodes as set_mempolicy(2) takes it: 1024 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSet(pub [u64; 16]);

/// set_mempolicy(2) of the calling thread: `MPOL_*` with its flags; no nodes where the mode takes none.
pub fn set_mempolicy(mode: i32, nodes: Option<&NodeSet>) -> Result<()> {
    // KERNEL: it takes one off the number of bits it is given.
    let (mask, bits) = nodes.map_or((ptr::null(), 0), |set| (set.0.as_ptr(), 1025));
    // SAFETY: the set is live and as long as said, or not there with a length of 0.
    let r = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check("set_mempolicy", r).map(drop)
}

/// Ends what the starter had ignored: an ignored signal stays so over execve(2), in every process to come. SIGPIPE
/// stays ignored, because a socket that its peer has left must be an error here; see `reset_signals`.
pub fn heed_signals() {
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: sigaction is plain data, for which all zeroes is valid.
        let mut now: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: now is live, and nothing new is set. libc's own signals are refused and keep `now` zero.
        unsafe { libc::sigaction(signal, ptr::null(), &mut now) };
        if now.sa_sigaction == libc::SIG_IGN {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Gives a child of `clone3` default dispositions for all signals and an empty mask: what an executed program expects.
/// The clone has dropped all handlers, `heed_signals` whatever the starter ignored; SIGPIPE is left.
pub fn reset_signals() -> Result<()> {
    // SAFETY: sigset_t is plain data, for which all zeroes (the empty set) is valid.
    let none: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // ORDER: dispositions first, so that a pending signal that the new mask lets in meets its default.
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: none is a live sigset_t.
    let r = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) };
    check("sigprocmask", r.into()).map(drop)
}

/// Blocks `signals` in the calling thread and returns a signalfd(2) for them, non-blocking.
pub fn signalfd(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: sigset_t is plain data, for which all zeroes (the empty set) is valid.
    let mut set: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
    for &signal in signals {
        // SAFETY: set is a live sigset_t.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: set is a live sigset_t.
    let r = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
    check("sigprocmask", r.into())?;
    // SAFETY: set is a live sigset_t.
    let r = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check("signalfd", r.into()).map(own)
}

/// The signal numbers waiting in a signalfd, one read(2) at a time; `None` when there is none.
pub fn signalfd_read(fd: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    // SAFETY: info is room for one signalfd_siginfo.
    let r =
        unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size_of::<libc::signalfd_siginfo>()) };
    match check("read", r as libc::c_long) {
        Err(e) if e.is(libc::EAGAIN) => Ok(None),
        Err(e) => Err(e),
        // SAFETY: the kernel filled in a whole record.
        Ok(_) => Ok(Some(unsafe { info.assume_init() }.ssi_signo as i32)),
    }
}

/// poll(2) for reading: is `fd` readable (or hung up) within `timeout` milliseconds (-1 = for ever)?
pub fn poll_in(fd: BorrowedFd<'_>, timeout: i32) -> Result<bool> {
    poll(fd, libc::POLLIN, timeout)
}

/// poll(2) of a file that tells of changes (`cgroup.events`): has it changed since it was read, or does it within `timeout`
/// milliseconds?
pub fn poll_news(fd: BorrowedFd<'_>, timeout: i32) -> Result<bool> {
    poll(fd, libc::POLLPRI, timeout)
}

fn poll(fd: BorrowedFd<'_>, events: libc::c_short, timeout: i32) -> Result<bool> {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    loop {
        // SAFETY: p is one live pollfd.
        let r = unsafe { libc::poll(&mut p, 1, timeout) };
        match check("poll", r.into()) {
            Err(e) if e.is(libc::EINTR) => continue,
            r => return r.map(|n| n > 0),
        }
    }
}

/// poll(2) for reading of two descriptors, if they are there: which are readable within `timeout` milliseconds?
pub fn poll_either(fds: [Option<BorrowedFd<'_>>; 2], timeout: i32) -> Result<[bool; 2]> {
    // A negative descriptor is passed over (poll(2)).
    let pollfd = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut p = fds.map(pollfd);
    loop {
        // SAFETY: p is two live pollfds.
        let r = unsafe { libc::poll(p.as_mut_ptr(), 2, timeout) };
        match check("poll", r.into()) {
            Err(e) if e.is(libc::EINTR) => continue,
            r => return r.map(|_| p.map(|p| p.revents != 0)),
        }
    }
}

/// Overwrites the environment that this process was executed with, which /proc/PID/environ shows, but keeps the variables
/// `keep`, out of its sight. Only while there is one thread.
///
/// # Errors
/// When /proc/self/stat cannot be read.
pub fn erase_environment(keep: &[&str]) -> Result<()> {
    let shown = environment_shown()?;
    let kept: Vec<_> = keep.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    // SAFETY: one thread.
    unsafe { libc::clearenv() };
    // SAFETY: strings on the stack that execve made; nothing points to them any more.
    unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(shown.start), 0, shown.len()) };
    for (name, value) in kept {
        // SAFETY: one thread.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// Where /proc/PID/environ is read from: `env_start` and `env_end` of proc_pid_stat(5). Some of it may be in nobody's
/// environ(7): glibc copies what it takes its tunables from.
fn environment_shown() -> Result<Range<usize>> {
    /// Of field 50, behind the name in parentheses and a blank.
    const ENV_START: usize = 47;
    let read = std::fs::read_to_string("/proc/self/stat");
    let stat =
        read.map_err(|e| Error::new("read(/proc/self/stat)", e.raw_os_error().unwrap_or(libc::EIO)))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut ends = fields.split_ascii_whitespace().skip(ENV_START).map_while(|field| field.parse().ok());
    match (ends.next(), ends.next()) {
        // It shows zeroes to whom it does not want to tell.
        (Some(start), Some(end)) if 0 < start && start <= end => Ok(start..end),
        _ => Err(Error::new("read(/proc/self/stat)", libc::EPROTO)),
    }
}
