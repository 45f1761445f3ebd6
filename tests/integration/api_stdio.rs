//! Standard streams: fifos, files, loggers and terminals.

use crate::needs;
use crate::needs_containers;
use crate::support::fifo::{Sink, Source, make};
use crate::support::run::exec_output;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::ours;
use crate::support::{SOON, eventually, executable, leak};
use containerd_shim_protos::api;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;
use std::time::Duration;

fn sinks(host: &Host) -> (Sink, Sink) {
    (Sink::new(host.folder().join("out")), Sink::new(host.folder().join("err")))
}

#[test]
fn both_streams_arrive_apart_and_end_with_the_process() {
    needs_containers!();
    let host = Host::new();
    let (out, err) = sinks(&host);
    let shim = host.start(host.bundle("a", "echo one; echo two >&2"));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: err.uri(), ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!((out.finish().as_str(), err.finish().as_str()), ("one\n", "two\n"));
}

#[test]
fn megabytes_arrive_complete() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let shim = host.start(host.bundle("a", "head -c 20000000 /dev/zero | tr '\\0' x"));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish().len(), 20_000_000);
}

#[test]
fn standard_input_ends_with_close_io() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut input = Source::new(host.folder().join("in"));
    let shim = host.start(host.bundle("a", "cat; echo end"));
    shim.run_with(&Stdio3 { stdin: input.uri(), stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    input.write("hello\n");
    out.wait_for("hello\n");
    // The client keeps nothing open: only CloseIO is left to decide.
    drop(input);
    shim.close_stdin("").expect("CloseIO");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "hello\nend\n");
}

/// nerdctl does: its input ends, it asks for the state, and if it gets one it closes the container's stdin.
#[test]
fn input_that_ends_during_create_can_be_closed() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut bundle = host.bundle("a", "cat; echo end");
    let [begun, go] = ["begun", "go"].map(|name| host.folder().join(name));
    let script = format!(": >{}; until [ -e {} ]; do sleep 0.02; done", begun.display(), go.display());
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let mut input = Source::new(host.folder().join("in"));
    let stdio = Stdio3 { stdin: input.uri(), stdout: out.uri(), stderr: out.uri(), ..Default::default() };
    let shim = host.start(bundle);
    let [mut creates, mut asks] = [shim.client(), shim.client()];
    creates.send(shim.service(), "Create", &shim.create_request(&stdio)).expect("send Create");
    eventually("the hook begins", SOON, || begun.exists().then_some(()));
    input.write("hello\n");
    let request = api::StateRequest { id: shim.id(), ..Default::default() };
    asks.send(shim.service(), "State", &request).expect("send State");
    std::fs::write(&go, "").expect("let Create go on");
    asks.receive::<api::StateResponse>("State").expect("the state of a container that is being made");
    shim.close_stdin("").expect("CloseIO");
    creates.receive::<api::CreateTaskResponse>("Create").expect("Create");
    drop(input);
    shim.start("").expect("Start");
    assert_eq!(shim.wait("").expect("Wait"), 0);
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "hello\nend\n");
}

#[test]
fn exec_has_streams_of_its_own() {
    needs_containers!();
    let host = Host::new();
    let (out, err) = sinks(&host);
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let stdio = Stdio3 { stdout: out.uri(), stderr: err.uri(), ..Default::default() };
    shim.exec_process("x", &shim.bundle.process(&["sh", "-c", "echo one; echo two >&2"]), &stdio)
        .expect("Exec");
    shim.start("x").expect("Start");
    shim.wait("x").expect("Wait");
    shim.delete("x").expect("Delete");
    assert_eq!((out.finish().as_str(), err.finish().as_str()), ("one\n", "two\n"));
}

/// A client that reads slowly, and asks for Delete as soon as it hears of the exit (`nerdctl exec … | less`). What was written
/// fills the fifo and a part of the pipe before it.
#[test]
fn output_of_an_exec_waits_at_delete_for_a_reader_that_takes_its_time() {
    needs_containers!();
    needs!(ours(), "Go's shim waits for two seconds in all, before containerd 2.2");
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let fifo = host.folder().join("slow");
    make(&fifo);
    let reader = {
        let fifo = fifo.clone();
        thread::spawn(move || {
            let mut fifo = fs::File::open(fifo).expect("open the fifo");
            thread::sleep(Duration::from_secs(4));
            let mut text = Vec::new();
            fifo.read_to_end(&mut text).expect("read the fifo");
            text.len()
        })
    };
    let process = shim.bundle.process(&["sh", "-c", "head -c 1500000 /dev/zero"]);
    shim.exec_process("x", &process, &Stdio3 { stdout: fifo.display().to_string(), ..Default::default() })
        .expect("Exec");
    shim.start("x").expect("Start");
    assert_eq!(shim.wait("x").expect("Wait"), 0);
    shim.delete("x").expect("Delete");
    assert_eq!(reader.join().expect("the reader"), 1_500_000);
}

