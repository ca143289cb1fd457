//! Pending messages: those that this consumer holds from before, and those that can never become events.

use std::time::SystemTime;

use redis::{RedisError, RedisResult, Value};

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
    /// The value of the field `repo`; `None` where the entry has no such field.
    pub value: Option<Vec<u8>>,
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
                value: repo_field(fields),
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

/// The value of the field `repo` among an entry's fields.
pub(super) fn repo_field(fields: Fields) -> Option<Vec<u8>> {
    fields
        .into_iter()
        .find(|(name, _)| name == FIELD.as_bytes())
        .map(|(_, value)| value)
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
    if !super::is_pending(link, stream, group, &message.id)? {
        return Ok(());
    }
    let mut commands = Vec::new();
    resp::command(&mut commands, &[b"MULTI"]);
    resp::command(
        &mut commands,
        &[
            b"XADD",
            config.dlq_stream.as_bytes(),
            b"*",
            FIELD.as_bytes(),
            message.value.as_deref().unwrap_or_default(),
            b"reason",
            error.reason.code().as_bytes(),
            b"error",
            error.text.as_bytes(),
            b"attempts",
            message.deliveries.to_string().as_bytes(),
            b"consumer",
            config.consumer.as_bytes(),
            b"id",
            message.id.as_bytes(),
            b"time",
            timestamp(SystemTime::now()).as_bytes(),
        ],
    );
    resp::command(
        &mut commands,
        &[b"XACK", stream, group, message.id.as_bytes()],
    );
    resp::command(&mut commands, &[b"XDEL", stream, message.id.as_bytes()]);
    resp::command(&mut commands, &[b"EXEC"]);
    link.send(&commands)?;
    // MULTI, three times QUEUED, EXEC: all are read before any is judged, so that the connection stays in step.
    let replies = (0..5)
        .map(|_| link.receive())
        .collect::<RedisResult<Vec<_>>>()?;
    for reply in replies {
        if reply == Value::Nil {
            return Err(RedisError::from((
                redis::ErrorKind::UnexpectedReturnType,
                "EXEC was refused",
            )));
        }
        reply.extract_error()?;
    }
    Ok(())
}
