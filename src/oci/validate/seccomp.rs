//! Refusals about the seccomp profile and its listener.

use oci_spec::runtime::{Linux, LinuxSeccompAction as Action};

use super::{Result, absolute, refuse};

pub fn check(linux: &Linux) -> Result<()> {
    let Some(profile) = linux.seccomp() else { return Ok(()) };
    let at = "linux.seccomp";
    if profile.default_action() == Action::ScmpActNotify {
        let field = format!("{at}.defaultAction");
        return refuse(field, "cannot be SCMP_ACT_NOTIFY; the container could not even be set up");
    }
    errno(&format!("{at}.defaultErrnoRet"), profile.default_action(), profile.default_errno_ret())?;
    let groups = profile.syscalls().as_deref().unwrap_or_default();
    for (index, group) in groups.iter().enumerate() {
        let field = format!("{at}.syscalls[{index}]");
        if group.names().is_empty() || group.names().iter().any(String::is_empty) {
            return refuse(
                format!("{field}.names"),
                "must name at least one system call, and none by nothing",
            );
        }
        errno(&format!("{field}.errnoRet"), group.action(), group.errno_ret())?;
        // COMPAT: the descriptor of the listener is handed over by a write.
        if group.action() == Action::ScmpActNotify && group.names().iter().any(|name| name == "write") {
            return refuse(field, "cannot send `write` to the agent; choose another action for it");
        }
    }
    let notifies = groups.iter().any(|group| group.action() == Action::ScmpActNotify);
    let listener = profile.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    match listener {
        Some(path) => absolute(&format!("{at}.listenerPath"), path),
        None if notifies => {
            refuse(format!("{at}.listenerPath"), "is missing; SCMP_ACT_NOTIFY needs an agent")
        }
        None if profile.listener_metadata().as_deref().is_some_and(|text| !text.is_empty()) => {
            refuse(format!("{at}.listenerMetadata"), "is for an agent; give listenerPath or remove it")
        }
        None => Ok(()),
    }
}

/// The spec: an action that cannot return a number must not be given one.
fn errno(field: &str, action: Action, errno: Option<u32>) -> Result<()> {
    match errno {
        None => Ok(()),
        Some(_) if !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) => {
            refuse(field, format!("has no meaning with {action}; remove it"))
        }
        Some(number) if number > u32::from(u16::MAX) => refuse(field, format!("{number} is above 65535")),
        Some(_) => Ok(()),
    }
}
