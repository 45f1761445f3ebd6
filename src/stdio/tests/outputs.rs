//! stdout and stderr: nothing is lost, nobody gets EPIPE, and every wait has an end.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::*;

const MUCH: usize = 100_000_000;

#[tokio::test]
async fn output_arrives_whole_at_a_slow_reader() {
    let client = Client::new();
    let (mut stdout, io) = client.stdout_only().await;
    let reader = client.reader("stdout").await.unwrap();
    let read = spawn_blocking(move || read_pattern(reader, true));
    spawn_blocking(move || write_pattern(&mut stdout, MUCH)).await.unwrap();
    io.drained(5 * SECOND).await;
    assert_eq!(read.await.unwrap(), MUCH);
    io.close(SECOND).await;
}

#[tokio::test]
async fn small_writes_arrive_in_order_at_a_reader_that_comes_late() {
    let client = Client::new();
    let (mut stdout, io) = client.stdout_only().await;
    // As many writes as a FIFO of the default size has no slots for.
    for i in 0..200 {
        writeln!(stdout, "line {i}").unwrap();
        tokio::task::yield_now().await;
    }
    let late = client.reader("stdout");
    let read = spawn_blocking(move || {
        let mut all = String::new();
        tokio::runtime::Handle::current().block_on(late).unwrap().read_to_string(&mut all).unwrap();
        all
    });
    tokio::time::sleep(SECOND / 10).await;
    drop(stdout);
    io.drained(SECOND).await;
    let expected: String = (0..200).map(|i| format!("line {i}\n")).collect();
    assert_eq!(read.await.unwrap(), expected);
}

#[tokio::test]
async fn a_reader_that_leaves_and_comes_back_misses_nothing() {
    let client = Client::new();
    let (mut stdout, io) = client.stdout_only().await;
    let mut reader = client.reader("stdout").await.unwrap();
    stdout.write_all(b"before ").unwrap();
    let (got, reader) = spawn_blocking(move || {
        let mut got = [0; 7];
        reader.read_exact(&mut got).unwrap();
        (got, reader)
    })
    .await
    .unwrap();
    assert_eq!(&got, b"before ");
    drop(reader);
    // More than the FIFO and the pipe hold together.
    let writer = spawn_blocking(move || write_pattern(&mut stdout, 10_000_000));
    tokio::time::sleep(SECOND / 5).await;
    assert!(!writer.is_finished(), "the writer must wait, not fail");
    let reader = client.reader("stdout").await.unwrap();
    let read = spawn_blocking(move || read_pattern(reader, false));
    writer.await.unwrap();
    io.drained(SECOND).await;
    assert_eq!(read.await.unwrap(), 10_000_000);
}

#[tokio::test]
async fn a_background_holder_delays_neither_the_drain_nor_much_the_close() {
    let client = Client::new();
    let (mut stdout, io) = client.stdout_only().await;
    let holder = stdout.try_clone().unwrap();
    let mut reader = client.reader("stdout").await.unwrap();
    stdout.write_all(b"last words").unwrap();
    drop(stdout);
    let start = Instant::now();
    io.drained(10 * SECOND).await;
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    let mut got = [0; 10];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"last words");
    io.close(5 * SECOND).await;
    assert!(start.elapsed() < SECOND / 2, "{:?}", start.elapsed());
    assert_eq!(reader.read(&mut got).unwrap(), 0);
    drop(holder);
}

#[tokio::test]
async fn the_drain_is_bounded_when_nobody_reads() {
    let client = Client::new();
    let (mut stdout, io) = client.stdout_only().await;
    let writer = spawn_blocking(move || stdout.write_all(&vec![b'x'; 20_000_000]).is_err());
    let start = Instant::now();
    tokio::time::sleep(SECOND / 10).await;
    io.drained(SECOND / 5).await;
    io.close(5 * SECOND).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert!(writer.await.unwrap(), "after Delete nobody reads");
    io.close(5 * SECOND).await;
}

#[tokio::test]
async fn what_was_never_started_closes_at_once() {
    let client = Client::new();
    let (stdout, io) = client.stdout_only().await;
    let start = Instant::now();
    io.close(10 * SECOND).await;
    assert!(start.elapsed() < SECOND / 10);
    drop(stdout);
}

#[tokio::test]
async fn the_end_of_the_process_is_the_end_of_the_clients_stream() {
    let client = Client::new();
    let (stdout, _io) = client.stdout_only().await;
    let reader = client.reader("stdout").await.unwrap();
    let read = spawn_blocking(move || read_pattern(reader, false));
    drop(stdout);
    assert_eq!(read.await.unwrap(), 0);
}

