//! A read-only view of the program's file, for this process and all its children (CVE-2019-5736, see `shim::view`, which does it later,
//! by a second execve, where this cannot be).
//!
//! ```text
//! open_tree(OPEN_TREE_CLONE), mount_setattr(MOUNT_ATTR_RDONLY)   a detached mount of the file
//! mmap(MAP_FIXED) of each segment                                the same pages at the same places, now by way of that mount
//! prctl(PR_SET_MM_MAP)                                           what /proc/PID/exe leads to
//! ```
//!
//! KERNEL: the prctl(2) takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and nothing mapped any more by the path that exe had; that a segment is mapped from
//! the same file by another mount is no hindrance (`replace_mm_exe_file`). PR_SET_MM_EXE_FILE would take CAP_SYS_RESOURCE.
//! Before Linux 5.15 it was execve's own mappings that kept anybody from writing to a program that runs (ETXTBSY).

use std::mem::MaybeUninit;

use libc::{Elf64_Ehdr, Elf64_Phdr};

use super::call;
use crate::sys::memory::PAGE;

const FOLDER: &[u8] = b"/proc/self/fd/";
/// Of a descriptor's number.
const DIGITS: usize = 10;
/// What process_mrelease(2) answers since it is there, which is since Linux 5.15.
const BAD_DESCRIPTOR: usize = (-libc::EBADF) as isize as usize;
/// prctl(2), linux/prctl.h.
const PR_SET_MM_MAP: usize = 14;

unsafe extern "C" {
    /// The linker's: where the program's file begins in memory, the end of its code, and of its data (end(3)).
    static __ehdr_start: Elf64_Ehdr;
    static etext: u8;
    static edata: u8;
}

/// `prctl_mm_map`: what the kernel is to know of the program's memory (proc_pid_stat(5)). Heap, stack and strings are as execve left
/// them.
#[repr(C)]
struct Space {
    start_code: usize,
    end_code: usize,
    start_data: usize,
    end_data: usize,
    start_brk: usize,
    brk: usize,
    start_stack: usize,
    arg_start: usize,
    arg_end: usize,
    env_start: usize,
    env_end: usize,
    auxv: usize,
    auxv_size: u32,
    exe_fd: u32,
}

/// What execve(2) left on the stack: argc is at `begin`, the first variable at `variables`, the null after them at `end`.
#[derive(Clone, Copy)]
pub struct Stack {
    pub begin: *const usize,
    pub variables: *const usize,
    pub end: *const usize,
}

/// Goes on from a detached mount of the program's file, read-only. Where that fails, it goes on as it is: `shim::view` looks.
pub unsafe fn enter(stack: Stack) {
    // SAFETY: there is no such descriptor.
    if unsafe { call(libc::SYS_process_mrelease, usize::MAX, 0, 0, 0, 0, 0) } != BAD_DESCRIPTOR {
        return;
    }
    let (itself, root) = (libc::AT_EMPTY_PATH as usize, libc::AT_FDCWD as usize);
    let empty = c"".as_ptr() as usize;
    let copy = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
    let exe = c"/proc/self/exe".as_ptr() as usize;
    // SAFETY: opens a file by a path that is there.
    let view = unsafe { call(libc::SYS_open_tree, root, exe, copy, 0, 0, 0) };
    if failed(view) {
        return;
    }
    let attributes = [libc::MOUNT_ATTR_RDONLY as usize, 0, 0, 0];
    let (set, size) = ((&raw const attributes) as usize, size_of_val(&attributes));
    // SAFETY: the attributes are live and of that size: a `mount_attr` is four words.
    if unsafe { call(libc::SYS_mount_setattr, view, empty, itself, set, size, 0) } == 0 {
        // SAFETY: a descriptor of the program's file.
        unsafe { map(view, stack) };
    }
    // SAFETY: nobody else has it.
    unsafe { close(view) };
}

