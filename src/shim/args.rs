//! The command line containerd calls its shims with: Go style flags, then an action.
//!
//! `-flag value`, `-flag=value` and the same with two dashes. Flags that containerd may pass and that do not concern
//! this shim are accepted; an unknown one is refused by name.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the caller wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Start,
    Delete,
    Info,
    Version,
    Help,
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub action: Action,
    pub namespace: String,
    /// The container (or sandbox) the shim is started for.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    pub publish_binary: String,
    pub socket: String,
    /// Given with `delete`; `start` runs in the bundle.
    pub bundle: PathBuf,
    pub debug: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    #[error("flag -{0} is not known (see --help)")]
    UnknownFlag(String),
    #[error("flag -{0} needs a value")]
    MissingValue(&'static str),
    #[error("flag -{0}: {1:?} is not a boolean (true or false)")]
    NotABoolean(&'static str, String),
    #[error("flag -{0}: the value is not UTF-8")]
    NotUtf8(&'static str),
    #[error("flag -{0} is empty")]
    Empty(&'static str),
    #[error(
        "flag -{0}: {1:?} is not an identifier: it must begin with a letter or digit and hold only those and '_', '.', '+', '-'"
    )]
    NotAnIdentifier(&'static str, String),
    #[error("no action: start or delete is expected after the flags (see --help)")]
    NoAction,
    #[error("action {0:?} is not known: start or delete is expected")]
    UnknownAction(String),
    #[error("unexpected argument {0:?} after the action")]
    Trailing(String),
}

const TEXT: [&str; 6] = ["namespace", "id", "address", "publish-binary", "socket", "bundle"];
const BOOLEAN: [&str; 6] = ["debug", "info", "v", "version", "h", "help"];

impl Args {
    /// Parses what follows the program's name.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut args = Args::default();
        let mut words = words.peekable();
        let mut action = None;
        while let Some(flag) = words.next_if(is_flag) {
            if flag == "--" {
                break;
            }
            args.flag(&flag.to_string_lossy(), &mut words, &mut action)?;
        }
        args.action = match action {
            Some(action) => return Ok(Args { action, ..args }),
            None => verb(words.next())?,
        };
        if let Some(more) = words.next() {
            return Err(ArgsError::Trailing(more.to_string_lossy().into_owned()));
        }
        args.check()
    }

    fn flag(
        &mut self,
        word: &str,
        rest: &mut impl Iterator<Item = OsString>,
        action: &mut Option<Action>,
    ) -> Result<(), ArgsError> {
        let bare = word.strip_prefix("--").or(word.strip_prefix('-')).unwrap_or(word);
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        if let Some(name) = TEXT.into_iter().find(|&n| n == name) {
            let value = match value {
                Some(value) => value,
                None => text(name, rest.next())?,
            };
            self.set(name, value);
            return Ok(());
        }
        let Some(name) = BOOLEAN.into_iter().find(|&n| n == name) else {
            return Err(ArgsError::UnknownFlag(name.to_owned()));
        };
        if boolean(name, value)? {
            match name {
                "debug" => self.debug = true,
                "info" => *action = Some(Action::Info),
                "v" | "version" => *action = Some(Action::Version),
                _ => *action = Some(Action::Help),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "socket" => self.socket = value,
            _ => self.bundle = value.into(),
        }
    }

    /// What `start` and `delete` cannot do without.
    fn check(self) -> Result<Self, ArgsError> {
        for (name, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            if value.is_empty() {
                return Err(ArgsError::Empty(name));
            }
            if !is_identifier(value) {
                return Err(ArgsError::NotAnIdentifier(name, value.clone()));
            }
        }
        Ok(self)
    }
}

/// Whether `s` may name a container, a process or a namespace: it becomes part of paths.
pub fn is_identifier(s: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
    s.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && s.bytes().all(rest) && !s.contains("..")
}

fn is_flag(word: &OsString) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.len() > 1 && bytes[0] == b'-'
}

fn text(name: &'static str, word: Option<OsString>) -> Result<String, ArgsError> {
    let word = word.ok_or(ArgsError::MissingValue(name))?;
    word.into_string().map_err(|_| ArgsError::NotUtf8(name))
}

fn boolean(name: &'static str, value: Option<String>) -> Result<bool, ArgsError> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(ArgsError::NotABoolean(name, other.to_owned())),
    }
}

fn verb(word: Option<OsString>) -> Result<Action, ArgsError> {
    match word.as_deref().map(|w| w.to_string_lossy()).as_deref() {
        None => Err(ArgsError::NoAction),
        Some("start") => Ok(Action::Start),
        Some("delete") => Ok(Action::Delete),
        Some(other) => Err(ArgsError::UnknownAction(other.to_owned())),
    }
}

/// What `--help` prints; it stands in for a manual page.
pub const HELP: &str = include_str!("help.txt");

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
