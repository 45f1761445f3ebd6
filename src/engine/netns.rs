//! A network namespace made while something else is done: of all that clone3 makes for a container, nothing takes the
//! kernel as long (README, Where the time goes).
//!
//! It belongs to nobody but the descriptor it is held by: with the shim, or when no Create takes it, it is gone. Whoever makes it
//! or clones into it visits it, so a shim that could not come back (root of a user namespace, in the host's network) has clone3
//! make it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind};

use super::plan::{Fd, Plan};
use crate::sys::{self, ns};

/// The new network namespace of one container, made by whoever comes to it first.
pub struct InMaking {
    namespace: OnceLock<Option<Fd>>,
}

impl InMaking {
    /// For a container that gets a new one, owned by the shim's own user namespace.
    pub fn new(linux: &Linux) -> Option<Arc<Self>> {
        let mut all = linux.namespaces().iter().flatten();
        let is_new = all.any(|ns| {
            ns.typ() == Kind::Network && ns.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        });
        let in_userns = linux.namespaces().iter().flatten().any(|ns| ns.typ() == Kind::User);
        (is_new && !in_userns).then(|| Arc::new(Self { namespace: OnceLock::new() }))
    }

    /// Makes it, or waits until it is made. Where that fails clone3 will say why.
    pub fn make(&self) -> Option<Fd> {
        self.namespace.get_or_init(|| made().ok().map(Arc::new)).clone()
    }

    #[cfg(test)]
    pub fn is_made(&self) -> bool {
        self.namespace.get().is_some()
    }

    /// Has the child of `plan` born in it, instead of in one that the clone makes.
    pub fn serve(&self, plan: &mut Plan) {
        plan.netns = self.make();
        if plan.netns.is_some() {
            plan.clone_flags &= !(libc::CLONE_NEWNET as u64);
        }
    }
}

fn made() -> sys::Result<OwnedFd> {
    let _visit = ns::Visit::new_network()?;
    ns::network()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::fs;

    fn of(namespaces: &str) -> Option<Arc<InMaking>> {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"namespaces": [{namespaces}]}}"#)).unwrap();
        InMaking::new(&linux)
    }

    fn inode(fd: &OwnedFd) -> u64 {
        fs::fstat(fd.as_fd()).unwrap().st_ino
    }

    #[test]
    fn only_for_a_new_one_of_the_shims_own_user_namespace() {
        assert!(of(r#"{"type": "mount"}, {"type": "network"}"#).is_some());
        assert!(of(r#"{"type": "network", "path": ""}"#).is_some());
        assert!(of(r#"{"type": "mount"}"#).is_none());
        assert!(of(r#"{"type": "network", "path": "/proc/1/ns/net"}"#).is_none());
        assert!(of(r#"{"type": "network"}, {"type": "user"}"#).is_none());
        assert!(of(r#"{"type": "network"}, {"type": "user", "path": "/proc/1/ns/user"}"#).is_none());
    }

    #[test]
    fn one_is_made_and_whoever_made_it_is_where_it_was() {
        let before = inode(&ns::network().unwrap());
        let making = of(r#"{"type": "network"}"#).unwrap();
        let Some(made) = making.make() else { return eprintln!("no right to make namespaces here") };
        assert_ne!(inode(&made), before);
        assert_eq!(inode(&ns::network().unwrap()), before);
        assert_eq!(inode(&making.make().unwrap()), inode(&made), "a second one");
        let mut plan =
            Plan { clone_flags: (libc::CLONE_NEWNET | libc::CLONE_NEWNS) as u64, ..Plan::default() };
        making.serve(&mut plan);
        assert_eq!(plan.clone_flags, libc::CLONE_NEWNS as u64);
        assert!(plan.to_string().contains("born in a new namespace made before: network"), "{plan}");
        assert_eq!(plan.netns.map(|ns| inode(&ns)), Some(inode(&made)));
    }
}
