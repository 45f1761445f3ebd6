//! The program's first instructions, before libc's: `start` gets a read-only view of its own file here (`view`), and malloc is told
//! what it is to do without.
//!
//! As yet there is no thread-local storage (hence no errno, and no libc), and no memcpy (libc chooses one later): memory is copied word by
//! word, and what is larger than a few words stays where it is. Nothing is relocated either: only a program at a fixed address begins here.

use std::arch::{asm, global_asm};

use self::view::Stack;
use super::memory::NO_CACHES;

mod view;

/// The action: the last argument, see `shim::args`.
const START: &[u8] = b"start\0";
const MALLOC_IS_TOLD: &[u8] = b"GLIBC_TUNABLES=";
/// libc writes to its variables.
static mut VARIABLE: [u8; NO_CACHES.count_bytes() + 1] =
    *NO_CACHES.to_bytes_with_nul().first_chunk().expect("as long");

// The linker is told that this is the entry point (`proto/build.rs`). At an entry point the stack begins with argc, and rdx is what
// the dynamic linker wants to be called at the end (System V ABI, AMD64, "Process Initialization"): libc's gets both.
// A word is left free below the stack for `first`, which says where it begins.
global_asm!(
    ".globl myshim_entry",
    ".type myshim_entry, @function",
    "myshim_entry:",
    "xor ebp, ebp",
    "mov rbx, rdx",
    "mov rdi, rsp",
    "sub rsp, 8",
    "and rsp, -16",
    "call {first}",
    "mov rsp, rax",
    "mov rdx, rbx",
    "jmp _start",
    ".size myshim_entry, . - myshim_entry",
    first = sym first,
);

/// Returns where the stack begins: with `start` a variable is added, unless malloc is told something already.
unsafe extern "C" fn first(stack: *mut usize) -> *mut usize {
    // SAFETY: the stack begins with argc.
    let argc = unsafe { stack.read_volatile() };
    let argv = stack.wrapping_add(1);
    let envp = argv.wrapping_add(argc).wrapping_add(1);
    if argc < 2 {
        return stack;
    }
    // SAFETY: then come the arguments.
    let last = unsafe { argv.wrapping_add(argc - 1).read_volatile() };
    // SAFETY: it is a string that ends with a null byte.
    if !unsafe { begins(last as *const u8, START) } {
        return stack;
    }
    // SAFETY: after a null come the variables, and another.
    let (end, malloc_is_told) = unsafe { end(envp, MALLOC_IS_TOLD) };
    // SAFETY: nothing has run yet but this, and that is how it lies there.
    unsafe { view::enter(Stack { begin: stack, variables: envp, end }) };
    if malloc_is_told {
        return stack;
    }
    let variable = &raw const VARIABLE;
    // SAFETY: there is a free word below the stack, and a null at `end`.
    unsafe { inserted(stack, end, variable as usize) }
}

/// Where the null after the strings is, and whether any of them begins so.
unsafe fn end(mut strings: *mut usize, with: &'static [u8]) -> (*mut usize, bool) {
    let mut found = false;
    loop {
        // SAFETY: there is one more, or the null.
        let text = unsafe { strings.read_volatile() };
        if text == 0 {
            return (strings, found);
        }
        // SAFETY: it is a string that ends with a null byte.
        found |= unsafe { begins(text as *const u8, with) };
        strings = strings.wrapping_add(1);
    }
}

/// Does `text` begin with all of `with`, its null byte included if there is one?
unsafe fn begins(text: *const u8, with: &'static [u8]) -> bool {
    let mut at = 0;
    while at < with.len() {
        let wanted = with.as_ptr().wrapping_add(at);
        // SAFETY: all bytes before this one are as in `with`, so none of them was the last.
        let found = unsafe { text.wrapping_add(at).read_volatile() };
        // SAFETY: it is one of `with`.
        if found != unsafe { wanted.read_volatile() } {
            return false;
        }
        at = at.wrapping_add(1);
    }
    true
}

/// Puts a word before `end`: those from `stack` on move down by one. Returns where they begin now.
unsafe fn inserted(stack: *mut usize, end: *mut usize, word: usize) -> *mut usize {
    let begin = stack.wrapping_sub(1);
    let (mut at, last) = (begin, end.wrapping_sub(1));
    while at < last {
        let above = at.wrapping_add(1);
        // SAFETY: from `stack` on, below `end`.
        let moved = unsafe { above.read_volatile() };
        // SAFETY: from the free word on.
        unsafe { at.write_volatile(moved) };
        at = above;
    }
    // SAFETY: as above.
    unsafe { last.write_volatile(word) };
    begin
}

/// syscall(2) without errno: what the kernel answers.
unsafe fn call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> usize {
    let answer;
    // SAFETY: the kernel changes no register but these; the arguments are the caller's to answer for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_word_is_inserted_before_the_end_and_what_lies_above_stays() {
        let mut stack = [9, 2, 3, 4, 0, 5, 6, 0, 7];
        let end = stack.as_mut_ptr().wrapping_add(7);
        // SAFETY: a word is free below the stack, and `end` is in it.
        let begin = unsafe { inserted(stack.as_mut_ptr().wrapping_add(1), end, 8) };
        assert_eq!((begin, stack), (stack.as_mut_ptr(), [2, 3, 4, 0, 5, 6, 8, 0, 7]));
    }

    #[test]
    fn variables_are_found_and_end() {
        let look = |last: &'static CStr| {
            let mut strings = [c"A=B".as_ptr() as usize, last.as_ptr() as usize, 0];
            let begin = strings.as_mut_ptr();
            // SAFETY: C strings, and a null.
            let (end, found) = unsafe { end(begin, b"C=") };
            (end as usize - begin as usize, found)
        };
        assert_eq!(look(c"D=C="), (2 * size_of::<usize>(), false));
        assert_eq!(look(c"C="), (2 * size_of::<usize>(), true));
    }

    #[test]
    fn words_are_told_apart() {
        // SAFETY: C strings end with a null byte.
        let is = |text: &CStr, word: &'static [u8]| unsafe { begins(text.as_ptr().cast(), word) };
        assert!(is(c"start", START) && is(c"GLIBC_TUNABLES=", MALLOC_IS_TOLD));
        assert!(!is(c"", START) && !is(c"starts", START) && !is(c"star", START) && !is(c"restart", START));
    }
}
