//! From the leaf of a proven tree to its `create` event in a [`Batch`], whatever form that has.

use super::batch::{Batch, Form};
use crate::collections::Collections;
use crate::event::Events;
use crate::repo::mst::Leaf;
use crate::repo::record::{self, KeyParser, Skip};

/// How much larger a record is as JSON, and what stands around it, than its key and its block: seldom more.
const AS_JSON: usize = 3;

/// What is kept from leaf to leaf.
pub struct Encoder {
    /// What stands before an event.
    before: Vec<u8>,
    keys: KeyParser,
}

impl Encoder {
    /// With this before each event.
    pub fn new(before: Vec<u8>) -> Self {
        Encoder {
            before,
            keys: KeyParser::default(),
        }
    }

    /// Whether a leaf's record is wanted. A key that is none belongs to no collection: [`Encoder::create`] says that it is skipped.
    pub fn wants(&mut self, collections: &Collections, leaf: &Leaf<'_>) -> bool {
        collections.is_all()
            || self
                .keys
                .parse(leaf.key)
                .map_or(true, |(collection, _)| collections.wants(collection))
    }

    /// Appends a leaf's `create` event; `block` is the record's block, `None` where the leaf's CID leads to no block.
    ///
    /// # Errors
    /// Why the record is skipped; then nothing is appended.
    pub fn create<F: Form>(
        &mut self,
        batch: &mut Batch<F>,
        events: &Events,
        leaf: &Leaf<'_>,
        block: Option<&[u8]>,
    ) -> Result<(), Skip> {
        let (collection, rkey) = self.keys.parse(leaf.key)?;
        let block = block.ok_or(Skip::Cid)?;
        let size =
            self.before.len() + events.repo().len() + AS_JSON * (leaf.key.len() + block.len());
        batch.event(&self.before, size, |out| {
            if !events.begin_create(collection, rkey, leaf.value, out) {
                return Err(Skip::Cid);
            }
            record::transcode(block, out)?;
            Events::end_create(out);
            Ok(())
        })
    }
}
