//! The Merkle search tree: the walk that proves it, and the walk that reads its leaves (R7).
//!
//! [`prove`] visits every node and every key and only then hands out a [`Tree`], so the type is the proof: whoever holds one
//! may read leaves. What is proved: keys strictly ascend over the whole tree; each key lies on the layer that its hash demands
//! (leading zero bits of its SHA-256, divided by two); `l` and `t` lead exactly one layer down; a prefix is no longer than the
//! key before it in the node, and 0 for the first; a node without entries is the root of an empty repo, or has a left pointer
//! and is not the root; every node and every record's block is there.
//!
//! The walk is iterative. Layers count down from at most 128 and every subtree must end in a leaf, so the stack is bounded; a node
//! that occurs twice repeats its keys and breaks the order, so no input can make the walk loop. (A node that hashes to its own
//! ancestor cannot be made at all.) What is needed of a node is copied out of its block, so that the blocks may move to a file in
//! the midst of a walk; and as soon as a node is read, what it leads to is asked of the memory ([`BlockStore::guess`]), so that a
//! large tree costs hardly more per leaf than a small one. Both walks look blocks up by their whole digest.
//!
//! Source: atproto.com/specs/repository, "MST Structure". Pinned by `tests/repo_mst.rs` and `tests/repo_mst_nodes.rs` (`r7_…`).

mod node;
mod visit;

use sha2::{Digest as _, Sha256};

use self::node::{Subtree, read_node};
use self::visit::Visit;
use super::blocks::{BlockStore, Place};
use super::link::{Digest, Link, dag_cbor_cid};
use crate::error::{JobError, Reason};
use crate::memory::Share;

/// Longest key in bytes that the walk follows. Keys over 1024 bytes are legal here and skipped as records (R1), but prefix
/// compression would let a CAR of a few megabytes spell out terabytes of keys to be hashed; no server writes such keys.
const MAX_KEY: usize = 4096;

/// How much of a link is looked at: more than the longest CID has that can be read.
const MAX_LINK: usize = 128;
/// Bytes that a node on the path may take before they are counted in the budget; real nodes have a few kilobytes.
const SMALL_VISIT: usize = 64 << 10;

/// A proven tree.
pub struct Tree<'a> {
    blocks: &'a mut BlockStore,
    root: Digest,
    leaves: u64,
    /// For blocks that are read from a file.
    buffer: Vec<u8>,
}

impl Tree<'_> {
    /// Number of leaves.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The block of a leaf's record; `None` where the leaf's CID leads to no block, so that there is no record.
    ///
    /// # Errors
    /// [`Reason::Deferred`], when a file of blocks cannot be read.
    #[inline]
    pub fn record(&mut self, leaf: &Leaf<'_>) -> Result<Option<&[u8]>, JobError> {
        self.blocks.relieve();
        let Some(digest) = leaf.value.dag_cbor() else {
            return Ok(None);
        };
        self.blocks.read_at(leaf.guess, digest, &mut self.buffer)
    }

    /// The second walk: all leaves in the order of their keys.
    pub fn walk(&self) -> Walk {
        Walk::new(self.root, false)
    }
}

/// A key and the link to its record. The key is not checked beyond R7; see [`KeyParser`](super::record::KeyParser).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'w> {
    /// `collection/rkey`, as bytes.
    pub key: &'w [u8],
    /// The CID of the record.
    pub value: Link<'w>,
    guess: Option<Place>,
}

/// The first walk: proves the tree below `root`.
///
/// # Errors
/// [`Reason::Incomplete`] where a node or a record's block is missing, [`Reason::Deferred`] where a file of blocks cannot be read,
/// [`Reason::Mst`] for everything else.
pub fn prove<'a>(blocks: &'a mut BlockStore, root: Link<'_>) -> Result<Tree<'a>, JobError> {
    let root = *root
        .dag_cbor()
        .ok_or_else(|| missing(format_args!("root {root} of the tree")))?;
    let mut walk = Walk::new(root, true);
    let mut leaves = 0;
    while let Some(leaf) = walk.step(blocks)? {
        blocks.relieve();
        // A value of another kind is no record; it is skipped later and needs no block.
        if let Some(digest) = leaf.value.dag_cbor()
            && blocks.find_at(leaf.guess, digest)?.is_none()
        {
            let key = String::from_utf8_lossy(leaf.key);
            return Err(missing(format_args!("record {key} {}", leaf.value)));
        }
        leaves += 1;
    }
    Ok(Tree {
        blocks,
        root,
        leaves,
        buffer: Vec::new(),
    })
}

