//! A repo that is being changed: after each change the hashes above it are made again, up to the commit, which is signed again.

use super::bases::Leaf;
use crate::support::generator::{
    Block, Cid, Fields, SigningKey, Value, commit_fields, mst, sign_commit, tid,
};

/// The nodes and records of a repo, every node before what it leads to, and the commit that is to come.
#[derive(Clone, Debug)]
pub struct Draft {
    pub did: String,
    pub rev: String,
    pub key: SigningKey,
    pub blocks: Vec<Block>,
    /// Which of the blocks are nodes; the first is the root.
    pub nodes: Vec<usize>,
    pub records: Vec<usize>,
}

/// The rev of all sound commits.
pub fn rev() -> String {
    tid(1_750_000_000_000_000, 7)
}

impl Draft {
    /// The sound tree of these leaves, whose keys ascend.
    pub fn of(did: &str, key: &SigningKey, leaves: &[Leaf]) -> Self {
        let entries: Vec<_> = leaves.iter().map(|(key, cid, _)| (key, *cid)).collect();
        let tree = mst::build(&entries);
        let mut draft = Self {
            did: did.to_owned(),
            rev: rev(),
            key: key.clone(),
            blocks: Vec::new(),
            nodes: Vec::new(),
            records: Vec::new(),
        };
        for step in tree.walk {
            let place = draft.blocks.len();
            match step {
                mst::Step::Node(node) => {
                    draft.nodes.push(place);
                    draft.blocks.push(tree.nodes[node].clone());
                }
                mst::Step::Record(index) => {
                    let (_, cid, block) = &leaves[index];
                    let known = draft.blocks.iter().any(|(known, _)| known == cid);
                    if let (Some(block), false) = (block, known) {
                        draft.records.push(place);
                        draft.blocks.push((*cid, block.clone()));
                    }
                }
            }
        }
        draft
    }

    pub fn root(&self) -> Cid {
        self.blocks[0].0
    }

    /// Puts other bytes in a block's place; what leads to the block leads to its new address.
    ///
    /// `keep`: the blocks of before stay in the archive.
    pub fn replace(&mut self, place: usize, bytes: Vec<u8>, keep: bool) {
        let mut old = Vec::new();
        let mut renamed = Vec::new();
        let mut bytes = Some(bytes);
        for at in (0..=place).rev() {
            let changed = match bytes.take() {
                Some(bytes) => Some(bytes),
                None if self.nodes.contains(&at) => with_links(&self.blocks[at].1, &renamed),
                None => None,
            };
            if let Some(bytes) = changed {
                let new = (Cid::dag_cbor(&bytes), bytes);
                let before = std::mem::replace(&mut self.blocks[at], new);
                renamed.push((before.0.digest, self.blocks[at].0.digest));
                old.push(before);
            }
        }
        if keep {
            self.blocks.extend(old);
        }
    }

    /// The regular commit, signed.
    pub fn commit(&self) -> Block {
        sign_commit(self.fields(), &self.key)
    }

    /// The regular commit without the signature: what is signed.
    pub fn message(&self) -> Vec<u8> {
        Value::Map(self.fields()).encode()
    }

    /// The regular fields of the commit, without the signature.
    pub fn fields(&self) -> Fields {
        commit_fields(&self.did, &self.rev, self.root())
    }
}

/// The node with its links renamed; `None` where it has none of them.
fn with_links(node: &[u8], renamed: &[([u8; 32], [u8; 32])]) -> Option<Vec<u8>> {
    const START: [u8; 4] = [1, 0x71, 0x12, 0x20];
    let mut new: Option<Vec<u8>> = None;
    for at in START.len()..node.len().saturating_sub(31) {
        if node[at - START.len()..at] != START {
            continue;
        }
        if let Some((_, to)) = renamed.iter().find(|(from, _)| node[at..at + 32] == *from) {
            new.get_or_insert_with(|| node.to_vec())[at..at + 32].copy_from_slice(to);
        }
    }
    new
}
