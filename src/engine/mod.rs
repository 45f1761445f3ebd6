//! spec -> plan -> child -> container: the OCI runtime. Synchronous; knows no tokio, ttrpc or containerd.

mod abort;
mod affinity;
pub mod cgroup;
pub(crate) mod child;
mod clear;
mod container;
mod create;
mod detached;
mod error;
mod exec;
mod failure;
mod for_exec;
mod gate;
mod hooks;
mod idmap;
mod inputs;
mod net_device;
pub mod netns;
pub mod plan;
mod resctrl;
pub mod rootfs;
mod rootless;
mod run;
pub mod seccomp;
pub mod state;
mod userns;

pub use abort::{Abort, Leftover};
pub use clear::{KILL_WITHIN, bury, clear};
pub use container::{Container, Process, poststop_of};
pub use create::{CreateRequest, Created, Lasting, create};
pub use error::Error;
pub use exec::{ExecRequest, Executed};
pub use gate::{Gate, InSetup};
pub use idmap::to_host;

#[cfg(test)]
mod claims_tests;
