//! The scope of a container: its name, its slice, and where systemd puts its cgroup (systemd.scope(5), systemd.slice(5)).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::error::{Error, Result};
use super::address::Owner;

/// unit_name_is_valid() of systemd counts the terminating zero.
const MAX_NAME: usize = 255;

/// A transient scope unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub slice: String,
    pub owner: Owner,
}

impl Unit {
    /// The unit that a cgroups path `slice:prefix:name` names.
    ///
    /// # Errors
    /// For a name or slice that systemd could not mean; says which.
    pub fn new(slice: &str, prefix: &str, name: &str, owner: Owner) -> Result<Unit> {
        let refuse = |reason| Err(Error::Path { path: format!("{slice}:{prefix}:{name}"), reason });
        if name.is_empty() {
            return refuse("the name is missing; it has the form slice:prefix:name");
        }
        if name.ends_with(".slice") {
            return refuse("a container needs a scope, not a slice; choose a name without .slice at its end");
        }
        let unit = format!("{prefix}-{name}.scope");
        if !unit.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b)) {
            return refuse("a unit's name has only letters, digits and :-_.\\@");
        }
        if unit.len() > MAX_NAME {
            return refuse("the unit's name is longer than 255 bytes; choose a shorter id");
        }
        let slice = match (slice, owner) {
            ("", Owner::System) => "system.slice",
            ("", Owner::User) => "user.slice",
            ("-", _) => "-.slice",
            (slice, _) => slice,
        };
        let unit = Unit { name: unit, slice: slice.to_owned(), owner };
        if expand(slice).is_none() {
            return refuse("the slice must be like a.slice or a-b.slice, without slashes");
        }
        Ok(unit)
    }

    /// The scope's cgroup below the manager's, without a leading slash.
    pub fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }
}

/// The directory of a slice: each dash is a level, so `a-b.slice` lies in `a.slice`. `None` for a name that is no slice's.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/'))?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let (mut path, mut prefix) = (PathBuf::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix = format!("{prefix}{part}-");
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(slice: &str, owner: Owner) -> String {
        Unit::new(slice, "cri", "c1", owner).unwrap().path().display().to_string()
    }

    #[test]
    fn each_dash_of_a_slice_is_a_level() {
        assert_eq!(path("a-b-c.slice", Owner::System), "a.slice/a-b.slice/a-b-c.slice/cri-c1.scope");
        assert_eq!(path("", Owner::System), "system.slice/cri-c1.scope");
        assert_eq!(path("", Owner::User), "user.slice/cri-c1.scope");
        assert_eq!(path("-.slice", Owner::System), "cri-c1.scope");
        assert_eq!(path("-", Owner::System), "cri-c1.scope");
    }

    #[test]
    fn names_that_systemd_could_not_mean_are_refused() {
        for slice in ["a", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../a.slice"] {
            assert!(Unit::new(slice, "p", "n", Owner::System).is_err(), "{slice}");
        }
        for (prefix, name) in [("p", ""), ("p", "x.slice"), ("p", "a/b"), ("..", "/x"), ("p", "ä")] {
            assert!(Unit::new("", prefix, name, Owner::System).is_err(), "{prefix}:{name}");
        }
        assert!(Unit::new("", "p", &"x".repeat(250), Owner::System).is_err());
    }
}