#[test]
fn exec_with_a_terminal_is_drained_before_its_exit_is_final() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let mut process = shim.bundle.process(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
    process["terminal"] = true.into();
    shim.exec_process("x", &process, &Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() })
        .expect("Exec");
    shim.start("x").expect("Start");
    shim.wait("x").expect("Wait");
    shim.delete("x").expect("Delete");
    assert_eq!(out.finish().len(), 3_000_000);
}

#[test]
fn terminal_of_init_has_the_size_set_before_start() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut bundle = host.bundle("a", "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all");
    bundle.set("/process/terminal", true.into());
    let shim = host.start(bundle);
    shim.create_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() }).expect("Create");
    shim.resize("", 91, 37).expect("ResizePty");
    shim.start("").expect("Start");
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "/dev/pts/0\r\n37 91\r\nall\r\n");
}

/// "/dev/console is set up if terminal is enabled in the config by bind mounting the pseudoterminal pty to /dev/console."
/// (config-linux.md, "Default Devices") That holds for a /dev of the user's own too.
#[test]
fn console_is_the_terminal_on_a_dev_that_is_bound() {
    needs_containers!();
    for there in [true, false] {
        let host = Host::new();
        let (out, _) = sinks(&host);
        let mut bundle = host.bundle("a", "stat -c %F /dev/console; echo x >/dev/console");
        let dev = host.folder().join("dev");
        fs::create_dir_all(dev.join("pts")).expect("make a folder");
        // What runc looks for itself.
        symlink("pts/ptmx", dev.join("ptmx")).expect("make a link");
        let made = Command::new("mknod").arg(dev.join("null")).args(["c", "1", "3"]).status();
        assert!(made.expect("start mknod").success());
        if there {
            fs::write(dev.join("console"), "as it was").expect("make a file");
        }
        bundle.set("/process/terminal", true.into());
        let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|mount| !mount["destination"].as_str().expect("a path").starts_with("/dev"));
        mounts.push(json!({"type": "bind", "source": dev, "destination": "/dev", "options": ["rbind"]}));
        mounts.push(json!({"type": "devpts", "source": "devpts", "destination": "/dev/pts", "options": ["newinstance", "ptmxmode=0666"]}));
        let shim = host.start(bundle);
        shim.run_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() });
        assert_eq!(shim.wait("").expect("Wait"), 0);
        shim.delete("").expect("Delete");
        assert_eq!(out.finish(), "character special file\r\nx\r\n");
        // runc empties it.
        let text = fs::read_to_string(dev.join("console")).expect("read");
        assert_eq!(text, if there && ours() { "as it was" } else { "" });
    }
}

/// "consoleSize: specifies the console size in characters of the terminal. Runtimes MUST ignore consoleSize if terminal is
/// false or unset." (config.md, "Process")
#[test]
fn terminal_has_the_size_that_the_process_gives_it() {
    needs_containers!();
    let host = Host::new();
    let size = json!({"height": 37, "width": 91});
    let mut bundle = host.bundle("a", "stty size; exec sleep 1000");
    bundle.set("/process/terminal", true.into());
    bundle.set("/process/consoleSize", size.clone());
    let shim = host.start(bundle);
    let (out, err) = sinks(&host);
    shim.run_with(&Stdio3 { terminal: true, stdout: out.uri(), ..Default::default() });
    out.wait_for("37 91");
    let mut process = shim.bundle.process(&["stty", "size"]);
    process["consoleSize"] = json!({"height": 5, "width": 6});
    shim.exec_process("x", &process, &Stdio3 { terminal: true, stdout: err.uri(), ..Default::default() })
        .expect("Exec");
    shim.start("x").expect("Start");
    assert_eq!(shim.wait("x").expect("Wait"), 0);
    shim.delete("x").expect("Delete");
    assert_eq!(err.finish(), "5 6\r\n");
    let text = exec_output(&shim, "tty || true", |process| process["terminal"] = false.into());
    assert_eq!(text, "not a tty\n");
}

#[test]
fn terminal_takes_input_and_the_interrupt_character() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut input = Source::new(host.folder().join("in"));
    let mut bundle =
        host.bundle("a", "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done");
    bundle.set("/process/terminal", true.into());
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { terminal: true, stdin: input.uri(), stdout: out.uri(), ..Default::default() });
    out.wait_for("ready");
    input.write("\u{3}");
    assert_eq!(shim.wait("").expect("Wait"), 5);
    shim.delete("").expect("Delete");
    assert!(out.finish().contains("interrupted"));
}

