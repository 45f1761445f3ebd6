//! What a compiled program must answer: the program run by an interpreter, against the profile read rule by rule.

use oci_spec::runtime::{LinuxSeccompOperator as Op, LinuxSyscall};

use super::*;

pub const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
pub const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

pub struct Data {
    pub number: u32,
    pub audit: u32,
    pub args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            _ => {
                let argument = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        }
    }
}

/// The kernel's checks (forward jumps, known opcodes) are this function's panics.
pub fn run(program: &[libc::sock_filter], data: &Data) -> u32 {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let instruction = &program[at];
        at += 1;
        let k = instruction.k;
        let mut jump = |taken: bool| at += usize::from(if taken { instruction.jt } else { instruction.jf });
        match u32::from(instruction.code) {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            other => panic!("opcode {other:#x}"),
        }
    }
}

fn holds(arch: Arch, arg: &oci_spec::runtime::LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let width = if arch.has_64_bit_arguments() { u64::MAX } else { u32::MAX.into() };
    let value = arg.value() & width;
    let two = arg.value_two().unwrap_or(0) & width;
    let argument = args[arg.index()] & width;
    match arg.op() {
        Op::ScmpCmpNe => argument != value,
        Op::ScmpCmpLt => argument < value,
        Op::ScmpCmpLe => argument <= value,
        Op::ScmpCmpEq => argument == value,
        Op::ScmpCmpGe => argument >= value,
        Op::ScmpCmpGt => argument > value,
        Op::ScmpCmpMaskedEq => argument & value == two,
    }
}

fn matches(arch: Arch, rule: &LinuxSyscall, args: &[u64; 6]) -> bool {
    let conditions = rule.args().as_deref().unwrap_or_default();
    let twice = conditions.iter().any(|a| conditions.iter().filter(|b| a.index() == b.index()).count() > 1);
    match twice {
        true => conditions.iter().any(|arg| holds(arch, arg, args)),
        false => conditions.iter().all(|arg| holds(arch, arg, args)),
    }
}

/// The profile read the slow way, for one architecture that it names.
pub struct Reference<'a> {
    profile: &'a LinuxSeccomp,
    arch: Arch,
    /// Beside each group the numbers that it names.
    groups: Vec<(&'a LinuxSyscall, Vec<u32>)>,
}

impl<'a> Reference<'a> {
    pub fn new(profile: &'a LinuxSeccomp, arch: Arch) -> Self {
        let groups = profile.syscalls().as_deref().unwrap_or_default().iter();
        let numbers = |group: &LinuxSyscall| {
            group.names().iter().filter_map(|name| table::number(arch, name)).collect::<Vec<_>>()
        };
        Self { profile, arch, groups: groups.map(|group| (group, numbers(group))).collect() }
    }

    pub fn verdict(&self, number: u32, args: &[u64; 6]) -> u32 {
        let default = rules::verdict(self.profile.default_action(), self.profile.default_errno_ret());
        let newest = self.groups.iter().flat_map(|(_, numbers)| numbers).max();
        let permissive = default == ALLOW
            || matches!(default & libc::SECCOMP_RET_ACTION, libc::SECCOMP_RET_LOG | libc::SECCOMP_RET_TRACE);
        if !permissive && newest.is_some_and(|newest| number > *newest) {
            return ENOSYS;
        }
        let verdict = |group: &LinuxSyscall| rules::verdict(group.action(), group.errno_ret());
        let named = self.groups.iter().filter(|(_, numbers)| numbers.contains(&number));
        let relevant: Vec<_> = named.map(|(group, _)| *group).filter(|g| verdict(g) != default).collect();
        let unconditional = relevant.iter().find(|g| g.args().as_deref().unwrap_or_default().is_empty());
        let first = unconditional.or_else(|| relevant.iter().find(|group| matches(self.arch, group, args)));
        first.map_or(default, |group| verdict(group))
    }
}

/// Values around everything that the profile compares with.
fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX];
    for group in profile.syscalls().as_deref().unwrap_or_default() {
        for arg in group.args().as_deref().unwrap_or_default() {
            for value in [arg.value(), arg.value_two().unwrap_or(0)] {
                let near = [value, value.wrapping_add(1), value.wrapping_sub(1), !value];
                values.extend(near);
                values.extend([value ^ (1 << 32), value | (1 << 40), value & u64::from(u32::MAX)]);
            }
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Every number, and for each value every argument in turn.
pub fn assert_like_reference(profile: &LinuxSeccomp, native: Arch) {
    let program = program(profile, native).expect("compiles");
    let values = values(profile);
    for arch in native.family(profile.architectures().as_deref().unwrap_or_default()) {
        let reference = Reference::new(profile, arch);
        let behind_multiplexer = |number| {
            arch == Arch::X86 && ["socketcall", "ipc"].iter().any(|n| table::number(arch, n) == Some(number))
        };
        for number in (0..600).map(|n| n | arch.number_mark()).filter(|n| !behind_multiplexer(*n)) {
            for (at, value) in values.iter().enumerate() {
                let next = values[(at + 1) % values.len()];
                for args in [[*value; 6], [*value, next, *value, next, *value, next]] {
                    let data = Data { number, audit: arch.audit(), args };
                    let expected = reference.verdict(number, &args);
                    assert_eq!(run(&program, &data), expected, "{arch:?} {number:#x} {args:x?}");
                }
            }
        }
    }
}
