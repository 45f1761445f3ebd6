//! The id maps of a new user namespace (user_namespaces(7)), written by the shim.

use std::fmt::Write;

use oci_spec::runtime::LinuxIdMapping;

use super::error::{Doing, Error};

/// Writes uid_map and gid_map of process `pid`. `owner` is where the mappings stand: `linux`, `mounts[2]`.
///
/// # Errors
/// Names the file and its content: the kernel says no more than EINVAL or EPERM.
pub fn write(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], owner: &str) -> Result<(), Error> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{file}");
        let text = lines(map);
        std::fs::write(&path, &text)
            .doing(|| format!("writing {:?} to {file} ({owner}.{})", text, field(file)))?;
    }
    Ok(())
}

fn field(file: &str) -> &'static str {
    if file == "uid_map" { "uidMappings" } else { "gidMappings" }
}

fn lines(map: &[LinuxIdMapping]) -> String {
    map.iter().fold(String::new(), |mut text, m| {
        let _ = writeln!(text, "{} {} {}", m.container_id(), m.host_id(), m.size());
        text
    })
}

/// The host id behind a container id; itself without a map.
pub fn to_host(map: &[LinuxIdMapping], id: u32) -> u32 {
    host_id(map, id).unwrap_or(id)
}

/// The host id behind a container id, if it is mapped.
pub fn host_id(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let inside =
        |m: &&LinuxIdMapping| (m.container_id()..m.container_id().saturating_add(m.size())).contains(&id);
    map.iter().find(inside).map(|m| m.host_id() + (id - m.container_id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Vec<LinuxIdMapping> {
        serde_json::from_str(r#"[{"containerID":0,"hostID":100000,"size":65536}]"#).unwrap()
    }

    #[test]
    fn a_map_is_one_line_an_entry() {
        assert_eq!(lines(&map()), "0 100000 65536\n");
    }

    #[test]
    fn ids_translate_to_the_host() {
        assert_eq!(to_host(&map(), 5), 100005);
        assert_eq!(to_host(&[], 5), 5);
    }
}
