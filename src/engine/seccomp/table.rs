//! System call names and their numbers on each architecture that a filter can be asked to judge.
//!
//! `syscalls.txt` holds one line per name, sorted: `name x86_64 i386 x32 aarch64 arm`, `-` where the call does not
//! exist; x32's numbers come without their bit 30. Complete up to Linux 7.0 (number 471), from the kernel's
//! `arch/*/tools/syscall*.tbl`. It is text and not a Rust table because text needs no relocation: nothing of it is
//! ever private memory of the shim.

use super::arch::Arch;

const LINES: &str = include_str!("syscalls.txt");

/// One system call: its name and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(&'static str);

impl Call {
    pub fn name(self) -> &'static str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// The number on `arch`, as the filter sees it.
    pub fn number(self, arch: Arch) -> Option<u32> {
        let column = match arch {
            Arch::X86_64 => 1,
            Arch::X86 => 2,
            Arch::X32 => 3,
            Arch::Aarch64 => 4,
            Arch::Arm => 5,
        };
        let number: u32 = self.0.split(' ').nth(column)?.parse().ok()?;
        Some(number | arch.number_mark())
    }
}

/// Binary search over lines: look at the line around the middle byte.
pub fn find(name: &str) -> Option<Call> {
    let lines = LINES.as_bytes();
    let (mut low, mut high) = (0, lines.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = lines[low..middle].iter().rposition(|byte| *byte == b'\n').map_or(low, |at| low + at + 1);
        let end = lines[middle..high].iter().position(|byte| *byte == b'\n').map_or(high, |at| middle + at);
        let here = Call(&LINES[start..end]);
        match here.name().cmp(name) {
            std::cmp::Ordering::Equal => return Some(here),
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    None
}

/// What i386's `socketcall(2)` and `ipc(2)` call a function in their first argument.
///
/// COMPAT: libseccomp applies a rule about `connect` to `socketcall(SYS_CONNECT)` too. Without that a rule that
/// forbids a call could be walked around.
pub fn multiplexed(name: &str) -> Option<(&'static str, u32)> {
    let socketcall = |function| Some(("socketcall", function));
    let ipc = |function| Some(("ipc", function));
    match name {
        "socket" => socketcall(1),
        "bind" => socketcall(2),
        "connect" => socketcall(3),
        "listen" => socketcall(4),
        "accept" => socketcall(5),
        "getsockname" => socketcall(6),
        "getpeername" => socketcall(7),
        "socketpair" => socketcall(8),
        "send" => socketcall(9),
        "recv" => socketcall(10),
        "sendto" => socketcall(11),
        "recvfrom" => socketcall(12),
        "shutdown" => socketcall(13),
        "setsockopt" => socketcall(14),
        "getsockopt" => socketcall(15),
        "sendmsg" => socketcall(16),
        "recvmsg" => socketcall(17),
        "accept4" => socketcall(18),
        "recvmmsg" => socketcall(19),
        "sendmmsg" => socketcall(20),
        "semop" => ipc(1),
        "semget" => ipc(2),
        "semctl" => ipc(3),
        "semtimedop" => ipc(4),
        "msgsnd" => ipc(11),
        "msgrcv" => ipc(12),
        "msgget" => ipc(13),
        "msgctl" => ipc(14),
        "shmat" => ipc(21),
        "shmdt" => ipc(22),
        "shmget" => ipc(23),
        "shmctl" => ipc(24),
        _ => None,
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub fn number(arch: Arch, name: &str) -> Option<u32> {
    find(name)?.number(arch)
}

#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    LINES.lines().filter_map(|line| line.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_well_formed() {
        assert!(names().is_sorted_by(|a, b| a < b));
        for line in LINES.lines() {
            let columns: Vec<_> = line.split(' ').collect();
            assert_eq!(columns.len(), 6, "{line}");
            assert!(columns[1..].iter().all(|c| *c == "-" || c.parse::<u32>().is_ok()), "{line}");
        }
    }

    #[test]
    fn every_name_is_found() {
        for name in names() {
            assert_eq!(find(name).map(Call::name), Some(name));
        }
        assert_eq!(find(""), None);
        assert_eq!(find("zzz"), None);
        assert_eq!(find("read 0"), None);
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(number(Arch::X86_64, "read"), Some(0));
        assert_eq!(number(Arch::X86, "read"), Some(3));
        assert_eq!(number(Arch::X32, "read"), Some(0x4000_0000));
        assert_eq!(number(Arch::X32, "recvmmsg"), Some(0x4000_0000 | 537));
        assert_eq!(number(Arch::Aarch64, "read"), Some(63));
        assert_eq!(number(Arch::Aarch64, "open"), None);
        assert_eq!(number(Arch::Arm, "set_tls"), Some(0x000f_0005));
        assert_eq!(number(Arch::X86_64, "file_setattr"), Some(469));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_agree_with_libc_on_this_machine() {
        for (name, expected) in [
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("seccomp", libc::SYS_seccomp),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("futex_waitv", libc::SYS_futex_waitv),
        ] {
            assert_eq!(number(Arch::X86_64, name).map(i64::from), Some(expected), "{name}");
        }
    }
}
