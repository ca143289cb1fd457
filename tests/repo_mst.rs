//! R7: what `mst::prove` lets through and what it refuses, on trees made for it; and that the second walk yields the leaves in
//! the order of their keys. Every refused tree differs from a good one in a single place.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use rsky_backfiller::error::Reason;
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::link::Link;
use rsky_backfiller::repo::mst;
use support::blocks;
use support::generator::mst::{Entry, Node, height, key_of_height};
use support::generator::{Block, Cid, Repo, RepoBuilder, Value, did_plc, records};

type Leaves = Vec<(Vec<u8>, Vec<u8>)>;

fn record() -> Block {
    let block = Value::map([("n", Value::Int(1))]).encode();
    (Cid::dag_cbor(&block), block)
}

/// Proves the tree and walks it.
fn leaves(blocks: &mut BlockStore, root: Cid) -> Result<Leaves, Reason> {
    let tree = mst::prove(blocks, Link(&root.bytes())).map_err(|error| error.reason)?;
    let (mut walk, mut leaves) = (tree.walk(), Vec::new());
    while let Some(leaf) = walk.next(&tree).expect("a proven tree") {
        leaves.push((leaf.key.to_vec(), leaf.value.0.to_vec()));
    }
    assert_eq!(tree.leaves(), leaves.len() as u64);
    Ok(leaves)
}

/// The number of leaves of a tree whose records are all `record()`; the last node is the root.
fn tree(nodes: &[Block]) -> Result<usize, Reason> {
    let mut blocks = blocks::store(nodes.iter().chain([&record()]));
    leaves(&mut blocks, nodes.last().expect("a root").0).map(|leaves| leaves.len())
}

/// A key with its record and no subtree.
fn leaf(key: &str) -> (&str, Cid, Option<Cid>) {
    (key, record().0, None)
}

fn leaf_with<'k>(key: &'k str, right: &Block) -> (&'k str, Cid, Option<Cid>) {
    (key, record().0, Some(right.0))
}

fn node(left: Option<&Block>, keys: &[(&str, Cid, Option<Cid>)]) -> Block {
    Node::from_keys(left.map(|left| left.0), keys.iter().copied()).block()
}

/// The first key of the layer that begins with the prefix.
fn key(prefix: &str, layer: u32) -> String {
    key_of_height(prefix, layer, 0)
}

fn sample(count: usize) -> Repo {
    let records = records::mixed(7, count);
    RepoBuilder::new(did_plc(7))
        .without_json()
        .records(records)
        .build()
}

#[test]
fn r7_generated_trees_are_proved_and_walked_in_the_order_of_their_keys() {
    for count in [0, 1, 2, 50, 1000, 5000] {
        let repo = sample(count);
        let expected = repo.expected.iter().map(|record| {
            let key = format!("{}/{}", record.collection, record.rkey);
            (key.into_bytes(), record.cid.bytes().to_vec())
        });
        let walked = leaves(&mut blocks::store(&repo.blocks), repo.root);
        assert_eq!(walked, Ok(expected.collect()), "{count} records");
    }
}

#[test]
fn r7_the_layer_of_a_key_is_that_of_its_hash() {
    for layer in 0..5 {
        let key = key("com.example.layer/", layer);
        assert_eq!(u32::from(mst::layer_of(key.as_bytes())), layer);
    }
    for record in records::mixed(1, 500) {
        let key = format!("{}/{}", record.collection, record.rkey);
        assert_eq!(u32::from(mst::layer_of(key.as_bytes())), height(&key));
    }
}

