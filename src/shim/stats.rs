//! What a container uses, in the message that containerd, CRI and cAdvisor tell apart by its bare type name.

use protobuf::Message;

use super::proto::Any;
use super::{stats_v1, stats_v2};
use crate::engine::cgroup::Stats;

/// # Errors
/// When a message cannot be encoded.
pub fn any(stats: Stats) -> protobuf::Result<Any> {
    let (name, value) = match stats {
        Stats::V1(stats) => ("io.containerd.cgroups.v1.Metrics", stats_v1::metrics(*stats).write_to_bytes()?),
        Stats::V2(stats) => ("io.containerd.cgroups.v2.Metrics", stats_v2::metrics(*stats).write_to_bytes()?),
    };
    Ok(Any { type_url: name.into(), value, ..Any::default() })
}
