//! Mounts that the kernel does not make by itself: those of type `fuse.…` and `fuse3.…`, for which a program of the host
//! is called, with a clean environment and for a limited time.
//!
//! COMPAT: which types, which programs and how they are called is what containerd's `core/mount` does for its snapshotters
//! (fuse-overlayfs, nydus, stargz). The program is looked for in the shim's PATH, which is containerd's.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Place, RootfsMount};
use crate::engine::abort::Abort;
use crate::engine::error::{Doing, Error};
use crate::engine::failure::failure;
use crate::engine::plan::{Fd, Plan, Program, Step, c_string};
use crate::engine::run::{self, End};
use crate::sys::cred::Strings;
use crate::sys::fs;

/// Prefix of the mount's type, and the program.
const HELPERS: [(&str, &str); 2] = [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")];
/// PATH where the shim has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much is kept of what a helper says, and what it leaves behind, a file server, can never say more.
const SAID: u64 = 1 << 16;

pub struct Helper<'a> {
    program: &'static str,
    /// What the program is told to mount: the type without its prefix.
    kind: &'a str,
}

impl<'a> Helper<'a> {
    /// The helper that a mount of this type takes, if it takes one.
    pub fn of(m: &'a RootfsMount) -> Option<Self> {
        let found = HELPERS.iter().find_map(|(prefix, name)| Some((*name, m.kind.strip_prefix(prefix)?)));
        found.map(|(program, kind)| Self { program, kind })
    }

    /// Runs the program, which mounts on `target`.
    ///
    /// # Errors
    /// Names the program and says what it said; what it has mounted then is the caller's to take away.
    pub fn mount(
        &self,
        m: &RootfsMount,
        target: &Place,
        within: Duration,
        abort: &Abort,
    ) -> Result<(), Error> {
        let output = run::memory()?;
        output.set_len(SAID).doing(|| "preparing the helper's output".into())?;
        fs::seal_growth(output.as_fd()).doing(|| "preparing the helper's output".into())?;
        let said: Fd = Arc::new(output.try_clone().doing(|| "preparing the helper's output".into())?.into());
        let argv = self.arguments(m, target.name()?)?;
        let plan = self.plan(argv, &said)?;
        let before = mount_id(target)?;
        let limit = within.as_millis().min(i32::MAX as u128) as i32;
        let why = match run::to_its_end(&plan, limit, Some(&abort.until()?))? {
            End::Exited(0) if mount_id(target)? != before => return Ok(()),
            End::Exited(0) => "it ended well, but has mounted nothing".into(),
            End::Exited(status) => format!("exit status {status}"),
            End::Late => format!("not done within {} s: it was killed", within.as_secs()),
            End::CutShort => "it was killed with its Create".into(),
            End::Refused(message) => {
                let why = format!("{}; install it where containerd's PATH has it", failure(&plan, &message));
                return Err(Error::doing(self.name(), why));
            }
        };
        Err(Error::doing(format!("{}: {why}", self.name()), run::quote(output)))
    }

    fn name(&self) -> String {
        format!("mount helper {}", self.program)
    }

    /// `SOURCE TARGET -o OPTION… -t TYPE`.
    fn arguments(&self, m: &RootfsMount, target: CString) -> Result<Vec<CString>, Error> {
        let mut argv = vec![c_string(self.program)?, c_string(&m.source)?, target];
        for option in &m.options {
            argv.extend([c"-o".to_owned(), c_string(option)?]);
        }
        argv.extend([c"-t".to_owned(), c_string(self.kind)?]);
        Ok(argv)
    }

    fn plan(&self, argv: Vec<CString>, said: &Fd) -> Result<Plan, Error> {
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.into());
        let program = Arc::new(Program::in_path(self.program, &path)?);
        let envp = Strings::new(vec![c_string(format!("PATH={path}"))?]);
        let steps = vec![
            Step::Stdio([None, Some(said.clone()), Some(said.clone())]),
            Step::Setsid,
            Step::DieWithShim,
            Step::Lookup(program.clone()),
            Step::CloseDescriptors,
            Step::Execve { program, argv: Strings::new(argv), envp },
        ];
        Ok(Plan { steps, ..Plan::default() })
    }
}

/// The mount that is on top at `target` (proc_pid_fdinfo(5)).
fn mount_id(target: &Place) -> Result<String, Error> {
    let doing = || "looking at the target".to_string();
    let at: OwnedFd = fs::openat(fs::CWD, &target.name()?, libc::O_PATH, 0).doing(doing)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&at);
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).doing(doing)?;
    Ok(text.lines().find(|line| line.starts_with("mnt_id:")).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(kind: &str) -> Option<(&'static str, String)> {
        let m = RootfsMount { kind: kind.into(), ..RootfsMount::default() };
        Helper::of(&m).map(|helper| (helper.program, helper.kind.to_owned()))
    }

    #[test]
    fn only_fuse_types_have_a_helper() {
        assert_eq!(helper("fuse3.fuse-overlayfs"), Some(("mount.fuse3", "fuse-overlayfs".into())));
        assert_eq!(helper("fuse.nydus-overlayfs"), Some(("mount.fuse", "nydus-overlayfs".into())));
        for kind in ["overlay", "fuse", "fuseblk", "nfs.fuse.x"] {
            assert_eq!(helper(kind), None, "{kind}");
        }
    }
}
