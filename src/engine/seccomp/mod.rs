//! A seccomp profile of the spec, compiled to the filter that the kernel takes. seccomp(2), bpf in `linux/filter.h`.
//!
//! Decides nothing that the profile does not say; loading is the child's. Compiled once per profile and kept, so that an
//! exec pays nothing, nor a pod's next container. No C library takes part.

pub mod agent;
mod arch;
mod assembler;
#[cfg(any(test, feature = "fuzzing"))]
pub mod judge;
mod known;
mod program;
mod rules;
mod table;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag as Flag};

#[cfg(any(test, feature = "fuzzing"))]
pub use arch::Arch;
#[cfg(not(any(test, feature = "fuzzing")))]
use arch::Arch;
use program::Section;
use rules::{Outcome, Range};

/// Ready for `seccomp(SECCOMP_SET_MODE_FILTER, flags, program)`.
#[derive(Clone, Debug)]
pub struct Filter {
    pub program: Box<[libc::sock_filter]>,
    /// `SECCOMP_FILTER_FLAG_*`; with `NEW_LISTENER` the call returns the listener's descriptor.
    pub flags: u32,
    /// The socket of the agent that gets the listener.
    pub listener: Option<PathBuf>,
    pub listener_metadata: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "linux.seccomp.syscalls[{group}].args[{at}].index {index} is not an argument; a system call has 0 to 5"
    )]
    ArgumentIndex { group: usize, at: usize, index: usize },
    #[error(
        "linux.seccomp compiles to {length} instructions and the kernel takes {MAX_LENGTH}; \
         use fewer rules with arguments"
    )]
    TooLong { length: usize },
}

/// KERNEL: `BPF_MAXINSNS`.
const MAX_LENGTH: usize = 4096;

/// Compiles for the kernel that this program runs on.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    Ok(Filter {
        program: program(profile, Arch::NATIVE)?,
        flags: flags(profile),
        listener: profile.listener_path().clone(),
        listener_metadata: profile.listener_metadata().clone().unwrap_or_default(),
    })
}

/// A filter that is compiled once, by whoever comes first; others wait for it.
pub struct InMaking {
    profile: LinuxSeccomp,
    filter: OnceLock<Result<Arc<Filter>, Error>>,
}

impl InMaking {
    pub fn new(profile: LinuxSeccomp) -> Arc<Self> {
        Arc::new(Self { profile, filter: OnceLock::new() })
    }

    /// Is it compiled in less than a millisecond?
    pub fn is_quick(&self) -> bool {
        const RULES: usize = 2000;
        let groups = self.profile.syscalls().iter().flatten();
        let rules = groups
            .map(|group| group.names().len() * group.args().as_ref().map_or(1, |args| args.len().max(1)));
        rules.sum::<usize>() <= RULES
    }

    #[cfg(test)]
    pub fn is_compiled(&self) -> bool {
        self.filter.get().is_some()
    }

    /// As [`compile`].
    pub fn compiled(&self) -> Result<Arc<Filter>, &Error> {
        self.filter.get_or_init(|| known::filter(&self.profile)).as_ref().cloned()
    }
}

fn program(profile: &LinuxSeccomp, native: Arch) -> Result<Box<[libc::sock_filter]>, Error> {
    let rules = rules::Profile::read(profile)?;
    let mut sections: Vec<Section> = Vec::new();
    let family = native.family(profile.architectures().as_deref().unwrap_or_default());
    for arch in &family {
        let mut ranges = rules::ranges(&rules, *arch);
        if *arch == Arch::X86_64 && !family.contains(&Arch::X32) {
            ranges.extend(without_x32(rules.default()));
        }
        // x32 is x86_64 to the kernel and follows it in the number space.
        match sections.iter_mut().find(|section| section.audit == arch.audit()) {
            Some(section) => section.ranges.extend(ranges),
            None => sections.push(Section { audit: arch.audit(), ranges }),
        }
    }
    let program = program::assemble(&sections);
    match program.len() {
        length if length > MAX_LENGTH => Err(Error::TooLong { length }),
        _ => Ok(program),
    }
}

/// COMPAT: x32's numbers are a wrong architecture where the profile does not name it; a tracer's -1 is not one.
fn without_x32(default: rules::Verdict) -> [Range; 2] {
    let range = |start, verdict| Range { start, outcome: Outcome::always(verdict), wide: true };
    [range(Arch::X32.number_mark(), libc::SECCOMP_RET_KILL_THREAD), range(u32::MAX, default)]
}

/// COMPAT: without a list runc >= 1.2 sets `SPEC_ALLOW`. `TSYNC` is known and without effect: one thread loads.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let groups = profile.syscalls().as_deref().unwrap_or_default();
    let notifies = groups.iter().any(|group| group.action() == LinuxSeccompAction::ScmpActNotify);
    let listener = if notifies { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    let listed = profile.flags().as_deref().unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]);
    let bits = listed.iter().map(|flag| match flag {
        Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // KERNEL: refused (EINVAL) where there is no listener to wait for.
        Flag::SeccompFilterFlagWaitKillableRecv if notifies => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        Flag::SeccompFilterFlagWaitKillableRecv | Flag::SeccompFilterFlagTsync => 0,
    });
    bits.fold(listener, |all, bit| all | bit) as u32
}

#[cfg(test)]
mod tests;
