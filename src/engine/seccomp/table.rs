//! System call names and their numbers on each architecture that a filter can be asked to judge.
//!
//! `syscalls.txt` holds one line per name, sorted: `name x86_64 i386 x32 aarch64 arm`, `-` where the call does not
//! exist; x32's numbers come without their bit 30. Complete up to Linux 7.0 (number 471), from the kernel's
//! `arch/*/tools/syscall*.tbl`. It is text and not a Rust table because text needs no relocation: nothing of it is
//! ever private memory of the shim.

use super::arch::Arch;

const LINES: &str = include_str!("syscalls.txt");

/// The number of `name` on `arch`, as the filter sees it.
pub fn number(arch: Arch, name: &str) -> Option<u32> {
    let column = match arch {
        Arch::X86_64 => 0,
        Arch::X86 => 1,
        Arch::X32 => 2,
        Arch::Aarch64 => 3,
        Arch::Arm => 4,
    };
    let number: u32 = line(name)?.split(' ').nth(1 + column)?.parse().ok()?;
    Some(number | arch.number_mark())
}

/// Binary search over lines: look at the line around the middle byte.
fn line(name: &str) -> Option<&'static str> {
    let mut rest = LINES;
    while !rest.is_empty() {
        let middle = rest.len() / 2;
        let start = rest[..middle].rfind('\n').map_or(0, |at| at + 1);
        let end = rest[middle..].find('\n').map_or(rest.len(), |at| middle + at + 1);
        let here = rest[start..end].trim_end();
        let found = here.split(' ').next()?;
        match found.cmp(name) {
            std::cmp::Ordering::Equal => return Some(here),
            std::cmp::Ordering::Less => rest = &rest[end..],
            std::cmp::Ordering::Greater => rest = &rest[..start],
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
            assert_eq!(line(name).and_then(|line| line.split(' ').next()), Some(name));
        }
        assert_eq!(line(""), None);
        assert_eq!(line("zzz"), None);
        assert_eq!(line("read 0"), None);
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
