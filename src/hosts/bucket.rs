//! A token bucket: how many requests may be begun now, by a rate.
//!
//! The bucket holds a quarter of a second's worth and never less than one token: a reader that wakes up late loses nothing of
//! the rate, and no server sees a burst. It may go into debt, for requests that cannot wait; the debt is paid before the next
//! token is given. Time is always an argument, so that the tests need none.

use std::time::{Duration, Instant};

/// How much is saved up, in seconds of the rate.
const BURST_SECS: f64 = 0.25;
/// Deepest debt, in seconds of the rate: beyond that, more debt would only be forgotten.
const MAX_DEBT_SECS: f64 = 60.0;

/// Tokens that come at a rate.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A bucket that holds one token, whatever the rate.
    pub fn new(now: Instant) -> Self {
        Bucket {
            tokens: 1.0,
            filled: now,
        }
    }

    /// Lets the tokens in that have come since the last time, at `rate` a second.
    fn fill(&mut self, rate: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min((rate * BURST_SECS).max(1.0));
        self.filled = self.filled.max(now);
    }

    /// Whole tokens that are there now.
    pub fn available(&mut self, rate: f64, now: Instant) -> usize {
        self.fill(rate, now);
        self.tokens.max(0.0) as usize
    }

    /// How many tokens have been taken that are not there yet.
    pub fn owed(&mut self, rate: f64, now: Instant) -> f64 {
        self.fill(rate, now);
        (-self.tokens).max(0.0)
    }

    /// When there is a whole token.
    pub fn next(&mut self, rate: f64, now: Instant) -> Instant {
        self.fill(rate, now);
        let missing = (1.0 - self.tokens).max(0.0);
        // A nanosecond more, so that rounding does not make it a little too early.
        now + Duration::from_secs_f64((missing / rate).min(3600.0)) + Duration::from_nanos(1)
    }

    /// Takes a token, also one that is not there yet.
    pub fn take(&mut self, rate: f64, now: Instant) {
        self.fill(rate, now);
        self.tokens = (self.tokens - 1.0).max(-rate * MAX_DEBT_SECS);
    }

    /// Gives a token back that was not used.
    pub fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// Nothing is left, and the time until now brings nothing.
    pub fn empty(&mut self, now: Instant) {
        self.tokens = self.tokens.min(0.0);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many tokens can be taken in so many milliseconds, looked at each millisecond.
    fn taken(rate: f64, millis: u64) -> usize {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        (0..=millis)
            .map(|ms| start + Duration::from_millis(ms))
            .map(|now| {
                let available = bucket.available(rate, now);
                (0..available).for_each(|_| bucket.take(rate, now));
                available
            })
            .sum()
    }

    #[test]
    fn the_rate_is_kept_and_used_up() {
        assert_eq!(taken(10.0, 10_000), 101);
        assert_eq!(taken(2.0, 10_000), 21);
        assert_eq!(taken(0.1, 30_100), 4);
        assert_eq!(taken(1000.0, 2_000), 2001);
    }

    #[test]
    fn a_quarter_of_a_second_is_saved_up() {
        let start = Instant::now();
        let later = start + Duration::from_secs(100);
        for (rate, saved) in [(10.0, 2), (100.0, 25), (2.0, 1), (0.5, 1)] {
            assert_eq!(Bucket::new(start).available(rate, later), saved, "{rate}");
        }
    }

    #[test]
    fn debt_is_paid_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        (0..6).for_each(|_| bucket.take(10.0, start));
        assert_eq!(bucket.available(10.0, start), 0);
        assert_eq!(bucket.owed(10.0, start), 5.0);
        let next = bucket.next(10.0, start);
        assert!(
            next >= start + Duration::from_millis(600),
            "five owed, one to have"
        );
        assert!(next < start + Duration::from_millis(601));
        assert_eq!(bucket.available(10.0, next), 1);
        assert_eq!(bucket.owed(10.0, next), 0.0);
        (0..1_000_000).for_each(|_| bucket.take(10.0, next));
        assert!(bucket.next(10.0, next) <= next + Duration::from_secs(61));
    }

    #[test]
    fn what_is_emptied_and_a_clock_that_stands_give_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let later = start + Duration::from_secs(5);
        bucket.empty(later);
        assert_eq!(bucket.available(10.0, later), 0);
        assert_eq!(bucket.available(10.0, start), 0, "an older time");
        assert_eq!(
            bucket.available(10.0, later + Duration::from_millis(101)),
            1
        );
        bucket.take(10.0, later + Duration::from_millis(101));
        bucket.give_back();
        assert_eq!(
            bucket.available(10.0, later + Duration::from_millis(101)),
            1
        );
    }
}
