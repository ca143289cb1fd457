//! The input side: a Redis stream with a consumer group.
//!
//! The life of a message, as far as this program moves it:
//!
//! ```text
//!  in the stream ── XREADGROUP ──► pending, held by this consumer ── job ──► acknowledged and deleted, its events written
//!                                     │        ▲          │
//!                                     │        └──────────┴── job failed, or not begun at shutdown: stays pending, and is
//!                                     │                        taken again when this consumer starts the next time
//!                                     └── malformed ──► dead-letter stream, acknowledged and deleted in one transaction
//! ```
//!
//! A message leaves the input only in the transaction that writes its last events, or in the one that writes its dead letter
//! (I1). [`reader`] moves messages to the workers, [`pending`] deals with those that are pending and with dead letters,
//! [`message`] reads them.

pub mod message;
pub mod pending;
pub mod reader;

use redis::{RedisResult, Value};

pub use self::message::Message;
use crate::connection::Link;

/// The fields of an entry, in their order.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// Entries of a stream, as Redis replies them: id and fields.
type Entries = Vec<(String, Fields)>;

/// A message that a worker is to turn into events.
#[derive(Debug, Clone)]
pub struct Job {
    /// The id of the entry in the input stream.
    pub id: String,
    /// What it says.
    pub message: Message,
    /// Its value as it came, for whoever must write it down.
    pub value: Vec<u8>,
}

/// Whether the entry is pending in the group, with whatever consumer.
///
/// # Errors
/// Of Redis.
pub fn is_pending(link: &mut Link, stream: &[u8], group: &[u8], id: &str) -> RedisResult<bool> {
    let mut pending = redis::cmd("XPENDING");
    pending.arg(stream).arg(group).arg(id).arg(id).arg(1);
    match link.query::<Vec<Value>>(&pending) {
        Ok(found) => Ok(!found.is_empty()),
        // Without the group nothing is pending; whoever creates it again delivers the entry again, if it is still there.
        Err(e) if e.code() == Some("NOGROUP") => Ok(false),
        Err(e) => Err(e),
    }
}
