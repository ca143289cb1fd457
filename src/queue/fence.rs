//! Who may write for a message: acquiring it, and transactions that only its owner can execute.
//!
//! A message may be worked on by two processes at once: one that stalled, and the one that took its messages over. The consumer
//! in the pending list does not tell them apart for long, because either may claim the message again. So ownership is a token
//! in a key of its own (see [`progress`]):
//!
//! - Acquiring writes a fresh token and *then* watches the key. Whoever had it before watches it too, and its next EXEC is
//!   refused (a nil reply), also one that was sent long ago and is still under way.
//! - Every transaction for the message is sent on the connection that watches, after a reply that named the own token *behind*
//!   the WATCH, and uses the watch up. So between that reply and the EXEC nobody else has acquired the message.
//! - Whoever loses the connection acquires again, with another token, and goes by what the progress hash says then: the truth is
//!   Redis. One whose own earlier acquiring comes late over a connection that was given up has not lost the message, and
//!   acquires it again as well.
//! - The transaction that ends a message deletes both keys, and the one that makes it wait leaves a mark instead of the token: either
//!   refuses every other EXEC for it, for good or until somebody acquires it for the next attempt.
//!
//! So the events of a chunk and the leaves that it covers are written together, by one owner at a time, or not at all (I2).
//! Pinned by `tests/fencing.rs`, `tests/takeovers.rs` and `tests/cuts.rs`.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use redis::{ErrorKind, RedisError, RedisResult, Value, from_redis_value};
use uuid::Uuid;

use super::PendingRow;
use super::progress::{self, Progress};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop, not_connected};
use crate::resp::Pipeline;

/// How long a token is kept, in seconds: a week, which is longer than any attempt takes.
const TOKEN_TTL: &[u8] = b"604800";
/// What stands before the token of the one who has made the message wait.
const WAITING: &str = "waiting-";
/// How often a message that came between is acquired again in one go.
const TRIES: usize = 5;

/// What acquiring has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The message is this fence's, and watched.
    Mine,
    /// Another one has acquired it just now.
    Taken,
    /// It is not pending: another one has ended it.
    Gone,
    /// Its entry was deleted by somebody else while it was pending.
    Deleted,
    /// It is not pending, but its entry is there: it will be delivered anew, for the group was.
    Undelivered,
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
    owner_key: String,
    progress_key: String,
    /// Number of the attempt, which is what Redis shall say of the deliveries.
    attempt: u64,
    /// What Redis said of them before.
    deliveries: u64,
    /// How all tokens of this fence begin.
    family: String,
    token: String,
    /// The last token with which the message was this fence's.
    established: Option<String>,
    /// How many tokens there have been.
    tokens: u64,
    /// The connection on which the owner is watched.
    generation: u64,
    /// Whether it is watched there, and was this fence afterwards.
    armed: bool,
    progress: Progress,
    output_length: Option<u64>,
}

impl Fence {
    /// For this attempt at the message. It is nobody's yet.
    pub fn new(config: &Arc<Config>, id: &str, attempt: u64) -> Self {
        Fence {
            config: Arc::clone(config),
            id: id.to_owned(),
            owner_key: progress::owner_key(config, id),
            progress_key: progress::key(config, id),
            attempt,
            deliveries: 0,
            family: fresh_family(),
            token: String::new(),
            established: None,
            tokens: 0,
            generation: 0,
            armed: false,
            progress: Progress::default(),
            output_length: None,
        }
    }

    /// What the progress hash said when the message was acquired last.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The number of the attempt: that of the beginning, unless others have made attempts since the message was read.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Whether it is for this message.
    pub fn is_for(&self, id: &str) -> bool {
        self.id == id
    }

    /// The key of the owner, which is to be watched.
    pub fn owner_key(&self) -> &[u8] {
        self.owner_key.as_bytes()
    }

