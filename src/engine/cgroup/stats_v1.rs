//! The counters of the v1 controllers. admin-guide/cgroup-v1/{memory,cpuacct,blkio-controller,pids}.rst

use std::fs;
use std::path::Path;

use super::error::Result;
use super::stats::v1::{Blkio, BlkioEntry, Cpu, Hugetlb, Memory, MemoryEntry, MemoryStat, OomControl, Stats};
use super::stats::{Pids, Rdma, RdmaEntry};
use super::{Cgroup, Place, file};

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    let memory = cgroup.v1_dir("memory");
    Ok(Stats {
        hugetlb: cgroup.place("hugetlb").map_or(Ok(Vec::new()), hugetlb)?,
        pids: cgroup.v1_dir("pids").map(pids).transpose()?.flatten(),
        cpu: cgroup.v1_dir("cpuacct").map(|acct| cpu(acct, cgroup.v1_dir("cpu"))).transpose()?,
        memory: memory.map(self::memory).transpose()?.flatten(),
        blkio: cgroup.v1_dir("blkio").map(blkio).transpose()?,
        rdma: cgroup.v1_dir("rdma").map(rdma).transpose()?,
        memory_oom_control: memory.map(oom_control).transpose()?.flatten(),
    })
}

/// COMPAT: no limit is 0 in containerd's v1 metrics.
fn pids(dir: &Path) -> Result<Option<Pids>> {
    let Some(current) = file::number(dir, "pids.current")? else { return Ok(None) };
    let limit = file::number(dir, "pids.max")?.filter(|l| *l != u64::MAX).unwrap_or(0);
    Ok(Some(Pids { current, limit }))
}

fn cpu(acct: &Path, cpu: Option<&Path>) -> Result<Cpu> {
    // KERNEL: cpuacct.stat counts in USER_HZ, which is 100 on every Linux architecture of today.
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    let ticks = file::read_if_there(acct, "cpuacct.stat")?.unwrap_or_default();
    let time = |key| file::key(&ticks, key).unwrap_or(0) * NANOSECONDS_PER_TICK;
    let per_cpu = file::read_if_there(acct, "cpuacct.usage_percpu")?.unwrap_or_default();
    let throttling =
        cpu.map(|dir| file::read_if_there(dir, "cpu.stat")).transpose()?.flatten().unwrap_or_default();
    let throttle = |key| file::key(&throttling, key).unwrap_or(0);
    Ok(Cpu {
        total: file::number(acct, "cpuacct.usage")?.unwrap_or(0),
        kernel: time("system"),
        user: time("user"),
        per_cpu: per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        periods: throttle("nr_periods"),
        throttled_periods: throttle("nr_throttled"),
        throttled_time: throttle("throttled_time"),
    })
}

fn memory(dir: &Path) -> Result<Option<Memory>> {
    let Some(text) = file::read_if_there(dir, "memory.stat")? else { return Ok(None) };
    let mut memory = parse_memory(&text);
    memory.usage = entry(dir, "memory")?;
    memory.swap = entry(dir, "memory.memsw")?;
    memory.kernel = entry(dir, "memory.kmem")?;
    memory.kernel_tcp = entry(dir, "memory.kmem.tcp")?;
    Ok(Some(memory))
}

fn entry(dir: &Path, prefix: &str) -> Result<Option<MemoryEntry>> {
    let number = |name: &str| file::number(dir, &format!("{prefix}.{name}"));
    let Some(usage) = number("usage_in_bytes")? else { return Ok(None) };
    Ok(Some(MemoryEntry {
        usage,
        limit: number("limit_in_bytes")?.unwrap_or(0),
        max: number("max_usage_in_bytes")?.unwrap_or(0),
        failcnt: number("failcnt")?.unwrap_or(0),
    }))
}

fn parse_memory(text: &str) -> Memory {
    let mut memory = Memory::default();
    for (key, value) in file::flat(text) {
        match key {
            "hierarchical_memory_limit" => memory.hierarchical_memory_limit = value,
            "hierarchical_memsw_limit" => memory.hierarchical_swap_limit = value,
            _ => match key.strip_prefix("total_") {
                Some(key) => set(&mut memory.total, key, value),
                None => set(&mut memory.own, key, value),
            },
        }
    }
    memory
}

