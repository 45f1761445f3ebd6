//! `resources.memory`. v1 counts swap together with memory, cgroup2 by itself: the spec's `swap` is the sum.

use std::path::Path;

use oci_spec::runtime::LinuxMemory;

use super::error::{Error, Result};
use super::{Cgroup, Place, file};

const V1_LIMIT: &str = "memory.limit_in_bytes";
const V1_BOTH: &str = "memory.memsw.limit_in_bytes";
const V1_PEAK: &str = "memory.max_usage_in_bytes";

pub(super) fn apply(cgroup: &Cgroup, memory: &LinuxMemory) -> Result<()> {
    if !touches(memory) {
        return Ok(());
    }
    match cgroup.controller("memory", "memory")? {
        Place::V1(dir) => apply_v1(dir, memory),
        Place::V2(dir) => apply_v2(dir, memory),
    }
}

/// Refuses, before anybody is told, a limit below what is used (`checkBeforeUpdate`).
pub(super) fn check(cgroup: &Cgroup, memory: &LinuxMemory) -> Result<()> {
    match cgroup.place("memory") {
        Some(Place::V1(dir)) => check_usage(dir, "memory.usage_in_bytes", memory),
        Some(Place::V2(dir)) => check_usage(dir, "memory.current", memory),
        None => Ok(()),
    }
}

/// COMPAT: 0 is "not set", as engines send it.
fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|v| *v != 0)
}

fn touches(m: &LinuxMemory) -> bool {
    let numbers = [m.limit(), m.reservation(), m.swap(), m.kernel(), m.kernel_tcp()];
    numbers.into_iter().any(|n| given(n).is_some())
        || m.swappiness().is_some()
        || m.disable_oom_killer() == Some(true)
}

impl Cgroup {
    /// The highest memory use so far and the limit, in bytes, where the kernel tells them: for messages.
    pub fn memory_peak_and_limit(&self) -> (Option<u64>, Option<u64>) {
        let (dir, peak, limit) = match self.place("memory") {
            Some(Place::V1(dir)) => (dir, V1_PEAK, V1_LIMIT),
            Some(Place::V2(dir)) => (dir, "memory.peak", "memory.max"),
            None => return (None, None),
        };
        let read = |name| file::number(dir, name).ok().flatten();
        // KERNEL: v1 says "no limit" as the largest page-aligned i64.
        (read(peak), read(limit).filter(|l| *l < i64::MAX as u64 - 0xffff))
    }

    /// How many of its processes the kernel has killed for want of memory: `None` if nobody counts, or counts any more.
    pub fn memory_kills(&self) -> Option<u64> {
        let (dir, name) = match self.place("memory")? {
            Place::V1(dir) => (dir, "memory.oom_control"),
            Place::V2(dir) => (dir, "memory.events"),
        };
        file::key(&file::read(dir, name).ok()?, "oom_kill")
    }
}

/// Both numbers, in bytes, for messages.
pub fn limit_and_peak(limit: Option<u64>, peak: Option<u64>) -> String {
    let told = |n: Option<u64>, unknown: &str| n.map_or(unknown.to_owned(), |n| format!("{n} bytes"));
    format!("limit {}, peak {}", told(limit, "none of its own"), told(peak, "unknown"))
}

fn apply_v1(dir: &Path, m: &LinuxMemory) -> Result<()> {
    check_usage(dir, "memory.usage_in_bytes", m)?;
    if let Some(soft) = given(m.reservation()) {
        file::set(dir, "memory.soft_limit_in_bytes", &soft.to_string(), "memory.reservation")?;
    }
    if let Some(kernel) = given(m.kernel()) {
        kernel_v1(dir, "memory.kmem.limit_in_bytes", kernel, "memory.kernel")?;
    }
    if let Some(tcp) = given(m.kernel_tcp()) {
        kernel_v1(dir, "memory.kmem.tcp.limit_in_bytes", tcp, "memory.kernelTCP")?;
    }
    if m.disable_oom_killer() == Some(true) {
        file::set(dir, "memory.oom_control", "1", "memory.disableOOMKiller")?;
    }
    // COMPAT: -1 (all ones here) is "leave it", as Docker sends it.
    if let Some(swappiness) = m.swappiness().filter(|s| *s as i64 != -1) {
        file::set(dir, "memory.swappiness", &swappiness.to_string(), "memory.swappiness")?;
    }
    limit_and_swap_v1(dir, m)
}

