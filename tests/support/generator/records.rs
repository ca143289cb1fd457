//! Deterministic records like those of the real network.
//!
//! A mixed set has about 400 bytes a record: posts with text of many scripts, facets, replies and
//! blobs; likes, reposts, follows and blocks; and one profile.

use super::cbor::Value;
use super::cid::Cid;
pub use super::content::{account_record, blob, post, profile, subject_record};
use super::random::Random;
use super::time::tid;

/// A record and its place in the repo.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub collection: String,
    pub rkey: String,
    pub value: Value,
}

impl Record {
    /// A record of any content.
    pub fn new(collection: &str, rkey: impl Into<String>, value: Value) -> Self {
        Self {
            collection: collection.to_owned(),
            rkey: rkey.into(),
            value,
        }
    }
}

/// `count` records of all kinds under different keys, in the order of their making.
pub fn mixed(seed: u64, count: usize) -> Vec<Record> {
    mixed_iter(seed).take(count).collect()
}

/// The records of `mixed` without end, made one at a time.
pub fn mixed_iter(seed: u64) -> impl Iterator<Item = Record> {
    let mut random = Random::new(seed);
    let mut micros = 1_683_000_000_000_000;
    let mut first = true;
    std::iter::from_fn(move || {
        micros += 1 + random.below(60_000_000);
        if std::mem::take(&mut first) {
            return Some(Record::new(
                "app.bsky.actor.profile",
                "self",
                profile(&mut random, micros),
            ));
        }
        let (collection, value) = match random.below(100) {
            0..56 => ("app.bsky.feed.post", post(&mut random, micros)),
            56..83 => (
                "app.bsky.feed.like",
                subject_record("app.bsky.feed.like", &mut random, micros),
            ),
            83..90 => (
                "app.bsky.feed.repost",
                subject_record("app.bsky.feed.repost", &mut random, micros),
            ),
            90..99 => (
                "app.bsky.graph.follow",
                account_record("app.bsky.graph.follow", &mut random, micros),
            ),
            _ => (
                "app.bsky.graph.block",
                account_record("app.bsky.graph.block", &mut random, micros),
            ),
        };
        Some(Record::new(
            collection,
            tid(micros, random.below(1024) as u16),
            value,
        ))
    })
}

/// A record with every kind of value the data model has, and a float, which it has not.
pub fn every_kind() -> Value {
    let link = Cid::raw(b"a blob");
    Value::map([
        ("$type", Value::text("com.example.kinds")),
        ("null", Value::Null),
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("zero", Value::Int(0)),
        ("lowest", Value::Int(i64::MIN.into())),
        ("highest", Value::Int(i64::MAX.into())),
        ("beyond", Value::Int(u64::MAX.into())),
        ("float", Value::Float(0.1)),
        ("whole", Value::Float(-3.0)),
        (
            "text",
            Value::text("\u{0} \" \\ / \n \u{7f} \u{2028} é 漢 🦀"),
        ),
        ("bytes", Value::Bytes(vec![0, 1, 2, 0xff])),
        ("none", Value::Bytes(Vec::new())),
        ("link", Value::Link(link)),
        (
            "list",
            Value::List(vec![
                Value::List(Vec::new()),
                Value::map([]),
                Value::Int(-1),
            ]),
        ),
        (
            "lookalike",
            Value::map([("$link", Value::text(link.to_string()))]),
        ),
        (
            "legacy",
            Value::map([
                ("cid", Value::text(link.to_string())),
                ("mimeType", Value::text("image/png")),
            ]),
        ),
    ])
}
