//! Trees that are none: order, depth, prefixes, nodes without entries, missing blocks (R7). Each is committed and signed by
//! its owner.

use super::super::generator::mst::{Entry, Node, key_of_height};
use super::super::generator::{Block, Cid, Repo, Value, commit_fields, sign_commit};
use super::Catalogue;

/// The one record of the trees made by hand.
fn record() -> Block {
    let block = Value::map([("$type", Value::text("com.example.one"))]).encode();
    (Cid::dag_cbor(&block), block)
}

/// A key of the layer; keys of other letters sort by these.
fn key(letter: char, layer: u32) -> String {
    key_of_height(&format!("com.example.{letter}/"), layer, 0)
}

/// An entry as it stands in the node.
fn entry(p: usize, k: &str, t: Option<&Block>) -> Entry {
    Entry {
        p: p as u64,
        k: k.into(),
        v: record().0,
        t: t.map(|node| node.0),
    }
}

/// A node of whole keys, each with the subtree after it.
fn node(left: Option<&Block>, keys: &[(&str, Option<&Block>)]) -> Block {
    let entries = keys
        .iter()
        .map(|(key, right)| (*key, record().0, right.map(|node| node.0)));
    Node::from_keys(left.map(|left| left.0), entries).block()
}

/// The next account's repo of this tree; the last node is the root.
fn tree(catalogue: &Catalogue, nodes: Vec<Block>) -> Repo {
    let (did, key) = catalogue.account();
    let root = nodes.last().expect("a root").0;
    let rev = "3lrhkyyzs2222";
    let commit = sign_commit(commit_fields(&did, rev, root), &key);
    let others = [nodes, vec![record()]].concat();
    Repo::from_parts(&did, key, rev, root, commit, others)
}

pub fn fill(catalogue: &mut Catalogue) {
    let [a, b, c] = ['a', 'b', 'c'].map(|letter| key(letter, 0));
    let (top, later) = (key('m', 1), key('n', 1));
    let empty = node(None, &[]);
    let low = node(None, &[(&a, None)]);
    let high = node(None, &[(&key('z', 0), None)]);
    let mut add = |name: &str, nodes: Vec<Block>| {
        let repo = tree(catalogue, nodes);
        catalogue.add(name, "mst", &repo);
    };

    add(
        "keys in the wrong order",
        vec![node(None, &[(&b, None), (&a, None)])],
    );
    add("a key twice", vec![node(None, &[(&a, None), (&a, None)])]);
    let root = node(Some(&high), &[(&top, None)]);
    add("greater keys to the left", vec![high.clone(), root]);
    let root = node(None, &[(&top, Some(&low))]);
    add("smaller keys to the right", vec![low.clone(), root]);
    let root = node(Some(&low), &[(&top, Some(&low))]);
    add("one subtree in two places", vec![low.clone(), root]);
    let root = node(None, &[(&top, Some(&high)), (&later, None)]);
    add("a subtree beyond the next key", vec![high.clone(), root]);

    add(
        "a key too high",
        vec![node(None, &[(&top, None), (&key('n', 0), None)])],
    );
    add(
        "a key too low",
        vec![node(None, &[(&a, None), (&top, None)])],
    );
    let root = node(Some(&low), &[(&key('m', 2), None)]);
    add("a pointer two layers down", vec![low.clone(), root]);
    let root = node(None, &[(&b, Some(&high))]);
    add("a pointer below the lowest layer", vec![high.clone(), root]);
    let below = node(None, &[(&key('z', 1), None)]);
    let root = node(None, &[(&top, Some(&below))]);
    add("a pointer to the same layer", vec![below, root]);

    let raw = |entries: Vec<Entry>| {
        Node {
            l: None,
            e: entries,
        }
        .block()
    };
    add(
        "a prefix before any key",
        vec![raw(vec![entry(1, &a, None)])],
    );
    let long = entry(a.len() + 1, &c, None);
    add(
        "a prefix beyond the key before",
        vec![raw(vec![entry(0, &a, None), long])],
    );
    let endless = Entry {
        p: u64::MAX,
        ..entry(0, &c, None)
    };
    add(
        "a prefix of 2^64 - 1",
        vec![raw(vec![entry(0, &a, None), endless])],
    );
    let bomb = entry(1 << 20, "z", None);
    let entries = [
        vec![entry(0, &"k".repeat(1 << 20), None)],
        vec![bomb; 20_000],
    ]
    .concat();
    add("4 MB that spell out 20 GB of keys", vec![raw(entries)]);

    add(
        "a root with nothing but a left pointer",
        vec![low.clone(), node(Some(&low), &[])],
    );
    let root = node(Some(&empty), &[(&top, None)]);
    add("an empty node to the left", vec![empty.clone(), root]);
    let root = node(None, &[(&top, Some(&empty))]);
    add("an empty node to the right", vec![empty, root]);
    add("a record as the root", vec![record()]);
    let root = Node {
        l: Some(record().0),
        ..Node::from_keys(None, [(&top, record().0, None)])
    };
    add("a record as a node", vec![root.block()]);

    let chain = |next: fn(&Block, usize) -> Block| {
        let mut nodes = vec![node(None, &[("com.example.m/0", None)])];
        (0..1000).for_each(|level| nodes.push(next(&nodes[level], level)));
        nodes
    };
    add(
        "1,000 left pointers",
        chain(|below, _| node(Some(below), &[])),
    );
    let right = chain(|below, level| {
        let key = key_of_height(&format!("com.example.b{:04}/", 999 - level), 1, 0);
        node(None, &[(&key, Some(below))])
    });
    add("1,000 levels to the right", right);

    for (name, bytes) in shapes() {
        add(name, vec![(Cid::dag_cbor(&bytes), bytes)]);
    }

    // The nearest to a cycle that hashes allow: a node that leads to an older one of its ancestors.
    for to_itself in [true, false] {
        let good = catalogue.repo(200);
        let (place, _) = good
            .find_node(|node| node.l.is_none())
            .expect("such a node");
        let older = if to_itself {
            good.nodes[place]
        } else {
            good.root
        };
        let mut cycle = good.clone().edit_node(place, |node| node.l = Some(older));
        cycle.blocks.extend(good.blocks);
        let name = if to_itself { "itself" } else { "the root" };
        catalogue.add(format!("a way back to {name}"), "mst", &cycle);
    }
    missing(catalogue);
}

