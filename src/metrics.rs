//! What has been done since the start, counted for the heartbeat and the summary.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::error::Reason;

/// A counter that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that comes and goes.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// What it is now.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one process; shared by all threads.
pub struct Metrics {
    started: Instant,
    /// Repos whose events are all written and whose message is acknowledged.
    pub repos: Counter,
    /// `create` events written, those that had to be written again included.
    pub records: Counter,
    /// Bytes of CAR read, also of repos that failed.
    pub bytes: Counter,
    /// Repos whose blocks went to a file because memory was short.
    pub spills: Counter,
    /// Records passed over because of R1.
    pub skipped: Counter,
    /// Records of collections that are not wanted.
    pub filtered: Counter,
    /// Messages copied to the dead-letter stream.
    pub dead_letters: Counter,
    /// Attempts that failed and will be repeated.
    pub retries: Counter,
    /// Attempts that were put off, because a host or the directory asked for it, was busy or closed.
    pub deferrals: Counter,
    /// Messages that are held and that no worker has yet.
    pub held: Gauge,
    /// Messages that are remembered, and wait for their hosts.
    pub parked: Gauge,
    /// Messages that other consumers had, and left.
    pub taken_over: Counter,
    /// Attempts that were given up because another instance has acquired or ended the message.
    pub abandoned: Counter,
    /// Messages that were given back at the end.
    pub released: Counter,
    /// Pending entries that somebody else had deleted.
    pub deleted_entries: Counter,
    failures: [Counter; Reason::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: Instant::now(),
            repos: Counter::default(),
            records: Counter::default(),
            bytes: Counter::default(),
            spills: Counter::default(),
            skipped: Counter::default(),
            filtered: Counter::default(),
            dead_letters: Counter::default(),
            retries: Counter::default(),
            deferrals: Counter::default(),
            held: Gauge::default(),
            parked: Gauge::default(),
            taken_over: Counter::default(),
            abandoned: Counter::default(),
            released: Counter::default(),
            deleted_entries: Counter::default(),
            failures: Default::default(),
        }
    }
}

impl Metrics {
    /// A message or a job failed.
    pub fn failed(&self, reason: Reason) {
        self.failures[reason as usize].add(1);
    }

    /// Failures of all reasons.
    pub fn failures(&self) -> u64 {
        self.failures.iter().map(Counter::get).sum()
    }
}

impl fmt::Display for Metrics {
    /// The summary, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "repos={} records={} bytes={} seconds={:.1} spills={} skipped={} filtered={} dead_letters={} retries={} \
             deferrals={} taken_over={} abandoned={} released={} deleted_entries={} failures={}",
            self.repos.get(),
            self.records.get(),
            self.bytes.get(),
            self.started.elapsed().as_secs_f64(),
            self.spills.get(),
            self.skipped.get(),
            self.filtered.get(),
            self.dead_letters.get(),
            self.retries.get(),
            self.deferrals.get(),
            self.taken_over.get(),
            self.abandoned.get(),
            self.released.get(),
            self.deleted_entries.get(),
            self.failures(),
        )?;
        for reason in Reason::ALL {
            let count = self.failures[reason as usize].get();
            if count > 0 {
                write!(f, " {reason}={count}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_reasons_that_occurred() {
        let metrics = Metrics::default();
        metrics.repos.add(3);
        metrics.failed(Reason::Mst);
        metrics.failed(Reason::Mst);
        metrics.failed(Reason::BadMessage);
        let line = metrics.to_string();
        assert!(
            line.starts_with("repos=3 records=0 bytes=0 seconds="),
            "{line}"
        );
        assert!(line.ends_with(" failures=3 bad_message=1 mst=2"), "{line}");
    }
}
