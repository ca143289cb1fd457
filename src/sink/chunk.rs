//! A chunk: one transaction in Redis's protocol, and the replies to it.

use redis::{RedisError, RedisResult, Value};

use super::batch::{Batch, Form};
use crate::connection::Link;
use crate::queue::fence::no_array;
use crate::resp::{self, Bulk};

/// Digits of the length of most events.
const DIGITS: usize = 3;

/// Events as commands in Redis's protocol, which begin with MULTI. What stands before an event is the command up to it.
pub struct Commands;

impl Form for Commands {
    const HEAD: &'static [u8] = b"*1\r\n$5\r\nMULTI\r\n";
    type Open = Bulk;

    fn open(out: &mut Vec<u8>) -> Bulk {
        resp::begin_bulk(out, DIGITS)
    }

    fn close(open: Bulk, out: &mut Vec<u8>) -> usize {
        open.end(out)
    }
}

/// MULTI … EXEC, and what is asked behind it: whose the message is, but for the last chunk, and the length of the output.
#[derive(Default)]
pub struct Chunk {
    /// The events, and behind them the other commands.
    pub events: Batch<Commands>,
    /// How many other commands there are.
    others: usize,
    /// Leaves that are passed before it.
    pub from: u64,
    /// Leaves that are passed with it.
    pub to: u64,
    /// Whether this is a repo's last chunk, which acknowledges the message.
    pub last: bool,
}

impl Chunk {
    /// Makes room for the next chunk.
    pub fn clear(&mut self) {
        self.events.clear();
        (self.others, self.from, self.to) = (0, 0, 0);
        self.last = false;
    }

    /// Becomes the next chunk, which has these events.
    pub fn become_next(&mut self, next: Batch<Commands>) {
        self.events.become_next(next);
        (self.others, self.from, self.to) = (0, 0, 0);
        self.last = false;
    }

    /// Commands between MULTI and EXEC; 0: there is no chunk.
    pub fn queued(&self) -> usize {
        self.events.creates + self.others
    }

    /// In Redis's protocol.
    pub fn commands(&self) -> &[u8] {
        &self.events.bytes
    }

    /// Adds a command to the transaction.
    pub fn queue(&mut self, parts: &[&[u8]]) {
        self.events.begin();
        resp::command(&mut self.events.bytes, parts);
        self.others += 1;
    }

    /// Ends the transaction. `watch` is the owner's key; the last chunk has deleted it.
    pub fn seal(&mut self, watch: &[u8], output: &[u8]) {
        let out = &mut self.events.bytes;
        resp::command(out, &[b"EXEC"]);
        if !self.last {
            resp::command(out, &[b"WATCH", watch]);
            resp::command(out, &[b"GET", watch]);
        }
        resp::command(out, &[b"XLEN", output]);
    }

    /// Reads all replies.
    ///
    /// # Errors
    /// What kept the transaction from being executed, but for the fence. All replies have been read then, unless the connection
    /// failed.
    pub fn read_replies(&self, link: &mut Link) -> RedisResult<Answer> {
        // An error while queuing makes EXEC refuse all; it says more than EXEC's own.
        let mut refused: Option<RedisError> = None;
        for _ in 0..=self.queued() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_begins_with_multi() {
        let mut command = Vec::new();
        resp::command(&mut command, &[b"MULTI"]);
        assert_eq!(Commands::HEAD, command);
        let mut chunk = Chunk::default();
        chunk.queue(&[b"PING"]);
        assert!(chunk.commands().starts_with(&command));
        assert_eq!(chunk.queued(), 1);
    }
}
