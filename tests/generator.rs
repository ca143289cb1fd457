//! Checks of the tests' own repo generator: its repositories, records, signatures and identifiers are what they are said to be.
//!
//! `generator_vectors.rs` compares it with vectors and archives of others.

mod support;

use std::collections::{HashMap, HashSet};

use support::generator::mst::{self, Node, Step};
use support::generator::{
    Cid, Random, Record, Repo, RepoBuilder, SigningKey, Value, car, commit_fields, did_document,
    did_plc, records, set_field, sign_commit, tid, time,
};
use support::trees::{take_apart, tree_of};

/// Half the orders of the two curves, big-endian: the greatest low S.
const HALF_K256: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

const HALF_P256: &str = "7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8";

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn sample(count: usize) -> Repo {
    RepoBuilder::new(did_plc(1))
        .records(records::mixed(1, count))
        .build()
}

#[test]
fn signatures_are_deterministic_and_low_s_but_where_asked_otherwise() {
    for (key, half) in [
        (SigningKey::k256(5), HALF_K256),
        (SigningKey::p256(5), HALF_P256),
    ] {
        let half = unhex(half);
        for number in 0..50_u32 {
            let message = number.to_be_bytes();
            let low = key.sign(&message);
            assert_eq!(low, key.sign(&message));
            assert!(low[32..] <= half[..], "{key:?} {number}");
            let high = key.sign_high_s(&message);
            assert_eq!(low[..32], high[..32]);
            assert!(high[32..] > half[..], "{key:?} {number}");
            assert!(
                key.verifies(&message, &low) && key.verifies(b"another", &key.sign(b"another"))
            );
            assert!(!key.verifies(b"another", &low));
            let der = key.sign_der(&message);
            assert_eq!((der[0], usize::from(der[1])), (0x30, der.len() - 2));
        }
    }
    assert_ne!(SigningKey::k256(1).did_key(), SigningKey::k256(2).did_key());
    assert!(SigningKey::k256(1).did_key().starts_with("did:key:zQ3s"));
    assert!(SigningKey::p256(1).did_key().starts_with("did:key:zDn"));
}

#[test]
fn the_same_seed_makes_the_same_archive() {
    let repo = sample(300);
    assert_eq!(repo.car(), sample(300).car());
    assert_eq!(repo.car_shuffled(4), repo.car_shuffled(4));
    assert_ne!(repo.car_shuffled(4), repo.car_shuffled(5));
    assert_ne!(repo.car(), repo.car_shuffled(4));
    assert_eq!(records::mixed(9, 50), records::mixed(9, 60)[..50]);
}

#[test]
fn frames_and_blocks_of_an_archive_come_back() {
    let repo = sample(200);
    let archive = repo.car();
    let frames = car::frames(&archive);
    assert_eq!(frames.len(), repo.blocks.len() + 1);
    assert_eq!(
        (frames[0].start, frames.last().map(|frame| frame.end)),
        (0, Some(archive.len()))
    );
    assert!(frames.windows(2).all(|pair| pair[0].end == pair[1].start));
    assert_eq!(archive[frames[0].clone()], car::header(&[repo.commit_cid]));
    for (frame, (cid, bytes)) in frames[1..].iter().zip(&repo.blocks) {
        assert_eq!(
            car::block(&archive, frame.clone()),
            Some((*cid, bytes.as_slice()))
        );
        assert_eq!(*cid, Cid::dag_cbor(bytes));
    }
}

