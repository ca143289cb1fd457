//! How an attempt that failed ends in Redis: a note and another delivery, or a dead letter.
//!
//! Each is one transaction, fenced (see [`fence`](super::fence)), so what becomes of a message is said once, by its owner. A
//! message leaves the input together with its dead letter and its progress (I1, I4; `tests/verdicts.rs`, `tests/dead_letters.rs`).

use std::time::SystemTime;

use redis::Value;

use super::fence::{Executed, Fence, Standing, is_no_group};
use super::message::FIELD;
use super::progress::{self, DEFERRED, FAILED};
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

/// What is to be written down.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'m> {
    /// The message as it came.
    pub original: Original<'m>,
    /// What becomes of it.
    pub verdict: &'m Verdict,
    /// Why.
    pub error: &'m JobError,
}

/// Writes down what becomes of the message, waiting out what passes.
///
/// # Errors
/// [`Stop`]. Where the dead letters' key holds no stream, the message stays pending.
pub fn conclude(
    link: &mut Link,
    fence: &mut Fence,
    config: &Config,
    patience: Patience,
    ending: Ending<'_>,
) -> Result<Executed, Stop> {
    let Ending {
        original, verdict, ..
    } = ending;
    let mut commands = Pipeline::default();
    match verdict {
        Verdict::DeadLetter { reason, attempts } => {
            // Redis would acknowledge the message even where it cannot add the letter, so that is tried before.
            let mut length = redis::cmd("XLEN");
            length.arg(&config.dlq_stream);
            let length = link.insist(patience, |link| link.query::<u64>(&length));
            if let Err(Stop::Error(e)) = &length {
                let (id, text) = (original.id, original.text());
                log::error!(
                    "~id" = id, "~error":% = e;
                    "entry {id} cannot become a dead letter and stays: {e}: {text}"
                );
            }
            length?;
            dead_letter(&mut commands, fence, config, ending, *reason, *attempts);
        }
        Verdict::Retry(failure) => {
            let (key, failed) = (fence.progress_key(), failure.to_field());
            commands.add(&[b"HSET", key, FAILED.as_bytes(), failed.as_bytes()]);
            commands.add(&[b"HDEL", key, DEFERRED.as_bytes()]);
            wait_from_now(&mut commands, fence, config, original.id, fence.attempt());
        }
        Verdict::Defer { since } => {
            let (key, since) = (fence.progress_key(), since.to_string());
            commands.add(&[b"HSET", key, DEFERRED.as_bytes(), since.as_bytes()]);
            wait_from_now(
                &mut commands,
                fence,
                config,
                original.id,
                fence.attempt() - 1,
            );
        }
    }
    let executed = fence.transact(link, patience, &commands)?;
    let Executed::Now(replies) = &executed else {
        return Ok(executed);
    };
    let failure = replies.iter().find_map(|reply| match reply {
        Value::ServerError(e) => Some(redis::RedisError::from(e.clone())),
        _ => None,
    });
    match failure {
        // A group that was destroyed is created again by the reader, and delivers the entry again.
        Some(e) if is_no_group(&e) => {}
        Some(e) => {
            let (id, text) = (original.id, original.text());
            log::error!(
                "~id" = id, "~error":% = e;
                "entry {id} may be removed without its dead letter: {e}: {text}"
            );
            return Err(Stop::Error(e));
        }
        // XCLAIM has not found the message, though nobody else can have ended it.
        None if matches!(replies.last(), Some(Value::Array(ids)) if ids.is_empty()) => {
            let deleted = link.insist(patience, |link| {
                progress::remove_if_deleted(link, config, original.id)
            })?;
            return Ok(Executed::Not(if deleted {
                Standing::Deleted
            } else {
                Standing::Undelivered
            }));
        }
        None => {}
    }
    Ok(executed)
}

/// From now on the message is nobody's and idle, and its attempts are so many. XCLAIM comes last: what it answers is looked at.
fn wait_from_now(commands: &mut Pipeline, fence: &Fence, config: &Config, id: &str, attempts: u64) {
    fence.let_go(commands);
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
    commands: &mut Pipeline,
    fence: &Fence,
    config: &Config,
    ending: Ending<'_>,
    reason: Reason,
    attempts: u64,
) {
    let Ending {
        original, error, ..
    } = ending;
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
    commands.add(&letter);
    commands.add(&[b"XACK", stream, group, id]);
    commands.add(&[b"XDEL", stream, id]);
    commands.add(&[b"DEL", fence.progress_key(), fence.owner_key()]);
}