#[test]
fn file_takes_both_streams_and_is_appended_to() {
    needs_containers!();
    let host = Host::new();
    let file = host.folder().join("new/folder/log");
    let uri = format!("file://{}", file.display());
    for _ in 0..2 {
        let shim = host.start(host.bundle("a", "echo one; sleep 0.1; echo two >&2"));
        shim.run_with(&Stdio3 { stdout: uri.clone(), stderr: uri.clone(), ..Default::default() });
        shim.wait("").expect("Wait");
        shim.delete("").expect("Delete");
    }
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("all is written", SOON, || (text().lines().count() == 4).then_some(()));
    assert_eq!(text(), "one\ntwo\none\ntwo\n");
}

#[test]
fn logger_gets_streams_and_names_and_is_gone_at_the_end() {
    needs_containers!();
    let host = Host::new();
    let (logger, result) = (host.folder().join("logger"), host.folder().join("result"));
    // Descriptor 5 is the pipe whose closing says that the logger is ready.
    let script = format!(
        "#!/bin/sh\ntrap '' TERM\nexec >{}\necho $CONTAINER_ID $CONTAINER_NAMESPACE $*\nexec 5>&-\ncat <&3\ncat <&4\n",
        result.display()
    );
    executable(&logger, script);
    let uri = format!("binary://{}?key=value", logger.display());
    let shim = host.start(host.bundle("a", "echo one; echo two >&2"));
    shim.run_with(&Stdio3 { stdout: uri.clone(), stderr: uri, ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    let expected = format!("a {} key value\none\ntwo\n", host.namespace);
    eventually(
        &format!("the logger has everything, having {:?}", std::fs::read_to_string(&result)),
        std::time::Duration::from_secs(5),
        || (std::fs::read_to_string(&result).ok()? == expected).then_some(()),
    );
    eventually("the logger is gone", SOON, || {
        leak::processes_naming(&logger.display().to_string()).is_empty().then_some(())
    });
}

#[test]
fn reader_that_goes_away_does_not_kill_the_container() {
    needs_containers!();
    let host = Host::new();
    let path = host.folder().join("out");
    crate::support::fifo::make(&path);
    let shim = host.start(host.bundle("a", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done; exit 21"));
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
    shim.run_with(&Stdio3 {
        stdout: path.display().to_string(),
        stderr: path.display().to_string(),
        ..Default::default()
    });
    drop(reader);
    assert_eq!(shim.wait("").expect("Wait"), 21);
}

#[test]
fn background_child_that_keeps_stdout_does_not_hold_up_delete() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let stdio = Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() };
    shim.exec_process("x", &shim.bundle.process(&["sh", "-c", "sleep 1000 & echo done"]), &stdio)
        .expect("Exec");
    shim.start("x").expect("Start");
    let begin = std::time::Instant::now();
    shim.wait("x").expect("Wait");
    shim.delete("x").expect("Delete");
    let limit = if crate::support::differences::runc_differs("time of the last drain") { 15 } else { 5 };
    assert!(begin.elapsed().as_secs() < limit, "{:?}", begin.elapsed());
    out.wait_for("done\n");
}

#[test]
fn workload_that_is_not_root_reopens_its_own_stdout() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut bundle = host.bundle("a", "echo again >/dev/stdout");
    bundle.set("/process/user", serde_json::json!({"uid": 1000, "gid": 1000}));
    // As Docker has it with user namespaces: the mapped root's ids, whoever the process is.
    let options =
        containerd_shim_protos::shim::oci::Options { io_uid: 2000, io_gid: 2000, ..Default::default() };
    let options = crate::support::shim::any(
        "containerd.runc.v1.Options",
        protobuf::Message::write_to_bytes(&options).expect("encode"),
    );
    let shim = host.start_with(bundle, Some(options));
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "again\n");
}

/// "After CloseIO nobody but the client holds stdin's write end."
#[test]
fn after_close_io_standard_input_ends_with_the_client() {
    needs_containers!();
    let host = Host::new();
    let (out, _) = sinks(&host);
    let mut input = Source::new(host.folder().join("in"));
    let shim = host.start(host.bundle("a", "cat; echo end"));
    shim.run_with(&Stdio3 { stdin: input.uri(), stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    input.write("one\n");
    out.wait_for("one\n");
    shim.close_stdin("").expect("CloseIO");
    input.write("two\n");
    out.wait_for("two\n");
    assert!(!out.so_far().contains("end"));
    drop(input);
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    assert_eq!(out.finish(), "one\ntwo\nend\n");
}
