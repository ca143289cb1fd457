//! Why a job did not end in events: one typed error, each with a stable reason code and a class.
//!
//! The *reason* is for machines and dashboards: it stands in log lines and in dead letters and never changes its spelling. The
//! *class* says what becomes of the message. Both follow the table "what happened" in the README, row by row; the texts are
//! for the reader of the log and may change.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The stable reason codes, in the order of the README's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message itself cannot be understood.
    BadMessage,
    /// The repo is larger than the operator allows.
    TooLarge,
    /// The account's own server says that there is no such repo.
    RepoGone,
    /// The DID leads to no document, or to one without a usable key.
    Identity,
    /// A frame, the root or the hash of a block is wrong (R2, R3, R4).
    Car,
    /// A block that the tree needs is not in the CAR (R7).
    Incomplete,
    /// Order, depth, prefix or shape of the tree is wrong (R7).
    Mst,
    /// The commit is malformed, of another version, or from the future (R5).
    Commit,
    /// The commit belongs to another DID (R5).
    DidMismatch,
    /// The signature does not fit the key of the DID document (R5, R6).
    Signature,
    /// The server asks to wait, or the directory cannot be asked.
    Deferred,
    /// Time-outs, connection errors, other 5xx, a body that was cut.
    Network,
    /// Another 4xx, a redirect that leads nowhere, or a 200 that is no CAR.
    HttpStatus,
    /// A defect of this program.
    Panic,
    /// Redis refused for good what was sent; the process ends.
    Redis,
}

impl Reason {
    /// Every reason, for tables of counters.
    pub const ALL: [Reason; 15] = [
        Reason::BadMessage,
        Reason::TooLarge,
        Reason::RepoGone,
        Reason::Identity,
        Reason::Car,
        Reason::Incomplete,
        Reason::Mst,
        Reason::Commit,
        Reason::DidMismatch,
        Reason::Signature,
        Reason::Deferred,
        Reason::Network,
        Reason::HttpStatus,
        Reason::Panic,
        Reason::Redis,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::BadMessage => "bad_message",
            Reason::TooLarge => "too_large",
            Reason::RepoGone => "repo_gone",
            Reason::Identity => "identity",
            Reason::Car => "car",
            Reason::Incomplete => "incomplete",
            Reason::Mst => "mst",
            Reason::Commit => "commit",
            Reason::DidMismatch => "did_mismatch",
            Reason::Signature => "signature",
            Reason::Deferred => "deferred",
            Reason::Network => "network",
            Reason::HttpStatus => "http_status",
            Reason::Panic => "panic",
            Reason::Redis => "redis",
        }
    }

    /// The reason of this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// What becomes of the message.
    pub const fn class(self) -> Class {
        match self {
            Reason::BadMessage | Reason::TooLarge => Class::Final,
            Reason::RepoGone | Reason::Identity => Class::Gone,
            Reason::Car
            | Reason::Incomplete
            | Reason::Mst
            | Reason::Commit
            | Reason::DidMismatch
            | Reason::Signature => Class::Invalid,
            Reason::Network | Reason::HttpStatus | Reason::Panic => Class::Retry,
            Reason::Deferred => Class::Deferred,
            Reason::Redis => Class::Fatal,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What becomes of a message whose job failed; the limits are those of [`retry`](crate::queue::retry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No attempt can succeed: a dead letter at once.
    Final,
    /// The account is probably gone; a second look is enough.
    Gone,
    /// The repo is not what its owner signed; it may be repaired meanwhile.
    Invalid,
    /// May succeed next time.
    Retry,
    /// Was not really tried; not a failure of the repo, and not charged.
    Deferred,
    /// The process cannot go on.
    Fatal,
}

impl Class {
    const ALL: [Class; 6] = [
        Class::Final,
        Class::Gone,
        Class::Invalid,
        Class::Retry,
        Class::Deferred,
        Class::Fatal,
    ];

    /// As it stands in the progress hash.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Final => "final",
            Class::Gone => "gone",
            Class::Invalid => "invalid",
            Class::Retry => "retry",
            Class::Deferred => "deferred",
            Class::Fatal => "fatal",
        }
    }

    /// The class of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// Why a job did not end in events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct JobError {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, in one line, for the reader of the log.
    pub text: String,
}

impl JobError {
    /// An error of this reason; control characters in the text, which may quote a server's answer, are escaped and a long
    /// text is cut, so that nobody else writes our log lines.
    pub fn new(reason: Reason, text: impl fmt::Display) -> Self {
        JobError {
            reason,
            text: one_line(&text.to_string()),
        }
    }

    /// What becomes of the message.
    pub fn class(&self) -> Class {
        self.reason.class()
    }
}

/// Longest error text in characters.
const MAX_TEXT: usize = 400;

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        if i == MAX_TEXT {
            line.push('…');
            break;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Runs a job; a panic becomes an error. What the job touched must be put in order by whoever goes on with it.
///
/// # Errors
/// Those of the job, and [`Reason::Panic`].
pub fn guarded<T, E: From<JobError>>(job: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(job))
        .unwrap_or_else(|payload| Err(JobError::new(Reason::Panic, panic_text(&*payload)).into()))
}

/// The text that a panic was given.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_stable_and_distinct() {
        let codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(
            codes.join(" "),
            "bad_message too_large repo_gone identity car incomplete mst commit did_mismatch signature deferred network \
             http_status panic redis"
        );
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(
                reason as usize, i,
                "{reason} indexes the tables of counters"
            );
        }
    }

    #[test]
    fn i5_a_panic_becomes_an_error_and_the_thread_goes_on() {
        let literal = guarded::<(), JobError>(|| panic!("boom"));
        assert_eq!(literal, Err(JobError::new(Reason::Panic, "boom")));
        let formatted = guarded::<(), JobError>(|| panic!("boom {}", 7));
        assert_eq!(formatted, Err(JobError::new(Reason::Panic, "boom 7")));
        let other = guarded::<(), JobError>(|| std::panic::panic_any(7));
        assert_eq!(other.map_err(|e| e.reason), Err(Reason::Panic));
        assert_eq!(guarded::<_, JobError>(|| Ok(7)), Ok(7));
    }

    #[test]
    fn an_error_text_is_one_line_of_bounded_length() {
        let error = JobError::new(
            Reason::Network,
            format!("a\r\nb\u{1b}[31m{}", "x".repeat(1000)),
        );
        assert!(error.text.starts_with("a\\r\\nb\\u{1b}[31mxxx"));
        assert_eq!(
            error.text.chars().filter(|c| *c == 'x').count(),
            MAX_TEXT - 9
        );
    }
}
