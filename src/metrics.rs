//! What has been done since the start, counted for the heartbeat, the summary and `/metrics`.
//!
//! Each number is an atomic that is added to once for a job, a chunk or a read, never for a record, and read when somebody asks.

mod observed;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use self::observed::{Failure, Observed};
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
    /// Events written, of both types, those that had to be written again included.
    pub events: Counter,
    /// Chunks written.
    pub chunks: Counter,
    /// Bytes of CAR read, also of repos that failed; counted while they come, so that a repo that takes minutes is not one leap.
    pub bytes: Counter,
    /// Milliseconds that workers have waited for the output, all together.
    backpressure: Counter,
    /// Repos whose blocks went to a file because memory was short.
    pub spills: Counter,
    /// Records passed over because of R1.
    pub skipped: Counter,
    /// Records of collections that are not wanted.
    pub filtered: Counter,
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
    dead_letters_by_reason: [Counter; Reason::ALL.len()],
    /// What is only kept for the operator's HTTP server; `None` where there is none.
    pub observed: Option<Observed>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            started: Instant::now(),
            repos: Counter::default(),
            records: Counter::default(),
            events: Counter::default(),
            chunks: Counter::default(),
            bytes: Counter::default(),
            backpressure: Counter::default(),
            spills: Counter::default(),
            skipped: Counter::default(),
            filtered: Counter::default(),
            retries: Counter::default(),
            deferrals: Counter::default(),
            held: Gauge::default(),
            parked: Gauge::default(),
            taken_over: Counter::default(),
            abandoned: Counter::default(),
            released: Counter::default(),
            deleted_entries: Counter::default(),
            failures: Default::default(),
            dead_letters_by_reason: Default::default(),
            observed: None,
        }
    }
}

impl Metrics {
    /// The same; `observed`: also what somebody may ask for.
    pub fn new(observed: bool) -> Self {
        Metrics {
            observed: observed.then(Observed::default),
            ..Metrics::default()
        }
    }

    /// A message or a job failed, and what becomes of it is written down; how is only asked for where it is remembered.
    pub fn failed(&self, reason: Reason, how: impl FnOnce() -> Failure) {
        self.failures[reason as usize].add(1);
        if let Some(observed) = &self.observed {
            observed.failed(reason, how());
        }
    }

    /// Failures of all reasons.
    pub fn failures(&self) -> u64 {
        self.failures.iter().map(Counter::get).sum()
    }

    /// Failures of this reason.
    pub fn failures_of(&self, reason: Reason) -> u64 {
        self.failures[reason as usize].get()
    }

    /// A message was copied to the dead letters.
    pub fn dead_letter(&self, reason: Reason) {
        self.dead_letters_by_reason[reason as usize].add(1);
    }

    /// Messages copied to the dead-letter stream, of all reasons.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters_by_reason.iter().map(Counter::get).sum()
    }

    /// Dead letters of this reason.
    pub fn dead_letters_of(&self, reason: Reason) -> u64 {
        self.dead_letters_by_reason[reason as usize].get()
    }

    /// A worker has waited for the output.
    pub fn waited_for_output(&self, time: Duration) {
        self.backpressure.add(time.as_millis() as u64);
    }

    /// Seconds that workers have waited for the output, all together.
    pub fn backpressure_seconds(&self) -> f64 {
        self.backpressure.get() as f64 / 1000.0
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
            ("dead_letters", self.dead_letters().into()),
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
        for reason in [Reason::Mst, Reason::Mst, Reason::BadMessage] {
            metrics.failed(reason, || unreachable!("nobody asks"));
        }
        let line = text_of(&metrics.fields());
        assert!(
            line.starts_with("repos=3 records=0 bytes=0 seconds="),
            "{line}"
        );
        assert!(line.ends_with(" failures=3 bad_message=1 mst=2"), "{line}");
    }
}
