//! `mounts` of the spec as steps.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime as spec;

use super::target::c_string;
use super::{Links, Mount, Options, Plan, Source, Step, TakeOver, Target};
use crate::engine::Error;
use crate::oci::mount_options::{Attributes, MountOptions};
use crate::sys::mount::MountAttr;

/// One cgroup hierarchy as the container is to see it.
#[derive(Clone, Debug, Default)]
pub struct CgroupView {
    /// Directory name below the cgroup mount; empty for the unified hierarchy, which is the mount itself.
    pub name: String,
    /// What is bound, a directory of the host; empty for whatever a joined cgroup namespace has for its root.
    pub path: PathBuf,
    /// Further names of a co-mounted hierarchy (`cpu` and `cpuacct` for `cpu,cpuacct`).
    pub links: Vec<String>,
}

/// COMPAT: a bind mount with any attribute of its own has none of its source's left of these, as under mount(8) and runc.
const REPLACED: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// What the shim contributes to the mounts.
#[derive(Default)]
pub struct Host {
    pub bundle: PathBuf,
    pub cgroups: Vec<CgroupView>,
    /// Mounts that the shim opened itself, by index.
    pub detached: HashMap<usize, Arc<OwnedFd>>,
    /// SELinux label for new filesystems.
    pub label: Option<String>,
}

impl Host {
    /// The mount option that labels a new filesystem.
    fn context(&self) -> Result<Option<(CString, Option<CString>)>, Error> {
        let label = self.label.as_ref().map(c_string).transpose()?;
        Ok(label.map(|label| (c"context".to_owned(), Some(label))))
    }
}

/// A bind mount: of that type, or with `bind` or `rbind`.
pub fn is_bind(m: &spec::Mount, options: &MountOptions) -> bool {
    options.bind || m.typ().as_deref() == Some("bind")
}

/// What the filesystem of a mount is made of, and the attributes of the mount itself.
pub fn new_filesystem(index: usize, m: &spec::Mount, host: &Host) -> Result<(Source, MountAttr), Error> {
    let one =
        One { index, m, options: MountOptions::parse(m.options().as_deref().unwrap_or_default()), host };
    one.new_filesystem()
}

/// Appends the mounts in order; the answer are remounts to do once everything is in place.
pub fn append(plan: &mut Plan, mounts: &[spec::Mount], host: &Host) -> Result<Vec<Step>, Error> {
    let mut late = Vec::new();
    for (index, m) in mounts.iter().enumerate() {
        let words = m.options().as_deref().unwrap_or_default();
        let one = One { index, m, options: MountOptions::parse(words), host };
        if one.options.remount {
            plan.steps.push(one.remount()?);
        } else if m.typ().as_deref() == Some("cgroup") && !one.options.bind {
            one.cgroup(&mut plan.steps)?;
        } else if is_bind(m, &one.options) {
            plan.steps.push(one.bind()?);
        } else {
            plan.steps.push(one.filesystem(&mut late)?);
        }
    }
    Ok(late)
}

/// Is anything of the host bound over the container's /dev? Then its nodes are the user's affair.
pub fn binds_dev(mounts: &[spec::Mount]) -> bool {
    let bind = |m: &spec::Mount| {
        m.typ().as_deref() == Some("bind")
            || m.options().iter().flatten().any(|o| o == "bind" || o == "rbind")
    };
    mounts.iter().any(|m| bind(m) && Target::new(m.destination()).is_ok_and(|target| target.is(c"dev")))
}

/// One mount of the spec at work.
struct One<'a> {
    index: usize,
    m: &'a spec::Mount,
    options: MountOptions,
    host: &'a Host,
}

