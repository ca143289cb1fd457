//! What becomes of a message whose attempt failed, and how long it waits.
//!
//! Pure rules, without Redis: the pending list is the retry queue, so all that is needed is the number of deliveries, what the
//! progress hash says of the attempt before, and the clock. All instances come to the same result, because nothing here
//! depends on who asks. Pinned by the tests here and, row by row, by `tests/verdicts.rs`,
//! `tests/verdicts_invalid.rs` and `tests/verdicts_waiting.rs`.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::progress::{Failure, Progress};
use crate::config::Config;
use crate::error::{Class, JobError, Reason};

/// An account that its own server does not have is looked for once more.
const GONE_ATTEMPTS: u64 = 2;
/// A repo that is not what its owner signed is fetched so often, unless the same commit fails the same rule again.
const INVALID_ATTEMPTS: u64 = 3;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays pending until its backoff is over.
    Retry(Failure),
    /// It stays pending, and the attempt is not charged.
    Defer {
        /// Since when it has only been deferred, in milliseconds since 1970.
        since: u64,
    },
    /// It leaves the queue for the dead letters.
    DeadLetter {
        /// The reason that the letter names.
        reason: Reason,
        /// Attempts that were charged.
        attempts: u64,
    },
}

/// Judges an attempt that failed with `error`, at the commit `commit` where it came so far.
///
/// `attempt` is its number, from 1; `now` is in milliseconds since 1970.
pub fn judge(
    config: &Config,
    error: &JobError,
    commit: Option<&str>,
    attempt: u64,
    progress: &Progress,
    now: u64,
) -> Verdict {
    let class = error.class();
    if class == Class::Deferred {
        let since = progress.deferred_since().unwrap_or(now).min(now);
        return if u128::from(now - since) < config.max_deferred.as_millis() {
            Verdict::Defer { since }
        } else {
            Verdict::DeadLetter {
                reason: Reason::Network,
                attempts: attempt - 1,
            }
        };
    }
    let before = progress.failure().filter(|before| before.class == class);
    let times = before.as_ref().map_or(0, |before| before.times) + 1;
    let same = before.is_some_and(|before| {
        commit.is_some()
            && before.commit.as_deref() == commit
            && before.reason == error.reason.code()
    });
    let limit = match class {
        Class::Final => 1,
        Class::Gone => GONE_ATTEMPTS,
        Class::Invalid => INVALID_ATTEMPTS,
        // Deferred ones have been judged above, and a fatal one ends the process.
        Class::Retry | Class::Deferred | Class::Fatal => config.max_attempts,
    };
    let spent = times >= limit || attempt >= config.max_attempts;
    if spent || (class == Class::Invalid && same) {
        return Verdict::DeadLetter {
            reason: error.reason,
            attempts: attempt,
        };
    }
    Verdict::Retry(Failure {
        times,
        class,
        reason: error.reason.code().to_owned(),
        attempt,
        commit: commit.map(str::to_owned),
    })
}

/// The number of the attempt that begins now, from 1.
///
/// Redis counts the delivery itself, so a message that was delivered once and that nobody has begun is at its first attempt.
pub fn next_attempt(deliveries: u64, begun: bool) -> u64 {
    if begun || deliveries > 1 {
        deliveries + 1
    } else {
        1
    }
}

/// How long a message waits after so many attempts: doubled with each from the initial backoff to the maximal one, of which
/// between the half and the whole, by a hash of both, so that messages that failed together do not come back together.
pub fn backoff(config: &Config, id: &str, attempts: u64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(31);
    let whole = config
        .initial_backoff
        .saturating_mul(1_u32 << doublings)
        .min(config.max_backoff);
    let mut hash = Sha256::new();
    hash.update(id);
    hash.update(attempts.to_be_bytes());
    let jitter = f64::from(hash.finalize()[0]) / f64::from(u8::MAX);
    whole.mul_f64(0.5 + jitter / 2.0)
}

/// How long an idle message must have been idle to be due: `ours` says that no other live process can hold it.
pub fn due_after(config: &Config, id: &str, deliveries: u64, ours: bool) -> Duration {
    let backoff = backoff(config, id, deliveries);
    if ours {
        backoff
    } else {
        backoff.max(config.lease)
    }
}

