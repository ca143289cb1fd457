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
//! ancestor cannot be made at all.) Source: atproto.com/specs/repository, "MST Structure". Pinned by `tests/repo_mst.rs`
//! and `tests/repo_mst_nodes.rs` (`r7_…`).

use sha2::{Digest as _, Sha256};

use super::blocks::BlockStore;
use super::cbor::{self, Item, Malformed, Reader};
use super::link::{Digest, Link};
use crate::error::{JobError, Reason};

/// Longest key in bytes that the walk follows. Keys over 1024 bytes are legal here and skipped as records (R1), but prefix
/// compression would let a CAR of a few megabytes spell out terabytes of keys to be hashed; no server writes such keys.
const MAX_KEY: usize = 4096;

/// A proven tree.
pub struct Tree<'a> {
    blocks: &'a BlockStore,
    root: Digest,
    leaves: u64,
}

impl<'a> Tree<'a> {
    /// Number of leaves.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The block of a leaf's record; `None` where the leaf's CID leads to no block, so that there is no record.
    pub fn record(&self, leaf: &Leaf<'_, '_>) -> Option<&'a [u8]> {
        self.blocks.get(leaf.value.dag_cbor()?)
    }

    /// The second walk: all leaves in the order of their keys.
    pub fn walk(&self) -> Walk<'a> {
        Walk::new(self.blocks, self.root, false)
    }
}

/// A key and the link to its record. The key is not checked beyond R7; see [`KeyParser`](super::record::KeyParser).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'k, 'a> {
    /// `collection/rkey`, as bytes.
    pub key: &'k [u8],
    /// The CID of the record.
    pub value: Link<'a>,
}

/// The first walk: proves the tree below `root`.
///
/// # Errors
/// [`Reason::Incomplete`] where a node or a record's block is missing, [`Reason::Mst`] for everything else.
pub fn prove<'a>(blocks: &'a BlockStore, root: Link<'_>) -> Result<Tree<'a>, JobError> {
    let root = *root
        .dag_cbor()
        .ok_or_else(|| missing(format_args!("root {root} of the tree")))?;
    let mut walk = Walk::new(blocks, root, true);
    let mut leaves = 0;
    while let Some(leaf) = walk.next()? {
        // A value of another kind is no record; it is skipped later and needs no block.
        if leaf
            .value
            .dag_cbor()
            .is_some_and(|digest| !blocks.contains(digest))
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
pub struct Walk<'a> {
    blocks: &'a BlockStore,
    /// Until the walk begins.
    root: Option<Digest>,
    /// Whether order and depth are checked; a proven tree need not be proved again.
    proving: bool,
    /// The nodes from the root down to the current one.
    path: Vec<Visit<'a>>,
    /// The last key handed out.
    last: Vec<u8>,
    any: bool,
    /// Used visits, kept for their memory.
    spare: Vec<Visit<'a>>,
}

/// A node on the path.
#[derive(Default)]
struct Visit<'a> {
    entries: Vec<Entry<'a>>,
    /// Index of the next entry.
    next: usize,
    /// The subtree to go into before the next entry: `l` at first, then the `t` of the entry before.
    below: Option<Link<'a>>,
    layer: u8,
    /// The key of the entry before. Prefixes refer to it, and not to the last key of the walk, which lies in a subtree.
    key: Vec<u8>,
}

struct Entry<'a> {
    prefix: usize,
    suffix: &'a [u8],
    value: Link<'a>,
    right: Option<Link<'a>>,
}

impl<'a> Walk<'a> {
    fn new(blocks: &'a BlockStore, root: Digest, proving: bool) -> Self {
        Walk {
            blocks,
            root: Some(root),
            proving,
            path: Vec::new(),
            last: Vec::new(),
            any: false,
            spare: Vec::new(),
        }
    }

    /// The next leaf, or `None` after the last.
    ///
    /// # Errors
    /// As [`prove`]; on a proven tree there is none.
    #[allow(clippy::should_implement_trait)] // The key is borrowed from the walk, which Iterator cannot say.
    pub fn next(&mut self) -> Result<Option<Leaf<'_, 'a>>, JobError> {
        if let Some(root) = self.root.take() {
            self.enter_root(&root)?;
        }
        loop {
            let Some(visit) = self.path.last_mut() else {
                return Ok(None);
            };
            if let Some(below) = visit.below.take() {
                let layer = visit.layer;
                self.enter(below, layer)?;
                continue;
            }
            let Some(entry) = visit.entries.get(visit.next) else {
                self.spare.extend(self.path.pop());
                continue;
            };
            visit.next += 1;
            visit.below = entry.right;
            if entry.prefix > visit.key.len() {
                return Err(wrong(format_args!(
                    "prefix of {} bytes after a key of {} bytes",
                    entry.prefix,
                    visit.key.len()
                )));
            }
            visit.key.truncate(entry.prefix);
            visit.key.extend_from_slice(entry.suffix);
            if visit.key.len() > MAX_KEY {
                return Err(wrong(format_args!("a key of {} bytes", visit.key.len())));
            }
            let value = entry.value;
            if self.proving {
                if self.any && visit.key <= self.last {
                    return Err(wrong(format_args!(
                        "key {} is not in order",
                        show(&visit.key)
                    )));
                }
                if layer_of(&visit.key) != visit.layer {
                    return Err(wrong(format_args!(
                        "key {} is at the wrong depth",
                        show(&visit.key)
                    )));
                }
                self.any = true;
            }
            self.last.clear();
            self.last.extend_from_slice(&visit.key);
            return Ok(Some(Leaf {
                key: &self.last,
                value,
            }));
        }
    }

