//! Logger processes: what they are given, and what happens when they fail.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::stdio::Error;

/// A logger written in sh, which gets `?out=PATH`.
fn logger(client: &Client, body: &str) -> String {
    let path = client.path("logger");
    std::fs::write(&path, format!("#!/bin/sh\nout=$2\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    format!("binary://{}?out={}", path.display(), client.uri("log"))
}

fn pid_in(path: &Path) -> PathBuf {
    format!("/proc/{}", text(path).trim()).into()
}

#[tokio::test]
async fn a_logger_gets_both_streams_its_arguments_and_a_clean_environment() {
    let client = Client::new();
    let uri = logger(
        &client,
        "{ echo args \"$@\"; tr '\\0' '\\n' </proc/$$/environ; } >$out.facts\n\
         exec 5>&-\ncat <&3 >$out.out &\ncat <&4 >$out.err &\nwait",
    );
    let req = Request { stdout: uri.clone(), stderr: uri, ..request() };
    let (ends, io) = open(&req).await.unwrap();
    let (mut out, mut err) = (file(ends.stdout), file(ends.stderr));
    spawn_blocking(move || {
        write_pattern(&mut out, 2_000_000);
        err.write_all(b"to stderr").unwrap();
    })
    .await
    .unwrap();
    io.drained(SECOND).await;
    io.close(5 * SECOND).await;
    assert_eq!(read_pattern(File::open(client.path("log.out")).unwrap(), false), 2_000_000);
    assert_eq!(text(&client.path("log.err")), "to stderr");
    let facts = text(&client.path("log.facts"));
    let expected = format!("args out {}\nCONTAINER_ID=box\nCONTAINER_NAMESPACE=tests\n", client.uri("log"));
    assert_eq!(facts, expected);
}

#[tokio::test]
async fn a_logger_holds_no_descriptor_but_its_six() {
    let client = Client::new();
    let uri = logger(&client, "ls /proc/$$/fd >$out\nexec 5>&-\ncat <&3 >/dev/null");
    let (ends, io) = open(&Request { stdout: uri, ..request() }).await.unwrap();
    drop(ends);
    io.drained(SECOND).await;
    io.close(SECOND).await;
    // 10 and above: dash keeps its script there.
    let fds: Vec<u32> = text(&client.path("log")).lines().map(|l| l.parse().unwrap()).collect();
    let few: Vec<u32> = fds.into_iter().filter(|fd| *fd < 10).collect();
    assert_eq!(few, [0, 1, 2, 3, 4, 5]);
}

/// Go's loggers poll what they read: epoll_ctl(2) refuses /dev/null with EPERM.
#[tokio::test]
async fn a_stream_that_is_not_there_is_a_pipe_at_its_end_for_the_logger() {
    let client = Client::new();
    let uri =
        logger(&client, "exec 5>&-\n[ -p /proc/self/fd/4 ] && cat <&4 && echo end >$out\ncat <&3 >/dev/null");
    let (ends, io) = open(&Request { stdout: uri, ..request() }).await.unwrap();
    assert!(eventually(|| client.path("log").exists() && text(&client.path("log")) == "end\n").await);
    drop(ends);
    io.drained(SECOND).await;
    io.close(SECOND).await;
}

/// What nerdctl's logger has not read when it hears of the exit is lost.
#[tokio::test]
async fn output_is_drained_once_its_logger_has_read_it() {
    let client = Client::new();
    let go = client.path("go");
    let body = format!("exec 5>&-\nuntil [ -e {} ]; do sleep 0.02; done\ncat <&3 >/dev/null", go.display());
    let (ends, io) = open(&Request { stdout: logger(&client, &body), ..request() }).await.unwrap();
    file(ends.stdout).write_all(b"the last words").unwrap();
    {
        let mut drained = std::pin::pin!(io.drained(30 * SECOND));
        assert!(tokio::time::timeout(SECOND / 10, drained.as_mut()).await.is_err(), "nobody has read it");
        std::fs::write(go, "").unwrap();
        drained.await;
    }
    assert!(!io.is_stuck(), "that it was read was no news");
    io.close(SECOND).await;
}

#[tokio::test]
async fn a_logger_that_hangs_is_killed() {
    let client = Client::new();
    let uri = logger(&client, "trap '' TERM\necho $$ >$out\nexec 5>&-\nwhile :; do sleep 1; done");
    let (ends, io) = open(&Request { stdout: uri, ..request() }).await.unwrap();
    let process = pid_in(&client.path("log"));
    drop(ends);
    assert!(process.exists());
    io.drained(SECOND).await;
    let start = Instant::now();
    io.close(SECOND / 5).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    assert!(!process.exists(), "killed and reaped");
}

#[tokio::test]
async fn a_dropped_io_ends_its_logger() {
    let client = Client::new();
    let uri = logger(&client, "echo $$ >$out\nexec 5>&-\nexec sleep 60");
    let (_ends, io) = open(&Request { stdout: uri, ..request() }).await.unwrap();
    let process = pid_in(&client.path("log"));
    drop(io);
    assert!(eventually(|| !process.exists()).await);
}

#[tokio::test]
async fn a_logger_that_is_never_ready_is_an_error_that_leaves_nothing() {
    let client = Client::new();
    let uri = logger(&client, "echo $$ >$out\nexec sleep 60");
    let error = open(&Request { stdout: uri, ..request() }).await.err().unwrap();
    assert!(matches!(error, Error::LoggerTimeout { .. }), "{error}");
    let process = pid_in(&client.path("log"));
    assert!(eventually(|| !process.exists()).await);
}

#[tokio::test]
async fn a_strict_logger_must_say_a_byte() {
    let client = Client::new();
    let silent = logger(&client, "exec 5>&-").replacen("binary", "binary-v2", 1);
    let error = open(&Request { stdout: silent, ..request() }).await.err().unwrap();
    assert!(matches!(error, Error::LoggerNotReady { .. }), "{error}");
    let polite = logger(&client, "printf x >&5\nexec 5>&-").replacen("binary", "binary-v2", 1);
    open(&Request { stdout: polite, ..request() }).await.unwrap();
}

#[tokio::test]
async fn a_logger_that_dies_does_not_take_the_workload_with_it() {
    let client = Client::new();
    let uri = logger(&client, "exec 5>&-\nexit 3");
    let (ends, io) = open(&Request { stdout: uri, ..request() }).await.unwrap();
    let mut out = file(ends.stdout);
    spawn_blocking(move || write_pattern(&mut out, 3_000_000)).await.unwrap();
    io.drained(SECOND).await;
    io.close(SECOND).await;
}

#[tokio::test]
async fn a_logger_that_does_not_exist_is_named() {
    let error = open(&Request { stdout: "binary:///nowhere/log".into(), ..request() }).await.err().unwrap();
    assert_eq!(error.to_string(), "start logger /nowhere/log: No such file or directory (os error 2)");
}
