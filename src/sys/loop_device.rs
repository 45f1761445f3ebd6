//! Loop devices, loop(4): a regular file as a block device.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Result;
use super::error::check;

/// From `linux/loop.h`.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;

pub const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device lets its file go when the last user (a mount, a descriptor) has gone.
pub const LO_FLAGS_AUTOCLEAR: u32 = 4;
pub const LO_FLAGS_DIRECT_IO: u32 = 16;

const NAME_SIZE: usize = 64;

/// `struct loop_config` with its `struct loop_info64` written out; what is not used is called by its size.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device_inode_rdevice_offset_sizelimit: [u64; 5],
    number_and_encryption: [u32; 3],
    flags: u32,
    file_name: [u8; NAME_SIZE],
    crypt_name_and_key: [u8; 96],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// The number of a loop device that is free now; `control` is /dev/loop-control. Somebody else may be quicker.
pub fn get_free(control: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    check("LOOP_CTL_GET_FREE", r.into()).map(|number| number as u32)
}

/// LOOP_CONFIGURE (Linux 5.8): puts `file` behind `device`; `name` is what losetup(8) shows. EBUSY: it has one.
pub fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32, name: &CStr) -> Result<()> {
    let mut config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        device_inode_rdevice_offset_sizelimit: [0; 5],
        number_and_encryption: [0; 3],
        flags,
        file_name: [0; NAME_SIZE],
        crypt_name_and_key: [0; 96],
        init: [0; 2],
        reserved: [0; 8],
    };
    for (to, from) in config.file_name[..NAME_SIZE - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    // SAFETY: config is a live loop_config.
    let r = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) };
    check("LOOP_CONFIGURE", r.into()).map(drop)
}
