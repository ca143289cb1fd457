//! A chunk: one transaction in Redis's protocol, and the replies to it.

use redis::{RedisError, RedisResult, Value};

use super::{MAX_CREATES, MAX_JSON};
use crate::connection::Link;
use crate::queue::fence::no_array;
use crate::resp;

/// Buffers up to this size are kept for the next chunk of a repo: a full one, with what stands around its events.
const KEEP: usize = MAX_JSON + (512 << 10);
/// Buffers up to this size are kept for the next repo: most chunks fit.
const KEEP_SMALL: usize = 512 << 10;
/// How much room is made at a time, at least.
const ROOM: usize = 64 << 10;
/// Bytes of the command that begins a transaction.
const MULTI: usize = b"*1\r\n$5\r\nMULTI\r\n".len();
/// Digits of the length of most events.
const DIGITS: usize = 3;

/// MULTI … EXEC, and what is asked behind it: whose the message is, but for the last chunk, and the length of the output.
#[derive(Default)]
pub struct Chunk {
    /// In Redis's protocol; begins with MULTI as soon as there is one command.
    pub commands: Vec<u8>,
    /// Commands between MULTI and EXEC; 0: there is no chunk.
    pub queued: usize,
    /// `create` events among them.
    pub creates: usize,
    /// Their bytes of JSON.
    pub json: usize,
    /// The last one of them.
    pub last_event: Event,
    /// Leaves that are passed before it.
    pub from: u64,
    /// Leaves that are passed with it.
    pub to: u64,
    /// Whether this is a repo's last chunk, which acknowledges the message.
    pub last: bool,
}

/// An event in a chunk.
#[derive(Clone, Copy, Default)]
pub struct Event {
    /// Where its command begins.
    at: usize,
    /// Bytes of its JSON.
    json: usize,
}

impl Chunk {
    /// Makes room for the next chunk.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.commands.shrink_to(KEEP);
        (self.queued, self.creates, self.json) = (0, 0, 0);
        (self.from, self.to) = (0, 0);
        self.last = false;
    }

    /// Gives back what an unusual chunk has needed; all, unless `keeps` is set.
    pub fn shrink(&mut self, keeps: bool) {
        self.commands.shrink_to(if keeps { KEEP_SMALL } else { 0 });
    }

    /// Adds an event that `write` appends; `append` is the command up to the event, `size` what both will probably take.
    ///
    /// # Errors
    /// What `write` says; then nothing is added.
    pub fn event<E>(
        &mut self,
        append: &[u8],
        size: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.commands.len();
        // Doubling would take twice of what a large chunk needs.
        if self.commands.capacity() - before < size {
            self.commands.reserve_exact(size.max(ROOM));
        }
        self.begin();
        let out = &mut self.commands;
        let at = out.len();
        out.extend_from_slice(append);
        let event = resp::begin_bulk(out, DIGITS);
        if let Err(e) = write(out) {
            out.truncate(before);
            return Err(e);
        }
        let json = event.end(out);
        self.last_event = Event { at, json };
        self.count(json);
        Ok(())
    }

    /// Whether it is larger than a chunk may be, with so many bytes of JSON to come; one event is always in its place.
    pub fn is_too_large(&self, more: usize) -> bool {
        self.creates > MAX_CREATES || (self.creates > 1 && self.json + more > MAX_JSON)
    }

    /// Takes the last event out again, as the first of a chunk of its own.
    pub fn take_last(&mut self) -> Chunk {
        let Event { at, json } = self.last_event;
        let mut next = Chunk::default();
        next.commands
            .reserve_exact(self.commands.len() - at + MULTI);
        next.begin();
        next.commands.extend_from_slice(&self.commands[at..]);
        next.count(json);
        self.commands.truncate(at);
        // The event may have been much larger than all others together.
        self.commands.shrink_to(KEEP);
        self.creates -= 1;
        self.queued -= 1;
        self.json -= json;
        next
    }

    /// Becomes the next chunk, in its own memory where that is enough.
    pub fn become_next(&mut self, next: Chunk) {
        if self.commands.capacity() < next.commands.len() {
            *self = next;
            return;
        }
        self.clear();
        self.commands.extend_from_slice(&next.commands);
        (self.queued, self.creates, self.json) = (next.queued, next.creates, next.json);
    }

    fn count(&mut self, json: usize) {
        self.creates += 1;
        self.queued += 1;
        self.json += json;
    }

    fn begin(&mut self) {
        if self.queued == 0 {
            resp::command(&mut self.commands, &[b"MULTI"]);
        }
    }

    /// Adds a command to the transaction.
    pub fn queue(&mut self, parts: &[&[u8]]) {
        self.begin();
        resp::command(&mut self.commands, parts);
        self.queued += 1;
    }

    /// Ends the transaction. `watch` is the owner's key; the last chunk has deleted it.
    pub fn seal(&mut self, watch: &[u8], output: &[u8]) {
        resp::command(&mut self.commands, &[b"EXEC"]);
        if !self.last {
            resp::command(&mut self.commands, &[b"WATCH", watch]);
            resp::command(&mut self.commands, &[b"GET", watch]);
        }
        resp::command(&mut self.commands, &[b"XLEN", output]);
    }

    /// Reads all replies.
    ///
    /// # Errors
    /// What kept the transaction from being executed, but for the fence. All replies have been read then, unless the connection
    /// failed.
    pub fn read_replies(&self, link: &mut Link) -> RedisResult<Answer> {
        // An error while queuing makes EXEC refuse all; it says more than EXEC's own.
        let mut refused: Option<RedisError> = None;
        for _ in 0..=self.queued {
            if let Some(reply) = link.receive_queued()?
                && let Err(e) = reply.extract_error()
            {
                refused.get_or_insert(e);
            }
        }
        let executed = link.receive()?;
        let mut owner = Value::Nil;
        if !self.last {
            let watched = link.receive()?;
            owner = link.receive()?;
            if let Err(e) = watched.extract_error() {
                refused.get_or_insert(e);
            }
        }
        let length = link.receive()?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        let length = length.extract_error().ok();
        let length = length.and_then(|length| redis::from_redis_value(length).ok());
        let replies = match executed {
            Value::Nil => return Ok(Answer::Refused { length }),
            Value::Array(replies) => replies,
            Value::ServerError(e) => return Err(e.into()),
            _ => return Err(no_array()),
        };
        let is_id = |reply: &&Value| matches!(reply, Value::BulkString(_));
        Ok(Answer::Executed {
            added: replies.iter().filter(is_id).count(),
            // XACK, XDEL, DEL.
            deleted: !self.last || replies.iter().rev().nth(1) == Some(&Value::Int(1)),
            failure: replies
                .into_iter()
                .find_map(|reply| reply.extract_error().err()),
            owner,
            length,
        })
    }
}

/// What became of a transaction.
pub enum Answer {
    /// It was executed.
    Executed {
        /// How many events were added.
        added: usize,
        /// Whether the entry was still there to be deleted; true but for the last chunk.
        deleted: bool,
        /// The first command of it that failed; the others have been executed all the same.
        failure: Option<RedisError>,
        /// Whose the message is behind the next WATCH; not of the last chunk.
        owner: Value,
        /// The length of the output after it, where Redis said it.
        length: Option<u64>,
    },
    /// It was refused, because somebody else has acquired the message.
    Refused {
        /// The length of the output, where Redis said it.
        length: Option<u64>,
    },
}
