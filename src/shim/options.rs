//! The runtime's options: who may set them, in which encoding, and who wins.
//!
//! ```text
//! annotation  >  request  >  host file  >  built-in default
//!                |            TOML, /etc/containerd-shim-myshim.toml or $MYSHIM_CONFIG
//!                +- containerd.runc.v1.Options (protobuf)
//!                '- runtimeoptions.v1.Options (TOML text, or the path of a TOML file)
//! ```
//!
//! No options at all is the usual case (`ctr`, nerdctl, Docker): the defaults are right on their own. A key nobody
//! knows is a warning; a value that cannot be meant is an error naming its key.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protobuf::Message;
use toml::{Table, Value};

use super::proto::{self, Any, RuncOptions, RuntimeOptions};
use value::Setting;

#[path = "options_value.rs"]
mod value;

/// The host-wide file, unless `MYSHIM_CONFIG` names another.
pub const HOST_FILE: &str = "/etc/containerd-shim-myshim.toml";
pub const HOST_FILE_VARIABLE: &str = "MYSHIM_CONFIG";

const ANNOTATIONS: [(&str, &str); 4] = [
    ("io.containerd.myshim.stop-signal", "StopSignal"),
    ("io.containerd.myshim.stop-timeout", "StopTimeout"),
    ("io.containerd.myshim.kill-escalation", "KillEscalation"),
    ("io.containerd.myshim.setup-timeout", "SetupTimeout"),
];

/// The options of one container, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    pub systemd_cgroup: bool,
    /// A cgroup for the shim itself; empty = where it was started.
    pub shim_cgroup: String,
    /// Owner of the container's stdio pipes, if not the process's own user.
    pub io_uid: u32,
    pub io_gid: u32,
    /// runc's state directory. Kept for `CRIU` work files only: our state lives in the bundle.
    pub root: String,
    pub criu_path: String,
    pub criu_image_path: String,
    pub criu_work_path: String,
    /// What a container is asked to stop with when the shim has to end.
    pub stop_signal: i32,
    /// How long it may take before SIGKILL.
    pub stop_timeout: Duration,
    /// Whether a `Kill` of init with the stop signal escalates to SIGKILL after the time-out, too.
    pub escalate_kill: bool,
    /// How long a process may be silent on its way to its program.
    pub setup_timeout: Duration,
    /// How long a shim waits for its first `Create` before it ends.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            no_pivot_root: false,
            no_new_keyring: false,
            systemd_cgroup: false,
            shim_cgroup: String::new(),
            io_uid: 0,
            io_gid: 0,
            root: String::new(),
            criu_path: String::new(),
            criu_image_path: String::new(),
            criu_work_path: String::new(),
            stop_signal: libc::SIGTERM,
            stop_timeout: Duration::from_secs(10),
            escalate_kill: false,
            setup_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Options, and what is to be said about how they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub options: Options,
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("runtime options: {key} in {place}: {reason}")]
    Value { key: String, place: String, reason: String },
    #[error("runtime options: {place} is not TOML: {source}")]
    Toml { place: String, source: Box<toml::de::Error> },
    #[error("runtime options: {place} is not UTF-8")]
    NotUtf8 { place: String },
    #[error("runtime options: read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("runtime options: decode {name}: {source}")]
    Decode { name: String, source: protobuf::Error },
}

/// The options of a request, of the host and of the annotations of a container, together.
pub fn resolve(request: &[Any], annotations: &HashMap<String, String>) -> Result<Resolved, OptionsError> {
    let chosen = std::env::var_os(HOST_FILE_VARIABLE).filter(|v| !v.is_empty());
    let host = chosen.as_ref().map_or(Path::new(HOST_FILE), Path::new);
    let text = match std::fs::read(host) {
        Ok(text) => text,
        // Only the default one may be missing.
        Err(e) if e.kind() == io::ErrorKind::NotFound && chosen.is_none() => Vec::new(),
        Err(source) => return Err(OptionsError::Read { path: host.to_owned(), source }),
    };
    let mut resolved = Resolved::default();
    resolved.toml(&text, &host.display().to_string())?;
    request.iter().try_for_each(|any| resolved.any(any))?;
    resolved.annotations(annotations)?;
    Ok(resolved)
}

impl Resolved {
    fn any(&mut self, any: &Any) -> Result<(), OptionsError> {
        match proto::type_name(any) {
            "" => Ok(()),
            "containerd.runc.v1.Options" => {
                self.runc(decode(any)?);
                Ok(())
            }
            "runtimeoptions.v1.Options" => self.runtime(decode(any)?),
            other => {
                self.warnings
                    .push(format!("runtime options of type {other:?} are not known and have no effect"));
                Ok(())
            }
        }
    }

