//! The records: the collections of the network in the shares and sizes that they have there.
//!
//! Most records are likes, then come posts, follows and reposts. With its part of the tree, a record takes 400 bytes of a CAR on
//! average.

use crate::support::generator::Value;
use crate::support::generator::random::Random;
use crate::support::generator::records::{Record, account_record, post, profile, subject_record};
use crate::support::generator::tid;

/// The time of the first record, in microseconds since 1970.
const BEGINNING: u64 = 1_683_000_000_000_000;

/// The records of a repo, without end; keys ascend within each collection.
pub fn mixed(seed: u64) -> impl Iterator<Item = Record> {
    let mut random = Random::new(seed);
    let mut micros = BEGINNING;
    let mut first = true;
    std::iter::from_fn(move || {
        micros += 1 + random.below(60_000_000);
        if std::mem::take(&mut first) {
            let profile = profile(&mut random, micros);
            return Some(Record::new("app.bsky.actor.profile", "self", profile));
        }
        let collection = match random.below(100) {
            0..53 => "app.bsky.feed.like",
            53..77 => "app.bsky.feed.post",
            77..90 => "app.bsky.graph.follow",
            90..98 => "app.bsky.feed.repost",
            _ => "app.bsky.graph.block",
        };
        let value = match collection {
            "app.bsky.feed.post" => post(&mut random, micros),
            "app.bsky.feed.like" | "app.bsky.feed.repost" => {
                subject_record(collection, &mut random, micros)
            }
            _ => account_record(collection, &mut random, micros),
        };
        let rkey = tid(micros, random.below(1024) as u16);
        Some(Record::new(collection, rkey, value))
    })
}

/// Long texts, as those of blogs that keep their entries in repos: 40 KB each.
pub fn large(seed: u64) -> impl Iterator<Item = Record> {
    const COLLECTION: &str = "com.whtwnd.blog.entry";
    let mut random = Random::new(seed);
    let mut micros = BEGINNING;
    std::iter::from_fn(move || {
        micros += 1 + random.below(86_400_000_000);
        let mut content = String::new();
        while content.len() < 40_000 {
            content += &text(post(&mut random, micros));
            content.push('\n');
        }
        let value = Value::map([
            ("$type", Value::text(COLLECTION)),
            ("title", Value::text("The sky today")),
            ("content", Value::text(content)),
            ("visibility", Value::text("public")),
        ]);
        let rkey = tid(micros, random.below(1024) as u16);
        Some(Record::new(COLLECTION, rkey, value))
    })
}

/// The text of a post.
fn text(post: Value) -> String {
    let Value::Map(fields) = post else {
        return String::new();
    };
    let mut fields = fields.into_iter();
    let found = fields.find_map(|(name, value)| match value {
        Value::Text(text) if name == "text" => Some(text),
        _ => None,
    });
    found.unwrap_or_default()
}
