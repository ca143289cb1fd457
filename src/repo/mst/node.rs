//! Reads a node of the tree out of its block (atproto.com/specs/repository, "MST Structure").

use super::visit::Visit;
use super::{MAX_KEY, MAX_LINK};
use crate::repo::blocks::Place;
use crate::repo::cbor::{self, Item, Malformed, Reader};
use crate::repo::link::Link;

/// A part of a visit's bytes.
#[derive(Clone, Copy)]
pub struct Part {
    /// Where it begins.
    pub from: u32,
    /// Where it ends.
    pub to: u32,
}

impl Part {
    /// The part of these bytes, which are those that it was made from.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.from as usize..self.to as usize]
    }

    /// The same as a link.
    #[inline]
    pub fn link(self, bytes: &[u8]) -> Link<'_> {
        Link(self.of(bytes))
    }
}

/// An entry of a node.
pub struct Entry {
    /// How much of the key before it its key begins with, in bytes.
    pub prefix: usize,
    /// The rest of its key.
    pub suffix: Part,
    /// The link to its record.
    pub value: Part,
    /// Where the record may lie.
    pub guess: Option<Place>,
    /// The subtree behind it.
    pub right: Option<Subtree>,
}

/// A link to a node.
#[derive(Clone, Copy)]
pub struct Subtree {
    /// The link.
    pub link: Part,
    /// Where the node may lie.
    pub guess: Option<Place>,
}

/// Reads `{"e": [entry], "l": link or null}`. Unknown fields are passed over, as other readers do.
pub fn read_node(bytes: &[u8], visit: &mut Visit) -> cbor::Result<()> {
    let mut reader = Reader::new(bytes);
    let mut left = None;
    let mut have_entries = false;
    let mut keys = Keys::default();
    let Item::Map(fields) = reader.item()? else {
        return Err(Malformed::Type("a node"));
    };
    for _ in 0..fields {
        match keys.next(&mut reader)? {
            "l" => left = subtree(&mut reader, visit)?,
            "e" => {
                have_entries = true;
                let Item::Array(count) = reader.item()? else {
                    return Err(Malformed::Type("an array of entries"));
                };
                for _ in 0..count {
                    let entry = read_entry(&mut reader, visit)?;
                    visit.entries.push(entry);
                }
            }
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    if !have_entries {
        return Err(Malformed::Type("a node: field e is missing"));
    }
    visit.below = left;
    Ok(())
}

/// Reads `{"k": bytes, "p": integer, "t": link or null, "v": link}`.
fn read_entry(reader: &mut Reader<'_>, visit: &mut Visit) -> cbor::Result<Entry> {
    let (mut suffix, mut prefix, mut value, mut right) = (None, None, None, None);
    let mut keys = Keys::default();
    let Item::Map(fields) = reader.item()? else {
        return Err(Malformed::Type("an entry"));
    };
    for _ in 0..fields {
        match keys.next(reader)? {
            "k" => match reader.item()? {
                Item::Bytes(bytes) => suffix = Some(visit.keep(bytes, MAX_KEY + 1)),
                _ => return Err(Malformed::Type("bytes in field k")),
            },
            "p" => match reader.item()? {
                // No key is as long as this, so the walk refuses what does not fit.
                Item::Unsigned(n) => prefix = Some(usize::try_from(n).unwrap_or(usize::MAX)),
                _ => return Err(Malformed::Type("a length in field p")),
            },
            "v" => match reader.item()? {
                Item::Link(cid) => value = Some(visit.keep(cid, MAX_LINK)),
                _ => return Err(Malformed::Type("a link in field v")),
            },
            "t" => right = subtree(reader, visit)?,
            _ => reader.skip()?,
        }
    }
    match (suffix, prefix, value) {
        (Some(suffix), Some(prefix), Some(value)) => Ok(Entry {
            prefix,
            suffix,
            value,
            guess: None,
            right,
        }),
        _ => Err(Malformed::Type(
            "an entry: one of the fields k, p, v is missing",
        )),
    }
}

fn subtree(reader: &mut Reader<'_>, visit: &mut Visit) -> cbor::Result<Option<Subtree>> {
    match reader.item()? {
        Item::Link(cid) => Ok(Some(Subtree {
            link: visit.keep(cid, MAX_LINK),
            guess: None,
        })),
        Item::Null => Ok(None),
        _ => Err(Malformed::Type("a link or null")),
    }
}

/// Keys of a map in DAG-CBOR order (shorter first, then bytewise), which also excludes repeated ones.
#[derive(Default)]
struct Keys<'a> {
    last: Option<&'a str>,
}

impl<'a> Keys<'a> {
    fn next(&mut self, reader: &mut Reader<'a>) -> cbor::Result<&'a str> {
        let key = reader.key()?;
        if self.last.is_some_and(|last| !cbor::in_order(last, key)) {
            return Err(Malformed::KeyOrder);
        }
        self.last = Some(key);
        Ok(key)
    }
}
