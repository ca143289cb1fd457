//! How an attempt that failed ends in Redis: a note and another delivery, or a dead letter.
//!
//! Each is one transaction, fenced (see [`fence`](super::fence)), so what becomes of a message is said once, by its owner. A
//! message leaves the input together with its dead letter and its progress (I1, I4; `tests/verdicts.rs`, `tests/dead_letters.rs`).

use std::time::SystemTime;

use super::fence::{Executed, Fence, is_no_group};
use super::message::FIELD;
use super::progress::{DEFERRED, FAILED};
use super::retry::Verdict;
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason};
use crate::event::timestamp;
use crate::resp::Pipeline;

/// The message as it came.
#[derive(Debug, Clone, Copy)]
pub struct Original<'m> {
    /// The id of its entry.
    pub id: &'m str,
    /// The value of the field `repo`; `None` where there is none.
    pub value: Option<&'m [u8]>,
    /// All its fields as JSON, where the value does not hold all that matters.
    pub entry: Option<&'m str>,
}

impl Original<'_> {
    /// All of it in one line, for a log that is its last trace.
    fn text(&self) -> String {
        let value = String::from_utf8_lossy(self.value.unwrap_or_default());
        let text = self.entry.unwrap_or(&value);
        text.escape_debug().to_string()
    }
}

/// Writes down what becomes of the message. Waits out what passes, however long that takes.
///
/// # Errors
/// [`Stop`]. Where the dead letters' key holds no stream, the message stays pending.
pub fn conclude(
    link: &mut Link,
    fence: &mut Fence,
    config: &Config,
    original: Original<'_>,
    verdict: &Verdict,
    error: &JobError,
    attempt: u64,
) -> Result<Executed, Stop> {
    let patience = Patience::UntilDone;
    let commands = match verdict {
        Verdict::DeadLetter { reason, attempts } => {
            // Redis would acknowledge the message even where it cannot add the letter, so that is tried before.
            let mut length = redis::cmd("XLEN");
            length.arg(&config.dlq_stream);
            let length = link.insist(patience, |link| link.query::<u64>(&length));
            if let Err(Stop::Error(e)) = &length {
                let (id, text) = (original.id, original.text());
                log::error!("entry {id} cannot become a dead letter and stays: {e}: {text}");
            }
            length?;
            dead_letter(fence, config, original, *reason, *attempts, error)
        }
        Verdict::Retry(failure) => {
            let mut commands = Pipeline::default();
            let failed = failure.to_field();
            commands.add(&[b"HSET", fence.key(), FAILED.as_bytes(), failed.as_bytes()]);
            commands.add(&[b"HDEL", fence.key(), DEFERRED.as_bytes()]);
            wait_from_now(&mut commands, config, original.id, attempt);
            commands
        }
        Verdict::Defer { since } => {
            let mut commands = Pipeline::default();
            let since = since.to_string();
            commands.add(&[b"HSET", fence.key(), DEFERRED.as_bytes(), since.as_bytes()]);
            wait_from_now(&mut commands, config, original.id, attempt - 1);
            commands
        }
    };
    let executed = fence.transact(link, patience, &commands)?;
    if let Executed::Now(replies) = &executed {
        let failure = replies.iter().find_map(|reply| match reply {
            redis::Value::ServerError(e) => Some(redis::RedisError::from(e.clone())),
            _ => None,
        });
        // A group that was destroyed is created again by the reader, and delivers the entry again.
        if let Some(e) = failure.filter(|e| !is_no_group(e)) {
            let (id, text) = (original.id, original.text());
            log::error!("entry {id} may be removed without its dead letter: {e}: {text}");
            return Err(Stop::Error(e));
        }
    }
    Ok(executed)
}

/// From now on the message is idle, and its attempts are so many.
fn wait_from_now(commands: &mut Pipeline, config: &Config, id: &str, attempts: u64) {
    commands.add(&[
        b"XCLAIM",
        config.backfill_stream.as_bytes(),
        config.group.as_bytes(),
        config.consumer.as_bytes(),
        b"0",
        id.as_bytes(),
        b"RETRYCOUNT",
        attempts.to_string().as_bytes(),
        b"JUSTID",
    ]);
}

fn dead_letter(
    fence: &Fence,
    config: &Config,
    original: Original<'_>,
    reason: Reason,
    attempts: u64,
    error: &JobError,
) -> Pipeline {
    let (stream, group) = (config.backfill_stream.as_bytes(), config.group.as_bytes());
    let (attempts, time) = (attempts.to_string(), timestamp(SystemTime::now()));
    let id = original.id.as_bytes();
    let mut letter: Vec<&[u8]> = vec![b"XADD", config.dlq_stream.as_bytes(), b"*"];
    letter.extend([FIELD.as_bytes(), original.value.unwrap_or_default()]);
    letter.extend([b"reason".as_slice(), reason.code().as_bytes()]);
    letter.extend([b"error".as_slice(), error.text.as_bytes()]);
    letter.extend([b"attempts".as_slice(), attempts.as_bytes()]);
    letter.extend([b"consumer".as_slice(), config.consumer.as_bytes()]);
    letter.extend([b"id".as_slice(), id, b"time", time.as_bytes()]);
    if let Some(entry) = original.entry {
        letter.extend([b"entry".as_slice(), entry.as_bytes()]);
    }
    let mut commands = Pipeline::default();
    commands.add(&letter);
    commands.add(&[b"XACK", stream, group, id]);
    commands.add(&[b"XDEL", stream, id]);
    commands.add(&[b"DEL", fence.key()]);
    commands
}
