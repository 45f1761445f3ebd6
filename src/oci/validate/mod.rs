//! Every refusal of a well-formed spec, one sentence each, before anything is done on the host.
//!
//! COMPAT: as strict as runc (`libcontainer/configs/validate`, `specconv`) and where the spec says MUST. What only the
//! host can tell (is SELinux on, is that path the host's own namespace) is the engine's to ask.

mod linux;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod sysctl;
mod tolerated;

use std::path::Path;

use oci_spec::runtime::{Hook, Spec};

use super::{Error, Result};

pub use process::check as check_process;
pub use resources::check as check_resources;
pub use sysctl::{of_namespace as sysctl_of_namespace, path as sysctl_path};
pub use tolerated::warnings;

/// Refuses what cannot or must not be carried out.
pub fn check(spec: &Spec) -> Result<()> {
    version(spec.version())?;
    let Some(process) = spec.process() else {
        return refuse("process", "is missing; give at least `args` and `cwd`");
    };
    process::check(process, "process")?;
    root(spec)?;
    hooks(spec)?;
    let namespaces = namespaces::check(spec)?;
    namespaces::check_names(spec, &namespaces)?;
    mounts::check(spec.mounts().as_deref().unwrap_or_default(), &namespaces)?;
    if let Some(linux) = spec.linux() {
        process::check_mapped(process, linux, &namespaces)?;
        sysctl::check(linux, &namespaces)?;
        linux::check(linux, &namespaces)?;
        seccomp::check(linux)?;
    }
    Ok(())
}

/// The id of a container or of an exec: it becomes part of paths.
pub fn check_id(kind: &'static str, id: &str) -> Result<()> {
    let refused = |message| Err(Error::Id { kind, id: id.chars().take(64).collect(), message });
    let tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
    if id.is_empty() {
        return refused("is empty; give it at least one letter or digit");
    }
    if id.len() > 1024 {
        return refused("is longer than 1024 characters; shorten it");
    }
    if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(tail) {
        return refused("must begin with a letter or digit and go on with letters, digits and `_.+-`");
    }
    if id.contains("..") {
        return refused("must not contain `..`");
    }
    Ok(())
}

fn version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-', '+']);
    let semantic = numbers.by_ref().take(3).filter(|number| number.parse::<u32>().is_ok()).count() == 3;
    if version.is_empty() || (semantic && version.starts_with("1.")) {
        return Ok(());
    }
    refuse("ociVersion", format!("`{version}` is not supported; this runtime speaks 1.0.0 to 1.3.0"))
}

fn root(spec: &Spec) -> Result<()> {
    let Some(root) = spec.root() else {
        return refuse("root", "is missing; name the root filesystem in `root.path`");
    };
    path_text("root.path", root.path())
}

fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "prestart hooks are deprecated by the spec and still in use")]
    let prestart = hooks.prestart();
    let moments = [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (moment, hooks) in moments {
        for (at, hook) in hooks.as_deref().unwrap_or_default().iter().enumerate() {
            check_hook(hook, &format!("hooks.{moment}[{at}]"))?;
        }
    }
    Ok(())
}

fn check_hook(hook: &Hook, at: &str) -> Result<()> {
    absolute(&format!("{at}.path"), hook.path())?;
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => refuse(
            format!("{at}.timeout"),
            format!("{seconds} is no time; leave it out or give seconds above 0"),
        ),
        _ => Ok(()),
    }
}

fn refuse<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T> {
    Err(Error::field(field, message))
}

/// Present, without NUL, short enough for the kernel.
fn path_text(field: &str, path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return refuse(field, "is empty; write a path");
    }
    if bytes.len() >= libc::PATH_MAX as usize {
        return refuse(field, format!("is {} bytes long and the kernel takes 4095", bytes.len()));
    }
    no_nul(field, bytes)
}

fn absolute(field: &str, path: &Path) -> Result<()> {
    path_text(field, path)?;
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.display();
    refuse(field, format!("`{path}` is not absolute; write `/{path}`"))
}

/// A list of CPUs or memory nodes such as `0-2,7` (cpuset(7), "List format"); 1024 are the most a kernel has.
fn is_list(list: &str) -> bool {
    let number = |end: &str| end.trim().parse::<u32>().ok().filter(|number| *number < 1024);
    list.split(',').all(|range| match range.split_once('-') {
        None => number(range).is_some(),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) => first <= last,
            _ => false,
        },
    })
}

fn no_nul(field: &str, text: impl AsRef<[u8]>) -> Result<()> {
    match text.as_ref().contains(&0) {
        true => refuse(field, "contains a NUL byte; remove it"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
