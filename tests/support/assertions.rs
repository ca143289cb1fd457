//! What the contract says of the events: their text, their order, their chunks.

use serde_json::{Value, json};

use super::events::{Event, events_of};
use super::generator::{ExpectedRecord, Repo};

/// What a chunk may hold.
const CHUNK_CREATES: usize = 500;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// What may be counted to a chunk's bytes beside its `create` events: its `repo` event.
const CHUNK_SLACK: usize = 1024;

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

/// The events of a repo are there, each exactly once.
#[track_caller]
pub fn assert_repo(events: &[Event], repo: &Repo) {
    let commit = repo.commit_cid.to_string();
    assert_repo_events(events, &repo.did, &commit, &repo.rev, &repo.expected);
}
