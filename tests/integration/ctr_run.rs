//! `ctr run`: a container's output, exit status, user, folder, environment, mounts and limits.

use crate::needs_containers;
use crate::support::containerd::Containerd;
use crate::support::subject::containerd_version;
use crate::{needs, support::subject};
use std::io::Write;
use std::process::Stdio;

#[test]
fn output_of_both_streams_arrives() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let answer = namespace.run(&["--rm"], "a", &["sh", "-c", "echo to stdout; echo to stderr >&2"]);
    assert_eq!(
        (answer.status, answer.stdout.as_str(), answer.stderr.as_str()),
        (0, "to stdout\n", "to stderr\n")
    );
}

#[test]
fn exit_status_is_the_programs_own() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    for status in [0, 1, 42, 255] {
        let answer = namespace.run(&["--rm"], "a", &["sh", "-c", &format!("exit {status}")]);
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[test]
fn exit_status_after_a_signal_is_128_and_the_signal() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    // PID 1 of a namespace cannot signal itself: a child of init's shell shows the number, init hands it on.
    let answer = namespace.run(&["--rm"], "a", &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(answer.status, 137);
}

/// "terminal: specifies whether a terminal is attached to the process, defaults to false." (config.md, "Process")
#[test]
fn terminal_is_a_terminal() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    // ctr sets the size after Start: the program waits for it.
    let size = "for i in $(seq 100); do s=$(stty size 2>/dev/null); [ \"$s\" = '37 91' ] && break; sleep 0.05; done; echo $s";
    let script = format!("tty; {size}; test -t 0 -a -t 1 -a -t 2 && echo all three");
    let arguments = namespace.run_arguments(&["--rm", "-t"], "a", &["sh", "-c", &script]);
    // ctr wants a terminal of its own for -t: script(1) provides one.
    let mut command = String::from("stty cols 91 rows 37; exec");
    let ctr = namespace.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for word in std::iter::once(ctr.get_program()).chain(ctr.get_args()) {
        command.push_str(&format!(" '{}'", word.to_string_lossy().replace('\'', r"'\''")));
    }
    let began = std::time::Instant::now();
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("PATH", subject::search_path())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("start script");
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let whole = ["/dev/pts/0\n", "37 91\n", "all three\n"].iter().all(|line| text.contains(line));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        whole && output.status.success(),
        "{} after {:?}: {text:?} {words:?}",
        output.status,
        began.elapsed()
    );
}

#[test]
fn nothing_is_left_after_rm() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    namespace.run(&["--rm"], "a", &["true"]).ok();
    assert_eq!(namespace.ctr(&["container", "ls", "-q"]).ok(), "");
    assert_eq!(namespace.ctr(&["task", "ls", "-q"]).ok(), "");
    assert!(crate::support::leak::cgroups(&namespace.cgroup("a")).is_empty());
    assert!(crate::support::leak::processes_naming(namespace.name()).is_empty());
}

#[test]
fn memory_limit_is_set() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    namespace.sleeper(&["--memory-limit", "67108864"], "a");
    let file = if subject::cgroup_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    let values: Vec<_> = crate::support::leak::cgroups(&namespace.cgroup("a"))
        .iter()
        .filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
        .collect();
    assert_eq!(values, ["67108864\n"]);
}

#[test]
fn cpu_limit_is_set() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    namespace.sleeper(&["--cpus", "0.5"], "a");
    let values: Vec<_> = crate::support::leak::cgroups(&namespace.cgroup("a"))
        .iter()
        .filter_map(|folder| {
            std::fs::read_to_string(folder.join(if subject::cgroup_v2() {
                "cpu.max"
            } else {
                "cpu.cfs_quota_us"
            }))
            .ok()
        })
        .collect();
    assert_eq!(values, [if subject::cgroup_v2() { "50000 100000\n" } else { "50000\n" }]);
}

/// "cwd: is the working directory that will be set for the executable." (config.md, "Process")
#[test]
fn user_folder_and_environment_are_those_asked_for() {
    needs_containers!();
    needs!(containerd_version() != "1.6", "ctr 1.6 has no --user");
    let namespace = Containerd::shared().namespace();
    let flags = ["--rm", "--user", "app", "--cwd", "/home/app", "--env", "COLOUR=green"];
    // One write, and a moment after it: on a slow machine ctr sometimes drops what was written right before the exit,
    // seen with containerd-shim-runc-v2 as well (2 runs of 8 in the guest).
    let script = r#"printf '%s\n' "$(id -u)" "$(id -g)" "$(pwd)" "$COLOUR"; sleep 0.2"#;
    let answer = namespace.run(&flags, "a", &["sh", "-c", script]).ok();
    assert_eq!(answer, "1000\n1000\n/home/app\ngreen\n");
}