    /// The key of the progress hash.
    pub fn progress_key(&self) -> &[u8] {
        self.progress_key.as_bytes()
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
        for _ in 1..TRIES {
            match self.try_acquire(link)? {
                // An earlier token of this fence came late, or the key was evicted in between.
                (Standing::Taken, owner) if self.is_family(owner.as_deref()) => {}
                // Others have made attempts since the message was read, and these count.
                (Standing::Mine, _) if self.deliveries > self.attempt => {
                    self.attempt = self.deliveries + 1;
                }
                (standing, _) => return Ok(standing),
            }
        }
        Ok(self.try_acquire(link)?.0)
    }

    /// One try, and who the owner is behind it.
    fn try_acquire(&mut self, link: &mut Link) -> RedisResult<(Standing, Option<String>)> {
        self.armed = false;
        self.tokens += 1;
        self.token = format!("{}{}", self.family, self.tokens);
        let (owner, id) = (self.owner_key.as_bytes(), self.id.as_bytes());
        let input = self.config.backfill_stream.as_bytes();
        let (group, me) = (
            self.config.group.as_bytes(),
            self.config.consumer.as_bytes(),
        );
        let (token, attempt) = (self.token.as_bytes(), self.attempt.to_string());
        let attempt = attempt.as_bytes();
        let mut commands = Pipeline::default();
        // What an earlier message left watched on this connection would refuse the transactions of this one.
        commands.add(&[b"UNWATCH"]);
        commands.add(&[b"SET", owner, token, b"EX", TOKEN_TTL, b"GET"]);
        commands.add(&[b"WATCH", owner]);
        commands.add(&[b"GET", owner]);
        commands.add(&[b"HGETALL", self.progress_key.as_bytes()]);
        commands.add(&[b"XPENDING", input, group, id, id, b"1"]);
        commands.add(&[
            b"XCLAIM",
            input,
            group,
            me,
            b"0",
            id,
            b"RETRYCOUNT",
            attempt,
            b"JUSTID",
        ]);
        commands.add(&[b"XLEN", self.config.firehose_stream.as_bytes()]);
        let mut replies = link.pipeline(&commands)?.into_iter();
        self.generation = link.generation();

        let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
        next()?;
        let before: Option<String> = from_redis_value(next()?)?;
        next()?;
        let owner = next()?;
        self.progress = Progress(from_redis_value(next()?)?);
        let (pending, claimed) = (next(), next());
        // An output that is no stream is the sink's to find, and not in the way of what is to be written down.
        self.output_length = next().ok().and_then(|length| from_redis_value(length).ok());
        let (pending, claimed) = match (pending, claimed) {
            (Err(e), _) | (_, Err(e)) if is_no_group(&e) => (Value::Array(Vec::new()), Value::Nil),
            (pending, claimed) => (pending?, claimed?),
        };
        let rows: Vec<PendingRow> = from_redis_value(pending)?;
        self.deliveries = rows.first().map_or(0, |(.., deliveries)| *deliveries);
        let (is_pending, is_there) = (!rows.is_empty(), !is_empty(&claimed));
        let owner: Option<String> = from_redis_value(owner)?;
        self.armed = owner.as_deref() == Some(self.token.as_str());
        let standing = if !self.armed {
            Standing::Taken
        } else if is_there {
            self.established = Some(self.token.clone());
            Standing::Mine
        } else {
            // Whoever ends a message removes its token; one that a failed try of this fence has left says nothing.
            let stays = before.is_some_and(|before| {
                !before.starts_with(&self.family) || self.established.as_ref() == Some(&before)
            });
            self.clear_up(link, is_pending || stays)?
        };
        Ok((standing, owner))
    }

    /// Says why a message is not in the pending list, and removes its token again, and the progress where there is no entry any
    /// more. `unended`: nobody has ended it.
    fn clear_up(&mut self, link: &mut Link, unended: bool) -> RedisResult<Standing> {
        let exists = progress::exists(link, &self.config, &self.id)?;
        let mut commands = Pipeline::default();
        commands.add(&[b"DEL", self.owner_key.as_bytes()]);
        if !exists {
            commands.add(&[b"DEL", self.progress_key.as_bytes()]);
        }
        let commands = commands.in_transaction();
        self.send(link, &commands.bytes)?;
        for _ in 0..commands.count {
            link.receive()?.extract_error()?;
        }
        Ok(match (exists, unended) {
            (true, _) => Standing::Undelivered,
            (false, true) => Standing::Deleted,
            (false, false) => Standing::Gone,
        })
    }

