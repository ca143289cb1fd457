//! Who may write for a message: acquiring it, and transactions that only its owner can execute.
//!
//! A message may be worked on by two processes at once: one that stalled, and the one that took its messages over. The consumer
//! in the pending list does not tell them apart for long, because either may claim the message again. So ownership is a token
//! in the progress hash (see [`progress`](super::progress)):
//!
//! - Acquiring writes a fresh token and *then* watches the hash. Whoever had it before watches it too, and its next EXEC is
//!   refused (a nil reply), also one that was sent long ago and is still under way.
//! - Every transaction for the message is sent on the connection that watches, after a reply that named the own token *behind*
//!   the WATCH, and uses the watch up. So between that reply and the EXEC nobody else has acquired the message.
//! - Whoever loses the connection acquires again, with another token, and goes by what the hash says then: the truth is Redis.
//! - The transaction that ends a message deletes the hash, which refuses every other EXEC for it for good.
//!
//! So the events of a chunk and the leaves that it covers are written together, by one owner at a time, or not at all (I2).
//! Pinned by `tests/fencing.rs`, `tests/takeovers.rs` and `tests/cuts.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use redis::{ErrorKind, RedisError, RedisResult, Value, from_redis_value};
use uuid::Uuid;

use super::progress::{self, OWNER, Progress};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop, not_connected};
use crate::resp::Pipeline;

/// How long a progress hash without leaves is kept, in seconds: a week.
const UNWRITTEN_TTL: &[u8] = b"604800";

/// What acquiring has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The message is this fence's, and watched.
    Mine,
    /// Another one has acquired it just now.
    Taken,
    /// It is not pending: another one has ended it, or it will be delivered anew.
    Gone,
    /// Its entry was deleted by somebody else while it was pending.
    Deleted,
}

/// What has become of a transaction.
#[derive(Debug)]
pub enum Executed {
    /// Redis has executed it; the replies to its commands, errors among them.
    Now(Vec<Value>),
    /// It was executed before its connection was lost, or another owner has ended the message since.
    Earlier,
    /// The message is not this fence's any more.
    Not(Standing),
}

/// The right to write for one message; see the module.
pub struct Fence {
    config: Arc<Config>,
    id: String,
    key: String,
    /// Number of the attempt, which is what Redis shall say of the deliveries.
    attempt: u64,
    /// Whether the hash may be there already.
    begun: bool,
    token: String,
    /// The connection on which the hash is watched.
    generation: u64,
    /// Whether it is watched there, and named the token afterwards.
    armed: bool,
    progress: Progress,
    output_length: Option<u64>,
}

impl Fence {
    /// For this attempt at the message; `begun` says whether there were attempts before. It is nobody's yet.
    pub fn new(config: &Arc<Config>, id: &str, attempt: u64, begun: bool) -> Self {
        Fence {
            config: Arc::clone(config),
            id: id.to_owned(),
            key: progress::key(config, id),
            attempt,
            begun,
            token: String::new(),
            generation: 0,
            armed: false,
            progress: Progress::default(),
            output_length: None,
        }
    }

    /// What the hash said when the message was acquired last.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether it is for this message.
    pub fn is_for(&self, id: &str) -> bool {
        self.id == id
    }

    /// The key of the hash.
    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// The length of the output, in entries, when the message was acquired last.
    pub fn output_length(&self) -> Option<u64> {
        self.output_length
    }

    /// Makes the message this fence's and charges the attempt, in one round trip. Takes it away from whoever has it.
    ///
    /// # Errors
    /// Of the way, or of Redis. May be called again.
    pub fn acquire(&mut self, link: &mut Link) -> RedisResult<Standing> {
        let standing = self.try_acquire(link)?;
        if standing != Standing::Mine || self.begun {
            return Ok(standing);
        }
        self.begun = true;
        if !self.progress.is_any_written() {
            return Ok(standing);
        }
        // Another instance has begun in the meantime, and the time to live is not for what it has written.
        link.query::<u64>(redis::cmd("PERSIST").arg(&self.key))?;
        self.try_acquire(link)
    }

    fn try_acquire(&mut self, link: &mut Link) -> RedisResult<Standing> {
        self.armed = false;
        self.token = fresh_token();
        let (key, id) = (self.key.as_bytes(), self.id.as_bytes());
        let input = self.config.backfill_stream.as_bytes();
        let (group, me) = (
            self.config.group.as_bytes(),
            self.config.consumer.as_bytes(),
        );
        let attempt = self.attempt.to_string();
        let mut commands = Pipeline::default();
        // What an earlier message left watched on this connection would refuse the transactions of this one.
        commands.add(&[b"UNWATCH"]);
        commands.add(&[b"HSET", key, OWNER.as_bytes(), self.token.as_bytes()]);
        if !self.begun {
            commands.add(&[b"EXPIRE", key, UNWRITTEN_TTL, b"NX"]);
        }
        commands.add(&[b"WATCH", key]);
        commands.add(&[b"HGETALL", key]);
        commands.add(&[b"XPENDING", input, group, id, id, b"1"]);
        commands.add(&[
            b"XCLAIM",
            input,
            group,
            me,
            b"0",
            id,
            b"RETRYCOUNT",
            attempt.as_bytes(),
            b"JUSTID",
        ]);
        commands.add(&[b"XLEN", self.config.firehose_stream.as_bytes()]);
        let mut replies = link.pipeline(&commands)?;
        self.generation = link.generation();

        let mut next = || replies.pop().unwrap_or(Value::Nil).extract_error();
        let length = next()?;
        let (claimed, pending) = (next(), next());
        let hash = next()?;
        // WATCH, EXPIRE, HSET, UNWATCH
        for reply in replies {
            reply.extract_error()?;
        }
        let (claimed, pending) = match (claimed, pending) {
            // Whoever creates the group again delivers the entry again, if it is still there, and needs its progress.
            (Err(e), _) | (_, Err(e)) if is_no_group(&e) => return Ok(Standing::Gone),
            (claimed, pending) => (claimed?, pending?),
        };
        self.output_length = Some(from_redis_value(length)?);
        let standing = if is_empty(&pending) {
            Standing::Gone
        } else if is_empty(&claimed) {
            Standing::Deleted
        } else {
            return Ok(if self.rearm(hash)? {
                Standing::Mine
            } else {
                Standing::Taken
            });
        };
        if self.rearm(hash)? {
            self.remove_orphan(link)?;
        }
        Ok(standing)
    }