#[test]
fn r7_keys_ascend_strictly_over_the_whole_tree() {
    let [a, b, z] = ["a/", "b/", "z/"].map(|prefix| key(prefix, 0));
    let top = key("m/", 1);
    assert_eq!(tree(&[node(None, &[leaf(&a), leaf(&b), leaf(&z)])]), Ok(3));
    assert_eq!(tree(&[node(None, &[leaf(&b), leaf(&a)])]), Err(Reason::Mst));
    assert_eq!(tree(&[node(None, &[leaf(&a), leaf(&a)])]), Err(Reason::Mst));
    let below = |key: &str| node(None, &[leaf(key)]);
    let (low, high) = (below(&a), below(&z));
    let with = |left: &Block, right: &Block| node(Some(left), &[leaf_with(&top, right)]);
    assert_eq!(tree(&[low.clone(), high.clone(), with(&low, &high)]), Ok(3));
    assert_eq!(
        tree(&[high.clone(), node(Some(&high), &[leaf(&top)])]),
        Err(Reason::Mst)
    );
    assert_eq!(
        tree(&[low.clone(), node(None, &[leaf_with(&top, &low)])]),
        Err(Reason::Mst)
    );
    // The same node twice: the blocks are a graph without cycles, and no tree.
    assert_eq!(tree(&[low.clone(), with(&low, &low)]), Err(Reason::Mst));
    let next = key("n/", 1);
    let between = below(&key("m/zzz", 0));
    let good = node(None, &[leaf_with(&top, &between), leaf_with(&next, &high)]);
    assert_eq!(tree(&[between.clone(), high, good]), Ok(4));
    let twice = node(
        None,
        &[leaf_with(&top, &between), leaf_with(&next, &between)],
    );
    assert_eq!(tree(&[between, twice]), Err(Reason::Mst));
}

#[test]
fn r7_keys_lie_at_the_depth_that_their_hash_demands() {
    let (low, top, other) = (key("a/", 0), key("b/", 1), key("c/", 0));
    assert_eq!(
        tree(&[node(None, &[leaf(&top), leaf(&other)])]),
        Err(Reason::Mst)
    );
    assert_eq!(
        tree(&[node(None, &[leaf(&low), leaf(&top)])]),
        Err(Reason::Mst)
    );
    // One layer down is right, none and two are wrong.
    for (layer, expected) in [
        (0, Err(Reason::Mst)),
        (1, Err(Reason::Mst)),
        (2, Ok(2)),
        (3, Err(Reason::Mst)),
    ] {
        let (left, right) = (
            node(None, &[leaf(&key("a/", layer))]),
            node(None, &[leaf(&key("z/", layer))]),
        );
        let root = key("m/", 3);
        assert_eq!(
            tree(&[left.clone(), node(Some(&left), &[leaf(&root)])]),
            expected,
            "l to {layer}"
        );
        assert_eq!(
            tree(&[right.clone(), node(None, &[leaf_with(&root, &right)])]),
            expected,
            "t to {layer}"
        );
    }
    // Nothing is below layer 0.
    let (below, left) = (node(None, &[leaf(&other)]), node(None, &[leaf("0/0")]));
    assert_eq!(
        tree(&[below.clone(), node(None, &[leaf_with(&low, &below)])]),
        Err(Reason::Mst)
    );
    assert_eq!(
        tree(&[left.clone(), node(Some(&left), &[leaf(&low)])]),
        Err(Reason::Mst)
    );
}

