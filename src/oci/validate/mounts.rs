//! Refusals about mounts.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::namespaces::{Kind, Namespaces, check_mappings};
use super::{Result, no_nul, path_text, refuse};
use crate::oci::idmap_option;
use crate::oci::mount_options::MountOptions;

pub fn check(mounts: &[Mount], namespaces: &Namespaces<'_>) -> Result<()> {
    for (at, mount) in mounts.iter().enumerate() {
        check_one(mount, &format!("mounts[{at}]"), namespaces)?;
    }
    Ok(())
}

fn check_one(mount: &Mount, at: &str, namespaces: &Namespaces<'_>) -> Result<()> {
    let field = |name: &str| format!("{at}.{name}");
    // May be relative; then it is taken from the root, and `tolerated` says so.
    path_text(&field("destination"), mount.destination())?;
    if let Some(source) = mount.source().as_deref().filter(|source| *source != Path::new("")) {
        path_text(&field("source"), source)?;
    }
    no_nul(&field("type"), mount.typ().as_deref().unwrap_or_default())?;
    let words = mount.options().as_deref().unwrap_or_default();
    for (index, word) in words.iter().enumerate() {
        no_nul(&format!("{at}.options[{index}]"), word)?;
    }
    if let Some(word) = words.iter().find(|word| idmap_option::is(word)) {
        let message = "is not understood; it looks like `idmap=uids=0-1000-10#10-2000-5;gids=0-1000-15`, and a range after `@` has ids of the container's own mappings";
        return refuse(field("options"), format!("`{word}` {message}"));
    }
    let options = MountOptions::parse(words);
    if let Some(data) = options.data.first().filter(|_| options.bind) {
        return refuse(
            field("options"),
            format!("`{data}` means nothing to a bind mount; remove it, or mount the filesystem itself"),
        );
    }
    over_proc(mount, &options, &field("destination"))?;
    extensions(mount, &options, at)?;
    id_mappings(mount, &options, at, namespaces)
}

/// Files of procfs that lxcfs shows otherwise, which runc lets be covered.
const COVERED: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// COMPAT: as under runc, nothing but procfs is mounted on /proc, where masks and read-only paths count on it, and only
/// these files of it are covered.
fn over_proc(mount: &Mount, options: &MountOptions, field: &str) -> Result<()> {
    let Ok(below) = clean(mount.destination()).strip_prefix("proc").map(Path::to_path_buf) else {
        return Ok(());
    };
    let kind = mount.typ().as_deref().unwrap_or_default();
    let fits = match below.as_os_str().is_empty() {
        // What is bound is looked at when it is.
        true => options.bind || options.remount || matches!(kind, "proc" | "bind"),
        false => COVERED.iter().any(|name| below == Path::new(name)),
    };
    if fits {
        return Ok(());
    }
    let message = format!("`{}` cannot be mounted because it is", mount.destination().display());
    match below.as_os_str().is_empty() {
        true => refuse(field, format!("{message} not of type proc; give it that type, or another place")),
        false => refuse(field, format!("{message} inside /proc; choose another place")),
    }
}

/// The path below the root, without `.`, `..` and empty parts.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Options that say nothing, or contradict each other, on this kind of mount.
fn extensions(mount: &Mount, options: &MountOptions, at: &str) -> Result<()> {
    let field = format!("{at}.options");
    if options.tmpcopyup && (options.bind || mount.typ().as_deref() != Some("tmpfs")) {
        return refuse(
            field,
            "has `tmpcopyup`, which only a tmpfs can do; remove it, or make the type tmpfs",
        );
    }
    if options.copy_symlink && (options.src_nofollow || options.dest_nofollow) {
        let message =
            "has `copy-symlink` beside `src-nofollow` or `dest-nofollow`; a link is either copied or mounted";
        return refuse(field, message);
    }
    if options.remount && (options.idmap.is_some() || options.tmpcopyup) {
        return refuse(field, "has `remount` beside an option for new mounts; give that to the mount itself");
    }
    Ok(())
}

fn id_mappings(mount: &Mount, options: &MountOptions, at: &str, namespaces: &Namespaces<'_>) -> Result<()> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let own = !uids.is_empty() || !gids.is_empty();
    if !own && options.idmap.is_none() {
        return Ok(());
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
