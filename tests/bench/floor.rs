//! The floor: only what the kernel has to do for the bench's spec, in the order and by the calls that cost least, with
//! everything prepared that can be. No RPC, no events, no state on disk, no checks; nobody could use it as a shim.
//!
//! A process of its own (`--floor`), with one thread and a small memory: what a clone costs depends on both. One line asks
//! for one thing, one line of milliseconds answers:
//!
//! ```text
//! run ID [seccomp]     /bin/true from nothing to nothing: created and started, exited, cleared
//! hold ID [seccomp]    starts a container that sleeps
//! exec                 /bin/true in it, to its end
//! kill                 SIGKILL to its end; clears the rest
//! ```

use crate::support::subject;
use myshim::engine::cgroup::{Cgroup, DevicePolicy, Host, Join};
use myshim::engine::seccomp;
use myshim::sys::cred::{self, CapSets, Strings};
use myshim::sys::process::{self, Exit};
use myshim::sys::{clone, fs, mount, ns, pipe, socket};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs as files;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
/// The fourteen capabilities of the bench's spec, as bits of capability.h.
const CAPABILITIES: u64 = 0xa804_25fb;
const NOSUID: u64 = libc::MS_NOSUID;
const CLOSED: u64 = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
type Mount = (&'static CStr, &'static CStr, u64, Option<&'static CStr>);
const MOUNTS: [Mount; 7] = [
    (c"proc", c"proc", CLOSED, None),
    (c"dev", c"tmpfs", NOSUID | libc::MS_STRICTATIME, Some(c"mode=755,size=65536k")),
    (c"dev/pts", c"devpts", NOSUID | libc::MS_NOEXEC, Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5")),
    (c"dev/shm", c"tmpfs", CLOSED, Some(c"mode=1777,size=65536k")),
    (c"dev/mqueue", c"mqueue", CLOSED, None),
    (c"sys", c"sysfs", CLOSED | libc::MS_RDONLY, None),
    (c"run", c"tmpfs", NOSUID | libc::MS_STRICTATIME, Some(c"mode=755,size=65536k")),
];
const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];
const READONLY: [&CStr; 5] = [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];
const MASKED: [&CStr; 7] = [
    c"proc/kcore",
    c"proc/keys",
    c"proc/latency_stats",
    c"proc/timer_list",
    c"proc/timer_stats",
    c"proc/sched_debug",
    c"proc/scsi",
];
const MASKED_FOLDERS: [&CStr; 2] = [c"proc/acpi", c"sys/firmware"];

/// Answers requests until its input ends.
pub fn serve() {
    let floor = Floor::new();
    let mut held = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a request");
        let words: Vec<_> = line.split(' ').collect();
        let filter = words.get(2).map(|_| &floor.filter);
        let answer = match (words[0], held.take()) {
            ("run", _) => floor.run(words[1], filter),
            ("hold", _) => {
                held = Some(floor.start(words[1], floor.folders(words[1]), c"sleep", filter, false));
                Vec::new()
            }
            ("exec", Some(container)) => {
                let begin = Instant::now();
                let pidfd = floor.exec(&container, filter_of(&floor, &container), None);
                end(&pidfd);
                let time = begin.elapsed();
                held = Some(container);
                vec![time]
            }
            ("kill", Some(container)) => {
                let begin = Instant::now();
                container.kill();
                end(&container.pidfd);
                let time = begin.elapsed();
                floor.clear(&container);
                vec![time]
            }
            other => panic!("request {:?}", other.0),
        };
        let text: Vec<_> = answer.iter().map(|time| (time.as_secs_f64() * 1e3).to_string()).collect();
        println!("{}", text.join(" "));
        std::io::stdout().flush().expect("answer");
    }
}

fn filter_of<'f>(floor: &'f Floor, container: &Running) -> Option<&'f seccomp::Filter> {
    container.filtered.then_some(&floor.filter)
}

pub struct Floor {
    folder: PathBuf,
    pub filter: seccomp::Filter,
    own_pids: OwnedFd,
    environment: Strings,
}

/// What tells that the program runs: the end of this, when the process's own end is closed by execve(2).
pub struct News(pub OwnedFd);

impl News {
    pub fn wait(&self) {
        fs::read(self.0.as_fd(), &mut [0]).expect("wait for a process");
    }

    /// Lets a process go on that waits at its gate.
    pub fn go(&self) {
        fs::write(self.0.as_fd(), &[0]).expect("open the gate");
    }
}

