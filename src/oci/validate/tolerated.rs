//! What a spec may say and should not, and what is made of it: each a sentence for the log.
//!
//! Nothing of this is refused. <https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md>

use oci_spec::runtime::{Mount, Spec};

/// Of an accepted spec.
pub fn warnings(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().iter().flatten().enumerate();
    mounts.filter_map(|(at, mount)| relative(at, mount)).collect()
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
