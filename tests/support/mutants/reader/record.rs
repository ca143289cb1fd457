//! From a leaf to its part of an event (R1).

use super::archive::Archive;
use super::cbor::{self, Item};
use super::tree;
use crate::support::generator::Cid;

/// Deepest record, and largest in bytes.
pub const MAX_DEPTH: usize = 128;
const MAX_RECORD: usize = 2 << 20;
/// Longest key in bytes.
const MAX_KEY: usize = 1024;

/// The part of a leaf's event that is its own; `None` where the leaf has none (R1).
pub fn text(archive: &Archive<'_>, key: &[u8], value: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let (collection, rkey) = key.split_once('/')?;
    if key.len() > MAX_KEY || !is_nsid(collection) || !is_record_key(rkey) {
        return None;
    }
    let digest = tree::dag_cbor_digest(value)?;
    let block = archive.blocks.get(&digest)?;
    if block.len() > MAX_RECORD {
        return None;
    }
    let record = cbor::parse(block, MAX_DEPTH).ok()?;
    if !matches!(record, Item::Map(_)) {
        return None;
    }
    let cid = Cid {
        codec: 0x71,
        digest,
    };
    let mut text =
        format!(r#""collection":"{collection}","rkey":"{rkey}","cid":"{cid}","record":"#);
    record.write_json(&mut text).ok()?;
    Some(text)
}

/// atproto.com/specs/nsid
fn is_nsid(text: &str) -> bool {
    let segments: Vec<&str> = text.split('.').collect();
    let Some((name, authority)) = segments.split_last() else {
        return false;
    };
    let label = |label: &&str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 317
        && authority.len() >= 2
        && authority.iter().all(label)
        && !authority[0].starts_with(|first: char| first.is_ascii_digit())
        && (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// atproto.com/specs/record-key
fn is_record_key(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_~:".contains(&b))
}
