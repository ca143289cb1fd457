//! What is known of a message beyond its entry: whose it is, and how far it has come.
//!
//! Two keys for each message that a worker has begun:
//!
//! - `<output>:owner:<input>:<group>:<entry id>`, a string: the token of the one who may write, or the mark of the one who has made
//!   the message wait; see [`fence`]. It has a time to live of a week, so that none is left behind whatever happens.
//! - `<output>:progress:<input>:<group>:<entry id>`, a hash without one, so that no age can undo a chunk. It is only ever written by
//!   the owner, in the transaction that writes what it speaks of, and deleted by the transaction that ends the message or when
//!   the entry turns out to be gone. Its fields:
//!
//! | field | value | |
//! |---|---|---|
//! | the CID of a commit | `<leaves> <time>` | leaves of that commit whose events are in the output, and the `time` of those events |
//! | `failed` | `<times> <class> <reason> <attempt> <commit or ->` | how the last attempt that was judged failed, and how often in a row in this class |
//! | `deferred` | milliseconds since 1970 | since when the message has only been deferred |
//!
//! Leaves and not events are counted, so that a changed filter does not shift them. They are kept for each commit by itself: an
//! account may be fetched at one revision, then at the next, then, from a mirror that lags behind, at the first one again, and
//! even then no event is written twice. The `time` is kept so that a repo that was resumed has one value in all its events.

use std::collections::HashMap;

use redis::{RedisResult, Value};

use super::fence;
use crate::config::Config;
use crate::connection::Link;
use crate::error::Class;
use crate::event::is_timestamp;

/// The field of the last failure.
pub const FAILED: &str = "failed";
/// The field of the first deferral.
pub const DEFERRED: &str = "deferred";

/// How long progress is kept whose owner may be dead and whose entry is gone, in seconds: a week.
const ORPHAN_TTL: u64 = 604_800;

/// The key of the progress hash of a message.
pub fn key(config: &Config, id: &str) -> String {
    format!("{}{id}", prefix(config, "progress"))
}

/// The key that names the owner of a message.
pub fn owner_key(config: &Config, id: &str) -> String {
    format!("{}{id}", prefix(config, "owner"))
}

/// How the keys of one kind (owner, progress, consumer) begin that belong to this group.
pub fn prefix(config: &Config, what: &str) -> String {
    let (output, input) = (&config.firehose_stream, &config.backfill_stream);
    let group = &config.group;
    format!("{output}:{what}:{input}:{group}:")
}

/// Removes owner and progress of a message whose entry is not there; returns whether it is not.
///
/// # Errors
/// Of Redis. May be called again.
pub fn remove_if_deleted(link: &mut Link, config: &Config, id: &str) -> RedisResult<bool> {
    let exists = exists(link, config, id)?;
    if !exists {
        let keys = [owner_key(config, id), key(config, id)];
        link.query::<u64>(redis::cmd("DEL").arg(&keys))?;
    }
    Ok(!exists)
}

/// Whether the entry is in the input stream.
///
/// # Errors
/// Of Redis.
pub fn exists(link: &mut Link, config: &Config, id: &str) -> RedisResult<bool> {
    let mut range = redis::cmd("XRANGE");
    range.arg(&config.backfill_stream).arg(id).arg(id);
    let entries: Vec<Value> = link.query(&range)?;
    Ok(!entries.is_empty())
}

/// Whether this is the id of an entry.
fn is_id(text: &str) -> bool {
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    text.split_once('-')
        .is_some_and(|(time, sequence)| is_number(time) && is_number(sequence))
}