/// KERNEL: memory.kmem.limit_in_bytes is obsolete since 5.16 (EOPNOTSUPP) and going: runc ignores the setting
/// altogether, so a kernel without it is no failure.
fn kernel_v1(dir: &Path, name: &str, value: i64, field: &'static str) -> Result<()> {
    match file::set(dir, name, &value.to_string(), field) {
        Err(e) if matches!(e.errno(), libc::EOPNOTSUPP | libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// ORDER: at every moment limit <= limit+swap must hold. Raising starts with the sum, lowering with the limit.
fn limit_and_swap_v1(dir: &Path, m: &LinuxMemory) -> Result<()> {
    let (limit, mut swap) = (given(m.limit()), given(m.swap()));
    // COMPAT: no memory limit and nothing said of swap means no swap limit either, where swap is counted.
    if limit == Some(-1) && swap.is_none() && dir.join(V1_BOTH).exists() {
        swap = Some(-1);
    }
    let sum_first = match (limit, swap) {
        (Some(_), Some(swap)) => swap == -1 || file::number(dir, V1_LIMIT)?.unwrap_or(0) < swap as u64,
        _ => false,
    };
    let set_limit = || limit.map_or(Ok(()), |l| write_limit_v1(dir, V1_LIMIT, l));
    let set_sum = || swap.map_or(Ok(()), |s| write_limit_v1(dir, V1_BOTH, s));
    if sum_first {
        set_sum()?;
        return set_limit();
    }
    set_limit()?;
    set_sum()
}

fn write_limit_v1(dir: &Path, name: &str, value: i64) -> Result<()> {
    let (field, peak) = match name {
        V1_LIMIT => ("memory.limit", V1_PEAK),
        _ => ("memory.swap", "memory.memsw.max_usage_in_bytes"),
    };
    file::set(dir, name, &value.to_string(), field).map_err(|e| match e.errno() {
        libc::EBUSY => {
            let peak = file::number(dir, peak).ok().flatten();
            Error::TooSmall { field, value, numbers: limit_and_peak(u64::try_from(value).ok(), peak) }
        }
        libc::EINVAL => e.with_remedy("memory+swap must not be less than memory; set both"),
        libc::ENOENT => {
            e.with_remedy("swap is not counted on this host (boot with swapaccount=1), or leave swap out")
        }
        _ => e,
    })
}

fn apply_v2(dir: &Path, m: &LinuxMemory) -> Result<()> {
    check_usage(dir, "memory.current", m)?;
    if let Some(low) = given(m.reservation()) {
        file::set(dir, "memory.low", &number_or_max(low), "memory.reservation")?;
    }
    let old = || file::number(dir, "memory.max").map(|n| n.map_or(-1, |n| i64::try_from(n).unwrap_or(-1)));
    let limit = match (given(m.limit()), given(m.swap())) {
        // An update may change the sum alone: what it leaves for swap follows from the limit in force.
        (None, Some(swap)) if swap != -1 => Some(old()?),
        (limit, _) => limit,
    };
    if let Some(swap) = swap_v2(limit, given(m.swap()))? {
        let text = number_or_max(swap);
        let written = file::write_if_there(dir, "memory.swap.max", &text).map_err(|e| e.of("memory.swap"))?;
        // A host without swap accounting has none to allow or forbid; only a real number needs it.
        if !written && swap > 0 {
            let reason = "the host does not count swap; leave memory.swap out";
            return Err(Error::Value { field: "memory.swap", value: text, reason });
        }
    }
    match given(m.limit()) {
        Some(limit) => file::set(dir, "memory.max", &number_or_max(limit), "memory.limit"),
        None => Ok(()),
    }
}

/// The value of `memory.swap.max` for the spec's limit and sum of limit and swap.
pub(super) fn swap_v2(limit: Option<i64>, sum: Option<i64>) -> Result<Option<i64>> {
    let refuse =
        |sum: i64, reason| Err(Error::Value { field: "memory.swap", value: sum.to_string(), reason });
    match (limit, sum) {
        // COMPAT: as on v1, unlimited memory and nothing said of swap is unlimited swap.
        (Some(-1), None) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some(-1)),
        (Some(-1), Some(sum)) if sum > 0 => Ok(Some(sum)),
        (Some(limit), Some(sum)) if limit < 0 || sum < 0 => {
            refuse(sum, "negative limits other than -1 mean nothing")
        }
        (Some(limit), Some(sum)) if sum < limit => {
            refuse(sum, "it is memory+swap and must not be less than memory")
        }
        (Some(limit), Some(sum)) => Ok(Some(sum - limit)),
        (None, Some(sum)) => refuse(sum, "it is memory+swap and needs a memory limit"),
    }
}

fn number_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// The spec's checkBeforeUpdate: refuse a limit that the kernel would enforce by killing.
fn check_usage(dir: &Path, usage_file: &str, m: &LinuxMemory) -> Result<()> {
    if m.check_before_update() != Some(true) {
        return Ok(());
    }
    let Some(usage) = file::number(dir, usage_file)? else { return Ok(()) };
    for (field, value) in [("memory.swap", m.swap()), ("memory.limit", m.limit())] {
        if let Some(value) = value.filter(|v| *v > 0 && (*v as u64) <= usage) {
            return Err(Error::BelowUsage { field, value, usage });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_memory_and_swap_becomes_swap_alone() {
        assert_eq!(swap_v2(Some(100), Some(300)).unwrap(), Some(200));
        assert_eq!(swap_v2(Some(100), Some(100)).unwrap(), Some(0));
        assert_eq!(swap_v2(Some(100), Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_v2(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_v2(Some(-1), Some(70)).unwrap(), Some(70));
        assert_eq!(swap_v2(Some(100), None).unwrap(), None);
    }

    #[test]
    fn a_sum_below_the_limit_or_without_one_is_refused() {
        assert!(swap_v2(Some(100), Some(50)).is_err());
        assert!(swap_v2(None, Some(50)).is_err());
        assert!(swap_v2(Some(-5), Some(50)).is_err());
    }
}
