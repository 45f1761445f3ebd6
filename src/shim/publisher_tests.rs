//! The journal against a real ttrpc server on a socket, which comes, goes, hangs and refuses.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::net::UnixListener;
use ttrpc::asynchronous::transport::Listener;
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::super::error;
use super::*;

/// What containerd does with events.
#[derive(Default)]
struct Daemon {
    seen: Mutex<Vec<Envelope>>,
    /// So many calls are never answered.
    hang: AtomicUsize,
    /// The first call is refused.
    refuse: AtomicBool,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

#[async_trait::async_trait]
impl Events for Daemon {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        if self.hang.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.refuse.swap(false, Ordering::SeqCst) {
            return Err(error::invalid_argument("not like this"));
        }
        self.seen.lock().unwrap().push(request.envelope.unwrap_or_default());
        Ok(Empty::new())
    }
}

impl Daemon {
    fn pids(&self) -> Vec<u32> {
        let seen = self.seen.lock().unwrap();
        let pid = |e: &Envelope| events::TaskStart::parse_from_bytes(&e.event.value).unwrap().pid;
        seen.iter().map(pid).collect()
    }
}

struct Bench {
    _tmp: tempfile::TempDir,
    path: PathBuf,
    daemon: Arc<Daemon>,
    journal: Journal,
}

fn bench() -> Bench {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("c.ttrpc");
    let pace = Pace {
        call: Duration::from_millis(200),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
    };
    let journal = Journal::with_pace(&format!("unix://{}", path.display()), "k8s.io", pace);
    Bench { _tmp: tmp, path, daemon: Arc::default(), journal }
}

impl Bench {
    fn publish(&self, pids: impl Iterator<Item = u32>) {
        for pid in pids {
            let event = events::TaskStart { container_id: "c1".into(), pid, ..Default::default() };
            self.journal.publish(&event, UNIX_EPOCH + Duration::new(7, 42));
        }
    }

    async fn serve(&self) -> Server {
        serve(&self.path, self.daemon.clone()).await
    }

    async fn flush(&self) {
        assert_eq!(self.journal.flush(Duration::from_secs(10)).await, 0);
    }
}

async fn serve(path: &Path, daemon: Arc<Daemon>) -> Server {
    let _ = std::fs::remove_file(path);
    let listener = Listener::from(UnixListener::bind(path).unwrap());
    let mut server = Server::new().add_listener(listener).register_service(create_events(daemon));
    server.start().await.unwrap();
    server
}

#[tokio::test]
async fn events_arrive_in_order_one_at_a_time() {
    let bench = bench();
    let _server = bench.serve().await;
    bench.publish(0..200);
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), (0..200).collect::<Vec<_>>());
    assert_eq!(bench.daemon.most_in_flight.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_envelope_says_what_when_and_whose() {
    let bench = bench();
    let _server = bench.serve().await;
    bench.publish(1..2);
    bench.flush().await;
    let seen = bench.daemon.seen.lock().unwrap();
    assert_eq!((seen[0].topic.as_str(), seen[0].namespace.as_str()), ("/tasks/start", "k8s.io"));
    assert_eq!((seen[0].timestamp.seconds, seen[0].timestamp.nanos), (7, 42));
    assert_eq!(seen[0].event.type_url, "containerd.events.TaskStart");
}

#[tokio::test(flavor = "current_thread")]
async fn the_connection_is_there_before_the_event() {
    let bench = bench();
    let listener = UnixListener::bind(&bench.path).unwrap();
    bench.journal.expect();
    tokio::time::timeout(Duration::from_secs(10), listener.accept()).await.expect("a connection").unwrap();
}

#[tokio::test]
async fn events_published_before_containerd_listens_arrive() {
    let bench = bench();
    bench.publish(0..5);
    tokio::time::sleep(Duration::from_millis(30)).await;
    let _server = bench.serve().await;
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), (0..5).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_makes_processes_waits_while_containerd_is_behind_and_not_while_it_is_away() {
    let bench = bench();
    bench.publish(0..2 * ROOM as u32);
    let length = || bench.journal.0.as_ref().unwrap().queue().len();
    bench.journal.room().await;
    assert_eq!(length(), 2 * ROOM, "nobody listens, nobody waits");
    let _server = bench.serve().await;
    while length() == 2 * ROOM {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.journal.room().await;
    assert!(length() < ROOM);
    bench.flush().await;
}

#[tokio::test]
async fn a_restart_in_the_middle_loses_and_reorders_nothing() {
    let bench = bench();
    for round in 0..5 {
        let mut server = bench.serve().await;
        bench.publish(round * 100..round * 100 + 50);
        while bench.daemon.seen.lock().unwrap().len() < (round as usize) * 100 + 20 {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        server.shutdown().await.unwrap();
        bench.publish(round * 100 + 50..round * 100 + 100);
    }
    let _server = bench.serve().await;
    bench.flush().await;
    let mut pids = bench.daemon.pids();
    // An answer that got lost in a shutdown makes a duplicate, next to its original.
    pids.dedup();
    assert_eq!(pids, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_replaced_at_once() {
    let bench = bench();
    let mut server = bench.serve().await;
    bench.publish(0..1);
    bench.flush().await;
    server.shutdown().await.unwrap();
    let _server = bench.serve().await;
    bench.publish(1..2);
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), [0, 1]);
}

#[tokio::test]
async fn an_event_that_is_not_answered_is_sent_again() {
    let bench = bench();
    bench.daemon.hang.store(2, Ordering::SeqCst);
    let _server = bench.serve().await;
    bench.publish(0..3);
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), [0, 1, 2]);
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_the_others() {
    let bench = bench();
    bench.daemon.refuse.store(true, Ordering::SeqCst);
    let _server = bench.serve().await;
    bench.publish(0..3);
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), [1, 2]);
}

