//! The input side: a Redis stream with a consumer group, whose pending list is the retry queue.
//!
//! The life of a message, as far as this program moves it. The states are those of Redis; in brackets what else says so.
//!
//! ```text
//!                 XREADGROUP                    acquire                    last chunk's EXEC
//!  in the stream ───────────► held ───────────────────────► begun ─────────────────────────────► gone, events written
//!        ▲                    ▲ │ ▲                          │ │ │
//!        │                    │ │ └── XCLAIM, when due ── waiting ◄┘ │  attempt failed, or deferred
//!        │ group recreated    │ │                            ▲   │
//!        └────────────────────┘ └── not begun: released ─────┘   └─────────────────────────────► gone, dead letter written
//! ```
//!
//! | state | in Redis | leaves it by |
//! |---|---|---|
//! | in the stream | entry, not pending | XREADGROUP, which makes its deliveries 1 |
//! | held | pending, idle for less than a lease, deliveries as before; no `owner` of this process yet | a worker acquires it; shutdown, or a worker that does not come to begin it, *releases* it: idle beyond the longest backoff; its process dies: *orphaned* |
//! | begun | pending, idle for less than a lease, deliveries = number of the attempt, `owner` = the token of the one who may write | the last chunk; a verdict; its process dies: *orphaned*; another acquires it: its owner's next EXEC is nil, and it is *abandoned* by that one |
//! | waiting | pending, held by nobody, deliveries = attempts charged, `failed` or `deferred` in the progress hash | idle for [`retry::due_after`]: claimed by any instance |
//! | orphaned | as held or begun, but nobody renews its idle time | the same as waiting |
//! | gone | neither entry nor pending nor progress hash | – |
//!
//! Only *gone* is final, and only two transactions lead to it: the one of the last chunk and the one of the dead letter, each of
//! which writes what is to be written, acknowledges, deletes the entry, and deletes the progress hash (I1, I4). An entry that
//! somebody else deletes is gone as well, which is counted and said. Nothing else removes a message from the pending list.
//!
//! [`reader`] moves messages to the workers; [`pending`] finds those that are due; [`held`] is what this process has, and
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

use self::held::Hold;
pub use self::message::Message;

/// The fields of an entry, in their order.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// Entries of a stream, as Redis replies them: id and fields.
type Entries = Vec<(String, Fields)>;

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
    /// Whether a worker has begun it before.
    pub begun: bool,
    /// The hold on it.
    pub hold: Hold,
}
