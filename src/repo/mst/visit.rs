//! A node on the path of a walk.
//!
//! What is needed of a node is copied out of its block: suffixes and links. Where its links lead is looked up in two steps, so that
//! the waits for memory overlap with each other and with other work: [`Visit::begin`] as soon as the node is read, which may be
//! before the walk enters it, and [`Visit::guess`] when it is about to.

use super::node::{Entry, Part, Subtree};
use crate::repo::blocks::{BlockStore, LookUp};
use crate::repo::link::Link;

/// A node on the path. What is needed of it is copied: its block may move to a file while the walk is below it, and may have fields
/// of megabytes that nobody needs.
#[derive(Default)]
pub struct Visit {
    /// Suffixes and links, one behind the other.
    pub bytes: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Index of the next entry.
    pub next: usize,
    /// The subtree to go into before the next entry: `l` at first, then the `t` of the entry before.
    pub below: Option<Subtree>,
    pub layer: u8,
    /// The key of the entry before. Prefixes refer to it, and not to the last key of the walk, which lies in a subtree.
    pub key: Vec<u8>,
    /// Look-ups that are begun, in the order of the links.
    begun: Vec<Option<LookUp>>,
}

impl Visit {
    /// Makes it ready for another node.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.next = 0;
        self.key.clear();
        self.begun.clear();
    }

    /// A part of its bytes.
    pub fn part(&self, part: Part) -> &[u8] {
        // Made by `keep`, so never out of bounds.
        &self.bytes[part.from as usize..part.to as usize]
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.begun.capacity() * size_of::<Option<LookUp>>()
    }

    /// Gives back what it does not need.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
        self.begun.shrink_to_fit();
    }

    /// The same as a link.
    pub fn link(&self, part: Part) -> Link<'_> {
        Link(self.part(part))
    }

    /// Copies a part of a block, up to a length beyond which it is refused in any case; a block has at most 4 MiB.
    pub fn keep(&mut self, bytes: &[u8], most: usize) -> Part {
        let from = self.bytes.len() as u32;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(most)]);
        let to = self.bytes.len() as u32;
        Part { from, to }
    }

    /// Begins to look up what the node leads to.
    pub fn begin(&mut self, blocks: &BlockStore) {
        let Visit {
            bytes,
            entries,
            below,
            begun,
            ..
        } = self;
        let begin = |link: Part| {
            link.link(bytes)
                .dag_cbor()
                .map(|digest| blocks.begin(digest))
        };
        begun.extend(below.iter().map(|below| begin(below.link)));
        for entry in entries.iter() {
            begun.push(begin(entry.value));
            begun.extend(entry.right.iter().map(|right| begin(right.link)));
        }
    }

    /// Guesses where the blocks lie that were begun to be looked up, and has them fetched.
    pub fn guess(&mut self, blocks: &BlockStore) {
        let mut begun = self.begun.drain(..).peekable();
        if begun.peek().is_none() {
            return;
        }
        let mut guess = || begun.next()?.and_then(|look_up| blocks.guess(look_up));
        if let Some(below) = &mut self.below {
            below.guess = guess();
        }
        for entry in &mut self.entries {
            entry.guess = guess();
            if let Some(right) = &mut entry.right {
                right.guess = guess();
            }
        }
    }
}
