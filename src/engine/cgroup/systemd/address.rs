//! Where systemd can be reached: the system manager's or a user manager's own socket, or the bus it is on
//! (D-Bus specification, "Server Addresses"; systemd(1), user@.service(5)).

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::engine::rootless;
use crate::sys::cred::geteuid;

/// Whose systemd is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    System,
    User,
}

impl Owner {
    /// Root asks the machine's systemd, an ordinary user its own. Root of a user namespace may be either: where its
    /// environment knows a bus of a user, it is one.
    pub fn of_this_process() -> Owner {
        let names_a_bus =
            || ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"].iter().any(|n| std::env::var_os(n).is_some());
        match rootless::is_rootless() && (geteuid() != 0 || names_a_bus()) {
            true => Owner::User,
            false => Owner::System,
        }
    }
}

/// A socket to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As connect(2) takes it: an abstract name begins with a zero.
    pub path: Vec<u8>,
    /// systemd itself listens there, without a bus in between: no Hello, no match rules.
    pub direct: bool,
}

impl Address {
    fn new(path: impl Into<Vec<u8>>, direct: bool) -> Self {
        Self { path: path.into(), direct }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.path).replace('\0', "@")
    }
}

/// The sockets to try, in order. Empty if the environment names none.
pub fn candidates(owner: Owner, environment: impl Fn(&str) -> Option<OsString>) -> Vec<Address> {
    let given = |name: &str| environment(name).filter(|value| !value.is_empty());
    let text = |name: &str| given(name).map(|value| value.to_string_lossy().into_owned());
    match owner {
        // COMPAT: an address in the environment is obeyed as runc obeys it.
        Owner::System => match text("DBUS_SYSTEM_BUS_ADDRESS") {
            Some(list) => parse(&list),
            // Direct first: it works without a bus daemon, and with fewer round trips.
            None => vec![
                Address::new("/run/systemd/private", true),
                Address::new("/run/dbus/system_bus_socket", false),
            ],
        },
        Owner::User => match (text("DBUS_SESSION_BUS_ADDRESS"), text("XDG_RUNTIME_DIR")) {
            (Some(list), _) => parse(&list),
            (None, Some(dir)) => vec![
                Address::new(format!("{dir}/bus"), false),
                Address::new(format!("{dir}/systemd/private"), true),
            ],
            (None, None) => Vec::new(),
        },
    }
}

/// The unix sockets of a list such as `unix:path=/run/bus,guid=…;unix:abstract=x`.
fn parse(list: &str) -> Vec<Address> {
    let one = |address: &str| {
        let keys = address.strip_prefix("unix:")?.split(',').filter_map(|pair| pair.split_once('='));
        keys.into_iter().find_map(|(key, value)| match key {
            "path" => Some(Address::new(unescape(value), value.ends_with("/systemd/private"))),
            "abstract" => Some(Address::new([vec![0], unescape(value)].concat(), false)),
            _ => None,
        })
    };
    list.split(';').filter_map(one).collect()
}

/// Undoes `%2f` and the like.
fn unescape(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (out.push(byte), rest = &tail[2..]).1,
            None => (out.push(*first), rest = tail).1,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(owner: Owner, environment: &[(&str, &str)]) -> Vec<String> {
        let get = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        candidates(owner, get).iter().map(Address::text).collect()
    }

    #[test]
    fn the_system_manager_is_asked_directly_first() {
        assert_eq!(found(Owner::System, &[]), ["/run/systemd/private", "/run/dbus/system_bus_socket"]);
        let given = [("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=x;unix:path=/a%20b,guid=1;unix:abstract=c")];
        assert_eq!(found(Owner::System, &given), ["/a b", "@c"]);
    }

    #[test]
    fn a_user_manager_is_named_by_the_environment_alone() {
        assert!(found(Owner::User, &[]).is_empty());
        let runtime = ("XDG_RUNTIME_DIR", "/run/user/7");
        assert_eq!(found(Owner::User, &[runtime]), ["/run/user/7/bus", "/run/user/7/systemd/private"]);
        let session = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/tmp/bus");
        assert_eq!(found(Owner::User, &[runtime, session]), ["/tmp/bus"]);
    }
}
