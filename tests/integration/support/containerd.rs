//! A private containerd: own root, state and socket, killed when the test process ends however that happens.

use super::ctr::Namespace;
use super::subject;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

/// The shell holds the daemon's life: it ends the daemon, and removes the folder, when the pipe from us closes.
/// A destructor would not run: the test harness leaves by exit(3), or is killed.
const GUARDIAN: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
daemon=$!
echo $daemon
read -r last
kill -9 $daemon; wait $daemon 2>/dev/null
[ "$last" = keep ] || { umount "$folder"/state/*/*/*/rootfs "$folder"/root/tmpmounts/* 2>/dev/null; rm -rf "$folder"; }
"#;

pub struct Containerd {
    folder: PathBuf,
    guardian: Child,
    pid: i32,
    _life: ChildStdin,
}

impl Containerd {
    /// The daemon that all tests share which do nothing to the daemon itself.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Containerd> = LazyLock::new(Containerd::new);
        &SHARED
    }

    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(subject::unique("mst-cd"));
        std::fs::create_dir_all(&folder).expect("make the daemon's folder");
        std::fs::write(folder.join("config.toml"), configuration(&folder))
            .expect("write the daemon's configuration");
        let (guardian, pid, life) = launch(&folder);
        let daemon = Self { folder, guardian, pid, _life: life };
        daemon.wait_until_it_answers();
        daemon
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn address(&self) -> PathBuf {
        self.folder.join("c.sock")
    }

    pub fn namespace(&self) -> Namespace {
        Namespace::new(self.address())
    }

    /// SIGKILL, then a new daemon on the same state: what a crash and its restart look like to a shim.
    pub fn crash_and_restart(&mut self, meanwhile: impl FnOnce()) {
        // Ends the daemon only: the guardian is told to keep the folder.
        std::io::Write::write_all(&mut self._life, b"keep\n").expect("tell the guardian");
        self.guardian.wait().expect("wait for the guardian");
        meanwhile();
        (self.guardian, self.pid, self._life) = launch(&self.folder);
        self.wait_until_it_answers();
    }

    /// SIGSTOP, and SIGCONT after what happens meanwhile.
    pub fn while_stopped(&self, meanwhile: impl FnOnce()) {
        super::shim::signal(self.pid, libc::SIGSTOP);
        meanwhile();
        super::shim::signal(self.pid, libc::SIGCONT);
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        super::eventually("containerd answers", super::SOON, || {
            let version = Command::new(subject::programs().join("ctr"))
                .arg("--address")
                .arg(self.address())
                .args(["--timeout", "2s", "version"])
                .output()
                .expect("start ctr");
            version.status.success().then_some(())
        });
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = std::io::Write::write_all(&mut self._life, b"end\n");
        let _ = self.guardian.wait();
    }
}

fn launch(folder: &Path) -> (Child, i32, ChildStdin) {
    let mut guardian = Command::new("sh")
        .args(["-c", GUARDIAN, "guardian"])
        .arg(folder)
        .arg(subject::programs().join("containerd"))
        .arg("--config")
        .arg(folder.join("config.toml"))
        .env("PATH", subject::search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("start the guardian");
    let mut line = String::new();
    BufReader::new(guardian.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("read the daemon's pid");
    let life = guardian.stdin.take().expect("piped");
    let pid = line.trim().parse().expect("the daemon's pid");
    (guardian, pid, life)
}

/// Everything below one folder; the plugins left out would write elsewhere or take a second to say that they cannot run.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
]
[grpc]
  address = "{folder}/c.sock"
[debug]
  level = "debug"
"#
    )
}
