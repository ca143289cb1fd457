//! Backpressure: whether the output has room.
//!
//! The length of the output comes with the reply to each chunk; only where it is not known, or too old to be relied on, it is asked
//! for. A worker that finds the output at the high-water mark sleeps and polls until it is below. That is the normal state of a
//! program that is faster than its consumer, so the log says it at most twice a minute for all workers together. That Redis has no
//! memory for a chunk, or refuses it for now for another reason, is the same to this program, and is waited for with a
//! pause that grows until a chunk is executed again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::RedisError;

use crate::connection::{Link, Patience, Stop};
use crate::error::JobError;
use crate::logging::rounded;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::status::{Phase, Slot};

/// How often the length of a full output is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long the pause after a refused chunk grows.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How old a length may be to be relied on.
const FRESH: Duration = Duration::from_secs(1);
/// How often the log says that the output is full.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// When the log last said that the output is full, or that chunks are refused; shared by all workers.
#[derive(Default, Clone)]
pub struct Said {
    full: Moment,
    refused: Moment,
}

/// When something was said last.
#[derive(Default, Clone)]
struct Moment(Arc<Mutex<Option<Instant>>>);

impl Moment {
    /// Whether it is time to say it; then it counts as said.
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= SAY_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// One worker's view of the length of the output.
pub struct Room {
    output: Vec<u8>,
    high_water_mark: u64,
    shutdown: Shutdown,
    said: Said,
    metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    /// The length as last heard, and when.
    length: Option<(u64, Instant)>,
    /// How long the next refused chunk is waited for.
    pause: Duration,
}

impl Room {
    /// For this stream and this mark, in entries; who waits is counted and shown there.
    pub fn new(
        output: &str,
        high_water_mark: u64,
        shutdown: &Shutdown,
        said: Said,
        (metrics, slot): (Arc<Metrics>, Arc<Slot>),
    ) -> Self {
        Room {
            output: output.as_bytes().to_vec(),
            high_water_mark,
            shutdown: shutdown.clone(),
            said,
            metrics,
            slot,
            length: None,
            pause: POLL,
        }
    }

    /// Waits after a chunk was refused for now; the longer, the more often in a row.
    pub fn refused(&mut self, error: &RedisError) {
        if self.said.refused.is_due() {
            log::warn!("~error":% = error; "Redis cannot be used: {error}; waiting for it");
        }
        let _waits = self.slot.visit(Phase::Backpressure);
        thread::sleep(self.pause);
        self.metrics.waited_for_output(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// A chunk was executed.
    pub fn executed(&mut self) {
        self.pause = POLL;
    }

    /// The length has been heard just now, or could not be.
    pub fn heard(&mut self, length: Option<u64>) {
        self.length = length.map(|length| (length, Instant::now()));
    }

    /// Waits until the output is below the mark. Returns `false` when shutdown came first and patience ends with it.
    ///
    /// # Errors
    /// [`Reason::Redis`](crate::error::Reason::Redis).
    pub fn wait(&mut self, link: &mut Link, patience: Patience) -> Result<bool, JobError> {
        if let Some((length, at)) = self.length
            && length < self.high_water_mark
            && at.elapsed() < FRESH
        {
            return Ok(true);
        }
        let mut ask = redis::cmd("XLEN");
        ask.arg(&self.output);
        let began = Instant::now();
        let mut announced = false;
        let slot = Arc::clone(&self.slot);
        let mut is_full = None;
        loop {
            let length = match link.insist(patience, |link| link.query(&ask)) {
                Ok(length) => length,
                Err(Stop::Shutdown) => return Ok(false),
                Err(Stop::Error(e)) => return Err(super::refused("XLEN", &e)),
            };
            self.heard(Some(length));
            let waits = Instant::now();
            if length < self.high_water_mark {
                if announced {
                    let seconds = began.elapsed().as_secs_f64();
                    log::info!(
                        "~seconds" = rounded(seconds, 1);
                        "the output has room again after {seconds:.1} s"
                    );
                }
                return Ok(true);
            }
            is_full = is_full.or_else(|| Some(slot.visit(Phase::Backpressure)));
            if !announced && self.said.full.is_due() {
                let mark = self.high_water_mark;
                log::info!(
                    "~length" = length, "~mark" = mark;
                    "the output has {length} entries, the mark is {mark}: waiting"
                );
                announced = true;
            }
            let ends = match patience {
                Patience::UntilShutdown => self.shutdown.sleep(POLL),
                Patience::UntilDone => {
                    thread::sleep(POLL);
                    false
                }
            };
            // As it passes, so that a long wait is seen while it lasts.
            self.metrics.waited_for_output(waits.elapsed());
            if ends {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_output_is_said_once_for_all_workers() {
        let said = Moment::default();
        assert!(said.is_due());
        assert!(!said.clone().is_due());
        assert!(!said.is_due());
    }
}
