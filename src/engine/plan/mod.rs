//! The plan: everything a child does between clone and execve, as data.
//!
//! `init` and `exec` build plans from the spec without a system call; `child::walk` carries them out. Each step
//! prints as one line, which is its place in golden tests and in error messages alike.

pub mod caps;
mod devices;
pub mod exec;
mod identity;
pub mod init;
mod list;
mod mounts;
mod target;
mod text;
pub mod words;

#[cfg(test)]
mod golden_tests;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::seccomp::Filter;
use crate::sys::cred::{CapSets, Strings};
use crate::sys::mount::MountAttr;
use crate::sys::process::{CpuSet, NodeSet, SchedAttr};

pub use identity::{Given, Program, SecurityModules, no_selinux};
pub use mounts::{CgroupView, Host as HostMounts, is_bind, new_filesystem};
pub use target::{Target, c_string};

/// What the child of one clone does, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Namespaces that clone3 itself creates (`CLONE_NEW*`).
    pub clone_flags: u64,
    /// Namespaces (with their kinds) that an intermediate process joins before the clone: user namespaces by path,
    /// and those that must be entered with the host's privileges before a new user namespace takes them away.
    pub born_in: Vec<(i32, Fd)>,
    /// A pid namespace to be born in: a namespace file, or the pidfd of a member.
    pub pidns: Option<Fd>,
    /// A new network namespace to be born in, which the shim has made.
    pub netns: Option<Fd>,
    /// The cgroup v2 directory to be born in.
    pub cgroup: Option<Fd>,
    pub steps: Vec<Step>,
    /// The longest time between two reports of the child's.
    pub limit: Option<Duration>,
}

/// A descriptor of the shim that the child inherits by number.
pub type Fd = Arc<OwnedFd>;

/// A message to the shim on the report socket, after which the child waits for a go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// "Write my uid_map and gid_map."
    IdMap = 1,
    /// "Namespaces and mounts are there, the root not yet pivoted: run the hooks."
    Hooks = 2,
    /// "All is set up": Create ends here, Start says go.
    Ready = 3,
}

/// One thing the child does. Everything is kernel-ready: no step allocates or looks anything up in the spec.
#[derive(Debug)]
pub enum Step {
    /// Join cgroup v1 hierarchies (and v2 in hybrid mode) by writing `0` to each file.
    JoinCgroups(Vec<Fd>),
    /// setns(2) to a namespace file.
    JoinNamespace {
        kind: i32,
        name: &'static str,
        path: PathBuf,
        fd: Fd,
    },
    /// setns(2) to several namespaces of a process at once.
    JoinProcess {
        kinds: i32,
        pidfd: Fd,
    },
    /// unshare(2).
    Unshare {
        kinds: i32,
        name: &'static str,
    },
    /// A new time namespace with offsets, one `timens_offsets` line each.
    TimeNamespace {
        offsets: Vec<CString>,
        proc: Fd,
    },
    Sync(Sync),
    /// Root of the user namespace just entered.
    BecomeRoot,
    /// The process so far has stayed out of the container's pid namespace; its copy, which goes on from here as its
    /// sibling, is born there.
    Birth,
    Setsid,
    /// SIGKILL when the shim's thread that waits for the process ends, as it does with the shim (prctl(2) `PR_SET_PDEATHSIG`).
    DieWithShim,
    /// The terminal on descriptor 0 becomes the session's.
    ControllingTerminal,
    Keyring(CString),
    Loopback,
    Hostname(CString),
    Domainname(CString),
    /// Propagation of the whole tree before anything is mounted (`MS_*`).
    Propagation(u64),
    /// Bind the rootfs on itself and take it as the root of all that follows; a slave of the host's, or private.
    Root {
        path: CString,
        slave: bool,
    },
    Mount(Box<Mount>),
    /// mount_setattr(2) on something mounted before.
    Remount {
        target: Target,
        attr: MountAttr,
    },
    /// A directory that must exist.
    Directory(Target),
    Device(Device),
    Link {
        target: &'static std::ffi::CStr,
        name: &'static std::ffi::CStr,
    },
    /// Open a terminal in the container's devpts, as 0, 1, 2; bind its slave to /dev/console if asked. Its size is
    /// in columns and lines.
    Console {
        bind: bool,
        uid: u32,
        size: Option<(u16, u16)>,
    },
    Sysctl {
        path: CString,
        value: CString,
        proc: Fd,
    },
    ReadonlyPath(Target),
    /// `label`: of the tmpfs that masks directories, for SELinux.
    MaskPath {
        target: Target,
        label: Option<CString>,
    },
    ReadonlyRoot,
    Pivot,
    /// What `no_pivot_root` does instead: move the root over `/` and chroot, with these mounts of the host taken away first.
    MoveRoot(Vec<CString>),
    /// The propagation of the container's `/` (`MS_*`), once it is `/`.
    RootPropagation(u64),
    /// Descriptors 0, 1, 2; `None` is /dev/null.
    Stdio([Option<Fd>; 3]),
    /// Those of descriptors 0, 1, 2 that are /dev/null: the container's own from here on.
    OwnNull([bool; 3]),
    Rlimit {
        name: String,
        resource: u32,
        soft: u64,
        hard: u64,
    },
    OomScoreAdj {
        value: CString,
        proc: Fd,
    },
    Scheduler(SchedAttr),
    IoPriority(i32),
    Affinity(Box<CpuSet>),
    /// Every CPU of the cpuset, though the shim is kept to some.
    EveryCpu,
    /// set_mempolicy(2): `MPOL_*` with its flags.
    MemoryPolicy {
        mode: i32,
        nodes: Option<Box<NodeSet>>,
    },
    Personality(u64),
    Umask(u32),
    /// A security label for what is executed or made next, into `/proc/self/attr/…`.
    Label {
        file: CString,
        label: CString,
        proc: Fd,
    },
    NoNewPrivs,
    /// Find HOME for this user id; it is one more variable of the environment.
    Home(u32),
    /// Drop from the bounding set all that is not in the mask.
    Bounding(u64),
    User {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        proc: Fd,
    },
    /// capset, then the ambient set; limited to what the process has.
    Capabilities {
        sets: CapSets,
        ambient: u64,
    },
    /// The working directory. Tried `early` first, with the rights of the set-up.
    Cwd {
        path: CString,
        early: bool,
    },
    /// Find the program among the candidates; execve takes the one found.
    Lookup(Arc<Program>),
    /// Closes everything from descriptor 3 up but the report socket and a terminal's master, which `Ready` takes along.
    CloseDescriptors,
    Seccomp(Arc<Filter>),
    Execve {
        program: Arc<Program>,
        argv: Strings,
        envp: Strings,
    },
}

