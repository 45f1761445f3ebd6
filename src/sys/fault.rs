//! Named points at which a test build (cargo feature `faults`) kills the process, fails or pauses; in any other build
//! a point is nothing at all.
//!
//! The names stand in one list, so that a test can walk them all; a `fault!` with a name that is not listed does not
//! compile. What is to happen comes from the environment:
//!
//! ```text
//! MYSHIM_FAULT=kill:NAME           SIGKILL to itself when NAME is reached
//! MYSHIM_FAULT=fail:NAME           NAME returns an error, where something at that place can fail
//! MYSHIM_FAULT=pause:NAME          NAME waits for the file $MYSHIM_FAULT_FOLDER/go
//! MYSHIM_FAULT_STEP=C:S:E          step S of the shim's C-th clone fails with errno E (both count from 0)
//! MYSHIM_FAULT_CALL=C:N:E          system call number N answers errno E in the shim's C-th clone (seccomp(2))
//! MYSHIM_FAULT_ONLY=C:N:N:…        every other system call kills the shim's C-th clone
//! ```
//!
//! A point that does any of these writes its name to `$MYSHIM_FAULT_FOLDER/reached` first.

use std::fmt;

/// Every point, in the order of a container's life.
pub const POINTS: &[&str] = &[
    "start: request read",
    "start: address written",
    "start: socket bound",
    "start: shim forked",
    "start: shim detached",
    "start: replied",
    "state: written but not in place",
    "create: state noted",
    "create: rootfs mounted",
    "create: some cgroups made",
    "create: cgroups made",
    "create: limits set",
    "create: init cloned",
    "create: pid noted",
    "create: hooks ran",
    "create: init ready",
    "create: done",
    "create: told",
    "Start: hooks ran",
    "Start: gate open",
    "Start: told",
    "Exec: added",
    "Exec: streams open",
    "Exec: cloned",
    "Exec: runs",
    "Exec: told",
    "Pause: frozen",
    "Resume: thawed",
    "Kill: before the signal",
    "Kill: after the signal",
    "exit: seen",
    "exit: noted",
    "exit: reaped",
    "exit: told",
    "Delete: begun",
    "Delete: processes dead",
    "Delete: cgroups gone",
    "Delete: unmounted",
    "Delete: hooks ran",
    "Delete: buried",
    "Delete: told",
    "Delete: exec gone",
    "Shutdown: begun",
    "Shutdown: events flushed",
    "Shutdown: socket gone",
];

/// The place of `name` in [`POINTS`]; a name that is not there stops the compiler.
pub const fn index(name: &str) -> usize {
    let mut at = 0;
    while at < POINTS.len() {
        if same(POINTS[at].as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("this fault point is not in the list")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Reaches the point of this name: `Result<(), Injected>`.
macro_rules! fault {
    ($name:literal) => {{
        const AT: usize = $crate::sys::fault::index($name);
        $crate::sys::fault::reach(AT)
    }};
}
pub(crate) use fault;

pub use build::{Injected, call, next_clone, reach, step};

impl std::error::Error for Injected {}

#[cfg(not(feature = "faults"))]
mod build {
    use super::fmt;

    /// An injected failure: in this build there is none.
    #[derive(Clone, Copy, Debug)]
    pub enum Injected {}

    impl fmt::Display for Injected {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            match *self {}
        }
    }

    #[inline(always)]
    pub fn reach(_: usize) -> Result<(), Injected> {
        Ok(())
    }

    #[inline(always)]
    pub fn next_clone() {}

    #[inline(always)]
    pub fn step(_: usize) -> super::super::Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn call() {}
}

#[cfg(feature = "faults")]
mod build {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{Error, cred, process};
    use super::{POINTS, fmt};

    /// An injected failure, by the index of its point.
    #[derive(Clone, Copy, Debug)]
    pub struct Injected(usize);

    impl fmt::Display for Injected {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "injected fault at {:?}", POINTS[self.0])
        }
    }

    struct Armed {
        action: Option<(String, usize)>,
        folder: String,
        step: Option<[usize; 3]>,
        /// Clone, and the filter that it loads.
        call: Option<(usize, Vec<libc::sock_filter>)>,
    }

    static CLONES: AtomicUsize = AtomicUsize::new(0);

    fn armed() -> &'static Armed {
        static ARMED: OnceLock<Armed> = OnceLock::new();
        ARMED.get_or_init(|| {
            let text = |name: &str| std::env::var(name).unwrap_or_default();
            let numbers = |name: &str| -> Option<Vec<usize>> {
                text(name).split(':').map(str::parse).collect::<Result<_, _>>().ok()
            };
            let fault = text("MYSHIM_FAULT");
            let action = fault.split_once(':').and_then(|(action, name)| {
                Some((action.to_owned(), POINTS.iter().position(|known| *known == name)?))
            });
            let refused =
                numbers("MYSHIM_FAULT_CALL").and_then(|numbers| <[usize; 3]>::try_from(numbers).ok());
            let refused = refused.map(|[clone, nr, errno]| {
                (clone, filter(&[nr], libc::SECCOMP_RET_ERRNO | errno as u32, libc::SECCOMP_RET_ALLOW))
            });
            let only = numbers("MYSHIM_FAULT_ONLY").filter(|numbers| !numbers.is_empty());
            let only = only.map(|all| {
                (all[0], filter(&all[1..], libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS))
            });
            let step = numbers("MYSHIM_FAULT_STEP").and_then(|numbers| numbers.try_into().ok());
            Armed { action, folder: text("MYSHIM_FAULT_FOLDER"), step, call: refused.or(only) }
        })
    }

    /// What becomes of the calls `named`, and of all others.
    fn filter(named: &[usize], theirs: u32, others: u32) -> Vec<libc::sock_filter> {
        let line = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
        for nr in named {
            program.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *nr as u32));
            program.push(line(libc::BPF_RET | libc::BPF_K, 0, theirs));
        }
        program.push(line(libc::BPF_RET | libc::BPF_K, 0, others));
        program
    }

    pub fn reach(at: usize) -> Result<(), Injected> {
        let armed = armed();
        let Some((action, _)) = armed.action.as_ref().filter(|(_, point)| *point == at) else {
            return Ok(());
        };
        let folder = std::path::Path::new(&armed.folder);
        let _ = std::fs::write(folder.join("reached"), POINTS[at]);
        match action.as_str() {
            "kill" => {
                // The signal is on its way; nothing of the shim runs on.
                let _ = process::kill(std::process::id() as i32, libc::SIGKILL);
                loop {
                    std::thread::park();
                }
            }
            "fail" => Err(Injected(at)),
            _ => {
                while !folder.join("go").exists() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Ok(())
            }
        }
    }

    /// Called before each clone: counts it, and reads the environment while that may still allocate.
    pub fn next_clone() {
        armed();
        CLONES.fetch_add(1, Ordering::SeqCst);
    }

    fn is_this_clone(number: usize) -> bool {
        CLONES.load(Ordering::SeqCst) == number + 1
    }

    /// Child: does step `index` fail?
    pub fn step(index: usize) -> super::super::Result<()> {
        match armed().step {
            Some([clone, step, errno]) if step == index && is_this_clone(clone) => {
                Err(Error::new("injected fault", errno as i32))
            }
            _ => Ok(()),
        }
    }

    /// Child: loads the filter that makes a system call fail.
    pub fn call() {
        if let Some((clone, program)) = &armed().call
            && is_this_clone(*clone)
        {
            // Where the filter itself cannot be loaded the test sees no failure, and says so.
            let _ = cred::seccomp_filter(program, 0);
        }
    }
}