/// Removes the progress of waiting messages whose entries went with the stream, or otherwise while there was no group to see it.
///
/// # Errors
/// Of Redis. May be called again.
pub fn sweep(link: &mut Link, config: &Config) -> RedisResult<()> {
    let prefix = prefix(config, "progress");
    let escaped: String = prefix
        .chars()
        .flat_map(|c| {
            ['\\', c]
                .into_iter()
                .skip(usize::from(!"\\*?[]^-".contains(c)))
        })
        .collect();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(format!("{escaped}*"))
            .arg("COUNT")
            .arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = link.query(&scan)?;
        for key in keys {
            // The keys of another group, whose name begins as this one's, are nobody's business here.
            let key = String::from_utf8(key).unwrap_or_default();
            let Some(id) = key.strip_prefix(&prefix).filter(|id| is_id(id)) else {
                continue;
            };
            if fence::is_owned(link, config, id)? {
                // Whoever works on it finishes it and removes its progress then; if he is dead, it expires.
                if !exists(link, config, id)? {
                    link.query::<u64>(redis::cmd("EXPIRE").arg(&key).arg(ORPHAN_TTL))?;
                    log::warn!(
                        "~id":% = id;
                        "entry {id} is gone with its stream; its progress is left to its owner"
                    );
                }
            } else if remove_if_deleted(link, config, id)? {
                log::warn!("~id":% = id; "entry {id} is gone with its stream; its progress is removed");
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
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
    /// The number of the attempt.
    pub attempt: u64,
    /// The commit that failed; `None` where it came to no commit.
    pub commit: Option<String>,
}

/// The fields of a progress hash. A field that cannot be read counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Progress(pub HashMap<String, String>);

impl Progress {
    /// How far this commit is written; `None`: nothing of it.
    pub fn written(&self, commit: &str) -> Option<Written> {
        let (leaves, time) = self.0.get(commit)?.split_once(' ')?;
        let leaves = leaves.parse().ok()?;
        let time = time.to_owned();
        is_timestamp(&time).then_some(Written { leaves, time })
    }

    /// How the attempt before failed.
    pub fn failure(&self) -> Option<Failure> {
        let mut parts = self.0.get(FAILED)?.split(' ');
        Some(Failure {
            times: parts.next()?.parse().ok()?,
            class: Class::from_name(parts.next()?)?,
            reason: parts.next()?.to_owned(),
            attempt: parts.next()?.parse().ok()?,
            commit: parts.next().filter(|cid| *cid != "-").map(str::to_owned),
        })
    }

    /// Since when the message has only been deferred, in milliseconds since 1970.
    pub fn deferred_since(&self) -> Option<u64> {
        self.0.get(DEFERRED)?.parse().ok()
    }

    /// It has been deferred since then at the latest, whatever is written.
    pub fn put_off_since(&mut self, millis: u64) {
        let since = self
            .deferred_since()
            .map_or(millis, |known| known.min(millis));
        self.0.insert(DEFERRED.to_owned(), since.to_string());
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
            "{} {} {} {} {commit}",
            self.times,
            self.class.name(),
            self.reason,
            self.attempt,
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
            attempt: 5,
            commit: Some("bafyreia".to_owned()),
        };
        let hash = progress(&[
            (
                "bafyreia",
                &Written::to_field(500, "2026-01-02T03:04:05.678Z"),
            ),
            ("failed", &failure.to_field()),
            ("deferred", "1700000000000"),
        ]);
        let written = hash.written("bafyreia").unwrap();
        assert_eq!(
            (written.leaves, written.time.as_str()),
            (500, "2026-01-02T03:04:05.678Z")
        );
        assert_eq!(hash.written("bafyreib"), None);
        assert_eq!(hash.failure(), Some(failure));
        assert_eq!(hash.deferred_since(), Some(1_700_000_000_000));
        let none = Failure {
            times: 1,
            class: Class::Retry,
            reason: "network".to_owned(),
            attempt: 1,
            commit: None,
        };
        assert_eq!(
            progress(&[("failed", &none.to_field())]).failure(),
            Some(none)
        );
    }

    #[test]
    fn an_id_is_two_numbers() {
        assert!(is_id("1700000000000-0"));
        for other in ["", "-", "1", "two:7-0", "7-0-0", "7-x"] {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn fields_that_cannot_be_read_count_as_absent() {
        let hash = progress(&[("failed", "x"), ("deferred", "soon")]);
        assert_eq!(hash.failure(), None);
        assert_eq!(hash.deferred_since(), None);
        assert_eq!(progress(&[("bafy", "many")]).written("bafy"), None);
    }
}
