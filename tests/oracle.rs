//! R7 against another implementation: over generated repos, shuffled and in tree order, the second walk and the tree of
//! `rsky_repo` list the same leaves, and those that the generator put there.

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use cid::Cid;
use rsky_backfiller::block_on::block_on;
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::{car, mst};
use rsky_repo::block_map::BlockMap;
use rsky_repo::mst::MST;
use rsky_repo::storage::memory_blockstore::MemoryBlockstore;
use rsky_repo::storage::types::RepoStorage;
use support::blocks;
use support::generator::{Repo, RepoBuilder, SigningKey, Value, did_plc, records};
use tokio::sync::RwLock;

type Leaves = Vec<(String, String)>;

/// The leaves as the program's own walk lists them.
fn ours(repo: &Repo, archive: &[u8]) -> Leaves {
    let mut blocks = BlockStore::default();
    let root = car::read(archive, &mut blocks, &mut None).expect("a whole archive");
    let block = blocks::get(&blocks, &root.digest).expect("the commit");
    let commit = Commit::read(&block, &repo.did, SystemTime::now()).expect("a good commit");
    commit
        .verify(&repo.key.did_key())
        .expect("a good signature");
    let tree = mst::prove(&mut blocks, commit.data()).expect("a good tree");
    let (mut walk, mut leaves) = (tree.walk(), Vec::new());
    while let Some(leaf) = walk.next(&tree).expect("a proven tree") {
        let key = String::from_utf8(leaf.key.to_vec()).expect("UTF-8");
        leaves.push((key, leaf.value.to_string()));
    }
    assert_eq!(tree.leaves(), leaves.len() as u64);
    leaves
}

/// The leaves as `rsky_repo` lists them.
fn theirs(repo: &Repo) -> Leaves {
    let cid = |bytes: &[u8]| Cid::try_from(bytes).expect("a CID");
    let mut blocks = BlockMap::new();
    for (address, bytes) in &repo.blocks {
        blocks.set(cid(&address.bytes()), bytes.clone());
    }
    let leaves = block_on(async {
        let storage = MemoryBlockstore::new(Some(blocks)).await?;
        let storage: Arc<RwLock<dyn RepoStorage>> = Arc::new(RwLock::new(storage));
        let mut tree = MST::load(storage, cid(&repo.root.bytes()), None)?;
        tree.list(None, None, None).await
    });
    let leaves = leaves.expect("a tree that rsky_repo can read").into_iter();
    leaves
        .map(|leaf| (leaf.key, leaf.value.to_string()))
        .collect()
}

fn expected(repo: &Repo) -> Leaves {
    let records = repo.expected.iter();
    let leaf = |record: &support::generator::ExpectedRecord| {
        let key = format!("{}/{}", record.collection, record.rkey);
        (key, record.cid.to_string())
    };
    records.map(leaf).collect()
}

fn agree(repo: &Repo, seed: u64) {
    let theirs = theirs(repo);
    assert_eq!(
        theirs,
        expected(repo),
        "seed {seed}: the generator and rsky_repo"
    );
    for archive in [repo.car(), repo.car_shuffled(seed)] {
        assert_eq!(ours(repo, &archive), theirs, "seed {seed}");
    }
}

#[test]
fn r7_our_walk_and_that_of_rsky_repo_agree_leaf_for_leaf() {
    for (seed, count) in [0, 1, 2, 3, 17, 60, 250, 999, 3000].into_iter().enumerate() {
        let seed = seed as u64;
        let key = if seed.is_multiple_of(2) {
            SigningKey::k256(seed)
        } else {
            SigningKey::p256(seed)
        };
        let builder = RepoBuilder::new(did_plc(seed)).key(key).without_json();
        agree(&builder.records(records::mixed(seed, count)).build(), seed);
    }
}

#[test]
fn r7_they_agree_on_many_small_trees() {
    // Keys without a common form, so that prefixes and skipped layers vary.
    for seed in 100..160 {
        let mut random = support::generator::Random::new(seed);
        let mut builder = RepoBuilder::new(did_plc(seed)).without_json();
        for _ in 0..random.below(40) {
            let collection = random.pick(&["a.b.c", "a.b.cc", "com.example.note", "z.z.z"]);
            let number = random.bits() >> random.below(64);
            let value = Value::map([("n", Value::Int(number.into()))]);
            builder = builder.record(collection, &format!("{number:x}"), value);
        }
        agree(&builder.build(), seed);
    }
}
