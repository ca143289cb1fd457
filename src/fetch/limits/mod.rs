//! What a server says about its limits, whatever the status of its answer.
//!
//! There is no standard that all servers follow, so every spelling in use is read. The drafts are those of
//! draft-ietf-httpapi-ratelimit-headers:
//!
//! | spelling | where from |
//! |---|---|
//! | `Retry-After: 120`, `Retry-After: Fri, 31 Dec 1999 23:59:59 GMT` | RFC 9110, 10.2.3; RFC 6585, 4 has it with 429 |
//! | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` | drafts up to -06; the PDS of Bluesky |
//! | `X-RateLimit-…`, `X-Rate-Limit-…` | the custom that the drafts began from |
//! | `RateLimit-Limit: 100, 100;w=60` | the first drafts |
//! | `RateLimit-Policy: 3000;w=300` | drafts up to -07; the PDS of Bluesky |
//! | `RateLimit: limit=100, remaining=50, reset=30` | draft -07 |
//! | `RateLimit-Policy: "default";q=100;w=10`, `RateLimit: "default";r=50;t=30` | drafts from -08 on |
//!
//! - A reset is a number of seconds from now in the drafts, but one of seconds since 1970 from the PDS of Bluesky and many others,
//!   and of milliseconds from a few. The size tells them apart.
//! - A moment is compared with the server's own clock where it says it (`Date`), so it does not matter that clocks differ. Moments
//!   are said in whole seconds, so one may be up to a second later than it says, which is added.
//! - Of several policies the one with the lowest rate counts, its limit and its window together: who keeps to it keeps to all
//!   others, but for bursts, and how much is left for those is what the state says. Of several states the one counts that is used up
//!   first. Policies of other units than requests (`qu`) do not count, nor do their states.
//! - What cannot be read is as if it were not there, and nothing is further away than [`MAX_WAIT`].
//!
//! Nothing here looks at a clock or can panic. Pinned by the tests here, one for each spelling.

mod fields;
mod moment;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use self::fields::{Item, items, texts};
use self::moment::{Number, date, wait};

/// No answer makes us wait longer than this. A server must not be able to switch its accounts off for ever, be it by a mistake in
/// units; where a reset is further away, an answer after this time says so again.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What limits in a header of their own are called; the first name that says something readable counts.
const LIMIT: [&str; 3] = ["ratelimit-limit", "x-ratelimit-limit", "x-rate-limit-limit"];
const REMAINING: [&str; 3] = [
    "ratelimit-remaining",
    "x-ratelimit-remaining",
    "x-rate-limit-remaining",
];
const RESET: [&str; 3] = ["ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset"];
const POLICY: &str = "ratelimit-policy";
const STATE: &str = "ratelimit";

/// The limits as one answer shows them; `None` is what it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long to send nothing; at most [`MAX_WAIT`], and zero for a moment that is past.
    pub retry_after: Option<Duration>,
    /// Requests that are left until the reset.
    pub remaining: Option<u64>,
    /// How long until there are more; at most [`MAX_WAIT`], and zero for a moment that is past.
    pub reset: Option<Duration>,
    /// Requests in each window.
    pub limit: Option<u64>,
    /// The window of this limit; never zero.
    pub window: Option<Duration>,
}

impl Limits {
    /// Reads the head of an answer that arrived at `now`.
    pub fn read(headers: &HeaderMap, now: SystemTime) -> Limits {
        let now = texts(headers, "date").find_map(date).unwrap_or(now);
        let foreign: Vec<&str> = items(headers, POLICY)
            .filter(|item| item.parameter("qu").is_some_and(|unit| unit != "requests"))
            .map(|item| item.bare)
            .collect();
        let is_ours = |item: &Item<'_>| !foreign.contains(&item.bare);

        let state = State::by_items(items(headers, STATE).filter(is_ours), now);
        let state = state.unwrap_or_else(|| State::by_names(headers, now));
        let listed = items(headers, POLICY).filter(is_ours);
        let policy = listed
            .chain(LIMIT.iter().flat_map(|name| items(headers, name)))
            .filter_map(|item| Policy::read(&item))
            .min_by(Policy::by_rate);
        let retry_after = texts(headers, "retry-after");
        Limits {
            retry_after: retry_after.filter_map(|text| wait(text, now)).max(),
            remaining: state.remaining,
            reset: state.reset,
            limit: policy.map(|policy| policy.limit).or(state.limit),
            window: policy.and_then(|policy| policy.window),
        }
    }

