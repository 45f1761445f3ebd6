//! The messages spoken with containerd: ours from `proto/`, everything else from `containerd-shim-protos`.

include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));

pub use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
pub use containerd_shim_protos::cgroups::metrics as cgroups_v1;
pub use containerd_shim_protos::cgroups_v2::metrics as cgroups_v2;
pub use containerd_shim_protos::events::task as events;
pub use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
pub use protobuf::well_known_types::any::Any;
pub use runc_options::{CheckpointOptions, Options as RuncOptions, ProcessDetails};
pub use runtime_options::Options as RuntimeOptions;

/// The message name in an `Any`'s type URL: containerd writes it bare, other writers behind a host and a slash.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
