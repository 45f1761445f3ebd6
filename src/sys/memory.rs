//! The process's own memory: mallopt(3), malloc_trim(3), madvise(2).

use std::ffi::CStr;
use std::ptr::addr_of;

unsafe extern "C" {
    /// Where the program's headers are mapped, and the end of its code: symbols of the linker (end(3)).
    static __executable_start: u8;
    static etext: u8;
}

/// What malloc finds in its environment when the program begins (glibc, "Tunables"): no caches for each thread. What lies in
/// the main thread's keeps pages from being given back, ever more of them, up to 900 KiB after a few thousand execs.
pub const NO_CACHES: &CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0";

pub const PAGE: usize = 4096;
/// Mapped at a time, in some ten microseconds: whoever wants memory meanwhile waits for as long.
const PIECE: usize = 64 * PAGE;

/// One heap for all threads. Short-lived worker threads would each leave an arena behind.
pub fn one_arena() {
    // SAFETY: takes integers only.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Maps the program before it is needed, instead of page by page when it is (Linux 5.14), for as long as `go_on` says.
pub fn map_program(go_on: impl Fn() -> bool) {
    let (start, len) = program();
    for at in (0..len).step_by(PIECE).take_while(|_| go_on()) {
        // Older kernels refuse, and the pages come one by one.
        // SAFETY: the pages are the program's own, and are only read.
        unsafe { libc::madvise(start.wrapping_byte_add(at), PIECE.min(len - at), libc::MADV_POPULATE_READ) };
    }
}

/// Gives back what an idle process can do without: free heap, and its hold on the pages of its program file. Those stay in
/// the page cache and are mapped again, without I/O, when they are used.
///
/// KERNEL: every fault maps all of a folio that is cached whole (since 6.18), or 64 KiB around it: what a few calls touch
/// brings in nearly all of the program.
pub fn give_back() {
    // SAFETY: the heap's lock is taken as by any other allocation.
    unsafe { libc::malloc_trim(0) };
    let (start, len) = program();
    // SAFETY: from its start to the end of its code the program is mapped from its file, read-only and never written:
    // what is dropped comes back the same.
    unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
}

/// The whole pages from the program's start to the end of its code, for madvise(2).
fn program() -> (*mut libc::c_void, usize) {
    let start = addr_of!(__executable_start) as usize & !(PAGE - 1);
    let end = addr_of!(etext) as usize & !(PAGE - 1);
    (start as *mut libc::c_void, end - start)
}
