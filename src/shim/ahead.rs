//! What can be done before it is asked for. When `start` runs, config.json is in the bundle already, and containerd needs
//! some ten milliseconds from there to Create: time to parse it and to find the host's cgroup hierarchies, which brings a
//! worker thread and the program's pages along.
//!
//! Nothing is touched on the host, so nothing has to be undone when Create never comes. Create takes the result only if
//! the file still has the same bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::workers;
use crate::oci::spec::{self, Spec, Warnings};
use crate::{oci, sys};

type Parsed = (Vec<u8>, Box<(Spec, Warnings)>);

/// The result to come, until a Create takes it.
#[derive(Clone, Default)]
pub struct Ahead(Arc<Mutex<Option<oneshot::Receiver<Parsed>>>>);

impl Ahead {
    /// Parses the config.json of `bundle` on a worker thread. What is wrong with it is Create's to say.
    pub fn begin(&self, bundle: PathBuf) {
        let (done, result) = oneshot::channel();
        let work = move || {
            sys::memory::map_program();
            // Kept for the shim's life. What is wrong with it is Create's to say, too.
            let _ = crate::engine::cgroup::Host::get();
            let Ok(text) = spec::read(&bundle) else { return };
            let Ok(parsed) = spec::parse(&text) else { return };
            // Nobody may want it any more.
            let _ = done.send((text, Box::new(parsed)));
        };
        // Without a thread to be had nothing is done ahead.
        if workers::hand_over(Box::new(work)).is_ok() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    }

    /// The spec of `bundle`, for its Create. One that comes early waits: doing it a second time takes longer.
    ///
    /// # Errors
    /// As `oci::spec::load`.
    pub async fn load(&self, bundle: &Path) -> oci::Result<(Spec, Warnings)> {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(result) = result else { return spec::load(bundle) };
        match result.await {
            Ok((text, parsed)) if spec::read(bundle)? == text => Ok(*parsed),
            _ => spec::load(bundle),
        }
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
        let begun = ahead.0.lock().unwrap().take().unwrap();
        let begun = begun.await;
        std::fs::write(bundle.path().join("config.json"), then).unwrap();
        if let Ok(parsed) = begun {
            let (done, result) = oneshot::channel();
            assert!(done.send(parsed).is_ok());
            *ahead.0.lock().unwrap() = Some(result);
        }
        let loaded = ahead.load(bundle.path()).await.ok();
        assert!(ahead.0.lock().unwrap().is_none());
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

    #[tokio::test(flavor = "current_thread")]
    async fn a_create_that_comes_early_waits() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), r#"{"ociVersion":"1.0.1"}"#).unwrap();
        let ahead = Ahead::default();
        ahead.begin(bundle.path().to_owned());
        assert_eq!(ahead.load(bundle.path()).await.unwrap().0.version(), "1.0.1");
    }
}
