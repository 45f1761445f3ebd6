//! The architectures of one kernel: its own, and those whose programs it also runs. `AUDIT_ARCH_*` of linux/audit.h.

use oci_spec::runtime::Arch as SpecArch;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("seccomp has no table of system calls for this architecture");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// What the kernel puts into `seccomp_data.arch`. x32 calls itself x86_64 and marks its numbers instead.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    pub fn number_mark(self) -> u32 {
        if self == Self::X32 { 0x4000_0000 } else { 0 }
    }

    /// COMPAT: libseccomp compares the low word alone where a register of the ABI has 32 bits.
    pub fn has_64_bit_arguments(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// The architectures to compile for on a kernel of architecture `self`: itself, then what the profile adds.
    ///
    /// What such a kernel can never report (MIPS on x86) is left out: the answer would be the same.
    pub fn family(self, listed: &[SpecArch]) -> Vec<Self> {
        let mut family = vec![self];
        for arch in listed {
            let also = match (self, arch) {
                (Self::X86_64, SpecArch::ScmpArchX86) => Self::X86,
                (Self::X86_64, SpecArch::ScmpArchX32) => Self::X32,
                (Self::Aarch64, SpecArch::ScmpArchArm) => Self::Arm,
                _ => continue,
            };
            if !family.contains(&also) {
                family.push(also);
            }
        }
        family
    }
}
