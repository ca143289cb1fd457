//! What a host allows, how it counts, and how it says so.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub requests: u32,
    pub window: Duration,
}

impl Limit {
    pub const fn new(requests: u32, seconds: u64) -> Self {
        Limit {
            requests,
            window: Duration::from_secs(seconds),
        }
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.requests) / self.window.as_secs_f64()
    }
}

/// How a host says what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spelling {
    /// RateLimit-Limit, -Remaining and -Reset, which is a time since 1970.
    Epoch,
    /// Nothing but Retry-After with seconds, when it refuses.
    Seconds,
    /// Nothing but Retry-After with a date, when it refuses.
    Date,
    /// RateLimit-Limit, -Remaining and -Reset, which is in seconds from now.
    Delta,
    /// As `Epoch`, with a RateLimit-Policy: what the reference implementation of a PDS sends.
    Policy,
    /// Nothing at all.
    None,
}

impl Spelling {
    /// Those that say something.
    pub const ALL: [Spelling; 5] = [
        Spelling::Epoch,
        Spelling::Seconds,
        Spelling::Date,
        Spelling::Delta,
        Spelling::Policy,
    ];
}

/// What a host answers as to its limit.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub is_refused: bool,
    /// Header lines, each with its end.
    pub headers: String,
    /// How long the client is told to stay away.
    pub told: Option<Duration>,
}

/// The count of one host.
#[derive(Debug)]
pub struct Counter {
    limit: Limit,
    spelling: Spelling,
    /// Fixed windows: when the present one began, and how many were allowed in it.
    window: Option<(Duration, u32)>,
    /// Sliding windows, of those that say nothing: when each was allowed.
    allowed: VecDeque<Duration>,
}

impl Counter {
    pub fn new(limit: Limit, spelling: Spelling) -> Self {
        Counter {
            limit,
            spelling,
            window: None,
            allowed: VecDeque::new(),
        }
    }

    /// Counts a request at this time of the server's clock.
    pub fn count(&mut self, now: Duration) -> Verdict {
        if self.spelling == Spelling::None {
            return self.slide(now);
        }
        // A window begins with the first request behind the one before.
        let (began, used) = match self.window {
            Some((began, used)) if now < began + self.limit.window => (began, used),
            _ => (now, 0),
        };
        let is_refused = used >= self.limit.requests;
        let used = used + u32::from(!is_refused);
        self.window = Some((began, used));
        let remaining = self.limit.requests - used;
        let left = began + self.limit.window - now;
        Verdict {
            is_refused,
            headers: self.headers(is_refused, remaining, left, SystemTime::now()),
            told: self.told(is_refused, remaining, left),
        }
    }

    fn slide(&mut self, now: Duration) -> Verdict {
        let is_over = |at: &Duration| *at + self.limit.window <= now;
        while self.allowed.front().is_some_and(is_over) {
            self.allowed.pop_front();
        }
        let is_refused = self.allowed.len() >= self.limit.requests as usize;
        if !is_refused {
            self.allowed.push_back(now);
        }
        Verdict {
            is_refused,
            headers: String::new(),
            told: None,
        }
    }

    fn told(&self, is_refused: bool, remaining: u32, left: Duration) -> Option<Duration> {
        let says_remaining = !matches!(self.spelling, Spelling::Seconds | Spelling::Date);
        // In whole seconds, as all of these headers are.
        (is_refused || (says_remaining && remaining == 0))
            .then(|| Duration::from_secs(whole_seconds(left)))
    }

    fn headers(&self, is_refused: bool, remaining: u32, left: Duration, now: SystemTime) -> String {
        let delta = whole_seconds(left);
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = whole_seconds(since + left);
        let limit = self.limit.requests;
        let counts = |reset: u64| {
            format!(
                "RateLimit-Limit: {limit}\r\nRateLimit-Remaining: {remaining}\r\nRateLimit-Reset: {reset}\r\n"
            )
        };
        match self.spelling {
            Spelling::Epoch => counts(epoch),
            Spelling::Delta => counts(delta),
            Spelling::Policy => {
                let seconds = self.limit.window.as_secs();
                counts(epoch) + &format!("RateLimit-Policy: {limit};w={seconds}\r\n")
            }
            Spelling::Seconds if is_refused => format!("Retry-After: {delta}\r\n"),
            Spelling::Date if is_refused => format!("Retry-After: {}\r\n", http_date(epoch)),
            Spelling::Seconds | Spelling::Date | Spelling::None => String::new(),
        }
    }
}

/// Rounded up, so that who waits so long has waited long enough.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// A time since 1970 as HTTP writes dates (RFC 9110, 5.6.7).
fn http_date(seconds: u64) -> String {
    let at = jiff::Timestamp::from_second(seconds as i64).expect("a time of this age");
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
