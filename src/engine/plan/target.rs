//! A place below the container's root, split into components before the clone.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Component, Path};

use crate::engine::Error;

/// A path in the container, relative to its root, with its components ready for mkdirat(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Without a leading slash; `.` for the root itself.
    pub path: CString,
    pub parts: Vec<CString>,
}

impl Target {
    /// Cleans `path`, which is taken from the root: no `.`, no empty components, `..` taken as text and never above the root.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let mut parts = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => parts.push(c_string(name.as_encoded_bytes())?),
                Component::ParentDir => drop(parts.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let path = parts.iter().map(|p| p.as_bytes()).collect::<Vec<_>>().join(&b'/');
        let path = if path.is_empty() { c".".to_owned() } else { c_string(&path)? };
        Ok(Self { path, parts })
    }

    pub fn is_root(&self) -> bool {
        self.parts.is_empty()
    }

    /// Is this the place `path`, written without a leading slash?
    pub fn is(&self, path: &CStr) -> bool {
        self.path.as_c_str() == path
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_root() {
            true => f.write_str("/"),
            false => write!(f, "/{}", self.path.to_string_lossy()),
        }
    }
}

/// A string for the kernel; one with a NUL byte inside is refused by name.
pub fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, Error> {
    let bytes = bytes.as_ref();
    CString::new(bytes)
        .map_err(|_| Error::Spec(format!("{:?} has a NUL byte inside", String::from_utf8_lossy(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_relative_and_clean() {
        let t = Target::new(Path::new("/a//./b/../c")).unwrap();
        assert_eq!(t.path.to_str().unwrap(), "a/c");
        assert_eq!(t.parts.len(), 2);
        assert_eq!(t.to_string(), "/a/c");
    }

    #[test]
    fn a_place_is_the_same_however_it_is_written() {
        for path in ["/proc", "proc", "//proc/", "./a/../proc"] {
            assert!(Target::new(Path::new(path)).unwrap().is(c"proc"), "{path}");
        }
        assert!(!Target::new(Path::new("/proc/sys")).unwrap().is(c"proc"));
    }

    #[test]
    fn dot_dot_never_leaves_the_root() {
        assert!(Target::new(Path::new("/../..")).unwrap().is_root());
    }
}
