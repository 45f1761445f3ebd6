//! Lines, and a FIFO that nobody reads.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn fifo() -> (tempfile::TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("log");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    (tmp, path)
}

fn logger() -> (tempfile::TempDir, Logger) {
    let (tmp, path) = fifo();
    (tmp, Logger::new(open(&path).unwrap(), LevelFilter::Info, "k8s.io", "c1"))
}

/// Everything in the FIFO, as lines.
fn drain(logger: &Logger) -> Vec<String> {
    let mut text = Vec::new();
    let _ = (&logger.fifo).read_to_end(&mut text);
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_line_is_logfmt_as_containerd_writes_it() {
    let (_tmp, logger) = logger();
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_042);
    assert_eq!(
        logger.line(at, Level::Warn, "mount \"x\": no\nway", 0),
        "time=\"2023-11-14T22:13:20.000000042Z\" level=warning msg=\"mount \\\"x\\\": no\\nway\" \
         runtime=io.containerd.myshim.v1 namespace=k8s.io id=c1\n"
    );
}

#[test]
fn an_overlong_line_is_cut_to_what_enters_a_pipe_whole() {
    let (_tmp, logger) = logger();
    for message in ["y".repeat(10_000), "\"".repeat(10_000), "😀".repeat(3_000), "\u{1}".repeat(9_000)] {
        let line = logger.line(SystemTime::now(), Level::Info, &message, 3);
        assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE / 2, "{}", line.len());
        assert!(
            line.ends_with(" dropped=3 runtime=io.containerd.myshim.v1 namespace=k8s.io id=c1\n"),
            "{line}"
        );
    }
}

#[test]
fn a_full_fifo_drops_and_the_next_line_tells_how_many() {
    let (_tmp, logger) = logger();
    let written = 2_000;
    for i in 0..written {
        logger.write(Level::Info, &format!("line {i}"));
    }
    let kept = drain(&logger).len();
    assert!(kept > 100 && kept < written, "{kept}");
    logger.write(Level::Info, "next");
    logger.write(Level::Info, "last");
    let lines = drain(&logger);
    assert!(lines[0].contains(&format!("dropped={}", written - kept)), "{lines:?}");
    assert!(!lines[1].contains("dropped="), "{lines:?}");
}

#[test]
fn libraries_are_heard_from_warning_on() {
    let (_tmp, logger) = logger();
    let enabled = |target, level| logger.enabled(&Metadata::builder().target(target).level(level).build());
    assert!(enabled("myshim::shim", Level::Info) && enabled("ttrpc", Level::Warn));
    assert!(!enabled("ttrpc", Level::Info) && !enabled("myshim::shim", Level::Debug));
}
