//! The report socket's records: fixed size, written without allocation, read back as values.

use std::cell::Cell;
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

/// The shim's end of a child's report socket: the gate.
#[derive(Debug)]
pub struct Report {
    socket: OwnedFd,
    progress: Progress,
    /// The child has had its time for the next record already.
    is_due: Cell<bool>,
}

impl Report {
    pub fn new(socket: OwnedFd, progress: Progress) -> Self {
        Self { socket, progress, is_due: Cell::new(false) }
    }

    /// How long the child may take for its next record.
    pub fn limit(&self) -> Duration {
        self.progress.limit
    }

    /// Somebody has waited for the next record for so long: nobody waits again.
    pub fn set_due(&self) {
        self.is_due.set(true);
    }

    /// The step at which the child is.
    pub fn step(&self) -> usize {
        self.progress.step()
    }

    /// Says go. To a child that is dead as well: reading tells that.
    pub fn go(&self) -> Result<()> {
        match sys::socket::send(self.as_fd(), &[1], None) {
            Err(e) if e.is(libc::EPIPE) => Ok(()),
            told => told,
        }
    }

    /// Has it closed? Then it says nothing more.
    pub fn has_closed(&self) -> bool {
        let mut record = [0u8; 1];
        matches!(sys::socket::peek(self.as_fd(), &mut record), Ok(0))
    }

    /// Is there a record to read, or the end? A child that waits for its go has nothing to say.
    pub fn has_word(&self) -> bool {
        sys::process::poll_in(self.as_fd(), 0).unwrap_or(false)
    }

    /// The next record, and the descriptor that came with it. Blocks, but not beyond the child's limit.
    pub fn next(&self) -> Result<(Message, Option<OwnedFd>)> {
        let limit = self.limit();
        let wait = if self.is_due.take() { 0 } else { limit.as_millis().try_into().unwrap_or(i32::MAX) };
        if !sys::process::poll_in(self.as_fd(), wait)? {
            return Ok((Message::Late { step: self.step(), limit }, None));
        }
        let mut record = [0u8; SIZE];
        let (n, fd) = match sys::socket::recv(self.as_fd(), &mut record) {
            // KERNEL: of a peer that died with our go unread, ECONNRESET is told once, before what it has said and before the end.
            Err(e) if e.is(libc::ECONNRESET) => sys::socket::recv(self.as_fd(), &mut record)?,
            r => r?,
        };
        Ok((parse(&record[..n]), fd))
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
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

    /// The child's end and the shim's.
    fn pair() -> (OwnedFd, Report) {
        let (child, shim) = sys::socket::seqpacket_pair().unwrap();
        (child, Report::new(shim, Progress::new(None)))
    }

    #[test]
    fn a_failure_crosses_the_socket_whole() {
        let (child, shim) = pair();
        failed(child.as_fd(), 7, &Error::new("fsmount", libc::EPERM), b"why");
        let (message, fd) = shim.next().unwrap();
        assert!(fd.is_none());
        let (call, note) = ("fsmount".to_string(), "why".to_string());
        assert_eq!(message, Message::Failed { step: 7, call, errno: libc::EPERM, note });
    }

    #[test]
    fn a_terminal_travels_with_ready() {
        let (child, shim) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        reached(child.as_fd(), Sync::Ready, Some(null.into())).unwrap();
        let (message, fd) = shim.next().unwrap();
        assert_eq!(message, Message::Reached(Sync::Ready));
        assert!(fd.is_some());
    }

    #[test]
    fn the_listeners_number_crosses_the_socket() {
        let (child, shim) = pair();
        shim.go().unwrap();
        listener(child.as_fd(), 517).unwrap();
        assert_eq!(shim.next().unwrap().0, Message::Listener(517));
    }

    /// Seen to fail where ECONNRESET is taken for the end.
    #[test]
    fn last_words_are_heard_of_a_child_that_has_not_read_its_go() {
        let (child, shim) = pair();
        shim.go().unwrap();
        failed(child.as_fd(), 7, &Error::new("read", libc::ENOSYS), b"");
        drop(child);
        assert!(matches!(shim.next().unwrap().0, Message::Failed { step: 7, .. }));
        assert_eq!(shim.next().unwrap().0, Message::Closed);
    }

    #[test]
    fn silence_beyond_the_limit_tells_the_step() {
        let (_child, shim) = sys::socket::seqpacket_pair().unwrap();
        let limit = Duration::from_millis(1);
        let progress = Progress::new(Some(limit));
        progress.begins(9);
        assert_eq!(Report::new(shim, progress).next().unwrap().0, Message::Late { step: 9, limit });
    }

    #[test]
    fn what_was_said_last_comes_before_the_end() {
        let (child, shim) = pair();
        assert!(!shim.has_closed());
        reached(child.as_fd(), Sync::Ready, None).unwrap();
        drop(child);
        assert!(!shim.has_closed());
        assert_eq!(shim.next().unwrap().0, Message::Reached(Sync::Ready));
        assert!(shim.has_closed() && shim.has_closed());
        assert_eq!(shim.next().unwrap().0, Message::Closed);
    }

    #[test]
    fn nobody_waits_twice() {
        let (child, shim) = pair();
        shim.set_due();
        let begun = std::time::Instant::now();
        assert_eq!(shim.next().unwrap().0, Message::Late { step: 0, limit: shim.limit() });
        assert!(begun.elapsed() < shim.limit());
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            reached(child.as_fd(), Sync::Ready, None)
        });
        assert_eq!(
            shim.next().unwrap().0,
            Message::Reached(Sync::Ready),
            "the record after it has its own time"
        );
        late.join().unwrap().unwrap();
    }

    #[test]
    fn garbage_and_silence_count_as_closed() {
        assert_eq!(parse(&[]), Message::Closed);
        assert_eq!(parse(&[9, 9]), Message::Closed);
        assert_eq!(parse(&[0; 17]), Message::Closed);
        let (child, shim) = pair();
        drop(child);
        assert_eq!(shim.next().unwrap().0, Message::Closed);
    }
}
