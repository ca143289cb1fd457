//! R1 to R5 and R7 against repositories that the official TypeScript packages wrote: from the archive to the events, which must
//! say what those packages read back, record for record and key for key (`fixtures/README.md`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rsky_backfiller::error::Reason;
use rsky_backfiller::event::{Events, timestamp};
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::record::{KeyParser, transcode};
use rsky_backfiller::repo::{car, mst};
use serde_json::Value as Json;

/// How many records each fixture has.
const FIXTURES: [(&str, usize); 8] = [
    ("empty-k256", 0),
    ("empty-p256", 0),
    ("one-k256", 1),
    ("one-p256", 1),
    ("kinds-k256", 47),
    ("kinds-p256", 47),
    ("thousand-k256", 1000),
    ("thousand-p256", 1000),
];

fn path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name)
}

struct Fixture {
    archive: Vec<u8>,
    /// Everything but the records.
    about: Json,
    /// The text of each record's object, as the official packages printed it.
    records: Vec<String>,
}

/// Reads a fixture. The records stay text, because a parser may give a meaning of its own to a key.
fn fixture(name: &str) -> Fixture {
    let text = fs::read_to_string(path(&format!("{name}.json"))).expect("the fixture's JSON");
    let (about, records) = text.split_once("\"records\":[").expect("the records");
    let about = format!("{}}}", about.trim_end().trim_end_matches(','));
    let records = records.trim_end().strip_suffix("]}").expect("the end");
    let lines = records.lines().filter(|line| !line.is_empty());
    Fixture {
        archive: fs::read(path(&format!("{name}.car"))).expect("the fixture's archive"),
        about: serde_json::from_str(&about).expect("JSON"),
        records: lines
            .map(|line| line.trim_end_matches(',').to_owned())
            .collect(),
    }
}

/// What the path of a repo makes of an archive: commit, rev, root, and each record from its collection on.
struct Outcome {
    commit: String,
    rev: String,
    root: String,
    events: Vec<String>,
}

fn run(archive: &[u8], did: &str, key: &str) -> Result<Outcome, Reason> {
    let mut blocks = BlockStore::default();
    let root = car::read(archive, &mut blocks, &mut None).map_err(|error| error.reason)?;
    let mut buffer = Vec::new();
    let block = blocks
        .read(&root.digest, &mut buffer)
        .expect("blocks in memory");
    let block = block.ok_or(Reason::Incomplete)?;
    let now = UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    let commit = Commit::read(block, did, now).map_err(|error| error.reason)?;
    commit
        .verify(&key.to_owned())
        .map_err(|error| error.reason)?;
    let mut tree = mst::prove(&mut blocks, commit.data()).map_err(|error| error.reason)?;

    let events = Events::new(did, &root.cid, &commit.rev, &timestamp(now));
    let (mut walk, mut keys) = (tree.walk(), KeyParser::default());
    let mut printed = Vec::new();
    while let Some(leaf) = walk.next(&tree).expect("a proven tree") {
        let mut out = Vec::new();
        let (collection, rkey) = keys.parse(leaf.key).expect("a regular key");
        assert!(events.begin_create(collection, rkey, leaf.value, &mut out));
        let block = tree.record(&leaf).expect("blocks in memory");
        transcode(block.expect("a record"), &mut out).expect("a regular record");
        Events::end_create(&mut out);
        let event = String::from_utf8(out).expect("UTF-8");
        let place = event.find("\"collection\":").expect("the collection");
        printed.push(format!("{{{}", &event[place..]));
    }
    assert_eq!(tree.leaves(), printed.len() as u64);
    Ok(Outcome {
        commit: root.cid.to_string(),
        rev: commit.rev.clone(),
        root: commit.data().to_string(),
        events: printed,
    })
}

fn run_fixture(name: &str) -> (Fixture, Outcome) {
    let fixture = fixture(name);
    let [did, key] = ["did", "signingKey"].map(|key| fixture.about[key].as_str().expect("a text"));
    let outcome = run(&fixture.archive, did, key);
    let outcome = outcome.unwrap_or_else(|reason| panic!("{name}: {reason}"));
    (fixture, outcome)
}

#[test]
fn r5_r7_commit_rev_and_root_are_those_of_the_official_packages() {
    for (name, _) in FIXTURES {
        let (Fixture { about, .. }, outcome) = run_fixture(name);
        assert_eq!(about["commit"], outcome.commit, "{name}");
        assert_eq!(about["rev"], outcome.rev, "{name}");
        assert_eq!(about["root"], outcome.root, "{name}");
    }
}

#[test]
fn r1_r7_events_are_those_of_the_official_packages_letter_for_letter() {
    for (name, count) in FIXTURES {
        let (fixture, outcome) = run_fixture(name);
        assert_eq!(fixture.records.len(), count, "{name}");
        for (official, ours) in fixture.records.iter().zip(&outcome.events) {
            assert_eq!(ours, official, "{name}");
        }
        assert_eq!(outcome.events.len(), count, "{name}");
    }
}

#[test]
fn r1_events_equal_the_official_ones_as_json_values() {
    for (name, _) in FIXTURES {
        let (fixture, outcome) = run_fixture(name);
        for (official, ours) in fixture.records.iter().zip(&outcome.events) {
            if official.contains("looks-like-serde") {
                continue;
            }
            let [official, ours] = [official, ours].map(|text| {
                serde_json::from_str::<Json>(text).unwrap_or_else(|error| panic!("{text}: {error}"))
            });
            assert_eq!(ours, official, "{name}");
            // Two maps are equal whatever their order.
            assert_eq!(ours.to_string(), official.to_string(), "{name}");
        }
    }
}

#[test]
fn r5_the_key_of_another_account_does_not_fit() {
    for (name, other) in [
        ("one-k256", "kinds-k256"),
        ("one-p256", "kinds-p256"),
        ("kinds-k256", "kinds-p256"),
        ("empty-p256", "empty-k256"),
    ] {
        let (ours, other) = (fixture(name), fixture(other));
        let [did, key] = [(&ours, "did"), (&other, "signingKey")]
            .map(|(fixture, field)| fixture.about[field].as_str().expect("a text"));
        let reason = run(&ours.archive, did, key).err();
        assert_eq!(reason, Some(Reason::Signature), "{name}");
        let [did, key] =
            ["did", "signingKey"].map(|key| other.about[key].as_str().expect("a text"));
        let reason = run(&ours.archive, did, key).err();
        assert_eq!(reason, Some(Reason::DidMismatch), "{name}");
    }
}

#[test]
fn r2_no_flipped_bit_of_an_official_archive_passes() {
    let Fixture { archive, about, .. } = fixture("one-p256");
    let [did, key] = ["did", "signingKey"].map(|key| about[key].as_str().expect("a text"));
    for place in 0..archive.len() {
        let mut broken = archive.clone();
        broken[place] ^= 1 << (place % 8);
        assert!(run(&broken, did, key).is_err(), "byte {place}");
    }
}
