//! Pending messages: those that this consumer holds from before, and those that can never become events.

use std::time::SystemTime;

use redis::RedisResult;
use serde_json::Value;

use super::message::FIELD;
use super::{Entries, Fields};
use crate::config::Config;
use crate::connection::Link;
use crate::error::JobError;
use crate::event::timestamp;
use crate::resp;

/// A message as the stream delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The id of the entry.
    pub id: String,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Its fields, in their order.
    pub fields: Fields,
}

impl Delivered {
    /// The value of the field `repo`; `None` where the entry has no such field.
    pub fn value(&self) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(name, _)| name == FIELD.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// All its fields as JSON, for a dead letter or a log line that would otherwise lose them; what is not UTF-8 is replaced.
    pub fn to_json(&self) -> String {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
        let pairs = self.fields.iter();
        let pairs = pairs.map(|(name, value)| Value::from(vec![text(name), text(value)]));
        Value::Array(pairs.collect()).to_string()
    }
}

/// A page of the consumer's own pending messages.
#[derive(Debug, Default)]
pub struct Page {
    /// Those whose entries exist, in the order of their ids.
    pub messages: Vec<Delivered>,
    /// The ids of entries that somebody deleted while they were pending.
    pub deleted: Vec<String>,
    /// The last id of the page, where the next one begins; `None` where there is nothing any more.
    pub last: Option<String>,
}

/// Takes the next page of this consumer's own pending messages, after `after` (`None`: from the first).
///
/// XPENDING lists them and XCLAIM … JUSTID takes them: neither charges a delivery, as XREADGROUP from an id would. Entries that
/// are gone are acknowledged, for nothing else will ever remove them from the pending list.
///
/// # Errors
/// Of Redis. May be called again: nothing is lost by having it done twice.
pub fn own_pending(
    link: &mut Link,
    config: &Config,
    after: Option<&str>,
    count: usize,
) -> RedisResult<Page> {
    let from = after.map_or("-".to_owned(), |id| format!("({id}"));
    let listed: Vec<(String, String, u64, u64)> = link.query(
        redis::cmd("XPENDING")
            .arg(&config.backfill_stream)
            .arg(&config.group)
            .arg(from)
            .arg("+")
            .arg(count)
            .arg(&config.consumer),
    )?;
    let Some((last, ..)) = listed.last() else {
        return Ok(Page::default());
    };
    let last = last.clone();
    let mut claim = redis::cmd("XCLAIM");
    claim
        .arg(&config.backfill_stream)
        .arg(&config.group)
        .arg(&config.consumer)
        .arg(0);
    for (id, ..) in &listed {
        claim.arg(id);
    }
    link.query::<Vec<String>>(claim.arg("JUSTID"))?;

    let mut page = Page {
        last: Some(last),
        ..Page::default()
    };
    for (id, _, _, deliveries) in listed {
        let entries: Entries = link.query(
            redis::cmd("XRANGE")
                .arg(&config.backfill_stream)
                .arg(&id)
                .arg(&id),
        )?;
        match entries.into_iter().next() {
            Some((id, fields)) => page.messages.push(Delivered {
                id,
                deliveries,
                fields,
            }),
            None => {
                // Redis 7 has dropped it from the pending list when it was claimed; then this does nothing.
                link.query::<u64>(
                    redis::cmd("XACK")
                        .arg(&config.backfill_stream)
                        .arg(&config.group)
                        .arg(&id),
                )?;
                page.deleted.push(id);
            }
        }
    }
    Ok(page)
}

/// Copies a message to the dead-letter stream, acknowledges and deletes it, in one transaction.
///
/// # Errors
/// Of Redis. May be called again: a message that is no longer pending is not copied twice.
pub fn dead_letter(
    link: &mut Link,
    config: &Config,
    message: &Delivered,
    error: &JobError,
) -> RedisResult<()> {
    let (stream, group) = (config.backfill_stream.as_bytes(), config.group.as_bytes());
    let id = message.id.as_bytes();
    if !super::is_pending(link, stream, group, &message.id)? {
        return Ok(());
    }
    // Redis would acknowledge and delete the message even where it cannot add the dead letter, so that is tried before.
    link.query::<u64>(redis::cmd("XLEN").arg(&config.dlq_stream))?;
    let (attempts, time) = (message.deliveries.to_string(), timestamp(SystemTime::now()));
    let entry = message.to_json();
    let mut letter: Vec<&[u8]> = vec![b"XADD", config.dlq_stream.as_bytes(), b"*"];
    letter.extend([FIELD.as_bytes(), message.value().unwrap_or_default()]);
    letter.extend([b"reason".as_slice(), error.reason.code().as_bytes()]);
    letter.extend([b"error".as_slice(), error.text.as_bytes()]);
    letter.extend([b"attempts".as_slice(), attempts.as_bytes()]);
    letter.extend([b"consumer".as_slice(), config.consumer.as_bytes()]);
    letter.extend([b"id".as_slice(), id, b"time", time.as_bytes()]);
    if message.value().is_none() {
        letter.extend([b"entry".as_slice(), entry.as_bytes()]);
    }
    let mut commands = Vec::new();
    resp::command(&mut commands, &[b"MULTI"]);
    resp::command(&mut commands, &letter);
    resp::command(&mut commands, &[b"XACK", stream, group, id]);
    resp::command(&mut commands, &[b"XDEL", stream, id]);
    resp::command(&mut commands, &[b"EXEC"]);
    link.send(&commands)?;
    // MULTI, three times QUEUED, EXEC: all are read before any is judged, so that the connection stays in step.
    let replies = (0..5)
        .map(|_| link.receive())
        .collect::<RedisResult<Vec<_>>>()?;
    for reply in replies {
        reply.extract_error()?;
    }
    Ok(())
}
