//! The input side: a Redis stream with a consumer group, whose pending list is the retry queue.
//!
//! The life of a message, as far as this program moves it. The states are those of Redis.
//!
//! ```text
//!                 XREADGROUP              acquire                    last chunk's EXEC
//!  in the stream ───────────► held ─────────────────► begun ─────────────────────────────► gone, events written
//!        ▲                    ▲  │                     │  │
//!        │                    │  │ parked, released    │  └──────────────────────────────► gone, dead letter written
//!        │              XCLAIM│  ▼                     │        verdict: no attempt is left
//!        │           when due └─ waiting ◄─────────────┘
//!        │ group created anew        verdict: retry or defer; drain cut; orphaned
//!        └── anything that is pending
//! ```
//!
//! | state | in Redis | leaves it by |
//! |---|---|---|
//! | in the stream | entry, not pending | XREADGROUP, which makes its deliveries 1 |
//! | held | pending, idle for less than a lease, deliveries as before | a worker *acquires* it; shutdown, or Redis refusing for good, *releases* it: idle for longer than any backoff, deliveries as before (but not by a process that has lost its name); its host is busy or closed: it is *parked*, which is released, but remembered; its process dies: it is *orphaned*, which is waiting |
//! | begun | pending, idle for less than a lease, deliveries = number of the attempt, the owner key = the token of the one who may write | its last chunk; a verdict; the end of a drain that is cut, which releases it with one delivery less; its process dies: *orphaned*. When another one acquires it, its former owner's next EXEC is nil, whatever has become of it since: that one *abandons* it |
//! | waiting | pending, held by nobody, idle for how long it has waited, deliveries = attempts charged; after a verdict `failed` or `deferred` in the progress hash, and a mark in the owner key; where its owner died, still the token | idle for [`retry::due_after`]: claimed by any instance |
//! | gone | neither entry, nor pending, nor owner, nor progress | – |
//!
//! Only *gone* is final, and only two transactions lead to it: the one of the last chunk and the one of the dead letter, each of
//! which writes what is to be written, acknowledges, deletes the entry, its progress and its owner (I1, I4). An entry that
//! somebody else deletes is gone as soon as that is seen, because then Redis drops it from the pending list: this is counted and
//! said, and its keys are removed. One that somebody else *acknowledges* without deleting it is not delivered again; the program
//! abandons it and says so.
//!
//! [`reader`] moves messages to the workers, in the order that the [`scheduler`] says; [`pending`] finds those that are due; [`held`] is what this process has, and
//! [`lease`] keeps it alive, under a [`name`] that no other live process has; [`fence`] says who may write, by the
//! [`progress`] hash; [`retry`] judges attempts that failed and [`ending`] writes the verdict down; [`message`] reads messages.

pub mod ending;
pub mod fence;
pub mod held;
pub mod lease;
pub mod message;
pub mod name;
pub mod pending;
pub mod progress;
pub mod reader;
pub mod retry;
pub mod scheduler;
pub mod waiting;

use std::fmt;

use self::held::Hold;
pub use self::message::Message;
use self::scheduler::Pass;
use crate::hosts::{Key, Learnt};
use crate::metrics::Metrics;

/// The fields of an entry, in their order.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// Entries of a stream, as Redis replies them: id and fields.
pub(crate) type Entries = Vec<(String, Fields)>;

/// A row of the pending list: id, consumer, idle time in milliseconds, deliveries.
pub(crate) type PendingRow = (String, String, u64, u64);

/// The id of an entry, as Redis makes it: two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(u64, u64);

impl EntryId {
    /// Reads `<milliseconds>-<sequence>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, sequence) = text.split_once('-')?;
        Some(EntryId(time.parse().ok()?, sequence.parse().ok()?))
    }

    /// When the entry was added, in milliseconds since 1970, where Redis made the id.
    pub fn millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// A message that a worker is to turn into events.
pub struct Job {
    /// The id of the entry in the input stream.
    pub id: String,
    /// What it says.
    pub message: Message,
    /// Its value as it came, for whoever must write it down.
    pub value: Vec<u8>,
    /// The number of the attempt, from 1.
    pub attempt: u64,
    /// The host that an attempt before has found to be the one to ask.
    pub learnt: Option<Learnt>,
    /// The hold on it.
    pub hold: Hold,
}

/// A job whose turn it is, and what its host and its look-up need.
pub struct Dispatched {
    /// The job.
    pub job: Job,
    /// What it needs to begin.
    pub pass: Pass,
}

/// A message that waits for a host, and is nobody's now.
pub struct Returned {
    /// The id of its entry.
    pub id: String,
    /// The host that it waits for.
    pub key: Key,
    /// Where a redirect or a DID document led.
    pub learnt: Option<Learnt>,
    /// Whether its DID must be looked up in the directory.
    pub needs_directory: bool,
}

/// Counts and says that an entry was deleted while it was pending.
pub fn said_deleted(metrics: &Metrics, id: &str) {
    log::warn!("~id" = id; "entry {id} was deleted by somebody else while it was pending");
    metrics.deleted_entries.add(1);
}
