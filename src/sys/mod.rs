//! The kernel, one call per function, under its man-page name.
//!
//! But for `fault`, which is empty outside test builds, and `entry`, where the program begins, everything here may be called between `clone3` and `execve`: no allocation, no lock, no log, no panic.
//! Arguments are borrowed (`&CStr`, `BorrowedFd`), results are owned or `Copy`, and an error names the call.
//! All `unsafe` of the project lives below this module.
#![allow(unsafe_code)]

#[cfg(debug_assertions)]
mod alloc_guard;
pub mod bpf;
pub mod clone;
pub mod cred;
pub mod daemon;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod entry;
mod error;
pub mod fault;
pub mod fs;
pub mod kernel;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod ns;
pub mod pipe;
pub mod process;
pub mod shared;
pub mod socket;
pub mod tree;
pub mod tty;

pub use error::{Error, Result};