pub struct Running {
    cgroup: Cgroup,
    join: Join,
    rootfs: CString,
    pub pidfd: OwnedFd,
    pub news: News,
    filtered: bool,
}

impl Running {
    pub fn kill(&self) {
        process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL).expect("kill");
    }
}

impl Floor {
    pub fn new() -> Self {
        let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            folder: std::env::temp_dir(),
            filter: seccomp::compile(&crate::rounds::profile()).expect("compile the profile"),
            own_pids: fs::openat(fs::CWD, c"/proc/self/ns/pid", libc::O_RDONLY, 0)
                .expect("open the pid namespace"),
            environment: Strings::new(vec![path.to_owned()]),
        }
    }

    fn run(&self, id: &str, filter: Option<&seccomp::Filter>) -> Vec<Duration> {
        let rootfs = self.folders(id);
        let begin = Instant::now();
        let container = self.start(id, rootfs, c"true", filter, false);
        let started = begin.elapsed();
        end(&container.pidfd);
        let ended = begin.elapsed();
        let clearing = Instant::now();
        self.clear(&container);
        vec![started, ended, clearing.elapsed()]
    }

    /// Until the program runs, or waits before it until it is let go.
    pub fn start(
        &self,
        id: &str,
        [rootfs, options]: [CString; 2],
        program: &CStr,
        filter: Option<&seccomp::Filter>,
        gated: bool,
    ) -> Running {
        let name = format!("/{}/floor-{id}", subject::run_name());
        let host = Host::get().expect("find the cgroups");
        let cgroup = Cgroup::locate(Some(Path::new(&name)), id, host, false).expect("locate the cgroup");
        cgroup.create().expect("make the cgroup");
        cgroup.apply_early(&crate::rounds::resources(), DevicePolicy::Enforce).expect("device rules");
        mount::mount(Some(c"overlay"), &rootfs, Some(c"overlay"), 0, Some(&options))
            .expect("mount the overlay");
        let join = cgroup.join().expect("open the cgroup");
        let (argv, true_path) = program_of(program);
        let (seen, running) = if gated { socket::seqpacket_pair() } else { pipe::pipe() }.expect("two ends");
        let into = join.into.as_ref().map(AsFd::as_fd);
        let child = clone::clone3(NAMESPACES as u64, into, || {
            fs::close(seen.as_raw_fd());
            let _ = process::reset_signals();
            let made = join.tasks.iter().try_for_each(|file| fs::write(file.as_fd(), b"0"));
            let made = made.and_then(|()| furnish(&rootfs)).and_then(|()| restrict(filter));
            let made = made.and_then(|()| if gated { pass(&running) } else { Ok(()) });
            fail(made.err().unwrap_or_else(|| cred::execve(&true_path, &argv, &self.environment, c"")))
        });
        let pidfd = child.expect("clone").pidfd;
        drop(running);
        let news = News(seen);
        news.wait();
        Running { cgroup, join, rootfs, pidfd, news, filtered: filter.is_some() }
    }

    /// What containerd has made before it asks: where the overlay goes, and its options.
    pub fn folders(&self, id: &str) -> [CString; 2] {
        let folder = |name: &str| {
            let path = self.folder.join(format!("floor-{id}-{name}"));
            files::create_dir(&path).expect("make a folder");
            path.display().to_string()
        };
        let (rootfs, upper, work) = (folder("root"), folder("upper"), folder("work"));
        let data = format!("lowerdir={},upperdir={upper},workdir={work}", subject::image_root().display());
        [rootfs, data].map(|text| CString::new(text).expect("no NUL"))
    }

    /// /bin/true beside the container's own, which holds the end of a pipe `until_it_runs`.
    pub fn exec(
        &self,
        container: &Running,
        filter: Option<&seccomp::Filter>,
        until_it_runs: Option<OwnedFd>,
    ) -> OwnedFd {
        let join = &container.join;
        let (argv, path) = program_of(c"true");
        ns::setns(container.pidfd.as_fd(), libc::CLONE_NEWPID).expect("enter the pid namespace");
        let into = join.into.as_ref().map(AsFd::as_fd);
        let child = clone::clone3(0, into, || {
            let _ = process::reset_signals();
            let made = join.tasks.iter().try_for_each(|file| fs::write(file.as_fd(), b"0"));
            let others = NAMESPACES & !libc::CLONE_NEWPID;
            let made = made.and_then(|()| ns::setns(container.pidfd.as_fd(), others));
            let made = made.and_then(|()| restrict(filter));
            fail(made.err().unwrap_or_else(|| cred::execve(&path, &argv, &self.environment, c"")))
        });
        ns::setns(self.own_pids.as_fd(), libc::CLONE_NEWPID).expect("come back");
        drop(until_it_runs);
        child.expect("clone").pidfd
    }

    pub fn clear(&self, container: &Running) {
        container.cgroup.remove(Duration::from_secs(2)).expect("remove the cgroup");
        mount::umount2(&container.rootfs, libc::MNT_DETACH).expect("unmount");
    }
}

