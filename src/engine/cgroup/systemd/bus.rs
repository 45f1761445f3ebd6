//! One conversation with a D-Bus peer: connect, authenticate, call, wait for a signal, hang up.
//!
//! Synchronous and bounded: everything of one conversation ends at one deadline, whoever does not answer. No thread, and
//! no connection that outlives its use. D-Bus specification, "Authentication Protocol", "Message Bus".

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::address::Address;
use super::message::{Call, FIXED, Incoming, length};
use super::value::Reader;
use crate::sys::socket::connect_unix;

/// COMPAT: what runc waits for systemd. `SYSTEMD_BUS_TIMEOUT` changes it, as it does for systemd's own tools.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the environment names no bus: set DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR")]
    Nowhere,
    #[error("cannot connect to {0}: is systemd running here?")]
    Connect(String),
    #[error("no answer from {bus} within {} s: is it alive? (systemctl is-system-running)", .after.as_secs())]
    TimedOut { bus: String, after: Duration },
    #[error("{bus} closed the connection{why}")]
    Closed { bus: String, why: &'static str },
    #[error("{bus} does not speak D-Bus as it should: {what}")]
    Malformed { bus: String, what: &'static str },
    /// An error reply: its D-Bus name and its text.
    #[error("{text} ({name})")]
    Refused { name: String, text: String },
}

type Result<T> = std::result::Result<T, BusError>;

/// A connection in use.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    name: String,
    pub direct: bool,
    begun: Instant,
    patience: Duration,
    serial: u32,
    /// Signals that came while a reply was waited for.
    early: Vec<Incoming>,
}

impl Bus {
    /// Connects to the first of `addresses` that takes the connection. All that is asked of it has to be answered `within`.
    pub fn open(addresses: &[Address], within: Duration) -> Result<Bus> {
        let patience = patience(std::env::var("SYSTEMD_BUS_TIMEOUT").ok().as_deref()).min(within);
        let mut failures = Vec::new();
        for address in addresses {
            match connect_unix(&address.path, patience) {
                Ok(socket) => return Bus::greet(socket.into(), address, patience),
                Err(e) if e.is(libc::EAGAIN) => {
                    return Err(BusError::TimedOut { bus: address.text(), after: patience });
                }
                Err(e) => failures.push(format!("{} ({e})", address.text())),
            }
        }
        Err(if failures.is_empty() { BusError::Nowhere } else { BusError::Connect(failures.join(", ")) })
    }

    fn greet(stream: UnixStream, address: &Address, patience: Duration) -> Result<Bus> {
        let (name, direct, begun) = (address.text(), address.direct, Instant::now());
        let mut bus = Bus { stream, name, direct, begun, patience, serial: 0, early: Vec::new() };
        bus.authenticate()?;
        if !direct {
            let (path, interface) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
            let arguments = Vec::new();
            bus.call(&Call { destination: interface, path, interface, member: "Hello", arguments })?;
        }
        Ok(bus)
    }

    /// EXTERNAL without an identity: the peer takes the socket's credentials. A uid of ours would be wrong in a user
    /// namespace, where the bus knows us by another one.
    ///
    /// ORDER: BEGIN goes with a question whose answer is waited for. systemd reads ahead while it authenticates, and a
    /// message that it has got hold of that way it does not look at until the next one comes.
    fn authenticate(&mut self) -> Result<()> {
        const REST: &str = "NEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
        self.write(b"\0AUTH EXTERNAL\r\n")?;
        let mut answer = self.line()?;
        if answer == "DATA" || answer.starts_with("DATA ") {
            self.write(format!("DATA\r\n{REST}").as_bytes())?;
            answer = self.line()?;
        } else if answer.starts_with("OK ") {
            self.write(REST.as_bytes())?;
        }
        if !answer.starts_with("OK ") {
            return Err(self.malformed("it refuses to authenticate this user (EXTERNAL)"));
        }
        // Descriptors are neither sent nor wanted: whether it agrees is all the same.
        self.line().map(drop)
    }

