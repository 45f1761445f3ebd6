//! Capability sets of the spec as the kernel's bit masks (capabilities(7)).

use oci_spec::runtime::LinuxCapabilities;

use crate::oci::capability::bits;
use crate::sys::cred::CapSets;

/// What a process is to hold. No `capabilities` in the spec = all five sets empty, as the spec says and runc does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub bounding: u64,
    pub sets: CapSets,
    pub ambient: u64,
}

impl Wanted {
    pub fn new(caps: Option<&LinuxCapabilities>) -> Self {
        let Some(caps) = caps else { return Self::default() };
        Self {
            bounding: bits(caps.bounding().as_ref()),
            sets: CapSets {
                effective: bits(caps.effective().as_ref()),
                permitted: bits(caps.permitted().as_ref()),
                inheritable: bits(caps.inheritable().as_ref()),
            },
            ambient: bits(caps.ambient().as_ref()),
        }
    }

    /// Names of what is asked for and not in `have`.
    pub fn beyond(&self, have: u64) -> Vec<u8> {
        let asked = self.bounding | self.sets.effective | self.sets.permitted;
        (0..64u8).filter(|cap| asked & !have & 1 << cap != 0).collect()
    }
}

pub const CAP_SYS_PTRACE: u64 = 1 << 19;
pub const CAP_SYS_ADMIN: u64 = 1 << 21;
