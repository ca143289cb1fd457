//! The two ends of the program in Redis: messages in, events and dead letters out, and what the
//! contract says of the events.

use std::collections::BTreeMap;

use redis::streams::{StreamId, StreamPendingCountReply, StreamPendingReply, StreamRangeReply};
use redis::{Connection, RedisResult, from_redis_value};
use serde_json::{Value, json};

use super::generator::ExpectedRecord;
use super::wait::eventually;

/// The default name of the input stream.
pub const INPUT: &str = "repo_backfill";
/// The default name of the consumer group.
pub const GROUP: &str = "repo_backfill_group";
/// The default name of the output stream.
pub const OUTPUT: &str = "firehose_backfill";
/// The default name of the stream of dead letters.
pub const DEAD_LETTERS: &str = "repo_backfill_dlq";

/// What a chunk may hold.
const CHUNK_CREATES: usize = 500;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// What may be counted to a chunk's bytes beside its `create` events: its `repo` event.
const CHUNK_SLACK: usize = 1024;

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
    let pattern = format!("{OUTPUT}:progress:{INPUT}:{GROUP}:*");
    redis::cmd("KEYS")
        .arg(pattern)
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

/// A record that must have become a `create` event: what the generator makes, or a tuple.
pub trait Expected {
    /// Collection, record key, CID and JSON. JSON null means any record: the generator was told to
    /// leave the JSON out.
    fn parts(&self) -> (&str, &str, String, &Value);
}

impl Expected for ExpectedRecord {
    fn parts(&self) -> (&str, &str, String, &Value) {
        (
            &self.collection,
            &self.rkey,
            self.cid.to_string(),
            &self.json,
        )
    }
}

impl<S: AsRef<str>, C: ToString> Expected for (S, S, C, Value) {
    fn parts(&self) -> (&str, &str, String, &Value) {
        (
            self.0.as_ref(),
            self.1.as_ref(),
            self.2.to_string(),
            &self.3,
        )
    }
}

/// Asserts that the events of `did` among `events` are those of the one commit, and exactly these:
/// each record once and in order, in full chunks, each with its `repo` event behind it; the text
/// compact, its keys in the contract's order, one time for all.
#[track_caller]
pub fn assert_repo_events<E: Expected>(
    events: &[Event],
    did: &str,
    commit: &str,
    rev: &str,
    expected: &[E],
) {
    let events = events_of(events, did);
    let Some(first) = events.first() else {
        panic!("there is no event of {did}");
    };
    let time = first.text("time");
    assert_timestamp(time);
    let head = |kind: &str| {
        let tail = json!({ "time": time, "did": did, "commit": commit, "rev": rev }).to_string();
        format!(r#"{{"type":"{kind}","seq":-1,{}"#, &tail[1..tail.len() - 1])
    };
    let repo_event = format!("{}}}", head("repo"));

    let mut wanted = expected.iter();
    let mut chunk: Vec<usize> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let Event { id, raw, .. } = event;
        if event.text("type") == "repo" {
            assert_eq!(*raw, repo_event, "the text of the repo event {id} of {did}");
            let next = events.get(place + 1).map(|next| next.raw.len());
            assert_chunk(
                &chunk,
                next,
                place == 0,
                &format!("the repo event {id} of {did}"),
            );
            chunk.clear();
            continue;
        }
        let Some(record) = wanted.next() else {
            panic!("event {id} of {did} is one too many: {raw}");
        };
        let (collection, rkey, cid, record) = record.parts();
        let own = json!({ "collection": collection, "rkey": rkey, "cid": cid }).to_string();
        let start = format!(r#"{},{},"record":"#, head("create"), &own[1..own.len() - 1]);
        let Some(written) = raw
            .strip_prefix(&start)
            .and_then(|rest| rest.strip_suffix('}'))
        else {
            panic!("event {id} of {did}\n  begins {start:?}\n  not as {raw:?}");
        };
        assert_record(
            written,
            record,
            &format!("the record of {collection}/{rkey} of {did}"),
        );
        chunk.push(raw.len());
    }
    assert_eq!(wanted.count(), 0, "records of {did} that have no event");
    assert!(
        chunk.is_empty(),
        "{} events of {did} without a repo event behind them",
        chunk.len()
    );
}

/// One chunk by the lengths of its `create` events; `next` is the length of the event behind it.
#[track_caller]
fn assert_chunk(chunk: &[usize], next: Option<usize>, first: bool, which: &str) {
    if chunk.is_empty() {
        assert!(
            first && next.is_none(),
            "{which} has no create event before it"
        );
        return;
    }
    let bytes: usize = chunk.iter().sum();
    assert!(
        chunk.len() <= CHUNK_CREATES,
        "{which} ends {} create events",
        chunk.len()
    );
    assert!(
        bytes <= CHUNK_BYTES || chunk.len() == 1,
        "{which} ends {bytes} bytes"
    );
    if let Some(next) = next {
        let full = chunk.len() == CHUNK_CREATES || bytes + next + CHUNK_SLACK > CHUNK_BYTES;
        assert!(
            full,
            "{which} ends {} events of {bytes} bytes: more fit in",
            chunk.len()
        );
    }
}

#[track_caller]
fn assert_record(written: &str, expected: &Value, which: &str) {
    let value: Value = serde_json::from_str(written)
        .unwrap_or_else(|error| panic!("{which} is not JSON ({error}): {written}"));
    let again = value.to_string();
    if !expected.is_null() {
        assert_eq!(again, expected.to_string(), "{which}");
    }
    // Blanks and repeated keys are lost in the value, but they show in the text.
    assert_eq!(
        skeleton(written),
        skeleton(&again),
        "{which} is not compact, or repeats a key"
    );
}

/// JSON without what its strings and numbers say.
fn skeleton(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |character: &char| {
        let quote = *character == '"' && !escaped;
        escaped = in_string && *character == '\\' && !escaped;
        in_string ^= quote;
        quote || (!in_string && !matches!(character, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
    };
    json.chars().filter(keep).collect()
}

/// Asserts the form `YYYY-MM-DDTHH:MM:SS.mmmZ`.
#[track_caller]
pub fn assert_timestamp(time: &str) {
    let form = "dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(character, form): (char, char)| match form {
        'd' => character.is_ascii_digit(),
        _ => character == form,
    };
    let right = time.len() == form.len() && time.chars().zip(form.chars()).all(fits);
    assert!(
        right,
        "{time:?} is not of the form YYYY-MM-DDTHH:MM:SS.mmmZ"
    );
}
