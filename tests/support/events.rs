//! The two ends of the program in Redis: messages in, events and dead letters out.

use std::collections::BTreeMap;

use redis::streams::{StreamId, StreamPendingCountReply, StreamPendingReply, StreamRangeReply};
use redis::{Connection, RedisResult, from_redis_value};
use serde_json::{Value, json};

#[allow(unused_imports, reason = "not every test crate looks at times")]
pub use super::assertions::{assert_repo, assert_repo_events, assert_timestamp};
use super::wait::eventually;

/// The default name of the input stream.
pub const INPUT: &str = "repo_backfill";
/// The default name of the consumer group.
pub const GROUP: &str = "repo_backfill_group";
/// The default name of the output stream.
pub const OUTPUT: &str = "firehose_backfill";
/// The default name of the stream of dead letters.
pub const DEAD_LETTERS: &str = "repo_backfill_dlq";

/// How many entries are read in one go.
const PAGE: usize = 1000;

/// An entry of the output stream.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    /// The text as it was written.
    pub raw: String,
    pub json: Value,
}

impl Event {
    /// A text field of the event; empty when it has none of that name.
    pub fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }
}

/// A message that was read and neither acknowledged nor given up.
#[derive(Clone, Debug)]
pub struct Pending {
    pub id: String,
    pub consumer: String,
    pub idle_ms: usize,
    pub deliveries: usize,
}

/// Appends the message of an account to the input stream; returns the entry's id.
pub fn enqueue(connection: &mut Connection, did: &str, host: Option<&str>) -> String {
    let message = match host {
        Some(host) => json!({ "did": did, "host": host }),
        None => json!({ "did": did }),
    };
    enqueue_raw(connection, &[("repo", message.to_string().as_bytes())])
}

/// Appends an entry of any fields to the input stream; returns its id.
pub fn enqueue_raw(connection: &mut Connection, fields: &[(&str, &[u8])]) -> String {
    let mut command = redis::cmd("XADD");
    command.arg(INPUT).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command.query(connection).expect("XADD")
}

/// All events of a stream in their order. Panics at an entry that is not one field `event` with
/// JSON in it.
#[track_caller]
pub fn read_events(connection: &mut Connection, stream: &str) -> Vec<Event> {
    let entries = read_stream(connection, stream);
    entries
        .into_iter()
        .map(|(id, fields)| event(id, &fields))
        .collect()
}

#[track_caller]
fn event(id: String, fields: &BTreeMap<String, String>) -> Event {
    let (1, Some(raw)) = (fields.len(), fields.get("event")) else {
        panic!("entry {id} is not one field `event`: {fields:?}");
    };
    match serde_json::from_str(raw) {
        Ok(json) => Event {
            id,
            raw: raw.clone(),
            json,
        },
        Err(error) => panic!("entry {id} is not JSON ({error}): {raw}"),
    }
}

/// The events of one account, in their order.
pub fn events_of<'a>(events: &'a [Event], did: &str) -> Vec<&'a Event> {
    events
        .iter()
        .filter(|event| event.text("did") == did)
        .collect()
}

/// All dead letters, in their order.
#[track_caller]
pub fn dead_letters(connection: &mut Connection) -> Vec<BTreeMap<String, String>> {
    let entries = read_stream(connection, DEAD_LETTERS);
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// All entries of a stream: id and fields. Values that are not UTF-8 are read with replacement
/// characters.
#[track_caller]
pub fn read_stream(
    connection: &mut Connection,
    stream: &str,
) -> Vec<(String, BTreeMap<String, String>)> {
    let mut entries = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let page: StreamRangeReply = range.query(connection).expect("XRANGE");
        let Some(last) = page.ids.last() else {
            return entries;
        };
        from = format!("({}", last.id);
        entries.extend(page.ids.into_iter().map(fields));
    }
}

fn fields(entry: StreamId) -> (String, BTreeMap<String, String>) {
    let text = |value| {
        let bytes: Vec<u8> = from_redis_value(value).expect("a string");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let fields = entry
        .map
        .into_iter()
        .map(|(name, value)| (name, text(value)));
    (entry.id, fields.collect())
}

/// Takes all events out of the output.
pub fn take_events(connection: &mut Connection) -> Vec<Event> {
    let events = read_events(connection, OUTPUT);
    if !events.is_empty() {
        let ids: Vec<_> = events.iter().map(|event| &event.id).collect();
        let () = redis::cmd("XDEL")
            .arg(OUTPUT)
            .arg(ids)
            .query(connection)
            .expect("XDEL");
    }
    events
}

/// The length of a stream; 0 when there is none.
pub fn stream_len(connection: &mut Connection, stream: &str) -> usize {
    redis::cmd("XLEN")
        .arg(stream)
        .query(connection)
        .expect("XLEN")
}

/// How many messages of the input are pending; 0 while the group does not exist yet.
pub fn pending(connection: &mut Connection) -> usize {
    let mut command = redis::cmd("XPENDING");
    let reply: RedisResult<StreamPendingReply> = command.arg(INPUT).arg(GROUP).query(connection);
    without_group(reply).map_or(0, |reply| reply.count())
}

/// The pending messages of the input, at most 10,000 of them.
pub fn pending_messages(connection: &mut Connection) -> Vec<Pending> {
    let mut command = redis::cmd("XPENDING");
    command.arg(INPUT).arg(GROUP).arg("-").arg("+").arg(10_000);
    let reply: RedisResult<StreamPendingCountReply> = command.query(connection);
    let entries = without_group(reply).map_or_else(Vec::new, |reply| reply.ids);
    entries
        .into_iter()
        .map(|entry| Pending {
            id: entry.id,
            consumer: entry.consumer,
            idle_ms: entry.last_delivered_ms,
            deliveries: entry.times_delivered,
        })
        .collect()
}

fn without_group<T>(reply: RedisResult<T>) -> Option<T> {
    match reply {
        Ok(reply) => Some(reply),
        Err(error) if error.code() == Some("NOGROUP") => None,
        Err(error) => panic!("XPENDING: {error}"),
    }
}

/// The keys under which the progress of unfinished messages is kept.
pub fn progress_keys(connection: &mut Connection) -> Vec<String> {
    keys_of(connection, "progress")
}

/// All keys that are kept for unfinished messages: progress and owners.
pub fn kept_keys(connection: &mut Connection) -> Vec<String> {
    let mut keys = progress_keys(connection);
    keys.extend(keys_of(connection, "owner"));
    keys
}

fn keys_of(connection: &mut Connection, what: &str) -> Vec<String> {
    redis::cmd("KEYS")
        .arg(format!("{OUTPUT}:{what}:{INPUT}:{GROUP}:*"))
        .query(connection)
        .expect("KEYS")
}

/// Waits until no message is left, new or pending: each has become events or a dead letter.
#[track_caller]
pub fn wait_until_drained(connection: &mut Connection) {
    eventually("the input stream is empty and nothing is pending", || {
        stream_len(connection, INPUT) == 0 && pending(connection) == 0
    });
}
