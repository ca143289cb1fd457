//! Numbers, dates, and how long it is until then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::MAX_WAIT;

/// From here on a number is seconds since 1970 (2001 and later); before it, seconds from now (up to 31 years).
const SINCE_1970: u64 = 1_000_000_000;
/// From here on it is milliseconds since 1970 (1973 and later); before it, seconds (up to the year 5138).
const IN_MILLIS: u64 = 100_000_000_000;
/// How much later a moment in whole seconds may be than it says.
const ROUNDED_DOWN: Duration = Duration::from_secs(1);

/// A number as servers write it: digits, with or without decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// Without its decimals; what does not fit is the largest there is.
    pub whole: u64,
    /// Whether the decimals are more than nothing.
    more: bool,
}

impl Number {
    /// Nothing with a sign or an exponent.
    pub fn read(text: &str) -> Option<Number> {
        let (whole, decimals) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        (digits(whole) && digits(decimals)).then(|| Number {
            whole: whole.parse().unwrap_or(u64::MAX),
            more: decimals.bytes().any(|b| b != b'0'),
        })
    }

    /// How long it is until this many seconds from now, or since 1970, whichever it must be by its size.
    fn until(self, now: SystemTime) -> Duration {
        let Number { whole, more } = self;
        let since_1970 = match whole {
            ..SINCE_1970 => {
                let seconds = whole + u64::from(more);
                return Duration::from_secs(seconds).min(MAX_WAIT);
            }
            SINCE_1970..IN_MILLIS => Duration::from_secs(whole),
            IN_MILLIS.. => Duration::from_millis(whole),
        };
        match UNIX_EPOCH.checked_add(since_1970) {
            Some(moment) => until(moment, now),
            None => MAX_WAIT,
        }
    }
}

/// How long it is until a number of seconds, or a date.
///
/// A date has a comma; behind one of a number comes what another server on the way has added.
pub(super) fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Some(moment) = date(text) {
        return Some(until(moment, now));
    }
    let first = text.split(',').next()?;
    Number::read(first).map(|number| number.until(now))
}

/// A date in one of the three forms of RFC 9110, 5.6.7.
pub(super) fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

/// Nothing where it is past.
fn until(moment: SystemTime, now: SystemTime) -> Duration {
    let left = moment.duration_since(now);
    left.map_or(Duration::ZERO, |left| {
        left.saturating_add(ROUNDED_DOWN).min(MAX_WAIT)
    })
}
