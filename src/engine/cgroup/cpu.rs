//! `resources.cpu`: shares, bandwidth, idle, real time and cpuset.

use std::path::Path;

use oci_spec::runtime::LinuxCpu;

use super::error::{Error, Result};
use super::{Cgroup, Place, file};

/// cgroup2's documented default of `cpu.max`, in microseconds.
pub(super) const DEFAULT_PERIOD: u64 = 100_000;

pub(super) fn apply(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    cpuset(cgroup, cpu)?;
    if !touches_cpu(cpu) {
        return Ok(());
    }
    match cgroup.controller("cpu", "cpu")? {
        Place::V1(dir) => apply_v1(dir, cpu),
        Place::V2(dir) => apply_v2(dir, cpu),
    }
}

/// COMPAT: 0 is "not set" for every number here but idle and burst, as engines send it.
fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

fn touches_cpu(cpu: &LinuxCpu) -> bool {
    given(cpu.shares()).is_some()
        || given(cpu.quota()).is_some()
        || given(cpu.period()).is_some()
        || given(cpu.realtime_runtime()).is_some()
        || given(cpu.realtime_period()).is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
}

fn cpuset(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    for (field, file, list) in
        [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())]
    {
        let Some(list) = list.as_deref().filter(|l| !l.is_empty()) else { continue };
        let (Place::V1(dir) | Place::V2(dir)) = cgroup.controller("cpuset", field)?;
        file::set(dir, file, list, field).map_err(|e| {
            e.with_remedy(
                "the list must be within the parent's cpuset, and not leave running tasks without cpus",
            )
        })?;
    }
    Ok(())
}

fn apply_v1(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = given(cpu.shares()) {
        // COMPAT: the kernel would clamp silently; runc refuses, so that nobody gets other shares than asked for.
        if !(2..=262_144).contains(&shares) {
            let reason = "the kernel allows 2 to 262144";
            return Err(Error::Value { field: "cpu.shares", value: shares.to_string(), reason });
        }
        file::set(dir, "cpu.shares", &shares.to_string(), "cpu.shares")?;
    }
    bandwidth_v1(dir, cpu)?;
    if let Some(idle) = cpu.idle() {
        file::set(dir, "cpu.idle", &idle.to_string(), "cpu.idle")
            .map_err(|e| e.with_remedy("cpu.idle needs Linux 5.15"))?;
    }
    real_time_v1(dir, cpu)
}

/// ORDER: the kernel checks quota/period against the parent at each single write, so which one may go first
/// depends on the old values: what is refused before the quota is written is tried again after it.
fn bandwidth_v1(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let quota = given(cpu.quota());
    let mut again = Vec::new();
    let period = given(cpu.period()).map(|p| ("cpu.cfs_period_us", p, "cpu.period"));
    let burst = cpu.burst().map(|b| ("cpu.cfs_burst_us", b, "cpu.burst"));
    for (name, value, field) in period.into_iter().chain(burst) {
        match file::set(dir, name, &value.to_string(), field) {
            Err(e) if e.errno() == libc::EINVAL && quota.is_some() => again.push((name, value, field)),
            // KERNEL: no burst before 5.14; asking for none is then granted.
            Err(e) if e.errno() == libc::ENOENT && value == 0 => {}
            done => done.map_err(bandwidth_remedy)?,
        }
    }
    if let Some(quota) = quota {
        file::set(dir, "cpu.cfs_quota_us", &quota.to_string(), "cpu.quota").map_err(bandwidth_remedy)?;
    }
    again.iter().try_for_each(|(name, value, field)| {
        file::set(dir, name, &value.to_string(), field).map_err(bandwidth_remedy)
    })
}

fn bandwidth_remedy(e: Error) -> Error {
    match e.errno() {
        libc::EINVAL => e.with_remedy(
            "quota must be at least 1000, period 1000 to 1000000, burst at most the quota, \
             and quota/period within the parent's",
        ),
        libc::ENOENT => {
            e.with_remedy("the kernel lacks CONFIG_CFS_BANDWIDTH, or burst, which needs Linux 5.14")
        }
        _ => e,
    }
}