#[test]
fn a_repo_holds_what_it_expects_in_key_order() {
    let repo = sample(1000);
    let parts = take_apart(&repo.car_shuffled(1));
    assert_eq!((parts.root, &parts.nodes), (repo.root, &repo.nodes));
    let expected = repo.expected.iter().map(|record| {
        let key = format!("{}/{}", record.collection, record.rkey);
        (key.into_bytes(), record.cid)
    });
    assert_eq!(parts.entries, expected.collect::<Vec<_>>());
    assert!(parts.entries.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(parts.entries.len(), 1000);

    let made: HashMap<_, _> = records::mixed(1, 1000)
        .into_iter()
        .map(
            |Record {
                 collection,
                 rkey,
                 value,
             }| ((collection, rkey), value),
        )
        .collect();
    for record in &repo.expected {
        let value = &made[&(record.collection.clone(), record.rkey.clone())];
        assert_eq!(parts.blocks[&record.cid], value.encode());
        assert_eq!(record.json.to_string(), value.to_json().to_string());
    }
}

#[test]
fn blocks_come_in_the_order_of_the_walk() {
    let repo = sample(500);
    assert_eq!(repo.blocks[0].0, repo.commit_cid);
    assert_eq!(repo.blocks[1].0, repo.root);
    let places: HashMap<_, _> = repo
        .blocks
        .iter()
        .enumerate()
        .map(|(at, (cid, _))| (*cid, at))
        .collect();
    let at = |cids: Vec<Cid>| cids.iter().map(|cid| places[cid]).collect::<Vec<_>>();
    assert!(at(repo.nodes.clone()).is_sorted());
    assert!(at(repo.expected.iter().map(|record| record.cid).collect()).is_sorted());
    for (cid, bytes) in repo
        .blocks
        .iter()
        .filter(|(cid, _)| repo.nodes.contains(cid))
    {
        let node = Node::decode(bytes).expect("a node");
        let first = node
            .l
            .or(node.e.first().map(|entry| entry.v))
            .expect("something in the node");
        assert_eq!(
            places[&first],
            places[cid] + 1,
            "a node is followed by what it begins with"
        );
    }

    let tree = tree_of(["a/1", "a/2", "a/3"].map(str::to_owned), Cid::raw(b""));
    assert_eq!(
        tree.walk
            .iter()
            .filter(|step| matches!(step, Step::Record(_)))
            .count(),
        3
    );
    assert_eq!(tree.walk[0], Step::Node(0));
}

#[test]
fn a_skipped_layer_is_filled_with_a_node_of_one_pointer() {
    let keys = [
        mst::key_of_height("a/", 0, 0),
        mst::key_of_height("b/", 3, 0),
    ];
    let tree = tree_of(keys, Cid::raw(b""));
    assert_eq!(tree.nodes.len(), 4);
    for (place, (_, bytes)) in tree.nodes.iter().enumerate() {
        let node = Node::decode(bytes).expect("a node");
        assert_eq!(node.e.len(), [1, 0, 0, 1][place]);
        assert_eq!(node.l, tree.nodes.get(place + 1).map(|(cid, _)| *cid));
    }
}

#[test]
fn identical_records_share_a_block() {
    let value = Value::map([("n", Value::Int(1))]);
    let builder = RepoBuilder::new(did_plc(1)).record("com.example.note", "a", value.clone());
    let repo = builder.record("com.example.note", "b", value).build();
    assert_eq!(repo.expected.len(), 2);
    let cid = repo.record_cid("com.example.note", "b").expect("a record");
    assert_eq!(
        repo.blocks
            .iter()
            .filter(|(known, _)| *known == cid)
            .count(),
        1
    );
}

#[test]
fn records_have_the_sizes_of_the_real_network() {
    let mut sizes: HashMap<String, Vec<usize>> = HashMap::new();
    let mut keys = HashSet::new();
    for record in records::mixed(3, 20_000) {
        assert!(
            keys.insert((record.collection.clone(), record.rkey)),
            "keys are unique"
        );
        sizes
            .entry(record.collection)
            .or_default()
            .push(record.value.encode().len());
    }
    let mean = |sizes: &[usize]| sizes.iter().sum::<usize>() / sizes.len();
    for (collection, sizes) in &sizes {
        println!(
            "{collection}: {} records of {} bytes",
            sizes.len(),
            mean(sizes)
        );
    }
    let all: Vec<_> = sizes.values().flatten().copied().collect();
    assert!((370..430).contains(&mean(&all)), "{}", mean(&all));
    assert!((300..600).contains(&mean(&sizes["app.bsky.feed.post"])));
    assert!((210..250).contains(&mean(&sizes["app.bsky.feed.like"])));
    assert_eq!(sizes["app.bsky.actor.profile"].len(), 1);
    assert_eq!(sizes.len(), 6);
}

#[test]
fn facets_mark_what_they_say() {
    for record in records::mixed(3, 500) {
        let json = record.value.to_json();
        for facet in json["facets"].as_array().into_iter().flatten() {
            let bound = |name: &str| facet["index"][name].as_u64().expect("an offset") as usize;
            let text = json["text"].as_str().expect("a text");
            let marked = &text[bound("byteStart")..bound("byteEnd")];
            assert!(
                marked.starts_with(['@', '#']) || marked.starts_with("example.com"),
                "{marked}"
            );
        }
    }
}

#[test]
fn a_changed_node_is_linked_and_signed_again() {
    let before = sample(2000);
    let leaf = before.find_node(|node| node.l.is_none() && node.e.len() > 1);
    let (place, _) = leaf.expect("a node of two keys");
    let after = before
        .clone()
        .edit_node(place, |node| node.e[0].v = Cid::raw(b"another"));
    assert_ne!(before.commit_cid, after.commit_cid);
    assert_ne!(before.root, after.root);
    let parts = take_apart(&after.car());
    assert_eq!(parts.nodes, after.nodes);
    let changed = take_apart(&before.car());
    let changed = changed
        .entries
        .iter()
        .zip(&parts.entries)
        .filter(|(a, b)| a != b)
        .count();
    assert_eq!(changed, 1);
    let same = before.clone().edit_node(place, |_| ());
    assert_eq!(before.car(), same.car());
}

#[test]
fn commits_can_be_signed_in_every_way() {
    let repo = sample(3);
    let mut fields = commit_fields(&repo.did, &repo.rev, repo.root);
    assert_eq!(sign_commit(fields.clone(), &repo.key).1, repo.commit());
    let message = Value::Map(fields.clone()).encode();
    let mut signed = fields.clone();
    set_field(
        &mut signed,
        "sig",
        Value::Bytes(repo.key.sign(&message).to_vec()),
    );
    assert_eq!(Value::Map(signed).encode(), repo.commit());

    set_field(&mut fields, "version", Value::Int(2));
    set_field(&mut fields, "extra", Value::text("unknown"));
    let other = repo.clone().resign_with_fields(fields);
    assert_eq!(other.blocks[0].0, other.commit_cid);
    assert_eq!(Cid::dag_cbor(other.commit()), other.commit_cid);
    assert_eq!(other.blocks[1..], repo.blocks[1..]);

    let high = repo
        .clone()
        .resign_with(|key, message| key.sign_high_s(message).to_vec());
    assert!(high.commit().len() == repo.commit().len() && high.commit() != repo.commit());
    let again = high.resign_with_root(repo.root);
    assert_eq!(again.car(), repo.car());
}

#[test]
fn identifiers_times_and_documents_have_their_forms() {
    assert_eq!(tid(0, 0), "2222222222222");
    assert_eq!(tid((1 << 53) - 1, 1023), "bzzzzzzzzzzzz");
    assert!(tid(1_000_000, 1023) < tid(1_000_001, 0));
    assert_eq!(time::timestamp(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(
        time::timestamp(951_782_400_000_000),
        "2000-02-29T00:00:00.000Z"
    );
    assert_eq!(
        time::timestamp(1_735_689_599_999_999),
        "2024-12-31T23:59:59.999Z"
    );
    let did = did_plc(7);
    assert_eq!(did.len(), 32);
    let key = SigningKey::p256(7);
    let document = did_document(&did, &key, "http://127.0.0.1:1");
    assert_eq!(document["id"], did);
    assert_eq!(
        document["verificationMethod"][0]["publicKeyMultibase"],
        key.multibase()
    );
    assert_eq!(
        document["service"][0]["serviceEndpoint"],
        "http://127.0.0.1:1"
    );
    for (compressed, length) in [(true, 33), (false, 65)] {
        assert_eq!(key.public_point(compressed).len(), length);
        assert_ne!(key.bare_point_multibase(compressed), key.multibase());
    }
    let cid = Cid::dag_cbor(b"");
    assert_eq!(Cid::parse(&cid.to_string()), Some(cid));
    let mut random = Random::new(0);
    assert_eq!(random.bits(), 0xe220_a839_7b1d_cdaf);
}

#[test]
fn every_kind_of_value_has_its_json() {
    let json = records::every_kind().to_json().to_string();
    assert!(json.contains(r#""lowest":-9223372036854775808"#), "{json}");
    assert!(json.contains(r#""beyond":18446744073709551615"#), "{json}");
    assert!(json.contains(r#""whole":-3.0"#), "{json}");
    assert!(json.contains(r#""bytes":{"$bytes":"AAEC/w"}"#), "{json}");
    assert!(json.starts_with(r#"{"link":{"$link":"bafkrei"#), "{json}");
}
