//! What a container uses, as plain numbers: one set for v1 hierarchies, one for cgroup2. The fields are those of
//! containerd's metrics messages, under the same names; network and task counts are not the cgroup's to tell.

use super::error::Result;
use super::{Cgroup, Host, Mode};

/// A container's use of resources, in the terms of its kind of hierarchy.
#[derive(Debug, Clone, PartialEq)]
pub enum Stats {
    V1(Box<v1::Stats>),
    V2(Box<v2::Stats>),
}

impl Cgroup {
    /// Reads the counters of every controller that is there. A controller that is missing leaves `None`.
    pub fn stats(&self) -> Result<Stats> {
        match (self.v1().is_empty(), self.unified()) {
            (true, Some(dir)) => Ok(Stats::V2(Box::new(super::stats_v2::read(&dir.dir)?))),
            (true, None) if Host::get()?.mode() == Mode::Unified => Ok(Stats::V2(Box::default())),
            _ => Ok(Stats::V1(Box::new(super::stats_v1::read(self)?))),
        }
    }
}

/// One device's line in rdma.current or rdma.max.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    pub current: u64,
    /// v1: 0 is no limit; cgroup2: `u64::MAX` is.
    pub limit: u64,
}

pub mod v1 {
    //! The terms of io.containerd.cgroups.v1.Metrics.

    pub use super::{Pids, Rdma, RdmaEntry};

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Stats {
        pub hugetlb: Vec<Hugetlb>,
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Memory>,
        pub blkio: Option<Blkio>,
        pub rdma: Option<Rdma>,
        pub memory_oom_control: Option<OomControl>,
    }

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Hugetlb {
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
        pub pagesize: String,
    }

    /// Times in nanoseconds.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Cpu {
        pub total: u64,
        pub kernel: u64,
        pub user: u64,
        pub per_cpu: Vec<u64>,
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct MemoryEntry {
        pub limit: u64,
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct OomControl {
        pub oom_kill_disable: u64,
        pub under_oom: u64,
        pub oom_kill: u64,
    }

    /// memory.stat of the cgroup itself, or of its subtree (the `total_` fields).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct MemoryStat {
        pub cache: u64,
        pub rss: u64,
        pub rss_huge: u64,
        pub mapped_file: u64,
        pub dirty: u64,
        pub writeback: u64,
        pub pg_pg_in: u64,
        pub pg_pg_out: u64,
        pub pg_fault: u64,
        pub pg_maj_fault: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
    }

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Memory {
        pub own: MemoryStat,
        pub total: MemoryStat,
        pub hierarchical_memory_limit: u64,
        pub hierarchical_swap_limit: u64,
        pub usage: Option<MemoryEntry>,
        /// Memory and swap together.
        pub swap: Option<MemoryEntry>,
        pub kernel: Option<MemoryEntry>,
        pub kernel_tcp: Option<MemoryEntry>,
    }

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct BlkioEntry {
        pub op: String,
        pub device: String,
        pub major: u64,
        pub minor: u64,
        pub value: u64,
    }

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Blkio {
        pub io_service_bytes_recursive: Vec<BlkioEntry>,
        pub io_serviced_recursive: Vec<BlkioEntry>,
        pub io_queued_recursive: Vec<BlkioEntry>,
        pub io_service_time_recursive: Vec<BlkioEntry>,
        pub io_wait_time_recursive: Vec<BlkioEntry>,
        pub io_merged_recursive: Vec<BlkioEntry>,
        pub io_time_recursive: Vec<BlkioEntry>,
        pub sectors_recursive: Vec<BlkioEntry>,
    }
}

pub mod v2 {
    //! The terms of io.containerd.cgroups.v2.Metrics.

    pub use super::{Pids, Rdma, RdmaEntry};

    #[derive(Debug, Clone, Default, PartialEq)]
    pub struct Stats {
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Memory>,
        pub rdma: Option<Rdma>,
        pub io: Option<Io>,
        pub hugetlb: Vec<Hugetlb>,
        pub memory_events: Option<MemoryEvents>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    pub struct Psi {
        pub some: Option<PsiLine>,
        pub full: Option<PsiLine>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    pub struct PsiLine {
        pub avg10: f64,
        pub avg60: f64,
        pub avg300: f64,
        pub total: u64,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    pub struct Cpu {
        pub usage_usec: u64,
        pub user_usec: u64,
        pub system_usec: u64,
        pub nr_periods: u64,
        pub nr_throttled: u64,
        pub throttled_usec: u64,
        pub nr_bursts: u64,
        pub burst_usec: u64,
        pub psi: Option<Psi>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    pub struct Memory {
        pub anon: u64,
        pub file: u64,
        pub kernel_stack: u64,
        pub slab: u64,
        pub sock: u64,
        pub shmem: u64,
        pub file_mapped: u64,
        pub file_dirty: u64,
        pub file_writeback: u64,
        pub anon_thp: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
        pub slab_reclaimable: u64,
        pub slab_unreclaimable: u64,
        pub pgfault: u64,
        pub pgmajfault: u64,
        pub workingset_refault: u64,
        pub workingset_activate: u64,
        pub workingset_nodereclaim: u64,
        pub pgrefill: u64,
        pub pgscan: u64,
        pub pgsteal: u64,
        pub pgactivate: u64,
        pub pgdeactivate: u64,
        pub pglazyfree: u64,
        pub pglazyfreed: u64,
        pub thp_fault_alloc: u64,
        pub thp_collapse_alloc: u64,
        pub usage: u64,
        pub usage_limit: u64,
        pub swap_usage: u64,
        pub swap_limit: u64,
        pub max_usage: u64,
        pub swap_max_usage: u64,
        pub psi: Option<Psi>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct MemoryEvents {
        pub low: u64,
        pub high: u64,
        pub max: u64,
        pub oom: u64,
        pub oom_kill: u64,
        pub oom_group_kill: u64,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct IoEntry {
        pub major: u64,
        pub minor: u64,
        pub rbytes: u64,
        pub wbytes: u64,
        pub rios: u64,
        pub wios: u64,
    }

    #[derive(Debug, Clone, Default, PartialEq)]
    pub struct Io {
        pub usage: Vec<IoEntry>,
        pub psi: Option<Psi>,
    }

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Hugetlb {
        pub current: u64,
        pub max: u64,
        pub pagesize: String,
        pub failcnt: u64,
    }
}
