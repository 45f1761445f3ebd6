//! What a container must not leave behind, looked up in the kernel's own lists.

use super::subject;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every cgroup folder, in any hierarchy, that a cgroups path names.
pub fn cgroups(path: &str) -> Vec<PathBuf> {
    let path = match path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] => slice_folder(slice).join(format!("{prefix}-{name}.scope")),
        _ => path.trim_start_matches('/').into(),
    };
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    if !subject::cgroup_v2() {
        hierarchies = fs::read_dir(root)
            .expect("list /sys/fs/cgroup")
            .map(|entry| entry.expect("entry").path())
            .collect();
    }
    hierarchies.into_iter().map(|hierarchy| hierarchy.join(&path)).filter(|folder| folder.is_dir()).collect()
}

/// systemd.slice(5): "foo-bar.slice" is a slice below "foo.slice".
fn slice_folder(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").expect("a slice");
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

/// Mount points of this mount namespace that lie below a folder.
pub fn mounts_below(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&folder))
        .map(str::to_owned)
        .collect()
}

pub fn alive(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// Pids of live processes with this text somewhere in their command line or environment.
pub fn processes_naming(text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc")
        .expect("list /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let file = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        *pid != std::process::id() as i32
            && String::from_utf8_lossy(&file("cmdline")).contains(text)
            && alive(*pid)
    })
    .collect()
}

/// Children of a process, zombies among them.
pub fn children_of(pid: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    children.sort_unstable();
    children
}

/// The sockets that a process has open, as the kernel numbers them.
pub fn sockets_of(pid: i32) -> BTreeSet<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors").flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).collect()
}

/// Is the cgroup frozen, by either freezer?
pub fn is_frozen(cgroup: &str) -> bool {
    let says = |folder: &Path, file: &str, word: &str| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == word)
    };
    let frozen =
        |folder: &PathBuf| says(folder, "freezer.state", "FROZEN") || says(folder, "cgroup.freeze", "1");
    cgroups(cgroup).iter().any(frozen)
}

pub fn processes_in(cgroup: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for folder in cgroups(cgroup) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}
