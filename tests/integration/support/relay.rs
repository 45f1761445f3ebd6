//! A socket between the shim and a D-Bus bus: everything is passed on, and what the shim says is remembered. That the
//! shim spoke to the bus, and to no socket beside it, is then seen and not believed.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What was said, one text per connection.
type Said = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Relay {
    socket: PathBuf,
    said: Said,
    /// Nothing is passed on, either way, while somebody has it.
    gate: Arc<Mutex<()>>,
}

impl Relay {
    /// Its path ends as the bus's own does: by that the shim tells systemd itself from a bus.
    pub fn to(bus: &Path, folder: &Path) -> Self {
        let socket = folder.join("relay").join(bus.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(socket.parent().expect("a folder")).expect("make a folder");
        let (bus, said, gate) = (bus.to_owned(), Said::default(), Arc::new(Mutex::new(())));
        let (listener, all, closed) =
            (UnixListener::bind(&socket).expect("bind"), said.clone(), gate.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let peer = UnixStream::connect(&bus).expect("connect to the bus");
                let at = {
                    let mut all = all.lock().expect("lock");
                    all.push(Vec::new());
                    all.len() - 1
                };
                let ends = (client.try_clone().expect("dup"), peer.try_clone().expect("dup"));
                let (all, wait) = (all.clone(), closed.clone());
                let heard = move |text: &[u8]| {
                    drop(wait.lock());
                    all.lock().expect("lock")[at].extend(text);
                };
                let wait = closed.clone();
                thread::spawn(move || pass(client, peer, heard));
                thread::spawn(move || pass(ends.1, ends.0, |_| drop(wait.lock())));
            }
        });
        Self { socket, said, gate }
    }

    /// Calls that begin now are under way until this is dropped.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().expect("lock")
    }

    /// Connections to this socket, as the kernel lists them (proc_net(5)): each stays until nobody has a descriptor of the
    /// other end any more. State 3 is a connection, 1 the socket that listens.
    pub fn connections(&self) -> usize {
        let path = self.socket.to_str().expect("a plain path");
        let table = fs::read_to_string("/proc/net/unix").expect("read the list of sockets");
        let connected = |line: &&str| line.ends_with(path) && line.split_whitespace().nth(5) == Some("03");
        table.lines().filter(connected).count()
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
