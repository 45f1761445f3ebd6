//! containerd's own command-line client, in a containerd namespace of the test's own that is emptied at the end.

use super::subject::{self, Subject};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub const IMAGE: &str = "docker.io/library/busybox:myshim";

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// What was printed, of a command that must have worked.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "ctr failed: {self:?}");
        self.stdout
    }
}

pub struct Namespace {
    address: PathBuf,
    name: String,
}

impl Namespace {
    pub fn new(address: PathBuf) -> Self {
        let namespace = Self { address, name: subject::unique("mst") };
        namespace.ctr(&["image", "import", &subject::image().display().to_string()]).ok();
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that has not started yet, with a time limit that ends it rather than the test run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "2", "150"])
            .arg(subject::programs().join("ctr"))
            .arg("--address")
            .arg(&self.address);
        command.args(["--namespace", &self.name]).args(arguments).env("PATH", subject::search_path());
        command.stdin(Stdio::null());
        command
    }

    pub fn ctr(&self, arguments: &[&str]) -> Answer {
        let output = self.command(arguments).output().expect("start ctr");
        Answer {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn run_arguments<'a>(&self, flags: &[&'a str], id: &'a str, arguments: &[&'a str]) -> Vec<String> {
        let mut all = vec!["run".to_owned(), "--runtime".into(), Subject::current().runtime().into()];
        all.extend(["--cgroup".into(), self.cgroup(id)]);
        all.extend(flags.iter().map(ToString::to_string));
        all.extend([IMAGE.to_owned(), id.to_owned()]);
        all.extend(arguments.iter().map(ToString::to_string));
        all
    }

    /// `ctr run` in the foreground: flags, then the container's id and its arguments.
    pub fn run(&self, flags: &[&str], id: &str, arguments: &[&str]) -> Answer {
        let all = self.run_arguments(flags, id, arguments);
        self.ctr(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A container that lives until it is killed.
    #[track_caller]
    pub fn sleeper(&self, flags: &[&str], id: &str) {
        let flags = [&["-d"], flags].concat();
        self.run(&flags, id, &["sleep", "1000"]).ok();
    }

    /// Deletes a stopped task; its exit status, which ctr 1.6 ends with and later ones warn of.
    #[track_caller]
    pub fn remove_task(&self, id: &str) -> i32 {
        let answer = self.ctr(&["task", "rm", id]);
        let told = answer
            .stderr
            .rsplit("exit code ")
            .next()
            .and_then(|rest| rest.trim().trim_matches('"').parse().ok());
        if answer.status == 0 { told.unwrap_or(0) } else { answer.status }
    }

    pub fn cgroup(&self, id: &str) -> String {
        format!("/{}/{}-{id}", subject::run_name(), self.name)
    }

    /// Status of a task as `ctr task ls` prints it; none if the task is not there.
    pub fn status(&self, id: &str) -> Option<(i32, String)> {
        let list = self.ctr(&["task", "ls"]).ok();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?.to_owned();
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    }

    #[track_caller]
    pub fn wait_for_status(&self, id: &str, status: &str) {
        super::eventually(&format!("{id} is {status}"), super::SOON, || {
            (self.status(id)?.1 == status).then_some(())
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for (list, end) in [("task", &["task", "rm", "--force"][..]), ("container", &["container", "rm"][..])]
        {
            let ids = self.ctr(&[list, "ls", "-q"]).stdout;
            for id in ids.split_whitespace() {
                self.ctr(&[end, &[id]].concat());
            }
        }
        self.ctr(&["image", "rm", IMAGE]);
    }
}
