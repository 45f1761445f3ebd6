//! From ranges of system call numbers to instructions: a balanced search over the ranges, then the arguments.
//! `struct seccomp_data` of linux/seccomp.h: number, architecture, instruction pointer, six arguments.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::assembler::{Assembler, Target, Test};
use super::rules::{Condition, Outcome, Range, Rule};

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The answers for one value of `seccomp_data.arch`.
pub struct Section {
    pub audit: u32,
    pub ranges: Vec<Range>,
}

/// The whole program. The first section is judged first: it should be the native one.
pub fn assemble(sections: &[Section]) -> Box<[sock_filter]> {
    let mut program = Writer::default();
    // COMPAT: libseccomp kills the thread whose architecture the profile does not name.
    let mut next = Target::Return(libc::SECCOMP_RET_KILL_THREAD);
    for section in sections.iter().rev() {
        program.known.clear();
        let search = program.search(&section.ranges);
        let judged = program.assembler.load(NUMBER, search);
        next = program.assembler.branch(Test::Equal, section.audit, judged, next);
    }
    program.assembler.load(ARCHITECTURE, next);
    program.assembler.finish()
}

#[derive(Default)]
struct Writer {
    assembler: Assembler,
    /// Argument checks written before, for other calls with the same rules.
    known: Vec<((Outcome, bool), Target)>,
}

impl Writer {
    /// With the number in `A`: find its range.
    fn search(&mut self, ranges: &[Range]) -> Target {
        match ranges {
            [only] => self.outcome(only),
            // One number apart from its surroundings takes one comparison, not two.
            [before, apart, after] if before.outcome == after.outcome && after.start == apart.start + 1 => {
                let no = self.outcome(before);
                let yes = self.outcome(apart);
                self.assembler.branch(Test::Equal, apart.start, yes, no)
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let yes = self.search(high);
                let no = self.search(low);
                self.assembler.branch(Test::GreaterOrEqual, high[0].start, yes, no)
            }
        }
    }

    fn outcome(&mut self, range: &Range) -> Target {
        if range.outcome.rules.is_empty() {
            return Target::Return(range.outcome.otherwise);
        }
        let key = (range.outcome.clone(), range.wide);
        if let Some((_, target)) = self.known.iter().find(|(known, _)| *known == key) {
            return *target;
        }
        let target = self.rules(&range.outcome, range.wide);
        self.known.push((key, target));
        target
    }

    fn rules(&mut self, outcome: &Outcome, wide: bool) -> Target {
        let mut next = Target::Return(outcome.otherwise);
        let mut rules = outcome.rules.as_slice();
        while let Some(last) = rules.last() {
            let run = rules.iter().rev().take_while(|rule| is_one_of(rule, last, wide)).count();
            if run > 1 {
                let (rest, values) = rules.split_at(rules.len() - run);
                next = self.one_of(values, wide, next);
                rules = rest;
            } else {
                let verdict = Target::Return(last.verdict);
                let checks = last.conditions.iter().rev();
                next = checks.fold(verdict, |yes, condition| self.condition(condition, wide, yes, next));
                rules = &rules[..rules.len() - 1];
            }
        }
        next
    }

    /// An argument that equals one of several values: loaded once.
    fn one_of(&mut self, rules: &[Rule], wide: bool, no: Target) -> Target {
        let yes = Target::Return(rules[0].verdict);
        let first = &rules[0].conditions[0];
        let low = rules.iter().rev().fold(no, |next, rule| {
            self.assembler.branch(Test::Equal, rule.conditions[0].value as u32, yes, next)
        });
        let low = self.assembler.load(low_word(first), low);
        if !wide {
            return low;
        }
        let high = self.assembler.branch(Test::Equal, high_half(first.value), low, no);
        self.assembler.load(high_word(first), high)
    }

    fn condition(&mut self, condition: &Condition, wide: bool, yes: Target, no: Target) -> Target {
        match condition.op {
            Op::ScmpCmpEq => self.equal(condition, wide, yes, no),
            Op::ScmpCmpNe => self.equal(condition, wide, no, yes),
            Op::ScmpCmpGt => self.order(condition, Test::Greater, wide, yes, no),
            Op::ScmpCmpLe => self.order(condition, Test::Greater, wide, no, yes),
            Op::ScmpCmpGe => self.order(condition, Test::GreaterOrEqual, wide, yes, no),
            Op::ScmpCmpLt => self.order(condition, Test::GreaterOrEqual, wide, no, yes),
            Op::ScmpCmpMaskedEq => self.masked(condition, wide, yes, no),
        }
    }

    fn equal(&mut self, condition: &Condition, wide: bool, yes: Target, no: Target) -> Target {
        let low = self.assembler.branch(Test::Equal, condition.value as u32, yes, no);
        let low = self.assembler.load(low_word(condition), low);
        if !wide {
            return low;
        }
        let high = self.assembler.branch(Test::Equal, high_half(condition.value), low, no);
        self.assembler.load(high_word(condition), high)
    }

    /// `test` is about the low words; with different high words those decide alone.
    fn order(&mut self, condition: &Condition, test: Test, wide: bool, yes: Target, no: Target) -> Target {
        let low = self.assembler.branch(test, condition.value as u32, yes, no);
        let low = self.assembler.load(low_word(condition), low);
        if !wide {
            return low;
        }
        let high = high_half(condition.value);
        let equal = self.assembler.branch(Test::Equal, high, low, no);
        let greater = self.assembler.branch(Test::Greater, high, yes, equal);
        self.assembler.load(high_word(condition), greater)
    }

    fn masked(&mut self, condition: &Condition, wide: bool, yes: Target, no: Target) -> Target {
        let (mask, value) = (condition.value, condition.value_two);
        let low = self.masked_word(low_word(condition), mask as u32, value as u32, yes, no);
        if !wide {
            return low;
        }
        self.masked_word(high_word(condition), high_half(mask), high_half(value), low, no)
    }

    fn masked_word(&mut self, word: u32, mask: u32, value: u32, yes: Target, no: Target) -> Target {
        if value & !mask != 0 {
            return no;
        }
        if mask == 0 {
            return yes;
        }
        let mut test = self.assembler.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            test = self.assembler.and(mask, test);
        }
        self.assembler.load(word, test)
    }
}

/// The two rules ask whether the same argument equals a value, with the same verdict.
fn is_one_of(rule: &Rule, other: &Rule, wide: bool) -> bool {
    let ([one], [two]) = (rule.conditions.as_slice(), other.conditions.as_slice()) else { return false };
    let equality = one.op == Op::ScmpCmpEq && two.op == Op::ScmpCmpEq && one.index == two.index;
    let same_high = !wide || high_half(one.value) == high_half(two.value);
    equality && same_high && rule.verdict == other.verdict
}

fn low_word(condition: &Condition) -> u32 {
    ARGUMENTS + 8 * u32::from(condition.index)
}

fn high_word(condition: &Condition) -> u32 {
    low_word(condition) + 4
}

fn high_half(value: u64) -> u32 {
    (value >> 32) as u32
}
