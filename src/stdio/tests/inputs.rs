//! stdin: ends with CloseIO, not with a client that detaches.

use std::io::{Read, Write};

use super::*;

async fn stdin_of(client: &Client) -> (File, Io) {
    let (ends, io) = open(&Request { stdin: client.uri("stdin"), ..request() }).await.unwrap();
    (file(ends.stdin), io)
}

#[tokio::test]
async fn input_arrives_whole_at_a_slow_process_and_ends_with_close_io() {
    let client = Client::new();
    let (stdin, io) = stdin_of(&client).await;
    let mut writer = client.writer("stdin").await.unwrap();
    let read = spawn_blocking(move || read_pattern(stdin, true));
    spawn_blocking(move || write_pattern(&mut writer, 100_000_000)).await.unwrap();
    io.close_stdin();
    assert_eq!(read.await.unwrap(), 100_000_000);
}

#[tokio::test]
async fn a_client_that_detaches_does_not_end_stdin() {
    let client = Client::new();
    let (mut stdin, io) = stdin_of(&client).await;
    for word in [b"one", b"two"] {
        client.writer("stdin").await.unwrap().write_all(word).unwrap();
        let mut got = [0; 3];
        (stdin, got) = spawn_blocking(move || {
            stdin.read_exact(&mut got).unwrap();
            (stdin, got)
        })
        .await
        .unwrap();
        assert_eq!(&got, word);
    }
    let end = spawn_blocking(move || stdin.read(&mut [0]).unwrap());
    tokio::time::sleep(SECOND / 10).await;
    assert!(!end.is_finished());
    io.close_stdin();
    assert_eq!(end.await.unwrap(), 0);
}

#[tokio::test]
async fn after_close_io_the_client_alone_holds_the_writing_end() {
    let client = Client::new();
    let (mut stdin, io) = stdin_of(&client).await;
    let mut writer = client.writer("stdin").await.unwrap();
    io.close_stdin();
    tokio::time::sleep(SECOND / 20).await;
    writer.write_all(b"late").unwrap();
    drop(writer);
    let read = spawn_blocking(move || {
        let mut got = String::new();
        stdin.read_to_string(&mut got).unwrap();
        got
    });
    assert_eq!(read.await.unwrap(), "late");
}

#[tokio::test]
async fn a_client_is_told_when_the_process_is_gone() {
    let client = Client::new();
    let (stdin, io) = stdin_of(&client).await;
    let mut writer = client.writer("stdin").await.unwrap();
    drop(stdin);
    // The held writer keeps the FIFO's inode, not its reader.
    let told = spawn_blocking(move || (0..10_000).any(|_| writer.write_all(&[0; 4096]).is_err()));
    assert!(told.await.unwrap());
    io.close(SECOND).await;
}

#[tokio::test]
async fn a_regular_file_is_handed_over() {
    let client = Client::new();
    std::fs::write(client.path("file"), "text").unwrap();
    let (ends, _io) = open(&Request { stdin: client.uri("file"), ..request() }).await.unwrap();
    let mut got = String::new();
    file(ends.stdin).read_to_string(&mut got).unwrap();
    assert_eq!(got, "text");
}
