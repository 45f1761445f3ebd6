//! containerd-shim-myshim: a containerd shim that is its own OCI runtime.
//!
//! The layers, and who may use whom (`tests/layers.rs` fails on any other import):
//!
//! ```text
//! main -> shim -+-> engine -+-> oci    values only, imports nobody
//!               |           |
//!               +-> stdio --+-> sys    kernel calls, all unsafe, imports nobody
//! ```

pub mod engine;
#[cfg(any(test, feature = "fuzzing"))]
#[path = "../tests/fuzz/targets.rs"]
pub mod fuzz;
pub mod oci;
pub mod shim;
pub mod stdio;
pub mod sys;
