//! Damage to what a commit signs: nodes and records. Everything above is hashed again, so that only the rules of the tree and
//! of the records can tell.

use super::bases::{self, Base};
use super::draft::Draft;
use super::{bytes, items};
use crate::support::generator::cbor::Value;
use crate::support::generator::mst::{Entry, Node, height, key_of_height};
use crate::support::generator::{Cid, Random};

/// Changes one thing; returns what.
pub fn damage(random: &mut Random, draft: &mut Draft) -> &'static str {
    let keep = random.chance(25);
    let on_record = random.chance(35) && !draft.records.is_empty();
    let list = if on_record {
        &draft.records
    } else {
        &draft.nodes
    };
    let place = list[random.below(list.len() as u64) as usize];
    let mut block = draft.blocks[place].1.clone();
    let name = match (on_record, random.below(10)) {
        (true, 0..3) => {
            bytes::damage(random, &mut block);
            "record: damaged bytes"
        }
        (true, _) => {
            items::damage(random, &mut block);
            "record: damaged items"
        }
        (false, 0) => {
            bytes::damage(random, &mut block);
            "node: damaged bytes"
        }
        (false, 1..4) => {
            items::damage(random, &mut block);
            "node: damaged items"
        }
        (false, _) => match Node::decode(&block) {
            Some(mut node) => {
                let name = rearranged(random, draft, &mut node);
                block = node.encode();
                name
            }
            None => "node: as it was",
        },
    };
    draft.replace(place, block, keep);
    name
}

/// Another sound tree: leaves added, removed, renamed; all of it must come out.
pub fn regrown(random: &mut Random, did: &str, base: &Base) -> (Draft, &'static str) {
    let mut leaves = base.leaves.clone();
    let any = random.below(leaves.len().max(1) as u64) as usize;
    let record = Value::map([("n", Value::Int(random.bits().into()))]).encode();
    let name = match random.below(7) {
        0 if !leaves.is_empty() => {
            leaves.remove(any);
            "tree: a leaf less"
        }
        1 if !leaves.is_empty() => {
            let other = random.below(leaves.len() as u64) as usize;
            let (_, cid, block) = leaves[other].clone();
            (leaves[any].1, leaves[any].2) = (cid, block);
            "tree: one record under two keys"
        }
        2 if !leaves.is_empty() => {
            leaves[any].1.codec = [0x55, 0x70][random.below(2) as usize];
            "tree: a value of another codec"
        }
        3 if !leaves.is_empty() => {
            leaves[any].2 = None;
            "tree: a record missing"
        }
        4 => {
            leaves.push(bases::leaf(bases::odd_key(random), record));
            "tree: an odd key"
        }
        5 => {
            let layer = random.below(5) as u32;
            let collection = random.pick(&["a.b.c/", "app.bsky.feed.like/3k", "z.z.z/"]);
            let key = key_of_height(collection, layer, random.below(1 << 20));
            leaves.push(bases::leaf(key, record));
            "tree: a leaf on a layer of its own choice"
        }
        _ => {
            for _ in 0..random.below(20) {
                let key = format!("com.example.many/{:x}", random.bits() >> random.below(64));
                leaves.push(bases::leaf(key, record.clone()));
            }
            "tree: more leaves"
        }
    };
    bases::sort(&mut leaves);
    (Draft::of(did, &base.draft.key, &leaves), name)
}

/// Changes a node as one who knows what a node is.
fn rearranged(random: &mut Random, draft: &Draft, node: &mut Node) -> &'static str {
    let count = node.e.len() as u64;
    let target = target(random, draft);
    if count == 0 || random.chance(25) {
        let pointer = if random.chance(30) {
            None
        } else {
            Some(target)
        };
        if count == 0 || random.chance(40) {
            node.l = pointer;
            return "node: another left pointer";
        }
        node.e[random.below(count) as usize].t = pointer;
        return "node: another right pointer";
    }
    let one = random.below(count) as usize;
    let other = random.below(count) as usize;
    match random.below(12) {
        0 => {
            node.e[one].p = match random.below(4) {
                0 => node.e[one].p.wrapping_add(1),
                1 => node.e[one].p.wrapping_sub(1),
                2 => random.below(40),
                _ => u64::MAX >> random.below(60),
            };
            "node: another prefix length"
        }
        1 => {
            bytes::damage(random, &mut node.e[one].k);
            "node: a key damaged"
        }
        2 => {
            node.e.swap(one, other);
            "node: entries swapped"
        }
        3 => {
            let keys = whole_keys(node);
            set_keys(node, &[&keys[..], &[keys[one].clone()]].concat(), one);
            "node: an entry twice"
        }
        4 => {
            let mut keys = whole_keys(node);
            keys.swap(one, other);
            set_keys(node, &keys, one);
            "node: keys out of order"
        }
        5 => {
            node.e.remove(one);
            "node: an entry removed"
        }
        6 => {
            node.e[one].v = target;
            "node: another value"
        }
        7 => {
            let (a, b) = (node.e[one].t, node.e[other].t);
            (node.e[one].t, node.e[other].t) = (b, a);
            "node: subtrees swapped"
        }
        8 => {
            std::mem::swap(&mut node.l, &mut node.e[one].t);
            "node: left and right swapped"
        }
        9 => {
            node.e.clear();
            "node: no entries"
        }
        10 => {
            let mut keys = whole_keys(node);
            keys[one] = sibling(random, &keys[one]);
            set_keys(node, &keys, one);
            "node: a key next to the old one"
        }
        _ => {
            // The same leaf at its right place, but on a layer of its own.
            let mut keys = whole_keys(node);
            let wanted = height(&keys[one]) + 1;
            let key = key_of_height(&String::from_utf8_lossy(&keys[one]), wanted.min(3), 0);
            keys[one] = key.into_bytes();
            set_keys(node, &keys, one);
            "node: a key of another layer"
        }
    }
}

/// What a pointer or a value may lead to: any block of the repo, be it an ancestor, or none.
fn target(random: &mut Random, draft: &Draft) -> Cid {
    let any = draft.blocks[random.below(draft.blocks.len() as u64) as usize].0;
    match random.below(10) {
        0 => Cid::dag_cbor(&random.bits().to_be_bytes()),
        1 => Cid { codec: 0x55, ..any },
        _ => any,
    }
}

/// A key of the same layer that sorts close to this one, on either side.
fn sibling(random: &mut Random, key: &[u8]) -> Vec<u8> {
    let layer = height(key).min(3);
    let cut = key.len() - random.below(key.len().min(3) as u64 + 1) as usize;
    key_of_height(
        &String::from_utf8_lossy(&key[..cut]),
        layer,
        random.below(1000),
    )
    .into_bytes()
}

fn whole_keys(node: &Node) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for entry in &node.e {
        let before = keys.last().map_or(&[][..], |key| key);
        let shared = before.len().min(usize::try_from(entry.p).unwrap_or(0));
        keys.push([&before[..shared], &entry.k].concat());
    }
    keys
}

/// Encodes the keys with the prefixes that they should have; an entry more takes the value of `like`.
fn set_keys(node: &mut Node, keys: &[Vec<u8>], like: usize) {
    let value = node.e[like].v;
    while node.e.len() < keys.len() {
        node.e.push(Entry {
            p: 0,
            k: Vec::new(),
            v: value,
            t: None,
        });
    }
    let entries = node
        .e
        .iter()
        .zip(keys)
        .map(|(entry, key)| (key, entry.v, entry.t));
    *node = Node::from_keys(node.l, entries.collect::<Vec<_>>());
}