    /// Takes note of who the owner is behind a WATCH on the connection of the last [`Fence::send`]; returns whether the message
    /// is still this fence's.
    ///
    /// # Errors
    /// When this is no string.
    pub fn rearm(&mut self, owner: Value) -> RedisResult<bool> {
        let owner: Option<String> = from_redis_value(owner.extract_error()?)?;
        self.armed = owner.as_deref() == Some(self.token.as_str());
        Ok(self.armed)
    }

    /// Says that nobody owns the message now, in the transaction that makes it wait.
    pub fn let_go(&self, commands: &mut Pipeline) {
        let mark = format!("{WAITING}{}", self.family);
        commands.add(&[b"SET", self.owner_key(), mark.as_bytes(), b"EX", TOKEN_TTL]);
    }

    /// Whether nobody else has acquired the message, though this fence has lost it: then it may be acquired again.
    fn is_family(&self, owner: Option<&str>) -> bool {
        owner.is_none_or(|owner| owner.starts_with(&self.family))
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

    /// Whether the owner is watched on the present connection, so that [`Fence::send`] may succeed.
    pub fn is_armed(&self, link: &Link) -> bool {
        self.armed && link.is_connected_as(self.generation)
    }

    /// Acquires the message again, unless somebody else has done so.
    ///
    /// # Errors
    /// Of the way, or of Redis. May be called again.
    pub fn acquire_unless_taken(&mut self, link: &mut Link) -> RedisResult<Standing> {
        let owner = owner(link, &self.config, &self.id)?;
        if self.is_family(owner.as_deref()) {
            self.acquire(link)
        } else {
            Ok(Standing::Taken)
        }
    }

    /// Whether it is this fence that has made the message wait.
    fn has_let_go(&self, link: &mut Link) -> RedisResult<bool> {
        let owner = owner(link, &self.config, &self.id)?;
        Ok(owner.is_some_and(|owner| owner.strip_prefix(WAITING) == Some(&self.family)))
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
        let transaction = commands.in_transaction();
        let (mut sent, mut refused) = (false, false);
        link.insist(patience, |link| {
            loop {
                if !self.is_armed(link) {
                    if sent && !refused && self.has_let_go(link)? {
                        return Ok(Executed::Earlier);
                    }
                    let standing = match self.established {
                        Some(_) => self.acquire_unless_taken(link)?,
                        None => self.acquire(link)?,
                    };
                    match standing {
                        Standing::Mine => {}
                        Standing::Gone if sent && !refused => return Ok(Executed::Earlier),
                        standing => return Ok(Executed::Not(standing)),
                    }
                }
                (sent, refused) = (true, false);
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
                    Value::Nil => refused = true,
                    Value::Array(replies) => return Ok(Executed::Now(replies)),
                    Value::ServerError(e) => return Err(e.into()),
                    _ => return Err(no_array()),
                }
            }
        })
    }
}

/// What the key of the owner says.
fn owner(link: &mut Link, config: &Config, id: &str) -> RedisResult<Option<String>> {
    link.query(redis::cmd("GET").arg(progress::owner_key(config, id)))
}

/// Whether somebody makes an attempt at the message, or has died while he did.
///
/// # Errors
/// Of Redis.
pub fn is_owned(link: &mut Link, config: &Config, id: &str) -> RedisResult<bool> {
    let owner = owner(link, config, id)?;
    Ok(owner.is_some_and(|owner| !owner.starts_with(WAITING)))
}

/// How the tokens of one fence begin, and those of no other, of whatever process.
fn fresh_family() -> String {
    static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}-", PROCESS.simple(), COUNT.fetch_add(1, Relaxed))
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
