//! How many messages wait for each host, as the reader publishes it for whoever asks.
//!
//! Only the reader knows its lanes. Where somebody can ask, it writes down a copy at most once a second; the lock is held for the
//! exchange of a pointer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::hosts::Key;

/// How often it is published, at most.
const EVERY: Duration = Duration::from_secs(1);

/// Messages by host.
pub type ByHost = Vec<(Key, usize)>;

/// The last copy.
#[derive(Default)]
pub struct Waiting(Mutex<Arc<ByHost>>);

impl Waiting {
    /// The last copy.
    pub fn get(&self) -> Arc<ByHost> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, waiting: ByHost) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(waiting);
    }
}

/// The reader's side of it.
pub struct Publisher {
    /// `None`: nobody can ask.
    to: Option<Arc<Waiting>>,
    next: Instant,
}

impl Publisher {
    /// Publishes there, if anywhere.
    pub fn new(to: Option<Arc<Waiting>>) -> Self {
        Publisher {
            to,
            next: Instant::now(),
        }
    }

    /// Publishes what `waiting` says, if it is time.
    pub fn publish(&mut self, now: Instant, waiting: impl FnOnce() -> ByHost) {
        if let Some(to) = &self.to
            && now >= self.next
        {
            to.set(waiting());
            self.next = now + EVERY;
        }
    }

    /// Nothing waits here any more.
    pub fn end(&mut self) {
        if let Some(to) = &self.to {
            to.set(ByHost::new());
        }
    }
}
