//! Whether the shim lacks the rights of the machine's root: an ordinary user, or root of a user namespace only, as under
//! RootlessKit (user_namespaces(7)).

use std::sync::OnceLock;

use crate::sys::cred::geteuid;

/// Whether this process is anything less than root of the initial user namespace.
pub fn is_rootless() -> bool {
    static ROOTLESS: OnceLock<bool> = OnceLock::new();
    *ROOTLESS.get_or_init(|| {
        geteuid() != 0 || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_all(&map))
    })
}

/// The initial namespace maps every id to itself.
fn maps_all(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_initial_namespace_maps_every_id_to_itself() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n         1     100000      65536\n"));
    }
}