    /// Takes note of what the hash says behind a WATCH on the connection of the last [`Fence::send`] or
    /// [`Fence::acquire`]; returns whether the message is still this fence's.
    ///
    /// # Errors
    /// When this is no hash.
    pub fn rearm(&mut self, hash: Value) -> RedisResult<bool> {
        let progress = Progress(from_redis_value(hash.extract_error()?)?);
        self.armed = progress.owner() == Some(self.token.as_str());
        if self.armed {
            self.progress = progress;
        }
        Ok(self.armed)
    }

    /// Sends a transaction, MULTI … EXEC and what may follow, which uses the watch up.
    ///
    /// # Errors
    /// Of the way; also when the connection that watches is gone, or the watch is used up.
    pub fn send(&mut self, link: &mut Link, commands: &[u8]) -> RedisResult<()> {
        if !std::mem::take(&mut self.armed) {
            return Err(not_connected());
        }
        link.send_on(self.generation, commands)
    }

    /// Whether the hash is watched on the present connection, so that [`Fence::send`] may succeed.
    pub fn is_armed(&self, link: &Link) -> bool {
        self.armed && link.is_connected_as(self.generation)
    }

    /// Executes a short transaction, however often the connection is lost meanwhile.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn transact(
        &mut self,
        link: &mut Link,
        patience: Patience,
        commands: &Pipeline,
    ) -> Result<Executed, Stop> {
        let mut transaction = Pipeline::default();
        transaction.add(&[b"MULTI"]);
        transaction.bytes.extend_from_slice(&commands.bytes);
        transaction.count += commands.count;
        transaction.add(&[b"EXEC"]);
        let mut sent = false;
        link.insist(patience, |link| {
            if !self.is_armed(link) {
                match self.acquire(link)? {
                    Standing::Mine => {}
                    Standing::Gone if sent => return Ok(Executed::Earlier),
                    standing => return Ok(Executed::Not(standing)),
                }
            }
            sent = true;
            self.send(link, &transaction.bytes)?;
            let mut replies = (0..transaction.count)
                .map(|_| link.receive())
                .collect::<RedisResult<Vec<_>>>()?;
            let executed = replies.pop().unwrap_or(Value::Nil);
            // What was refused while it was queued says more than EXEC's own error.
            for reply in replies {
                reply.extract_error()?;
            }
            match executed {
                Value::Nil => Ok(Executed::Not(Standing::Taken)),
                Value::Array(replies) => Ok(Executed::Now(replies)),
                Value::ServerError(e) => Err(e.into()),
                _ => Err(no_array()),
            }
        })
    }

    /// Removes the hash that acquiring has made for a message that is over, unless somebody else has acquired it since.
    fn remove_orphan(&mut self, link: &mut Link) -> RedisResult<()> {
        let mut entry = redis::cmd("XRANGE");
        entry
            .arg(&self.config.backfill_stream)
            .arg(&self.id)
            .arg(&self.id);
        // An entry that is still there is delivered again, and its progress counts then.
        if !is_empty(&link.query::<Value>(&entry)?) {
            return Ok(());
        }
        let mut commands = Pipeline::default();
        commands
            .add(&[b"MULTI"])
            .add(&[b"DEL", self.key.as_bytes()]);
        commands.add(&[b"EXEC"]);
        self.send(link, &commands.bytes)?;
        for _ in 0..commands.count {
            link.receive()?.extract_error()?;
        }
        Ok(())
    }
}

/// A token that no other process, now or later, has.
fn fresh_token() -> String {
    static PROCESS: std::sync::LazyLock<Uuid> = std::sync::LazyLock::new(Uuid::new_v4);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", PROCESS.simple(), COUNT.fetch_add(1, Relaxed))
}

fn is_empty(reply: &Value) -> bool {
    match reply {
        Value::Nil => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether group or stream is not there.
pub fn is_no_group(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP")
}

/// The error of an EXEC that Redis answers with something else than its specification says.
pub fn no_array() -> RedisError {
    let what = "EXEC was not answered with an array";
    (ErrorKind::UnexpectedReturnType, what).into()
}