#[tokio::test]
async fn publish_never_waits_and_flush_no_longer_than_its_limit() {
    let bench = bench();
    let start = Instant::now();
    bench.publish(0..1000);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(bench.journal.flush(Duration::from_millis(50)).await, 1000);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_stopped_daemon_with_a_full_backlog_does_not_stop_the_shim() {
    let bench = bench();
    let listener = socket_with_backlog_of_one(&bench.path);
    let _fill: Vec<_> =
        (0..2).map(|_| std::os::unix::net::UnixStream::connect(&bench.path).unwrap()).collect();
    bench.publish(0..1);
    let start = Instant::now();
    assert_eq!(bench.journal.flush(Duration::from_millis(50)).await, 1);
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(listener);
    let _server = bench.serve().await;
    bench.flush().await;
    assert_eq!(bench.daemon.pids(), [0]);
}

fn socket_with_backlog_of_one(path: &Path) -> UnixListener {
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(path).unwrap();
    socket.listen(1).unwrap()
}

#[tokio::test]
async fn without_an_address_events_are_discarded() {
    let journal = Journal::new("", "n");
    journal.publish(&events::TaskExit::new(), SystemTime::now());
    assert_eq!(journal.flush(Duration::from_secs(1)).await, 0);
}

/// Publishing, restarts, answers that never come and pauses in any order: nothing is lost, nothing overtakes.
#[tokio::test]
async fn whatever_happens_to_the_listener_every_event_arrives_in_its_turn() {
    for _ in 0..4 {
        let seed = fastrand::u64(..);
        let mut dice = fastrand::Rng::with_seed(seed);
        let bench = bench();
        let (mut server, mut published) = (None, 0);
        for _ in 0..60 {
            match dice.u8(..8) {
                0..4 => {
                    let more = dice.u32(1..20);
                    bench.publish(published..published + more);
                    published += more;
                }
                4 => {
                    if let Some(mut gone) = server.replace(bench.serve().await) {
                        Server::shutdown(&mut gone).await.unwrap();
                    }
                }
                5 => {
                    if let Some(mut gone) = server.take() {
                        Server::shutdown(&mut gone).await.unwrap();
                    }
                }
                6 => bench.daemon.hang.store(1, Ordering::SeqCst),
                _ => tokio::time::sleep(Duration::from_micros(dice.u64(..5000))).await,
            }
        }
        let _last = bench.serve().await;
        bench.flush().await;
        let mut pids = bench.daemon.pids();
        pids.dedup();
        assert_eq!(pids, (0..published).collect::<Vec<_>>(), "seed {seed}");
    }
}
