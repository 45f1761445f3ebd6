//! What can be done before it is asked for. When `start` runs, config.json is in the bundle already, and containerd needs
//! some ten milliseconds from there to Create: time to parse and check it, to make its network namespace, to compile its seccomp profile
//! and to find the host's cgroup hierarchies, which brings worker threads and the program's pages along. A Create that comes
//! before it is parsed takes the thread over; one that comes later cuts the rest short, and waits only for what is being made.
//!
//! Nothing is touched on the host, and a namespace is gone with whoever holds it, so nothing has to be undone when Create never
//! comes. Create takes the result only if the file still has the same bytes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::workers::{self, Tell};
use crate::engine::{cgroup, netns, seccomp};
use crate::oci::spec::{self, Spec, Warnings};
use crate::oci::validate;
use crate::{oci, sys};

/// A config.json that was read and found to be valid.
pub struct Loaded {
    /// Without its seccomp profile.
    pub spec: Spec,
    pub warnings: Warnings,
    /// The filter of its seccomp profile.
    pub filter: Option<Arc<seccomp::InMaking>>,
    /// The network namespace that it wants.
    pub netns: Option<Arc<netns::InMaking>>,
}

type Parsed = (Vec<u8>, Box<Loaded>);

/// The result to come, until a Create takes it.
#[derive(Clone, Default)]
pub struct Ahead {
    result: Arc<Mutex<Option<oneshot::Receiver<Parsed>>>>,
    /// Create is there.
    awaited: Arc<AtomicBool>,
}

impl Ahead {
    /// Reads the config.json of `bundle` on a worker thread. What is wrong with it is Create's to say.
    pub fn begin(&self, bundle: PathBuf) {
        let (done, result) = oneshot::channel();
        let awaited = self.awaited.clone();
        let work = move || -> Tell {
            let Some(parsed) = parse(&bundle) else { return Box::new(|| ()) };
            let (filter, netns) = (parsed.1.filter.clone(), parsed.1.netns.clone());
            // Nobody may want it any more.
            let tell = move || drop(done.send(parsed));
            if awaited.load(Ordering::Relaxed) {
                return Box::new(tell);
            }
            tell();
            prepare(filter.as_deref(), netns.as_deref(), &awaited);
            Box::new(|| ())
        };
        // Without a thread to be had nothing is done ahead.
        if workers::hand_over(Box::new(work)).is_ok() {
            *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    }

    /// The spec of `bundle`, for its Create. One that comes early waits: doing it a second time takes longer.
    ///
    /// # Errors
    /// As `oci::spec::load` and `oci::validate::check`.
    pub async fn load(&self, bundle: &Path) -> oci::Result<Loaded> {
        self.awaited.store(true, Ordering::Relaxed);
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(result) = result
            && let Ok((text, loaded)) = result.await
            && spec::read(bundle)? == text
        {
            return Ok(*loaded);
        }
        spec::load(bundle).and_then(Loaded::new)
    }
}

impl Loaded {
    fn new((mut spec, mut warnings): (Spec, Warnings)) -> oci::Result<Self> {
        validate::check(&spec)?;
        warnings.extend(validate::warnings(&spec));
        let linux = spec.linux_mut().as_mut();
        // The profile is the largest part of most specs, and nobody else asks for it.
        let filter = linux.and_then(|linux| linux.seccomp_mut().take()).map(seccomp::InMaking::new);
        let netns = spec.linux().as_ref().and_then(netns::InMaking::new);
        Ok(Self { spec, warnings, filter, netns })
    }
}

fn parse(bundle: &Path) -> Option<Parsed> {
    let text = spec::read(bundle).ok()?;
    let loaded = spec::parse(&text).and_then(Loaded::new).ok()?;
    Some((text, Box::new(loaded)))
}

/// What else Create needs, until it is there to see to it itself. What is wrong with it is Create's to say, too.
fn prepare(filter: Option<&seccomp::InMaking>, netns: Option<&netns::InMaking>, awaited: &AtomicBool) {
    let is_alone = || !awaited.load(Ordering::Relaxed);
    if is_alone() {
        let _ = netns.map(|netns| netns.make());
    }
    if is_alone() {
        let _ = filter.map(|filter| filter.compiled());
    }
    sys::memory::map_program(is_alone);
    if is_alone() {
        // Kept for the shim's life.
        let _ = cgroup::Host::get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(version: &str, linux: &str) -> String {
        format!(
            r#"{{"ociVersion":"{version}","root":{{"path":"rootfs"}},"process":{{"args":["sh"],"cwd":"/"}},"linux":{{{linux}}}}}"#
        )
    }

    async fn after_begin(first: &str, then: &str) -> Option<String> {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), first).unwrap();
        let ahead = Ahead::default();
        ahead.begin(bundle.path().to_owned());
        let begun = ahead.result.lock().unwrap().take().unwrap();
        let begun = begun.await;
        std::fs::write(bundle.path().join("config.json"), then).unwrap();
        if let Ok(parsed) = begun {
            let (done, result) = oneshot::channel();
            assert!(done.send(parsed).is_ok());
            *ahead.result.lock().unwrap() = Some(result);
        }
        let loaded = ahead.load(bundle.path()).await.ok();
        assert!(ahead.result.lock().unwrap().is_none());
        loaded.map(|loaded| loaded.spec.version().clone())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn create_gets_the_file_as_it_is_then() {
        let (old, new) = (&config("1.0.1", ""), &config("1.0.2", ""));
        assert_eq!(after_begin(old, old).await.as_deref(), Some("1.0.1"));
        assert_eq!(after_begin(old, new).await.as_deref(), Some("1.0.2"));
        for bad in ["not json", r#"{"ociVersion":"1.0.1"}"#] {
            assert_eq!(after_begin(bad, new).await.as_deref(), Some("1.0.2"));
            assert_eq!(after_begin(old, bad).await, None);
        }
    }

    const LINUX: &str =
        r#""namespaces":[{"type":"network"},{"type":"mount"}],"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}"#;

    #[test]
    fn nothing_more_is_prepared_once_create_is_there() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), config("1.0.1", LINUX)).unwrap();
        for awaited in [false, true] {
            let (_, loaded) = parse(bundle.path()).unwrap();
            let (filter, netns) = (loaded.filter.unwrap(), loaded.netns.unwrap());
            prepare(Some(&filter), Some(&netns), &AtomicBool::new(awaited));
            assert_eq!((filter.is_compiled(), netns.is_made()), (!awaited, !awaited));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_done_ahead_is_not_done_again() {
        let bundle = tempfile::tempdir().unwrap();
        let spec = config("1.0.1", LINUX);
        std::fs::write(bundle.path().join("config.json"), spec).unwrap();
        let (done, result) = oneshot::channel();
        let parsed = parse(bundle.path()).unwrap();
        let ahead = Ahead { result: Arc::new(Mutex::new(Some(result))), ..Ahead::default() };
        let (filter, netns) = (parsed.1.filter.clone().unwrap(), parsed.1.netns.clone().unwrap());
        assert!(done.send(parsed).is_ok());
        let loaded = ahead.load(bundle.path()).await.unwrap();
        assert!(Arc::ptr_eq(&filter, &loaded.filter.unwrap()));
        assert!(Arc::ptr_eq(&netns, &loaded.netns.unwrap()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_create_that_comes_early_waits() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), config("1.0.1", "")).unwrap();
        let ahead = Ahead::default();
        ahead.begin(bundle.path().to_owned());
        assert_eq!(ahead.load(bundle.path()).await.unwrap().spec.version(), "1.0.1");
    }
}
