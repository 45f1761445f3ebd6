//! containerd's end of the event channel: a ttrpc server that keeps every event in the order of its arrival.

use super::wire;
use containerd_shim_protos::api;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use ttrpc::proto::{Request, Response};

/// Seconds since the epoch, and nanoseconds.
pub type Time = (i64, i32);

pub fn time(timestamp: &MessageField<Timestamp>) -> Option<Time> {
    timestamp.as_ref().map(|time| (time.seconds, time.nanos))
}

/// One event, with the fields that the tests ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub topic: String,
    pub type_url: String,
    pub namespace: String,
    pub container: String,
    /// The exec's id; for events of init, empty or the container's own id.
    pub exec: String,
    pub pid: u32,
    pub exit_status: u32,
    pub exited_at: Option<Time>,
}

impl Event {
    /// Short form for comparing orders: `exit` or `exit/exec1`.
    pub fn name(&self) -> String {
        let topic = self.topic.trim_start_matches("/tasks/").to_owned();
        if self.exec.is_empty() || self.exec == self.container {
            topic
        } else {
            format!("{topic}/{}", self.exec)
        }
    }
}

#[derive(Clone)]
pub struct EventServer {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<Event>>>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

struct Connection {
    stream: UnixStream,
    served: JoinHandle<()>,
}

impl EventServer {
    pub fn new(socket: &Path) -> Self {
        let server = Self { socket: socket.to_owned(), seen: Arc::default(), connections: Arc::default() };
        server.listen();
        server
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).expect("bind the event socket");
        let server = self.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // The stopper's own knock: the socket's name is gone by then.
                if !server.socket.exists() {
                    return;
                }
                let kept = stream.try_clone().expect("dup");
                let serving = server.clone();
                let served = thread::spawn(move || serving.serve(&stream));
                server.connections.lock().expect("lock").push(Connection { stream: kept, served });
            }
        });
    }

    /// As if containerd had died: the socket is gone and every connection with it.
    pub fn stop(&self) {
        let aside = self.socket.with_extension("gone");
        std::fs::rename(&self.socket, &aside).expect("move the socket away");
        let _ = UnixStream::connect(&aside);
        std::fs::remove_file(&aside).expect("remove the socket");
        let connections = std::mem::take(&mut *self.connections.lock().expect("lock"));
        for Connection { stream, served } in connections {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            // What a dead daemon has read it does not note later: the next one may know more by then. Its panic is shown already.
            let _ = served.join();
        }
    }

    /// The end of the test: threads and descriptors of this server go.
    pub fn end(&self) {
        if self.socket.exists() {
            self.stop();
        }
    }

    pub fn resume(&self) {
        self.listen();
    }

    fn serve(&self, stream: &UnixStream) {
        while let Ok((number, body)) = wire::read_frame(stream) {
            let request = Request::parse_from_bytes(&body).expect("a ttrpc request");
            assert_eq!(
                (request.service.as_str(), request.method.as_str()),
                ("containerd.services.events.ttrpc.v1.Events", "Forward")
            );
            let forward = api::ForwardRequest::parse_from_bytes(&request.payload).expect("a ForwardRequest");
            self.seen.lock().expect("lock").push(event(&forward.envelope));
            let answer = Response::default().write_to_bytes().expect("encode");
            if wire::write_frame(stream, number, wire::RESPONSE, &answer).is_err() {
                return;
            }
        }
    }

    pub fn seen(&self) -> Vec<Event> {
        self.seen.lock().expect("lock").clone()
    }

    /// Has this event of this container arrived? The newest are looked at first.
    pub fn told(&self, container: &str, name: &str) -> bool {
        let seen = self.seen.lock().expect("lock");
        seen.iter().rev().any(|event| event.container == container && event.name() == name)
    }

    pub fn names(&self) -> Vec<String> {
        self.seen().iter().map(Event::name).collect()
    }

    #[track_caller]
    pub fn wait_for(&self, name: &str) -> Event {
        super::eventually(&format!("event {name}, having {:?}", self.names()), super::SOON, || {
            self.seen().into_iter().find(|event| event.name() == name)
        })
    }
}

/// Reads by the topic: the event's type name must be the one that belongs to it.
pub fn event(envelope: &containerd_shim_protos::shim::event::Envelope) -> Event {
    use containerd_shim_protos::events::task as t;
    fn read<M: Message>(any: &protobuf::well_known_types::any::Any, name: &str) -> M {
        assert_eq!(any.type_url.rsplit('/').next(), Some(name), "type of the event");
        M::parse_from_bytes(&any.value).expect("the event's message")
    }
    let any = &envelope.event;
    let mut exited_at = None;
    let (container, exec, pid, exit_status) = match envelope.topic.as_str() {
        "/tasks/create" => {
            let e: t::TaskCreate = read(any, "containerd.events.TaskCreate");
            (e.container_id, String::new(), e.pid, 0)
        }
        "/tasks/start" => {
            let e: t::TaskStart = read(any, "containerd.events.TaskStart");
            (e.container_id, String::new(), e.pid, 0)
        }
        "/tasks/exit" => {
            let e: t::TaskExit = read(any, "containerd.events.TaskExit");
            exited_at = time(&e.exited_at);
            (e.container_id, e.id, e.pid, e.exit_status)
        }
        "/tasks/delete" => {
            let e: t::TaskDelete = read(any, "containerd.events.TaskDelete");
            exited_at = time(&e.exited_at);
            (e.container_id, e.id, e.pid, e.exit_status)
        }
        "/tasks/oom" => {
            let e: t::TaskOOM = read(any, "containerd.events.TaskOOM");
            (e.container_id, String::new(), 0, 0)
        }
        "/tasks/exec-added" => {
            let e: t::TaskExecAdded = read(any, "containerd.events.TaskExecAdded");
            (e.container_id, e.exec_id, 0, 0)
        }
        "/tasks/exec-started" => {
            let e: t::TaskExecStarted = read(any, "containerd.events.TaskExecStarted");
            (e.container_id, e.exec_id, e.pid, 0)
        }
        "/tasks/paused" => {
            let e: t::TaskPaused = read(any, "containerd.events.TaskPaused");
            (e.container_id, String::new(), 0, 0)
        }
        "/tasks/resumed" => {
            let e: t::TaskResumed = read(any, "containerd.events.TaskResumed");
            (e.container_id, String::new(), 0, 0)
        }
        "/tasks/checkpointed" => {
            let e: t::TaskCheckpointed = read(any, "containerd.events.TaskCheckpointed");
            (e.container_id, String::new(), 0, 0)
        }
        other => panic!("a topic that no client knows: {other}"),
    };
    let namespace = envelope.namespace.clone();
    Event {
        topic: envelope.topic.clone(),
        type_url: any.type_url.clone(),
        namespace,
        container,
        exec,
        pid,
        exit_status,
        exited_at,
    }
}