fn set(stat: &mut MemoryStat, key: &str, value: u64) {
    let field = match key {
        "cache" => &mut stat.cache,
        "rss" => &mut stat.rss,
        "rss_huge" => &mut stat.rss_huge,
        "mapped_file" => &mut stat.mapped_file,
        "dirty" => &mut stat.dirty,
        "writeback" => &mut stat.writeback,
        "pgpgin" => &mut stat.pg_pg_in,
        "pgpgout" => &mut stat.pg_pg_out,
        "pgfault" => &mut stat.pg_fault,
        "pgmajfault" => &mut stat.pg_maj_fault,
        "inactive_anon" => &mut stat.inactive_anon,
        "active_anon" => &mut stat.active_anon,
        "inactive_file" => &mut stat.inactive_file,
        "active_file" => &mut stat.active_file,
        "unevictable" => &mut stat.unevictable,
        _ => return,
    };
    *field = value;
}

fn oom_control(dir: &Path) -> Result<Option<OomControl>> {
    Ok(file::read_if_there(dir, "memory.oom_control")?.map(|text| {
        let value = |key| file::key(&text, key).unwrap_or(0);
        OomControl {
            oom_kill_disable: value("oom_kill_disable"),
            under_oom: value("under_oom"),
            oom_kill: value("oom_kill"),
        }
    }))
}

/// KERNEL: BFQ counts for the subtree if it is built with debugging; the throttler always does since 4.17, and only
/// for the cgroup itself before.
fn blkio(dir: &Path) -> Result<Blkio> {
    let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let first = |names: [String; 4]| -> Result<Vec<BlkioEntry>> {
        for name in names {
            let entries = parse_blkio(&file::read_if_there(dir, &name)?.unwrap_or_default(), &disks);
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    };
    let throttled = |name: &str| {
        first([
            format!("blkio.bfq.{name}_recursive"),
            format!("blkio.{name}_recursive"),
            format!("blkio.throttle.{name}_recursive"),
            format!("blkio.throttle.{name}"),
        ])
    };
    let scheduled = |name: &str| {
        let (bfq, cfq) = (format!("blkio.bfq.{name}_recursive"), format!("blkio.{name}_recursive"));
        first([bfq.clone(), cfq.clone(), bfq, cfq])
    };
    let debugged = dir.join("blkio.bfq.time_recursive").exists() || dir.join("blkio.time_recursive").exists();
    let mut blkio = Blkio {
        io_service_bytes_recursive: throttled("io_service_bytes")?,
        io_serviced_recursive: throttled("io_serviced")?,
        ..Blkio::default()
    };
    if debugged {
        blkio.io_queued_recursive = scheduled("io_queued")?;
        blkio.io_service_time_recursive = scheduled("io_service_time")?;
        blkio.io_wait_time_recursive = scheduled("io_wait_time")?;
        blkio.io_merged_recursive = scheduled("io_merged")?;
        blkio.io_time_recursive = scheduled("time")?;
        blkio.sectors_recursive = scheduled("sectors")?;
    }
    Ok(blkio)
}

/// Lines of `major:minor [op] value`; the sum over all devices at the end is nobody's device.
fn parse_blkio(text: &str, disks: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split([' ', ':']);
            let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (op, value) = match (fields.next()?, fields.next()) {
                (op, Some(value)) => (op, value),
                (value, None) => ("", value),
            };
            let device = device_name(disks, major, minor);
            Some(BlkioEntry { op: op.to_owned(), device, major, minor, value: value.parse().ok()? })
        })
        .collect()
}

/// The device's path by /proc/diskstats; empty if it is gone.
fn device_name(disks: &str, major: u64, minor: u64) -> String {
    let found = disks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let here = (fields.next()?.parse(), fields.next()?.parse()) == (Ok(major), Ok(minor));
        fields.next().filter(|_| here)
    });
    found.map_or(String::new(), |name| format!("/dev/{name}"))
}

/// On a hybrid host hugetlb may be cgroup2's.
fn hugetlb(place: Place<'_>) -> Result<Vec<Hugetlb>> {
    let Place::V1(dir) = place else { return Ok(Vec::new()) };
    let mut stats = Vec::new();
    for pagesize in page_sizes() {
        let number = |name| file::number(dir, &format!("hugetlb.{pagesize}.{name}"));
        let Some(usage) = number("usage_in_bytes")? else { continue };
        let (max, failcnt) = (number("max_usage_in_bytes")?.unwrap_or(0), number("failcnt")?.unwrap_or(0));
        stats.push(Hugetlb { usage, max, failcnt, pagesize });
    }
    Ok(stats)
}

