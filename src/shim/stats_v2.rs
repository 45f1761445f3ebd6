//! cgroup v2 counters as `io.containerd.cgroups.v2.Metrics`. Nothing is computed here: field by field.
//!
//! COMPAT: what is not counted (a controller that is not delegated, a scope that is gone) is an empty message, as under Go's shim:
//! nerdctl looks into these without asking.

use super::proto::cgroups_v2 as wire;
use super::stats::message;
use crate::engine::cgroup::v2::*;

pub fn metrics(stats: Stats) -> wire::Metrics {
    let mut metrics = wire::Metrics::new();
    metrics.hugetlb = stats
        .hugetlb
        .iter()
        .map(|h| message!(h => HugeTlbStat { current, max, pagesize, failcnt }))
        .collect();
    let pids = stats.pids.unwrap_or_default();
    metrics.pids = Some(message!(pids => PidsStat { current, limit })).into();
    metrics.cpu = Some(cpu(stats.cpu.unwrap_or_default())).into();
    metrics.memory = Some(memory(stats.memory.unwrap_or_default())).into();
    metrics.io = Some(io(stats.io.unwrap_or_default())).into();
    metrics.rdma = stats.rdma.map(rdma).into();
    let events = stats.memory_events;
    metrics.memory_events =
        events.map(|e| message!(e => MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill })).into();
    metrics
}

fn cpu(cpu: Cpu) -> wire::CPUStat {
    let mut message = message!(cpu => CPUStat {
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec,
    });
    message.psi = cpu.psi.map(psi).into();
    message
}

fn psi(psi: Psi) -> wire::PSIStats {
    let line =
        |line: Option<PsiLine>| line.map(|l| message!(l => PSIData { avg10, avg60, avg300, total })).into();
    let mut message = wire::PSIStats::new();
    message.some = line(psi.some);
    message.full = line(psi.full);
    message
}

fn memory(memory: Memory) -> wire::MemoryStat {
    let mut message = message!(memory => MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc, usage, usage_limit, swap_usage, swap_limit, max_usage, swap_max_usage,
    });
    message.psi = memory.psi.map(psi).into();
    message
}

fn io(io: Io) -> wire::IOStat {
    let mut message = wire::IOStat::new();
    let entry = |e: &IoEntry| message!(e => IOEntry { major, minor, rbytes, wbytes, rios, wios });
    message.usage = io.usage.iter().map(entry).collect();
    message.psi = io.psi.map(psi).into();
    message
}

fn rdma(rdma: Rdma) -> wire::RdmaStat {
    let entries = |list: Vec<RdmaEntry>| {
        list.iter().map(|e| message!(e => RdmaEntry { device, hca_handles, hca_objects })).collect()
    };
    let mut message = wire::RdmaStat::new();
    message.current = entries(rdma.current);
    message.limit = entries(rdma.limit);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_is_an_empty_message() {
        let told = metrics(Stats::default());
        assert!(told.pids.is_some() && told.cpu.is_some() && told.memory.is_some() && told.io.is_some());
    }
}
