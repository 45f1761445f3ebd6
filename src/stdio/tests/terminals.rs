//! Terminals: sizes, hang-ups, ends of file, and output that is complete before the exit is.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use super::*;
use crate::sys::tty;

/// A new master of the host's devpts.
fn master() -> OwnedFd {
    let master = File::options().read(true).write(true).open("/dev/pts/ptmx").unwrap().into();
    tty::verify_master(AsFd::as_fd(&master)).unwrap();
    tty::unlock(AsFd::as_fd(&master)).unwrap();
    master
}

/// An opened request with a terminal, and the process's side of it.
async fn terminal(client: &Client) -> (Io, OwnedFd) {
    let req =
        Request { stdin: client.uri("stdin"), stdout: client.uri("stdout"), terminal: true, ..request() };
    let (ends, io) = open(&req).await.unwrap();
    assert!(ends.stdin.is_none() && ends.stdout.is_none() && ends.stderr.is_none());
    let master = master();
    let slave = tty::peer(master.as_fd()).unwrap();
    tty::verify_slave(slave.as_fd()).unwrap();
    io.resize(91, 37).unwrap();
    io.attach_terminal(master).unwrap();
    (io, slave)
}

#[test]
fn only_a_devpts_has_masters() {
    let null = File::open("/dev/null").unwrap();
    assert!(tty::verify_master(null.as_fd()).unwrap_err().is(libc::ENOTTY));
    assert!(tty::verify_slave(null.as_fd()).unwrap_err().is(libc::ENOTTY));
}

#[tokio::test]
async fn a_size_set_before_the_terminal_is_there_holds_and_later_ones_too() {
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    assert_eq!(tty::size(slave.as_fd()).unwrap(), (91, 37));
    io.resize(10, 5).unwrap();
    assert_eq!(tty::size(slave.as_fd()).unwrap(), (10, 5));
}

#[tokio::test]
async fn megabytes_written_before_the_exit_all_arrive() {
    const BYTES: usize = 4 << 20;
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    let mut reader = client.reader("stdout").await.unwrap();
    let read = spawn_blocking(move || {
        let mut buffer = vec![0; 4000];
        let mut sum = 0;
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return sum,
                n => sum += buffer[..n].iter().filter(|b| **b == b'x').count(),
            }
            if sum % 7 == 0 {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    });
    spawn_blocking(move || File::from(slave).write_all(&vec![b'x'; BYTES]).unwrap()).await.unwrap();
    io.drained(20 * SECOND).await;
    assert_eq!(read.await.unwrap(), BYTES);
}

#[tokio::test]
async fn a_terminal_that_was_closed_can_be_opened_again() {
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    let reader = client.reader("stdout").await.unwrap();
    let path =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&slave))).unwrap();
    File::from(slave).write_all(b"first").unwrap();
    tokio::time::sleep(SECOND / 20).await;
    let mut again = File::options().write(true).open(path).unwrap();
    again.write_all(b" second").unwrap();
    drop(again);
    io.drained(SECOND).await;
    assert_eq!(
        spawn_blocking(move || std::io::read_to_string(reader).unwrap()).await.unwrap(),
        "first second"
    );
}

/// The leader's exit hangs the terminal up before the shim hears of it; the next output still counts.
#[tokio::test]
async fn output_survives_the_hang_up_by_the_leaders_exit() {
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    let reader = client.reader("stdout").await.unwrap();
    let read = spawn_blocking(move || std::io::read_to_string(reader).unwrap());
    let slave = || Stdio::from(slave.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", "sh", "-c", "stty -opost; (sleep 30 & ); seq 20000"])
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    tokio::time::sleep(SECOND / 20).await;
    io.drained(5 * SECOND).await;
    io.close(SECOND).await;
    let got = read.await.unwrap();
    let expected: String = (1..=20000).map(|i| format!("{i}\n")).collect();
    assert_eq!(got.len(), expected.len());
    assert!(got == expected);
}

#[tokio::test]
async fn a_background_holder_of_the_terminal_does_not_delay_the_drain() {
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    let mut reader = client.reader("stdout").await.unwrap();
    let mut process = File::from(slave.try_clone().unwrap());
    process.write_all(b"words").unwrap();
    let start = Instant::now();
    io.drained(10 * SECOND).await;
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    let mut got = [0; 5];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"words");
    io.close(5 * SECOND).await;
    assert!(start.elapsed() < SECOND / 2, "{:?}", start.elapsed());
    drop(slave);
}

async fn typed_then_closed(typed: &'static [u8]) -> Vec<Vec<u8>> {
    let client = Client::new();
    let (io, slave) = terminal(&client).await;
    let mut writer = client.writer("stdin").await.unwrap();
    writer.write_all(typed).unwrap();
    drop(writer);
    io.close_stdin();
    let reads = spawn_blocking(move || {
        let mut slave = File::from(slave);
        let mut reads = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match slave.read(&mut buffer).unwrap() {
                0 => return reads,
                n => reads.push(buffer[..n].to_vec()),
            }
        }
    });
    reads.await.unwrap()
}

#[tokio::test]
async fn close_io_is_an_end_of_file_at_the_start_of_a_line_and_within_one() {
    assert_eq!(typed_then_closed(b"a line\n").await, [b"a line\n"]);
    assert_eq!(typed_then_closed(b"no newline").await, [b"no newline"]);
    assert!(typed_then_closed(b"").await.is_empty());
}

#[tokio::test]
async fn a_terminal_without_an_address_is_read_all_the_same() {
    let (_, io) = open(&Request { terminal: true, ..request() }).await.unwrap();
    let master = master();
    let slave = tty::peer(master.as_fd()).unwrap();
    io.attach_terminal(master).unwrap();
    spawn_blocking(move || File::from(slave).write_all(&[b'x'; 300_000]).unwrap()).await.unwrap();
    io.drained(SECOND).await;
}

#[tokio::test]
async fn an_idle_terminal_wakes_nobody_not_even_after_a_hang_up() {
    let client = Client::new();
    let (_io, slave) = terminal(&client).await;
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", "echo", "bye"])
        .stdin(stdio())
        .stdout(stdio())
        .spawn();
    let ended = spawn_blocking(move || child.as_mut().unwrap().wait().unwrap().success());
    assert!(ended.await.unwrap());
    super::falls_idle().await;
}
