//! What a container uses, in the message that containerd, CRI and cAdvisor tell apart by its bare type name.

use protobuf::Message;

use super::proto::Any;
use super::{stats_v1, stats_v2};
use crate::engine::cgroup::Stats;

/// Copies fields of equal names into a message of the caller's `wire`.
macro_rules! message {
    ($from:expr => $message:ident { $($field:ident),* $(,)? }) => {{
        let mut message = wire::$message::new();
        $(message.$field = $from.$field.clone();)*
        message
    }};
}
pub(super) use message;

/// # Errors
/// When a message cannot be encoded.
pub fn any(stats: Stats) -> protobuf::Result<Any> {
    let (name, value) = match stats {
        Stats::V1(stats) => ("io.containerd.cgroups.v1.Metrics", stats_v1::metrics(*stats).write_to_bytes()?),
        Stats::V2(stats) => ("io.containerd.cgroups.v2.Metrics", stats_v2::metrics(*stats).write_to_bytes()?),
    };
    Ok(Any { type_url: name.into(), value, ..Any::default() })
}
