//! What a spec may say and should not, and what is made of it: each a sentence for the log.
//!
//! Nothing of this is refused. <https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md>

use oci_spec::runtime::{Linux, Mount, Spec};

/// Of an accepted spec.
pub fn warnings(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().iter().flatten().enumerate();
    let relative = mounts.filter_map(|(at, mount)| relative(at, mount));
    relative.chain(spec.linux().as_ref().and_then(personality_flags)).collect()
}

/// config-linux.md, "Personality": "Currently no flag values are supported." COMPAT: runc warns as well.
fn personality_flags(linux: &Linux) -> Option<String> {
    let flags = linux.personality().as_ref()?.flags().as_deref().filter(|flags| !flags.is_empty())?;
    Some(format!("linux.personality.flags: ignored {flags:?}, for the spec has no flags yet"))
}

/// config.md, "Mounts".
fn relative(at: usize, mount: &Mount) -> Option<String> {
    let path = mount.destination();
    let told = || {
        let path = path.display();
        format!("mounts[{at}].destination `{path}` is relative, which is deprecated: taken for `/{path}`")
    };
    path.is_relative().then(told)
}