impl One<'_> {
    fn target(&self) -> Result<Target, Error> {
        Target::new(self.m.destination())
    }

    fn step(&self, from: Source) -> Result<Mount, Error> {
        // A link in the image in place of /proc or /sys would make what is protected there land elsewhere
        // (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
        let target = self.target()?;
        let links = match (target.is(c"proc") || target.is(c"sys"), self.options.dest_nofollow) {
            (true, _) => Links::None,
            (false, true) => Links::NotLast,
            (false, false) => Links::InRoot,
        };
        Ok(Mount {
            index: self.index,
            target,
            from,
            attr: attr(&self.options.attributes),
            recursive: attr(&self.options.recursive),
            also_clear: 0,
            propagation: self.options.propagation.clone(),
            links,
            take_over: TakeOver::default(),
            label: None,
        })
    }

    fn refuse(&self, reason: &str) -> Error {
        Error::Spec(format!("mounts[{}] ({}): {reason}", self.index, self.m.destination().display()))
    }

    fn bind(&self) -> Result<Step, Error> {
        let source = self.m.source().as_ref().ok_or_else(|| self.refuse("a bind mount needs a source"))?;
        // join() keeps an absolute source as it is; a relative one belongs to the bundle.
        let path = c_string(self.host.bundle.join(source).as_os_str().as_encoded_bytes())?;
        if self.options.copy_symlink
            && let Ok(to) = std::fs::read_link(self.host.bundle.join(source))
        {
            let to = c_string(to.as_os_str().as_encoded_bytes())?;
            return Ok(Step::Mount(Box::new(self.step(Source::Symlink(to))?)));
        }
        let from = match self.host.detached.get(&self.index) {
            Some(fd) => Source::Detached { fd: fd.clone(), path },
            None => Source::Bind { path, recursive: self.options.rbind, nofollow: self.options.src_nofollow },
        };
        let mut mount = self.step(from)?;
        if mount.attr != MountAttr::default() {
            mount.also_clear = REPLACED & !mount.attr.set;
        }
        Ok(Step::Mount(Box::new(mount)))
    }

    fn remount(&self) -> Result<Step, Error> {
        let options = self.superblock(|_| true)?;
        // A bind has no superblock of its own to change.
        let superblock = (!is_bind(self.m, &self.options) && !options.is_empty()).then_some(options);
        Ok(Step::Mount(Box::new(self.step(Source::Remount { superblock })?)))
    }

    fn filesystem(&self, late: &mut Vec<Step>) -> Result<Step, Error> {
        let (new, attr) = self.new_filesystem()?;
        let kind = self.kind()?;
        let from = match self.host.detached.get(&self.index) {
            Some(fd) => Source::Detached { fd: fd.clone(), path: c_string(kind)? },
            None => new,
        };
        let mut mount = self.step(from)?;
        if mount.attr.set != attr.set {
            late.push(Step::Remount {
                target: self.target()?,
                attr: MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() },
            });
        }
        mount.attr = attr;
        if kind == "tmpfs" {
            let has_mode = self.options.data.iter().any(|word| word.starts_with("mode="));
            mount.take_over = TakeOver { mode: !has_mode, content: self.options.tmpcopyup };
        }
        if matches!(kind, "proc" | "sysfs") {
            mount.links = Links::None;
        }
        // COMPAT: as runc does; it refuses the mount option.
        if kind == "mqueue" {
            mount.label = self.host.label.as_ref().map(c_string).transpose()?;
        }
        Ok(Step::Mount(Box::new(mount)))
    }

    fn kind(&self) -> Result<&str, Error> {
        let kind = self.m.typ().as_deref().filter(|kind| !kind.is_empty());
        kind.ok_or_else(|| self.refuse("neither a type nor a bind option is given"))
    }

    fn new_filesystem(&self) -> Result<(Source, MountAttr), Error> {
        let kind = self.kind()?;
        let mut attr = attr(&self.options.attributes);
        // ORDER: a tmpfs gets its content first (devices, further mount points), read-only later.
        let defer_ro = kind == "tmpfs" && attr.set & libc::MOUNT_ATTR_RDONLY != 0;
        if defer_ro {
            attr.set &= !libc::MOUNT_ATTR_RDONLY;
        }
        let mut options = self.superblock(|flag| flag != "rw" && !(defer_ro && flag == "ro"))?;
        if takes_label(kind) {
            options.extend(self.host.context()?);
        }
        let source =
            self.m.source().as_ref().map(|s| s.as_os_str().as_encoded_bytes()).unwrap_or(kind.as_bytes());
        Ok((Source::Filesystem { kind: c_string(kind)?, source: c_string(source)?, options }, attr))
    }

    /// What fsconfig(2) is told: flags of the VFS that `wanted` lets through, then the filesystem's own words.
    fn superblock(&self, wanted: impl Fn(&str) -> bool) -> Result<Options, Error> {
        let flags = self.options.superblock.iter().filter(|flag| wanted(flag));
        let mut options: Options =
            flags.map(|flag| Ok((c_string(flag)?, None))).collect::<Result<_, Error>>()?;
        for word in &self.options.data {
            options.push(key_value(word)?);
        }
        Ok(options)
    }

    /// The cgroup mount: the unified cgroup itself, or on v1 a tmpfs with one directory a hierarchy.
    fn cgroup(&self, steps: &mut Vec<Step>) -> Result<(), Error> {
        let bind = |view: &CgroupView, target: Target| -> Result<Step, Error> {
            let path = c_string(view.path.as_os_str().as_encoded_bytes())?;
            let mut mount = self.step(Source::Bind { path, recursive: false, nofollow: false })?;
            mount.target = target;
            Ok(Step::Mount(Box::new(mount)))
        };
        let below = |name: &str| Target::new(&self.m.destination().join(name));
        if let [view] = self.host.cgroups.as_slice()
            && view.name.is_empty()
        {
            steps.push(match view.path.as_os_str().is_empty() {
                // KERNEL: not without need: mounted in the host's cgroup namespace, it would reset options of the
                // host's own (nsdelegate).
                true => self.step(unified()).map(|mount| Step::Mount(Box::new(mount)))?,
                false => bind(view, self.target()?)?,
            });
            return Ok(());
        }
        let mut options = vec![(c"mode".to_owned(), Some(c"755".to_owned()))];
        options.extend(self.host.context()?);
        let read_only = self.options.attributes.set & libc::MOUNT_ATTR_RDONLY;
        let mut tmpfs =
            self.step(Source::Filesystem { kind: c"tmpfs".into(), source: c"cgroup".into(), options })?;
        tmpfs.attr.set &= !libc::MOUNT_ATTR_RDONLY;
        steps.push(Step::Mount(Box::new(tmpfs)));
        for view in &self.host.cgroups {
            steps.push(bind(view, below(&view.name)?)?);
            for link in &view.links {
                let mut mount = self.step(Source::Symlink(c_string(&view.name)?))?;
                mount.target = below(link)?;
                steps.push(Step::Mount(Box::new(mount)));
            }
        }
        if read_only != 0 {
            steps.push(Step::Remount {
                target: self.target()?,
                attr: MountAttr { set: read_only, ..MountAttr::default() },
            });
        }
        Ok(())
    }
}

fn unified() -> Source {
    Source::Filesystem { kind: c"cgroup2".into(), source: c"cgroup".into(), options: Vec::new() }
}

/// Filesystems without xattrs of their own take the label as a mount option; the rest would refuse it.
fn takes_label(kind: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue")
}

fn key_value(word: &str) -> Result<(CString, Option<CString>), Error> {
    match word.split_once('=') {
        Some((key, value)) => Ok((c_string(key)?, Some(c_string(value)?))),
        None => Ok((c_string(word)?, None)),
    }
}

fn attr(bits: &Attributes) -> MountAttr {
    MountAttr { set: bits.set, clear: bits.clear, ..MountAttr::default() }
}
