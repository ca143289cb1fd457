//! A message as Redis knows it at one instant: what the kills are attributed by.

use std::collections::BTreeMap;

use redis::Connection;
use redis::streams::{StreamPendingCountReply, StreamRangeReply};

use super::super::events::{GROUP, INPUT, OUTPUT};

/// Fields of the progress hash that are not the address of a commit.
const OTHER_FIELDS: [&str; 2] = ["failed", "deferred"];

/// All that Redis knows of a message, read in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether the entry is still in the input stream.
    pub exists: bool,
    /// Whose pending message it is.
    pub consumer: Option<String>,
    /// The token of the worker that may write.
    pub owner: Option<String>,
    /// The progress hash.
    pub progress: BTreeMap<String, String>,
}

impl Message {
    pub fn read(connection: &mut Connection, id: &str) -> Self {
        let mut all = redis::pipe();
        all.atomic();
        all.cmd("XRANGE").arg(INPUT).arg(id).arg(id);
        all.cmd("XPENDING")
            .arg(INPUT)
            .arg(GROUP)
            .arg(id)
            .arg(id)
            .arg(1);
        all.cmd("GET").arg(key("owner", id));
        all.cmd("HGETALL").arg(key("progress", id));
        let (entry, pending, owner, progress): (
            StreamRangeReply,
            StreamPendingCountReply,
            Option<String>,
            BTreeMap<String, String>,
        ) = all.query(connection).expect("the state of a message");
        Self {
            exists: !entry.ids.is_empty(),
            consumer: pending.ids.into_iter().next().map(|entry| entry.consumer),
            owner,
            progress,
        }
    }

    /// How many leaves of the repo are in the output; 0 before the first chunk, and when all is done.
    pub fn leaves(&self) -> u64 {
        let commits = self.progress.iter();
        let commits = commits.filter(|(field, _)| !OTHER_FIELDS.contains(&field.as_str()));
        let leaves = commits.map(|(_, value)| value.split(' ').next()?.parse().ok());
        leaves
            .map(|leaves| leaves.expect("a number of leaves"))
            .max()
            .unwrap_or(0)
    }

    /// The message is in the hands of this consumer.
    pub fn is_with(&self, consumer: &str) -> bool {
        self.exists && self.consumer.as_deref() == Some(consumer)
    }
}

/// The key of the owner or of the progress of a message, or the pattern of all of them.
pub fn key(what: &str, id: &str) -> String {
    format!("{OUTPUT}:{what}:{INPUT}:{GROUP}:{id}")
}

/// Asserts that no message has left a key behind, when none is left.
pub fn assert_no_keys(connection: &mut Connection) {
    let mut keys = |what| -> Vec<String> {
        let mut keys = redis::cmd("KEYS");
        keys.arg(key(what, "*")).query(connection).expect("KEYS")
    };
    assert_eq!(keys("progress"), Vec::<String>::new());
    // One that was killed right after it had asked for a message that was over may leave its token, but not for good.
    for key in keys("owner") {
        let seconds: i64 = redis::cmd("TTL").arg(&key).query(connection).expect("TTL");
        assert!((1..=604_800).contains(&seconds), "{key}: {seconds}");
    }
}
