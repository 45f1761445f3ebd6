//! Where our shim and containerd-shim-runc-v2 answer differently on purpose, each with its reason.
//! A test that meets such a place asks here; everything else must be the same for both.

use super::subject;

pub const DIFFERENCES: &[(&str, &str)] = &[
    (
        "code of Delete while running",
        "containerd-shim-runc-v2 answers UNKNOWN; the task API says FAILED_PRECONDITION",
    ),
    (
        "exec start after init's end",
        "containerd-shim-runc-v2 reports runc's error as UNKNOWN and marks the exec stopped",
    ),
    (
        "SIGKILL of a paused task",
        "runc leaves a paused task frozen with the signal pending; ours thaws it before SIGKILL",
    ),
    (
        "folder above read-only v1 cgroup mounts",
        "runc leaves it writable; ours is read-only as all of the mount",
    ),
    ("another's unit of the same name", "runc's clean-up after the failed Create stops it"),
    ("order of OOM and exit", "containerd-shim-runc-v2 sends both as they come, in either order"),
    (
        "OOM without one",
        "containerd-shim-runc-v2 takes the removal of a v1 cgroup for an OOM when the id is used again",
    ),
    ("pid in the answer of delete", "the Go shim's delete may not find the pid; ours keeps it in the bundle"),
    (
        "time of the last drain",
        "the Go shim waits up to ten seconds for a pipe that somebody else holds; ours a short grace",
    ),
    (
        "owner of the streams in a user namespace",
        "runc's shim leaves its pipes to the host's root, whom the container's user namespace does not map; ours gives \
         them to the process's user on the host",
    ),
    (
        "capabilities that the host lacks",
        "runc fails with EPERM where the shim itself lacks one that is asked for; ours leaves it out with a warning",
    ),
    (
        "cpu.weight from shares",
        "runc before 1.3.2 converts in a straight line (1024 to 39); ours follows the later curve (1024 to 100)",
    ),
    (
        "poststart hooks at Create",
        "runc runs them at the end of create; the spec: after the user-specified process is executed",
    ),
    (
        "failing startContainer hook",
        "runc start has returned when init runs the hook: the failure shows as init's exit only",
    ),
    (
        "failing poststop hook",
        "runc leaves the rest out or fails Delete; the spec: a warning, and the rest runs",
    ),
    ("umask of an exec", "runc gives every exec the container's, whatever its own process says"),
    (
        "open files of an exec",
        "runc sets RLIMIT_NOFILE from outside while Go's start raises it, and with 1.1.5 the soft limit now and then is the \
         hard one (opencontainers/runc#4195); `api_identity` asks ours for the exact pair",
    ),
    (
        "owner of /dev/mqueue in a user namespace",
        "runc makes the user namespace first, and its root (not its group) owns a new mqueue; ours makes all namespaces in \
         one clone, and the host's root owns it",
    ),
    ("oom score of an exec", "runc gives every exec the container's, whatever its own process says"),
    (
        "events while containerd is away",
        "the Go publisher gives up after a few tries; ours keeps its journal",
    ),
    (
        "id-mapped new filesystem",
        "runc maps the ids of bind mounts only; crun and ours also those of a new one",
    ),
    ("device rules of an Update", "runc leaves them alone, whatever the update says"),
    (
        "another file in a device's place",
        "runc takes whatever is there; the spec: an error, unless it is that device",
    ),
    (
        "slave or unbindable root",
        "runc makes the rootfs's mount private before it binds it, and a slave has no master then; in an unbindable root it \
         fails to bind readonlyPaths",
    ),
    ("device that cannot be moved", "runc moves it before it finds that out, and it goes with the namespace"),
    (
        "name templates of netDevices",
        "runc hands `net%d` to the kernel, and then looks for a device of that very name",
    ),
    ("tmpcopyup of a pipe", "runc sets the owner of a pipe before it makes it, and fails; ours copies it"),
    (
        "crun's bind options",
        "runc takes copy-symlink, src-nofollow, dest-nofollow and idmap=… for data of the filesystem",
    ),
];

/// True when the peer is under test and the named behaviour is one it is known not to have.
pub fn runc_differs(name: &str) -> bool {
    assert_listed(name);
    !subject::ours()
}

/// For texts of both, compared side by side: leaves out the lines that the named difference is about, which begin or end
/// with `part`.
pub fn without(name: &str, part: &str, text: &str) -> String {
    assert_listed(name);
    let is_about = |line: &&str| line.starts_with(part) || line.ends_with(part);
    let (about, rest): (Vec<_>, Vec<_>) = text.lines().partition(is_about);
    assert!(!about.is_empty(), "nothing about {name} is in {text}");
    rest.join("\n")
}

fn assert_listed(name: &str) {
    assert!(DIFFERENCES.iter().any(|(known, _)| *known == name), "{name} is not in the table of differences");
}
