//! The tests' own repo generator against others, so that the tests stand on more than the program's word.
//!
//! The trees are compared with roots and archives of the reference implementation under
//! `fixtures`. Where `BACKFILLER_TEST_DATA` names a folder with the protocol's interop vectors and
//! archives of real servers, the generator is compared with those as well; without it those tests
//! say so and pass.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use support::generator::cid::base64;
use support::generator::mst;
use support::generator::{Cid, SigningKey, Value};
use support::trees::{take_apart, tree_of};

/// The value the interop vectors and the reference implementation's tests use for every key.
const LEAF: &str = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454";

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
