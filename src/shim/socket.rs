//! The shim's socket: where it lies, who owns it, and what to do with one that is there already (unix(7)).
//!
//! The path is a function of containerd's address, the namespace and the group, so that every `start` for one pod finds
//! the same shim.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::sys;

/// Where containerd keeps shim sockets unless it says otherwise.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// As many waiting connections as the host allows (`net.core.somaxconn`).
const BACKLOG: i32 = i32::MAX;

/// `sun_path` without its terminating zero.
const MAX_PATH: usize = 107;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "socket path {path}: {length} bytes, and a unix socket's path holds at most {MAX_PATH}: choose a shorter socket directory"
    )]
    TooLong { path: PathBuf, length: usize },
    #[error("{doing} {path}: {source}")]
    Call { doing: &'static str, path: PathBuf, source: io::Error },
}

/// A living shim waits for its caller's first word. Where a connection ends within so many milliseconds instead, there was
/// only the backlog of a shim that has been killed and not yet closed its descriptors.
const HANGS_UP: i32 = 300;
/// One that hangs up so often is alive, and does not talk to us.
const HANG_UPS: usize = 10;

/// How long connect(2) waits for room in a backlog. Every `start` of the node waits for the lock meanwhile, and a backlog
/// that is full (its shim is stopped, or has much to do) says already that somebody lives there: no time at all.
const GLANCE: Duration = Duration::from_millis(1);

/// What [`claim`] found.
#[derive(Debug)]
pub enum Claim {
    /// The socket is ours, bound and listening.
    Ours(OwnedFd),
    /// A running shim listens there.
    Live,
}

/// The socket that this shim has bound.
///
/// Its name is taken away once and no more: the next shim of the group may have bound it anew.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    released: AtomicBool,
}

impl Bound {
    pub fn new(path: PathBuf) -> Self {
        Self { path, released: AtomicBool::new(false) }
    }

    /// From here on a `start` does not find this shim; whoever is connected stays so.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            // Gone already is what is wanted.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// `<dir>/<sha256 of "grpc_address/namespace/group">`.
pub fn path(dir: &Path, grpc_address: &str, namespace: &str, group: &str) -> Result<PathBuf, SocketError> {
    let digest = Sha256::digest(format!("{grpc_address}/{namespace}/{group}"));
    let path = dir.join(digest.iter().map(|b| format!("{b:02x}")).collect::<String>());
    match path.as_os_str().len() {
        length if length > MAX_PATH => Err(SocketError::TooLong { path, length }),
        _ => Ok(path),
    }
}

/// The address a client dials.
pub fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Binds and listens at `path`, unless a living shim does already. A stale socket is replaced.
pub fn claim(path: &Path) -> Result<Claim, SocketError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let _turn = lock(dir)?;
    loop {
        match listen(path, BACKLOG) {
            Err(e) if e.is(libc::EADDRINUSE) => {}
            other => return other.map(Claim::Ours).map_err(|e| failed("bind", path)(e.into())),
        }
        match connect(path) {
            Err(e) if e.is(libc::ECONNREFUSED) => {
                std::fs::remove_file(path).map_err(failed("remove the stale socket", path))?;
            }
            // Its shim has released it this very moment: see `Bound`.
            Err(e) if e.is(libc::ENOENT) => {}
            Err(e) if !e.is(libc::EAGAIN) => return Err(failed("connect to", path)(e.into())),
            _ => return Ok(Claim::Live),
        }
    }
}

/// Removes the socket at `path` if nobody listens there any more.
pub fn remove_stale(path: &Path) -> Result<(), SocketError> {
    for _ in 0..HANG_UPS {
        if !path.exists() {
            break;
        }
        // The lock is let go before the wait: every `start` of the node needs it.
        let peer = {
            let _turn = lock(path.parent().unwrap_or(Path::new("/")))?;
            match connect(path) {
                Err(e) if e.is(libc::ECONNREFUSED) => {
                    return std::fs::remove_file(path).map_err(failed("remove the stale socket", path));
                }
                answer => answer,
            }
        };
        match peer {
            // Somebody's who is dying at this very moment.
            Ok(peer) if sys::process::poll_in(peer.as_fd(), HANGS_UP).unwrap_or(false) => {}
            // A living shim's of the same group, or gone already.
            _ => break,
        }
    }
    Ok(())
}

