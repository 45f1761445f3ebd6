//! User namespaces that exist for their id maps only: mount_setattr(2) takes an id-mapping as a namespace's descriptor.
//!
//! A helper process is cloned into a new namespace, the shim writes its maps, opens the namespace and kills the helper;
//! the descriptor keeps the namespace. The helper waits on a socket, so that it ends with the shim, too.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use oci_spec::runtime::LinuxIdMapping;

use super::error::{Doing, Error};
use super::idmap;
use super::plan::{Fd, c_string};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::{fs, process, socket};

/// An id-mapping: what a file system's ids are (`containerID`) and what they become (`hostID`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub uids: Vec<LinuxIdMapping>,
    pub gids: Vec<LinuxIdMapping>,
}

/// The namespaces made so far: equal mappings share one.
#[derive(Default)]
pub struct Mappings(Vec<(Mapping, Fd)>);

impl Mappings {
    /// A user namespace with exactly this mapping. `owner` names the field in messages.
    ///
    /// # Errors
    /// When the kernel makes no more user namespaces, or refuses the map.
    pub fn namespace(&mut self, mapping: &Mapping, owner: &str) -> Result<Fd, Error> {
        if let Some((_, fd)) = self.0.iter().find(|(known, _)| known == mapping) {
            return Ok(fd.clone());
        }
        let fd = make(mapping, owner)?;
        self.0.push((mapping.clone(), fd.clone()));
        Ok(fd)
    }
}

fn make(mapping: &Mapping, owner: &str) -> Result<Fd, Error> {
    let doing = || format!("{owner}: making a user namespace for the id-mapping");
    let (ours, theirs) = socket::seqpacket_pair().doing(doing)?;
    let helper = clone3(libc::CLONE_NEWUSER as u64, None, || {
        fs::close(ours.as_raw_fd());
        // Nothing is ever sent: this returns when the shim is gone.
        let _ = socket::recv(theirs.as_fd(), &mut [0; 1]);
        process::exit(0)
    });
    let helper = Helper(helper.map_err(|e| match e.errno {
        libc::ENOSPC => Error::doing(doing(), format!("{e} (raise user.max_user_namespaces)")),
        _ => Error::doing(doing(), e),
    })?);
    idmap::write(helper.0.pid, &mapping.uids, &mapping.gids, owner)?;
    // The helper is not reaped yet: nobody else can have its pid.
    let path = c_string(format!("/proc/{}/ns/user", helper.0.pid))?;
    fs::openat(fs::CWD, &path, libc::O_RDONLY, 0).map(Arc::new).doing(doing)
}

/// Killed and reaped when dropped, whatever happened.
struct Helper(Cloned);

impl Drop for Helper {
    fn drop(&mut self) {
        // ESRCH and ECHILD: it is gone, which is what is wanted.
        let _ = process::pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::waitid(self.0.pidfd.as_fd(), libc::WEXITED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root() -> bool {
        let is =
            std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        if !is {
            eprintln!("SKIP: mapping other users' ids needs root");
        }
        is
    }

    fn mapping(host: u32) -> Mapping {
        let range = format!(r#"[{{"containerID":0,"hostID":{host},"size":10}}]"#);
        let ids: Vec<LinuxIdMapping> = serde_json::from_str(&range).unwrap();
        Mapping { uids: ids.clone(), gids: ids }
    }

    #[test]
    fn equal_mappings_share_a_namespace_and_no_helper_stays() {
        if !is_root() {
            return;
        }
        let mut mappings = Mappings::default();
        let one = mappings.namespace(&mapping(100_000), "mounts[0]").unwrap();
        let same = mappings.namespace(&mapping(100_000), "mounts[1]").unwrap();
        let other = mappings.namespace(&mapping(200_000), "mounts[2]").unwrap();
        let inode = |fd: &Fd| fs::fstat(fd.as_fd()).unwrap().st_ino;
        assert_eq!(inode(&one), inode(&same));
        assert_ne!(inode(&one), inode(&other));
    }

    #[test]
    fn a_map_that_the_kernel_refuses_is_named_with_its_field() {
        if !is_root() {
            return;
        }
        let mut twice = mapping(100_000);
        twice.uids.push(twice.uids[0]);
        let error = Mappings::default().namespace(&twice, "mounts[3]").unwrap_err().to_string();
        assert!(error.contains("mounts[3].uidMappings"), "{error}");
    }
}
