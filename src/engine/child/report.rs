//! The report socket's records: fixed size, written without allocation, read back as values.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::super::plan::Sync;
use super::Progress;
use crate::sys::{self, Error, Result};

const SIZE: usize = 256;
const FAILED: u8 = 0;
const LISTENER: u8 = 4;
const BORN: u8 = 5;
const CALL_AT: usize = 8;
const CALL_MAX: usize = 40;
const NOTE_AT: usize = CALL_AT + CALL_MAX;

/// One record, as the shim reads it.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Step number `step` failed in `call` with `errno`; `note` says more.
    Failed {
        step: usize,
        call: String,
        errno: i32,
        note: String,
    },
    Reached(Sync),
    /// The seccomp filter is loaded, and its listener is the child's descriptor of this number.
    Listener(i32),
    /// The process is another one from here on, named by the pidfd that comes along; the one before ends.
    Born,
    /// No word within the limit, while the child was at step `step`.
    Late {
        step: usize,
        limit: Duration,
    },
    /// The socket closed: the program runs (or the child is dead, which its pidfd tells).
    Closed,
}

/// Child: says that step `index` failed.
pub fn failed(socket: BorrowedFd<'_>, index: usize, error: &Error, note: &[u8]) {
    let mut record = [0u8; SIZE];
    record[0] = FAILED;
    record[2..4].copy_from_slice(&(index as u16).to_le_bytes());
    record[4..8].copy_from_slice(&error.errno.to_le_bytes());
    let call = &error.call.as_bytes()[..error.call.len().min(CALL_MAX)];
    record[CALL_AT..CALL_AT + call.len()].copy_from_slice(call);
    let note = &note[..note.len().min(SIZE - NOTE_AT)];
    record[NOTE_AT..NOTE_AT + note.len()].copy_from_slice(note);
    // Where the profile's filter holds already, write(2) is the likelier one to be left. The shim may be gone (EPIPE, SIGPIPE):
    // then there is nobody to tell, and the child exits all the same.
    let _ = sys::fs::write(socket, &record).or_else(|_| sys::socket::send(socket, &record, None));
}

/// Child: says that `point` is reached, with the terminal's master if there is one.
pub fn reached(socket: BorrowedFd<'_>, point: Sync, terminal: Option<OwnedFd>) -> Result<()> {
    sys::socket::send(socket, &[point as u8], terminal.as_ref().map(AsFd::as_fd))
}

/// Child: says who it is, having taken over from the one that was cloned first.
pub fn born(socket: BorrowedFd<'_>) -> Result<()> {
    let me = sys::process::pidfd_open(sys::process::getpid())?;
    sys::socket::send(socket, &[BORN], Some(me.as_fd()))
}

/// Child: waits for one byte. A closed socket means that the shim gave up on this process.
pub fn wait_for_go(socket: BorrowedFd<'_>) -> Result<()> {
    let mut go = [0u8; 1];
    match sys::socket::recv(socket, &mut go)? {
        (0, _) => sys::process::exit(1),
        _ => Ok(()),
    }
}

/// Child: says that its descriptor `number` is the seccomp listener, and waits until the shim has taken it. Plain
/// write(2) and read(2), because the filter holds already.
pub fn listener(socket: BorrowedFd<'_>, number: i32) -> Result<()> {
    let [a, b, c, d] = number.to_le_bytes();
    sys::fs::write(socket, &[LISTENER, a, b, c, d])?;
    let mut go = [0u8; 1];
    match sys::fs::read(socket, &mut go)? {
        [] => sys::process::exit(1),
        _ => Ok(()),
    }
}

/// Shim: says go. To a child that is dead as well: reading tells that.
pub fn go(socket: BorrowedFd<'_>) -> Result<()> {
    match sys::socket::send(socket, &[1], None) {
        Err(e) if e.is(libc::EPIPE) => Ok(()),
        told => told,
    }
}

/// Shim: is there a record to read, or the end? A child that waits for its go has nothing to say.
pub fn has_word(socket: BorrowedFd<'_>) -> bool {
    sys::process::poll_in(socket, 0).unwrap_or(false)
}

