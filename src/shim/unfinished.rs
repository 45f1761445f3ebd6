//! Creates at work, which a Kill or the shim's own end may give up, and what failed ones left behind, which is cleared as
//! soon as whatever holds it lets go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::workers::blocking;
use crate::engine::{Abort, Leftover};

/// Nothing tells when a process in state D lets go of what it holds: it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Unfinished {
    creates: Arc<Mutex<HashMap<String, Arc<Abort>>>>,
    /// How many Creates are at work, and how many leftovers there are.
    counts: watch::Sender<(usize, usize)>,
}

/// A Create at work.
pub struct Begun {
    all: Unfinished,
    id: String,
    pub abort: Arc<Abort>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.all.creates().remove(&self.id);
        self.all.counts.send_modify(|counts| counts.0 -= 1);
    }
}

impl Default for Unfinished {
    fn default() -> Self {
        Self { creates: Arc::default(), counts: watch::channel((0, 0)).0 }
    }
}

impl Unfinished {
    fn creates(&self) -> MutexGuard<'_, HashMap<String, Arc<Abort>>> {
        self.creates.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A Create of `id` begins. It has ended when the result is dropped.
    pub fn begin(&self, id: &str) -> Begun {
        let abort = Arc::<Abort>::default();
        self.creates().insert(id.into(), abort.clone());
        self.counts.send_modify(|counts| counts.0 += 1);
        Begun { all: self.clone(), id: id.into(), abort }
    }

    /// A Kill of a container that is being created: a signal that ends things ends the Create. No other can be meant.
    pub fn abort(&self, id: &str, signal: i32) -> bool {
        let ends = [libc::SIGKILL, libc::SIGTERM].contains(&signal);
        let abort = self.creates().get(id).filter(|_| ends).cloned();
        abort.inspect(|abort| abort.now()).is_some()
    }

    pub fn abort_all(&self) {
        self.creates().values().for_each(|abort| abort.now());
    }

    /// Clears `rest` when that becomes possible.
    pub fn linger(&self, id: &str, rest: &Leftover) {
        self.counts.send_modify(|counts| counts.1 += 1);
        let (this, id, rest) = (self.clone(), id.to_owned(), rest.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                let again = rest.clone();
                if matches!(blocking(move || again.clear()).await, Ok(Ok(()))) {
                    break;
                }
            }
            log::info!("container {id}: what its failed Create could not clear is gone now");
            this.counts.send_modify(|counts| counts.1 -= 1);
        });
    }

    pub async fn none_begun(&self) {
        // The sender lives in `self`.
        let _ = self.counts.subscribe().wait_for(|counts| counts.0 == 0).await;
    }

    pub async fn nothing_lingers(&self) {
        let mut counts = self.counts.subscribe();
        if counts.borrow().1 > 0 {
            log::warn!("the shim stays until what failed Creates could not clear is gone");
        }
        let _ = counts.wait_for(|counts| counts.1 == 0).await;
    }
}
