//! The stdio addresses of a Create or Exec request: what each scheme means, and which are refused.
//!
//! COMPAT: as in containerd-shim-runc-v2 a plain path is a FIFO (or whatever is there), and a logger's arguments are the
//! keys and values of the query, one after the other.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Error;

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Null,
    /// A plain path or `fifo://`: something that exists, normally a FIFO of the client.
    Fifo(PathBuf),
    /// `file://`: appended to, made when missing.
    File(PathBuf),
    Logger(Program),
}

/// A logger of a `binary://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub path: OsString,
    pub args: Vec<OsString>,
    /// `binary-v2`: the logger says that it is ready with a byte; an early end of file means that it failed.
    pub strict: bool,
}

/// Reads the address of `stream` (`stdin`, `stdout`, `stderr`).
pub(super) fn parse(stream: &'static str, uri: &str) -> Result<Target, Error> {
    if uri.is_empty() {
        return Ok(Target::Null);
    }
    let Some((scheme, rest)) = split_scheme(uri) else {
        return Ok(Target::Fifo(uri.into()));
    };
    let (path, query) = split_path(rest);
    let path = decode(path, false);
    let target = match scheme {
        "fifo" => Target::Fifo(path.into()),
        "file" => Target::File(path.into()),
        "binary" | "binary-v2" if stream != "stdin" => {
            Target::Logger(Program { path, args: arguments(query), strict: scheme == "binary-v2" })
        }
        _ => return Err(Error::Scheme { stream, uri: uri.chars().take(256).collect() }),
    };
    Ok(target)
}

/// RFC 3986, section 3.1; a path has no scheme.
fn split_scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    let mut chars = scheme.chars();
    let valid = chars.next()?.is_ascii_alphabetic()
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some((scheme, rest))
}

/// Leaves out the authority and the fragment: (path, query).
fn split_path(rest: &str) -> (&str, &str) {
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    match path.strip_prefix("//") {
        Some(authority) => (authority.find('/').map_or("", |at| &authority[at..]), query),
        None => (path, query),
    }
}

/// The query as arguments: each key, then the first of its values.
fn arguments(query: &str) -> Vec<OsString> {
    let mut keys: Vec<OsString> = Vec::new();
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, true);
        if keys.contains(&key) {
            continue;
        }
        args.extend([key.clone(), decode(value, true)]);
        keys.push(key);
    }
    args
}

/// Percent-decoding; a malformed escape stands for itself. In a query `+` is a space.
fn decode(text: &str, query: bool) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            (b'+', _) if query => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    OsString::from_vec(out)
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_address_is_null_and_a_plain_path_a_fifo() {
        assert_eq!(parse("stdout", "").unwrap(), Target::Null);
        assert_eq!(parse("stdout", "/run/a b%20c:d").unwrap(), Target::Fifo("/run/a b%20c:d".into()));
        assert_eq!(parse("stdin", "fifo:///run/a%20b").unwrap(), Target::Fifo("/run/a b".into()));
        assert_eq!(parse("stderr", "file:///var/log/x.log").unwrap(), Target::File("/var/log/x.log".into()));
    }

    #[test]
    fn a_logger_gets_its_query_as_arguments_in_order() {
        let uri = "binary:///usr/bin/log%20it?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib&id=a+b&flag&id=again";
        let args =
            ["_NERDCTL_INTERNAL_LOGGING", "/var/lib", "id", "a b", "flag", ""].map(OsString::from).to_vec();
        let program = Program { path: "/usr/bin/log it".into(), args, strict: false };
        assert_eq!(parse("stdout", uri).unwrap(), Target::Logger(program));
    }

    #[test]
    fn an_unsupported_scheme_is_named_with_those_that_are_supported() {
        let error = parse("stdout", "ttrpc+unix:///run/x.sock?streaming_id=1").unwrap_err().to_string();
        assert!(error.contains("ttrpc+unix:///run/x.sock"), "{error}");
        assert!(error.contains("binary://"), "{error}");
        assert!(parse("stdin", "binary:///bin/cat").is_err());
    }
}