    /// proto3 cannot tell "not set" from the default value: only what differs from it counts as given.
    fn runc(&mut self, o: RuncOptions) {
        let options = &mut self.options;
        options.no_pivot_root |= o.no_pivot_root;
        options.no_new_keyring |= o.no_new_keyring;
        options.systemd_cgroup |= o.systemd_cgroup;
        for (to, from) in [(&mut options.io_uid, o.io_uid), (&mut options.io_gid, o.io_gid)] {
            *to = if from == 0 { *to } else { from };
        }
        for (to, from) in [
            (&mut options.shim_cgroup, o.shim_cgroup),
            (&mut options.root, o.root),
            (&mut options.criu_path, o.criu_path),
            (&mut options.criu_image_path, o.criu_image_path),
            (&mut options.criu_work_path, o.criu_work_path),
        ] {
            if !from.is_empty() {
                *to = from;
            }
        }
        if !o.binary_name.is_empty() {
            self.warn_binary("BinaryName", &o.binary_name);
        }
    }

    fn runtime(&mut self, o: RuntimeOptions) -> Result<(), OptionsError> {
        if o.config_path.is_empty() {
            return self.toml(&o.config_body, "the request's config_body");
        }
        let path = PathBuf::from(&o.config_path);
        let text = std::fs::read(&path).map_err(|source| OptionsError::Read { path, source })?;
        self.toml(&text, &o.config_path)
    }

    fn toml(&mut self, text: &[u8], place: &str) -> Result<(), OptionsError> {
        let place = || place.to_owned();
        let text = std::str::from_utf8(text).map_err(|_| OptionsError::NotUtf8 { place: place() })?;
        let table: Table =
            toml::from_str(text).map_err(|e| OptionsError::Toml { place: place(), source: Box::new(e) })?;
        table.iter().try_for_each(|(key, value)| self.set(key, value, &place()))
    }

    fn annotations(&mut self, annotations: &HashMap<String, String>) -> Result<(), OptionsError> {
        for (annotation, key) in ANNOTATIONS {
            if let Some(text) = annotations.get(annotation) {
                let value = Value::String(text.clone());
                let place = format!("annotation {annotation}");
                self.set(key, &value, &place)?;
            }
        }
        Ok(())
    }

    /// One key of a TOML table, under the name it has in containerd's CRI configuration for runc.
    fn set(&mut self, key: &str, value: &Value, place: &str) -> Result<(), OptionsError> {
        let o = &mut self.options;
        let setting = match key {
            "NoPivotRoot" => Setting::Bool(&mut o.no_pivot_root),
            "NoNewKeyring" => Setting::Bool(&mut o.no_new_keyring),
            "SystemdCgroup" => Setting::Bool(&mut o.systemd_cgroup),
            "ShimCgroup" => Setting::Text(&mut o.shim_cgroup),
            "IoUid" => Setting::Id(&mut o.io_uid),
            "IoGid" => Setting::Id(&mut o.io_gid),
            "Root" => Setting::Text(&mut o.root),
            "CriuPath" => Setting::Text(&mut o.criu_path),
            "CriuImagePath" => Setting::Text(&mut o.criu_image_path),
            "CriuWorkPath" => Setting::Text(&mut o.criu_work_path),
            "StopSignal" => Setting::Signal(&mut o.stop_signal),
            "StopTimeout" => Setting::Time(&mut o.stop_timeout),
            "KillEscalation" => Setting::Bool(&mut o.escalate_kill),
            "SetupTimeout" => Setting::Time(&mut o.setup_timeout),
            "IdleTimeout" => Setting::Time(&mut o.idle_timeout),
            // Docker and older CRI repeat the message's own fields in the text.
            "TypeUrl" | "ConfigPath" | "ConfigBody" | "TaskApiAddress" | "TaskApiVersion" => return Ok(()),
            "BinaryName" => {
                self.warn_binary(key, value.as_str().unwrap_or_default());
                return Ok(());
            }
            _ => {
                self.warnings
                    .push(format!("runtime options: {key} in {place} is not known and has no effect"));
                return Ok(());
            }
        };
        let wrong = |reason| OptionsError::Value { key: key.to_owned(), place: place.to_owned(), reason };
        setting.assign(value).map_err(wrong)
    }

    fn warn_binary(&mut self, key: &str, name: &str) {
        if !name.is_empty() {
            let text = format!("runtime options: {key} {name:?} has no effect: this shim is its own runtime");
            self.warnings.push(text);
        }
    }
}

fn decode<M: Message>(any: &Any) -> Result<M, OptionsError> {
    M::parse_from_bytes(&any.value)
        .map_err(|source| OptionsError::Decode { name: any.type_url.clone(), source })
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
