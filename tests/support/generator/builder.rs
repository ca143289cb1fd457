//! Collects records and makes a valid repository of them, together with what a reader must find in
//! it.

use std::collections::{BTreeMap, HashSet};

use super::cbor::Value;
use super::cid::Cid;
use super::commit::{commit_fields, sign_commit};
use super::did::did_plc;
use super::keys::SigningKey;
use super::mst::{self, Step};
use super::records::{self, Record};
use super::repo::{ExpectedRecord, Repo};
use super::time;

/// A leaf of the tree to be built.
struct Leaf {
    cid: Cid,
    block: Option<Vec<u8>>,
    expected: Option<ExpectedRecord>,
}

/// Collects records and builds a [`Repo`] of them.
pub struct RepoBuilder {
    did: String,
    key: SigningKey,
    rev: String,
    with_json: bool,
    leaves: BTreeMap<Vec<u8>, Leaf>,
}

impl RepoBuilder {
    /// An empty repo of the account, with a key of secp256k1 and a rev of 2025.
    pub fn new(did: impl Into<String>) -> Self {
        let rev = time::tid(1_750_000_000_000_000, 7);
        Self {
            did: did.into(),
            key: SigningKey::k256(0),
            rev,
            with_json: true,
            leaves: BTreeMap::new(),
        }
    }

    /// Signs with this key.
    pub fn key(mut self, key: SigningKey) -> Self {
        self.key = key;
        self
    }

    /// Commits with this rev.
    pub fn rev(mut self, rev: impl Into<String>) -> Self {
        self.rev = rev.into();
        self
    }

    /// Leaves the JSON of the expected records added from here on out: for repos too large to hold
    /// it.
    pub fn without_json(mut self) -> Self {
        self.with_json = false;
        self
    }

    /// Adds records, each encoded as it comes; a key that is there already is taken over.
    pub fn records(mut self, records: impl IntoIterator<Item = Record>) -> Self {
        for record in records {
            let json = if self.with_json {
                record.value.to_json()
            } else {
                serde_json::Value::Null
            };
            self = self.raw_record_expecting(
                &record.collection,
                &record.rkey,
                record.value.encode(),
                json,
            );
        }
        self
    }

    /// Adds one record.
    pub fn record(self, collection: &str, rkey: &str, value: Value) -> Self {
        self.records([Record::new(collection, rkey, value)])
    }

    /// Adds a record of any bytes that a reader must not deliver.
    pub fn raw_record(self, collection: &str, rkey: &str, block: Vec<u8>) -> Self {
        self.raw_key_record(
            format!("{collection}/{rkey}"),
            Cid::dag_cbor(&block),
            Some(block),
        )
    }

    /// Adds a record of any bytes that a reader must deliver as this JSON.
    pub fn raw_record_expecting(
        mut self,
        collection: &str,
        rkey: &str,
        block: Vec<u8>,
        json: serde_json::Value,
    ) -> Self {
        let cid = Cid::dag_cbor(&block);
        let expected = ExpectedRecord {
            collection: collection.to_owned(),
            rkey: rkey.to_owned(),
            cid,
            json,
        };
        let leaf = Leaf {
            cid,
            block: Some(block),
            expected: Some(expected),
        };
        self.leaves
            .insert(format!("{collection}/{rkey}").into_bytes(), leaf);
        self
    }

    /// Adds a leaf of any key, address and block that a reader must not deliver; the block may be
    /// missing.
    pub fn raw_key_record(
        mut self,
        key: impl Into<Vec<u8>>,
        cid: Cid,
        block: Option<Vec<u8>>,
    ) -> Self {
        self.leaves.insert(
            key.into(),
            Leaf {
                cid,
                block,
                expected: None,
            },
        );
        self
    }

    /// Builds the tree and signs the commit.
    pub fn build(self) -> Repo {
        let (entries, mut leaves): (Vec<_>, Vec<_>) = self
            .leaves
            .into_iter()
            .map(|(key, leaf)| ((key, leaf.cid), leaf))
            .unzip();
        let mst::Tree { root, nodes, walk } = mst::build(&entries);
        drop(entries);

        let commit = sign_commit(commit_fields(&self.did, &self.rev, root), &self.key);
        let mut repo = Repo::from_parts(&self.did, self.key, &self.rev, root, commit, Vec::new());
        repo.nodes = nodes.iter().map(|(cid, _)| *cid).collect();
        let mut nodes = nodes.into_iter();
        let mut written = HashSet::new();
        for step in walk {
            match step {
                Step::Node(_) => repo.blocks.extend(nodes.next()),
                Step::Record(index) => {
                    let leaf = &mut leaves[index];
                    repo.expected.extend(leaf.expected.take());
                    if let Some(block) = leaf.block.take()
                        && written.insert(leaf.cid)
                    {
                        repo.blocks.push((leaf.cid, block));
                    }
                }
            }
        }
        repo
    }
}

/// The repo of a seed, with so many records of the usual kinds.
pub fn mixed_repo(seed: u64, size: usize) -> Repo {
    RepoBuilder::new(did_plc(seed))
        .records(records::mixed(seed, size))
        .build()
}