/// One at a time looks at the sockets of a directory.
///
/// ORDER: taken before bind(2) and held until after listen(2): in between, a new socket refuses connections just as a
/// stale one does, and another `start` would remove it.
fn lock(dir: &Path) -> Result<File, SocketError> {
    let open = || File::open(dir);
    let file = open().or_else(|e| {
        if e.kind() != ErrorKind::NotFound {
            return Err(e);
        }
        DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        open()
    });
    let file = file.map_err(failed("open the socket directory", dir))?;
    file.lock().map_err(failed("lock the socket directory", dir))?;
    Ok(file)
}

/// connect(2) to what may be a shim; `EAGAIN` if its backlog is full.
fn connect(path: &Path) -> sys::Result<OwnedFd> {
    sys::socket::connect_unix(path.as_os_str().as_encoded_bytes(), GLANCE)
}

/// bind(2) and listen(2), for the owner's eyes only.
fn listen(path: &Path, backlog: i32) -> sys::Result<OwnedFd> {
    sys::socket::listen_unix(path.as_os_str().as_encoded_bytes(), 0o600, backlog)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Call { doing, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_path_is_the_hash_of_address_namespace_and_group() {
        // printf %s /run/containerd/containerd.sock/default/c1 | sha256sum
        let path = path(Path::new("/s"), "/run/containerd/containerd.sock", "default", "c1").unwrap();
        assert_eq!(path, Path::new("/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"));
        assert_eq!(address(&path), format!("unix://{}", path.display()));
    }

    #[test]
    fn a_path_too_long_for_the_kernel_is_refused() {
        let dir = PathBuf::from(format!("/{}", "d".repeat(42)));
        assert!(path(&dir, "a", "b", "c").is_err());
        assert!(path(Path::new(&dir.to_string_lossy()[..42]), "a", "b", "c").is_ok());
    }

    #[test]
    fn a_claimed_socket_is_private_and_its_directory_not_listable() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("s");
        let path = dir.join("x");
        let claim = claim(&path).unwrap();
        assert!(matches!(claim, Claim::Ours(_)));
        let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&path)), (0o711, 0o600));
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        let first = claim(&path).unwrap();
        assert!(matches!(claim(&path).unwrap(), Claim::Live));
        drop(first);
        assert!(path.exists());
        assert!(matches!(claim(&path).unwrap(), Claim::Ours(_)));
    }

    #[test]
    fn a_shim_that_accepts_nobody_and_has_a_full_backlog_lives_and_keeps_nobody_waiting() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        let _listener = listen(&path, 1).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).collect();
        assert!(connect(&path).unwrap_err().is(libc::EAGAIN), "after {} connections", waiting.len());
        // A connect(2) that waits for room would wait for ever: nobody accepts.
        assert!(matches!(claim(&path).unwrap(), Claim::Live));
        remove_stale(&path).unwrap();
        assert!(path.exists(), "this is a living shim's");
    }

    #[test]
    fn a_released_socket_can_be_claimed_while_its_shim_still_listens_and_is_not_released_twice() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        let _listener = claim(&path).unwrap();
        let bound = Bound::new(path.clone());
        bound.release();
        assert!(matches!(claim(&path).unwrap(), Claim::Ours(_)));
        bound.release();
        assert!(path.exists(), "this is the next shim's");
    }

    #[test]
    fn a_socket_whose_shim_is_dying_is_removed_and_a_living_ones_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        let listener = listen(&path, 1).unwrap();
        remove_stale(&path).unwrap();
        assert!(path.exists());
        let dying = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(listener);
        });
        remove_stale(&path).unwrap();
        dying.join().unwrap();
        assert!(!path.exists());
    }

    /// Without the limit this never ends.
    #[test]
    fn one_who_turns_everybody_away_is_given_up_and_keeps_its_socket() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let turns_away =
            std::thread::spawn(move || while listener.accept().unwrap().0.peer_addr().is_ok() {});
        remove_stale(&path).unwrap();
        assert!(path.exists());
        assert!(!turns_away.is_finished());
    }

    #[test]
    fn of_many_that_claim_a_stale_socket_one_wins() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x");
        drop(claim(&path).unwrap());
        let claims: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(|| claim(&path).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|c| matches!(c, Claim::Ours(_))).count(), 1);
    }
}
