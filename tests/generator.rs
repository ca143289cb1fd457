//! Checks of the tests' own repo generator, so that the tests stand on more than the program's word.
//!
//! The trees are compared with roots and archives of the reference implementation under
//! `fixtures`. Where `BACKFILLER_TEST_DATA` names a folder with the protocol's interop vectors and
//! archives of real servers, the generator is compared with those as well; without it those tests
//! say so and pass.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use support::generator::cid::base64;
use support::generator::mst::{self, Entry, Node, Step};
use support::generator::{
    Cid, Random, Record, Repo, RepoBuilder, SigningKey, Value, car, commit_fields, did_document,
    did_plc, records, set_field, sign_commit, tid, time,
};

/// The value the interop vectors and the reference implementation's tests use for every key.
const LEAF: &str = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454";

/// Half the orders of the two curves, big-endian: the greatest low S.
const HALF_K256: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";
const HALF_P256: &str = "7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The folder of test data, where there is one.
fn test_data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("BACKFILLER_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("{test}: skipped, BACKFILLER_TEST_DATA is not set");
    }
    folder
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json(path: &Path) -> Json {
    serde_json::from_slice(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn strings(json: &Json) -> Vec<String> {
    let list = json.as_array().expect("a list");
    list.iter()
        .map(|item| item.as_str().expect("a text").to_owned())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn tree_of(keys: impl IntoIterator<Item = String>, value: Cid) -> mst::Tree {
    let mut entries: Vec<_> = keys.into_iter().map(|key| (key, value)).collect();
    entries.sort();
    mst::build(&entries)
}

#[test]
fn trees_have_the_roots_of_the_reference_implementation() {
    const COLLECTIONS: [&str; 3] = [
        "app.bsky.feed.post",
        "app.bsky.feed.like",
        "com.example.note",
    ];
    let roots = read_json(&fixtures().join("roots.json"));
    let trees = roots["trees"].as_array().expect("a list of trees");
    assert_eq!(trees.len(), 20);
    for expected in trees {
        let seed = expected["seed"].as_u64().expect("a seed");
        let count = expected["entries"].as_u64().expect("a number of entries") as usize;
        let mut entries: Vec<_> = (0..count)
            .map(|i| {
                let hash = support::generator::cid::sha256(format!("{seed}/{i}").as_bytes());
                let key = format!("{}/{}", COLLECTIONS[i % 3], &hex(&hash)[..13]);
                let block = Value::map([("n", Value::Int(i as i128))]).encode();
                (key, Cid::dag_cbor(&block))
            })
            .collect();
        if let Some((key, value)) = entries.first() {
            assert_eq!(expected["first"]["key"], key.as_str(), "seed {seed}");
            assert_eq!(expected["first"]["value"], value.to_string(), "seed {seed}");
        }
        entries.sort();
        let tree = mst::build(&entries);
        assert_eq!(expected["root"], tree.root.to_string(), "seed {seed}");
        let layer = entries
            .iter()
            .map(|(key, _)| mst::height(key))
            .max()
            .unwrap_or(0);
        assert_eq!(expected["layer"], layer, "seed {seed}");
    }
}

#[test]
fn small_trees_have_their_well_known_roots() {
    let leaf = Cid::parse(LEAF).expect("a CID");
    let root = |rkeys: &[&str]| {
        let keys = rkeys
            .iter()
            .map(|rkey| format!("com.example.record/{rkey}"));
        tree_of(keys, leaf).root.to_string()
    };
    assert_eq!(
        root(&[]),
        "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
    );
    assert_eq!(
        root(&["3jqfcqzm3fo2j"]),
        "bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu"
    );
    assert_eq!(
        root(&["3jqfcqzm3fx2j"]),
        "bafyreih7wfei65pxzhauoibu3ls7jgmkju4bspy4t2ha2qdjnzqvoy33ai"
    );
    assert_eq!(
        root(&[
            "3jqfcqzm3fp2j",
            "3jqfcqzm3fr2j",
            "3jqfcqzm3fs2j",
            "3jqfcqzm3ft2j",
            "3jqfcqzm4fc2j"
        ]),
        "bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m"
    );
}

#[test]
fn interop_commit_proofs() {
    let Some(data) = test_data("interop_commit_proofs") else {
        return;
    };
    let cases = read_json(&data.join("interop/firehose/commit-proof-fixtures.json"));
    for case in cases.as_array().expect("a list of cases") {
        let leaf = Cid::parse(case["leafValue"].as_str().expect("a CID")).expect("a CID");
        let mut keys = strings(&case["keys"]);
        assert_eq!(
            case["rootBeforeCommit"],
            tree_of(keys.clone(), leaf).root.to_string(),
            "{case}"
        );
        let removed = strings(&case["dels"]);
        keys.retain(|key| !removed.contains(key));
        keys.extend(strings(&case["adds"]));
        let tree = tree_of(keys, leaf);
        assert_eq!(case["rootAfterCommit"], tree.root.to_string(), "{case}");
        let nodes: HashSet<_> = tree.nodes.iter().map(|(cid, _)| cid.to_string()).collect();
        for block in strings(&case["blocksInProof"]) {
            assert!(nodes.contains(&block), "{block} of {case}");
        }
    }
}

#[test]
fn interop_key_heights_and_prefixes() {
    let Some(data) = test_data("interop_key_heights_and_prefixes") else {
        return;
    };
    let heights = read_json(&data.join("interop/mst/key_heights.json"));
    for case in heights.as_array().expect("a list of cases") {
        assert_eq!(
            case["height"],
            mst::height(case["key"].as_str().expect("a key")),
            "{case}"
        );
    }
    let prefixes = read_json(&data.join("interop/mst/common_prefix.json"));
    for case in prefixes.as_array().expect("a list of cases") {
        let side = |name: &str| case[name].as_str().expect("a text").as_bytes();
        assert_eq!(
            case["len"],
            mst::common_prefix(side("left"), side("right")),
            "{case}"
        );
    }
    let keys = fs::read_to_string(data.join("interop/mst/example_keys.txt")).expect("example keys");
    for key in keys.lines() {
        // The digit after the letter is the height the key was made for.
        assert_eq!(key[1..2], mst::height(key).to_string(), "{key}");
    }
}

/// The value of data model JSON, for the vectors of the data model.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(value) => Value::Int(value.as_i64().expect("an integer").into()),
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(fields) => match fields.iter().next() {
            Some((key, Json::String(cid))) if key == "$link" => {
                Value::Link(Cid::parse(cid).expect("a CID"))
            }
            Some((key, Json::String(text))) if key == "$bytes" => Value::Bytes(unbase64(text)),
            _ => Value::map(
                fields
                    .iter()
                    .map(|(key, value)| (key.as_str(), from_json(value))),
            ),
        },
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |char| match char {
        'A'..='Z' => char as u32 - 'A' as u32,
        'a'..='z' => char as u32 - 'a' as u32 + 26,
        '0'..='9' => char as u32 - '0' as u32 + 52,
        '+' => 62,
        _ => 63,
    };
    let bits: String = text
        .chars()
        .map(|char| format!("{:06b}", digit(char)))
        .collect();
    let bytes = (0..bits.len() / 8).map(|at| &bits[at * 8..at * 8 + 8]);
    bytes
        .map(|byte| u8::from_str_radix(byte, 2).expect("bits"))
        .collect()
}

#[test]
fn interop_data_model() {
    let Some(data) = test_data("interop_data_model") else {
        return;
    };
    let cases = read_json(&data.join("interop/data-model/data-model-fixtures.json"));
    for case in cases.as_array().expect("a list of cases") {
        let value = from_json(&case["json"]);
        let block = value.encode();
        assert_eq!(case["cbor_base64"], base64(&block), "{case}");
        assert_eq!(case["cid"], Cid::dag_cbor(&block).to_string(), "{case}");
        assert_eq!(case["json"], value.to_json(), "{case}");
    }
}

#[test]
fn interop_did_keys() {
    let Some(data) = test_data("interop_did_keys") else {
        return;
    };
    let cases = read_json(&data.join("interop/crypto/w3c_didkey_K256.json"));
    for case in cases.as_array().expect("a list of cases") {
        let secret = unhex(case["privateKeyBytesHex"].as_str().expect("hex digits"));
        assert_eq!(
            case["publicDidKey"],
            SigningKey::k256_from_secret(&secret).did_key()
        );
    }
    // The one vector of P-256 has its secret in base58.
    let secret = unhex("82ebbd63ebbd9ff60141a69bd4c9be282f2415e8eafa9d42c0ed396daccca979");
    let cases = read_json(&data.join("interop/crypto/w3c_didkey_P256.json"));
    let text = support::generator::keys::multibase(&secret);
    assert_eq!(cases[0]["privateKeyBytesBase58"], text[1..]);
    assert_eq!(
        cases[0]["publicDidKey"],
        SigningKey::p256_from_secret(&secret).did_key()
    );
}

/// An archive taken apart: the keys, values and nodes of its tree, and every block by its address.
struct Archive {
    root: Cid,
    entries: Vec<(Vec<u8>, Cid)>,
    nodes: Vec<Cid>,
    blocks: HashMap<Cid, Vec<u8>>,
}

fn take_apart(archive: &[u8]) -> Archive {
    let frames = car::frames(archive).into_iter().skip(1);
    let blocks = frames.map(|frame| car::block(archive, frame).expect("a block"));
    let blocks: HashMap<_, _> = blocks.map(|(cid, bytes)| (cid, bytes.to_vec())).collect();
    // The commit is the one block with a field `data` that links to a node.
    let root = blocks.values().find_map(|bytes| {
        let at = bytes.windows(5).position(|five| five == b"\x64data")? + 5;
        let link = bytes[at..].strip_prefix(b"\xd8\x2a\x58\x25\x00")?;
        let root = Cid::from_bytes(link.get(..36)?)?;
        Node::decode(blocks.get(&root)?).map(|_| root)
    });
    let root = root.expect("a commit");
    let mut archive = Archive {
        root,
        entries: Vec::new(),
        nodes: Vec::new(),
        blocks,
    };
    collect(&mut archive, root);
    archive
}

fn collect(archive: &mut Archive, cid: Cid) {
    archive.nodes.push(cid);
    let node = Node::decode(&archive.blocks[&cid]).expect("a node");
    assert_eq!(
        node.encode(),
        archive.blocks[&cid],
        "decoding and encoding are inverse"
    );
    node.l.into_iter().for_each(|left| collect(archive, left));
    let mut key: Vec<u8> = Vec::new();
    for Entry { p, k, v, t } in node.e {
        key.truncate(p as usize);
        key.extend(k);
        archive.entries.push((key.clone(), v));
        t.into_iter().for_each(|right| collect(archive, right));
    }
}

fn rebuild(path: &Path) {
    let archive = take_apart(&read(path));
    let tree = mst::build(&archive.entries);
    assert_eq!(tree.root, archive.root, "{}", path.display());
    let nodes: Vec<_> = tree.nodes.iter().map(|(cid, _)| *cid).collect();
    assert_eq!(nodes, archive.nodes, "{}", path.display());
    for (cid, bytes) in &tree.nodes {
        assert_eq!(bytes, &archive.blocks[cid], "{}", path.display());
    }
}

#[test]
fn archives_of_the_reference_implementation_are_rebuilt_node_for_node() {
    let files = fs::read_dir(fixtures()).expect("the fixtures");
    let files = files.map(|file| file.expect("a file").path());
    let archives: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|e| e == "car"))
        .collect();
    assert!(!archives.is_empty());
    archives.iter().for_each(|archive| rebuild(archive));
}

#[test]
fn archives_of_real_servers_are_rebuilt_node_for_node() {
    let Some(data) = test_data("archives_of_real_servers") else {
        return;
    };
    for name in ["empty.car", "greenground.car", "tiny.car", "little.car"] {
        rebuild(&data.join("repos").join(name));
    }
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
