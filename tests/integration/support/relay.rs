//! A socket between the shim and a D-Bus bus: everything is passed on, and what the shim says is remembered. That the
//! shim spoke to the bus, and to no socket beside it, is then seen and not believed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// What was said, one text per connection.
type Said = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Relay {
    socket: PathBuf,
    said: Said,
}

impl Relay {
    pub fn to(bus: &Path, folder: &Path) -> Self {
        let (socket, bus, said) = (folder.join("relay"), bus.to_owned(), Said::default());
        let (listener, all) = (UnixListener::bind(&socket).expect("bind"), said.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let peer = UnixStream::connect(&bus).expect("connect to the bus");
                let at = {
                    let mut all = all.lock().expect("lock");
                    all.push(Vec::new());
                    all.len() - 1
                };
                let ends = (client.try_clone().expect("dup"), peer.try_clone().expect("dup"));
                let all = all.clone();
                thread::spawn(move || pass(client, peer, |text| all.lock().expect("lock")[at].extend(text)));
                thread::spawn(move || pass(ends.1, ends.0, |_| ()));
            }
        });
        Self { socket, said }
    }

    /// In the form of `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// One connection said all of these words, in this order.
    #[track_caller]
    pub fn assert_said(&self, words: &[&str]) {
        let all = self.said.lock().expect("lock");
        let said = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            let rest =
                words.iter().try_fold(&*text, |rest, word| rest.split_once(word).map(|(_, rest)| rest));
            rest.is_some()
        };
        let texts: Vec<_> = all.iter().map(|text| String::from_utf8_lossy(text)).collect();
        assert!(all.iter().any(|text| said(text)), "nobody said {words:?}, but {texts:?}");
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut heard: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        heard(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
