//! What a failed cgroup operation says: the file, the value, the errno and, where one is known, the remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::systemd::BusError;
use crate::sys;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file or directory of the cgroup file system failed.
    #[error("{0}")]
    File(FileError),
    #[error("find the cgroup hierarchies: no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NoCgroups,
    #[error("cgroups path {path:?}: {reason}")]
    Path { path: String, reason: &'static str },
    /// systemd was asked to do something with a unit, and it came to nothing.
    #[error("{doing} systemd unit {unit}: {cause}{remedy}")]
    Unit { doing: &'static str, unit: String, cause: BusError, remedy: &'static str },
    #[error("annotation {key} = {value}: {reason}")]
    Annotation { key: String, value: String, reason: String },
    #[error("make the process that holds the systemd unit until init is there: {0}")]
    Seat(sys::Error),
    #[error("container's cgroup is not empty: {path:?} holds {count} process(es), {first} among them")]
    NotEmpty { path: PathBuf, count: usize, first: Process },
    #[error("container's cgroup {0:?} is frozen; thaw it or use another cgroups path")]
    Frozen(PathBuf),
    #[error(
        "limit linux.resources.{field}: the {controller} controller is not available to {path:?}; {remedy}"
    )]
    NoController { field: &'static str, controller: &'static str, path: PathBuf, remedy: &'static str },
    #[error("limit linux.resources.{field} = {value}: {reason}")]
    Value { field: &'static str, value: String, reason: &'static str },
    #[error(
        "limit linux.resources.{field} = {value}: the container already uses {usage}, and checkBeforeUpdate is set"
    )]
    BelowUsage { field: &'static str, value: i64, usage: u64 },
    #[error(
        "limit linux.resources.{field} = {value}: the container uses more, which cannot be reclaimed ({numbers}); raise the limit"
    )]
    TooSmall { field: &'static str, value: i64, numbers: String },
    #[error("device rule {rule}: {reason}")]
    Device { rule: String, reason: &'static str },
    #[error("{doing} cgroup {path:?}: {cause}{remedy}")]
    Filter { doing: &'static str, path: PathBuf, cause: sys::Error, remedy: &'static str },
    #[error("{doing} cgroup {path:?}: not done in time: {process}")]
    Stuck { doing: &'static str, path: PathBuf, process: Process },
    #[error("{doing} cgroup {path:?}: not done in time, and no process is left in it")]
    TimedOut { doing: &'static str, path: PathBuf },
    #[error("{0}")]
    Injected(sys::fault::Injected),
    /// Several hierarchies failed: the first error, the others attached.
    #[error("{first}{}", Rest(.rest))]
    Several { first: Box<Error>, rest: Vec<Error> },
}

/// A system call on a cgroup file that failed.
#[derive(Debug)]
pub struct FileError {
    pub call: &'static str,
    pub path: PathBuf,
    pub value: Option<String>,
    /// What of `linux.resources` is to be set, if that is why.
    pub field: Option<&'static str>,
    pub errno: i32,
    pub remedy: Option<&'static str>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno);
        self.field.map_or(Ok(()), |field| write!(f, "limit linux.resources.{field}: "))?;
        match &self.value {
            Some(value) => write!(f, "{} {:?} to {}", self.call, value, self.path.display())?,
            None => write!(f, "{} {}", self.call, self.path.display())?,
        }
        write!(f, ": {errno:?}: {}", errno.desc())?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// A process as an error names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub comm: String,
    pub state: char,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}) in state {}", self.pid, self.comm, self.state)
    }
}

struct Rest<'a>(&'a [Error]);

impl fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|e| write!(f, "; and {e}"))
    }
}

impl Error {
    /// The cgroup belongs to somebody else.
    pub fn is_in_use(&self) -> bool {
        // A scope that could not be started left with the process that was to hold it; one of that name is another's.
        matches!(self, Self::NotEmpty { .. } | Self::Frozen(_) | Self::Unit { doing: "start", .. })
    }

    pub(super) fn file(call: &'static str, path: impl Into<PathBuf>, e: &io::Error) -> Self {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        Self::File(FileError { call, path: path.into(), value: None, field: None, errno, remedy: None })
    }

    pub(super) fn write(path: PathBuf, value: &str, e: &io::Error) -> Self {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        let value = Some(value.trim_end().to_owned());
        Self::File(FileError { call: "write", path, value, field: None, errno, remedy: None })
    }

    pub(super) fn filter(doing: &'static str, path: &Path, cause: sys::Error) -> Self {
        let remedy = match cause.errno {
            libc::EPERM => {
                "; CAP_BPF or CAP_SYS_ADMIN is needed, and before Linux 5.11 a larger RLIMIT_MEMLOCK"
            }
            libc::ENOSYS | libc::EINVAL => "; the kernel needs CONFIG_CGROUP_BPF",
            _ => "",
        };
        Self::Filter { doing, path: path.to_owned(), cause, remedy }
    }

    pub(super) fn unit(doing: &'static str, unit: &str, cause: BusError) -> Self {
        let refusal = if let BusError::Refused { name, .. } = &cause { name.as_str() } else { "" };
        let remedy = match refusal.rsplit('.').next() {
            Some("UnitExists") => "; a unit of that name is running: remove its container, or use another id",
            Some("PropertyReadOnly") => {
                "; systemd 244 or later is needed, and an annotation must name a property of scopes"
            }
            Some("AccessDenied" | "InteractiveAuthorizationRequired") => {
                "; an ordinary user needs a systemd of its own: set XDG_RUNTIME_DIR, and see loginctl enable-linger"
            }
            _ if refusal.is_empty() => "; the cgroupfs driver does without systemd",
            _ => "",
        };
        Self::Unit { doing, unit: unit.to_owned(), cause, remedy }
    }

    /// The errno of a failed call on a file, 0 for every other error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::File(e) => e.errno,
            Self::Filter { cause, .. } => cause.errno,
            _ => 0,
        }
    }

    /// Adds what of `linux.resources` the call was for.
    pub(super) fn of(mut self, field: &'static str) -> Self {
        if let Self::File(e) = &mut self {
            e.field = Some(field);
        }
        self
    }

    /// Adds what the user can do about a failed call.
    pub(super) fn with_remedy(mut self, text: &'static str) -> Self {
        if let Self::File(e) = &mut self {
            e.remedy = Some(text);
        }
        self
    }

    /// `Ok` without errors, the first one with the rest attached otherwise.
    pub(super) fn collect(errors: Vec<Error>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else { return Ok(()) };
        let rest: Vec<_> = errors.collect();
        if rest.is_empty() { Err(first) } else { Err(Self::Several { first: Box::new(first), rest }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_names_file_value_errno_and_remedy() {
        let e = Error::write("/cg/memory.max".into(), "4096\n", &io::Error::from_raw_os_error(libc::EBUSY))
            .with_remedy("raise the limit");
        assert_eq!(
            e.to_string(),
            "write \"4096\" to /cg/memory.max: EBUSY: Device or resource busy; raise the limit"
        );
    }

    #[test]
    fn several_errors_are_told_in_one_sentence() {
        let e = Error::collect(vec![Error::NoCgroups, Error::Frozen("/x".into())]).unwrap_err();
        let text = e.to_string();
        assert!(text.starts_with("find the cgroup hierarchies"), "{text}");
        assert!(text.contains("; and container's cgroup \"/x\" is frozen"), "{text}");
        assert!(Error::collect(vec![]).is_ok());
    }
}