#[test]
fn r7_a_prefix_is_part_of_the_key_before_it_in_the_node() {
    let raw = |p: u64, k: &str, t: Option<&Block>| Entry {
        p,
        k: k.into(),
        v: record().0,
        t: t.map(|node| node.0),
    };
    let entries = |e: Vec<Entry>| Node { l: None, e }.block();
    let first = key("a/", 0);
    for (p, k) in [
        (1, first.as_str()),
        (1, &first[1..]),
        (u64::MAX, ""),
        (first.len() as u64, ""),
    ] {
        assert_eq!(
            tree(&[entries(vec![raw(p, k, None)])]),
            Err(Reason::Mst),
            "{p}"
        );
    }
    // A node below does not go on with the key above it.
    let top = key("a/", 1);
    let inner = key(&top, 0);
    let (good, bad) = (
        raw(0, &inner, None),
        raw(top.len() as u64, &inner[top.len()..], None),
    );
    for (entry, expected) in [(good, Ok(2)), (bad, Err(Reason::Mst))] {
        let below = entries(vec![entry]);
        let root = entries(vec![raw(0, &top, Some(&below))]);
        assert_eq!(tree(&[below, root]), expected);
    }
    // The whole key before is the longest prefix.
    let second = key(&first, 0);
    let rest = &second[first.len()..];
    let length = first.len() as u64;
    for (p, expected) in [
        (length, Ok(2)),
        (length + 1, Err(Reason::Mst)),
        (u64::MAX, Err(Reason::Mst)),
    ] {
        let entries = entries(vec![raw(0, &first, None), raw(p, rest, None)]);
        assert_eq!(tree(&[entries]), expected, "{p}");
    }
    // The prefix would be right after the last key of the walk, which lies in the subtree between.
    let below = node(None, &[leaf(&inner)]);
    let after = key(&format!("{inner}z"), 1);
    for (p, expected) in [(top.len(), Ok(3)), (inner.len(), Err(Reason::Mst))] {
        let next = raw(p as u64, &after[p..], None);
        let root = entries(vec![raw(0, &top, Some(&below)), next]);
        assert_eq!(tree(&[below.clone(), root]), expected, "{p}");
    }
    // As long as the key before in the node, but another: read rightly, the key is out of order.
    let between = key("b/", 0);
    let below = node(None, &[leaf(&between)]);
    let after = key(&between, 1);
    let next = raw(top.len() as u64, &after[between.len()..], None);
    let root = entries(vec![raw(0, &top, Some(&below)), next]);
    assert_eq!(
        (top.len(), tree(&[below, root])),
        (between.len(), Err(Reason::Mst))
    );
    // Nor does a node go on with the last key of its neighbour.
    let left = node(None, &[leaf(&key("m/0", 0))]);
    let last = key("m/y", 1);
    let right = key("m/z", 0);
    for (p, expected) in [(0, Ok(4)), (2, Err(Reason::Mst))] {
        let right = entries(vec![raw(p, &right[p as usize..], None)]);
        let root = node(None, &[leaf_with(&top, &left), leaf_with(&last, &right)]);
        assert_eq!(tree(&[left.clone(), right, root]), expected);
    }
}

#[test]
fn r7_each_missing_node_and_each_missing_record_is_incomplete() {
    let repo = sample(120);
    let missing = repo
        .nodes
        .iter()
        .chain(repo.expected.iter().map(|record| &record.cid));
    for &missing in missing {
        let there = repo.blocks.iter().filter(|(cid, _)| *cid != missing);
        assert_eq!(
            leaves(&mut blocks::store(there), repo.root),
            Err(Reason::Incomplete),
            "{missing}"
        );
    }
    // What the links name with another codec is no block of a repo, even where its digest is there.
    let mut raw = sample(1).root;
    raw.codec = 0x55;
    assert_eq!(
        leaves(&mut blocks::store(&sample(1).blocks), raw),
        Err(Reason::Incomplete)
    );
    let below = node(None, &[leaf(&key("a/", 0))]);
    let mut root = Node::from_keys(Some(below.0), [leaf(&key("m/", 1))]);
    assert_eq!(tree(&[below.clone(), root.block()]), Ok(2));
    root.l = Some(Cid::raw(&below.1));
    assert_eq!(tree(&[below, root.block()]), Err(Reason::Incomplete));
    // A leaf of another codec is no record and needs no block (R1).
    let blob = Node::from_keys(None, [(key("a/", 0), Cid::raw(b"elsewhere"), None)]);
    assert_eq!(tree(&[blob.block()]), Ok(1));
}

#[test]
fn r7_a_node_without_entries_has_its_places() {
    let empty = node(None, &[]);
    let (bottom, top) = (node(None, &[leaf(&key("a/", 0))]), key("m/", 2));
    assert_eq!(tree(std::slice::from_ref(&empty)), Ok(0));
    let skipping = node(Some(&bottom), &[]);
    let root = node(Some(&skipping), &[leaf(&top)]);
    assert_eq!(tree(&[bottom.clone(), skipping.clone(), root]), Ok(2));
    assert_eq!(tree(&[bottom, skipping]), Err(Reason::Mst), "as the root");
    for root in [
        node(Some(&empty), &[leaf(&top)]),
        node(None, &[leaf_with(&top, &empty)]),
    ] {
        assert_eq!(
            tree(&[empty.clone(), root]),
            Err(Reason::Mst),
            "below the root"
        );
    }
}

