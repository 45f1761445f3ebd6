//! The `loop` option: a file of the host, mounted through a loop device that is gone with the mount.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use crate::engine::error::{Doing, Error};
use crate::engine::plan::c_string;
use crate::sys::fs;
use crate::sys::loop_device::{self as kernel, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY};

/// So often somebody else may take the device that was free a moment ago.
const TRIES: u32 = 100;

/// A loop device with a file behind it. KERNEL: whoever holds it open keeps it; a mount does, too. So dropping this
/// after mount(2) leaves the device to the mount, and without a mount (an error, a crash) frees it.
pub struct LoopDevice {
    pub path: CString,
    _device: OwnedFd,
}

impl LoopDevice {
    /// # Errors
    /// Names the file or the device, and what is missing.
    pub fn attach(file: &CStr, read_only: bool, direct: bool) -> Result<Self, Error> {
        let access = if read_only { libc::O_RDONLY } else { libc::O_RDWR };
        let name = file.to_string_lossy();
        let backing = fs::openat(fs::CWD, file, access, 0).doing(|| {
            format!("opening {name} for a loop device (a file that is only readable needs `ro`)")
        })?;
        let control = fs::openat(fs::CWD, c"/dev/loop-control", libc::O_RDWR, 0)
            .doing(|| "opening /dev/loop-control (is the kernel's loop module there?)".into())?;
        let flags = LO_FLAGS_AUTOCLEAR
            | if read_only { LO_FLAGS_READ_ONLY } else { 0 }
            | if direct { LO_FLAGS_DIRECT_IO } else { 0 };
        let doing = || format!("setting up a loop device for {name}");
        for _ in 0..TRIES {
            let number = kernel::get_free(control.as_fd()).doing(doing)?;
            let path = c_string(format!("/dev/loop{number}"))?;
            let device = fs::openat(fs::CWD, &path, access, 0)
                .doing(|| format!("opening the loop device {}", path.to_string_lossy()))?;
            match kernel::configure(device.as_fd(), backing.as_fd(), flags, file) {
                Err(e) if e.is(libc::EBUSY) => {}
                r => return r.doing(doing).map(|()| Self { path, _device: device }),
            }
        }
        Err(Error::doing(doing(), "others took every free device first; try again"))
    }
}
