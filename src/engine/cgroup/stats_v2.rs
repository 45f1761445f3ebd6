//! The counters of cgroup2. admin-guide/cgroup-v2.rst, accounting/psi.rst

use std::path::Path;

use super::error::Result;
use super::stats::v2::{Cpu, Hugetlb, Io, IoEntry, Memory, MemoryEvents, Psi, PsiLine, Stats};
use super::stats::{Pids, Rdma};
use super::{file, stats_v1};

pub(super) fn read(dir: &Path) -> Result<Stats> {
    let rdma = stats_v1::rdma(dir)?;
    Ok(Stats {
        pids: pids(dir)?,
        cpu: cpu(dir)?,
        memory: memory(dir)?,
        rdma: (rdma != Rdma::default()).then_some(rdma),
        io: io(dir)?,
        hugetlb: hugetlb(dir)?,
        memory_events: file::read_if_there(dir, "memory.events")?.map(|text| memory_events(&text)),
    })
}

fn pids(dir: &Path) -> Result<Option<Pids>> {
    let Some(current) = file::number(dir, "pids.current")? else { return Ok(None) };
    Ok(Some(Pids { current, limit: file::number(dir, "pids.max")?.unwrap_or(u64::MAX) }))
}

fn cpu(dir: &Path) -> Result<Option<Cpu>> {
    let Some(text) = file::read_if_there(dir, "cpu.stat")? else { return Ok(None) };
    let mut cpu = parse_cpu(&text);
    cpu.psi = psi(dir, "cpu.pressure")?;
    Ok(Some(cpu))
}

fn parse_cpu(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, value) in file::flat(text) {
        let field = match key {
            "usage_usec" => &mut cpu.usage_usec,
            "user_usec" => &mut cpu.user_usec,
            "system_usec" => &mut cpu.system_usec,
            "nr_periods" => &mut cpu.nr_periods,
            "nr_throttled" => &mut cpu.nr_throttled,
            "throttled_usec" => &mut cpu.throttled_usec,
            "nr_bursts" => &mut cpu.nr_bursts,
            "burst_usec" => &mut cpu.burst_usec,
            _ => continue,
        };
        *field = value;
    }
    cpu
}

fn memory(dir: &Path) -> Result<Option<Memory>> {
    let Some(text) = file::read_if_there(dir, "memory.stat")? else { return Ok(None) };
    let number = |name| Ok(file::number(dir, name)?.unwrap_or(0));
    Ok(Some(Memory {
        usage: number("memory.current")?,
        usage_limit: number("memory.max")?,
        swap_usage: number("memory.swap.current")?,
        swap_limit: number("memory.swap.max")?,
        // KERNEL: memory.peak since 5.19, memory.swap.peak since 6.5; 0 before.
        max_usage: number("memory.peak")?,
        swap_max_usage: number("memory.swap.peak")?,
        psi: psi(dir, "memory.pressure")?,
        ..parse_memory(&text)
    }))
}

fn parse_memory(text: &str) -> Memory {
    let mut m = Memory::default();
    for (key, value) in file::flat(text) {
        let field = match key {
            "anon" => &mut m.anon,
            "file" => &mut m.file,
            "kernel_stack" => &mut m.kernel_stack,
            "slab" => &mut m.slab,
            "sock" => &mut m.sock,
            "shmem" => &mut m.shmem,
            "file_mapped" => &mut m.file_mapped,
            "file_dirty" => &mut m.file_dirty,
            "file_writeback" => &mut m.file_writeback,
            "anon_thp" => &mut m.anon_thp,
            "inactive_anon" => &mut m.inactive_anon,
            "active_anon" => &mut m.active_anon,
            "inactive_file" => &mut m.inactive_file,
            "active_file" => &mut m.active_file,
            "unevictable" => &mut m.unevictable,
            "slab_reclaimable" => &mut m.slab_reclaimable,
            "slab_unreclaimable" => &mut m.slab_unreclaimable,
            "pgfault" => &mut m.pgfault,
            "pgmajfault" => &mut m.pgmajfault,
            // KERNEL: one counter before 5.9, two after.
            "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                &mut m.workingset_refault
            }
            "workingset_activate" | "workingset_activate_anon" | "workingset_activate_file" => {
                &mut m.workingset_activate
            }
            "workingset_nodereclaim" => &mut m.workingset_nodereclaim,
            "pgrefill" => &mut m.pgrefill,
            "pgscan" => &mut m.pgscan,
            "pgsteal" => &mut m.pgsteal,
            "pgactivate" => &mut m.pgactivate,
            "pgdeactivate" => &mut m.pgdeactivate,
            "pglazyfree" => &mut m.pglazyfree,
            "pglazyfreed" => &mut m.pglazyfreed,
            "thp_fault_alloc" => &mut m.thp_fault_alloc,
            "thp_collapse_alloc" => &mut m.thp_collapse_alloc,
            _ => continue,
        };
        *field += value;
    }
    m
}