#[tokio::test]
async fn two_streams_share_one_file_and_append_to_it() {
    let client = Client::new();
    let log = client.path("new/dir/log");
    let uri = format!("file://{}", log.display());
    for _ in 0..2 {
        let (ends, io) =
            open(&Request { stdout: uri.clone(), stderr: uri.clone(), ..request() }).await.unwrap();
        let (mut out, mut err) = (file(ends.stdout), file(ends.stderr));
        let write = spawn_blocking(move || {
            out.write_all(&[b'o'; 300_000]).unwrap();
            err.write_all(&[b'e'; 300_000]).unwrap();
        });
        write.await.unwrap();
        io.drained(SECOND).await;
        io.close(SECOND).await;
    }
    let written = std::fs::read(log).unwrap();
    assert_eq!(written.len(), 1_200_000);
    assert_eq!(written.iter().filter(|b| **b == b'o').count(), 600_000);
}

#[tokio::test]
async fn a_full_disk_neither_blocks_nor_kills_the_workload() {
    let req = Request { stdout: "/dev/full".into(), ..request() };
    let (ends, io) = open(&req).await.unwrap();
    let mut stdout = file(ends.stdout);
    spawn_blocking(move || write_pattern(&mut stdout, 1_000_000)).await.unwrap();
    io.drained(SECOND).await;
}

#[tokio::test]
async fn a_user_can_open_dev_stdout_anew() {
    if request().owner.0 != 0 {
        eprintln!("SKIP a_user_can_open_dev_stdout_anew: needs root to become another user");
        return;
    }
    let client = Client::new();
    let req = Request { stdout: client.uri("stdout"), owner: (1234, 1235), ..request() };
    let (ends, io) = open(&req).await.unwrap();
    let mut reader = client.reader("stdout").await.unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "echo again > /dev/stdout"])
        .stdout(Stdio::from(ends.stdout.unwrap()))
        .uid(1234)
        .gid(1235)
        .spawn()
        .unwrap();
    assert!(spawn_blocking(move || child.wait()).await.unwrap().unwrap().success());
    io.drained(SECOND).await;
    let mut got = String::new();
    spawn_blocking(move || {
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "again\n");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_address_that_does_not_exist_is_named() {
    let error = open(&Request { stderr: "/nowhere/fifo".into(), ..request() }).await.err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("open stderr /nowhere/fifo: No such file"), "{text}");
}

/// `cargo test --release --lib throughput -- --ignored --nocapture`
#[tokio::test]
#[ignore = "#5: a measurement of the pump alone, for a quiet machine"]
async fn throughput_and_cpu_of_one_gibibyte() {
    const BYTES: usize = 1 << 30;
    for _ in 0..3 {
        let client = Client::new();
        let (mut stdout, io) = client.stdout_only().await;
        let mut reader = client.reader("stdout").await.unwrap();
        let start = (Instant::now(), cpu_of_this_thread());
        let read = spawn_blocking(move || {
            let mut buffer = vec![0; 1 << 20];
            let mut sum = 0;
            loop {
                match reader.read(&mut buffer).unwrap() {
                    0 => return sum,
                    n => sum += n,
                }
            }
        });
        spawn_blocking(move || {
            let block = vec![1; 64 << 10];
            (0..BYTES / block.len()).for_each(|_| stdout.write_all(&block).unwrap());
        })
        .await
        .unwrap();
        io.drained(SECOND).await;
        assert_eq!(read.await.unwrap(), BYTES);
        let (wall, cpu) = (start.0.elapsed(), cpu_of_this_thread() - start.1);
        eprintln!("{:.0} MB/s, {:.3} s of CPU", BYTES as f64 / 1e6 / wall.as_secs_f64(), cpu.as_secs_f64());
    }
}

#[tokio::test]
async fn idle_streams_wake_nobody() {
    let client = Client::new();
    let req = Request {
        stdin: client.uri("stdin"),
        stdout: client.uri("stdout"),
        stderr: client.uri("stderr"),
        ..request()
    };
    let (ends, io) = open(&req).await.unwrap();
    let (mut out, mut err) = (file(ends.stdout), file(ends.stderr));
    out.write_all(b"some").unwrap();
    // One that nobody reads, and that is full.
    let full = spawn_blocking(move || err.write_all(&[0; 4_000_000]).is_err());
    falls_idle().await;
    io.drained(SECOND / 100).await;
    io.close(SECOND).await;
    assert!(full.await.unwrap());
}
