//! The log lines that are written from time to time: a heartbeat every 30 s, and progress every 10 s for each repo that takes
//! longer than that. Pinned by the test here and by `tests/threads.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use serde_json::Value as Json;

use crate::config::Config;
use crate::connection::Link;
use crate::logging::say;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::status::{Slot, View};

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
        for Due {
            worker,
            view,
            seconds,
        } in self.progress.due(slots, now)
        {
            let (worker, phase) = (format!("worker-{worker}"), view.phase.name());
            log::info!(
                "~worker" = worker, "~phase" = phase, did = view.did, "~id" = view.id, host = view.host,
                bytes = view.bytes, records = view.records, seconds = seconds;
                "progress {worker} {phase}"
            );
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
        let pending = pending.map_or("?".into(), Json::from);
        let fields = [
            ("done", metrics.repos.get().into()),
            ("failures", metrics.failures().into()),
            ("deferrals", metrics.deferrals.get().into()),
            ("in_flight", in_flight.into()),
            (
                "waiting",
                (metrics.held.get() + metrics.parked.get()).into(),
            ),
            ("pending", pending),
            ("records/s", (rate.round() as u64).into()),
        ];
        say(Level::Info, module_path!(), "heartbeat", &fields);
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

/// A line that is due, of the job of this worker.
struct Due {
    worker: usize,
    view: View,
    /// How long the job has taken.
    seconds: u64,
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
    fn due(&mut self, slots: &[Arc<Slot>], now: Instant) -> Vec<Due> {
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
            let seconds = now.saturating_duration_since(view.since).as_secs();
            lines.push(Due {
                worker: n,
                view,
                seconds,
            });
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
        let due = progress.due(&slots, at(11));
        let [due] = &due[..] else {
            panic!("{} lines", due.len());
        };
        assert_eq!((due.worker, due.seconds), (1, 10));
        assert_eq!((due.view.did.as_str(), due.view.bytes), ("did:plc:a", 7));
        assert!(progress.due(&slots, at(20)).is_empty());
        assert_eq!(progress.due(&slots, at(22)).len(), 1);
        slots[1].end();
        assert!(progress.due(&slots, at(60)).is_empty());
    }
}
