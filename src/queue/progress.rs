//! What is known of a message beyond its entry: the progress hash.
//!
//! One hash for each message that a worker has begun, `<output>:progress:<input>:<group>:<entry id>`. Its fields:
//!
//! | field | value | |
//! |---|---|---|
//! | `owner` | token | who may write; see [`fence`](super::fence) |
//! | the CID of a commit | `<leaves> <time>` | leaves of that commit whose events are in the output, and the `time` of those events |
//! | `failed` | `<times> <class> <reason> <commit or ->` | how the last attempt failed, and how often in a row in this class |
//! | `deferred` | milliseconds since 1970 | since when the message has only been deferred |
//!
//! Leaves and not events are counted, so that a changed filter does not shift them. They are kept for each commit by itself: an
//! account may be fetched at one revision, then at the next, then, from a mirror that lags behind, at the first one again, and
//! even then no event is written twice. The `time` is kept so that a repo that was resumed has one value in all its events.
//!
//! The key has a time to live only while it holds no leaves, so that no age can undo a chunk. It is deleted by the transaction
//! that ends the message, and when the entry turns out to be gone.

use std::collections::HashMap;

use crate::config::Config;
use crate::error::Class;
use crate::event::is_timestamp;

/// The field that names the owner.
pub const OWNER: &str = "owner";
/// The field of the last failure.
pub const FAILED: &str = "failed";
/// The field of the first deferral.
pub const DEFERRED: &str = "deferred";

/// The key of the progress hash of a message.
pub fn key(config: &Config, id: &str) -> String {
    let (output, input, group) = (
        &config.firehose_stream,
        &config.backfill_stream,
        &config.group,
    );
    format!("{output}:progress:{input}:{group}:{id}")
}

/// How far a commit is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Leaves of the tree, from the first, that are passed.
    pub leaves: u64,
    /// The `time` of the events.
    pub time: String,
}

/// How the attempt before failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Failures of this class in a row.
    pub times: u64,
    /// The class.
    pub class: Class,
    /// The code of the reason.
    pub reason: String,
    /// The commit that failed; `None` where it came to no commit.
    pub commit: Option<String>,
}

/// The fields of a progress hash. A field that cannot be read counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Progress(pub HashMap<String, String>);

impl Progress {
    /// Whose it is.
    pub fn owner(&self) -> Option<&str> {
        self.0.get(OWNER).map(String::as_str)
    }

    /// How far this commit is written; `None`: nothing of it.
    pub fn written(&self, commit: &str) -> Option<Written> {
        let (leaves, time) = self.0.get(commit)?.split_once(' ')?;
        let leaves = leaves.parse().ok()?;
        let time = time.to_owned();
        is_timestamp(&time).then_some(Written { leaves, time })
    }

    /// Whether anything is written, of whatever commit.
    pub fn is_any_written(&self) -> bool {
        let mut fields = self.0.keys();
        fields.any(|field| ![OWNER, FAILED, DEFERRED].contains(&field.as_str()))
    }

    /// How the attempt before failed.
    pub fn failure(&self) -> Option<Failure> {
        let mut parts = self.0.get(FAILED)?.split(' ');
        Some(Failure {
            times: parts.next()?.parse().ok()?,
            class: Class::from_name(parts.next()?)?,
            reason: parts.next()?.to_owned(),
            commit: parts.next().filter(|cid| *cid != "-").map(str::to_owned),
        })
    }

    /// Since when the message has only been deferred, in milliseconds since 1970.
    pub fn deferred_since(&self) -> Option<u64> {
        self.0.get(DEFERRED)?.parse().ok()
    }
}

impl Written {
    /// As it stands in the hash.
    pub fn to_field(leaves: u64, time: &str) -> String {
        format!("{leaves} {time}")
    }
}

impl Failure {
    /// As it stands in the hash.
    pub fn to_field(&self) -> String {
        let commit = self.commit.as_deref().unwrap_or("-");
        format!(
            "{} {} {} {commit}",
            self.times,
            self.class.name(),
            self.reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(fields: &[(&str, &str)]) -> Progress {
        let fields = fields.iter();
        Progress(
            fields
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn what_is_written_is_read_again() {
        let failure = Failure {
            times: 2,
            class: Class::Invalid,
            reason: "mst".to_owned(),
            commit: Some("bafyreia".to_owned()),
        };
        let hash = progress(&[
            ("owner", "t-1"),
            (
                "bafyreia",
                &Written::to_field(500, "2026-01-02T03:04:05.678Z"),
            ),
            ("failed", &failure.to_field()),
            ("deferred", "1700000000000"),
        ]);
        assert_eq!(hash.owner(), Some("t-1"));
        let written = hash.written("bafyreia").unwrap();
        assert_eq!(
            (written.leaves, written.time.as_str()),
            (500, "2026-01-02T03:04:05.678Z")
        );
        assert_eq!(hash.written("bafyreib"), None);
        assert!(hash.is_any_written());
        assert_eq!(hash.failure(), Some(failure));
        assert_eq!(hash.deferred_since(), Some(1_700_000_000_000));
        let none = Failure {
            times: 1,
            class: Class::Retry,
            reason: "network".to_owned(),
            commit: None,
        };
        assert_eq!(
            progress(&[("failed", &none.to_field())]).failure(),
            Some(none)
        );
    }

    #[test]
    fn fields_that_cannot_be_read_count_as_absent() {
        let hash = progress(&[("owner", "t"), ("failed", "x"), ("deferred", "soon")]);
        assert_eq!(hash.failure(), None);
        assert_eq!(hash.deferred_since(), None);
        assert!(!hash.is_any_written());
        assert_eq!(progress(&[("bafy", "many")]).written("bafy"), None);
    }
}
