//! What is counted only where somebody can ask for it: how long the stages of repos take, how large repos are, and the last
//! failures of each reason.
//!
//! One observation is a lock and an addition, and there is one for each stage of a repo, none for a record. Without the operator's HTTP
//! server nothing of this is kept. Strangers choose DIDs, hosts and error texts, so what is remembered is bounded:
//! [`KEPT`] failures of each reason, with texts that were cut to a line before. Pinned by the test here and by `tests/metrics.rs`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::error::Reason;

/// Failures of one reason that are remembered.
pub const KEPT: usize = 5;

/// Times and sizes of repos, and the last failures.
pub struct Observed {
    /// Seconds that downloads took that came to their end, from the request to the last byte.
    pub fetch_seconds: Histogram,
    /// Seconds that it took to prove repos: the signature and the tree.
    pub verify_seconds: Histogram,
    /// Seconds from the first event of a repo to the answer to its last chunk, backpressure included.
    pub write_seconds: Histogram,
    /// Bytes of CAR of downloads that came to their end.
    pub repo_bytes: Histogram,
    failures: Mutex<[VecDeque<Failure>; Reason::ALL.len()]>,
}

/// A message or a job that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// The account; empty where the message does not say it.
    pub did: String,
    /// The server that was asked; empty where none was.
    pub host: String,
    /// The id of the message's entry.
    pub id: String,
    /// The number of the attempt, from 1.
    pub attempt: u64,
    /// What happened, in one line.
    pub error: String,
}

impl Default for Observed {
    fn default() -> Self {
        // A millisecond to a quarter of an hour, and a kilobyte to four gigabytes.
        let seconds = || Histogram::new(exponential_buckets(0.001, 4.0, 11));
        Observed {
            fetch_seconds: seconds(),
            verify_seconds: seconds(),
            write_seconds: seconds(),
            repo_bytes: Histogram::new(exponential_buckets(1024.0, 4.0, 12)),
            failures: Mutex::default(),
        }
    }
}

impl Observed {
    /// A failure is remembered, and the oldest of its reason forgotten.
    pub fn failed(&self, reason: Reason, failure: Failure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = &mut failures[reason as usize];
        of_it.truncate(KEPT - 1);
        of_it.push_front(failure);
    }

    /// The last failures of this reason, newest first.
    pub fn last_failures(&self, reason: Reason) -> Vec<Failure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures[reason as usize].iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_five_failures_of_each_reason_are_kept() {
        let observed = Observed::default();
        let failure = |attempt| Failure {
            at: SystemTime::UNIX_EPOCH,
            did: "did:plc:a".to_owned(),
            host: String::new(),
            id: "1-0".to_owned(),
            attempt,
            error: "?".to_owned(),
        };
        for attempt in 1..=8 {
            observed.failed(Reason::Network, failure(attempt));
        }
        observed.failed(Reason::Car, failure(1));
        let attempts = |reason| {
            let last = observed.last_failures(reason).into_iter();
            last.map(|failure| failure.attempt).collect::<Vec<_>>()
        };
        assert_eq!(attempts(Reason::Network), [8, 7, 6, 5, 4]);
        assert_eq!(attempts(Reason::Car), [1]);
        assert!(attempts(Reason::Mst).is_empty());
    }
}
