//! What the server knows, shared by its threads and the test.

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::answers::List;
use super::faults::Fault;
use super::http::Request;

/// An answer of the directory, or one that is made to order.
#[derive(Clone, Debug)]
pub struct Document {
    pub status: u16,
    /// Seconds that it says to wait.
    pub retry_after: Option<u64>,
    pub body: String,
}

#[derive(Default)]
pub struct State {
    pub closing: bool,
    pub repos: HashMap<String, Arc<Vec<u8>>>,
    pub documents: HashMap<String, Document>,
    pub web_document: Option<Document>,
    /// What a path is answered with, whatever else is known.
    pub answers: HashMap<String, VecDeque<Document>>,
    pub list: Option<List>,
    /// Whether only a part of each document is sent.
    pub cuts_documents: bool,
    pub faults: HashMap<String, Fault>,
    /// How often `release` was called for a DID.
    pub releases: HashMap<String, u64>,
    pub held: HashMap<String, usize>,
    pub requests: Vec<Request>,
    pub connections: HashMap<u64, Arc<TcpStream>>,
    pub threads: Vec<JoinHandle<()>>,
}

impl State {
    /// The fault for the next request, taken off its sequence.
    pub fn next_fault(&mut self, did: &str) -> Fault {
        loop {
            match self.faults.get_mut(did) {
                None => return Fault::Normal,
                Some(Fault::Then(sequence)) if sequence.is_empty() => {
                    self.faults.remove(did);
                }
                Some(Fault::Then(sequence)) => match sequence.remove(0) {
                    Fault::Then(inner) => {
                        sequence.splice(..0, inner);
                    }
                    fault => return fault,
                },
                Some(fault) => return fault.clone(),
            }
        }
    }

    /// How often the requests of this account have been released; what [`Shared::hold`] must be
    /// given.
    pub fn releases(&self, did: &str) -> u64 {
        self.releases.get(did).copied().unwrap_or(0)
    }

    pub fn release(&mut self, did: &str) {
        *self.releases.entry(did.into()).or_default() += 1;
        match self.faults.get_mut(did) {
            Some(Fault::Hold { .. }) => {
                self.faults.remove(did);
            }
            Some(Fault::Then(sequence)) if matches!(sequence.first(), Some(Fault::Hold { .. })) => {
                sequence.remove(0);
            }
            _ => {}
        }
    }
}

#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    /// Closing, or a release.
    pub changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until `release` is called once more than `seen` times, or the server closes.
    pub fn hold(&self, did: &str, seen: u64) {
        let mut state = self.lock();
        *state.held.entry(did.into()).or_default() += 1;
        while !state.closing && state.releases(did) == seen {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *state.held.entry(did.into()).or_default() -= 1;
    }

    /// Lets time pass; returns early when the server closes.
    pub fn pause(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut state = self.lock();
        while !state.closing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