/// The layer that a key's hash demands: leading zero bits of SHA-256, two bits a layer.
pub fn layer_of(key: &[u8]) -> u8 {
    let digest = Sha256::digest(key);
    let mut bits = 0;
    for byte in digest {
        bits += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    // At most 256 / 2.
    (bits / 2) as u8
}

/// A walk over the leaves, in the order of their keys.
pub struct Walk {
    /// Until the walk begins.
    root: Option<Digest>,
    /// Whether order and depth are checked; a proven tree need not be proved again.
    proving: bool,
    /// The nodes from the root down to the current one.
    path: Vec<Level>,
    /// The last key handed out.
    last: Vec<u8>,
    any: bool,
    /// Used visits, kept for their memory.
    spare: Vec<Visit>,
    /// For nodes that are read from a file.
    buffer: Vec<u8>,
    /// What large nodes on the path take.
    large: Option<Share>,
}

/// A node on the path, and the one that is read ahead: that behind its entry of this number.
struct Level {
    visit: Visit,
    ahead: Option<(usize, Visit)>,
}

impl From<Visit> for Level {
    fn from(visit: Visit) -> Self {
        Level { visit, ahead: None }
    }
}

impl Walk {
    fn new(root: Digest, proving: bool) -> Self {
        Walk {
            root: Some(root),
            proving,
            path: Vec::new(),
            last: Vec::new(),
            any: false,
            spare: Vec::new(),
            buffer: Vec::new(),
            large: None,
        }
    }

    /// The next leaf of the tree whose walk this is, or `None` after the last.
    ///
    /// # Errors
    /// [`Reason::Deferred`], when a file of blocks cannot be read.
    #[inline]
    pub fn next(&mut self, tree: &Tree<'_>) -> Result<Option<Leaf<'_>>, JobError> {
        self.step(tree.blocks)
    }

    fn step(&mut self, blocks: &BlockStore) -> Result<Option<Leaf<'_>>, JobError> {
        if let Some(root) = self.root.take() {
            self.enter_root(blocks, &root)?;
        }
        let at = loop {
            let Some(Level { visit, .. }) = self.path.last_mut() else {
                return Ok(None);
            };
            if let Some(below) = visit.below.take() {
                self.enter(blocks, below)?;
                continue;
            }
            if visit.next < visit.entries.len() {
                visit.next += 1;
                break visit.next - 1;
            }
            self.leave();
        };
        self.arrive(blocks, at)
    }

    /// Makes the key of an entry, and checks it.
    fn arrive(&mut self, blocks: &BlockStore, at: usize) -> Result<Option<Leaf<'_>>, JobError> {
        let Some(Level { visit, ahead }) = self.path.last_mut() else {
            return Ok(None);
        };
        // The walk enters it next.
        if let Some((behind, ahead)) = ahead
            && *behind == at
        {
            ahead.guess(blocks);
        }
        let Visit {
            bytes,
            entries,
            below,
            layer,
            key,
            ..
        } = visit;
        let entry = &entries[at];
        *below = entry.right;
        if entry.prefix > key.len() {
            return Err(wrong(format_args!(
                "prefix of {} bytes after a key of {} bytes",
                entry.prefix,
                key.len()
            )));
        }
        key.truncate(entry.prefix);
        key.extend_from_slice(entry.suffix.of(bytes));
        if key.len() > MAX_KEY {
            return Err(wrong(format_args!("a key of more than {MAX_KEY} bytes")));
        }
        if self.proving {
            if self.any && *key <= self.last {
                return Err(wrong(format_args!("key {} is not in order", show(key))));
            }
            if layer_of(key) != *layer {
                return Err(wrong(format_args!(
                    "key {} is at the wrong depth",
                    show(key)
                )));
            }
            self.any = true;
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(Some(Leaf {
            key: &self.last,
            value: entry.value.link(bytes),
            guess: entry.guess,
        }))
    }

    /// The root's layer is that of its first key; every other layer follows from it.
    fn enter_root(&mut self, blocks: &BlockStore, root: &Digest) -> Result<(), JobError> {
        let mut visit = self.read(blocks, None, root, None, || "root of the tree".to_owned())?;
        visit.guess(blocks);
        match (visit.entries.first(), visit.below) {
            (Some(first), _) => {
                // Its prefix is 0, or the walk refuses it.
                visit.layer = layer_of(visit.part(first.suffix));
                self.path.push(visit.into());
                Ok(())
            }
            (None, None) => Ok(()),
            (None, Some(_)) => Err(wrong("the root has no entries but a left pointer")),
        }
    }

    /// Goes into a subtree of the last node of the path.
    fn enter(&mut self, blocks: &BlockStore, subtree: Subtree) -> Result<(), JobError> {
        let Some(Level {
            visit: above,
            ahead,
        }) = self.path.last_mut()
        else {
            return Ok(());
        };
        let layer = above
            .layer
            .checked_sub(1)
            .ok_or_else(|| wrong("a pointer leads below the lowest layer"))?;
        let link = above.link(subtree.link);
        let digest = *link
            .dag_cbor()
            .ok_or_else(|| missing(format_args!("node {link}")))?;
        let name = || format!("node {}", Link(&dag_cbor_cid(&digest)));
        let next = above.next;
        let mut visit = match ahead.take() {
            Some((behind, visit)) if behind + 1 == next => visit,
            _ => self.read(blocks, subtree.guess, &digest, Some(layer), name)?,
        };
        if visit.entries.is_empty() && visit.below.is_none() {
            return Err(wrong(format_args!("{} is empty", name())));
        }
        visit.guess(blocks);
        visit.layer = layer;
        self.read_ahead(blocks, next);
        self.path.push(visit.into());
        Ok(())
    }

    /// Reads the node that the walk will enter after the one that it is entering: the one behind this entry of the last node of
    /// the path. Where that fails, it will fail again in its turn.
    fn read_ahead(&mut self, blocks: &BlockStore, entry: usize) {
        let Some(Level { visit: above, .. }) = self.path.last() else {
            return;
        };
        let right = above.entries.get(entry).and_then(|entry| entry.right);
        let Some(right) = right else {
            return;
        };
        let Some(digest) = above.link(right.link).dag_cbor().copied() else {
            return;
        };
        let layer = above.layer.checked_sub(1);
        if let Ok(visit) = self.read(blocks, right.guess, &digest, layer, String::new)
            && let Some(above) = self.path.last_mut()
        {
            above.ahead = Some((entry, visit));
        }
    }

    /// Goes back up from the last node of the path.
    fn leave(&mut self) {
        let Some(Level { visit, .. }) = self.path.pop() else {
            return;
        };
        let size = visit.size();
        if size <= SMALL_VISIT {
            self.spare.push(visit);
        } else if let Some(large) = &mut self.large {
            large.shrink(size);
        }
    }

    /// Reads a node into a spare visit.
    fn read(
        &mut self,
        blocks: &BlockStore,
        guess: Option<Place>,
        digest: &Digest,
        layer: Option<u8>,
        name: impl Fn() -> String,
    ) -> Result<Visit, JobError> {
        let bytes = blocks.read_at(guess, digest, &mut self.buffer)?;
        let bytes = bytes.ok_or_else(|| missing(name()))?;
        let mut visit = self.spare.pop().unwrap_or_default();
        visit.clear();
        read_node(bytes, &mut visit).map_err(|e| wrong(format_args!("{}: {e}", name())))?;
        visit.begin(blocks);
        if visit.size() > SMALL_VISIT {
            if self.proving {
                check_layers(&visit, layer)?;
            }
            visit.shrink();
            let large = self.large.get_or_insert_with(|| blocks.share());
            large.grow(visit.size());
        }
        Ok(visit)
    }
}

/// Checks the keys of a large node before the walk goes below it, and not only when it comes to them: a chain of large nodes would
/// all be in memory before the first key is looked at. Without a layer, it is that of the first key.
fn check_layers(visit: &Visit, mut layer: Option<u8>) -> Result<(), JobError> {
    let mut key = Vec::new();
    for entry in &visit.entries {
        key.truncate(entry.prefix);
        key.extend_from_slice(visit.part(entry.suffix));
        if key.len() > MAX_KEY || *layer.get_or_insert_with(|| layer_of(&key)) != layer_of(&key) {
            let key = show(&key[..key.len().min(MAX_KEY)]);
            return Err(wrong(format_args!("key {key} is at the wrong depth")));
        }
    }
    Ok(())
}

fn wrong(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Mst, what)
}

fn missing(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Incomplete, format_args!("{what} is not in the CAR"))
}

fn show(key: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key)
}
