//! Hooks (runtime-spec, "POSIX-platform Hooks"): run in order, each with the container's state on stdin and its own
//! environment and nothing of the shim's, in the shim's namespaces or the container's.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;

use super::container::Container;
use super::error::{Doing, Error};
use super::plan::{Fd, Plan, Program, Step};
use super::run::{self, End};
use crate::sys::cred::Strings;

/// Seconds for a hook without a timeout. The spec has no limit; a Create that never ends would have nobody to blame.
const WITHIN: i64 = 600;

/// What a hook has that names no environment, but for a startContainer hook.
const PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where hooks run.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// In the shim's namespaces, and in the bundle.
    Host(&'a Path),
    /// In the container's namespaces and in its root, with a program of the host.
    Inside(&'a Inside, &'a Path),
    /// As the container's process, with a program of the image.
    Container(&'a Container),
}

/// The container's namespaces.
#[derive(Clone)]
pub struct Inside {
    pub init: Fd,
    pub kinds: i32,
    pub pidns: bool,
}

/// The state document of runtime-spec "State".
pub struct Document<'a> {
    pub id: &'a str,
    pub status: &'a str,
    pub pid: i32,
    pub bundle: &'a Path,
    pub annotations: &'a std::collections::HashMap<String, String>,
}

impl Document<'_> {
    pub fn json(&self) -> Vec<u8> {
        self.value().to_string().into_bytes()
    }

    pub fn value(&self) -> serde_json::Value {
        let mut document = serde_json::json!({
            "ociVersion": "1.3.0", "id": self.id, "status": self.status, "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if self.status != "stopped" {
            document["pid"] = self.pid.into();
        }
        document
    }
}

/// Runs `hooks` of one `moment`, in order.
///
/// They are ended when `until` becomes readable, so that a Kill gets through to a hook that hangs: it is the pidfd of the
/// init that they prepare for, or what [`Container::end_hooks`](super::Container::end_hooks) signals. They die with this
/// process; what they have started themselves does not.
///
/// # Errors
/// The first that fails, with its output; the rest are not run.
pub fn run(
    moment: &str,
    hooks: &[Hook],
    state: &[u8],
    place: Place<'_>,
    until: Option<&Fd>,
) -> Result<(), Error> {
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        one(hook, state, place, until, None).map_err(|e| Error::doing(name(moment, index, hook), e))
    })
}

/// Runs `hooks` on the host, in `bundle`, each whatever the one before did, until `deadline`: a hook has its share of what is left, so that
/// one that hangs does not take the time of the next. Returns the failures.
pub fn run_all(
    moment: &str,
    hooks: &[Hook],
    state: &[u8],
    bundle: &Path,
    deadline: Option<Instant>,
) -> Vec<Error> {
    let run = |(index, hook): (usize, &Hook)| {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let share = left.map(|left| left / (hooks.len() - index) as u32);
        let ran = one(hook, state, Place::Host(bundle), None, share);
        ran.map_err(|e| Error::doing(name(moment, index, hook), e)).err()
    };
    hooks.iter().enumerate().filter_map(run).collect()
}

fn name(moment: &str, index: usize, hook: &Hook) -> String {
    format!("hooks.{moment}[{index}] {}", hook.path().display())
}

fn one(
    hook: &Hook,
    state: &[u8],
    place: Place<'_>,
    until: Option<&Fd>,
    within: Option<Duration>,
) -> Result<(), Error> {
    let output = run::memory()?;
    let plan = plan(hook, state, &output, place)?;
    let own = hook.timeout().filter(|seconds| *seconds > 0);
    let seconds = own.unwrap_or(WITHIN);
    let own_limit = seconds.saturating_mul(1000).min(i32::MAX.into()) as i32;
    let limit = within.map_or(own_limit, |within| own_limit.min(within.as_millis() as i32));
    let why = match run::to_its_end(&plan, limit, until)? {
        End::Exited(0) => return Ok(()),
        End::Refused(message) => {
            return Err(Error::doing("cannot be started", super::failure::failure(&plan, &message)));
        }
        End::Exited(status) => format!("exit status {status}"),
        End::CutShort => "was killed with its container".into(),
        End::Late if limit < own_limit => {
            format!("did not end within the {limit} ms there were and was killed")
        }
        End::Late if own.is_some() => {
            format!("did not end within its timeout of {seconds} s and was killed")
        }
        End::Late => {
            format!("did not end within {seconds} s, having no timeout of its own, and was killed")
        }
    };
    Err(Error::doing(why, run::quote(output)))
}