/// An idle time with which a message is due for whoever looks: longer than any backoff and any lease that is accepted.
pub const DUE_AT_ONCE: Duration = Duration::from_secs(86_401);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::queue::progress::{DEFERRED, FAILED};

    fn config() -> Config {
        let cli = Cli {
            consumer: Some("one".to_owned()),
            ..Cli::default()
        };
        Config::from_cli(&cli).unwrap()
    }

    /// Judges attempts that fail one after the other, until the message is a dead letter; returns its reason and attempts.
    fn fail(sequence: &[(Reason, Option<&str>)]) -> Option<(Reason, u64)> {
        let mut progress = Progress::default();
        for ((reason, commit), attempt) in sequence.iter().zip(1..) {
            let error = JobError::new(*reason, "x");
            match judge(&config(), &error, *commit, attempt, &progress, 0) {
                Verdict::DeadLetter { reason, attempts } => return Some((reason, attempts)),
                Verdict::Retry(failure) => {
                    progress.0.insert(FAILED.to_owned(), failure.to_field());
                }
                Verdict::Defer { .. } => {}
            }
        }
        None
    }

    #[test]
    fn limits_are_those_of_the_table() {
        for reason in Reason::ALL {
            let wanted = match reason.class() {
                Class::Final => 1,
                Class::Gone => 2,
                Class::Invalid => 3,
                Class::Retry | Class::Fatal => 8,
                Class::Deferred => continue,
            };
            assert_eq!(
                fail(&[(reason, None); 20]),
                Some((reason, wanted)),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_same_commit_that_fails_the_same_rule_is_not_fetched_a_third_time() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(
            fail(&[(Reason::Mst, a), (Reason::Mst, a)]),
            Some((Reason::Mst, 2))
        );
        assert_eq!(fail(&[(Reason::Mst, a), (Reason::Mst, b)]), None);
        assert_eq!(fail(&[(Reason::Mst, a), (Reason::Car, a)]), None);
        assert_eq!(fail(&[(Reason::Mst, None), (Reason::Mst, None)]), None);
    }

    #[test]
    fn classes_are_counted_in_a_row() {
        let (network, gone) = ((Reason::Network, None), (Reason::RepoGone, None));
        assert_eq!(fail(&[network, network, gone]), None);
        assert_eq!(
            fail(&[network, network, gone, gone]),
            Some((Reason::RepoGone, 4))
        );
        let mixed = [network, gone, network, gone, network, gone, network, gone];
        assert_eq!(fail(&mixed), Some((Reason::RepoGone, 8)), "at most so many");
    }

    #[test]
    fn deferrals_are_given_up_after_72_hours_or_what_is_set() {
        let mut config = config();
        let error = JobError::new(Reason::Deferred, "x");
        let hours = |n: u64| n * 3_600_000;
        let start = hours(1000);
        let mut progress = Progress::default();
        let judged = |config: &Config, progress: &Progress, now| {
            judge(config, &error, None, 3, progress, now)
        };
        assert_eq!(
            judged(&config, &progress, start),
            Verdict::Defer { since: start }
        );
        progress.0.insert(DEFERRED.to_owned(), start.to_string());
        for limit in [72, 5] {
            assert_eq!(
                judged(&config, &progress, start + hours(limit) - 1),
                Verdict::Defer { since: start }
            );
            assert_eq!(
                judged(&config, &progress, start + hours(limit)),
                Verdict::DeadLetter {
                    reason: Reason::Network,
                    attempts: 2
                }
            );
            config.max_deferred = Duration::from_secs(5 * 3600);
        }
        // A clock that was set back.
        assert_eq!(judged(&config, &progress, 5), Verdict::Defer { since: 5 });
    }

    #[test]
    fn a_delivery_that_nobody_began_is_no_attempt() {
        assert_eq!(next_attempt(1, false), 1);
        assert_eq!(next_attempt(0, false), 1);
        assert_eq!(next_attempt(0, true), 1, "deferred");
        assert_eq!(next_attempt(1, true), 2);
        assert_eq!(next_attempt(4, true), 5);
        assert_eq!(next_attempt(4, false), 5, "its progress hash has expired");
    }

    #[test]
    fn backoff_doubles_with_jitter_up_to_the_maximum() {
        let config = config();
        let seconds = |attempts| {
            let all = (0..200).map(|n| backoff(&config, &format!("{n}-0"), attempts));
            let all: Vec<_> = all.map(|wait| wait.as_secs_f64()).collect();
            let least = all.iter().copied().fold(f64::MAX, f64::min);
            (least, all.iter().copied().fold(0.0, f64::max))
        };
        for (attempts, whole) in [
            (0, 30.0),
            (1, 30.0),
            (2, 60.0),
            (5, 480.0),
            (8, 3600.0),
            (99, 3600.0),
        ] {
            let (least, most) = seconds(attempts);
            assert!(
                least >= whole / 2.0
                    && least < whole * 0.55
                    && most <= whole
                    && most > whole * 0.95,
                "{attempts}: {least} to {most}"
            );
        }
        // Another version of this program must agree.
        assert_eq!(backoff(&config, "1-0", 1).as_millis(), 18_705);
    }

    #[test]
    fn what_is_released_is_due_for_everybody() {
        let mut config = config();
        for longest in [config.max_backoff, Duration::from_secs(86_400)] {
            config.max_backoff = longest;
            for attempts in 0..20 {
                assert!(DUE_AT_ONCE > due_after(&config, "1-0", attempts, false));
            }
        }
        assert_eq!(due_after(&config, "1-0", 1, false), config.lease);
        assert!(due_after(&config, "1-0", 1, true) < config.lease);
    }
}
