//! cgroup v2 counters as `io.containerd.cgroups.v2.Metrics`. Nothing is computed here: field by field.

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
    metrics.pids = stats.pids.map(|p| message!(p => PidsStat { current, limit })).into();
    metrics.cpu = stats.cpu.map(cpu).into();
    metrics.memory = stats.memory.map(memory).into();
    metrics.io = stats.io.map(io).into();
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
