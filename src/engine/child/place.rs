//! Places below the root: found, or made where they are missing.
//!
//! What is there is found with `openat2(RESOLVE_IN_ROOT)`. What is missing is made one component at a time on descriptors, never
//! by path (CVE-2024-45310).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::engine::plan::{Links, Target};
use crate::sys::{Error, Result, fs};

pub const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// Of one component: it is below the directory that it is looked for in, and `..` is not. A link's text may have that, behind
/// a directory that is made and taken away again.
const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
/// As many links as the kernel follows in one path (path_resolution(7)).
const MOST_LINKS: u32 = 40;
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Opens the target, making what is missing of it; was it missing?
pub fn place(root: BorrowedFd<'_>, target: &Target, is_dir: bool, links: Links) -> Result<(OwnedFd, bool)> {
    let (last, resolve) = match links {
        Links::InRoot => (0, IN_ROOT),
        Links::NotLast => (libc::O_NOFOLLOW, IN_ROOT),
        Links::None => (libc::O_NOFOLLOW, IN_ROOT | libc::RESOLVE_NO_SYMLINKS),
    };
    match fs::openat2(root, &target.path, libc::O_PATH | last, 0, resolve) {
        Err(e) if e.is(libc::ENOENT) => {
            Ok((make(Way::new(root, target, resolve)?, is_dir, links == Links::InRoot)?, true))
        }
        r => Ok((r?, false)),
    }
}

fn make(mut way: Way<'_>, is_dir: bool, follow_last: bool) -> Result<OwnedFd> {
    loop {
        way.walk_to_parent()?;
        let (at, last) = (way.at.as_fd(), way.rest());
        let made = if is_dir { directory(at, last) } else { empty_file(at, last, 0o644).and_then(no_link) };
        match made {
            Err(e) if follow_last => way.follow(e)?,
            made => return made,
        }
    }
}

/// The directory that holds the last component of `target`, made if missing, and that component.
pub fn parent<'t>(root: BorrowedFd<'_>, target: &'t Target, resolve: u64) -> Result<(OwnedFd, &'t CStr)> {
    let last = target.parts.last().ok_or(Error::new("target", libc::EBUSY))?;
    let mut way = Way::new(root, target, resolve)?;
    way.walk_to_parent()?;
    Ok((way.at, last))
}

/// An empty file to mount on; one that is there is taken, a link is not followed.
pub fn empty_file(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<OwnedFd> {
    match fs::openat(dir, name, libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, mode) {
        Err(e) if e.is(libc::EEXIST) => fs::openat2(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0, BENEATH),
        r => r,
    }
}

fn no_link(fd: OwnedFd) -> Result<OwnedFd> {
    match fs::fstat(fd.as_fd())?.st_mode & libc::S_IFMT {
        libc::S_IFLNK => Err(Error::new("openat", libc::ELOOP)),
        _ => Ok(fd),
    }
}

fn directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    match fs::mkdirat(dir, name, 0o755) {
        Err(e) if e.is(libc::EEXIST) => {}
        r => r?,
    }
    fs::openat2(dir, name, libc::O_PATH | libc::O_DIRECTORY, 0, BENEATH | libc::RESOLVE_NO_SYMLINKS)
}

/// The way to a place of which something is missing. Its text is on the stack, because the child may not allocate.
struct Way<'r> {
    root: BorrowedFd<'r>,
    resolve: u64,
    /// Ends with a NUL byte.
    text: [u8; PATH_MAX],
    /// Where the next component begins.
    next: usize,
    /// The directory that it is in.
    at: OwnedFd,
    links: u32,
}

impl<'r> Way<'r> {
    fn new(root: BorrowedFd<'r>, target: &Target, resolve: u64) -> Result<Self> {
        let at = fs::openat(root, c".", libc::O_PATH, 0)?;
        let mut way = Self { root, resolve, text: [0; PATH_MAX], next: 0, at, links: 0 };
        way.set(&[target.path.to_bytes()])?;
        Ok(way)
    }

    fn set(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let mut end = 0;
        for piece in pieces {
            let room = self.text.get_mut(end..end + piece.len()).filter(|_| end + piece.len() < PATH_MAX);
            room.ok_or(Error::new("openat2", libc::ENAMETOOLONG))?.copy_from_slice(piece);
            end += piece.len();
        }
        self.text[end] = 0;
        self.next = 0;
        Ok(())
    }

    fn text_from(&self, start: usize) -> &CStr {
        CStr::from_bytes_until_nul(&self.text[start..]).unwrap_or_default()
    }

    /// What has not been walked yet; the component's name while a NUL byte ends it.
    fn rest(&self) -> &CStr {
        self.text_from(self.next)
    }

    /// Walks down to the last component's directory.
    fn walk_to_parent(&mut self) -> Result<()> {
        while let Some(length) = self.rest().to_bytes().iter().position(|byte| *byte == b'/') {
            let end = self.next + length;
            self.text[end] = 0;
            let dir = self.step_down();
            self.text[end] = b'/';
            match dir {
                Ok(dir) => (self.at, self.next) = (dir, end + 1),
                Err(e) => self.follow(e)?,
            }
        }
        Ok(())
    }

    fn step_down(&self) -> Result<OwnedFd> {
        match fs::openat2(self.root, self.text_from(0), libc::O_PATH | libc::O_DIRECTORY, 0, self.resolve) {
            Err(e) if e.is(libc::ENOENT) => directory(self.at.as_fd(), self.rest()),
            r => r,
        }
    }

