//! What can be done before it is asked for. When `start` runs, config.json is in the bundle already, and containerd needs
//! some ten milliseconds from there to Create: time to parse it and to find the host's cgroup hierarchies, which brings a
//! worker thread and the program's pages along.
//!
//! Nothing is touched on the host, so nothing has to be undone when Create never comes. Create takes the result only if
//! the file still has the same bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::workers;
use crate::oci::spec::{self, Spec, Warnings};
use crate::{oci, sys};

#[derive(Clone, Default)]
pub struct Ahead(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Open,
    Parsed(Vec<u8>, Box<(Spec, Warnings)>),
    /// Create has come: a result would be too late.
    Closed,
}

impl Ahead {
    /// Parses the config.json of `bundle` on a worker thread. What is wrong with it is Create's to say.
    pub fn begin(&self, bundle: PathBuf) {
        let ahead = self.clone();
        let work = move || {
            sys::memory::map_program();
            // Kept for the shim's life. What is wrong with it is Create's to say, too.
            let _ = crate::engine::cgroup::Host::get();
            let Ok(text) = spec::read(&bundle) else { return };
            let Ok(parsed) = spec::parse(&text) else { return };
            let mut state = ahead.0.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*state, State::Open) {
                *state = State::Parsed(text, Box::new(parsed));
            }
        };
        // Without a thread to be had nothing is done ahead.
        let _ = workers::hand_over(Box::new(work));
    }

    /// The spec of `bundle`, for its Create.
    ///
    /// # Errors
    /// As `oci::spec::load`.
    pub fn load(&self, bundle: &Path) -> oci::Result<(Spec, Warnings)> {
        let state =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Closed);
        let State::Parsed(text, parsed) = state else { return spec::load(bundle) };
        if spec::read(bundle)? == text { Ok(*parsed) } else { spec::load(bundle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after_begin(first: &str, then: &str) -> Option<String> {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), first).unwrap();
        let ahead = Ahead::default();
        ahead.begin(bundle.path().to_owned());
        while matches!(*ahead.0.lock().unwrap(), State::Open) && first.ends_with('}') {
            tokio::task::yield_now().await;
        }
        std::fs::write(bundle.path().join("config.json"), then).unwrap();
        let loaded = ahead.load(bundle.path()).ok();
        assert!(matches!(*ahead.0.lock().unwrap(), State::Closed));
        loaded.map(|(spec, _)| spec.version().clone())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn create_gets_the_file_as_it_is_then() {
        let (old, new) = (r#"{"ociVersion":"1.0.1"}"#, r#"{"ociVersion":"1.0.2"}"#);
        assert_eq!(after_begin(old, old).await.as_deref(), Some("1.0.1"));
        assert_eq!(after_begin(old, new).await.as_deref(), Some("1.0.2"));
        assert_eq!(after_begin("not json", new).await.as_deref(), Some("1.0.2"));
        assert_eq!(after_begin(old, "not json").await, None);
    }
}