    /// How long an answer of status 429 or 503 asks to be left in peace; `None` where it does not say.
    ///
    /// A server that refuses, and says that it might be asked again at once, has said nothing of use either.
    pub fn wait(&self) -> Option<Duration> {
        let asked = [self.retry_after, self.reset].into_iter().flatten();
        asked.into_iter().find(|wait| !wait.is_zero())
    }
}

/// So many requests in a window.
#[derive(Clone, Copy)]
struct Policy {
    limit: u64,
    window: Option<Duration>,
}

impl Policy {
    /// The limit is the item itself or, where that is a name, its parameter `q`.
    fn read(item: &Item<'_>) -> Option<Policy> {
        let parameter = |name| item.parameter(name).and_then(Number::read);
        let limit = Number::read(item.bare).or_else(|| parameter("q"))?.whole;
        let window = parameter("w").filter(|window| window.whole > 0);
        Some(Policy {
            limit,
            window: window.map(|window| Duration::from_secs(window.whole)),
        })
    }

    fn rate(&self) -> f64 {
        // Without a window it is no rate, and only counts where there is no other.
        self.window.map_or(f64::INFINITY, |window| {
            self.limit as f64 / window.as_secs_f64()
        })
    }

    fn by_rate(&self, other: &Self) -> Ordering {
        let rates = self.rate().total_cmp(&other.rate());
        rates.then(self.limit.cmp(&other.limit))
    }
}

/// So many requests until the reset.
#[derive(Clone, Copy, Default)]
struct State {
    remaining: Option<u64>,
    reset: Option<Duration>,
    limit: Option<u64>,
}

impl State {
    /// From a header each.
    fn by_names(headers: &HeaderMap, now: SystemTime) -> State {
        // Behind a comma comes what another server on the way has added.
        let whole = |text: &str| Number::read(text.split(',').next()?).map(|n| n.whole);
        State {
            remaining: first(headers, REMAINING, whole),
            reset: first(headers, RESET, |text| wait(text, now)),
            limit: None,
        }
    }

    /// From the one header `RateLimit`, in both of its forms.
    fn by_items<'h>(items: impl Iterator<Item = Item<'h>>, now: SystemTime) -> Option<State> {
        let mut states = Vec::new();
        let mut members = State::default();
        for item in items {
            let Some((name, value)) = item.member() else {
                states.push(State {
                    remaining: item.parameter("r").and_then(Number::read).map(|n| n.whole),
                    reset: item.parameter("t").and_then(|text| wait(text, now)),
                    limit: None,
                });
                continue;
            };
            let number = Number::read(value).map(|n| n.whole);
            match name {
                "limit" => members.limit = number,
                "remaining" => members.remaining = number,
                "reset" => members.reset = wait(value, now),
                _ => {}
            }
        }
        states.push(members);
        let readable = states.into_iter().filter(|it| it.remaining.is_some());
        readable.min_by(State::by_scarcity)
    }

    /// By the rate at which what remains may be used up, and where that is the same, the longest time comes first.
    fn by_scarcity(&self, other: &Self) -> Ordering {
        let rate = |it: &Self| match (it.remaining, it.reset) {
            (Some(0), _) => 0.0,
            (Some(n), Some(reset)) if !reset.is_zero() => n as f64 / reset.as_secs_f64(),
            _ => f64::INFINITY,
        };
        let rates = rate(self).total_cmp(&rate(other));
        rates.then(other.reset.cmp(&self.reset))
    }
}

/// What is read first under these names.
fn first<T>(headers: &HeaderMap, names: [&str; 3], read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let mut texts = names.into_iter().flat_map(|name| texts(headers, name));
    texts.find_map(read)
}
