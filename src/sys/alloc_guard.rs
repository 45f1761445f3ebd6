//! Debug builds: a child between clone3 and execve that allocates is ended on the spot, with a word on stderr.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// From here on this process may not allocate. Called in the child, whose memory is its own.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

struct Guard;

#[global_allocator]
static GUARD: Guard = Guard;

fn check() {
    if FORBIDDEN.load(Ordering::Relaxed) {
        let word = b"allocation between clone3 and execve\n";
        // SAFETY: word is readable for its length.
        unsafe { libc::write(2, word.as_ptr().cast(), word.len()) };
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(99) };
    }
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}
