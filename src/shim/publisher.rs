//! The journal of events: one ordered queue, one sender, nothing lost while the shim lives.
//!
//! ```text
//! service, reaper --publish--> queue --one in flight--> Events/Forward at TTRPC_ADDRESS
//!                                ^                        |
//!                                '--- stays in front <----' until containerd has answered
//! ```
//!
//! An event leaves the queue when containerd has acknowledged it. Until then it is sent again, over a new connection
//! and after a growing pause: a lost answer makes a duplicate, which containerd tolerates, and never a gap. The queue is
//! bounded: what makes new processes waits for [room](Journal::room), and a daemon that is away asks for none.
//!
//! An idle journal has no timer. Its connection is kept, and found dead only when it is used again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::Client;
use containerd_shim_protos::topics;
use protobuf::Message;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use ttrpc::asynchronous::transport::Socket;

use super::proto::{Any, events};
use crate::sys::memory;

/// A task event: a message that has a topic.
pub trait Event: Message {
    const TOPIC: &'static str;
}

macro_rules! events {
    ($($message:ident = $topic:ident;)*) => {$(
        impl Event for events::$message {
            const TOPIC: &'static str = topics::$topic;
        }
    )*};
}

events! {
    TaskCreate = TASK_CREATE_EVENT_TOPIC;
    TaskStart = TASK_START_EVENT_TOPIC;
    TaskOOM = TASK_OOM_EVENT_TOPIC;
    TaskExit = TASK_EXIT_EVENT_TOPIC;
    TaskDelete = TASK_DELETE_EVENT_TOPIC;
    TaskExecAdded = TASK_EXEC_ADDED_EVENT_TOPIC;
    TaskExecStarted = TASK_EXEC_STARTED_EVENT_TOPIC;
    TaskPaused = TASK_PAUSED_EVENT_TOPIC;
    TaskResumed = TASK_RESUMED_EVENT_TOPIC;
    TaskCheckpointed = TASK_CHECKPOINTED_EVENT_TOPIC;
}

/// So many events may wait before new processes do. Some 50 KiB: each clone has what the queue lies in copied as it is used.
const ROOM: usize = 256;
/// If so many have waited, what they took is worth giving back.
const MANY: usize = 64;
/// How long a caller is slowed down where there is none.
const SLOWED: Duration = Duration::from_secs(1);

/// How long the sender waits for what.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// For containerd's answer to one event.
    call: Duration,
    /// After the first failure; doubled by each further one.
    first_pause: Duration,
    longest_pause: Duration,
}

const PACE: Pace = Pace {
    call: Duration::from_secs(10),
    first_pause: Duration::from_millis(50),
    longest_pause: Duration::from_secs(5),
};

/// Where events are published. Clones share one queue.
#[derive(Clone)]
pub struct Journal(Option<Arc<Shared>>);

/// An event that waits, as small as it can be.
#[derive(Clone)]
struct Waiting {
    topic: &'static str,
    /// An encoded `ForwardRequest`.
    request: Vec<u8>,
}

struct Shared {
    queue: Mutex<VecDeque<Waiting>>,
    namespace: String,
    /// Something was queued, or will be.
    queued: Notify,
    /// The queue became empty.
    drained: Notify,
    /// An event was taken, or cannot be.
    taken: Notify,
    /// containerd could not be reached with the last event.
    away: AtomicBool,
    /// Somebody waits for the queue to become empty: cut the pause short.
    hurry: Notify,
}

impl Journal {
    /// A journal that delivers to containerd at `ttrpc_address`. Must be called inside the runtime.
    pub fn new(ttrpc_address: &str, namespace: &str) -> Self {
        Self::with_pace(ttrpc_address, namespace, PACE)
    }

