//! A profile as the filter needs it: for every system call number of an architecture, what happens.
//!
//! COMPAT: the meaning is that of runc with libseccomp. Rules with the default action are dropped, the first rule
//! without arguments decides its system call alone, an argument named twice makes alternatives of the rule, and a
//! number above the newest one the profile names answers ENOSYS so that the C library falls back to older calls.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::Error;
use super::arch::Arch;
use super::table::{self, Call};

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

/// A group of the profile with what does not depend on the architecture worked out.
struct Group {
    /// The calls that exist somewhere. COMPAT: other names are ignored, they may be of a newer kernel.
    calls: Vec<&'static Call>,
    action: Verdict,
    alternatives: Vec<Vec<Condition>>,
}

/// A profile, read once for all architectures.
pub struct Profile {
    default: Verdict,
    answers_enosys: bool,
    groups: Vec<Group>,
}

impl Profile {
    pub fn read(profile: &LinuxSeccomp) -> Result<Self, Error> {
        let groups = profile.syscalls().as_deref().unwrap_or_default().iter().enumerate();
        let group = |(at, group): (usize, &LinuxSyscall)| {
            Ok(Group {
                calls: group.names().iter().filter_map(|name| table::find(name)).collect(),
                action: verdict(group.action(), group.errno_ret()),
                alternatives: alternatives(at, group.args().as_deref().unwrap_or_default())?,
            })
        };
        Ok(Self {
            default: verdict(profile.default_action(), profile.default_errno_ret()),
            answers_enosys: answers_enosys(profile.default_action()),
            groups: groups.map(group).collect::<Result<_, _>>()?,
        })
    }

    pub fn default(&self) -> Verdict {
        self.default
    }
}

/// What `arch` answers for each number, one architecture's share of the number space.
pub fn ranges(profile: &Profile, arch: Arch) -> Vec<Range> {
    let default = profile.default;
    let wide = arch.has_64_bit_arguments();
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |start: u32, outcome: Outcome| match ranges.last_mut() {
        Some(last) if last.start == start => last.outcome = outcome,
        Some(last) if last.outcome == outcome => {}
        _ => ranges.push(Range { start, outcome, wide }),
    };
    push(arch.number_mark(), Outcome::always(default));
    for same in mentions(profile, arch).chunk_by(|one, next| one.number == next.number) {
        push(same[0].number, outcome(default, same));
        push(same[0].number + 1, Outcome::always(default));
    }
    if let Some(newest) = newest(profile, arch).filter(|_| profile.answers_enosys) {
        push(newest + 1, Outcome::always(ENOSYS));
    }
    ranges.dedup_by(|later, earlier| later.outcome == earlier.outcome);
    ranges
}

/// COMPAT: a permissive default lets new system calls through, a tracer answers for itself.
fn answers_enosys(default: Action) -> bool {
    !matches!(default, Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace)
}

/// A group that says something about a number.
struct Mention<'p> {
    number: u32,
    group: &'p Group,
    /// Behind a multiplexer: which function of it is meant.
    function: Option<u32>,
}

/// By number, and in the profile's order where several are about the same.
fn mentions(profile: &Profile, arch: Arch) -> Vec<Mention<'_>> {
    let mut mentions = Vec::new();
    for group in profile.groups.iter().filter(|group| group.action != profile.default) {
        for call in &group.calls {
            let direct = call.number(arch).map(|number| (number, None));
            let all = direct.into_iter().chain(multiplexed(arch, call));
            mentions.extend(all.map(|(number, function)| Mention { number, group, function }));
        }
    }
    mentions.sort_by_key(|mention| mention.number);
    mentions
}

/// The first rule without conditions decides alone.
fn outcome(default: Verdict, mentions: &[Mention<'_>]) -> Outcome {
    let mut rules = Vec::new();
    for Mention { group, function, .. } in mentions {
        for conditions in &group.alternatives {
            let rule = rule(conditions, *function, group.action);
            if rule.conditions.is_empty() {
                return Outcome::always(group.action);
            }
            rules.push(rule);
        }
    }
    Outcome { rules, otherwise: default }
}

/// The newest number that the profile names at all.
fn newest(profile: &Profile, arch: Arch) -> Option<u32> {
    profile.groups.iter().flat_map(|group| &group.calls).filter_map(|call| call.number(arch)).max()
}

/// The number of `socketcall` or `ipc` and the function's own number, where `call` can be reached through them.
fn multiplexed(arch: Arch, call: &Call) -> Option<(u32, Option<u32>)> {
    if arch != Arch::X86 {
        return None;
    }
    let (multiplexer, function) = table::multiplexed(call.name())?;
    Some((table::find(multiplexer)?.number(arch)?, Some(function)))
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
