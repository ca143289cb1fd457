//! The gate of one host: whether a request may be begun now, and if not, when.
//!
//! A state machine without clock and locks: every method is told the time. What it goes by:
//!
//! - **Concurrency**: at most so many requests in flight. A host begins with one, and each answer that came to its end
//!   allows one more, also after a cool-down (slow start), so a host that hangs or drips pins one worker and not ten.
//! - **Rate**: a [`Bucket`] of tokens, at the configured rate or, where the host says how many requests are left until when, at the rate
//!   that uses these up evenly. Instances that share an address share what is left, so they divide it without knowing of each other.
//! - **Cool-down**: 429 and 503 close the gate for as long as the host asks; where it does not ask, or has asked before and refuses
//!   again, for a time that doubles. So does an answer that says that nothing is left.
//! - **Circuit**: failures at the connection level in a row close it as well, for a growing time; then one request tries. A body that
//!   drips or breaks off is such a failure, so only an answer that came to its end shows that the host is well.
//!
//! Answers to requests that were begun before the gate closed do not close it again: ten refusals at a time are one.
//! A host that has refused or failed for `max_deferred` without a success is *given up*: its messages need not wait for it any more.

use std::mem;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use crate::fetch::limits::Limits;

/// How long the gate is closed when a host does not say for how long; doubled each time. (Some servers answer 429 without any
/// header.) The time also of a circuit that opens.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// How long it is closed at most, whatever the host says.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long it is closed at least, whatever the host says: headers have the resolution of a second.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// After so many refusals in a row a host's own word for when to come back is not believed any more.
const REFUSALS_BELIEVED: u32 = 3;
/// So many failures at the connection level in a row open the circuit: fewer may be one bad moment.
const FAILURES: u32 = 5;
/// How much of what a host says is left is spread until the reset: others may ask at the same time, and moments are said in whole
/// seconds.
const SPREAD: f64 = 0.95;
/// How much may be owed when somebody would owe one more for a redirect that a stranger chose, in seconds of the rate. Enough that a few
/// who are sent to a busy host at once need not begin anew; more than a moment's work ahead no stranger can make us ask of a host.
const CREDIT_SECS: f64 = 1.0;
/// How long a host is remembered that has never closed its gate; the others are for the longest pause.
const KEPT: Duration = Duration::from_secs(60);
/// In flight at a host without a cap, slow start is over.
const FULL_SPEED: usize = 10;
/// What a gate without any cap lets in at a time: as good as everything, and does not overflow.
const UNLIMITED: usize = 1 << 20;

/// What the operator allows at one host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Requests in flight.
    pub concurrency: Option<usize>,
    /// Requests a second.
    pub rate: Option<f64>,
    /// How long a host may be without a success before it is given up; `None`: for ever.
    pub max_deferred: Option<Duration>,
    /// How long the gate is closed at most when the host does not say for how long.
    pub longest_pause: Duration,
}

/// What the gate says to whoever would begin a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// So many may be begun now.
    Now(usize),
    /// None before this time.
    From(Instant),
    /// None before one in flight has ended.
    WhenOneEnds,
    /// The host has been without a success since then, and for too long: its messages need not wait.
    GivenUp(Instant),
}

/// A time of nothing but refusals and failures.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    since: Instant,
    last: Instant,
}

/// The state of one host.
#[derive(Debug)]
pub struct Gate {
    rules: Rules,
    /// In flight since it was closed last.
    in_flight: usize,
    /// Those from before that are still in flight: they say nothing of now, and do not stand in the way of who tries.
    from_before: usize,
    /// In flight at most while it starts slowly; `None`: at full speed.
    start: Option<usize>,
    bucket: Bucket,
    /// Requests a second that the host's own words leave, until then.
    pace: Option<(f64, Instant)>,
    closed_until: Option<Instant>,
    /// How often it has been closed; answers to requests of earlier times do not close it again.
    times: u64,
    /// Refusals in a row.
    refusals: u32,
    /// Failures at the connection level in a row.
    failures: u32,
    /// How often the circuit has opened in a row.
    opened: u32,
    trouble: Option<Trouble>,
    used: Instant,
    /// When a token was owed for a stranger's sake last.
    lent: Option<Instant>,
}

impl Gate {
    /// A host of which nothing is known.
    pub fn new(rules: Rules, now: Instant) -> Self {
        Gate {
            rules,
            in_flight: 0,
            from_before: 0,
            // The operator's own hosts are not started slowly.
            start: rules.concurrency.map(|_| 1),
            bucket: Bucket::new(now),
            pace: None,
            closed_until: None,
            times: 0,
            refusals: 0,
            failures: 0,
            opened: 0,
            trouble: None,
            used: now,
            lent: None,
        }
    }

