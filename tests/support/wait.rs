//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// After how long a condition that does not come true fails the test.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What a condition may answer: `bool`, or `Option` with the value that was waited for.
pub trait Answer {
    /// What the wait returns.
    type Value;

    /// The value, once the condition holds.
    fn value(self) -> Option<Self::Value>;
}

impl Answer for bool {
    type Value = ();

    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Answer for Option<T> {
    type Value = T;

    fn value(self) -> Option<T> {
        self
    }
}

/// Asks until the answer is `true` or `Some`; panics with `what` when that takes longer than
/// [`LIMIT`].
#[track_caller]
pub fn eventually<A: Answer>(what: &str, condition: impl FnMut() -> A) -> A::Value {
    match within(LIMIT, condition) {
        Some(value) => value,
        None => panic!("still not so after {} s: {what}", LIMIT.as_secs()),
    }
}

/// Asks until the answer is `true` or `Some`, at most for `limit`; at least once.
pub fn within<A: Answer>(limit: Duration, mut condition: impl FnMut() -> A) -> Option<A::Value> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().value() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL);
    }
}