    fn with_pace(ttrpc_address: &str, namespace: &str, pace: Pace) -> Self {
        if ttrpc_address.is_empty() {
            ::log::warn!("containerd gave no TTRPC_ADDRESS: events have nowhere to go and are discarded");
            return Self(None);
        }
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            namespace: namespace.to_owned(),
            queued: Notify::new(),
            drained: Notify::new(),
            taken: Notify::new(),
            away: AtomicBool::new(false),
            hurry: Notify::new(),
        });
        let path = ttrpc_address.strip_prefix("unix://").unwrap_or(ttrpc_address).to_owned();
        tokio::spawn(Sender { shared: shared.clone(), path, pace, link: None }.run());
        Self(Some(shared))
    }

    /// Queues an event behind all earlier ones. Never waits; may be called from any thread.
    pub fn publish<E: Event>(&self, event: &E, at: SystemTime) {
        let Some(shared) = &self.0 else { return };
        // Encoding into memory fails only above 2 GiB.
        let value = event.write_to_bytes().unwrap_or_default();
        let type_url = format!("containerd.events.{}", E::NAME);
        let any = Any { type_url, value, ..Default::default() };
        let envelope = Envelope {
            timestamp: Some(timestamp(at)).into(),
            namespace: shared.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: Some(any).into(),
            ..Default::default()
        };
        let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
        let request = request.write_to_bytes().unwrap_or_default();
        shared.queue().push_back(Waiting { topic: E::TOPIC, request });
        shared.queued.notify_one();
    }

    /// The first event is to come: whoever waits behind it need not wait for the connection.
    pub fn expect(&self) {
        if let Some(shared) = &self.0 {
            shared.queued.notify_one();
        }
    }

    /// Waits while containerd takes events more slowly than they come, but not for long: it slows a caller, and blocks none.
    pub async fn room(&self) {
        let _ = tokio::time::timeout(SLOWED, self.taken_below_room()).await;
    }

    async fn taken_below_room(&self) {
        let Some(shared) = &self.0 else { return };
        loop {
            // ORDER: registered before the look, as in `drained`.
            let taken = shared.taken.notified();
            if shared.queue().len() < ROOM || shared.away.load(Ordering::Relaxed) {
                return;
            }
            taken.await;
        }
    }

    /// Waits until everything is delivered, but no longer than `limit`. Returns how many events are left.
    pub async fn flush(&self, limit: Duration) -> usize {
        let Some(shared) = &self.0 else { return 0 };
        shared.hurry.notify_one();
        // A time-out is no error here: the caller reads it off the number of events left.
        let _ = tokio::time::timeout(limit, shared.drained()).await;
        shared.queue().len()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest event, once there is one.
    async fn front(&self) -> Waiting {
        loop {
            if let Some(event) = self.queue().front().cloned() {
                return event;
            }
            self.queued.notified().await;
        }
    }

    fn pop(&self) {
        let mut queue = self.queue();
        queue.pop_front();
        let drained = queue.is_empty();
        let were_many = drained && queue.capacity() > MANY;
        if were_many {
            *queue = VecDeque::new();
        }
        drop(queue);
        if drained {
            self.drained.notify_waiters();
        }
        if were_many {
            // Whoever made them may have been idle for long, and has given back what was free then.
            memory::give_back();
        }
        self.set_away(false);
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
        self.taken.notify_waiters();
    }

    async fn drained(&self) {
        loop {
            // ORDER: registered before the look at the queue, or the last delivery could slip in between.
            let drained = self.drained.notified();
            if self.queue().is_empty() {
                return;
            }
            drained.await;
        }
    }
}

struct Sender {
    shared: Arc<Shared>,
    path: String,
    pace: Pace,
    link: Option<Client>,
}

impl Sender {
    async fn run(mut self) {
        self.shared.queued.notified().await;
        // Should it fail, the event that comes tries again.
        self.link = connect(&self.path).await.ok();
        let mut pause = self.pace.first_pause;
        loop {
            let event = self.shared.front().await;
            // A kept connection may have died while nothing was sent; that is no reason to pause.
            let kept = self.link.is_some();
            match self.deliver(event.request).await {
                Ok(()) => {
                    self.shared.pop();
                    pause = self.pace.first_pause;
                }
                Err(e) if is_refusal(&e) => {
                    // Sent again it would be refused again, and everything behind it would wait for ever.
                    ::log::error!("publish {}: containerd refuses the event: {e}", event.topic);
                    self.shared.pop();
                }
                Err(e) => {
                    self.link = None;
                    if !kept {
                        self.shared.set_away(true);
                        self.wait(pause, event.topic, e).await;
                        pause = (pause * 2).min(self.pace.longest_pause);
                    }
                }
            }
        }
    }

    async fn deliver(&mut self, payload: Vec<u8>) -> ttrpc::Result<()> {
        let link = match &self.link {
            Some(link) => link,
            None => self.link.insert(connect(&self.path).await?),
        };
        let request = ttrpc::Request {
            service: "containerd.services.events.ttrpc.v1.Events".to_owned(),
            method: "Forward".to_owned(),
            timeout_nano: self.pace.call.as_nanos() as i64,
            payload,
            ..Default::default()
        };
        link.request(request).await.map(drop)
    }

    async fn wait(&self, pause: Duration, topic: &str, e: ttrpc::Error) {
        if pause == self.pace.first_pause {
            ::log::warn!("publish {topic}: {e}; trying again until containerd answers");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.shared.hurry.notified() => {}
        }
    }
}

/// Connects without blocking the thread: ttrpc's own connect waits in the kernel while a stopped daemon's backlog is full.
async fn connect(path: &str) -> ttrpc::Result<Client> {
    let stream = UnixStream::connect(path).await;
    let stream = stream.map_err(|e| ttrpc::Error::Socket(format!("connect to {path}: {e}")))?;
    Ok(Client::new(Socket::from(stream)))
}

/// Whether containerd has judged the event itself, rather than failed to take it.
fn is_refusal(e: &ttrpc::Error) -> bool {
    matches!(e, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::INVALID_ARGUMENT)
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32, ..Default::default() }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
