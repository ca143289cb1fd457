//! A chunk: one transaction in Redis's protocol, and the replies to it.

use redis::{ErrorKind, RedisError, RedisResult, Value};

use super::MAX_JSON;
use crate::connection::Link;
use crate::resp;

/// Buffers up to this size are kept for the next chunk.
pub const KEEP: usize = 2 * MAX_JSON;

/// MULTI … EXEC, and an XLEN behind it.
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
    /// Whether this is a repo's last chunk, which acknowledges the message.
    pub last: bool,
}

impl Chunk {
    /// Makes room for the next chunk.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.commands.shrink_to(KEEP);
        (self.queued, self.creates, self.json) = (0, 0, 0);
        self.last = false;
    }

    /// Adds a command to the transaction.
    pub fn queue(&mut self, parts: &[&[u8]]) {
        if self.queued == 0 {
            resp::command(&mut self.commands, &[b"MULTI"]);
        }
        resp::command(&mut self.commands, parts);
        self.queued += 1;
    }

    /// Ends the transaction; behind it the length of the output is asked for.
    pub fn seal(&mut self, output: &[u8]) {
        resp::command(&mut self.commands, &[b"EXEC"]);
        resp::command(&mut self.commands, &[b"XLEN", output]);
    }

    /// Reads the replies to MULTI, to each command, to EXEC and to XLEN.
    ///
    /// # Errors
    /// What kept the transaction from being executed. All replies have been read then, but where the connection failed.
    pub fn read_replies(&self, link: &mut Link) -> RedisResult<Executed> {
        // An error while queuing makes EXEC refuse all; it says more than EXEC's own.
        let mut refused: Option<RedisError> = None;
        for _ in 0..=self.queued {
            if let Err(e) = link.receive()?.extract_error() {
                refused.get_or_insert(e);
            }
        }
        let executed = link.receive()?;
        let length = link.receive()?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        if let Value::ServerError(e) = executed {
            return Err(e.into());
        }
        let Value::Array(replies) = executed else {
            let what = "EXEC was not answered with an array";
            return Err((ErrorKind::UnexpectedReturnType, what).into());
        };
        Ok(Executed {
            // XACK is the last but one.
            acknowledged: self.last
                && replies.len() == self.queued
                && replies[self.queued - 2] != Value::Int(0),
            failure: replies
                .into_iter()
                .find_map(|reply| reply.extract_error().err()),
            length: length
                .extract_error()
                .ok()
                .and_then(|length| redis::from_redis_value(length).ok()),
        })
    }
}

/// What became of a transaction that was executed.
pub struct Executed {
    /// Whether the message was still pending, and is acknowledged now; of the last chunk.
    pub acknowledged: bool,
    /// The first command of it that failed; the others have been executed all the same.
    pub failure: Option<RedisError>,
    /// The length of the output after it, where Redis said it.
    pub length: Option<u64>,
}
