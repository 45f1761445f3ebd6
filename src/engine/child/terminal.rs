//! Steps for descriptors 0, 1, 2: a terminal of the container's own devpts, or what the shim gives.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::Outcome;
use super::room::Room;
use crate::sys::{Error, Result, fs, mount, tty};

const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// `chown` leaves an id alone that is all ones (chown(2)).
const KEEP: u32 = u32::MAX;

/// Opens the multiplexer of the container's devpts, checks that it is one, and gets the slave from the master itself
/// (TIOCGPTPEER), never by name (CVE-2025-52565). The slave becomes 0, 1, 2.
pub fn open(room: &mut Room, bind: bool, uid: u32, size: Option<(u16, u16)>) -> Outcome {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let master = match room.root() {
        Ok(root) => fs::openat2(root, c"dev/pts/ptmx", flags, 0, IN_ROOT)?,
        Err(_) => fs::openat(fs::CWD, c"/dev/pts/ptmx", flags, 0)?,
    };
    tty::verify_master(master.as_fd())?;
    tty::unlock(master.as_fd())?;
    let slave = tty::peer(master.as_fd())?;
    tty::verify_slave(slave.as_fd())?;
    fs::fchownat(slave.as_fd(), c"", uid, KEEP, libc::AT_EMPTY_PATH)?;
    if let Some((width, height)) = size {
        tty::set_size(master.as_fd(), width, height)?;
    }
    if bind {
        bind_console(room, &slave)?;
    }
    room.terminal = Some(master);
    (0..3).try_for_each(|to| fs::dup2(slave.as_fd(), to))
}

fn bind_console(room: &Room, slave: &OwnedFd) -> Outcome {
    let dev = fs::openat2(room.root()?, c"dev", libc::O_PATH | libc::O_DIRECTORY, 0, IN_ROOT)?;
    let flags = libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_RDONLY;
    let made = fs::openat(dev.as_fd(), c"console", flags | libc::O_EXCL, 0o666);
    let console = match made {
        // A /dev of the host's may be read-only, and has one.
        Err(e) if matches!(e.errno, libc::EEXIST | libc::EROFS) => {
            fs::openat(dev.as_fd(), c"console", libc::O_PATH | libc::O_NOFOLLOW, 0)?
        }
        r => r?,
    };
    let copy = mount::open_tree(slave.as_fd(), c"", mount::OPEN_TREE_CLONE | mount::AT_EMPTY_PATH)?;
    mount::move_mount(copy.as_fd(), console.as_fd())
}

/// Descriptors 0, 1, 2 as the shim gives them. /dev/null is the one that the child sees at this moment.
pub fn stdio(fds: &[Option<Arc<OwnedFd>>; 3]) -> Outcome {
    let null = fds.iter().any(Option::is_none).then(null).transpose()?;
    (0..).zip(fds).try_for_each(|(to, fd)| {
        let fd = fd.as_deref().or(null.as_ref());
        fd.map_or(Ok(()), |fd| fs::dup2(fd.as_fd(), to))
    })
}

/// Descriptors that are the host's /dev/null become the container's own, whose owner and mode are nobody else's affair.
/// COMPAT: as under runc. One that is another device, or cannot be opened (`nodev`), is left to the spec's author.
pub fn own_null(room: &Room, of: [bool; 3]) -> Outcome {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let root = room.root()?;
    let Ok(null) = fs::openat2(root, c"dev/null", flags, 0, IN_ROOT | libc::RESOLVE_NO_SYMLINKS) else {
        return Ok(());
    };
    if fs::fstat(null.as_fd())?.st_rdev != libc::makedev(1, 3) {
        return Ok(());
    }
    (0..).zip(of).filter(|(_, is_null)| *is_null).try_for_each(|(to, _)| fs::dup2(null.as_fd(), to))
}

fn null() -> Result<OwnedFd> {
    let null = fs::openat(fs::CWD, c"/dev/null", libc::O_RDWR | libc::O_NOCTTY, 0)?;
    match fs::fstat(null.as_fd())?.st_rdev == libc::makedev(1, 3) {
        true => Ok(null),
        false => Err(Error::new("/dev/null is not character device 1:3", libc::ENODEV)),
    }
}
