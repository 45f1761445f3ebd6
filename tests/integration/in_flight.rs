//! Calls in flight by the hundred: what is worked on at once is bounded, none is lost, and Kill waits for none of them.

use crate::support::hung::{self, Hung};
use crate::support::older_kernel::while_opened;
use crate::support::shim::{Host, Shim, Stdio3};
use crate::support::wire::Client;
use crate::support::{SOON, eventually, leak, subject};
use crate::{needs, needs_containers};
use containerd_shim_protos::api;
use protobuf::Message;
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;

/// As in `shim/service.rs`.
const IN_FLIGHT: usize = 128;
const QUERIES: usize = 32;
/// What the shim may take for them, in kB: ten times what it does.
const MEMORY: usize = 64 << 10;

/// Calls on one connection, whose answers come in any order.
struct Crowd<'s, 'h> {
    shim: &'s Shim<'h>,
    client: Client,
    sent: usize,
}

impl<'s, 'h> Crowd<'s, 'h> {
    fn new(shim: &'s Shim<'h>) -> Self {
        Self { shim, client: shim.client(), sent: 0 }
    }

    fn send(&mut self, method: &str, request: &impl Message) {
        self.client.send(self.shim.service(), method, request).expect("send");
        self.sent += 1;
    }

    fn is_silent(&self) -> bool {
        !myshim::sys::process::poll_in(self.client.raw().as_fd(), 0).expect("poll")
    }

    /// Every call has one answer; those that are no failures.
    #[track_caller]
    fn answers<A: Message>(mut self) -> Vec<A> {
        let mut streams = HashSet::new();
        let answers: Vec<_> = (0..self.sent).map(|_| self.client.receive_next::<A>()).collect();
        assert!(answers.iter().all(|(stream, _)| streams.insert(*stream)), "one was answered twice");
        answers.into_iter().filter_map(|(_, answer)| answer.ok()).collect()
    }
}

/// A number of proc_pid_status(5).
fn status(pid: i32, field: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the shim's status");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("a field").trim().trim_end_matches(" kB").parse().expect("a number")
}

/// To see it fail: in `shim/service.rs` raise `IN_FLIGHT`.
#[test]
fn of_hundreds_of_calls_in_flight_a_bounded_number_is_worked_on_and_kill_waits_for_none() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim bounds nothing");
    let host = Host::new();
    let Some(mut hung) = Hung::on(&host.folder().join("hung"), hung::OPEN) else {
        needs!(false, "this machine has no FUSE");
        return;
    };
    let mut bundle = host.bundle("a", "exec sleep 1000");
    bundle.set("/annotations", json!({"io.containerd.myshim.setup-timeout": "1000s"}));
    hung.bind(&mut bundle, "/hung");
    let shim = host.start(bundle);
    shim.run();
    let (mut starts, mut waits) = (Crowd::new(&shim), Crowd::new(&shim));
    let process = shim.bundle.process(&["/hung/x"]);
    for number in 0..IN_FLIGHT + 22 {
        let (id, exec_id) = (shim.id(), format!("e{number}"));
        shim.exec_process(&exec_id, &process, &Stdio3::default()).expect("Exec");
        starts.send("Start", &api::StartRequest { id, exec_id, ..Default::default() });
    }
    for _ in 0..50 {
        waits.send("Wait", &api::WaitRequest { id: shim.id(), ..Default::default() });
    }
    // Each Start that has its turn has made its process, and init is one more.
    let at_work = || leak::children_of(shim.pid).len();
    eventually("as many as may be are at work", SOON, || (at_work() == IN_FLIGHT + 1).then_some(()));
    eventually("all of them hang", SOON, || (hung.asked() == IN_FLIGHT as u32).then_some(()));
    // Behind these answers all others have been looked at.
    shim.state("").expect("State");
    shim.stats().expect("Stats");
    assert!(starts.is_silent() && waits.is_silent(), "not in flight");
    assert_eq!(at_work(), IN_FLIGHT + 1);
    let threads = status(shim.pid, "Threads");
    assert!(threads <= QUERIES + 1, "{threads} threads");
    // Nobody's thread waits for a process; those that looked after the queries end when they have had nothing to do for a while.
    eventually("one thread is left", SOON, || (status(shim.pid, "Threads") == 1).then_some(()));
    let memory = status(shim.pid, "RssAnon");
    assert!(memory < MEMORY, "{memory} kB");
    shim.kill("", libc::SIGKILL).expect("Kill");
    assert!(starts.is_silent() && waits.is_silent(), "they are in flight still");
    hung.let_go();
    // Killed on their way or as soon as they had started: either may be said.
    starts.answers::<api::StartResponse>();
    let ends: Vec<_> = waits.answers::<api::WaitResponse>().iter().map(|end| end.exit_status).collect();
    assert_eq!(ends, [137; 50]);
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}

/// Files of cgroups that take their time, as when the kernel adds up what thousands of CPUs count. To see it fail: in
/// `shim/service.rs`, `kill`, take a turn of `queries` first.
#[test]
fn kill_waits_for_no_stats_that_take_their_time() {
    needs_containers!();
    needs!(subject::ours(), "the Go shim bounds nothing");
    let host = Host::new();
    let bundle = host.bundle("a", "exec sleep 1000");
    let ((reached, at_file), (go_on, told)) = (channel(), channel::<()>());
    let wait = move || {
        let _ = reached.send(());
        let _ = told.recv();
    };
    let host = &host;
    while_opened("pids.current", wait, move || {
        let shim = host.start(bundle);
        // A test that fails lets go before it ends the shim, whose files are those that wait.
        let go_on = go_on;
        shim.run();
        let mut crowd = Crowd::new(&shim);
        for _ in 0..2 * QUERIES {
            crowd.send("Stats", &api::StatsRequest { id: shim.id(), ..Default::default() });
        }
        at_file.recv_timeout(SOON).expect("the file is opened");
        shim.state("").expect("State");
        assert!(crowd.is_silent());
        shim.kill("", libc::SIGKILL).expect("Kill");
        assert!(crowd.is_silent(), "they are in flight still");
        drop(go_on);
        assert_eq!(crowd.answers::<api::StatsResponse>().len(), 2 * QUERIES);
        assert_eq!(shim.wait("").expect("Wait"), 137);
        shim.delete("").expect("Delete");
        shim.assert_nothing_left();
    });
}

/// containerd kills and deletes an exec whose Start it has given up waiting for: it is the process that comes of it that has
/// to be gone.
#[test]
fn kill_of_an_exec_that_is_being_started_ends_what_it_becomes() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "exec sleep 1000"));
    shim.run();
    for number in 0..20 {
        let exec = format!("e{number}");
        shim.exec(&exec, "exec sleep 1000").expect("Exec");
        let mut client = shim.client();
        let start = api::StartRequest { id: shim.id(), exec_id: exec.clone(), ..Default::default() };
        client.send(shim.service(), "Start", &start).expect("send Start");
        let kill = api::KillRequest { id: shim.id(), exec_id: exec.clone(), signal: 9, ..Default::default() };
        client.send(shim.service(), "Kill", &kill).expect("send Kill");
        let answers = [client.receive_next::<api::Empty>(), client.receive_next::<api::Empty>()];
        let killed = answers.iter().any(|(stream, answer)| *stream == 3 && answer.is_ok());
        // Go's shim may take the Kill first.
        assert!(killed || !subject::ours(), "{number}: {answers:?}");
        if killed {
            assert_eq!(shim.wait(&exec).expect("Wait"), 137);
            shim.delete(&exec).expect("Delete");
        }
    }
    shim.kill("", libc::SIGKILL).expect("Kill");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
}
