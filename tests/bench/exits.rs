//! The moment each exit event arrives: containerd's end of the event channel, reduced to that.
//!
//! The tests' own event server is asked every ten milliseconds; here that would be most of what is measured.

use crate::support::wire;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task::TaskExit;
use protobuf::Message;
use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use ttrpc::proto::{Request, Response};

/// A User-Mode Linux may need a minute for what takes a moment elsewhere.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Default)]
pub struct Exits {
    /// By the id of the process: the container's own, or an exec's.
    seen: Arc<(Mutex<HashMap<String, Instant>>, Condvar)>,
}

impl Exits {
    pub fn listen(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("bind the event socket");
        let exits = Self::default();
        let server = exits.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (server.clone(), stream.expect("accept"));
                thread::spawn(move || server.serve(&stream));
            }
        });
        exits
    }

    fn serve(&self, stream: &UnixStream) {
        while let Ok((number, body)) = wire::read_frame(stream) {
            let arrival = Instant::now();
            let request = Request::parse_from_bytes(&body).expect("a ttrpc request");
            let forward = api::ForwardRequest::parse_from_bytes(&request.payload).expect("a ForwardRequest");
            if forward.envelope.topic == "/tasks/exit" {
                let exit = TaskExit::parse_from_bytes(&forward.envelope.event.value).expect("a TaskExit");
                self.seen.0.lock().expect("lock").insert(exit.id, arrival);
                self.seen.1.notify_all();
            }
            let answer = Response::default().write_to_bytes().expect("encode");
            if wire::write_frame(stream, number, wire::RESPONSE, &answer).is_err() {
                return;
            }
        }
    }

    /// When the event came; it is forgotten thereby.
    pub fn wait_for(&self, id: &str) -> Instant {
        let deadline = Instant::now() + LIMIT;
        let mut seen = self.seen.0.lock().expect("lock");
        loop {
            if let Some(arrival) = seen.remove(id) {
                return arrival;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no exit event of {id}");
            seen = self.seen.1.wait_timeout(seen, left).expect("lock").0;
        }
    }
}
