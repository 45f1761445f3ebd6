//! bpf(2) for cgroup device programs, and eventfd(2), through which cgroup v1 reports events.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::error::check;
use super::fs::own;
use super::{Error, Result};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    pub code: u8,
    /// The destination register in the lower four bits, the source in the upper.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

impl Insn {
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self { code, regs: regs(dst, src), off, imm }
    }
}

// KERNEL: the two registers are bit fields, which change places with the byte order.
const fn regs(dst: u8, src: u8) -> u8 {
    if cfg!(target_endian = "big") { dst << 4 | src } else { src << 4 | dst }
}

/// The most programs the kernel keeps on one cgroup (BPF_CGROUP_MAX_PROGS).
pub const MAX_ATTACHED: usize = 64;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// `union bpf_attr` of BPF_PROG_LOAD, up to what is used. Pointers are u64 on every architecture.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` of BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` of BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// `union bpf_attr` of BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
/// `attr` is the attribute struct of `command`, and every pointer in it is valid for what the command does.
unsafe fn bpf<T>(call: &'static str, command: libc::c_int, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: attr is live and its size is passed; the caller vouches for its contents.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    check(call, r)
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE. Descriptors from bpf(2) are close-on-exec.
pub fn load_cgroup_device(program: &[Insn]) -> Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Error::new("bpf(PROG_LOAD)", libc::E2BIG))?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: insns points to insn_cnt instructions and license to a C string; both outlive the call.
    unsafe { bpf("bpf(PROG_LOAD)", BPF_PROG_LOAD, &mut attr) }.map(own)
}

/// Attaches a program beside those that are there.
pub fn attach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = attach_attr(cgroup, program, BPF_F_ALLOW_MULTI);
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf("bpf(PROG_ATTACH)", BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// Puts a program in the place of an attached one.
pub fn replace_cgroup_device(cgroup: BorrowedFd<'_>, new: BorrowedFd<'_>, old: BorrowedFd<'_>) -> Result<()> {
    let mut attr = attach_attr(cgroup, new, BPF_F_ALLOW_MULTI | BPF_F_REPLACE);
    attr.replace_bpf_fd = old.as_raw_fd() as u32;
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf("bpf(PROG_ATTACH)", BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches a program.
pub fn detach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = attach_attr(cgroup, program, 0);
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf("bpf(PROG_DETACH)", BPF_PROG_DETACH, &mut attr) }.map(drop)
}

fn attach_attr(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> AttachAttr {
    AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: flags,
        replace_bpf_fd: 0,
    }
}

/// The ids of the device programs attached to this cgroup itself (not to its parents).
pub fn query_cgroup_device<'i>(
    cgroup: BorrowedFd<'_>,
    ids: &'i mut [u32; MAX_ATTACHED],
) -> Result<&'i [u32]> {
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_ATTACHED as u32,
        ..QueryAttr::default()
    };
    // SAFETY: prog_ids points to prog_cnt writable u32s.
    unsafe { bpf("bpf(PROG_QUERY)", BPF_PROG_QUERY, &mut attr) }?;
    Ok(&ids[..MAX_ATTACHED.min(attr.prog_cnt as usize)])
}

/// Opens a loaded program by its id.
pub fn prog_get_fd_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf("bpf(PROG_GET_FD_BY_ID)", BPF_PROG_GET_FD_BY_ID, &mut attr) }.map(own)
}

/// A counter that can be polled; reads of it do not block.
pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let r = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    check("eventfd", r.into()).map(own)
}