fn plan(hook: &Hook, state: &[u8], output: &File, place: Place<'_>) -> Result<Plan, Error> {
    let mut input = run::memory()?;
    input.write_all(state).and_then(|()| input.rewind()).doing(|| "preparing the hook's stdin".into())?;
    let output = output.try_clone().doing(|| "preparing the hook's output".into())?;
    let output: Fd = Arc::new(OwnedFd::from(output));
    let stdio = [Some(Arc::new(input.into())), Some(output.clone()), Some(output)];
    let path = super::plan::c_string(hook.path().as_os_str().as_encoded_bytes())?;
    let args = match hook.args().as_deref().unwrap_or_default() {
        [] => vec![path.clone()],
        args => args.iter().map(super::plan::c_string).collect::<Result<_, _>>()?,
    };
    let env: Option<Vec<_>> =
        hook.env().as_ref().map(|env| env.iter().map(super::plan::c_string).collect()).transpose()?;
    // COMPAT: as under runc. The others find programs then: what else runc's are given is its own, which is nobody's business.
    let inherits = env.as_ref().is_none_or(Vec::is_empty) && matches!(place, Place::Container(_));
    let env = env.unwrap_or_else(|| vec![PATH.to_owned()]);
    let mut plan = match place {
        Place::Host(bundle) => simple(hook, path, stdio, None, bundle)?,
        Place::Inside(inside, root) => simple(hook, path, stdio, Some(inside), root)?,
        Place::Container(container) => container.hook(hook, stdio)?,
    };
    // ORDER: behind the user's ids, with which the kernel forgets it, and before a seccomp filter, which may refuse it.
    let session = plan.steps.iter().position(|step| matches!(step, Step::Setsid));
    plan.steps.insert(session.map_or(0, |at| at + 1), Step::DieWithShim);
    if let Some(Step::Execve { argv, envp, .. }) = plan.steps.last_mut() {
        *argv = Strings::new(args);
        if !inherits {
            *envp = Strings::new(env);
        }
    }
    plan.steps.retain(|step| inherits || !matches!(step, Step::Home(_)));
    Ok(plan)
}

/// With all that the shim may do; arguments and environment are still to come.
fn simple(
    hook: &Hook,
    path: CString,
    stdio: [Option<Fd>; 3],
    inside: Option<&Inside>,
    cwd: &Path,
) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    plan.steps.push(Step::Stdio(stdio));
    if let Some(inside) = inside {
        plan.pidns = inside.pidns.then(|| inside.init.clone());
        if inside.kinds != 0 {
            plan.steps.push(Step::JoinProcess { kinds: inside.kinds, pidfd: inside.init.clone() });
        }
    }
    // COMPAT: as under runc. Otherwise in `/`: a mapped root may not pass through every folder, and poststop hooks outlive a bundle.
    if inside.is_some() || cwd.exists() {
        let path = super::plan::c_string(cwd.as_os_str().as_encoded_bytes())?;
        plan.steps.push(Step::Cwd { path, early: true });
    }
    let name = hook.path().display().to_string();
    let program = Arc::new(Program { name, candidates: vec![path], explicit: true });
    let nothing = || Strings::new(Vec::new());
    plan.steps.extend([
        Step::Setsid,
        Step::CloseDescriptors,
        Step::Execve { program, argv: nothing(), envp: nothing() },
    ]);
    Ok(plan)
}
