//! A generated repository with its parts open: to be served as it is, or broken in one place and
//! signed again.

use std::collections::HashMap;

use super::car;
use super::cid::Cid;
use super::commit::{Block, Fields, commit_fields, sign_commit, sign_commit_with};
use super::did;
use super::keys::SigningKey;
use super::mst::Node;
use super::random::Random;

/// A record a reader of the repo must find.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedRecord {
    pub collection: String,
    pub rkey: String,
    pub cid: Cid,
    /// In the data model's JSON form; null where the builder was told to leave the JSON out.
    pub json: serde_json::Value,
}

/// A repository, ready to be served or to be broken.
#[derive(Clone, Debug)]
pub struct Repo {
    pub did: String,
    pub key: SigningKey,
    pub rev: String,
    pub root: Cid,
    /// The first root of the archive, and the address of the first block.
    pub commit_cid: Cid,
    /// The commit, then nodes and records in the order of a depth-first walk, none twice.
    pub blocks: Vec<Block>,
    /// The addresses of the tree's nodes, in the order of the walk.
    pub nodes: Vec<Cid>,
    /// In key order.
    pub expected: Vec<ExpectedRecord>,
}

impl Repo {
    /// The repo of a signed commit and any other blocks; nothing is expected to be found in it.
    pub fn from_parts(
        did: &str,
        key: SigningKey,
        rev: &str,
        root: Cid,
        commit: Block,
        others: Vec<Block>,
    ) -> Self {
        let commit_cid = commit.0;
        let blocks = std::iter::once(commit).chain(others).collect();
        let (did, rev) = (did.to_owned(), rev.to_owned());
        Self {
            did,
            key,
            rev,
            root,
            commit_cid,
            blocks,
            nodes: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// The bytes of the signed commit.
    pub fn commit(&self) -> &[u8] {
        self.block(self.commit_cid).expect("a repo has its commit")
    }

    /// The bytes of the block of this address.
    pub fn block(&self, cid: Cid) -> Option<&[u8]> {
        self.blocks
            .iter()
            .find(|(known, _)| *known == cid)
            .map(|(_, bytes)| bytes.as_slice())
    }

    /// The first node that `wanted` accepts, with its place in `nodes`.
    pub fn find_node(&self, wanted: impl Fn(&Node) -> bool) -> Option<(usize, Node)> {
        let blocks: HashMap<_, _> = self
            .blocks
            .iter()
            .map(|(cid, bytes)| (cid, bytes))
            .collect();
        let nodes = self
            .nodes
            .iter()
            .map(|cid| Node::decode(blocks[cid]).expect("a node"));
        nodes.enumerate().find(|(_, node)| wanted(node))
    }

    /// The address of the record under `collection/rkey`.
    pub fn record_cid(&self, collection: &str, rkey: &str) -> Option<Cid> {
        let found = self
            .expected
            .iter()
            .find(|record| record.collection == collection && record.rkey == rkey);
        found.map(|record| record.cid)
    }

    /// The archive, blocks in their order.
    pub fn car(&self) -> Vec<u8> {
        car::write(&[self.commit_cid], &self.blocks)
    }

    /// The archive, blocks in a random order that depends on the seed alone.
    pub fn car_shuffled(&self, seed: u64) -> Vec<u8> {
        let mut blocks = self.blocks.clone();
        Random::new(seed).shuffle(&mut blocks);
        car::write(&[self.commit_cid], &blocks)
    }

    /// The account's DID document.
    pub fn did_document(&self, pds_url: &str) -> serde_json::Value {
        did::did_document(&self.did, &self.key, pds_url)
    }

    /// The fields of a regular commit on this tree, without the signature.
    pub fn commit_fields(&self) -> Fields {
        commit_fields(&self.did, &self.rev, self.root)
    }

    /// The same blocks under a commit of the given fields, signed with the account's key.
    pub fn resign_with_fields(mut self, fields: Fields) -> Self {
        let commit = sign_commit(fields, &self.key);
        self.replace_commit(commit);
        self
    }

    /// The same blocks under a regular commit on another tree.
    pub fn resign_with_root(mut self, root: Cid) -> Self {
        self.root = root;
        let fields = self.commit_fields();
        self.resign_with_fields(fields)
    }

    /// The same blocks under a regular commit whose signature is whatever `sign` makes of the bytes
    /// to be signed.
    pub fn resign_with(mut self, sign: impl FnOnce(&SigningKey, &[u8]) -> Vec<u8>) -> Self {
        let key = self.key.clone();
        let commit = sign_commit_with(self.commit_fields(), |message| sign(&key, message));
        self.replace_commit(commit);
        self
    }

    fn replace_commit(&mut self, commit: Block) {
        let place = self
            .blocks
            .iter()
            .position(|(cid, _)| *cid == self.commit_cid)
            .expect("a repo has its commit");
        self.commit_cid = commit.0;
        self.blocks[place] = commit;
    }

    /// The repo after a change to one of its nodes, given by its place in `nodes` (0 is the root):
    /// the nodes above link to the new node, and the commit is signed again. What is expected stays
    /// as it was.
    pub fn edit_node(mut self, place: usize, edit: impl FnOnce(&mut Node)) -> Self {
        let mut edit = Some(edit);
        let mut renamed: HashMap<Cid, Cid> = HashMap::new();
        let places = self.blocks.iter().enumerate();
        let slots: HashMap<Cid, usize> = places.map(|(slot, (cid, _))| (*cid, slot)).collect();
        // Children follow their parents in the walk, so that the way up is the way back.
        for index in (0..=place).rev() {
            let old = self.nodes[index];
            let slot = slots[&old];
            let mut node = Node::decode(&self.blocks[slot].1).expect("a node of the generator");
            let mut changed = false;
            if index == place
                && let Some(edit) = edit.take()
            {
                edit(&mut node);
                changed = true;
            }
            for subtree in node.subtrees_mut() {
                if let Some(new) = renamed.get(subtree) {
                    *subtree = *new;
                    changed = true;
                }
            }
            if changed {
                self.blocks[slot] = node.block();
                self.nodes[index] = self.blocks[slot].0;
                renamed.insert(old, self.nodes[index]);
            }
        }
        let root = self.nodes[0];
        self.resign_with_root(root)
    }
}