/// Maps the program anew by way of `view`, and has /proc/PID/exe lead there. After a refusal the program goes on with
/// what it has. KERNEL: before Linux 6.12 one that runs out of memory between unmapping and mapping leaves it nothing to go on with.
unsafe fn map(view: usize, stack: Stack) {
    let mut path = MaybeUninit::<[u8; FOLDER.len() + DIGITS + 1]>::uninit();
    let path = path.as_mut_ptr().cast();
    // SAFETY: there is room for so long a path.
    unsafe { descriptor_path(path, view) };
    let (root, flags) = (libc::AT_FDCWD as usize, libc::O_CLOEXEC as usize);
    // SAFETY: the path ends with a null byte.
    let file = unsafe { call(libc::SYS_openat, root, path as usize, flags, 0, 0, 0) };
    if failed(file) {
        return;
    }
    // SAFETY: it is the program's file, and nothing has been written to the program's memory.
    if unsafe { map_segments(file) } {
        // SAFETY: the same file.
        unsafe { name(file, stack) };
    }
    // SAFETY: nobody else has it.
    unsafe { close(file) };
}

/// Where the strings of the arguments begin, those of the variables, and where these end: they lie one behind the other.
unsafe fn strings(stack: Stack) -> (usize, usize, usize) {
    // SAFETY: the first argument is there.
    let arguments = unsafe { stack.begin.wrapping_add(1).read_volatile() };
    // SAFETY: the first variable, or the null after them.
    let variable = unsafe { stack.variables.read_volatile() };
    // The last string is the last variable's, or before another null the last argument's.
    let last = stack.end.wrapping_sub(if variable == 0 { 2 } else { 1 });
    // SAFETY: there is at least one argument.
    let mut end = unsafe { last.read_volatile() };
    // SAFETY: it ends with a null byte.
    while unsafe { (end as *const u8).read_volatile() } != 0 {
        end = end.wrapping_add(1);
    }
    end = end.wrapping_add(1);
    (arguments, if variable == 0 { end } else { variable }, end)
}

/// Has /proc/PID/exe lead to `exe`.
unsafe fn name(exe: usize, stack: Stack) {
    // SAFETY: that is how it lies there.
    let (arg_start, env_start, env_end) = unsafe { strings(stack) };
    // SAFETY: asks where the heap ends, which is where it begins.
    let brk = unsafe { call(libc::SYS_brk, 0, 0, 0, 0, 0, 0) };
    let space = Space {
        start_code: (&raw const __ehdr_start) as usize,
        end_code: (&raw const etext) as usize,
        start_data: (&raw const etext) as usize,
        end_data: (&raw const edata) as usize,
        start_brk: brk,
        brk,
        start_stack: stack.begin as usize,
        arg_start,
        arg_end: env_start,
        env_start,
        env_end,
        auxv: 0,
        auxv_size: 0,
        exe_fd: exe as u32,
    };
    let (at, size) = ((&raw const space) as usize, size_of::<Space>());
    // SAFETY: changes no memory; `space` is live and of that size.
    unsafe { call(libc::SYS_prctl, libc::PR_SET_MM as usize, PR_SET_MM_MAP, at, size, 0, 0) };
}

/// As execve(2) does it (elf(5)): each by its own offset, whole pages, and in the last one zeroes for what is not in the file.
unsafe fn map_segments(file: usize) -> bool {
    // SAFETY: the linker put the program's header at the symbol, and the number of its segments into it.
    let count = unsafe { (&raw const __ehdr_start.e_phnum).read_volatile() };
    // SAFETY: as above.
    let offset = unsafe { (&raw const __ehdr_start.e_phoff).read_volatile() };
    let first = (&raw const __ehdr_start).wrapping_byte_add(offset as usize).cast::<Elf64_Phdr>();
    let mut at = 0;
    while at < count.into() {
        // SAFETY: there are so many.
        let segment = unsafe { &*first.wrapping_add(at) };
        match segment.p_type {
            // What a dynamic linker has written to is not what the file says. It comes before the segments.
            libc::PT_INTERP => return false,
            // SAFETY: as this function's caller says.
            libc::PT_LOAD if segment.p_filesz > 0 && !unsafe { map_segment(segment, file) } => return false,
            _ => at = at.wrapping_add(1),
        }
    }
    true
}

