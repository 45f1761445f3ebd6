//! What the spec may ask for and this engine does not do: refused by name, never silently left out.
//! `oci::features` claims none of it.

use oci_spec::runtime::Spec;

use super::Error;
use crate::oci::mount_options::MountOptions;

/// # Errors
/// Names the field and what to do instead.
pub fn check(spec: &Spec) -> Result<(), Error> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        let field = format!("mounts[{index}] ({})", mount.destination().display());
        let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        match (options.idmap.is_some() || mapped, options.tmpcopyup, options.remount) {
            (true, ..) => refuse(&field, "an id-mapped mount", "give the files to the mapped ids instead")?,
            (_, true, _) => refuse(&field, "tmpcopyup", "fill the tmpfs in the container instead")?,
            (.., true) => refuse(&field, "remount", "give the options to the mount itself")?,
            _ => {}
        }
    }
    Ok(())
}

fn refuse(field: &str, what: &str, remedy: &str) -> Result<(), Error> {
    Err(Error::Spec(format!("{field}: {what} is not supported: {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let spec: Spec = serde_json::from_str(json).unwrap();
        check(&spec).unwrap_err().to_string()
    }

    #[test]
    fn an_id_mapped_mount_is_refused_rather_than_mounted_unmapped() {
        let mount = r#"{"destination":"/data","type":"bind","source":"/x","options":["bind","idmap"]}"#;
        let text = refused(&format!(r#"{{"ociVersion":"1.2.0","mounts":[{mount}]}}"#));
        assert!(text.starts_with("mounts[0] (/data): an id-mapped mount is not supported"), "{text}");
    }
}