#[test]
fn missing_folder_is_made() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    assert_eq!(namespace.run(&["--rm", "--cwd", "/no/such/folder"], "a", &["pwd"]).ok(), "/no/such/folder\n");
}

#[test]
fn bind_mount_is_the_hosts_folder_and_read_only_means_it() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), "from the host\n").expect("write");
    for (options, expected) in
        [("rbind:ro", "from the host\nrefused\n"), ("rbind:rw", "from the host\nwritten\n")]
    {
        let mount = format!("type=bind,src={},dst=/volume,options={options}", folder.path().display());
        let script =
            "cat /volume/file; if echo x 2>/dev/null >/volume/new; then echo written; else echo refused; fi";
        assert_eq!(namespace.run(&["--rm", "--mount", &mount], "a", &["sh", "-c", script]).ok(), expected);
    }
    assert!(folder.path().join("new").exists());
}

/// "readonly: If true then the root filesystem MUST be read-only inside the container, defaults to false."
/// (config.md, "Root")
#[test]
fn read_only_root_cannot_be_written() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let answer = namespace.run(&["--rm", "--read-only"], "a", &["touch", "/file"]);
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.contains("Read-only file system"), "{answer:?}");
}

#[test]
fn privileged_has_every_capability_of_the_host_and_its_devices() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let script = "grep CapEff /proc/self/status; test -e /dev/fd && ls /dev | wc -l";
    let answer = namespace.run(&["--rm", "--privileged"], "a", &["sh", "-c", script]).ok();
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    let own = own.lines().find(|line| line.starts_with("CapEff")).expect("CapEff");
    assert!(answer.starts_with(own), "{answer:?}, ours {own:?}");
}

#[test]
fn host_network_is_the_hosts_and_otherwise_there_is_only_loopback() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace").display().to_string();
    let answer = namespace.run(&["--rm", "--net-host"], "a", &["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(answer.trim(), own);
    let answer = namespace
        .run(
            &["--rm"],
            "b",
            &["sh", "-c", "ls /sys/class/net | grep -v -e tunl -e sit -e ip6 -e gre -e erspan -e ip_vti"],
        )
        .ok();
    assert_eq!(answer, "lo\n");
}

#[test]
fn missing_program_is_named_in_the_error() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    for (program, expected) in [
        ("nonesuch", r#"exec: "nonesuch": executable file not found in $PATH"#),
        ("/nonesuch", r#"exec: "/nonesuch": stat /nonesuch: no such file or directory"#),
        ("/bin/plain", r#"exec: "/bin/plain": permission denied"#),
    ] {
        let answer = namespace.run(&["--rm"], "a", &[program]);
        assert_ne!(answer.status, 0);
        assert!(answer.stderr.contains(expected), "{program}: {answer:?}");
    }
    assert_eq!(namespace.ctr(&["task", "ls", "-q"]).ok(), "");
}

#[test]
fn pid_1_sees_only_its_own_processes_and_host_name_is_settable() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    let answer =
        namespace.run(&["--rm"], "a", &["sh", "-c", "echo $$; hostname; set -- /proc/[0-9]*; echo $#"]).ok();
    let words: Vec<_> = answer.split_whitespace().collect();
    assert_eq!((words[0], words[words.len() - 1]), ("1", "1"), "{answer:?}");
}

/// What the client closes, closes inside. Not before the answer to Create, though: ctr itself forgets a standard input
/// that ends sooner (`echo hello | ctr run … cat` hangs with every shim).
#[test]
fn piped_standard_input_arrives_and_ends() {
    needs_containers!();
    let namespace = Containerd::shared().namespace();
    for round in 0..3 {
        let arguments = namespace.run_arguments(&["--rm"], &format!("pipe{round}"), &["cat"]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = namespace.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start ctr");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"hello\n").expect("write");
        namespace.wait_for_status(&format!("pipe{round}"), "RUNNING");
        drop(input);
        let output = child.wait_with_output().expect("wait for ctr");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "round {round}: {output:?}");
        assert!(output.status.success(), "round {round}: {output:?}");
    }
}
