//! The program's first instructions, before libc's: `start` begins anew here, from a read-only view of its own file, and libc
//! is set up but once. Where this cannot be, `shim::view` does it later, and says why if it cannot either.
//!
//! KERNEL: in a virtual machine each CPUID is an exit to the host. glibc asks some forty of them whenever a program begins.
//!
//! As yet there is no thread-local storage (hence no errno, and no libc), and no memcpy (libc chooses one later): memory is copied word by
//! word. Nothing is relocated either: only a program at a fixed address begins here.

use std::arch::{asm, global_asm};
use std::ffi::CStr;
use std::mem::MaybeUninit;

use super::memory::NO_CACHES;

/// The action: the last argument, see `shim::args`.
const START: &[u8] = b"start\0";
/// As many variables as the new environment has room for. Of more, `shim::view` takes care.
const ROOM: usize = 254;

// The linker is told that this is the entry point (`proto/build.rs`). At an entry point the stack begins with argc, and rdx is what
// the dynamic linker wants to be called at the end (System V ABI, AMD64, "Process Initialization"): both are libc's when
// `first` returns.
global_asm!(
    ".globl myshim_entry",
    ".type myshim_entry, @function",
    "myshim_entry:",
    "xor ebp, ebp",
    "mov rbx, rdx",
    "mov r12, rsp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {first}",
    "mov rsp, r12",
    "mov rdx, rbx",
    "jmp _start",
    ".size myshim_entry, . - myshim_entry",
    first = sym first,
);

/// Returns where the program is to begin as always: it is not `start`, has begun anew already, or cannot.
unsafe extern "C" fn first(stack: *const usize) {
    // SAFETY: the stack begins with argc; then come the arguments and a null, and the variables and a null.
    let argc = unsafe { stack.read_volatile() };
    let argv = stack.wrapping_add(1);
    let envp = argv.wrapping_add(argc).wrapping_add(1);
    if argc < 2 {
        return;
    }
    // SAFETY: the last argument is there.
    let last = unsafe { argv.wrapping_add(argc - 1).read_volatile() };
    // SAFETY: it is a string that ends with a null byte.
    let starts = unsafe { begins(last as *const u8, START) };
    // SAFETY: the variables end with a null, and are such strings.
    let malloc_is_told = unsafe { has(envp, b"GLIBC_TUNABLES=") };
    if starts && !malloc_is_told {
        // SAFETY: as above.
        unsafe { begin_anew(argv, envp) };
    }
}

/// execveat(2) of a detached mount of the program's file, read-only.
unsafe fn begin_anew(argv: *const usize, envp: *const usize) {
    let mut room = MaybeUninit::<[usize; ROOM + 2]>::uninit();
    let environment: *mut usize = room.as_mut_ptr().cast();
    // SAFETY: envp ends with a null.
    if !unsafe { extended(environment, envp) } {
        return;
    }
    let path = |text: &'static CStr| text.as_ptr() as usize;
    let itself = libc::AT_EMPTY_PATH as usize;
    let open = (libc::O_PATH | libc::O_CLOEXEC) as usize;
    // SAFETY: opens a file by a path that is there.
    let exe =
        unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as usize, path(c"/proc/self/exe"), open, 0, 0]) };
    if failed(exe) {
        return;
    }
    let copy = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize | itself;
    // SAFETY: as above.
    let view = unsafe { call(libc::SYS_open_tree, [exe, path(c""), copy, 0, 0]) };
    let attributes = [libc::MOUNT_ATTR_RDONLY as usize, 0, 0, 0];
    let (set, size) = ((&raw const attributes) as usize, size_of_val(&attributes));
    // SAFETY: the attributes are live and of that size: a `mount_attr` is four words.
    if !failed(view) && unsafe { call(libc::SYS_mount_setattr, [view, path(c""), itself, set, size]) } == 0 {
        let (argv, envp) = (argv as usize, environment as usize);
        // SAFETY: both end with a null, and point to strings that end with a null byte.
        unsafe { call(libc::SYS_execveat, [view, path(c""), argv, envp, itself]) };
    }
    // It goes on as it is. What is no descriptor is not closed.
    // SAFETY: nobody else has it.
    unsafe { call(libc::SYS_close, [view, 0, 0, 0, 0]) };
    // SAFETY: nobody else has it.
    unsafe { call(libc::SYS_close, [exe, 0, 0, 0, 0]) };
}

fn failed(answer: usize) -> bool {
    (answer as isize) < 0
}

/// Does any of the strings begin so?
unsafe fn has(mut strings: *const usize, with: &'static [u8]) -> bool {
    loop {
        // SAFETY: there is one more, or the null.
        match unsafe { strings.read_volatile() } {
            0 => return false,
            // SAFETY: it is a string that ends with a null byte.
            text if unsafe { begins(text as *const u8, with) } => return true,
            _ => strings = strings.wrapping_add(1),
        }
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

/// Writes the variables of `envp`, one more, and a null; false if there is no room for them.
unsafe fn extended(to: *mut usize, envp: *const usize) -> bool {
    let mut at = 0;
    loop {
        // SAFETY: the null is yet to come.
        let variable = unsafe { envp.wrapping_add(at).read_volatile() };
        if at > ROOM {
            return false;
        }
        let last = variable == 0;
        // SAFETY: of ROOM + 2 words, at most number ROOM.
        unsafe {
            to.wrapping_add(at).write_volatile(if last { NO_CACHES.as_ptr() as usize } else { variable })
        };
        at = at.wrapping_add(1);
        if last {
            // SAFETY: at most number ROOM + 1.
            unsafe { to.wrapping_add(at).write_volatile(0) };
            return true;
        }
    }
}

/// syscall(2) without errno: what the kernel answers.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> usize {
    let [a, b, c, d, e] = arguments;
    let answer;
    // SAFETY: the kernel changes no register but these; the arguments are the caller's to answer for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_extended_as_long_as_there_is_room() {
        for variables in [0, 1, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM] {
            let mut envp = vec![7; variables];
            envp.push(0);
            let mut to = [usize::MAX; ROOM + 3];
            // SAFETY: envp ends with a null, and there is a word more than is needed.
            let done = unsafe { extended(to.as_mut_ptr(), envp.as_ptr()) };
            assert_eq!(done, variables <= ROOM);
            assert_eq!(to[ROOM + 2], usize::MAX);
            if done {
                envp.splice(variables.., [NO_CACHES.as_ptr() as usize, 0]);
                assert_eq!(to[..variables + 2], envp);
            }
        }
    }

    #[test]
    fn words_are_told_apart() {
        // SAFETY: C strings end with a null byte.
        let is = |text: &CStr, word: &'static [u8]| unsafe { begins(text.as_ptr().cast(), word) };
        assert!(is(c"start", START) && is(c"GLIBC_TUNABLES=", b"GLIBC_TUNABLES="));
        assert!(!is(c"", START) && !is(c"starts", START) && !is(c"star", START) && !is(c"restart", START));
    }
}
