//! What the plan of an init needs of the host, looked up and opened beforehand.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, LinuxPersonalityDomain};

use super::cgroup::{Cgroup, Dir, unescape};
use super::create::CreateRequest;
use super::detached::Opener;
use super::error::{Doing, Error};
use super::for_exec::{ForExec, is_own};
use super::plan::init::{Inputs, Joined};
use super::plan::{CgroupView, Fd, Given, HostMounts, SecurityModules, init, no_selinux, words};
use super::{affinity, rootless, seccomp};
use crate::oci::validate::sysctl_of_namespace;
use crate::sys::{fs, ns};

/// What the identity part of the plan needs from the host.
pub fn given(request: &CreateRequest, filter: Option<Arc<seccomp::Filter>>) -> Result<Given, Error> {
    let linux = request.spec.linux().as_ref();
    Ok(Given {
        personality: linux.and_then(personality),
        memory_policy: linux.and_then(|l| l.memory_policy().clone()),
        proc: host_proc()?,
        filter,
        late_birth: false,
        pinned: affinity::is_pinned(),
        setup_within: request.setup_within,
        gate: true,
        modules: SecurityModules {
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|yes| yes == b"Y\n"),
            selinux: Path::new("/sys/fs/selinux").exists(),
        },
    })
}

/// personality(2): `PER_LINUX` or `PER_LINUX32`.
pub fn personality(linux: &Linux) -> Option<u64> {
    linux.personality().as_ref().map(|personality| match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// The shim's procfs, recognised by its magic and its root's inode number (CVE-2019-16884).
pub fn host_proc() -> Result<Fd, Error> {
    const PROC_ROOT_INO: u64 = 1;
    let doing = || "opening /proc".to_string();
    let proc = fs::openat(fs::CWD, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0).doing(doing)?;
    let genuine = fs::fstatfs_magic(proc.as_fd()).doing(doing)? == fs::PROC_SUPER_MAGIC
        && fs::fstat(proc.as_fd()).doing(doing)?.st_ino == PROC_ROOT_INO;
    if !genuine {
        return Err(Error::doing(doing(), "it is not the root of a procfs; mount one there"));
    }
    Ok(Arc::new(proc))
}

pub fn inputs(
    request: &CreateRequest,
    linux: &Linux,
    cgroup: &Cgroup,
    rootfs: PathBuf,
    given: Given,
) -> Result<(Inputs, ForExec), Error> {
    let joined = open_namespaces(linux)?;
    check_settings(linux, &joined)?;
    let join = cgroup.join()?;
    let for_exec = ForExec::new(&request.spec, linux, &given, !request.no_new_keyring, &joined);
    let mut host = HostMounts {
        bundle: request.bundle.clone(),
        cgroups: cgroup_views(cgroup, linux, &joined),
        detached: HashMap::new(),
        label: mount_label(linux, given.modules)?,
    };
    let mounts = request.spec.mounts().as_deref().unwrap_or_default();
    host.detached = Opener::new(linux, &joined).open(mounts, &host)?;
    let inputs = Inputs {
        id: request.id.clone(),
        rootfs,
        host,
        given,
        stdio: request.stdio.clone(),
        joined,
        tasks: join.tasks,
        cgroup: join.into,
        whole: request.no_pivot_root.then(whole_kernel_filesystems).transpose()?,
        no_new_keyring: request.no_new_keyring,
        rootless: rootless::is_rootless(),
        kcore: Path::new("/proc/kcore").exists(),
    };
    Ok((inputs, for_exec))
}

/// Where all of procfs and of sysfs is mounted, not a part of one (proc_pid_mountinfo(5)).
fn whole_kernel_filesystems() -> Result<Vec<CString>, Error> {
    let doing = || "reading /proc/self/mountinfo".to_string();
    let text = std::fs::read_to_string("/proc/self/mountinfo").doing(doing)?;
    let point = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let is_whole = root == "/" && ["proc", "sysfs"].contains(&filesystem.split(' ').next()?);
        is_whole.then(|| super::plan::c_string(unescape(point)))
    };
    text.lines().filter_map(point).collect()
}

/// What is set in a joined namespace that is the host's own would be set for the host.
fn check_settings(linux: &Linux, joined: &[Joined]) -> Result<(), Error> {
    for ns in joined {
        if let Some(name) = sysctl_of_namespace(linux, ns.kind).filter(|_| is_own(ns)) {
            return Err(Error::Spec(format!(
                "linux.sysctl.{name}: would change the host's {} namespace, which {} is; give the container its own",
                ns.kind,
                ns.path.display()
            )));
        }
    }
    Ok(())
}

fn mount_label(linux: &Linux, modules: SecurityModules) -> Result<Option<String>, Error> {
    let label = linux.mount_label().clone().filter(|label| !label.is_empty());
    match label {
        Some(label) if !modules.selinux => Err(no_selinux("linux.mountLabel", &label)),
        label => Ok(label),
    }
}

pub fn open_namespaces(linux: &Linux) -> Result<Vec<Joined>, Error> {
    let all = linux.namespaces().iter().flatten().enumerate();
    let by_path = all.filter_map(|(at, ns)| {
        let path = ns.path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        Some((at, ns.typ(), path))
    });
    by_path
        .map(|(at, kind, path)| {
            let name = super::plan::c_string(path.as_os_str().as_encoded_bytes())?;
            let what = || format!("opening the {} namespace {}", init::name(kind), path.display());
            // A FIFO would make it wait.
            let fd = fs::openat(fs::CWD, &name, libc::O_RDONLY | libc::O_NONBLOCK, 0).doing(what)?;
            match ns::kind(fd.as_fd()) {
                Ok(found) if found == kind as i32 => {
                    Ok(Joined { kind, path: path.clone(), fd: Arc::new(fd) })
                }
                found => Err(not_of_kind(at, kind, path, found.ok())),
            }
        })
        .collect()
}

/// The kernel would say EINVAL of it, and no more.
fn not_of_kind(at: usize, kind: Kind, path: &Path, found: Option<i32>) -> Error {
    let found = match found {
        Some(other) => format!("a namespace of type {}", words::namespaces(other as u64)),
        None => "no namespace".into(),
    };
    Error::Spec(format!(
        "linux.namespaces[{at}].path {} is {found}, and has to be one of type {}",
        path.display(),
        init::name(kind)
    ))
}

/// What a cgroup mount in the container shows: on v1 each hierarchy from the container's own cgroup down, on v2 what
/// its cgroup namespace sees.
fn cgroup_views(cgroup: &Cgroup, linux: &Linux, joined: &[Joined]) -> Vec<CgroupView> {
    let v1 = |dir: &Dir| CgroupView {
        name: dir.controllers.join(",").trim_start_matches("name=").into(),
        path: dir.dir.clone(),
        links: if dir.controllers.len() > 1 { dir.controllers.clone() } else { Vec::new() },
    };
    let ([], Some(unified)) = (cgroup.v1(), cgroup.unified()) else {
        return cgroup.v1().iter().map(v1).collect();
    };
    let has_own = linux.namespaces().iter().flatten().any(|ns| ns.typ() == Kind::Cgroup);
    let path = match joined.iter().any(|ns| ns.kind == Kind::Cgroup) {
        true => PathBuf::new(),
        false if has_own => unified.dir.clone(),
        // COMPAT: without a cgroup namespace runc shows the host's whole tree.
        false => unified.mount.clone(),
    };
    vec![CgroupView { path, ..CgroupView::default() }]
}
