//! The shim's log: logfmt lines like containerd's own, into the bundle's `log` FIFO (fifo(7)).
//!
//! The FIFO is opened for reading and writing, so that a containerd that is away means neither an error nor SIGPIPE,
//! and without blocking, so that a containerd that does not read stalls nobody. A line that does not fit is dropped
//! and counted; the next that fits tells the count.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;

use super::RUNTIME;

/// pipe(7): a write of up to `PIPE_BUF` bytes is not mixed with others, and enters whole or not at all.
const MAX_LINE: usize = 4096;

struct Logger {
    fifo: File,
    /// The fields that end every line.
    fields: String,
    level: LevelFilter,
    dropped: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Logs to `bundle/log` from now on. Without such a FIFO there is nobody to read, and nothing is logged.
pub fn init(bundle: &Path, level: LevelFilter, namespace: &str, id: &str) {
    let Ok(fifo) = open(&bundle.join("log")) else { return };
    let logger = LOGGER.get_or_init(|| Logger::new(fifo, level, namespace, id));
    if ::log::set_logger(logger).is_ok() {
        ::log::set_max_level(level);
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

impl Logger {
    fn new(fifo: File, level: LevelFilter, namespace: &str, id: &str) -> Self {
        let mut fields = format!("runtime={RUNTIME}");
        for (key, text) in [("namespace", namespace), ("id", id)] {
            let _ = write!(fields, " {key}={}", value(text));
        }
        Self { fifo, fields, level, dropped: AtomicU64::new(0) }
    }

    fn write(&self, level: Level, message: &str) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let line = self.line(SystemTime::now(), level, message, dropped);
        if (&self.fifo).write_all(line.as_bytes()).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn line(&self, at: SystemTime, level: Level, message: &str, dropped: u64) -> String {
        let head = format!("time=\"{}\" level={} msg=", timestamp(at), name(level));
        let mut tail = String::with_capacity(self.fields.len() + 24);
        if dropped > 0 {
            let _ = write!(tail, " dropped={dropped}");
        }
        let _ = writeln!(tail, " {}", self.fields);
        let room = MAX_LINE.saturating_sub(head.len() + tail.len());
        [head.as_str(), &fitting(message, room), &tail].concat()
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries have to say below a warning concerns whoever debugs them.
        let ours = metadata.target().starts_with("myshim");
        metadata.level()
            <= if ours || self.level == LevelFilter::Trace { self.level } else { LevelFilter::Warn }
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The message as a value of at most `room` bytes, shortened at its end if it must be.
fn fitting(message: &str, room: usize) -> String {
    let whole = value(message);
    if whole.len() <= room {
        return whole;
    }
    let mut keep = message.len().min(room);
    loop {
        keep = message.floor_char_boundary(keep);
        let cut = value(&format!("{}…", &message[..keep]));
        if cut.len() <= room || keep == 0 {
            return cut;
        }
        keep -= (cut.len() - room).div_ceil(8).min(keep);
    }
}

/// A logfmt value: bare when it is a plain word, quoted otherwise.
fn value(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// containerd's names for the levels.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// RFC 3339 with nine digits, in UTC, as containerd writes it.
fn timestamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, nano) = at.to_hms_nano();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z", month as u8)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