/// A mount of the spec.
#[derive(Debug)]
pub struct Mount {
    /// Its index in `mounts`, for messages.
    pub index: usize,
    pub target: Target,
    pub from: Source,
    /// Attributes of the mount itself, and of the whole tree below it.
    pub attr: MountAttr,
    pub recursive: MountAttr,
    /// Attributes to clear as well, if that is allowed (`MOUNT_ATTR_*`).
    pub also_clear: u64,
    /// Propagation (`MS_*`) to set once it is in place.
    pub propagation: Vec<u64>,
    /// The target's final symbolic link is not followed; for procfs and sysfs no link is.
    pub links: Links,
    pub take_over: TakeOver,
    /// SELinux label of its root, for a filesystem that takes it in no other way.
    pub label: Option<CString>,
}

/// What a new tmpfs takes over from the directory that it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// COMPAT: its permission bits, unless the options have a mode, as in runc and crun.
    pub mode: bool,
    /// `tmpcopyup`.
    pub content: bool,
}

/// Which symbolic links the way to a mount target may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    InRoot,
    NotLast,
    None,
}

/// What fsconfig(2) is told: keys with a value, or flags.
pub type Options = Vec<(CString, Option<CString>)>;

/// Where a mount comes from.
#[derive(Debug)]
pub enum Source {
    /// A new filesystem: fsopen, one fsconfig per option, fsmount.
    Filesystem { kind: CString, source: CString, options: Options },
    /// A copy of a mount that is there, by path in the shim's mount namespace.
    Bind { path: CString, recursive: bool, nofollow: bool },
    /// A detached mount that the shim made (id-mapped, or out of the user namespace's reach).
    Detached { fd: Fd, path: CString },
    /// A symbolic link instead of a mount (`copy-symlink`, co-mounted cgroup controllers).
    Symlink(CString),
    /// No new mount: the one that is there gets attributes, and its filesystem, if given, options.
    Remount { superblock: Option<Options> },
}

/// A device node below the root.
#[derive(Clone, Debug)]
pub struct Device {
    pub target: Target,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with permission bits.
    pub mode: u32,
    pub rdev: u64,
    pub uid: u32,
    pub gid: u32,
    /// Where the host has it.
    pub host: CString,
    /// In a user namespace mknod is forbidden: bind the host's node.
    pub bind: bool,
}
