//! Where our shim and containerd-shim-runc-v2 answer differently on purpose, each with its reason.
//! A test that meets such a place asks here; everything else must be the same for both.

use super::subject;

pub const DIFFERENCES: &[(&str, &str)] = &[];

/// True when the peer is under test and the named behaviour is one it is known not to have.
pub fn runc_differs(name: &str) -> bool {
    assert!(DIFFERENCES.iter().any(|(known, _)| *known == name), "{name} is not in the table of differences");
    !subject::ours()
}