/// The host's huge page sizes as the cgroup files spell them.
pub(super) fn page_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    entries.flatten().filter_map(|e| page_size(e.file_name().to_str()?)).collect()
}

fn page_size(directory: &str) -> Option<String> {
    let kib: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

pub(super) fn rdma(dir: &Path) -> Result<Rdma> {
    let entries = |name| -> Result<Vec<RdmaEntry>> {
        Ok(file::read_if_there(dir, name)?.unwrap_or_default().lines().filter_map(parse_rdma).collect())
    };
    Ok(Rdma { current: entries("rdma.current")?, limit: entries("rdma.max")? })
}

/// A line like `mlx4_0 hca_handle=2 hca_object=max`.
fn parse_rdma(line: &str) -> Option<RdmaEntry> {
    let mut fields = line.split_whitespace();
    let mut entry = RdmaEntry { device: fields.next()?.to_owned(), ..RdmaEntry::default() };
    for (key, value) in fields.filter_map(|f| f.split_once('=')) {
        let value = u32::try_from(file::parse_number(value)).unwrap_or(u32::MAX);
        match key {
            "hca_handle" => entry.hca_handles = value,
            "hca_object" => entry.hca_objects = value,
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::stats::Stats;
    use super::super::testing;
    use super::*;

    #[test]
    fn memory_stat_is_told_for_the_cgroup_and_for_its_subtree() {
        let text = "cache 1\nrss 2\npgpgin 3\nhierarchical_memory_limit 4\nhierarchical_memsw_limit 5\ntotal_rss 6\n";
        let memory = parse_memory(text);
        assert_eq!((memory.own.cache, memory.own.rss, memory.own.pg_pg_in), (1, 2, 3));
        assert_eq!(
            (memory.hierarchical_memory_limit, memory.hierarchical_swap_limit, memory.total.rss),
            (4, 5, 6)
        );
    }

    #[test]
    fn block_devices_are_named_and_the_grand_total_is_dropped() {
        let entries =
            parse_blkio("8:16 Read 10\n8:16 Total 12\n259:0 7\nTotal 19\n", "   8      16 sdb 1 2 3\n");
        let told: Vec<_> = entries.iter().map(|e| (e.op.as_str(), e.device.as_str(), e.value)).collect();
        assert_eq!(told, [("Read", "/dev/sdb", 10), ("Total", "/dev/sdb", 12), ("", "", 7)]);
    }

    #[test]
    fn page_sizes_are_spelled_as_the_kernel_does() {
        let sizes = ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "x"].map(page_size);
        assert_eq!(sizes, [Some("2MB".into()), Some("1GB".into()), Some("64KB".into()), None]);
    }

    #[test]
    fn rdma_without_a_limit_is_the_largest_number() {
        let entry = parse_rdma("mlx4_0 hca_handle=2 hca_object=max").unwrap();
        assert_eq!((entry.device.as_str(), entry.hca_handles, entry.hca_objects), ("mlx4_0", 2, u32::MAX));
    }

    #[test]
    fn a_running_process_shows_in_the_numbers() {
        let Some(cgroup) = testing::cgroup("stats") else { return };
        cgroup.create().unwrap();
        let mut sleeper = testing::Sleeper::inside(&cgroup);
        match cgroup.stats().unwrap() {
            Stats::V1(stats) => {
                assert_eq!(stats.pids.unwrap().current, 1);
                assert!(stats.memory.unwrap().usage.unwrap().limit > 0);
                assert!(stats.cpu.is_some() && stats.blkio.is_some() && stats.memory_oom_control.is_some());
            }
            Stats::V2(stats) => {
                assert_eq!(stats.pids.unwrap(), Pids { current: 1, limit: u64::MAX });
                assert_eq!(stats.memory.unwrap().usage_limit, u64::MAX);
                assert!(stats.cpu.is_some() && stats.memory_events.is_some());
            }
        }
        sleeper.end();
        cgroup.remove(Duration::from_secs(2)).unwrap();
    }
}
