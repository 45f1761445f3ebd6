//! Capabilities: names, numbers and sets of bits. capabilities(7); numbers of linux/capability.h up to Linux 7.0.

use oci_spec::runtime::{Capabilities, Capability};

/// In the kernel's order: the index is the number.
const TABLE: [(Capability, &str); 41] = [
    (Capability::Chown, "CAP_CHOWN"),
    (Capability::DacOverride, "CAP_DAC_OVERRIDE"),
    (Capability::DacReadSearch, "CAP_DAC_READ_SEARCH"),
    (Capability::Fowner, "CAP_FOWNER"),
    (Capability::Fsetid, "CAP_FSETID"),
    (Capability::Kill, "CAP_KILL"),
    (Capability::Setgid, "CAP_SETGID"),
    (Capability::Setuid, "CAP_SETUID"),
    (Capability::Setpcap, "CAP_SETPCAP"),
    (Capability::LinuxImmutable, "CAP_LINUX_IMMUTABLE"),
    (Capability::NetBindService, "CAP_NET_BIND_SERVICE"),
    (Capability::NetBroadcast, "CAP_NET_BROADCAST"),
    (Capability::NetAdmin, "CAP_NET_ADMIN"),
    (Capability::NetRaw, "CAP_NET_RAW"),
    (Capability::IpcLock, "CAP_IPC_LOCK"),
    (Capability::IpcOwner, "CAP_IPC_OWNER"),
    (Capability::SysModule, "CAP_SYS_MODULE"),
    (Capability::SysRawio, "CAP_SYS_RAWIO"),
    (Capability::SysChroot, "CAP_SYS_CHROOT"),
    (Capability::SysPtrace, "CAP_SYS_PTRACE"),
    (Capability::SysPacct, "CAP_SYS_PACCT"),
    (Capability::SysAdmin, "CAP_SYS_ADMIN"),
    (Capability::SysBoot, "CAP_SYS_BOOT"),
    (Capability::SysNice, "CAP_SYS_NICE"),
    (Capability::SysResource, "CAP_SYS_RESOURCE"),
    (Capability::SysTime, "CAP_SYS_TIME"),
    (Capability::SysTtyConfig, "CAP_SYS_TTY_CONFIG"),
    (Capability::Mknod, "CAP_MKNOD"),
    (Capability::Lease, "CAP_LEASE"),
    (Capability::AuditWrite, "CAP_AUDIT_WRITE"),
    (Capability::AuditControl, "CAP_AUDIT_CONTROL"),
    (Capability::Setfcap, "CAP_SETFCAP"),
    (Capability::MacOverride, "CAP_MAC_OVERRIDE"),
    (Capability::MacAdmin, "CAP_MAC_ADMIN"),
    (Capability::Syslog, "CAP_SYSLOG"),
    (Capability::WakeAlarm, "CAP_WAKE_ALARM"),
    (Capability::BlockSuspend, "CAP_BLOCK_SUSPEND"),
    (Capability::AuditRead, "CAP_AUDIT_READ"),
    (Capability::Perfmon, "CAP_PERFMON"),
    (Capability::Bpf, "CAP_BPF"),
    (Capability::CheckpointRestore, "CAP_CHECKPOINT_RESTORE"),
];

/// The kernel's number.
pub fn number(capability: Capability) -> u8 {
    let at = TABLE.iter().position(|(known, _)| *known == capability);
    at.expect("the table holds every capability of the type") as u8
}

/// The spec's name of a number, `None` for one newer than the table.
pub fn name(number: u8) -> Option<&'static str> {
    TABLE.get(usize::from(number)).map(|(_, name)| *name)
}

/// A set as the kernel's 64 bits.
pub fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability))
}

/// All names, in the kernel's order.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_types_own() {
        for (at, (capability, name)) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(number(*capability)), at);
            assert_eq!(self::name(at as u8), Some(*name));
            assert_eq!(serde_json::to_value(capability).expect("a name"), *name);
        }
        assert_eq!(name(TABLE.len() as u8), None);
    }

    #[test]
    fn well_known_numbers_are_the_kernels() {
        let named = [21, 27, 34, 39].map(name);
        assert_eq!(named, [Some("CAP_SYS_ADMIN"), Some("CAP_MKNOD"), Some("CAP_SYSLOG"), Some("CAP_BPF")]);
    }

    #[test]
    fn a_set_becomes_bits() {
        let set = Capabilities::from([Capability::Chown, Capability::CheckpointRestore]);
        assert_eq!(bits(Some(&set)), 1 | 1 << 40);
        assert_eq!(bits(None), 0);
    }
}
