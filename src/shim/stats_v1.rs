//! cgroup v1 counters as `io.containerd.cgroups.v1.Metrics`. Nothing is computed here: field by field.
//!
//! COMPAT: what is not counted is an empty message and not a missing one: containerd's metrics, before 2.0, and nerdctl look into
//! these without asking, and die.

use super::proto::cgroups_v1 as wire;
use super::stats::message;
use crate::engine::cgroup::v1::*;

pub fn metrics(stats: Stats) -> wire::Metrics {
    let mut metrics = wire::Metrics::new();
    metrics.hugetlb =
        stats.hugetlb.iter().map(|h| message!(h => HugetlbStat { usage, max, failcnt, pagesize })).collect();
    let pids = stats.pids.unwrap_or_default();
    metrics.pids = Some(message!(pids => PidsStat { current, limit })).into();
    metrics.cpu = Some(cpu(stats.cpu.unwrap_or_default())).into();
    metrics.memory = Some(memory(stats.memory.unwrap_or_default())).into();
    metrics.blkio = Some(blkio(stats.blkio.unwrap_or_default())).into();
    metrics.rdma = stats.rdma.map(rdma).into();
    let oom = stats.memory_oom_control;
    metrics.memory_oom_control =
        oom.map(|o| message!(o => MemoryOomControl { oom_kill_disable, under_oom, oom_kill })).into();
    metrics
}

fn cpu(cpu: Cpu) -> wire::CPUStat {
    let mut message = wire::CPUStat::new();
    message.usage = Some(message!(cpu => CPUUsage { total, kernel, user, per_cpu })).into();
    message.throttling =
        Some(message!(cpu => Throttle { periods, throttled_periods, throttled_time })).into();
    message
}

fn memory(memory: Memory) -> wire::MemoryStat {
    let own = memory.own;
    let mut message = message!(own => MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault, inactive_anon, active_anon, inactive_file, active_file, unevictable,
    });
    total(&mut message, &memory.total);
    message.hierarchical_memory_limit = memory.hierarchical_memory_limit;
    message.hierarchical_swap_limit = memory.hierarchical_swap_limit;
    let entry = |e: Option<MemoryEntry>| {
        let e = e.unwrap_or_default();
        Some(message!(e => MemoryEntry { limit, usage, max, failcnt })).into()
    };
    message.usage = entry(memory.usage);
    message.swap = entry(memory.swap);
    message.kernel = entry(memory.kernel);
    message.kernel_tcp = entry(memory.kernel_tcp);
    message
}

fn total(message: &mut wire::MemoryStat, total: &MemoryStat) {
    message.total_cache = total.cache;
    message.total_rss = total.rss;
    message.total_rss_huge = total.rss_huge;
    message.total_mapped_file = total.mapped_file;
    message.total_dirty = total.dirty;
    message.total_writeback = total.writeback;
    message.total_pg_pg_in = total.pg_pg_in;
    message.total_pg_pg_out = total.pg_pg_out;
    message.total_pg_fault = total.pg_fault;
    message.total_pg_maj_fault = total.pg_maj_fault;
    message.total_inactive_anon = total.inactive_anon;
    message.total_active_anon = total.active_anon;
    message.total_inactive_file = total.inactive_file;
    message.total_active_file = total.active_file;
    message.total_unevictable = total.unevictable;
}

fn blkio(blkio: Blkio) -> wire::BlkIOStat {
    let entries = |list: Vec<BlkioEntry>| {
        list.iter().map(|e| message!(e => BlkIOEntry { op, device, major, minor, value })).collect()
    };
    let mut message = wire::BlkIOStat::new();
    message.io_service_bytes_recursive = entries(blkio.io_service_bytes_recursive);
    message.io_serviced_recursive = entries(blkio.io_serviced_recursive);
    message.io_queued_recursive = entries(blkio.io_queued_recursive);
    message.io_service_time_recursive = entries(blkio.io_service_time_recursive);
    message.io_wait_time_recursive = entries(blkio.io_wait_time_recursive);
    message.io_merged_recursive = entries(blkio.io_merged_recursive);
    message.io_time_recursive = entries(blkio.io_time_recursive);
    message.sectors_recursive = entries(blkio.sectors_recursive);
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
        let memory = told.memory.as_ref().expect("memory");
        let entries = [&memory.usage, &memory.swap, &memory.kernel, &memory.kernel_tcp];
        assert!(entries.iter().all(|entry| entry.is_some()));
        assert!(told.pids.is_some() && told.cpu.is_some() && told.blkio.is_some());
    }
}