#[test]
fn r7_a_cycle_cannot_be_made_and_would_end() {
    // The nearest that honest hashes allow: a node that names its own or its parent's older version.
    let repo = sample(200);
    let (place, old) = repo
        .find_node(|node| node.l.is_none())
        .expect("a node without l");
    for older in [repo.nodes[place], repo.root] {
        let mut changed = repo.clone().edit_node(place, |node| node.l = Some(older));
        changed.blocks.extend(repo.blocks.clone());
        assert_eq!(
            leaves(&mut blocks::store(&changed.blocks), changed.root),
            Err(Reason::Mst),
            "{old:?}"
        );
    }
    // Under dishonest digests, which the archive's reader would not let in.
    let [one, two] = [1, 2].map(|n| Cid {
        codec: 0x71,
        digest: [n; 32],
    });
    let top = key("m/", 3);
    let entry = |t: Cid| Node::from_keys(None, [(top.as_str(), record().0, Some(t))]);
    let below = |l: Cid| Node {
        l: Some(l),
        e: Vec::new(),
    };
    for nodes in [
        [entry(one), entry(one)],
        [
            Node {
                l: Some(one),
                ..entry(one)
            },
            entry(one),
        ],
        [entry(two), entry(one)],
        [entry(two), below(two)],
        [
            Node {
                l: Some(two),
                ..entry(two)
            },
            below(two),
        ],
        [entry(two), below(one)],
    ] {
        let [first, second] = nodes.map(|node| node.encode());
        let mut store = blocks::store(&[(one, first), (two, second), record()]);
        assert_eq!(leaves(&mut store, one), Err(Reason::Mst));
    }
}

#[test]
fn r7_a_chain_of_a_thousand_levels_ends_without_overflow() {
    let prove = || {
        let bottom = vec![node(None, &[leaf(&key("a/", 0))])];
        let chain = |next: fn(&Block, usize) -> Block| {
            let mut nodes = bottom.clone();
            (0..1000).for_each(|level| nodes.push(next(&nodes[level], level)));
            nodes
        };
        let pointers = chain(|below, _| node(Some(below), &[]));
        assert_eq!(tree(&pointers), Err(Reason::Mst));
        let root = node(pointers.last(), &[leaf(&key("m/", 3))]);
        assert_eq!(tree(&[pointers, vec![root]].concat()), Err(Reason::Mst));
        let left =
            chain(|below, level| node(Some(below), &[leaf(&key(&format!("b{level:04}/"), 1))]));
        assert_eq!(tree(&left), Err(Reason::Mst));
        let right = chain(|below, level| {
            node(
                None,
                &[leaf_with(&key(&format!("b{:04}/", 999 - level), 1), below)],
            )
        });
        assert_eq!(tree(&right), Err(Reason::Mst));
    };
    let thread = thread::Builder::new().stack_size(256 << 10).spawn(prove);
    thread.expect("a thread").join().expect("no panic");
}

#[test]
fn r7_keys_that_prefixes_make_huge_are_refused_at_once() {
    let of_length = |length: usize| key(&"k".repeat(length - 8), 0);
    assert_eq!(tree(&[node(None, &[leaf(&of_length(4096))])]), Ok(1));
    assert_eq!(
        tree(&[node(None, &[leaf(&of_length(4097))])]),
        Err(Reason::Mst)
    );
    // 4 MiB that spell out 30 GB.
    let long = of_length(1 << 20);
    let mut bomb = Node::from_keys(None, [leaf(&long)]);
    let more = Entry {
        p: 1 << 20,
        k: vec![b'z'],
        v: record().0,
        t: None,
    };
    bomb.e.extend(vec![more; 30_000]);
    let mut blocks = blocks::store(&[bomb.block(), record()]);
    let started = Instant::now();
    assert_eq!(leaves(&mut blocks, bomb.block().0), Err(Reason::Mst));
    assert!(started.elapsed() < Duration::from_secs(5));
}
