//! Reading and writing the small files of the cgroup file system. kernfs takes each write(2) as one whole
//! command, so a value is never split and nothing is buffered.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::error::{Error, Result};

/// kernfs fills a buffer of one page at a time.
const PAGE: usize = 4096;

/// Writes `value` to `dir/file`, which must exist.
pub fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    let opened = OpenOptions::new().write(true).open(&path);
    opened.and_then(|mut f| f.write_all(value.as_bytes())).map_err(|e| Error::write(path, value, &e))
}

/// Like `write`, for a `field` of `linux.resources`, which an error names.
pub fn set(dir: &Path, file: &str, value: &str, field: &'static str) -> Result<()> {
    write(dir, file, value).map_err(|e| e.of(field))
}

/// Like `write`, for a file that a kernel or a hierarchy may lack: false when it does.
pub fn write_if_there(dir: &Path, file: &str, value: &str) -> Result<bool> {
    match write(dir, file, value) {
        Ok(()) => Ok(true),
        Err(e) if e.errno() == libc::ENOENT => Ok(false),
        Err(e) => Err(e),
    }
}

pub fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    read_path(&path).map_err(|e| Error::file("read", path, &e))
}

/// Like `read`, but a file that is missing, or that vanished while it was open (ENODEV), or that this kind of
/// cgroup does not serve (EOPNOTSUPP: pressure files without PSI, lists of threaded cgroups) reads as `None`.
pub fn read_if_there(dir: &Path, file: &str) -> Result<Option<String>> {
    match read(dir, file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The number in a one-number file; `max` and negative numbers read as `u64::MAX`, a missing file as `None`.
pub fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    Ok(read_if_there(dir, file)?.map(|text| parse_number(&text)))
}

pub fn parse_number(text: &str) -> u64 {
    let text = text.trim();
    if text == "max" || text.starts_with('-') { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// The `key value` lines of a flat-keyed file.
pub fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, parse_number(value)))
}

/// The value of one key of a flat-keyed file.
pub fn key(text: &str, name: &str) -> Option<u64> {
    flat(text).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn read_path(path: &Path) -> io::Result<String> {
    // Room for what the kernel gives at once: such files have no size to go by, and growing step by step takes many reads.
    let mut text = String::with_capacity(PAGE);
    // Through `take`, because a file read as such is first asked for its size.
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    text.shrink_to_fit();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_and_minus_one_are_no_limit() {
        assert_eq!(parse_number("max\n"), u64::MAX);
        assert_eq!(parse_number("-1\n"), u64::MAX);
        assert_eq!(parse_number("42\n"), 42);
    }

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 3\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(key(text, "oom_kill"), Some(1));
        assert_eq!(key(text, "kill"), None);
    }
}
