//! Which shim is being tested, with which containerd, and under which names: everything that comes from outside.
//!
//! `SHIM_UNDER_TEST=ours|runc`, `SHIM_BINARY=path`, `CONTAINERD_UNDER_TEST=1.6|1.7|2.1`,
//! `MYSHIM_TEST_CGROUPS=systemd` (every container in a systemd scope), `MYSHIM_TEST_RUN=name` (prefix of this run's cgroups), `MYSHIM_TEST_SKIPS=file` (gets a line for every skip).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Ours,
    Runc,
}

impl Subject {
    pub fn current() -> Self {
        match std::env::var("SHIM_UNDER_TEST").as_deref() {
            Ok("runc") => Self::Runc,
            Ok("ours") | Err(_) => Self::Ours,
            Ok(other) => panic!("SHIM_UNDER_TEST={other}: must be ours or runc"),
        }
    }

    pub fn runtime(self) -> &'static str {
        match self {
            Self::Ours => "io.containerd.myshim.v1",
            Self::Runc => "io.containerd.runc.v2",
        }
    }

    pub fn binary(self) -> PathBuf {
        match self {
            Self::Ours => std::env::var_os("SHIM_BINARY")
                .map_or_else(|| env!("CARGO_BIN_EXE_containerd-shim-myshim-v1").into(), PathBuf::from),
            Self::Runc => programs().join("containerd-shim-runc-v2"),
        }
    }
}

/// The build with fault injection (`FAULTS_BINARY`), which only hack/test.sh makes.
pub fn faults_binary() -> Option<PathBuf> {
    std::env::var_os("FAULTS_BINARY").map(PathBuf::from).filter(|_| ours())
}

pub fn ours() -> bool {
    Subject::current() == Subject::Ours
}

pub fn containerd_version() -> String {
    std::env::var("CONTAINERD_UNDER_TEST").unwrap_or_else(|_| "1.7".into())
}

fn script(name: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack").join(name);
    let output = Command::new(&script).args(arguments).output().expect("start a script of hack/");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

static PROGRAMS: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| script("get-containerd.sh", &[&containerd_version()]));
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| script("image.sh", &[]).expect("make the busybox image"));

/// The folder with containerd, ctr and runc of the version under test.
pub fn programs() -> &'static Path {
    PROGRAMS.as_ref().expect("get containerd from Debian")
}

pub fn image() -> &'static Path {
    &IMAGE
}

/// The image's files as a folder, for bundles made by hand.
pub fn image_root() -> PathBuf {
    let mut path = image().as_os_str().to_owned();
    path.push(".root");
    path.into()
}

/// PATH for daemons and shims: the shim under test first, then containerd's own programs, then the machine's.
pub fn search_path() -> String {
    let ours = Subject::Ours.binary();
    let machine = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    format!("{}:{}:{machine}", ours.parent().expect("a file has a folder").display(), programs().display())
}

/// True when runc is under test and is older than `major.minor`, where a field of the spec came in.
pub fn peer_lacks(major: u32, minor: u32) -> bool {
    if ours() {
        return false;
    }
    let output = Command::new(programs().join("runc")).arg("--version").output().expect("start runc");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2).expect("runc version X.Y.Z");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}

/// Name of this run; parent of the cgroups of all its containers.
pub fn run_name() -> String {
    std::env::var("MYSHIM_TEST_RUN").unwrap_or_else(|_| format!("myshim-test-{}", std::process::id()))
}

/// A name that no other test of any run on this machine has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn cgroup_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether containers are given to systemd, which then is PID 1.
pub fn systemd_cgroups() -> bool {
    std::env::var("MYSHIM_TEST_CGROUPS").is_ok_and(|driver| driver == "systemd")
}

/// Why no test of this crate can run here, if so.
pub fn obstacle() -> Option<String> {
    if !nix_is_root() {
        return Some("containers need root".into());
    }
    PROGRAMS.as_ref().err().map(|why| format!("no containerd {}: {}", containerd_version(), why.trim()))
}

fn nix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

pub fn record_skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("MYSHIM_TEST_SKIPS") {
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(path).expect("open the list of skips");
        writeln!(file, "{test}: {reason}").expect("write the list of skips");
    }
}

/// Leaves the test, with the reason printed and counted, unless the condition holds.
#[macro_export]
macro_rules! needs {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            let name = std::thread::current().name().unwrap_or("?").to_owned();
            $crate::support::subject::record_skip(&name, &format!($($reason)+));
            return;
        }
    };
}

/// First line of every test that starts a container.
#[macro_export]
macro_rules! needs_containers {
    () => {
        let obstacle = $crate::support::subject::obstacle();
        $crate::needs!(obstacle.is_none(), "{}", obstacle.unwrap());
    };
}
