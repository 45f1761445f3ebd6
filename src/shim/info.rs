//! `-info` and `-version`: what this runtime is and can do.
//!
//! CRI decides by the features document whether pods may have user namespaces and recursive read-only mounts.

use std::io::Write;
use std::process::ExitCode;

use protobuf::Message;

use super::bootstrap;
use super::proto::{Any, RuntimeInfo, RuntimeVersion};
use super::{BINARY, RUNTIME};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REVISION: &str = match option_env!("MYSHIM_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The type under which containerd looks for the features document.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints `RuntimeInfo`. Options on stdin are answered as they came: features do not depend on them.
pub fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let features =
        crate::oci::features::document(crate::sys::cred::takes_seccomp_flags).to_string().into_bytes();
    let info = info(&bootstrap::read_stdin()?, features)?;
    std::io::stdout().write_all(&info.write_to_bytes()?)?;
    Ok(ExitCode::SUCCESS)
}

fn info(input: &[u8], features: Vec<u8>) -> Result<RuntimeInfo, protobuf::Error> {
    let options = if input.is_empty() { None } else { Some(Any::parse_from_bytes(input)?) };
    let version = RuntimeVersion { version: VERSION.into(), revision: REVISION.into(), ..Default::default() };
    let features = Any { type_url: FEATURES.into(), value: features, ..Default::default() };
    Ok(RuntimeInfo {
        name: RUNTIME.into(),
        version: Some(version).into(),
        options: options.into(),
        features: Some(features).into(),
        ..Default::default()
    })
}

/// What `-version` prints, in the form of containerd's own shims.
pub fn version() -> String {
    let rust = env!("MYSHIM_RUSTC");
    format!("{BINARY}:\n  Version:  {VERSION}\n  Revision: {REVISION}\n  Rust version: {rust}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_carries_name_version_and_features() {
        let info = info(&[], b"{}".to_vec()).unwrap();
        assert_eq!((info.name.as_str(), info.version.version.as_str()), ("io.containerd.myshim.v1", VERSION));
        assert_eq!((info.features.type_url.as_str(), info.features.value.as_slice()), (FEATURES, &b"{}"[..]));
        assert!(info.options.is_none());
    }

    #[test]
    fn options_come_back_as_they_went() {
        let any =
            Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x48, 1], ..Default::default() };
        let info = info(&any.write_to_bytes().unwrap(), Vec::new()).unwrap();
        assert_eq!(info.options.into_option(), Some(any));
    }

    #[test]
    fn the_version_names_binary_and_compiler() {
        let text = version();
        assert!(
            text.starts_with("containerd-shim-myshim-v1:\n  Version:  ") && text.contains("Rust version: 1."),
            "{text}"
        );
    }
}
