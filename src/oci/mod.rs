//! The OCI runtime spec as values: parsing, refusals, mount options, capabilities, features. Imports no other layer.

mod amend;
pub mod capability;
pub mod error;
pub mod features;
mod idmap_option;
pub mod mount_options;
pub mod spec;
mod unknown;
pub mod validate;

pub use error::{Error, Result};
