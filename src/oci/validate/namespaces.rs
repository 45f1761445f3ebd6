//! Refusals about namespaces and what needs one: host name, id mappings, clock offsets.

pub use oci_spec::runtime::LinuxNamespaceType as Kind;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, Spec};

use super::{Result, absolute, no_nul, refuse};

/// The namespaces that the spec asks for, each at most once.
pub struct Namespaces<'a>(&'a [LinuxNamespace]);

impl Namespaces<'_> {
    fn find(&self, kind: Kind) -> Option<&LinuxNamespace> {
        self.0.iter().find(|namespace| namespace.typ() == kind)
    }

    /// New or joined: not the runtime's own.
    pub fn has(&self, kind: Kind) -> bool {
        self.find(kind).is_some()
    }

    pub fn is_joined(&self, kind: Kind) -> bool {
        self.find(kind).is_some_and(|namespace| path(namespace).is_some())
    }

    pub fn is_new(&self, kind: Kind) -> bool {
        self.find(kind).is_some_and(|namespace| path(namespace).is_none())
    }
}

/// COMPAT: an empty path means a new namespace.
fn path(namespace: &LinuxNamespace) -> Option<&std::path::Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

pub fn check(spec: &Spec) -> Result<Namespaces<'_>> {
    let Some(linux) = spec.linux() else { return Ok(Namespaces(&[])) };
    let list = linux.namespaces().as_deref().unwrap_or_default();
    for (at, namespace) in list.iter().enumerate() {
        let (kind, field) = (namespace.typ(), format!("linux.namespaces[{at}]"));
        if list[..at].iter().any(|earlier| earlier.typ() == kind) {
            return refuse(field, format!("names the {kind} namespace a second time; remove one of them"));
        }
        if let Some(path) = path(namespace) {
            absolute(&format!("{field}.path"), path)?;
        }
    }
    let namespaces = Namespaces(list);
    mappings(linux, &namespaces)?;
    clocks(linux, &namespaces)?;
    Ok(namespaces)
}

const NAME_MAX: usize = 64;

pub fn check_names(spec: &Spec, namespaces: &Namespaces<'_>) -> Result<()> {
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let name = name.as_deref().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        no_nul(field, name)?;
        if name.len() > NAME_MAX {
            return refuse(field, format!("`{name}` is longer than {NAME_MAX} bytes; shorten it"));
        }
        if !namespaces.has(Kind::Uts) {
            return refuse(field, "needs a uts namespace; add one to linux.namespaces or remove the name");
        }
    }
    Ok(())
}

fn mappings(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    let tables = [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())];
    for (field, table) in tables {
        let table = table.as_deref().unwrap_or_default();
        if !namespaces.has(Kind::User) {
            if !table.is_empty() {
                return refuse(field, "needs a user namespace; add one to linux.namespaces");
            }
            continue;
        }
        check_mappings(field, table)?;
        // COMPAT: with a path the mappings are those of the namespace; containerd repeats them.
        if namespaces.is_joined(Kind::User) {
            continue;
        }
        if table.is_empty() {
            return refuse(field, "is empty; a new user namespace needs mappings, or a path to join one");
        }
        if !table.iter().any(|mapping| mapping.container_id() == 0) {
            return refuse(field, "does not map container id 0; the container's root must exist");
        }
    }
    Ok(())
}

/// What the kernel refuses in `uid_map`, user_namespaces(7).
pub fn check_mappings(field: &str, table: &[LinuxIdMapping]) -> Result<()> {
    const MAX: usize = 340;
    if table.len() > MAX {
        return refuse(field, format!("has {} ranges and the kernel takes {MAX}; merge some", table.len()));
    }
    for (at, mapping) in table.iter().enumerate() {
        let field = format!("{field}[{at}]");
        if mapping.size() == 0 {
            return refuse(format!("{field}.size"), "is 0; map at least one id");
        }
        for (name, first) in [("containerID", mapping.container_id()), ("hostID", mapping.host_id())] {
            if first.checked_add(mapping.size()).is_none() {
                return refuse(
                    format!("{field}.{name}"),
                    format!(
                        "{first} and {} ids more do not exist; the last id is 4294967294",
                        mapping.size()
                    ),
                );
            }
        }
        for (other, earlier) in table[..at].iter().enumerate() {
            let inside = overlap(mapping, earlier, LinuxIdMapping::container_id);
            if inside || overlap(mapping, earlier, LinuxIdMapping::host_id) {
                return refuse(field, format!("overlaps range {other}; every id is mapped once at the most"));
            }
        }
    }
    Ok(())
}

fn overlap(a: &LinuxIdMapping, b: &LinuxIdMapping, first: fn(&LinuxIdMapping) -> u32) -> bool {
    let end = |mapping| u64::from(first(mapping)) + u64::from(mapping.size());
    u64::from(first(a)) < end(b) && u64::from(first(b)) < end(a)
}

/// time_namespaces(7).
fn clocks(linux: &Linux, namespaces: &Namespaces<'_>) -> Result<()> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return Ok(());
    };
    let field = "linux.timeOffsets";
    if !namespaces.has(Kind::Time) {
        return refuse(field, "needs a time namespace; add one to linux.namespaces");
    }
    if namespaces.is_joined(Kind::Time) {
        return refuse(field, "cannot be set in a joined time namespace; remove it or the namespace's path");
    }
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return refuse(format!("{field}.{clock}"), "is no clock; use `monotonic` or `boottime`");
        }
        if offset.nanosecs().unwrap_or(0) > 999_999_999 {
            return refuse(
                format!("{field}.{clock}.nanosecs"),
                "is a second or more; carry it over to `secs`",
            );
        }
    }
    Ok(())
}
