//! The action `start`: find or make the shim of this container's group, and say where it listens.
//!
//! ```text
//! containerd --exec--> start: stdin, config.json, address, bind, listen
//!                        |----fork----> the shim: setsid, no descriptor of ours, serve
//!                        '--> reply on stdout, exit
//! ```
//!
//! Everything that can fail happens before the fork, so that it is told on stderr and leaves nothing behind. The shim
//! inherits what the process has made of itself by then: OOM score, cgroup, scheduling cookie.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::Args;
use super::bootstrap::{self, BootstrapError, Environment, Request};
use super::options::{self, OptionsError, Resolved};
use super::serve::ServeArgs;
use super::socket::{self, Claim, SocketError};
use super::{daemon, placement, view};
use crate::sys;
use crate::sys::fault::fault;

/// The annotations that name a group, in the order of their rank.
pub(super) const GROUP_ANNOTATIONS: [&str; 2] =
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Placement(#[from] placement::PlacementError),
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("read {path}: {source}")]
    Spec { path: PathBuf, source: serde_json::Error },
    #[error("start the shim: {0}")]
    Fork(sys::Error),
    #[error("leave the starter's descriptors: {0}")]
    Kernel(sys::Error),
    #[error("write the reply to stdout: {0}")]
    Reply(io::Error),
    #[error(transparent)]
    Injected(#[from] sys::fault::Injected),
}

/// Runs `start`: returns twice when it starts a shim, in the caller's process and, at the end of its life, in the shim.
pub fn run(args: &Args) -> Result<ExitCode, StartError> {
    // ORDER: before stdin is read: the program begins again from its read-only view.
    let viewed = view::enter();
    let request = Request::parse(&bootstrap::read_stdin()?, args, Environment::read())?;
    fault!("start: request read")?;
    let bundle = std::env::current_dir().map_err(file("find the bundle,", Path::new(".")))?;
    let annotations = annotations(&bundle)?;
    let group = group(&annotations).unwrap_or(&request.id).to_owned();
    let mut resolved = options::resolve(request.options.as_slice(), &annotations)?;
    if let Err(e) = viewed {
        resolved.warnings.push(format!("the shim runs from its file, not from a read-only view of it: {e}"));
    }
    let dir = request.socket_dir.clone().unwrap_or_else(|| socket::DEFAULT_DIR.into());
    let path = socket::path(&dir, &request.grpc_address, &request.namespace, &group)?;
    let address = socket::address(&path);
    // ORDER: the address before the socket: `delete` finds one that a killed `start` has left by nothing else.
    let file_path = bundle.join("address");
    let mut undo = Undo(vec![file_path.clone()]);
    write_address(&file_path, &address).map_err(file("write", &file_path))?;
    fault!("start: address written")?;
    let listener = match socket::claim(&path)? {
        Claim::Ours(listener) => Some(listener),
        Claim::Live => None,
    };
    if listener.is_some() {
        undo.0.push(path.clone());
    }
    fault!("start: socket bound")?;

    let Some(listener) = listener else {
        reply(&request, &address)?;
        return Ok(undo.keep());
    };
    // The shim's first call after the fork, on no descriptor at all: the one that can fail is told while stderr is there.
    sys::fs::close_range(u32::MAX, u32::MAX).map_err(StartError::Kernel)?;
    let mut placed = placement::Placed::default();
    let forked = placement::apply(&resolved.options.shim_cgroup, &mut placed)
        .map_err(StartError::from)
        .and_then(|()| sys::daemon::fork().map_err(StartError::Fork));
    match forked.inspect_err(|_| placed.undo())? {
        None => {
            undo.keep();
            Ok(become_shim(listener, request, bundle, path, resolved))
        }
        Some(pid) => {
            // A shim whose address nobody got would wait for its first call in vain.
            let replied = fault!("start: shim forked").map_err(StartError::from);
            replied.and_then(|()| reply(&request, &address)).inspect_err(|_| {
                let _ = sys::process::kill(pid, libc::SIGKILL);
            })?;
            fault!("start: replied")?;
            Ok(undo.keep())
        }
    }
}

fn become_shim(
    listener: OwnedFd,
    request: Request,
    bundle: PathBuf,
    socket_path: PathBuf,
    resolved: Resolved,
) -> ExitCode {
    let detached = daemon::detach(listener);
    super::log::init(&bundle, request.level, &request.namespace, &request.id);
    if let Err(e) = fault!("start: shim detached") {
        ::log::error!("{e}");
        return ExitCode::FAILURE;
    }
    let listener = match detached {
        Ok(listener) => listener,
        Err(e) => {
            ::log::error!("detach the shim from its starter: {e}");
            return ExitCode::FAILURE;
        }
    };
    for warning in resolved.warnings {
        ::log::warn!("{warning}");
    }
    super::serve::run(ServeArgs {
        listener,
        namespace: request.namespace,
        bundle,
        ttrpc_address: request.ttrpc_address,
        socket_path,
        options: resolved.options,
    })
}

/// For root's eyes only, as the socket that it names.
fn write_address(path: &Path, address: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(address.as_bytes())
}

fn reply(request: &Request, address: &str) -> Result<(), StartError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bootstrap::reply(request.dialect, address)).map_err(StartError::Reply)?;
    stdout.flush().map_err(StartError::Reply)
}

/// The one part of config.json that `start` needs.
#[derive(Debug, Default, serde::Deserialize)]
struct Shallow {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

fn annotations(bundle: &Path) -> Result<HashMap<String, String>, StartError> {
    let path = bundle.join("config.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        // COMPAT: a sandbox made through the sandbox API has a bundle without a spec.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(e) => return Err(file("read", &path)(e)),
    };
    let shallow: Shallow =
        serde_json::from_slice(&text).map_err(|source| StartError::Spec { path, source })?;
    Ok(shallow.annotations.unwrap_or_default())
}

fn group(annotations: &HashMap<String, String>) -> Option<&str> {
    GROUP_ANNOTATIONS.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

/// The files to remove again unless `start` succeeds, the last one first.
struct Undo(Vec<PathBuf>);

impl Undo {
    fn keep(mut self) -> ExitCode {
        self.0.clear();
        ExitCode::SUCCESS
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The error that brought us here is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn the_runtime_annotation_outranks_the_sandbox() {
        let sandbox = ("io.kubernetes.cri.sandbox-id", "pod");
        assert_eq!(group(&map(&[sandbox])), Some("pod"));
        assert_eq!(group(&map(&[sandbox, ("io.containerd.runc.v2.group", "g")])), Some("g"));
        assert_eq!(group(&map(&[])), None);
    }

    #[test]
    fn annotations_are_read_from_the_spec_and_may_be_missing() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(annotations(tmp.path()).unwrap().is_empty());
        for (spec, count) in [
            (r#"{"ociVersion":"1.2.0"}"#, 0),
            (r#"{"annotations":null}"#, 0),
            (r#"{"annotations":{"a":"b"},"process":{"args":["x"]}}"#, 1),
        ] {
            fs::write(tmp.path().join("config.json"), spec).unwrap();
            assert_eq!(annotations(tmp.path()).unwrap().len(), count, "{spec}");
        }
        fs::write(tmp.path().join("config.json"), "{").unwrap();
        assert!(annotations(tmp.path()).unwrap_err().to_string().contains("config.json"));
    }
}
