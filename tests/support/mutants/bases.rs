//! The sound repositories from which mutants are made: small, of both curves, with records of all kinds, and with leaves that
//! become no event.

use super::draft::Draft;
use crate::support::generator::cbor::write_text;
use crate::support::generator::{Cid, Random, SigningKey, Value, mst, records};

/// A leaf of a tree: key, address, and the block where there is one.
pub type Leaf = (Vec<u8>, Cid, Option<Vec<u8>>);

/// A sound repo that has everything but an account.
#[derive(Clone, Debug)]
pub struct Base {
    /// In the order of their keys.
    pub leaves: Vec<Leaf>,
    pub draft: Draft,
}

/// Records of the bases. Most are small, so that most damage hits what matters.
const SIZES: [usize; 24] = [
    0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 12, 16, 24, 40,
];

/// The bases of a seed.
pub fn of(seed: u64) -> Vec<Base> {
    let bases = SIZES.iter().zip(0..);
    let base = |(size, place): (&usize, u64)| {
        let seed = seed.wrapping_add(place);
        // A signature of P-256 takes the processor seven times as long.
        let key = match place % 8 {
            5 => SigningKey::p256(seed),
            _ => SigningKey::k256(seed),
        };
        base(seed, *size, key)
    };
    bases.map(base).collect()
}

fn base(seed: u64, size: usize, key: SigningKey) -> Base {
    let mut random = Random::new(seed);
    let mut leaves: Vec<Leaf> = records::mixed(seed, size)
        .into_iter()
        .map(|record| {
            let key = format!("{}/{}", record.collection, record.rkey);
            leaf(key, record.value.encode())
        })
        .collect();
    if size > 4 {
        leaves.push(leaf(
            "com.example.kinds/all",
            records::every_kind().encode(),
        ));
        leaves.push(leaf("com.example.kinds/none", Value::List(vec![]).encode()));
        leaves.push(leaf(
            "com.example.kinds/not.a.number",
            b"\xa1\x61f\xf9\x7e\x00".to_vec(),
        ));
        leaves.push(leaf(odd_key(&mut random), records::every_kind().encode()));
    }
    // Layers above the first are rare among so few keys: some are sought out.
    for layer in 1..random.below(5) as u32 {
        let key = mst::key_of_height("com.example.layer/", layer, random.below(1000));
        leaves.push(leaf(
            key,
            Value::map([("layer", Value::Int(layer.into()))]).encode(),
        ));
    }
    sort(&mut leaves);
    let draft = Draft::of("", &key, &leaves);
    Base { leaves, draft }
}

/// A leaf of a record.
pub fn leaf(key: impl Into<Vec<u8>>, block: Vec<u8>) -> Leaf {
    (key.into(), Cid::dag_cbor(&block), Some(block))
}

/// Into the order of keys; of equal ones the first stays.
pub fn sort(leaves: &mut Vec<Leaf>) {
    leaves.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    leaves.dedup_by(|(a, ..), (b, ..)| a == b);
}

/// Keys at the edges of what is a record's key, on both sides.
pub fn odd_key(random: &mut Random) -> Vec<u8> {
    let long = |length: usize| format!("com.example.long/{}", "k".repeat(length - 17));
    let collections = [
        "a.b", "a.b.c", "a.b.c-d", "a-b.c.d", "1a.b.c", "a.1b.c", "a.b.1c", "a.b.c1", "A.B.C",
        "a..c", ".a.b", "-a.b.c", "",
    ];
    let rkeys = [
        "", ".", "..", "...", "self", "a:b", "~", "_", "-", "a/b", "a b", "ä", "a\u{0}", "a%",
        "\"", "\\",
    ];
    match random.below(8) {
        0 => long([511, 528, 529, 530, 1024, 1025, 4096, 4097][random.below(8) as usize])
            .into_bytes(),
        1 => {
            let label = "l".repeat(62 + random.below(3) as usize);
            [
                format!("{label}.b.c/x"),
                format!("a.{label}.c/x"),
                format!("a.b.{label}/x"),
            ][random.below(3) as usize]
                .clone()
                .into_bytes()
        }
        2 => b"com.example.bytes/\xff\xfe".to_vec(),
        3 => {
            let mut key = Vec::new();
            write_text(&mut key, "com.example.text/x");
            key
        }
        4 => Vec::new(),
        _ => format!("{}/{}", random.pick(&collections), random.pick(&rkeys)).into_bytes(),
    }
}