    /// The root's layer is that of its first key; every other layer follows from it.
    fn enter_root(&mut self, root: &Digest) -> Result<(), JobError> {
        let visit = self.read(root, || "root of the tree".to_owned())?;
        match (visit.entries.first(), visit.below) {
            (Some(first), _) => {
                // Its prefix is 0, or the walk refuses it.
                let layer = layer_of(first.suffix);
                self.path.push(Visit { layer, ..visit });
                Ok(())
            }
            (None, None) => Ok(()),
            (None, Some(_)) => Err(wrong("the root has no entries but a left pointer")),
        }
    }

    fn enter(&mut self, link: Link<'a>, layer_above: u8) -> Result<(), JobError> {
        let layer = layer_above
            .checked_sub(1)
            .ok_or_else(|| wrong("a pointer leads below the lowest layer"))?;
        let digest = link
            .dag_cbor()
            .ok_or_else(|| missing(format_args!("node {link}")))?;
        let visit = self.read(digest, || format!("node {link}"))?;
        if visit.entries.is_empty() && visit.below.is_none() {
            return Err(wrong(format_args!("node {link} is empty")));
        }
        self.path.push(Visit { layer, ..visit });
        Ok(())
    }

    /// Reads a node into a spare visit.
    fn read(&mut self, digest: &Digest, name: impl Fn() -> String) -> Result<Visit<'a>, JobError> {
        let bytes = self.blocks.get(digest).ok_or_else(|| missing(name()))?;
        let mut visit = self.spare.pop().unwrap_or_default();
        visit.entries.clear();
        visit.next = 0;
        visit.key.clear();
        visit.below = read_node(bytes, &mut visit.entries)
            .map_err(|e| wrong(format_args!("{}: {e}", name())))?;
        Ok(visit)
    }
}

/// Reads `{"e": [entry], "l": link or null}`; returns `l`. Unknown fields are passed over, as other readers do.
fn read_node<'a>(bytes: &'a [u8], entries: &mut Vec<Entry<'a>>) -> cbor::Result<Option<Link<'a>>> {
    let mut reader = Reader::new(bytes);
    let mut left = None;
    let mut have_entries = false;
    let mut keys = Keys::default();
    let Item::Map(fields) = reader.item()? else {
        return Err(Malformed::Type("a node"));
    };
    for _ in 0..fields {
        match keys.next(&mut reader)? {
            "l" => left = link_or_null(&mut reader)?,
            "e" => {
                have_entries = true;
                let Item::Array(count) = reader.item()? else {
                    return Err(Malformed::Type("an array of entries"));
                };
                for _ in 0..count {
                    entries.push(read_entry(&mut reader)?);
                }
            }
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    if !have_entries {
        return Err(Malformed::Type("a node: field e is missing"));
    }
    Ok(left)
}

/// Reads `{"k": bytes, "p": integer, "t": link or null, "v": link}`.
fn read_entry<'a>(reader: &mut Reader<'a>) -> cbor::Result<Entry<'a>> {
    let (mut suffix, mut prefix, mut value, mut right) = (None, None, None, None);
    let mut keys = Keys::default();
    let Item::Map(fields) = reader.item()? else {
        return Err(Malformed::Type("an entry"));
    };
    for _ in 0..fields {
        match keys.next(reader)? {
            "k" => match reader.item()? {
                Item::Bytes(bytes) => suffix = Some(bytes),
                _ => return Err(Malformed::Type("bytes in field k")),
            },
            "p" => match reader.item()? {
                // No key is as long as this, so the walk refuses what does not fit.
                Item::Unsigned(n) => prefix = Some(usize::try_from(n).unwrap_or(usize::MAX)),
                _ => return Err(Malformed::Type("a length in field p")),
            },
            "v" => match reader.item()? {
                Item::Link(cid) => value = Some(Link(cid)),
                _ => return Err(Malformed::Type("a link in field v")),
            },
            "t" => right = link_or_null(reader)?,
            _ => reader.skip()?,
        }
    }
    match (suffix, prefix, value) {
        (Some(suffix), Some(prefix), Some(value)) => Ok(Entry {
            prefix,
            suffix,
            value,
            right,
        }),
        _ => Err(Malformed::Type(
            "an entry: one of the fields k, p, v is missing",
        )),
    }
}

fn link_or_null<'a>(reader: &mut Reader<'a>) -> cbor::Result<Option<Link<'a>>> {
    match reader.item()? {
        Item::Link(cid) => Ok(Some(Link(cid))),
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

fn wrong(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Mst, what)
}

fn missing(what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Incomplete, format_args!("{what} is not in the CAR"))
}

fn show(key: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key)
}
