//! Who a process is: setresuid(2), setgroups(2), capset(2), prctl(2), seccomp(2), keyctl(2).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::Result;
use super::error::check;
use super::fs::own;

/// The three sets capset(2) takes, as bit masks over capability numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// setresuid(2), the raw call: this thread only.
pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check("setresuid", r).map(drop)
}

/// setresgid(2), the raw call: this thread only.
pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check("setresgid", r).map(drop)
}

/// setgroups(2), the raw call: this thread only.
pub fn setgroups(gids: &[u32]) -> Result<()> {
    // SAFETY: gids is readable for its length.
    let r = unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) };
    check("setgroups", r).map(drop)
}

/// capset(2) of the calling thread.
pub fn capset(sets: CapSets) -> Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data records, both live.
    let r = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    check("capset", r).map(drop)
}

/// capget(2) of the calling thread.
pub fn capget() -> Result<CapSets> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads one header and writes two data records, both live.
    let r = unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) };
    check("capget", r)?;
    let whole = |f: fn(&CapData) -> u32| u64::from(f(&data[0])) | u64::from(f(&data[1])) << 32;
    Ok(CapSets {
        effective: whole(|d| d.effective),
        permitted: whole(|d| d.permitted),
        inheritable: whole(|d| d.inheritable),
    })
}

fn prctl(call: &'static str, option: i32, a: u64, b: u64) -> Result<i32> {
    // SAFETY: the options used below take integers only.
    let r = unsafe { libc::prctl(option, a, b, 0, 0) };
    check(call, r.into()).map(|r| r as i32)
}

/// geteuid(2).
pub fn geteuid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// prctl(2) `PR_CAPBSET_DROP`.
pub fn capbset_drop(cap: u8) -> Result<()> {
    prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, cap.into(), 0).map(drop)
}

/// prctl(2) `PR_CAPBSET_READ`: is `cap` in the bounding set? `EINVAL` = the kernel does not know it.
pub fn capbset_read(cap: u8) -> Result<bool> {
    prctl("PR_CAPBSET_READ", libc::PR_CAPBSET_READ, cap.into(), 0).map(|r| r == 1)
}

/// prctl(2) `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn ambient_clear() -> Result<()> {
    prctl("PR_CAP_AMBIENT_CLEAR_ALL", libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
        .map(drop)
}

/// prctl(2) `PR_CAP_AMBIENT_RAISE`.
pub fn ambient_raise(cap: u8) -> Result<()> {
    prctl("PR_CAP_AMBIENT_RAISE", libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, cap.into())
        .map(drop)
}

/// prctl(2) `PR_SET_KEEPCAPS`.
pub fn set_keepcaps(keep: bool) -> Result<()> {
    prctl("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// prctl(2) `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privs() -> Result<()> {
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// prctl(2) `PR_SET_DUMPABLE`.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, on.into(), 0).map(drop)
}

/// prctl(2) `PR_SET_CHILD_SUBREAPER`.
pub fn set_child_subreaper() -> Result<()> {
    prctl("PR_SET_CHILD_SUBREAPER", libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with `flags` (`SECCOMP_FILTER_FLAG_*`).
/// The listener's descriptor with `NEW_LISTENER`, otherwise nothing.
pub fn seccomp_filter(program: &[libc::sock_filter], flags: u64) -> Result<Option<OwnedFd>> {
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: prog points to `len` live instructions, which the kernel only reads.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &prog) };
    let fd = check("seccomp", r)?;
    let listens = flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    Ok(listens.then(|| own(fd)))
}

/// Does the kernel take these `SECCOMP_FILTER_FLAG_*`? seccomp(2) looks at them before it reads the program, and there is
/// none: EFAULT says that they were let through.
pub fn takes_seccomp_flags(flags: u64) -> bool {
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel reads nothing but the null pointer, which it refuses.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, none) };
    check("seccomp", r).is_err_and(|e| e.is(libc::EFAULT))
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: a new session keyring called `name`; its serial number.
pub fn join_session_keyring(name: &CStr) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: name is NUL-terminated.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    check("keyctl", r).map(|r| r as i32)
}

/// keyctl(2) `KEYCTL_SETPERM`: who may do what with a key (keyrings(7), "Permissions").
pub fn key_setperm(key: i32, permissions: u32) -> Result<()> {
    const KEYCTL_SETPERM: i32 = 5;
    // SAFETY: takes integers only.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) };
    check("keyctl", r).map(drop)
}

/// personality(2).
pub fn personality(persona: u64) -> Result<()> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::personality(persona) };
    check("personality", r.into()).map(drop)
}

/// setsid(2).
pub fn setsid() -> Result<()> {
    // SAFETY: takes nothing.
    let r = unsafe { libc::setsid() };
    check("setsid", r.into()).map(drop)
}

/// execve(2); returns only on failure. `last` is the end of an environment that has room for it, unless it is empty.
pub fn execve(path: &CStr, argv: &Strings, envp: &Strings, last: &CStr) -> super::Error {
    envp.end_with(if last.is_empty() { ptr::null() } else { last.as_ptr() });
    // SAFETY: path is NUL-terminated; `Strings` ends with a null pointer and points into memory it owns, or to `last`.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    envp.end_with(ptr::null());
    super::Error::last("execve")
}

/// execveat(2) of the file `fd` itself; returns only on failure.
pub fn execveat(fd: BorrowedFd<'_>, argv: &Strings, envp: &Strings) -> super::Error {
    let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
    // SAFETY: the path is empty; `Strings` ends with a null pointer and points into memory it owns.
    unsafe {
        libc::syscall(libc::SYS_execveat, fd.as_raw_fd(), c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
    };
    super::Error::last("execveat")
}

/// A null-terminated array of C strings, as execve(2) takes it, made before the clone.
#[derive(Debug)]
pub struct Strings {
    pointers: Vec<AtomicPtr<libc::c_char>>,
    strings: Vec<std::ffi::CString>,
}

impl Strings {
    pub fn new(strings: Vec<std::ffi::CString>) -> Self {
        Self::followed_by(1, strings)
    }

    /// With room for one more, see [`execve`].
    pub fn with_room(strings: Vec<std::ffi::CString>) -> Self {
        Self::followed_by(2, strings)
    }

    fn followed_by(nulls: usize, strings: Vec<std::ffi::CString>) -> Self {
        let own = strings.iter().map(|s| s.as_ptr().cast_mut());
        let pointers = own.chain(std::iter::repeat_n(ptr::null_mut(), nulls)).map(AtomicPtr::new).collect();
        Self { pointers, strings }
    }

    fn end_with(&self, last: *const libc::c_char) {
        let room = self.strings.len();
        if room + 1 < self.pointers.len() {
            self.pointers[room].store(last.cast_mut(), Ordering::Relaxed);
        }
    }

    /// Leads into `strings`, whose heap data neither moves nor changes while this value lives.
    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr().cast()
    }

    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(|s| s.as_c_str())
    }
}
