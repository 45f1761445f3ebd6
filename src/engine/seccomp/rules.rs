//! A profile as the filter needs it: for every system call number of an architecture, what happens.
//!
//! COMPAT: the meaning is that of runc with libseccomp. Rules with the default action are dropped, the first rule
//! without arguments decides its system call alone, an argument named twice makes alternatives of the rule, and a
//! number above the newest one the profile names answers ENOSYS so that the C library falls back to older calls.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator};

use super::arch::Arch;
use super::{Error, table};

/// `SECCOMP_RET_*` with its data.
pub type Verdict = u32;

/// One comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub index: u8,
    pub op: LinuxSeccompOperator,
    pub value: u64,
    pub value_two: u64,
}

/// All conditions hold: the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub verdict: Verdict,
}

/// What happens to one system call: the first rule that holds decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub rules: Vec<Rule>,
    pub otherwise: Verdict,
}

impl Outcome {
    pub fn always(verdict: Verdict) -> Self {
        Self { rules: Vec::new(), otherwise: verdict }
    }
}

/// From `start` to the next range's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u32,
    pub outcome: Outcome,
    pub wide: bool,
}

pub fn verdict(action: Action, errno: Option<u32>) -> Verdict {
    let data = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    }
}

const ENOSYS: Verdict = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What `arch` answers for each number, one architecture's share of the number space.
pub fn ranges(profile: &LinuxSeccomp, arch: Arch) -> Result<Vec<Range>, Error> {
    let default = verdict(profile.default_action(), profile.default_errno_ret());
    let (calls, newest) = calls(profile, arch, default)?;
    let wide = arch.has_64_bit_arguments();
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |start: u32, outcome: Outcome| match ranges.last_mut() {
        Some(last) if last.start == start => last.outcome = outcome,
        Some(last) if last.outcome == outcome => {}
        _ => ranges.push(Range { start, outcome, wide }),
    };
    push(arch.number_mark(), Outcome::always(default));
    for (number, outcome) in calls {
        push(number, outcome);
        push(number + 1, Outcome::always(default));
    }
    if let Some(newest) = newest.filter(|_| answers_enosys(profile.default_action())) {
        push(newest + 1, Outcome::always(ENOSYS));
    }
    Ok(merged(ranges))
}

/// COMPAT: a permissive default lets new system calls through, a tracer answers for itself.
fn answers_enosys(default: Action) -> bool {
    !matches!(default, Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace)
}

fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.dedup_by(|later, earlier| later.outcome == earlier.outcome);
    ranges
}

type Calls = BTreeMap<u32, Outcome>;

/// The calls that the profile treats apart, and the newest number that it names at all.
fn calls(profile: &LinuxSeccomp, arch: Arch, default: Verdict) -> Result<(Calls, Option<u32>), Error> {
    let mut calls = Calls::new();
    let mut decided = std::collections::BTreeSet::new();
    let mut newest = None;
    let groups = profile.syscalls().as_deref().unwrap_or_default();
    for (at, group) in groups.iter().enumerate() {
        let action = verdict(group.action(), group.errno_ret());
        let alternatives = alternatives(at, group.args().as_deref().unwrap_or_default())?;
        for name in group.names() {
            let direct = table::number(arch, name);
            newest = newest.max(direct);
            if action == default {
                continue;
            }
            let function = multiplexed(arch, name);
            for (number, function) in direct.map(|n| (n, None)).into_iter().chain(function) {
                if decided.contains(&number) {
                    continue;
                }
                let rules = alternatives.iter().map(|conditions| rule(conditions, function, action));
                let outcome = calls.entry(number).or_insert_with(|| Outcome::always(default));
                for rule in rules {
                    if rule.conditions.is_empty() {
                        decided.insert(number);
                        *outcome = Outcome::always(action);
                        break;
                    }
                    outcome.rules.push(rule);
                }
            }
        }
    }
    Ok((calls, newest))
}

/// The number of `socketcall` or `ipc` and the function's own number, where `name` can be reached through them.
fn multiplexed(arch: Arch, name: &str) -> Option<(u32, Option<u32>)> {
    let (call, function) = table::multiplexed(name).filter(|_| arch == Arch::X86)?;
    Some((table::number(arch, call)?, Some(function)))
}

/// COMPAT: behind `socketcall` the first argument is the function, so a condition about it gives way.
fn rule(conditions: &[Condition], function: Option<u32>, verdict: Verdict) -> Rule {
    let mut conditions = conditions.to_vec();
    if let Some(function) = function {
        conditions.retain(|condition| condition.index != 0);
        let value = function.into();
        let op = LinuxSeccompOperator::ScmpCmpEq;
        conditions.insert(0, Condition { index: 0, op, value, value_two: 0 });
    }
    Rule { conditions, verdict }
}

/// The lists of conditions of which one must hold. No conditions: one list, the empty one.
fn alternatives(group: usize, args: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, Error> {
    let mut conditions = Vec::with_capacity(args.len());
    for (at, arg) in args.iter().enumerate() {
        let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
        let index = index.ok_or(Error::ArgumentIndex { group, at, index: arg.index() })?;
        let value_two = arg.value_two().unwrap_or(0);
        conditions.push(Condition { index, op: arg.op(), value: arg.value(), value_two });
    }
    conditions.sort_by_key(|condition| condition.index);
    let named_twice = conditions.windows(2).any(|pair| pair[0].index == pair[1].index);
    Ok(match named_twice {
        true => conditions.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![conditions],
    })
}