    /// Other rules from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        if rules.concurrency.is_none() && self.times == 0 {
            self.start = None;
        }
    }

    /// Requests a second, now; `None`: as many as one likes.
    fn rate(&self, now: Instant) -> Option<f64> {
        let pace = self.pace.filter(|(_, until)| now < *until);
        match (self.rules.rate, pace) {
            (Some(rate), Some((pace, _))) => Some(rate.min(pace)),
            (rate, pace) => rate.or(pace.map(|(pace, _)| pace)),
        }
    }

    /// What may be begun now.
    pub fn allowance(&mut self, now: Instant) -> Allowance {
        if let Some(until) = self.closed_until.filter(|until| now < *until) {
            let limit = self.rules.max_deferred.unwrap_or(Duration::MAX);
            return match self.trouble {
                Some(Trouble { since, .. }) if now.saturating_duration_since(since) >= limit => {
                    Allowance::GivenUp(since)
                }
                _ => Allowance::From(until),
            };
        }
        let slots = self.slots();
        if slots == 0 {
            return Allowance::WhenOneEnds;
        }
        let Some(rate) = self.rate(now) else {
            return Allowance::Now(slots);
        };
        match self.bucket.available(rate, now) {
            0 => Allowance::From(self.bucket.next(rate, now)),
            tokens => Allowance::Now(slots.min(tokens)),
        }
    }

    /// How many more may be in flight.
    fn slots(&self) -> usize {
        let cap = self.rules.concurrency.unwrap_or(UNLIMITED);
        let start = self.start.unwrap_or(UNLIMITED);
        let of_cap = cap.saturating_sub(self.in_flight + self.from_before);
        of_cap.min(start.saturating_sub(self.in_flight))
    }

    /// Whether it is closed: not only for want of a token or a slot.
    pub fn is_closed(&self, now: Instant) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    /// Until when it is closed, if it is.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.closed_until.filter(|until| now < *until)
    }

    /// Requests in flight.
    pub fn running(&self) -> usize {
        self.in_flight + self.from_before
    }

    /// Whether it is closed, or has been, and so many are at it as may try whether it is open again: who knows how long they take.
    pub fn is_shut(&self, now: Instant) -> bool {
        let tried = self.start.is_some_and(|start| self.in_flight >= start);
        self.is_closed(now) || (self.trouble.is_some() && tried)
    }

    /// Whether it starts slowly.
    pub fn starts_slowly(&self) -> bool {
        self.start.is_some()
    }

    /// A request begins, allowed or not. Returns the time that its answer belongs to.
    pub fn begin(&mut self, now: Instant) -> u64 {
        self.in_flight += 1;
        self.take(now);
        self.times
    }

    /// The time that the answer to a request belongs to which is made now.
    pub fn time(&self) -> u64 {
        self.times
    }

    /// Another request by whoever has begun one already and not ended it.
    pub fn take(&mut self, now: Instant) {
        self.used = now;
        if let Some(rate) = self.rate(now) {
            self.bucket.take(rate, now);
        }
    }

    /// Whether there is a token.
    pub fn has_token(&mut self, now: Instant) -> bool {
        self.rate(now)
            .is_none_or(|rate| self.bucket.available(rate, now) > 0)
    }

    /// Whether a token may be owed for a stranger's sake, which it is then: at half the rate, so that those who wait for this host
    /// have the other half.
    pub fn lend(&mut self, now: Instant) -> bool {
        if self.slots() == 0 {
            return false;
        }
        let Some(rate) = self.rate(now) else {
            return true;
        };
        let rest = Duration::from_secs_f64((2.0 / rate).min(LONGEST_PAUSE.as_secs_f64()));
        let has_rested = self.lent.is_none_or(|lent| now >= lent + rest);
        let lends = has_rested && self.bucket.owed(rate, now) <= rate * CREDIT_SECS;
        if lends {
            self.lent = Some(now);
        }
        lends
    }

    /// A request of that time has come to its end, whole: its host is well, and one more may be in flight. One that was begun before
    /// says nothing about the time since.
    pub fn completed(&mut self, time: u64) {
        if time == self.times {
            (self.failures, self.opened) = (0, 0);
            self.trouble = None;
            let full = self.rules.concurrency.unwrap_or(FULL_SPEED);
            let start = self.start.map(|start| start + 1);
            self.start = start.filter(|start| *start < full);
        }
    }

    /// Whoever has a token, and a slot since that time, will use it later: others may begin meanwhile.
    pub fn leave(&mut self, since: u64) {
        let slots = if since == self.times {
            &mut self.in_flight
        } else {
            &mut self.from_before
        };
        *slots = slots.saturating_sub(1);
    }

    /// Whoever left uses his token now. Returns the time since when he has a slot.
    pub fn enter(&mut self) -> u64 {
        self.in_flight += 1;
        self.times
    }

    /// A request with a slot since that time has ended, however it did, or was not made after all.
    pub fn end(&mut self, since: u64, used: bool) {
        self.leave(since);
        if !used {
            self.not_used();
        }
    }

    /// Whoever has a token, and no slot, does not use it after all.
    pub fn not_used(&mut self) {
        self.bucket.give_back();
    }

    /// The host has begun to answer a request of that time.
    pub fn answered(&mut self, time: u64, status: u16, limits: &Limits, now: Instant) {
        let reset = limits
            .reset
            .map(|reset| reset.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        match (limits.remaining, reset) {
            (Some(left), Some(reset)) if left > 0 => {
                let rate = left as f64 / reset.as_secs_f64();
                self.pace = Some((rate * SPREAD, now + reset));
            }
            (Some(0), Some(reset)) if !matches!(status, 429 | 503) => {
                self.close(now + reset, now);
            }
            (None, _) => {
                if let (Some(limit @ 1..), Some(window)) = (limits.limit, limits.window) {
                    let until = now + window.min(LONGEST_PAUSE);
                    self.pace = Some((limit as f64 / window.as_secs_f64(), until));
                }
            }
            _ => {}
        }
        if matches!(status, 429 | 503) {
            self.refused(time, limits, now);
            return;
        }
        if time == self.times {
            self.refusals = 0;
        }
    }

    fn refused(&mut self, time: u64, limits: &Limits, now: Instant) {
        self.troubled(now);
        let asked = limits.wait();
        if time != self.times {
            // Refused together with one that has closed the gate; but it may be told more.
            if let Some(asked) = asked {
                self.extend(now + asked.min(LONGEST_PAUSE));
            }
            return;
        }
        let pause = match asked {
            Some(asked) if self.refusals < REFUSALS_BELIEVED => asked,
            Some(asked) => asked.max(self.pause(self.refusals - REFUSALS_BELIEVED)),
            None => self.pause(self.refusals),
        };
        self.refusals += 1;
        self.start_again(now + pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE), now);
    }

    /// A request of that time did not come through: no connection, no TLS, no answer, or not to its end.
    pub fn unreachable(&mut self, time: u64, now: Instant) {
        if time != self.times {
            return;
        }
        self.troubled(now);
        self.failures += 1;
        if self.failures >= FAILURES || self.opened > 0 {
            let until = now + self.pause(self.opened);
            self.opened += 1;
            self.start_again(until, now);
        }
    }

    /// Another refusal or failure. Of a host that nobody has asked for two of the longest pauses it is not known that it has been in
    /// trouble all the time.
    fn troubled(&mut self, now: Instant) {
        let known = |it: &Trouble| now.saturating_duration_since(it.last) <= 2 * LONGEST_PAUSE;
        let since = self.trouble.filter(known).map_or(now, |it| it.since);
        self.trouble = Some(Trouble { since, last: now });
    }

    /// Closes the gate; behind it, one request tries.
    fn start_again(&mut self, until: Instant, now: Instant) {
        self.times += 1;
        self.from_before += mem::take(&mut self.in_flight);
        self.start = Some(1);
        self.close(until, now);
    }

    /// Doubled from the first pause up to the longest.
    fn pause(&self, times: u32) -> Duration {
        FIRST_PAUSE
            .saturating_mul(1 << times.min(16))
            .min(self.rules.longest_pause)
    }

    fn close(&mut self, until: Instant, now: Instant) {
        self.extend(until);
        self.bucket.empty(now);
    }

    fn extend(&mut self, until: Instant) {
        self.closed_until = Some(self.closed_until.map_or(until, |closed| closed.max(until)));
    }

    /// Whether it can be forgotten: next to nothing would be lost.
    pub fn is_idle(&self, now: Instant) -> bool {
        let kept = if self.times > 0 { LONGEST_PAUSE } else { KEPT };
        self.in_flight + self.from_before == 0
            && !self.is_closed(now)
            && now.saturating_duration_since(self.used) > kept
    }
}

#[cfg(test)]
mod tests;
