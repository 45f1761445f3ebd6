//! What containerd tells a starting shim, in either of its two dialects, and how it wants the answer.
//!
//! ```text
//! containerd        stdin                          environment, flags        reply on stdout
//! 1.6 to 2.2        options Any, may be empty      all the rest              unix:///…
//! 2.3 and later     BootstrapParams                -id, -namespace           BootstrapResult
//! ```
//!
//! COMPAT: the JSON reply that containerd-shim's own bootstrap writes to the older ones breaks 1.6 and 1.7, which take
//! the whole line for an address. Hence this file.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use ::log::LevelFilter;
use containerd_shim_protos::TASK_API_VERSION;
use protobuf::Message;

use super::args::Args;
use super::proto::{Any, BootstrapParams, BootstrapResult, LogLevel};

/// More than any client sends; what containerd allows.
const MAX_INPUT: u64 = 10 << 20;

/// Which dialect the caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 1.6 to 2.2.
    Flags,
    /// containerd 2.3 and later.
    Params,
}

/// What `start` was asked, whatever the dialect.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub dialect: Dialect,
    pub namespace: String,
    pub id: String,
    pub grpc_address: String,
    pub ttrpc_address: String,
    pub socket_dir: Option<PathBuf>,
    pub level: LevelFilter,
    /// The runtime options, still packed.
    pub options: Vec<Any>,
}

/// The addresses older daemons pass through the environment.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub ttrpc_address: String,
    pub grpc_address: String,
}

impl Environment {
    pub fn read() -> Self {
        let var = |name| std::env::var(name).unwrap_or_default();
        Self { ttrpc_address: var("TTRPC_ADDRESS"), grpc_address: var("GRPC_ADDRESS") }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("reading the bootstrap input from stdin: {0}")]
    Read(#[from] io::Error),
    #[error("the bootstrap input on stdin is larger than {} MiB", MAX_INPUT >> 20)]
    TooLarge,
    #[error("the bootstrap input is for {theirs}, the command line for {ours} (namespace/id)")]
    Mismatch { theirs: String, ours: String },
    #[error("the input on stdin is neither BootstrapParams nor an Any with options: {0}")]
    Garbage(protobuf::Error),
}

/// Everything on stdin; nothing if that is a terminal or closed.
pub fn read_stdin() -> Result<Vec<u8>, BootstrapError> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if stdin.is_terminal() {
        return Ok(input);
    }
    stdin.lock().take(MAX_INPUT + 1).read_to_end(&mut input)?;
    if input.len() as u64 > MAX_INPUT { Err(BootstrapError::TooLarge) } else { Ok(input) }
}

impl Request {
    pub fn parse(input: &[u8], args: &Args, env: Environment) -> Result<Self, BootstrapError> {
        match params(input, args)? {
            Some(params) => Ok(Self::from_params(params, args, env)),
            None => Self::from_flags(input, args, env),
        }
    }

    fn from_params(params: BootstrapParams, args: &Args, env: Environment) -> Self {
        let asked = level(params.log_level.value());
        let first = |a: String, b: &str| if a.is_empty() { b.to_owned() } else { a };
        Self {
            dialect: Dialect::Params,
            grpc_address: first(params.containerd_grpc_address, &args.address),
            ttrpc_address: first(params.containerd_ttrpc_address, &env.ttrpc_address),
            namespace: params.namespace,
            id: params.instance_id,
            socket_dir: params.socket_dir.filter(|d| !d.is_empty()).map(PathBuf::from),
            // The flag comes with both dialects, and only ever asks for more.
            level: if args.debug { asked.max(LevelFilter::Debug) } else { asked },
            options: params.extensions.into_iter().filter_map(|e| e.value.into_option()).collect(),
        }
    }

    fn from_flags(input: &[u8], args: &Args, env: Environment) -> Result<Self, BootstrapError> {
        let any = Any::parse_from_bytes(input).map_err(BootstrapError::Garbage)?;
        let grpc_address = if args.address.is_empty() { env.grpc_address } else { args.address.clone() };
        Ok(Self {
            dialect: Dialect::Flags,
            namespace: args.namespace.clone(),
            id: args.id.clone(),
            grpc_address,
            ttrpc_address: env.ttrpc_address,
            socket_dir: None,
            level: if args.debug { LevelFilter::Debug } else { LevelFilter::Info },
            options: if any.type_url.is_empty() { Vec::new() } else { vec![any] },
        })
    }
}

/// The input as `BootstrapParams`, or none if it is in the older dialect.
///
/// An `Any` parses as `BootstrapParams` too: its type URL lands in the id, its value in the namespace. What has those
/// two fields alone and does not name us is therefore an `Any`; what has more is meant for another shim.
fn params(input: &[u8], args: &Args) -> Result<Option<BootstrapParams>, BootstrapError> {
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else { return Ok(None) };
    if params.instance_id == args.id && params.namespace == args.namespace {
        return Ok(Some(params));
    }
    let identity = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..Default::default()
    };
    if params == identity {
        return Ok(None);
    }
    Err(BootstrapError::Mismatch {
        theirs: format!("{}/{}", params.namespace, params.instance_id),
        ours: format!("{}/{}", args.namespace, args.id),
    })
}

/// The nearest level of ours. The enum on the wire is open.
fn level(wire: i32) -> LevelFilter {
    const TRACE: i32 = LogLevel::LOG_LEVEL_TRACE as i32;
    const DEBUG: i32 = LogLevel::LOG_LEVEL_DEBUG as i32;
    const INFO: i32 = LogLevel::LOG_LEVEL_INFO as i32;
    const WARN: i32 = LogLevel::LOG_LEVEL_WARN as i32;
    match wire {
        w if w <= TRACE => LevelFilter::Trace,
        w if w <= DEBUG => LevelFilter::Debug,
        w if w <= INFO => LevelFilter::Info,
        w if w <= WARN => LevelFilter::Warn,
        _ => LevelFilter::Error,
    }
}

/// The answer to `start`.
pub fn reply(dialect: Dialect, address: &str) -> Vec<u8> {
    let result = BootstrapResult {
        version: TASK_API_VERSION,
        address: address.to_owned(),
        protocol: "ttrpc".to_owned(),
        ..Default::default()
    };
    match dialect {
        Dialect::Flags => address.as_bytes().to_vec(),
        // Encoding into memory fails only above 2 GiB.
        Dialect::Params => result.write_to_bytes().unwrap_or_default(),
    }
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