    /// The next component could not be had. COMPAT: as under runc, a link that leads to nothing has what it leads to made, in the
    /// root: its text takes its place in the way, which begins again. For anything else it is `failure`.
    fn follow(&mut self, failure: Error) -> Result<()> {
        let old = self.text;
        let mut parts = self.rest().to_bytes().split(|byte| *byte == b'/');
        let end = self.next + parts.next().map_or(0, <[u8]>::len);
        self.text[end] = 0;
        let mut link = [0; PATH_MAX];
        let link = match fs::readlinkat(self.at.as_fd(), self.rest(), &mut link) {
            Ok(link) if self.links < MOST_LINKS && self.resolve & libc::RESOLVE_NO_SYMLINKS == 0 => link,
            _ => return Err(failure),
        };
        let before = if link.starts_with(b"/") { &[] } else { &old[..self.next] };
        let below = CStr::from_bytes_until_nul(&old[end..]).unwrap_or_default().to_bytes();
        self.at = fs::openat(self.root, c".", libc::O_PATH, 0)?;
        self.links += 1;
        self.set(&[before, without_slashes(link), below])
    }
}

/// `text` without those that it begins and ends with.
fn without_slashes(text: &[u8]) -> &[u8] {
    let is_other = |byte: &u8| *byte != b'/';
    let start = text.iter().position(is_other).unwrap_or(text.len());
    let end = text.iter().rposition(is_other).map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as std_fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, links: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("myshim-place-{}-{name}", std::process::id()));
            std_fs::create_dir_all(folder.join("root/a/b")).unwrap();
            std_fs::create_dir(folder.join("outside")).unwrap();
            for (link, to) in links {
                symlink(to, folder.join("root").join(link)).unwrap();
            }
            Self(folder)
        }

        fn place(&self, path: &str, is_dir: bool, links: Links) -> Result<(OwnedFd, bool)> {
            let root = std_fs::File::open(self.0.join("root")).unwrap();
            place(root.as_fd(), &Target::new(Path::new(path)).unwrap(), is_dir, links)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            std_fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_a_dangling_link_leads_to_is_made_in_the_root() {
        for (name, link, to, target, made) in [
            ("absolute", "link", "/new/x", "/link", "new/x"),
            ("slashes", "link", "//new//x/", "/link/y", "new/x/y"),
            ("relative", "a/link", "../new", "/a/link/y", "new/y"),
            ("below", "a/b/link", "new", "/a/b/link/y/z", "a/b/new/y/z"),
            ("out", "link", "../../../../outside/x", "/link/y", "outside/x/y"),
            ("there-and-back", "link", "new/../a/./c", "/link/y", "a/c/y"),
            ("through-another", "a/link", "../chain", "/a/link/y", "a/b/new/y"),
        ] {
            for is_dir in [true, false] {
                let root = Root::new(&format!("{name}-{is_dir}"), &[(link, to), ("chain", "/a/b/new")]);
                let (_, is_new) =
                    root.place(target, is_dir, Links::InRoot).unwrap_or_else(|e| panic!("{name}: {e}"));
                let made = root.0.join("root").join(made);
                assert!(is_new && made.symlink_metadata().unwrap().is_dir() == is_dir, "{name}");
                assert_eq!(std_fs::read_dir(root.0.join("outside")).unwrap().count(), 0, "{name}");
            }
        }
    }

    #[test]
    fn no_link_is_followed_where_none_may_be() {
        let root = Root::new("none", &[("link", "/new")]);
        for is_dir in [true, false] {
            assert!(root.place("/link/x", is_dir, Links::None).is_err());
            let (fd, is_new) = root.place("/link", is_dir, Links::NotLast).unwrap();
            assert!(!is_new && no_link(fd).is_err());
        }
        assert!(!root.0.join("root/new").exists());
    }

    /// "new" is made, and then the way leads back to the root, and out.
    #[test]
    fn no_link_leads_above_the_root_through_what_is_made() {
        for to in ["new/..", "new/../..", "new/../../outside/x", "new/."] {
            for is_dir in [true, false] {
                let root = Root::new("above", &[("link", to)]);
                for path in ["/link", "/link/y"] {
                    let Ok((fd, _)) = root.place(path, is_dir, Links::InRoot) else { continue };
                    let at = std_fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
                    assert!(at.starts_with(root.0.join("root")), "{to} {path}: {at:?}");
                }
                assert_eq!(std_fs::read_dir(root.0.join("outside")).unwrap().count(), 0, "{to}");
                assert_eq!(std_fs::read_dir(&root.0).unwrap().count(), 2, "{to}");
            }
        }
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = Root::new("circle", &[("one", "two/x"), ("two", "one/x")]);
        let target = Target::new(Path::new("/one/y")).unwrap();
        let opened = std_fs::File::open(root.0.join("root")).unwrap();
        assert!(parent(opened.as_fd(), &target, IN_ROOT).is_err());
        assert!(root.place("/one/y", true, Links::InRoot).is_err_and(|e| e.is(libc::ELOOP)));
    }

    #[test]
    fn what_is_in_the_way_is_the_failure() {
        let root = Root::new("file", &[]);
        std_fs::write(root.0.join("root/file"), "").unwrap();
        assert!(root.place("/file/x/y", true, Links::InRoot).is_err_and(|e| e.is(libc::ENOTDIR)));
    }
}
