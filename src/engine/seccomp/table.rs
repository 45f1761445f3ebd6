//! System call names and their numbers on each architecture that a filter can be asked to judge.
//!
//! `syscalls.txt` holds one line per name, sorted: `name x86_64 i386 x32 aarch64 arm`, `-` where the call does not
//! exist; x32's numbers come without their bit 30. Complete up to Linux 7.0 (number 471), from the kernel's
//! `arch/*/tools/syscall*.tbl`. What it becomes holds no pointer, which would need relocation: nothing of it is ever private
//! memory of the shim.

use super::arch::Arch;

const LINES: &str = include_str!("syscalls.txt");
/// Columns of numbers.
const COLUMNS: usize = 5;
/// No such call on this architecture.
const NONE: u32 = u32::MAX;

/// One system call: where in `LINES` its name stands, and its numbers in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    start: u16,
    end: u16,
    numbers: [u32; COLUMNS],
}

static CALLS: [Call; count()] = read();

impl Call {
    pub fn name(&self) -> &'static str {
        &LINES[self.start.into()..self.end.into()]
    }

    /// The number on `arch`, as the filter sees it.
    pub fn number(&self, arch: Arch) -> Option<u32> {
        let column = match arch {
            Arch::X86_64 => 0,
            Arch::X86 => 1,
            Arch::X32 => 2,
            Arch::Aarch64 => 3,
            Arch::Arm => 4,
        };
        Some(self.numbers[column]).filter(|number| *number != NONE).map(|number| number | arch.number_mark())
    }
}

pub fn find(name: &str) -> Option<&'static Call> {
    CALLS.binary_search_by(|call| call.name().cmp(name)).ok().map(|at| &CALLS[at])
}

const fn count() -> usize {
    let (text, mut at, mut lines) = (LINES.as_bytes(), 0, 0);
    while at < text.len() {
        lines += (text[at] == b'\n') as usize;
        at += 1;
    }
    lines
}

/// Read by the compiler: to search and to split the text in every Create took longer than all the rest of a filter.
const fn read() -> [Call; count()] {
    let mut calls = [Call { start: 0, end: 0, numbers: [NONE; COLUMNS] }; count()];
    let (text, mut at, mut row) = (LINES.as_bytes(), 0, 0);
    while row < calls.len() {
        calls[row].start = at as u16;
        while text[at] != b' ' {
            at += 1;
        }
        calls[row].end = at as u16;
        let mut column = 0;
        while column < COLUMNS {
            (calls[row].numbers[column], at) = number_at(at + 1);
            column += 1;
        }
        at += 1;
        row += 1;
    }
    calls
}

/// The number, or `-`, that begins at this byte, and where it ends.
const fn number_at(mut at: usize) -> (u32, usize) {
    let text = LINES.as_bytes();
    if text[at] == b'-' {
        return (NONE, at + 1);
    }
    let mut number = 0;
    while text[at].is_ascii_digit() {
        number = number * 10 + (text[at] - b'0') as u32;
        at += 1;
    }
    (number, at)
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
            let numbers: Vec<_> = columns[1..].iter().map(|c| c.parse().unwrap_or(NONE)).collect();
            assert!(columns[1..].iter().zip(&numbers).all(|(c, n)| *c == "-" || *n != NONE), "{line}");
            assert_eq!(find(columns[0]).map(|call| call.numbers.to_vec()), Some(numbers), "{line}");
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
