//! The Merkle Search Tree: a bulk builder of canonical trees.
//!
//! Written from the repository specification. A key lives at the layer its hash gives it; a node
//! holds the neighbouring keys of one layer, with the subtrees of the next lower layer before,
//! between and after them.

use super::cid::{Cid, sha256};
pub use super::node::{Entry, Node, common_prefix};

/// The layer of a key: pairs of leading zero bits of its SHA-256.
pub fn height(key: impl AsRef<[u8]>) -> u32 {
    let mut zeros = 0;
    for byte in sha256(key.as_ref()) {
        zeros += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    zeros / 2
}

/// The first key `<prefix><number>` of the given layer, numbers counted up from `from`.
pub fn key_of_height(prefix: &str, layer: u32, from: u64) -> String {
    (from..)
        .map(|number| format!("{prefix}{number:08}"))
        .find(|key| height(key) == layer)
        .expect("every layer has keys")
}

/// One step of the depth-first walk over a tree: a node comes before what it holds, records and
/// subtrees in key order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An index into the tree's nodes.
    Node(usize),
    /// An index into the entries the tree was built from.
    Record(usize),
}

/// A built tree.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Cid,
    /// Every node, in the order of the walk.
    pub nodes: Vec<(Cid, Vec<u8>)>,
    pub walk: Vec<Step>,
}

/// Builds the canonical tree of keys and values. The keys must be strictly ascending.
pub fn build<K: AsRef<[u8]>>(entries: &[(K, Cid)]) -> Tree {
    assert!(
        entries.is_sorted_by(|(a, _), (b, _)| a.as_ref() < b.as_ref()),
        "the keys of a tree are strictly ascending"
    );
    let heights: Vec<u8> = entries.iter().map(|(key, _)| height(key) as u8).collect();
    let top = heights.iter().copied().max().unwrap_or(0);
    let mut builder = Builder {
        entries,
        heights,
        nodes: Vec::new(),
        walk: Vec::with_capacity(entries.len()),
    };
    let root = builder.node(0, entries.len(), top);
    Tree {
        root,
        nodes: builder.nodes,
        walk: builder.walk,
    }
}

struct Builder<'a, K> {
    entries: &'a [(K, Cid)],
    heights: Vec<u8>,
    nodes: Vec<(Cid, Vec<u8>)>,
    walk: Vec<Step>,
}

impl<K: AsRef<[u8]>> Builder<'_, K> {
    /// Builds the node that covers the entries from `start` to `end` at `layer`, and everything
    /// under it.
    fn node(&mut self, start: usize, end: usize, layer: u8) -> Cid {
        // The place in the walk comes before the children, the content after them.
        let place = self.nodes.len();
        self.nodes.push((
            Cid {
                codec: 0,
                digest: [0; 32],
            },
            Vec::new(),
        ));
        self.walk.push(Step::Node(place));

        let mut node = Node::default();
        let mut previous: Option<usize> = None;
        let mut from = start;
        for index in start..=end {
            if index < end && self.heights[index] != layer {
                continue;
            }
            let subtree = (from < index).then(|| self.node(from, index, layer - 1));
            match node.e.last_mut() {
                Some(entry) => entry.t = subtree,
                None => node.l = subtree,
            }
            if index < end {
                node.e.push(self.entry(previous, index));
                self.walk.push(Step::Record(index));
                previous = Some(index);
            }
            from = index + 1;
        }

        let block = node.block();
        let cid = block.0;
        self.nodes[place] = block;
        cid
    }

    fn entry(&self, previous: Option<usize>, index: usize) -> Entry {
        let (key, v) = &self.entries[index];
        let key = key.as_ref();
        let shared = previous.map_or(0, |previous| {
            common_prefix(self.entries[previous].0.as_ref(), key)
        });
        Entry {
            p: shared as u64,
            k: key[shared..].to_vec(),
            v: *v,
            t: None,
        }
    }
}