/// Roots that are no nodes.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let good = node(None, &[(&key('a', 0), None)]).1;
    let mut deep = vec![0xa3, 0x61, b'd'];
    deep.extend([0x81].repeat(100_000));
    deep.push(0xf6);
    deep.extend(&good[1..]);
    let null = |name: &'static str| (name, Value::Null);
    vec![
        ("a node nested 100,000 deep", deep),
        ("a node cut short", good[..good.len() - 1].to_vec()),
        ("a node with a byte behind", [&good[..], &[0]].concat()),
        ("a node without e", Value::map([null("l")]).encode()),
        (
            "a node whose e is null",
            Value::map([null("e"), null("l")]).encode(),
        ),
        ("a list as a node", Value::List(vec![]).encode()),
        ("an indefinite map", [&[0xbf], &good[1..], &[0xff]].concat()),
        (
            "an array of 2^63 entries",
            b"\xa2\x61e\x9b\x80\0\0\0\0\0\0\0\x61l\xf6".to_vec(),
        ),
    ]
}

fn missing(catalogue: &mut Catalogue) {
    type Pick = fn(&Repo) -> Cid;
    let parts: [(&str, Pick); 5] = [
        ("the root", |repo| repo.root),
        ("a node within", |repo| repo.nodes[repo.nodes.len() / 2]),
        ("the last node", |repo| repo.nodes[repo.nodes.len() - 1]),
        ("the first record", |repo| repo.expected[0].cid),
        ("the last record", |repo| {
            repo.expected[repo.expected.len() - 1].cid
        }),
    ];
    for (name, pick) in parts {
        let mut repo = catalogue.repo(60);
        let cid = pick(&repo);
        repo.blocks.retain(|(known, _)| *known != cid);
        catalogue.add(format!("{name} is missing"), "incomplete", &repo);
    }
    let repo = catalogue.repo(60);
    let raw = Cid {
        codec: 0x55,
        ..repo.root
    };
    let repo = repo.resign_with_root(raw);
    catalogue.add("the root as raw bytes", "incomplete", &repo);
}
