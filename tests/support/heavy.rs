//! Repos of many bytes that are cheaply made: in records, in nodes of the tree, or in blocks that nothing leads to.

use super::generator::cbor::{write_bytes, write_text};
use super::generator::mst::{Entry, Node, key_of_height};
use super::generator::{
    Block, Cid, Record, Repo, RepoBuilder, SigningKey, Value, commit_fields, did_plc, records,
    sign_commit,
};

/// What a frame of a CAR may have, the CID included: 4 MiB.
const FRAME: usize = 4 << 20;
/// What a record's block has around a text of 64 KiB or more.
const AROUND: usize = 35;

/// A record whose block has so many bytes, or a few less; the text is of this character, and no other number has the same.
pub fn record(number: usize, character: char, bytes: usize) -> Record {
    let mut text = format!("{number:08}");
    let room = bytes.saturating_sub(AROUND + text.len());
    text.extend(std::iter::repeat_n(character, room / character.len_utf8()));
    let value = Value::map([
        ("$type", Value::text("com.example.heavy")),
        ("text", Value::Text(text)),
    ]);
    Record::new("com.example.heavy", format!("{number:08}"), value)
}

/// The repo of a seed, of so many of these records; the JSON that is expected of them is left out.
pub fn repo(seed: u64, count: usize, character: char, bytes: usize) -> Repo {
    RepoBuilder::new(did_plc(seed))
        .without_json()
        .records((0..count).map(|number| record(number, character, bytes)))
        .build()
}

/// The same records as another account's.
pub fn of_another(repo: &Repo, seed: u64) -> Repo {
    let mut other = repo.clone();
    other.did = did_plc(seed);
    let fields = other.commit_fields();
    other.resign_with_fields(fields)
}

/// A block that nothing leads to, as large as a frame allows.
pub fn stray() -> Block {
    let bytes = vec![b'x'; FRAME - 64];
    (Cid::raw(&bytes), bytes)
}

/// Small records and some that are larger than the memory that is taken at a time, up to the largest there may be; and a block of
/// another kind that is larger still.
pub fn varied() -> Repo {
    let large = [
        record(0, 'é', 300_000),
        record(1, '"', 1 << 20),
        record(2, 'x', 2 << 20),
        record(3, '🦀', 260_000),
    ];
    assert_eq!(large[2].value.encode().len(), 2 << 20);
    let mut repo = RepoBuilder::new(did_plc(1000))
        .records(records::mixed(1000, 4000))
        .records(large)
        .build();
    repo.blocks.push(stray());
    // Some are there twice.
    repo.blocks.extend_from_within(..1000);
    repo
}

/// One of many blocks of a few bytes that nothing leads to.
pub fn tiny(number: u64) -> Block {
    let bytes = number.to_be_bytes().to_vec();
    (Cid::raw(&bytes), bytes)
}

/// What makes a node of the tree large.
#[derive(Clone, Copy, Debug)]
pub enum Large {
    /// A field that the protocol does not know. Such a tree is valid.
    UnknownField,
    /// Keys of some kilobytes.
    LongSuffixes,
    /// Entries of few bytes.
    ManyEntries,
}

/// A tree with a large node on each of so many layers, each one to the left below the one before; and signed. But for the unknown
/// field, the keys of these nodes are not where they belong, which a walk sees only when it comes back from below.
pub fn chain(seed: u64, layers: u32, large: Large) -> Repo {
    let record = record(0, 'x', 100);
    let block = record.value.encode();
    let value = Cid::dag_cbor(&block);
    let mut left = None;
    let mut others = vec![(value, block)];
    for layer in 0..layers {
        let prefix = format!("com.example.n{layer:03}/");
        let key = key_of_height(&prefix, layer, 0);
        let mut node = Node::from_keys(left, [(key, value, None)]);
        let more = |k: Vec<u8>| Entry {
            p: 0,
            k,
            v: value,
            t: None,
        };
        match large {
            Large::UnknownField => {}
            Large::LongSuffixes => node.e.extend(vec![more(vec![b'z'; 4000]); 1030]),
            Large::ManyEntries => node.e.extend(vec![more(vec![b'z']); 75_000]),
        }
        let mut bytes = node.encode();
        if matches!(large, Large::UnknownField) {
            // A map of three fields instead of two; the new one comes behind the others.
            bytes[0] += 1;
            write_text(&mut bytes, "z");
            write_bytes(&mut bytes, &vec![0; FRAME - 1024]);
        }
        assert!(bytes.len() < FRAME - 64, "{}", bytes.len());
        let node = (Cid::dag_cbor(&bytes), bytes);
        left = Some(node.0);
        others.push(node);
    }
    let (did, key, rev) = (did_plc(seed), SigningKey::k256(seed), "3lrhkyyzs2222");
    let root = left.expect("a layer at least");
    let commit = sign_commit(commit_fields(&did, rev, root), &key);
    Repo::from_parts(&did, key, rev, root, commit, others)
}