    /// A line of the authentication protocol. Byte by byte: what follows the last one is messages already.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(self.malformed("an endless line"));
            }
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| self.malformed("a line that is not text"))
    }

    /// Calls a method; the body of its reply.
    ///
    /// # Errors
    /// `Refused` if the peer answers with an error.
    pub fn call(&mut self, call: &Call<'_>) -> Result<Vec<u8>> {
        self.serial += 1;
        self.write(&call.encode(self.serial))?;
        loop {
            match self.next()? {
                Incoming::Return { to, body } if to == self.serial => return Ok(body),
                Incoming::Error { to, name, body } if to == self.serial => {
                    let text = Reader::new(&body).string().unwrap_or_default();
                    return Err(BusError::Refused { name, text });
                }
                signal @ Incoming::Signal { .. } => self.early.push(signal),
                _ => {}
            }
        }
    }

    /// The next signal called `member` about which `wanted` has something to say.
    pub fn signal<T>(&mut self, member: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        let mut waiting = std::mem::take(&mut self.early).into_iter();
        loop {
            let next = waiting.next().map_or_else(|| self.next(), Ok)?;
            if let Incoming::Signal { member: name, body } = next
                && name == member
                && let Some(found) = wanted(&body)
            {
                return Ok(found);
            }
        }
    }

    fn next(&mut self) -> Result<Incoming> {
        let mut fixed = [0; FIXED];
        self.read(&mut fixed)?;
        let length = length(&fixed).ok_or_else(|| self.malformed("no message, or one beyond all measure"))?;
        let mut message = fixed.to_vec();
        message.resize(length, 0);
        self.read(&mut message[FIXED..])?;
        Incoming::parse(&message).ok_or_else(|| self.malformed("a header that breaks the rules"))
    }

    fn read(&mut self, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            let left = self.left()?;
            let done = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(into));
            match done {
                Ok(0) => return Err(self.closed()),
                Ok(count) => into = &mut into[count..],
                Err(e) => self.judge(&e)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let left = self.left()?;
            let done = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write(bytes));
            match done {
                Ok(count) => bytes = &bytes[count..],
                Err(e) => self.judge(&e)?,
            }
        }
        Ok(())
    }

    /// A time-out ends with the deadline, for which `left` looks; an interruption is no end at all.
    fn judge(&self, e: &std::io::Error) -> Result<()> {
        match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
            _ => Err(self.closed()),
        }
    }

    fn left(&self) -> Result<Duration> {
        let left = self.patience.saturating_sub(self.begun.elapsed());
        let late = || BusError::TimedOut { bus: self.name.clone(), after: self.patience };
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }

    fn closed(&self) -> BusError {
        let why = if self.serial == 0 { ": it may not want to talk to this user" } else { "" };
        BusError::Closed { bus: self.name.clone(), why }
    }

    pub fn malformed(&self, what: &'static str) -> BusError {
        BusError::Malformed { bus: self.name.clone(), what }
    }
}

/// `SYSTEMD_BUS_TIMEOUT`: seconds, or a number with `s`, `ms` or `min` (systemd.time(7)).
fn patience(given: Option<&str>) -> Duration {
    let parsed = given.map(str::trim).and_then(|text| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok().filter(|n| *n > 0)?;
        match text[digits..].trim() {
            "" | "s" | "sec" => Some(Duration::from_secs(number)),
            "ms" => Some(Duration::from_millis(number)),
            "min" => Some(Duration::from_secs(number * 60)),
            _ => None,
        }
    });
    parsed.unwrap_or(PATIENCE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn address(path: &std::path::Path) -> Address {
        Address { path: path.as_os_str().as_encoded_bytes().to_vec(), direct: true }
    }

    #[test]
    fn a_peer_that_says_nothing_is_named_with_the_time_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let _mute = UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        let told = Bus::greet(stream, &address(&path), Duration::from_millis(20)).unwrap_err().to_string();
        assert!(told.starts_with(&format!("no answer from {}", path.display())), "{told}");
    }

    #[test]
    fn a_peer_that_hangs_up_or_talks_nonsense_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        for (answer, expected) in [("", "closed the connection"), ("REJECTED\r\n", "refuses to authenticate")]
        {
            let stream = UnixStream::connect(&path).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(answer.as_bytes()).unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let told = Bus::greet(stream, &address(&path), PATIENCE).unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let told = Bus::open(&[Address { path: b"/no/such/bus".to_vec(), direct: true }], Duration::MAX)
            .unwrap_err();
        assert!(told.to_string().contains("/no/such/bus (connect: ENOENT"), "{told}");
        assert!(matches!(Bus::open(&[], Duration::MAX), Err(BusError::Nowhere)));
    }

    #[test]
    fn the_environment_can_change_how_long_an_answer_is_waited_for() {
        let given = ["3", "4s", "500 ms", "2min", "0", "soon"].map(|text| patience(Some(text)).as_millis());
        assert_eq!(given, [3000, 4000, 500, 120_000, 30_000, 30_000]);
    }
}
