//! The resident shim: a ttrpc server on the listening socket that `start` left behind, on one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::shim_async::create_task;
use tokio::io::Interest;
use tokio::sync::mpsc;

use super::options::Options;
use super::peers::Peers;
use super::publisher::Journal;
use super::service::Service;
use super::socket::Bound;
use super::tasks::Tasks;
use super::{calls, reaper, stop};
use crate::stdio::register;
use crate::sys;
use crate::sys::fault::fault;

/// Variables that are read again after the start: where the host's options are, mount helpers, and systemd's bus.
const NEEDED: [&str; 6] = [
    super::options::HOST_FILE_VARIABLE,
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "PATH",
    "SYSTEMD_BUS_TIMEOUT",
    "XDG_RUNTIME_DIR",
];
/// containerd waits 3 s for a shutdown.
const FLUSH: Duration = Duration::from_millis(2500);
const V2: &str = "containerd.task.v2.Task";
const V3: &str = "containerd.task.v3.Task";

/// What the daemon inherits from `start`.
#[derive(Debug)]
pub struct ServeArgs {
    pub listener: OwnedFd,
    pub namespace: String,
    pub bundle: PathBuf,
    pub ttrpc_address: String,
    pub socket_path: PathBuf,
    /// As resolved for `start`; `Create` may bring its own.
    pub options: Options,
}

/// Serves until the last container is gone, SIGTERM, or nobody ever came.
pub fn run(args: ServeArgs) -> ExitCode {
    let served = prepare().and_then(|signals| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        // A task of its own: what wakes block_on's future has to interrupt the runtime's sleep each time.
        let served = runtime.block_on(async { tokio::spawn(serve(args, signals)).await });
        let served = served.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        // A thread that hangs in a system call must not keep the shim.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            ::log::error!("serving the task API: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What the process itself needs: no core, no ptrace, no fd of it seen by others (CVE-2016-9962); orphans come here.
fn prepare() -> std::io::Result<OwnedFd> {
    // Children on their way into a container are copies of this process, and so is their /proc/PID/environ.
    sys::process::erase_environment(&NEEDED)?;
    sys::cred::set_dumpable(false)?;
    sys::cred::set_child_subreaper()?;
    sys::process::heed_signals();
    sys::memory::one_arena();
    Ok(sys::process::signalfd(&[libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGUSR1])?)
}

async fn serve(args: ServeArgs, signals: OwnedFd) -> std::io::Result<()> {
    let journal = Journal::new(&args.ttrpc_address, &args.namespace);
    let (done, mut finished) = mpsc::unbounded_channel();
    let tasks = Tasks::new(args.namespace.clone(), journal.clone());
    let socket = Arc::new(Bound::new(args.socket_path.clone()));
    let mut server = server(&args, &tasks, socket.clone(), done.clone())?;
    server.start().await.map_err(std::io::Error::other)?;
    let signals = register(signals, Interest::READABLE)?;
    tasks.ahead.begin(args.bundle.clone());
    end_unless_used(tasks.clone(), args.options.idle_timeout, done.clone());
    loop {
        tokio::select! {
            _ = finished.recv() => break,
            ready = signals.readable() => {
                let mut ready = ready?;
                while let Some(signal) = sys::process::signalfd_read(signals.get_ref().as_fd())? {
                    match signal {
                        libc::SIGCHLD => reaper::later(&tasks),
                        // COMPAT: a Go shim tells its state, and lives.
                        libc::SIGUSR1 => tasks.tell(),
                        _ => stop::begin(&tasks, &done),
                    }
                }
                ready.clear_ready();
            }
        }
    }
    // A Create that Shutdown gave up is undone by the thread that carries it out.
    tasks.unfinished.none_begun().await;
    end(&socket, &journal).await;
    // Whoever killed the shim now would leave what `delete` has to find again.
    tasks.unfinished.nothing_lingers().await;
    Ok(())
}

/// Ends a shim that nobody wants. The timer goes with the first Create.
fn end_unless_used(tasks: Tasks, limit: Duration, done: mpsc::UnboundedSender<()>) {
    tokio::spawn(async move {
        if tokio::time::timeout(limit, tasks.used()).await.is_err() && tasks.close_if_empty("") {
            ::log::info!("no container was created within {limit:?}: ending");
            // The receiver lives as long as the shim.
            let _ = done.send(());
        }
    });
}

fn server(
    args: &ServeArgs,
    tasks: &Tasks,
    socket: Arc<Bound>,
    done: mpsc::UnboundedSender<()>,
) -> std::io::Result<ttrpc::asynchronous::Server> {
    let listener = ttrpc::asynchronous::transport::Listener::new(Peers::new(args.listener.try_clone()?)?);
    let service = Arc::new(Service::new(tasks.clone(), socket, done));
    let server = ttrpc::asynchronous::Server::new().add_listener(listener);
    // COMPAT: containerd before 2.x and after a bare address asks for v2, later ones for v3; the messages are the same.
    let v2 = create_task(service.clone())
        .into_values()
        .map(|methods| (V2.to_string(), calls::logged(methods)))
        .collect();
    let v3 =
        create_task(service).into_values().map(|methods| (V3.to_string(), calls::logged(methods))).collect();
    Ok(server.register_service(v2).register_service(v3))
}

/// Last acts: nobody finds this shim any more, and containerd hears everything.
async fn end(socket: &Bound, journal: &Journal) {
    let _ = fault!("Shutdown: begun");
    socket.release();
    let _ = fault!("Shutdown: socket gone");
    let lost = journal.flush(FLUSH).await;
    if lost > 0 {
        ::log::warn!("{lost} events could not be delivered before the shim ended");
    }
    let _ = fault!("Shutdown: events flushed");
}
