//! What the end of a set-up says that did not go well: the step, the cause, and what to do about it.

use super::cgroup::{Cgroup, limit_and_peak};
use super::child::Message;
use super::error::Error;
use super::plan::{Plan, Source, Step};
use crate::sys::kernel;

/// A message that is not what was hoped for, in words.
pub fn failure(plan: &Plan, message: &Message) -> Error {
    if let Message::Late { step, limit } = message {
        let what = plan.steps.get(*step).map_or("set-up".into(), ToString::to_string);
        return Error::doing(what, format!("not done within {} s: the process was killed", limit.as_secs()));
    }
    let Message::Failed { step, call, errno, note } = message else {
        return Error::Gone("the process died during set-up".into());
    };
    match plan.steps.get(*step) {
        Some(Step::Lookup(program) | Step::Execve { program, .. }) if *errno != libc::ENOSYS => {
            Error::Program(program.refusal(call, *errno))
        }
        Some(step) => {
            let detail = match kernel::since(call).filter(|_| *errno == libc::ENOSYS) {
                Some(version) => format!("Linux {version} or newer is needed"),
                None if note.is_empty() => remedy(step, call, *errno),
                None => note.clone(),
            };
            Error::Step { step: step.to_string(), call: call.clone(), errno: *errno, detail }
        }
        None => Error::Gone(format!("the process failed in an unknown step {step}: {call}")),
    }
}

/// What to do about a failure whose cause is known.
fn remedy(step: &Step, call: &str, errno: i32) -> String {
    let text = match (step, errno) {
        (Step::Mount(_), libc::ENOENT) if call == "open_tree" => "the source does not exist on the host",
        (Step::Mount(m), libc::ENOENT | libc::EXDEV)
            if call == "openat2" && !matches!(m.from, Source::Remount { .. }) =>
        {
            "the target's parent in the container is a link that leads nowhere"
        }
        (Step::Mount(m), libc::EPERM) if m.target.is(c"sys") && call == "fsopen" => {
            "sysfs belongs to the network namespace: give the container one of its own, or bind the host's /sys"
        }
        (Step::Mount(_), libc::EINVAL) if call == "verify procfs" => "nothing but procfs is mounted on /proc",
        (Step::Mount(_), libc::ENOTDIR) => "are you trying to mount a directory onto a file (or vice-versa)?",
        (Step::Mount(_), libc::ELOOP) => "a symbolic link is in the way of the target",
        (Step::Device(_), libc::EPERM | libc::EACCES) if call == "mknodat" => {
            "without CAP_MKNOD, and without such a node on the host to bind, there can be none"
        }
        (Step::Device(_), libc::ENODEV) => "what the host has in its place is another device",
        (Step::Device(_), libc::EEXIST) => {
            "the image has something else there: take it out of the image, or the device out of linux.devices"
        }
        (Step::Root { .. }, libc::ENOENT | libc::ENOTDIR) => "root.path must be a directory",
        (Step::Cwd { .. }, libc::ENOENT) => "the working directory does not exist in the container",
        (Step::Rlimit { .. }, libc::EPERM) => "raising a hard limit needs CAP_SYS_RESOURCE",
        (Step::OomScoreAdj { .. }, libc::EACCES) => "lowering it needs CAP_SYS_RESOURCE",
        (Step::Sysctl { .. }, libc::ENOENT) => "this kernel has no such sysctl in the container's namespaces",
        (Step::Label { .. }, libc::ENOENT) => "the kernel does not know this profile; load it first",
        (Step::Label { .. }, libc::EINVAL) => "the policy does not know this label",
        (Step::MemoryPolicy { .. }, libc::EINVAL) => {
            "each node must be online and in the container's cpuset, and the kernel must know the mode"
        }
        (Step::MemoryPolicy { .. }, libc::ENOSYS) => "this kernel has no NUMA support",
        (Step::Scheduler(_), libc::EPERM) => {
            "it takes CAP_SYS_NICE, and on cgroup v1 real-time policies take linux.resources.cpu.realtimeRuntime"
        }
        (Step::Scheduler(_), libc::EINVAL) => {
            "the kernel does not know the policy, or its values do not fit it"
        }
        (Step::Scheduler(_), libc::EBUSY) => "the kernel has no bandwidth left for this deadline",
        (Step::Scheduler(_), libc::EOPNOTSUPP) => "this kernel has no utilisation clamps",
        (Step::Affinity(_), libc::EINVAL) => "no CPU of the list is online and in the container's cpuset",
        (Step::Seccomp(_), libc::EINVAL) => "the kernel does not know one of the flags",
        _ => "",
    };
    text.to_string()
}

/// The memory limit that a container is given, and the most that its set-up has used; in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub peak: Option<u64>,
}

/// A child that vanished without a word was killed, most often by its own memory limit; one that does nothing may be frozen.
pub fn explain_death(error: Error, cgroup: &Cgroup, limit: Option<MemoryLimit>) -> Error {
    match error {
        Error::Gone(text) => match out_of_memory(cgroup, limit) {
            Some(verdict) => Error::Gone(format!("{text}: {verdict}")),
            None => Error::Gone(text),
        },
        Error::Doing { what, cause } => match cgroup.stands_still() {
            Some(dir) => Error::doing(
                what,
                format!("{cause}; {} or a cgroup above it is frozen: thaw it", dir.display()),
            ),
            None => Error::Doing { what, cause },
        },
        other => other,
    }
}

/// What speaks for it that a process which vanished without a word was killed for want of memory. `limit`: the one that
/// its container was given when it was created.
///
/// ORDER: systemd removes a scope as soon as it is empty, at any moment of this. The count is read last: with it, the
/// numbers before it are the cgroup's own.
pub fn out_of_memory(cgroup: &Cgroup, limit: Option<MemoryLimit>) -> Option<String> {
    let (peak, bytes) = cgroup.memory_peak_and_limit();
    match cgroup.memory_kills() {
        Some(0) => None,
        Some(_) => Some(format!(
            "killed for want of memory ({}); raise the memory limit",
            limit_and_peak(bytes, peak)
        )),
        // What the kernel counted went with the cgroup: a guess.
        None => limit.map(|MemoryLimit { bytes, peak }| {
            let numbers = limit_and_peak(Some(bytes), peak);
            format!("its memory limit may be too small ({numbers} before it was set); raise it")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::testing;
    use super::*;

    #[test]
    fn a_death_without_a_word_is_laid_to_memory_if_it_was_counted_or_nobody_counts_any_more() {
        let Some(cgroup) = testing::cgroup("death") else { return };
        let told =
            |cgroup: &Cgroup, limit| explain_death(Error::Gone("it died".into()), cgroup, limit).to_string();
        let limit = Some(MemoryLimit { bytes: 4096, peak: Some(8192) });
        cgroup.create().unwrap();
        if cgroup.memory_kills() == Some(0) {
            assert_eq!(told(&cgroup, limit), "it died");
        }
        cgroup.remove(std::time::Duration::from_secs(2)).unwrap();
        assert_eq!(
            told(&cgroup, limit),
            "it died: its memory limit may be too small (limit 4096 bytes, peak 8192 bytes before it was set); raise it"
        );
        assert_eq!(told(&cgroup, None), "it died");
    }
}
