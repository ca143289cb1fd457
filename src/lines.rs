//! The log lines that are written from time to time: a heartbeat every 30 s, and progress every 10 s for each repo that takes
//! longer than that. Pinned by the test here and by `tests/threads.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::connection::Link;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::status::Slot;

/// How often the heartbeat line is written.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long the heartbeat waits for Redis before it does without.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is due, and since when.
pub struct Lines {
    progress: Progress,
    next_heartbeat: Instant,
    last_records: u64,
    last_time: Instant,
    /// A connection of its own; `None` where there cannot be one.
    link: Option<Link>,
    stream: String,
    group: String,
    shutdown: Shutdown,
}

impl Lines {
    /// Nothing is due yet. Connects to Redis at the first heartbeat.
    pub fn new(config: &Config, shutdown: &Shutdown) -> Self {
        let now = Instant::now();
        Lines {
            progress: Progress::new(config.concurrency),
            next_heartbeat: now + HEARTBEAT,
            last_records: 0,
            last_time: now,
            link: Link::new(&config.redis, shutdown)
                .ok()
                .map(|link| link.with_reply_timeout(HEARTBEAT_TIMEOUT)),
            stream: config.backfill_stream.clone(),
            group: config.group.clone(),
            shutdown: shutdown.clone(),
        }
    }

    /// Writes what is due.
    pub fn write_due(&mut self, slots: &[Arc<Slot>], metrics: &Metrics, now: Instant) {
        for line in self.progress.due(slots, now) {
            log::info!("{line}");
        }
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT;
        let records = metrics.records.get();
        let seconds = now
            .duration_since(self.last_time)
            .as_secs_f64()
            .max(f64::MIN_POSITIVE);
        let rate = (records - self.last_records) as f64 / seconds;
        (self.last_records, self.last_time) = (records, now);
        let in_flight = slots.iter().filter(|slot| slot.view().is_some()).count();
        // During the drain nobody should wait for a Redis that does not answer.
        let pending = if self.shutdown.is_requested() {
            None
        } else {
            self.pending()
        };
        let pending = pending.map_or("?".to_owned(), |n| n.to_string());
        log::info!(
            "heartbeat done={} failures={} deferrals={} in_flight={in_flight} waiting={} pending={pending} records/s={rate:.0}",
            metrics.repos.get(),
            metrics.failures(),
            metrics.deferrals.get(),
            metrics.held.get() + metrics.parked.get(),
        );
    }

    /// How many messages are pending in the group, with all its consumers.
    fn pending(&mut self) -> Option<u64> {
        let summary: redis::RedisResult<(u64, redis::Value, redis::Value, redis::Value)> = self
            .link
            .as_mut()?
            .query(redis::cmd("XPENDING").arg(&self.stream).arg(&self.group));
        summary.ok().map(|(pending, ..)| pending)
    }
}

/// The progress lines of jobs that take long.
struct Progress {
    /// For each worker: the start of the job last spoken of, and when its next line is due.
    due: Vec<Option<(Instant, Instant)>>,
}

impl Progress {
    /// How long a job is silent, and then between its lines.
    const EVERY: Duration = Duration::from_secs(10);

    fn new(workers: usize) -> Self {
        Progress {
            due: vec![None; workers],
        }
    }

    /// The lines that are due now.
    fn due(&mut self, slots: &[Arc<Slot>], now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (n, (slot, due)) in slots.iter().zip(&mut self.due).enumerate() {
            let Some(view) = slot.view() else {
                *due = None;
                continue;
            };
            let next = match *due {
                Some((since, next)) if since == view.since => next,
                _ => view.since + Self::EVERY,
            };
            *due = Some((view.since, next));
            if now < next {
                continue;
            }
            *due = Some((view.since, now + Self::EVERY));
            lines.push(format!(
                "progress worker-{n} {} did={} host={} bytes={} records={} seconds={}",
                view.phase.name(),
                view.did,
                view.host,
                view.bytes,
                view.records,
                now.saturating_duration_since(view.since).as_secs(),
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Phase;

    #[test]
    fn a_job_is_silent_for_ten_seconds_and_then_speaks_every_ten() {
        let slots = vec![Arc::new(Slot::default()), Arc::new(Slot::default())];
        let mut progress = Progress::new(2);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(progress.due(&slots, at(100)).is_empty(), "no job, no line");
        slots[1].begin("did:plc:a", "1-0");
        slots[1].enter(Phase::Fetch);
        slots[1].asks("pds.example");
        slots[1].add_bytes(7);
        assert!(progress.due(&slots, at(9)).is_empty());
        assert_eq!(
            progress.due(&slots, at(11)),
            ["progress worker-1 fetch did=did:plc:a host=pds.example bytes=7 records=0 seconds=10"]
        );
        assert!(progress.due(&slots, at(20)).is_empty());
        assert_eq!(progress.due(&slots, at(22)).len(), 1);
        slots[1].end();
        assert!(progress.due(&slots, at(60)).is_empty());
    }
}
