//! The filters in use, found again by their profile: the containers of a pod mostly have the same one.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use oci_spec::runtime::LinuxSeccomp;

use super::{Error, Filter, compile};

/// Instead of the profile, which takes more room than its filter. Nobody can make two profiles with the same one: the keys
/// are random, and nobody gets to see them.
type Digest = [u64; 2];

static KNOWN: Mutex<Vec<(Digest, Weak<Filter>)>> = Mutex::new(Vec::new());

/// The filter of a container that has the same profile, or a new one.
///
/// # Errors
/// As [`compile`].
pub fn filter(profile: &LinuxSeccomp) -> Result<Arc<Filter>, Error> {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // What cannot be told from others is nobody else's.
    let Some(digest) = digest(profile) else { return compile(profile).map(Arc::new) };
    let found = known().iter().filter(|(of, _)| *of == digest).find_map(|(_, filter)| filter.upgrade());
    if let Some(filter) = found {
        return Ok(filter);
    }
    let filter = Arc::new(compile(profile)?);
    let mut known = known();
    known.retain(|(_, filter)| filter.strong_count() > 0);
    known.push((digest, Arc::downgrade(&filter)));
    Ok(filter)
}

fn digest(profile: &LinuxSeccomp) -> Option<Digest> {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    let text = serde_json::to_vec(profile).ok()?;
    Some(KEYS.each_ref().map(|keys| keys.hash_one(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                [{{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": {errno}}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn equal_profiles_share_a_filter_for_as_long_as_it_is_used() {
        let of_one = filter(&profile(71)).unwrap();
        assert!(Arc::ptr_eq(&of_one, &filter(&profile(71)).unwrap()));
        let of_another = filter(&profile(72)).unwrap();
        assert!(!Arc::ptr_eq(&of_one, &of_another));
        assert_ne!(format!("{of_one:?}"), format!("{of_another:?}"));
        let unused = Arc::downgrade(&of_one);
        drop(of_one);
        assert!(unused.upgrade().is_none(), "it is kept by nobody");
        let digest = digest(&profile(71)).unwrap();
        filter(&profile(73)).unwrap();
        let known = KNOWN.lock().unwrap();
        assert!(!known.iter().any(|(of, _)| *of == digest), "what is not used is not remembered");
    }
}
