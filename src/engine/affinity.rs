//! Is the shim kept to some of the host's CPUs? Its containers must not inherit that: theirs are those of the cpuset.
//!
//! COMPAT: as under runc since 1.4. Asked for each process, for somebody may pin a running shim; it takes one
//! sched_getaffinity(2), and the list of online CPUs (sysfs) only when the answer is a new one.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::process;

/// How many CPUs were online when last looked at.
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// True as well where nobody can tell: a reset too many does no harm.
pub fn is_pinned() -> bool {
    // KERNEL: the answer has no CPU that is offline, so that equal numbers are equal sets.
    let Ok(allowed) = process::cpus_allowed() else { return true };
    if allowed == ONLINE.load(Ordering::Relaxed) {
        return false;
    }
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let online = count(&list);
    ONLINE.store(online, Ordering::Relaxed);
    allowed != online
}

/// The length of a list such as `0-2,7` (cpuset(7), "List format"); 0 of what is none.
fn count(list: &str) -> u32 {
    let length = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (last + 1).checked_sub(first)
    };
    list.split(',').filter_map(length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_a_list_are_counted() {
        assert_eq!([count("0-2,7\n"), count("0\n"), count("0-1,4-7"), count("")], [4, 1, 6, 0]);
    }
}
