//! R7: the shape of a node, from nodes written byte by byte.

mod support;

use rsky_backfiller::error::Reason;
use rsky_backfiller::repo::link::Link;
use rsky_backfiller::repo::mst;
use support::blocks;
use support::generator::mst::key_of_height;
use support::generator::{Cid, Value};

/// The number of leaves of the tree of this one node, whose records are all `record`.
fn proved(node: &[u8], record: &[u8]) -> Result<u64, Reason> {
    let blocks = [node, record].map(|block| (Cid::dag_cbor(block), block.to_vec()));
    let mut blocks = blocks::store(&blocks);
    let root = Cid::dag_cbor(node).bytes();
    match mst::prove(&mut blocks, Link(&root)) {
        Ok(tree) => Ok(tree.leaves()),
        Err(error) => Err(error.reason),
    }
}

/// A CBOR map of at most 23 fields, in any order.
fn map(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0xa0 + fields.len() as u8];
    for (name, value) in fields {
        out.push(0x60 + name.len() as u8);
        out.extend(name.bytes().chain(value.iter().copied()));
    }
    out
}

#[test]
fn r7_a_node_has_its_shape() {
    let record = Value::map([("n", Value::Int(1))]).encode();
    let name = key_of_height("a/", 0, 0);
    let key = [&[0x40 + name.len() as u8], name.as_bytes()].concat();
    let text = [&[0x60 + name.len() as u8], name.as_bytes()].concat();
    let value = [
        b"\xd8\x2a\x58\x25\0".as_slice(),
        &Cid::dag_cbor(&record).bytes(),
    ]
    .concat();
    let (null, zero) = ([0xf6].as_slice(), [0].as_slice());
    let [k, p, t, v] = [("k", &key[..]), ("p", zero), ("t", null), ("v", &value[..])];
    let (l, unknown) = (
        ("l", null),
        ("x", [0x81, 0xa1, 0x61, b'y', 0xf5].as_slice()),
    );
    let proved = |block: Vec<u8>| proved(&block, &record);
    let with_list = |list: &[u8]| proved(map(&[("e", list), l]));
    let with_entry = |fields: &[_]| with_list(&[&[0x81], &map(fields)[..]].concat());
    let entries = [&[0x81], &map(&[k, p, t, v])[..]].concat();
    let e = ("e", &entries[..]);

    assert_eq!(proved(map(&[e, l])), Ok(1));
    assert_eq!(proved(map(&[e, l, unknown])), Ok(1));
    assert_eq!(proved(map(&[("a", null), e, l, ("zz", zero)])), Ok(1));
    assert_eq!(with_entry(&[k, p, t, v, unknown]), Ok(1));
    // Some writers leave a null out.
    assert_eq!(proved(map(&[e])), Ok(1));
    assert_eq!(with_entry(&[k, p, v]), Ok(1));

    let good = map(&[e, l]);
    for (what, block) in [
        ("cut", good[..good.len() - 1].to_vec()),
        ("trailing", [&good[..], &[0]].concat()),
        ("two", [&good[..], &good].concat()),
        ("indefinite", [&[0xbf], &good[1..], &[0xff]].concat()),
        ("null", null.to_vec()),
        ("list", entries.clone()),
        ("nothing", Vec::new()),
        ("no fields", map(&[])),
        ("no e", map(&[l])),
        ("e twice", map(&[e, e, l])),
        ("l twice", map(&[e, l, l])),
        ("l before e", map(&[l, e])),
        (
            "longer before shorter",
            map(&[e, l, ("xx", null), ("x", null)]),
        ),
        ("key no text", [&[0xa1, 0x41], &map(&[e])[2..]].concat()),
        ("l a text", map(&[e, ("l", b"\x61x")])),
        ("l a number", map(&[e, ("l", zero)])),
        ("l no CID", map(&[e, ("l", b"\xd8\x2a\x41\x01")])),
        ("tag in an unknown field", map(&[e, l, ("x", b"\xc1\x00")])),
    ] {
        assert_eq!(proved(block), Err(Reason::Mst), "{what}");
    }
    for list in [
        null,
        zero,
        &map(&[]),
        &key,
        &value,
        &[0x81, 0],
        &[0x81, 0x80],
        &[0x81, 0xf6],
        &[0x82, 0xa0],
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &entries[1..],
        &[&[0x9f], &entries[1..], &[0xff]].concat(),
    ] {
        assert_eq!(with_list(list), Err(Reason::Mst), "{list:?}");
    }
    let minus_one = [0x20].as_slice();
    for (what, fields) in [
        ("no k", vec![p, t, v]),
        ("no p", vec![k, t, v]),
        ("no v", vec![k, p, t]),
        ("k twice", vec![k, k, p, t, v]),
        ("v twice", vec![k, p, t, v, v]),
        ("out of order", vec![p, k, t, v]),
        ("v before t", vec![k, p, v, t]),
        ("k a text", vec![("k", &text[..]), p, t, v]),
        ("k null", vec![("k", null), p, t, v]),
        ("p negative", vec![k, ("p", minus_one), t, v]),
        ("p a float", vec![k, ("p", b"\xfb\0\0\0\0\0\0\0\0"), t, v]),
        ("p null", vec![k, ("p", null), t, v]),
        ("p not minimal", vec![k, ("p", b"\x18\x00"), t, v]),
        ("t a number", vec![k, p, ("t", zero), v]),
        ("t false", vec![k, p, ("t", b"\xf4"), v]),
        ("v null", vec![k, p, t, ("v", null)]),
        ("v bytes", vec![k, p, t, ("v", &value[2..])]),
        ("v a text", vec![k, p, t, ("v", &text)]),
    ] {
        assert_eq!(with_entry(&fields), Err(Reason::Mst), "{what}");
    }
}
