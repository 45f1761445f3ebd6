//! Refusals about mounts.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::namespaces::{Kind, Namespaces, check_mappings};
use super::{Result, absolute, no_nul, path_text, refuse};
use crate::oci::mount_options::MountOptions;

pub fn check(mounts: &[Mount], namespaces: &Namespaces<'_>) -> Result<()> {
    for (at, mount) in mounts.iter().enumerate() {
        check_one(mount, &format!("mounts[{at}]"), namespaces)?;
    }
    Ok(())
}

fn check_one(mount: &Mount, at: &str, namespaces: &Namespaces<'_>) -> Result<()> {
    let field = |name: &str| format!("{at}.{name}");
    absolute(&field("destination"), mount.destination())?;
    if let Some(source) = mount.source().as_deref().filter(|source| *source != Path::new("")) {
        path_text(&field("source"), source)?;
    }
    no_nul(&field("type"), mount.typ().as_deref().unwrap_or_default())?;
    let words = mount.options().as_deref().unwrap_or_default();
    for (index, word) in words.iter().enumerate() {
        no_nul(&format!("{at}.options[{index}]"), word)?;
    }
    let options = MountOptions::parse(words);
    if let Some(data) = options.data.first().filter(|_| options.bind) {
        return refuse(
            field("options"),
            format!("`{data}` means nothing to a bind mount; remove it, or mount the filesystem itself"),
        );
    }
    id_mappings(mount, &options, at, namespaces)
}

fn id_mappings(mount: &Mount, options: &MountOptions, at: &str, namespaces: &Namespaces<'_>) -> Result<()> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let own = !uids.is_empty() || !gids.is_empty();
    if !own && options.idmap.is_none() {
        return Ok(());
    }
    if !options.bind {
        return refuse(at, "is id-mapped and no bind mount; only bind mounts can be, add `bind`");
    }
    if !own && !namespaces.has(Kind::User) {
        return refuse(at, "is id-mapped without mappings; give it both, or the container a user namespace");
    }
    if own && (uids.is_empty() || gids.is_empty()) {
        let missing = if uids.is_empty() { "uidMappings" } else { "gidMappings" };
        return refuse(format!("{at}.{missing}"), "is empty; an id-mapped mount needs both tables");
    }
    check_mappings(&format!("{at}.uidMappings"), uids)?;
    check_mappings(&format!("{at}.gidMappings"), gids)
}
