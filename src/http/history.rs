//! The last hour, in steps: what was done in each, and how long the streams were at its end.
//!
//! It is kept by the thread that serves, which never waits for Redis, so a step is a step also while Redis is away; then
//! the lengths are not known. It is bounded: the oldest step goes when there are more than an hour's.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use super::Watched;
use crate::event::unix_millis;
use crate::metrics::Metrics;

/// How long a step is.
pub const STEP: Duration = Duration::from_secs(15);
/// Steps that are kept: one hour.
const MOST: usize = 240;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its end, in unix milliseconds.
    pub at_ms: u64,
    /// What was done in it.
    pub done: Totals,
    /// Entries in the input stream.
    pub queue: Option<u64>,
    /// Entries in the output stream.
    pub output: Option<u64>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Repos whose events are all written.
    pub repos: u64,
    /// `create` events written.
    pub records: u64,
    /// Bytes of CAR read.
    pub bytes: u64,
    /// Attempts that failed.
    pub failures: u64,
}

impl Totals {
    fn of(metrics: &Metrics) -> Self {
        Totals {
            repos: metrics.repos.get(),
            records: metrics.records.get(),
            bytes: metrics.bytes.get(),
            failures: metrics.failures(),
        }
    }

    fn since(&self, before: &Totals) -> Self {
        Totals {
            repos: self.repos - before.repos,
            records: self.records - before.records,
            bytes: self.bytes - before.bytes,
            failures: self.failures - before.failures,
        }
    }
}

/// The steps that are over.
pub struct History {
    points: VecDeque<Point>,
    last: Totals,
    next: Instant,
}

impl History {
    /// The first step begins.
    pub fn new(now: Instant) -> Self {
        History {
            points: VecDeque::with_capacity(MOST),
            last: Totals::default(),
            next: now + STEP,
        }
    }

    /// The steps, oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }

    /// Ends the step that is over, if it is. Returns when the next one is.
    pub fn tick(&mut self, watched: &Watched, now: Instant) -> Instant {
        if now >= self.next {
            let sample = watched.sample();
            let lengths = sample.lengths(now);
            let at_ms = unix_millis(SystemTime::now());
            let lengths = lengths.map(|lengths| (lengths.queue, lengths.output));
            self.step(now, at_ms, Totals::of(&watched.metrics), lengths);
        }
        self.next
    }

    fn step(&mut self, now: Instant, at_ms: u64, totals: Totals, lengths: Option<(u64, u64)>) {
        if self.points.len() == MOST {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            at_ms,
            done: totals.since(&self.last),
            queue: lengths.map(|(queue, _)| queue),
            output: lengths.map(|(_, output)| output),
        });
        self.last = totals;
        self.next += STEP;
        // A process that was stopped for a while does not catch up with steps of nothing.
        if self.next <= now {
            self.next = now + STEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_each_step_says_what_was_done_in_it() {
        let start = Instant::now();
        let mut history = History::new(start);
        for n in 1..=300 {
            let totals = Totals {
                repos: n * n,
                records: 10 * n,
                ..Totals::default()
            };
            let lengths = (n % 2 == 0).then_some((n, 2 * n));
            history.step(start + STEP * n as u32, n, totals, lengths);
        }
        let points: Vec<_> = history.points().copied().collect();
        assert_eq!(points.len(), 240);
        assert_eq!(STEP * 240, Duration::from_secs(3600));
        let (first, last) = (points[0], points[239]);
        assert_eq!((first.at_ms, first.done.repos), (61, 61 * 61 - 60 * 60));
        assert_eq!((first.queue, first.output), (None, None));
        assert_eq!((last.at_ms, last.done.records), (300, 10));
        assert_eq!((last.queue, last.output), (Some(300), Some(600)));
    }

    #[test]
    fn a_process_that_was_stopped_goes_on_with_the_next_step() {
        let start = Instant::now();
        let mut history = History::new(start);
        let late = start + STEP * 7;
        history.step(late, 1, Totals::default(), None);
        assert_eq!(history.points().count(), 1);
        assert_eq!(history.next, late + STEP);
    }
}
