//! A tree's leaves, and whether it is one (R7). Recursive, for layers bound its depth.

use super::archive::{Archive, Digest};
use super::cbor::{self, Item};
use super::{Refusal, Stage};
use crate::support::generator::Cid;
use crate::support::generator::mst::height;

/// The program follows no longer keys, and says so.
const MAX_KEY: usize = 4096;
/// Enough for the nodes that the mutants have, whatever stands in fields that nobody knows.
const DEPTH: usize = 200;

/// A key and the binary CID of its value.
pub type Leaf = (Vec<u8>, Vec<u8>);

/// All leaves in order, or why this is no tree.
pub fn leaves(archive: &Archive<'_>, root: &[u8]) -> Result<Vec<Leaf>, Refusal> {
    let mut walk = Walk {
        archive,
        leaves: Vec::new(),
    };
    let node = walk.node(root)?;
    match (node.entries.first(), &node.left) {
        (None, None) => {}
        (None, Some(_)) => return Err(mst("a root with nothing but a left pointer")),
        (Some(first), _) => {
            let layer = height(&first.suffix);
            walk.below(node, layer)?;
        }
    }
    Ok(walk.leaves)
}

/// The digest of a CID under which a node or a record may be found.
pub fn dag_cbor_digest(cid: &[u8]) -> Option<Digest> {
    let cid = Cid::from_bytes(cid)?;
    (cid.codec == 0x71).then_some(cid.digest)
}

struct Node {
    left: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

struct Entry {
    prefix: usize,
    suffix: Vec<u8>,
    value: Vec<u8>,
    right: Option<Vec<u8>>,
}

struct Walk<'a> {
    archive: &'a Archive<'a>,
    leaves: Vec<Leaf>,
}

impl Walk<'_> {
    fn subtree(&mut self, cid: &[u8], layer_above: u32) -> Result<(), Refusal> {
        let layer = layer_above
            .checked_sub(1)
            .ok_or(mst("a pointer below the lowest layer"))?;
        let node = self.node(cid)?;
        if node.entries.is_empty() && node.left.is_none() {
            return Err(mst("an empty node within the tree"));
        }
        self.below(node, layer)
    }

    fn below(&mut self, node: Node, layer: u32) -> Result<(), Refusal> {
        if let Some(left) = &node.left {
            self.subtree(left, layer)?;
        }
        let mut key: Vec<u8> = Vec::new();
        for entry in node.entries {
            if entry.prefix > key.len() {
                return Err(mst("a prefix beyond the key before"));
            }
            key = [&key[..entry.prefix], &entry.suffix].concat();
            if key.len() > MAX_KEY {
                return Err(mst("a key that is too long"));
            }
            if self.leaves.last().is_some_and(|(last, _)| *last >= key) {
                return Err(mst("keys out of order"));
            }
            if height(&key) != layer {
                return Err(mst("a key at the wrong depth"));
            }
            let digest = dag_cbor_digest(&entry.value);
            if digest.is_some_and(|digest| !self.archive.blocks.contains_key(&digest)) {
                return Err(missing("a record"));
            }
            self.leaves.push((key.clone(), entry.value));
            if let Some(right) = &entry.right {
                self.subtree(right, layer)?;
            }
        }
        Ok(())
    }

    fn node(&self, cid: &[u8]) -> Result<Node, Refusal> {
        let digest = dag_cbor_digest(cid).ok_or(missing("a node of another kind"))?;
        let block = self.archive.blocks.get(&digest);
        let block = block.ok_or(missing("a node"))?;
        let item = cbor::parse(block, DEPTH).map_err(mst)?;
        node(&item).ok_or(mst("a node of another form"))
    }
}

fn node(item: &Item) -> Option<Node> {
    let Item::List(entries) = item.field("e")? else {
        return None;
    };
    let entries = entries.iter().map(entry).collect::<Option<_>>()?;
    item.is_ordered_map().then_some(Node {
        left: pointer(item.field("l"))?,
        entries,
    })
}

fn entry(item: &Item) -> Option<Entry> {
    let (Item::Int(prefix), Item::Bytes(suffix), Item::Link(value)) =
        (item.field("p")?, item.field("k")?, item.field("v")?)
    else {
        return None;
    };
    let prefix = u64::try_from(*prefix).ok()?;
    item.is_ordered_map().then(|| {
        Some(Entry {
            prefix: usize::try_from(prefix).unwrap_or(usize::MAX),
            suffix: suffix.clone(),
            value: value.clone(),
            right: pointer(item.field("t"))?,
        })
    })?
}

/// A pointer that may be null or absent; the outer `None` where it is neither that nor a link.
#[allow(clippy::option_option, reason = "the two mean different things")]
fn pointer(item: Option<&Item>) -> Option<Option<Vec<u8>>> {
    match item {
        None | Some(Item::Null) => Some(None),
        Some(Item::Link(cid)) => Some(Some(cid.clone())),
        Some(_) => None,
    }
}

fn mst(text: &'static str) -> Refusal {
    Refusal {
        stage: Stage::Tree,
        text,
    }
}

fn missing(text: &'static str) -> Refusal {
    Refusal {
        stage: Stage::Incomplete,
        text,
    }
}