fn program_of(name: &CStr) -> (Strings, CString) {
    let mut argv = vec![name.to_owned()];
    if name == c"sleep" {
        argv.push(c"1000".to_owned());
    }
    let path = CString::new([b"/bin/", name.to_bytes()].concat()).expect("a path");
    (Strings::new(argv), path)
}

/// Everything in the mount namespace, and the small things beside it.
fn furnish(rootfs: &CStr) -> myshim::sys::Result<()> {
    cred::setsid()?;
    cred::join_session_keyring(c"_ses.floor")?;
    ns::loopback_up()?;
    ns::sethostname(c"box")?;
    mount::mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None)?;
    mount::mount(Some(rootfs), rootfs, None, libc::MS_BIND | libc::MS_REC, None)?;
    fs::chdir(rootfs)?;
    for (target, kind, flags, data) in MOUNTS {
        if target.to_bytes().contains(&b'/') {
            fs::mkdirat(fs::CWD, target, 0o755)?;
        }
        mount::mount(Some(kind), target, Some(kind), flags, data)?;
    }
    fs::umask(0);
    for (target, major, minor) in DEVICES {
        fs::mknodat(fs::CWD, target, libc::S_IFCHR | 0o666, libc::makedev(major, minor))?;
    }
    fs::umask(0o022);
    LINKS.iter().try_for_each(|(to, name)| fs::symlinkat(to, fs::CWD, name))?;
    READONLY.iter().try_for_each(|path| readonly(path))?;
    for path in MASKED {
        absent(mount::mount(Some(c"dev/null"), path, None, libc::MS_BIND, None))?;
    }
    for path in MASKED_FOLDERS {
        absent(mount::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), libc::MS_RDONLY, None))?;
    }
    mount::pivot_root_here()?;
    mount::umount2(c".", libc::MNT_DETACH)?;
    fs::chdir(c"/")
}

fn readonly(path: &CStr) -> myshim::sys::Result<()> {
    absent(mount::mount(Some(path), path, None, libc::MS_BIND | libc::MS_REC, None))?;
    let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | CLOSED;
    absent(mount::mount(None, path, None, flags, None))
}

/// What this kernel does not have needs no mask. Without the path, the remount of it is EINVAL.
fn absent(done: myshim::sys::Result<()>) -> myshim::sys::Result<()> {
    match done {
        Err(e) if e.is(libc::ENOENT) || e.is(libc::EINVAL) => Ok(()),
        done => done,
    }
}

fn restrict(filter: Option<&seccomp::Filter>) -> myshim::sys::Result<()> {
    process::setrlimit(libc::RLIMIT_NOFILE, 1024, 1024)?;
    cred::set_no_new_privs()?;
    for cap in (0..=40).filter(|cap| CAPABILITIES & (1 << cap) == 0) {
        cred::capbset_drop(cap)?;
    }
    cred::setgroups(&[])?;
    cred::capset(CapSets { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: 0 })?;
    filter.map_or(Ok(()), |filter| cred::seccomp_filter(&filter.program, filter.flags.into()).map(drop))
}

/// Tells that it is there, and waits to be let go.
fn pass(gate: &OwnedFd) -> myshim::sys::Result<()> {
    fs::write(gate.as_fd(), &[0])?;
    fs::read(gate.as_fd(), &mut [0]).map(drop)
}

/// Says nothing: whoever waits finds a pipe closed and a process dead with this number.
fn fail(error: myshim::sys::Error) -> Infallible {
    process::exit(error.errno)
}

pub fn end(pidfd: &OwnedFd) {
    let exit = process::waitid(pidfd.as_fd(), libc::WEXITED).expect("wait");
    let fine = [Some(0), Some(128 + libc::SIGKILL as u32)];
    assert!(fine.contains(&exit.map(|Exit { status, .. }| status)), "the floor's process failed: {exit:?}");
}
