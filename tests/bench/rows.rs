//! The rows of the table, and what each is measured against.

use std::time::Duration;

/// In the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Connected,
    Create,
    Start,
    CreateStart,
    Run,
    RunSeccomp,
    Exec,
    ExecSeccomp,
    InFlight,
    ExecCpu,
    Kill,
    Delete,
    Shutdown,
    Life,
    Pss,
    Threads,
    Further,
    Side,
    Stream,
    StreamCpu,
    Burst,
    State,
    Growth,
    OwnGrowth,
    Wakeups,
    Smallest,
}

impl Row {
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "shim start to connected, ms",
            Self::Create => "Create, ms",
            Self::Start => "Start, ms",
            Self::CreateStart => "Create + Start, ms",
            Self::Run => "Create + Start + exit event of /bin/true, ms",
            Self::RunSeccomp => "the same with the default seccomp profile",
            Self::Exec => "Exec + Start + exit event, ms",
            Self::ExecSeccomp => "the same with the default seccomp profile ",
            Self::InFlight => "execs per second, 8 in flight",
            Self::ExecCpu => "CPU per exec, ms",
            Self::Kill => "Kill (SIGKILL) to exit event, ms",
            Self::Delete => "Delete, ms",
            Self::Shutdown => "Shutdown until the shim is gone, ms",
            Self::Life => "whole life cycle, ms",
            Self::Pss => "one idle container: PSS of the shim, MiB",
            Self::Threads => "threads of the shim",
            Self::Further => "each further container in the same shim, KiB",
            Self::Side => "50 shims side by side: total PSS, MiB",
            Self::Stream => "stdout through the FIFO, MB/s",
            Self::StreamCpu => "CPU of the shim for 1 GiB of stdout, s",
            Self::Burst => "100 containers, 8 in flight: CPU, s",
            Self::State => "State round trip, us",
            Self::Growth => "PSS growth over the long run of execs, KiB",
            Self::OwnGrowth => "of this, its own (anonymous) memory, KiB",
            Self::Wakeups => "wake-ups of an idle shim in a minute",
            Self::Smallest => "smallest memory limit that starts a container, KiB",
        }
    }

    /// The goal in words; most are bounds, some are multiples of the floor.
    pub fn target(self) -> &'static str {
        match self {
            Self::Connected => "≤ 3",
            Self::CreateStart | Self::Run => "≤ 1.3 × floor",
            Self::RunSeccomp | Self::ExecSeccomp => "≤ 1.2 × floor",
            Self::Exec => "≤ 1.5 × floor",
            Self::InFlight => "≥ 800",
            Self::ExecCpu | Self::Pss => "≤ 1.5",
            Self::Kill | Self::Burst => "≤ 1.2",
            Self::Delete | Self::Threads => "≤ 1",
            Self::Life => "≤ 10",
            Self::Further => "≤ 40",
            Self::Side => "≤ 25",
            Self::Stream => "≥ 1500",
            Self::StreamCpu => "≤ 0.15",
            Self::State => "≤ 45",
            Self::Growth => "≤ 100",
            Self::Wakeups => "0",
            Self::Smallest => "≤ 512",
            Self::Create | Self::Start | Self::Shutdown | Self::OwnGrowth => "",
        }
    }

    pub fn more_is_better(self) -> bool {
        matches!(self, Self::InFlight | Self::Stream)
    }
}

/// What a round gave, row by row.
#[derive(Default)]
pub struct Figures(pub Vec<(Row, f64)>);

impl Figures {
    pub fn add(&mut self, row: Row, value: f64) {
        self.0.push((row, value));
    }

    /// In milliseconds, as nearly every row of times.
    pub fn time(&mut self, row: Row, time: Duration) {
        self.add(row, time.as_secs_f64() * 1e3);
    }
}