/// Shim: the next record, and the descriptor that came with it. Blocks, but not beyond the child's limit.
pub fn receive(socket: BorrowedFd<'_>, progress: Progress) -> Result<(Message, Option<OwnedFd>)> {
    let limit = progress.limit;
    if !sys::process::poll_in(socket, limit.as_millis().try_into().unwrap_or(i32::MAX))? {
        return Ok((Message::Late { step: progress.step(), limit }, None));
    }
    let mut record = [0u8; SIZE];
    let (n, fd) = match sys::socket::recv(socket, &mut record) {
        // KERNEL: of a peer that died with our go unread, ECONNRESET is told once, before what it has said and before the end.
        Err(e) if e.is(libc::ECONNRESET) => sys::socket::recv(socket, &mut record)?,
        r => r?,
    };
    Ok((parse(&record[..n]), fd))
}

/// Reads a record. Anything malformed counts as closed: nothing the child sends can do harm.
pub fn parse(record: &[u8]) -> Message {
    match record {
        [FAILED, rest @ ..] if rest.len() == SIZE - 1 => Message::Failed {
            step: usize::from(u16::from_le_bytes([record[2], record[3]])),
            errno: i32::from_le_bytes([record[4], record[5], record[6], record[7]]),
            call: text(&record[CALL_AT..NOTE_AT]),
            note: text(&record[NOTE_AT..]),
        },
        [LISTENER, number @ ..] if number.len() == 4 => {
            Message::Listener(i32::from_le_bytes([record[1], record[2], record[3], record[4]]))
        }
        [1] => Message::Reached(Sync::IdMap),
        [2] => Message::Reached(Sync::Hooks),
        [3] => Message::Reached(Sync::Ready),
        [BORN] => Message::Born,
        _ => Message::Closed,
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_the_socket_whole() {
        let (a, b) = sys::socket::seqpacket_pair().unwrap();
        failed(a.as_fd(), 7, &Error::new("fsmount", libc::EPERM), b"why");
        let (message, fd) = receive(b.as_fd(), Progress::new(None)).unwrap();
        assert!(fd.is_none());
        let (call, note) = ("fsmount".to_string(), "why".to_string());
        assert_eq!(message, Message::Failed { step: 7, call, errno: libc::EPERM, note });
    }

    #[test]
    fn a_terminal_travels_with_ready() {
        let (a, b) = sys::socket::seqpacket_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        reached(a.as_fd(), Sync::Ready, Some(null.into())).unwrap();
        let (message, fd) = receive(b.as_fd(), Progress::new(None)).unwrap();
        assert_eq!(message, Message::Reached(Sync::Ready));
        assert!(fd.is_some());
    }

    #[test]
    fn the_listeners_number_crosses_the_socket() {
        let (a, b) = sys::socket::seqpacket_pair().unwrap();
        go(b.as_fd()).unwrap();
        listener(a.as_fd(), 517).unwrap();
        assert_eq!(receive(b.as_fd(), Progress::new(None)).unwrap().0, Message::Listener(517));
    }

    /// Seen to fail where ECONNRESET is taken for the end.
    #[test]
    fn last_words_are_heard_of_a_child_that_has_not_read_its_go() {
        let (a, b) = sys::socket::seqpacket_pair().unwrap();
        go(b.as_fd()).unwrap();
        failed(a.as_fd(), 7, &Error::new("read", libc::ENOSYS), b"");
        drop(a);
        let next = || receive(b.as_fd(), Progress::new(None)).unwrap().0;
        assert!(matches!(next(), Message::Failed { step: 7, .. }));
        assert_eq!(next(), Message::Closed);
    }

    #[test]
    fn silence_beyond_the_limit_tells_the_step() {
        let (_a, b) = sys::socket::seqpacket_pair().unwrap();
        let limit = Duration::from_millis(1);
        let progress = Progress::new(Some(limit));
        progress.begins(9);
        assert_eq!(receive(b.as_fd(), progress).unwrap().0, Message::Late { step: 9, limit });
    }

    #[test]
    fn garbage_and_silence_count_as_closed() {
        assert_eq!(parse(&[]), Message::Closed);
        assert_eq!(parse(&[9, 9]), Message::Closed);
        assert_eq!(parse(&[0; 17]), Message::Closed);
        let (a, b) = sys::socket::seqpacket_pair().unwrap();
        drop(a);
        assert_eq!(receive(b.as_fd(), Progress::new(None)).unwrap().0, Message::Closed);
    }
}
