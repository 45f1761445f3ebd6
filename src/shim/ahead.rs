//! What can be done before it is asked for. When `start` runs, config.json is in the bundle already, and containerd needs
//! some ten milliseconds from there to Create: time to parse it, to compile its seccomp profile and to find the host's cgroup
//! hierarchies, which brings a worker thread and the program's pages along. A Create that comes at once gets the spec as soon
//! as it is parsed; the rest goes on beside it.
//!
//! Nothing is touched on the host, so nothing has to be undone when Create never comes. Create takes the result only if
//! the file still has the same bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::workers;
use crate::engine::{cgroup, seccomp};
use crate::oci::spec::{self, Spec, Warnings};
use crate::{oci, sys};

/// A config.json that was read.
pub struct Loaded {
    pub spec: Spec,
    pub warnings: Warnings,
    /// The filter of its seccomp profile, if somebody compiles it already.
    pub filter: Option<seccomp::Coming>,
}

type Parsed = (Vec<u8>, Box<Loaded>);

/// The result to come, until a Create takes it.
#[derive(Clone, Default)]
pub struct Ahead(Arc<Mutex<Option<oneshot::Receiver<Parsed>>>>);

impl Ahead {
    /// Reads the config.json of `bundle` on a worker thread. What is wrong with it is Create's to say.
    pub fn begin(&self, bundle: PathBuf) {
        let (done, result) = oneshot::channel();
        let work = move || {
            let Ok(text) = spec::read(&bundle) else { return };
            let Ok((spec, warnings)) = spec::parse(&text) else { return };
            let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
            let (compile, filter) = profile.map(seccomp::compile_later).unzip();
            // Nobody may want it any more.
            let _ = done.send((text, Box::new(Loaded { spec, warnings, filter })));
            compile.into_iter().for_each(|compile| compile());
            sys::memory::map_program();
            // Kept for the shim's life. What is wrong with it is Create's to say, too.
            let _ = cgroup::Host::get();
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
    pub async fn load(&self, bundle: &Path) -> oci::Result<Loaded> {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(result) = result
            && let Ok((text, loaded)) = result.await
            && spec::read(bundle)? == text
        {
            return Ok(*loaded);
        }
        spec::load(bundle).map(|(spec, warnings)| Loaded { spec, warnings, filter: None })
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
        loaded.map(|loaded| loaded.spec.version().clone())
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
        assert_eq!(ahead.load(bundle.path()).await.unwrap().spec.version(), "1.0.1");
    }
}
