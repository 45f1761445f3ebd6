//! The resident shim: a ttrpc server on the listening socket that `start` left behind.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use super::options::Options;

/// What the daemon inherits from `start`.
#[derive(Debug)]
pub struct ServeArgs {
    pub listener: OwnedFd,
    pub namespace: String,
    pub id: String,
    pub bundle: PathBuf,
    pub grpc_address: String,
    pub ttrpc_address: String,
    pub socket_path: PathBuf,
    pub level: ::log::LevelFilter,
    /// As resolved for `start`; `Create` may bring its own.
    pub options: Options,
    pub group: String,
}

/// Serves until the process is told to end.
pub fn run(args: ServeArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            ::log::error!("creating the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(async move {
        let listener = std::os::unix::net::UnixListener::from(args.listener);
        let listener = ttrpc::asynchronous::transport::Listener::try_from(listener)?;
        let mut server = ttrpc::asynchronous::Server::new().add_listener(listener);
        server.start().await.map_err(std::io::Error::other)?;
        tokio::time::sleep(args.options.idle_timeout).await;
        let _ = std::fs::remove_file(&args.socket_path);
        std::io::Result::Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            ::log::error!("serving the task API: {e}");
            ExitCode::FAILURE
        }
    }
}
