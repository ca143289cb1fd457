//! What has been done since the start, counted for the heartbeat and the summary.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::error::Reason;
use crate::logging::{Field, rounded};

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

    /// The summary: each counter under its name, and of the reasons those that occurred.
    pub fn fields(&self) -> Vec<Field> {
        let seconds = rounded(self.started.elapsed().as_secs_f64(), 1);
        let mut fields: Vec<Field> = vec![
            ("repos", self.repos.get().into()),
            ("records", self.records.get().into()),
            ("bytes", self.bytes.get().into()),
            ("seconds", seconds.into()),
            ("spills", self.spills.get().into()),
            ("skipped", self.skipped.get().into()),
            ("filtered", self.filtered.get().into()),
            ("dead_letters", self.dead_letters.get().into()),
            ("retries", self.retries.get().into()),
            ("deferrals", self.deferrals.get().into()),
            ("taken_over", self.taken_over.get().into()),
            ("abandoned", self.abandoned.get().into()),
            ("released", self.released.get().into()),
            ("deleted_entries", self.deleted_entries.get().into()),
            ("failures", self.failures().into()),
        ];
        let counts = Reason::ALL.map(|reason| (reason, self.failures[reason as usize].get()));
        let occurred = counts.into_iter().filter(|(_, count)| *count > 0);
        fields.extend(occurred.map(|(reason, count)| (reason.code(), count.into())));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::text_of;

    #[test]
    fn the_summary_names_the_reasons_that_occurred() {
        let metrics = Metrics::default();
        metrics.repos.add(3);
        metrics.failed(Reason::Mst);
        metrics.failed(Reason::Mst);
        metrics.failed(Reason::BadMessage);
        let line = text_of(&metrics.fields());
        assert!(
            line.starts_with("repos=3 records=0 bytes=0 seconds="),
            "{line}"
        );
        assert!(line.ends_with(" failures=3 bad_message=1 mst=2"), "{line}");
    }
}