fn real_time_v1(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let runtime = given(cpu.realtime_runtime());
    let set_period = |period: u64| {
        file::set(dir, "cpu.rt_period_us", &period.to_string(), "cpu.realtimePeriod")
            .map_err(real_time_remedy)
    };
    let mut late = None;
    if let Some(period) = given(cpu.realtime_period()) {
        match set_period(period) {
            Err(e) if e.errno() == libc::EINVAL && runtime.is_some() => late = Some(period),
            done => done?,
        }
    }
    if let Some(runtime) = runtime {
        file::set(dir, "cpu.rt_runtime_us", &runtime.to_string(), "cpu.realtimeRuntime")
            .map_err(real_time_remedy)?;
    }
    late.map_or(Ok(()), set_period)
}

fn real_time_remedy(e: Error) -> Error {
    match e.errno() {
        libc::ENOENT => e.with_remedy("the kernel lacks CONFIG_RT_GROUP_SCHED"),
        libc::EINVAL => e.with_remedy("every parent cgroup needs at least this much cpu.rt_runtime_us"),
        _ => e,
    }
}

fn apply_v2(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    if given(cpu.realtime_runtime()).is_some() || given(cpu.realtime_period()).is_some() {
        let (value, reason) = ("(any)".to_owned(), "cgroup v2 has no real-time limits; leave them out");
        return Err(Error::Value { field: "cpu.realtimeRuntime", value, reason });
    }
    // ORDER: an idle cgroup has no weight to set (EINVAL), so idle goes first and rules.
    if let Some(idle) = cpu.idle() {
        file::set(dir, "cpu.idle", &idle.to_string(), "cpu.idle")
            .map_err(|e| e.with_remedy("cpu.idle needs Linux 5.15"))?;
    }
    if let Some(shares) = given(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        file::set(dir, "cpu.weight", &weight_of_shares(shares).to_string(), "cpu.shares")?;
    }
    bandwidth_v2(dir, cpu)
}

fn bandwidth_v2(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let (quota, period) = (given(cpu.quota()), given(cpu.period()));
    let set_burst = |burst: u64| {
        file::set(dir, "cpu.max.burst", &burst.to_string(), "cpu.burst").map_err(bandwidth_remedy)
    };
    let mut late = None;
    if let Some(burst) = cpu.burst() {
        match set_burst(burst) {
            Err(e) if e.errno() == libc::EINVAL && quota.is_some() => late = Some(burst),
            Err(e) if e.errno() == libc::ENOENT && burst == 0 => {}
            done => done?,
        }
    }
    if quota.is_some() || period.is_some() {
        let field = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
        let now = file::read_if_there(dir, "cpu.max")?.unwrap_or_default();
        file::set(dir, "cpu.max", &cpu_max(&now, quota, period), field).map_err(bandwidth_remedy)?;
    }
    late.map_or(Ok(()), set_burst)
}

/// The new text of `cpu.max`; the half that is not given keeps its value.
fn cpu_max(now: &str, quota: Option<i64>, period: Option<u64>) -> String {
    let mut now = now.split_whitespace();
    let (old_quota, old_period) = (now.next().unwrap_or("max"), now.next());
    let quota = match quota {
        Some(q) if q > 0 => q.to_string(),
        Some(_) => "max".to_owned(),
        None => old_quota.to_owned(),
    };
    let period = period.or_else(|| old_period?.parse().ok()).unwrap_or(DEFAULT_PERIOD);
    format!("{quota} {period}")
}

/// COMPAT: runc's conversion since 1.3.2: a curve through shares 2, 1024, 262144 and weights 1, 100, 10000, so that
/// the two defaults meet (the old straight line made 39 of 1024).
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_on_the_curve() {
        let pairs = [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (300_000, 10_000)];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..262_144).step_by(97).all(|s| weight_of_shares(s) <= weight_of_shares(s + 97)));
    }

    #[test]
    fn the_half_of_cpu_max_that_is_not_given_stays() {
        assert_eq!(cpu_max("max 100000\n", Some(50_000), None), "50000 100000");
        assert_eq!(cpu_max("50000 100000\n", None, Some(20_000)), "50000 20000");
        assert_eq!(cpu_max("50000 20000\n", Some(-1), None), "max 20000");
        assert_eq!(cpu_max("", Some(1000), None), "1000 100000");
    }
}
