//! Device rules as a BPF program for cgroup2 (BPF_PROG_TYPE_CGROUP_DEVICE): 1 lets the access through, 0 does not.
//!
//! The kernel calls it with `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where
//! `access_type` is `access << 16 | type`. Rules become a chain of tests; a test that fails jumps to the next rule.

use super::device_rules::{Access, DeviceRules, Devices, Kind};
use crate::sys::bpf::Insn;

const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

// Registers: the context comes in R1, the verdict goes out in R0.
const R0: u8 = 0;
const R1: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operation codes: class | operation | source (0 immediate, 8 register).
const LDX_W: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const MOV32: u8 = 0xb4;
const AND32: u8 = 0x54;
const RSH32: u8 = 0x74;
const JNE: u8 = 0x55;
const JEQ: u8 = 0x15;
const EXIT: u8 = 0x95;

/// Compiles rules into a program. Device numbers fit 31 bits: `DeviceRules` refuses larger ones.
pub fn compile(rules: &DeviceRules) -> Vec<Insn> {
    let mut program = vec![
        Insn::new(LDX_W, TYPE, R1, 0, 0),
        Insn::new(MOV32_REG, ACCESS, TYPE, 0, 0),
        Insn::new(AND32, TYPE, 0, 0, 0xffff),
        Insn::new(RSH32, ACCESS, 0, 0, 16),
        Insn::new(LDX_W, MAJOR, R1, 4, 0),
        Insn::new(LDX_W, MINOR, R1, 8, 0),
    ];
    for (devices, access) in &rules.exceptions {
        rule(&mut program, *devices, *access, !rules.allow_by_default);
    }
    verdict(&mut program, rules.allow_by_default);
    program
}

fn rule(program: &mut Vec<Insn>, devices: Devices, access: Access, allow: bool) {
    let mut tests = Vec::new();
    let kind = if devices.kind == Kind::Block { BPF_DEVCG_DEV_BLOCK } else { BPF_DEVCG_DEV_CHAR };
    tests.push(Insn::new(JNE, TYPE, 0, 0, kind));
    if let Some(major) = devices.major {
        tests.push(Insn::new(JNE, MAJOR, 0, 0, major as i32));
    }
    if let Some(minor) = devices.minor {
        tests.push(Insn::new(JNE, MINOR, 0, 0, minor as i32));
    }
    if access != Access::ALL {
        // An allowing rule must cover the whole access; a denying one is hit by any part of it, or opening for
        // reading and writing at once would slip through a rule that denies writing.
        let bits = i32::from(access.bits());
        tests.push(Insn::new(MOV32_REG, R1, ACCESS, 0, 0));
        tests.push(Insn::new(AND32, R1, 0, 0, if allow { !bits & 7 } else { bits }));
        tests.push(Insn::new(if allow { JNE } else { JEQ }, R1, 0, 0, 0));
    }
    let next = tests.len() + 2;
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JNE | JEQ) {
            test.off = (next - at - 1) as i16;
        }
    }
    program.append(&mut tests);
    verdict(program, allow);
}

fn verdict(program: &mut Vec<Insn>, allow: bool) {
    program.extend([Insn::new(MOV32, R0, 0, 0, allow.into()), Insn::new(EXIT, 0, 0, 0, 0)]);
}

#[cfg(test)]
mod tests {
    use super::super::device_rules::tests::spec;
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Insn], kind: i32, access: Access, major: u32, minor: u32) -> bool {
        let context = [(u32::from(access.bits()) << 16) | kind as u32, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0;
        loop {
            let insn = program[at];
            let (dst, src) = ((insn.regs & 15) as usize, (insn.regs >> 4) as usize);
            at += 1;
            match insn.code {
                LDX_W => registers[dst] = context[insn.off as usize / 4].into(),
                MOV32_REG => registers[dst] = registers[src] & 0xffff_ffff,
                MOV32 => registers[dst] = (insn.imm as u32).into(),
                AND32 => registers[dst] = u64::from(registers[dst] as u32 & insn.imm as u32),
                RSH32 => registers[dst] = u64::from(registers[dst] as u32 >> insn.imm),
                JNE if registers[dst] != insn.imm as i64 as u64 => at += insn.off as usize,
                JEQ if registers[dst] == insn.imm as i64 as u64 => at += insn.off as usize,
                JNE | JEQ => {}
                EXIT => return registers[0] == 1,
                code => panic!("unknown operation {code:#x}"),
            }
        }
    }

    /// What the v1 controller answers.
    fn v1_verdict(rules: &DeviceRules, kind: Kind, access: Access, major: u32, minor: u32) -> bool {
        let hit = rules.exceptions.iter().any(|(d, a)| {
            let covered = if rules.allow_by_default {
                access.bits() & a.bits() != 0
            } else {
                access.bits() & !a.bits() == 0
            };
            covered
                && d.kind == kind
                && d.major.is_none_or(|m| m == major)
                && d.minor.is_none_or(|m| m == minor)
        });
        hit != rules.allow_by_default
    }

    #[test]
    fn the_program_agrees_with_the_v1_controller_on_every_access() {
        let lists: [&[&str]; 5] = [
            &["deny a"],
            &["allow a"],
            &["allow a", "deny b 8:0 w", "deny c 1:* r", "deny c 1:* w", "deny b 7:1 rw"],
            &["deny a", "allow b 8:* r", "allow c 2147483647:2147483647 rw", "allow b *:7 w"],
            &["allow a", "deny b *:* rwm"],
        ];
        let numbers = [0, 1, 2, 3, 7, 8, 136, 200, i32::MAX as u32];
        for list in lists {
            let Ok(rules) = DeviceRules::new(&spec(list)) else {
                assert!(list.contains(&"deny c 1:* r"), "{list:?}");
                continue;
            };
            let program = compile(&rules);
            for (kind, number) in [(Kind::Block, BPF_DEVCG_DEV_BLOCK), (Kind::Char, BPF_DEVCG_DEV_CHAR)] {
                for access in [Access::MKNOD, Access::READ, Access::WRITE, Access::ALL] {
                    for (major, minor) in numbers.iter().flat_map(|a| numbers.map(|b| (*a, b))) {
                        let (ours, theirs) = (
                            run(&program, number, access, major, minor),
                            v1_verdict(&rules, kind, access, major, minor),
                        );
                        assert_eq!(ours, theirs, "{list:?} {kind:?} {major}:{minor} {access}");
                    }
                }
            }
        }
    }

    #[test]
    fn denying_writes_denies_opening_for_reading_and_writing() {
        let rules = DeviceRules::new(&spec(&["allow a", "deny b 8:0 w"])).unwrap();
        let program = compile(&rules);
        assert!(run(&program, BPF_DEVCG_DEV_BLOCK, Access::READ, 8, 0));
        assert!(!run(&program, BPF_DEVCG_DEV_BLOCK, Access::ALL, 8, 0));
    }
}
