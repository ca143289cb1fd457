//! Real repositories and the protocol's interop vectors, where `BACKFILLER_TEST_DATA` names the folder that holds them. Without
//! it these tests say so and pass; with it, a missing file is a failure.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::BASE64_NOPAD;
use rsky_backfiller::error::Reason;
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::car;
use rsky_backfiller::repo::cbor::{Item, Reader};
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::mst::{self, layer_of};
use rsky_backfiller::repo::record::{KeyParser, transcode};
use rsky_crypto::verify::verify_signature_digest;
use serde_json::Value as Json;
use support::blocks;
use support::generator::cid::sha256;
use support::generator::{Cid, SigningKey, Value, commit_fields, set_field, sign_commit};

/// The folder of test data, where there is one.
fn test_data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("BACKFILLER_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: {test}, BACKFILLER_TEST_DATA is not set");
    }
    folder
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json(path: &Path) -> Vec<Json> {
    let parsed = serde_json::from_slice(&read(path));
    parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of a syntax vector; a line that begins with `# ` is a comment, and `#extra` a case.
fn cases(data: &Path, name: &str) -> Vec<String> {
    let text = String::from_utf8(read(&data.join("interop/syntax").join(name))).expect("UTF-8");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "));
    let cases: Vec<_> = lines.map(str::to_owned).collect();
    assert!(!cases.is_empty(), "{name}");
    cases
}

/// The account that the commit block names.
fn did_of(commit: &[u8]) -> String {
    let mut reader = Reader::new(commit);
    let Ok(Item::Map(fields)) = reader.item() else {
        panic!("the commit is a map");
    };
    for _ in 0..fields {
        match (reader.key().expect("a key"), reader.clone().item()) {
            ("did", Ok(Item::Text(did))) => return did.to_owned(),
            _ => reader.skip().expect("a value"),
        }
    }
    panic!("the commit names an account");
}

/// The JSON of all records of a repo, in the order of their keys.
fn records(archive: &[u8]) -> Result<Vec<String>, Reason> {
    let mut blocks = BlockStore::default();
    let root = car::read(archive, &mut blocks, &mut None).map_err(|error| error.reason)?;
    let block = blocks::get(&blocks, &root.digest).expect("the commit");
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let commit = Commit::read(&block, &did_of(&block), now).expect("a regular commit");
    let mut tree = mst::prove(&mut blocks, commit.data()).map_err(|error| error.reason)?;
    let (mut walk, mut keys) = (tree.walk(), KeyParser::default());
    let mut records = Vec::new();
    while let Some(leaf) = walk.next(&tree).expect("a proven tree") {
        keys.parse(leaf.key).expect("a regular key");
        let block = tree.record(&leaf).expect("blocks in memory");
        let mut out = Vec::new();
        transcode(block.expect("a record"), &mut out).expect("a regular record");
        records.push(String::from_utf8(out).expect("UTF-8"));
    }
    assert_eq!(tree.leaves(), records.len() as u64);
    Ok(records)
}

#[test]
fn r2_r3_r4_r7_real_repositories_pass() {
    let Some(data) = test_data("real repositories") else {
        return;
    };
    for (name, count) in [
        ("empty", 0),
        ("greenground", 2),
        ("tiny", 8),
        ("little", 278),
    ] {
        let archive = read(&data.join(format!("repos/{name}.car")));
        let records = records(&archive).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(records.len(), count, "{name}");
        for record in records {
            let json: Json = serde_json::from_str(&record).expect("JSON");
            assert!(json["$type"].is_string(), "{record}");
            // preserve_order: what is parsed is printed in the order of the block.
            assert_eq!(json.to_string(), record);
        }
    }
}

#[test]
fn r7_slices_of_real_repositories_are_incomplete() {
    let Some(data) = test_data("slices of real repositories") else {
        return;
    };
    for name in ["slice-one", "slice-node-after", "slice-proving-absence"] {
        let archive = read(&data.join(format!("repos/{name}.car")));
        assert_eq!(records(&archive), Err(Reason::Incomplete), "{name}");
    }
}

#[test]
fn r1_blocks_of_the_data_model_print_as_its_json() {
    let Some(data) = test_data("data model fixtures") else {
        return;
    };
    for case in read_json(&data.join("interop/data-model/data-model-fixtures.json")) {
        let base64 = case["cbor_base64"].as_str().expect("base64");
        let block = BASE64_NOPAD.decode(base64.as_bytes()).expect("base64");
        assert_eq!(case["cid"], Cid::dag_cbor(&block).to_string());
        let mut out = Vec::new();
        transcode(&block, &mut out).expect("a record");
        let ours: Json = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(ours, case["json"]);
    }
}

#[test]
fn r5_signature_fixtures_are_decided_as_they_say() {
    let Some(data) = test_data("signature fixtures") else {
        return;
    };
    let cases = read_json(&data.join("interop/crypto/signature-fixtures.json"));
    assert!(cases.len() >= 6);
    for case in cases {
        let text = |name: &str| case[name].as_str().expect("a text").to_owned();
        let bytes = |name: &str| {
            let text = text(name);
            BASE64_NOPAD
                .decode(text.trim_end_matches('=').as_bytes())
                .expect("base64")
        };
        let digest = sha256(&bytes("messageBase64"));
        let (key, signature) = (text("publicKeyDid"), bytes("signatureBase64"));
        let valid = verify_signature_digest(&key, &digest, &signature, None).unwrap_or(false);
        assert_eq!(case["validSignature"], valid, "{}", case["comment"]);
    }
}

#[test]
fn r7_key_heights_are_those_of_the_vectors() {
    let Some(data) = test_data("key heights") else {
        return;
    };
    for case in read_json(&data.join("interop/mst/key_heights.json")) {
        let key = case["key"].as_str().expect("a key");
        assert_eq!(case["height"], layer_of(key.as_bytes()), "{key}");
    }
}

#[test]
fn r1_collections_and_record_keys_follow_the_syntax_vectors() {
    let Some(data) = test_data("syntax of NSIDs and record keys") else {
        return;
    };
    let parses = |key: String| KeyParser::default().parse(key.as_bytes()).is_ok();
    for (valid, file) in [(true, "valid"), (false, "invalid")] {
        for nsid in cases(&data, &format!("nsid_syntax_{file}.txt")) {
            assert_eq!(parses(format!("{nsid}/self")), valid, "{nsid}");
        }
        for rkey in cases(&data, &format!("recordkey_syntax_{file}.txt")) {
            assert_eq!(parses(format!("com.example.note/{rkey}")), valid, "{rkey}");
        }
    }
}

#[test]
fn r5_revs_follow_the_syntax_vectors_of_tids() {
    let Some(data) = test_data("syntax of TIDs") else {
        return;
    };
    // Late enough for each of them to be in the past.
    let now = UNIX_EPOCH + Duration::from_secs(20_000_000_000);
    let (did, root) = ("did:plc:abc", Cid::dag_cbor(b""));
    for (valid, file) in [(true, "valid"), (false, "invalid")] {
        for rev in cases(&data, &format!("tid_syntax_{file}.txt")) {
            let mut fields = commit_fields(did, "", root);
            set_field(&mut fields, "rev", Value::text(&rev));
            let block = sign_commit(fields, &SigningKey::k256(1)).1;
            let read = Commit::read(&block, did, now);
            let expected = if valid { None } else { Some(Reason::Commit) };
            assert_eq!(read.err().map(|error| error.reason), expected, "{rev}");
        }
    }
}

#[test]
fn dids_follow_the_syntax_vectors() {
    let Some(data) = test_data("syntax of DIDs") else {
        return;
    };
    for (valid, file) in [(true, "valid"), (false, "invalid")] {
        for did in cases(&data, &format!("did_syntax_{file}.txt")) {
            let checked = rsky_syntax::did::ensure_valid_did(did.as_str());
            assert_eq!(checked.is_ok(), valid, "{did}");
        }
    }
}