fn memory_events(text: &str) -> MemoryEvents {
    let value = |key| file::key(text, key).unwrap_or(0);
    MemoryEvents {
        low: value("low"),
        high: value("high"),
        max: value("max"),
        oom: value("oom"),
        oom_kill: value("oom_kill"),
        oom_group_kill: value("oom_group_kill"),
    }
}

fn io(dir: &Path) -> Result<Option<Io>> {
    let Some(text) = file::read_if_there(dir, "io.stat")? else { return Ok(None) };
    Ok(Some(Io { usage: text.lines().filter_map(parse_io).collect(), psi: psi(dir, "io.pressure")? }))
}

/// A line like `8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn parse_io(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let mut io = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
    for (key, value) in fields.filter_map(|f| f.split_once('=')) {
        let field = match key {
            "rbytes" => &mut io.rbytes,
            "wbytes" => &mut io.wbytes,
            "rios" => &mut io.rios,
            "wios" => &mut io.wios,
            _ => continue,
        };
        *field = file::parse_number(value);
    }
    Some(io)
}

fn hugetlb(dir: &Path) -> Result<Vec<Hugetlb>> {
    let mut stats = Vec::new();
    for pagesize in stats_v1::page_sizes() {
        let name = |what: &str| format!("hugetlb.{pagesize}.{what}");
        let Some(current) = file::number(dir, &name("current"))? else { continue };
        let max = file::number(dir, &name("max"))?.unwrap_or(u64::MAX);
        let events = file::read_if_there(dir, &name("events"))?.unwrap_or_default();
        stats.push(Hugetlb { current, max, failcnt: file::key(&events, "max").unwrap_or(0), pagesize });
    }
    Ok(stats)
}

/// Pressure, where the kernel measures it (CONFIG_PSI, psi=1, and not switched off for the cgroup).
fn psi(dir: &Path, name: &str) -> Result<Option<Psi>> {
    Ok(file::read_if_there(dir, name)?.map(|text| parse_psi(&text)))
}

/// Lines like `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse_psi(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut values = PsiLine::default();
        for (key, value) in line.split(' ').filter_map(|f| f.split_once('=')) {
            match key {
                "avg10" => values.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => values.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => values.avg300 = value.parse().unwrap_or(0.0),
                "total" => values.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        match line.split(' ').next() {
            Some("some") => psi.some = Some(values),
            Some("full") => psi.full = Some(values),
            _ => {}
        }
    }
    psi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_line_by_line() {
        let psi = parse_psi("some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n");
        let some = PsiLine { avg10: 1.5, avg60: 0.0, avg300: 0.25, total: 77 };
        assert_eq!(psi, Psi { some: Some(some), full: None });
    }

    #[test]
    fn io_lines_hold_more_than_is_told() {
        let entry = parse_io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6").unwrap();
        assert_eq!(entry, IoEntry { major: 8, minor: 16, rbytes: 1, wbytes: 2, rios: 3, wios: 4 });
        assert_eq!(parse_io("sum rbytes=1"), None);
    }

    #[test]
    fn refaults_of_anonymous_and_file_memory_add_up() {
        let memory = parse_memory("anon 9\nworkingset_refault_anon 2\nworkingset_refault_file 3\n");
        assert_eq!((memory.anon, memory.workingset_refault), (9, 5));
    }

    #[test]
    fn cpu_times_and_bursts_are_read() {
        let cpu = parse_cpu(
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_bursts 2\ncore_sched.force_idle_usec 1\n",
        );
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_bursts), (9, 5, 4, 2));
    }
}
