//! The status a client sees: a ttrpc code and a message of bounded length.

use std::fmt::Display;

use ttrpc::{Code, Error};

/// A status carries no more than this; containerd wraps it several times and logs every wrapping.
const MAX_MESSAGE: usize = 4 << 10;
const CUT: &str = " […] ";

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Display) -> Error {
            status(Code::$code, message)
        }
    )*};
}

statuses! {
    /// No such container, exec or process; also a signal for a process that has ended.
    not_found = NOT_FOUND;
    already_exists = ALREADY_EXISTS;
    /// Right request, wrong moment: the state does not allow it.
    failed_precondition = FAILED_PRECONDITION;
    invalid_argument = INVALID_ARGUMENT;
    /// Not a feature of this runtime, or of this kernel.
    unimplemented = UNIMPLEMENTED;
    unavailable = UNAVAILABLE;
    internal = INTERNAL;
    /// What containerd makes of an error without a code. COMPAT: Go's shim answers most failures of the runtime so.
    unknown = UNKNOWN;
}

impl From<crate::sys::fault::Injected> for Error {
    fn from(e: crate::sys::fault::Injected) -> Self {
        internal(e)
    }
}

fn status(code: Code, message: impl Display) -> Error {
    Error::RpcStatus(ttrpc::get_status(code, bounded(message.to_string())))
}

/// Cuts a long message in the middle: it begins with what was being done and ends with the cause.
fn bounded(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let half = (MAX_MESSAGE - CUT.len()) / 2;
    let head = &message[..message.floor_char_boundary(half)];
    let tail = message.len() - half;
    let tail = (tail..).find(|&i| message.is_char_boundary(i)).map_or("", |i| &message[i..]);
    [head, CUT, tail].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(e: Error) -> (Code, String) {
        match e {
            Error::RpcStatus(s) => (s.code(), s.message),
            other => panic!("not a status: {other}"),
        }
    }

    #[test]
    fn a_short_message_arrives_as_it_is() {
        assert_eq!(parts(not_found("container c1")), (Code::NOT_FOUND, "container c1".into()));
    }

    #[test]
    fn a_long_message_keeps_both_ends() {
        let (_, message) = parts(internal(format!("begin{}end", "x".repeat(10_000))));
        assert!(message.len() <= MAX_MESSAGE, "{}", message.len());
        assert!(message.starts_with("begin") && message.ends_with("end") && message.contains(CUT));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        for shift in 0..4 {
            let (_, message) = parts(internal(format!("{}{}", "x".repeat(shift), "😀".repeat(3_000))));
            assert!(message.len() <= MAX_MESSAGE);
        }
    }
}