unsafe fn map_segment(segment: &Elf64_Phdr, file: usize) -> bool {
    let start = segment.p_vaddr as usize;
    let (into, end) = (start % PAGE, start.wrapping_add(segment.p_filesz as usize));
    let bit = |flag, protection| if segment.p_flags & flag == 0 { 0 } else { protection as usize };
    let protection = bit(libc::PF_R, libc::PROT_READ)
        | bit(libc::PF_W, libc::PROT_WRITE)
        | bit(libc::PF_X, libc::PROT_EXEC);
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED) as usize;
    let (from, begin) = ((segment.p_offset as usize).wrapping_sub(into), start.wrapping_sub(into));
    let size = end.wrapping_sub(begin);
    // SAFETY: replaces these pages by the same ones.
    if unsafe { call(libc::SYS_mmap, begin, size, protection, flags, file, from) } != begin {
        return false;
    }
    let zeroes = segment.p_memsz > segment.p_filesz && segment.p_flags & libc::PF_W != 0;
    let mut rest = end;
    while zeroes && rest % PAGE != 0 {
        // SAFETY: a page of a segment with data that begin as zeroes, which can be written.
        unsafe { (rest as *mut u8).write_volatile(0) };
        rest = rest.wrapping_add(1);
    }
    true
}

/// Writes the path of a descriptor in procfs, and a null byte.
unsafe fn descriptor_path(to: *mut u8, descriptor: usize) {
    let (mut at, mut size) = (0, 1);
    while at < FOLDER.len() {
        // SAFETY: one of FOLDER.
        let byte = unsafe { FOLDER.as_ptr().wrapping_add(at).read_volatile() };
        // SAFETY: there is room for all of it.
        unsafe { to.wrapping_add(at).write_volatile(byte) };
        at = at.wrapping_add(1);
    }
    while descriptor / size >= 10 {
        size = size.wrapping_mul(10);
    }
    while size > 0 {
        let digit = b'0'.wrapping_add((descriptor / size % 10) as u8);
        // SAFETY: as above.
        unsafe { to.wrapping_add(at).write_volatile(digit) };
        (at, size) = (at.wrapping_add(1), size / 10);
    }
    // SAFETY: as above.
    unsafe { to.wrapping_add(at).write_volatile(0) };
}

unsafe fn close(descriptor: usize) {
    // SAFETY: the caller's.
    unsafe { call(libc::SYS_close, descriptor, 0, 0, 0, 0, 0) };
}

fn failed(answer: usize) -> bool {
    (answer as isize) < 0
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn strings_lie_one_behind_the_other() {
        let text = b"myshim\0start\0A=B\0C=DE\0rest";
        let at = |offset: usize| text.as_ptr() as usize + offset;
        let look = |words: &[usize], variables: usize| {
            let begin = words.as_ptr();
            let (variables, end) = (begin.wrapping_add(variables), begin.wrapping_add(words.len() - 1));
            // SAFETY: as execve leaves it: argc, the arguments, a null, the variables, a null.
            unsafe { strings(Stack { begin, variables, end }) }
        };
        assert_eq!(look(&[2, at(0), at(7), 0, at(13), at(17), 0], 4), (at(0), at(13), at(22)));
        assert_eq!(look(&[2, at(0), at(7), 0, 0], 4), (at(0), at(13), at(13)));
    }

    #[test]
    fn a_descriptor_has_a_path() {
        for number in [0, 9, 10, 1023, 1_000_000, i32::MAX as usize] {
            let mut room = [1; FOLDER.len() + DIGITS + 1];
            // SAFETY: there is room.
            unsafe { descriptor_path(room.as_mut_ptr(), number) };
            let path = CStr::from_bytes_until_nul(&room).expect("it ends");
            assert_eq!(path.to_str(), Ok(format!("/proc/self/fd/{number}").as_str()));
        }
    }
}
