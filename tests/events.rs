//! The wire contract of the output stream: chunks and their bounds, the exact bytes of the events, and what the official
//! packages say of the same repositories.

mod support;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::Connection;
use serde_json::Value as Json;

use support::backfiller::Backfiller;
use support::events::{
    Event, OUTPUT, assert_repo, enqueue, events_of, read_events, wait_until_drained,
};
use support::fixture_server::FixtureServer;
use support::generator::records::{self, Record};
use support::generator::time::timestamp;
use support::generator::{Repo, RepoBuilder, SigningKey, Value, did_plc};
use support::redis_server::RedisServer;

/// The most bytes of JSON in a chunk.
const MAX_JSON: usize = 4 * 1024 * 1024;

/// Serves the repos, lets the program do them all, and returns what it wrote.
fn events_from(repos: &[Repo]) -> Vec<Event> {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    for repo in repos {
        server.put_document(&repo.did, repo.did_document(&server.url()));
        server.put_repo(&repo.did, repo.car());
        enqueue(&mut connection, &repo.did, Some(&server.url()));
    }
    let _backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    assert_one_field(&mut connection);
    read_events(&mut connection, OUTPUT)
}

/// Every entry is one field `event`, and not two of that name either.
fn assert_one_field(connection: &mut Connection) {
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(OUTPUT)
        .arg("-")
        .arg("+")
        .query(connection)
        .unwrap();
    for (id, fields) in entries {
        assert_eq!(fields.len(), 2, "entry {id}: one name, one value");
        assert_eq!(fields[0], "event", "entry {id}");
    }
}

/// How many `create` events stand before each `repo` event of an account.
fn chunks(events: &[Event], did: &str) -> Vec<usize> {
    let mut chunks = Vec::new();
    let mut creates = 0;
    for event in events_of(events, did) {
        match event.text("type") {
            "create" => creates += 1,
            "repo" => chunks.push(std::mem::take(&mut creates)),
            other => panic!("an event of type {other:?}"),
        }
    }
    assert_eq!(creates, 0, "no create event without a repo event behind it");
    chunks
}

/// A repo of records whose only field is a text.
fn repo_of_texts(seed: u64, texts: impl IntoIterator<Item = String>) -> Repo {
    let record = |(n, text)| {
        let value = Value::map([("t", Value::text(text))]);
        Record::new("com.example.text", format!("{n:04}"), value)
    };
    let records = texts.into_iter().enumerate().map(record);
    RepoBuilder::new(did_plc(seed))
        .key(SigningKey::k256(seed))
        .records(records)
        .build()
}

/// The length of the `create` event of such a record with an empty text.
fn bare_length(repo: &Repo) -> usize {
    let (did, commit, rev) = (&repo.did, &repo.commit_cid, &repo.rev);
    let time = "2025-01-01T00:00:00.000Z";
    let cid = commit;
    format!(
        r#"{{"type":"create","seq":-1,"time":"{time}","did":"{did}","commit":"{commit}","rev":"{rev}","collection":"com.example.text","rkey":"0000","cid":"{cid}","record":{{"t":""}}}}"#
    )
    .len()
}

#[test]
fn a_chunk_has_at_most_500_creates_and_ends_with_one_repo_event() {
    let sizes: [(usize, &[usize]); 7] = [
        (0, &[0]),
        (1, &[1]),
        (499, &[499]),
        (500, &[500]),
        (501, &[500, 1]),
        (1000, &[500, 500]),
        (1501, &[500, 500, 500, 1]),
    ];
    let repo = |seed: u64, size: usize| {
        RepoBuilder::new(did_plc(seed))
            .records(records::mixed(seed, size))
            .build()
    };
    let seeds = 0..;
    let repos: Vec<_> = seeds
        .zip(sizes)
        .map(|(n, (size, _))| repo(n, size))
        .collect();
    let events = events_from(&repos);
    for (repo, (size, wanted)) in repos.iter().zip(sizes) {
        assert_eq!(chunks(&events, &repo.did), wanted, "{size} records");
        assert_repo(&events, repo);
    }
}

#[test]
fn a_chunk_has_at_most_4_mib_of_json() {
    let repo = repo_of_texts(1, (0..40).map(|_| "x".repeat(300_000)));
    let events = events_from(std::slice::from_ref(&repo));
    assert_eq!(chunks(&events, &repo.did), [13, 13, 13, 1]);
    assert_repo(&events, &repo);
}

#[test]
fn the_4_mib_are_met_to_the_byte() {
    let sizes = |total: usize, bare: usize| {
        let texts = total - 3 * bare;
        [texts / 3, texts / 3, texts - 2 * (texts / 3)].map(|length| "x".repeat(length))
    };
    let sample = repo_of_texts(0, []);
    let bare = bare_length(&sample);
    let repo_event = bare
        - r#","collection":"com.example.text","rkey":"0000","cid":"","record":{"t":""}"#.len()
        - sample.commit_cid.to_string().len()
        - "create".len()
        + "repo".len();
    let fits = repo_of_texts(1, sizes(MAX_JSON - repo_event, bare));
    let over = repo_of_texts(2, sizes(MAX_JSON + 1, bare));
    let repos = [fits, over];
    let events = events_from(&repos);
    let bytes = |repo: &Repo, kind: &str| -> usize {
        let events = events_of(&events, &repo.did).into_iter();
        let of_kind = events.filter(|event| event.text("type") == kind);
        of_kind.map(|event| event.raw.len()).sum()
    };
    let [fits, over] = &repos;
    assert_eq!(bytes(fits, "create") + bytes(fits, "repo"), MAX_JSON);
    assert_eq!(chunks(&events, &fits.did), [3]);
    assert_eq!(bytes(over, "create"), MAX_JSON + 1);
    assert_eq!(chunks(&events, &over.did), [2, 1]);
}

#[test]
fn a_record_larger_than_4_mib_of_json_is_a_chunk_of_its_own() {
    // 1.9 MiB in the block; JSON writes each of these characters as six.
    let big = "\u{1}".repeat(1_992_294);
    let repo = repo_of_texts(1, ["a".into(), "b".into(), big, "d".into(), "e".into()]);
    let events = events_from(std::slice::from_ref(&repo));
    assert_eq!(chunks(&events, &repo.did), [2, 1, 2]);
    let largest = events.iter().map(|event| event.raw.len()).max();
    assert!(largest.is_some_and(|bytes| bytes > 6 * 1_992_294));
    assert_repo(&events, &repo);
}

#[test]
fn the_events_of_a_repo_have_exactly_these_bytes() {
    let record = Value::map([
        ("$type", Value::text("com.example.thing")),
        ("text", Value::text("\u{0}\t\"\\/é🦀\u{7f}\u{2028}")),
        ("n", Value::Int(i64::MIN.into())),
        ("m", Value::Int(u64::MAX.into())),
        ("f", Value::Float(3.0)),
        ("b", Value::Bytes(vec![0xff, 0xfe])),
        ("none", Value::Null),
    ]);
    let full = RepoBuilder::new(did_plc(1))
        .record("com.example.thing", "self", record)
        .build();
    let empty = RepoBuilder::new(did_plc(2)).build();
    let before = now();
    let repos = [full, empty];
    let events = events_from(&repos);
    let after = now();
    let [full, empty] = &repos;

    let mine = events_of(&events, &full.did);
    let time = mine[0].text("time");
    assert!(before.as_str() <= time && time <= after.as_str(), "{time}");
    let head = |repo: &Repo, time: &str| {
        format!(
            r#""seq":-1,"time":"{time}","did":"{}","commit":"{}","rev":"{}""#,
            repo.did, repo.commit_cid, repo.rev
        )
    };
    let cid = full.expected[0].cid;
    let json = "{\"b\":{\"$bytes\":\"//4\"},\"f\":3.0,\"m\":18446744073709551615,\"n\":-9223372036854775808,\"none\":null,\
                \"text\":\"\\u0000\\t\\\"\\\\/é🦀\u{7f}\u{2028}\",\"$type\":\"com.example.thing\"}";
    let create = format!(
        r#"{{"type":"create",{},"collection":"com.example.thing","rkey":"self","cid":"{cid}","record":{json}}}"#,
        head(full, time)
    );
    let repo_event = format!(r#"{{"type":"repo",{}}}"#, head(full, time));
    let raw: Vec<_> = mine.iter().map(|event| event.raw.as_str()).collect();
    assert_eq!(raw, [create.as_str(), repo_event.as_str()]);

    let [only] = events_of(&events, &empty.did)[..] else {
        panic!("an empty repo is exactly one event");
    };
    let time = only.text("time");
    assert_eq!(
        only.raw,
        format!(r#"{{"type":"repo",{}}}"#, head(empty, time))
    );
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    timestamp(since.as_micros() as u64)
}

#[test]
fn all_events_of_a_repo_have_one_time() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let repo = RepoBuilder::new(did_plc(1))
        .records(records::mixed(1, 501))
        .build();
    server.put_document(&repo.did, repo.did_document(&server.url()));
    server.put_repo(&repo.did, repo.car());
    enqueue(&mut connection, &repo.did, Some(&server.url()));
    // The second chunk waits for room, and so is written in another millisecond than the first.
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();
    backfiller.wait_for_line(|line| line.contains("the mark is 100: waiting"));
    let mut events = read_events(&mut connection, OUTPUT);
    let () = redis::cmd("XTRIM")
        .arg(OUTPUT)
        .arg("MAXLEN")
        .arg(0)
        .query(&mut connection)
        .unwrap();
    wait_until_drained(&mut connection);
    events.extend(read_events(&mut connection, OUTPUT));
    let millis = |event: &Event| event.id.split('-').next().map(str::to_owned);
    assert_ne!(millis(&events[0]), millis(&events[501]));
    assert_repo(&events, &repo);
    assert!(
        events
            .iter()
            .all(|event| event.text("time") == events[0].text("time"))
    );
}

#[test]
fn events_equal_the_records_of_the_official_packages() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let car = entry.unwrap().path();
        if car.extension().is_none_or(|extension| extension != "car") {
            continue;
        }
        let text = fs::read_to_string(car.with_extension("json")).unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        let did = json["did"].as_str().unwrap();
        server.put_document(did, json["didDocument"].clone());
        server.put_repo(did, fs::read(&car).unwrap());
        enqueue(&mut connection, did, Some(&server.url()));
        fixtures.push((car, text, json));
    }
    assert_eq!(fixtures.len(), 8);
    let _backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    let events = read_events(&mut connection, OUTPUT);
    for (car, text, json) in &fixtures {
        assert_fixture(&events, text, json, &car.display().to_string());
    }
}

fn assert_fixture(events: &[Event], text: &str, json: &Json, name: &str) {
    let field = |name: &str| json[name].as_str().unwrap();
    let events = events_of(events, field("did"));
    let mut creates = events.iter().filter(|event| event.text("type") == "create");
    for record in json["records"].as_array().unwrap() {
        let which = format!("{} of {name}", record["rkey"]);
        let event = creates
            .next()
            .unwrap_or_else(|| panic!("no event for {which}"));
        for key in ["collection", "rkey", "cid"] {
            assert_eq!(event.json[key], record[key], "{key} of {which}");
        }
        for key in ["commit", "rev", "did"] {
            assert_eq!(event.text(key), field(key), "{key} of {which}");
        }
        if record["rkey"] == "looks-like-serde" {
            // Its keys mean something to serde_json under some features, so it is never parsed here.
            let cid = record["cid"].as_str().unwrap();
            let of = |text: &str| {
                let start = text.find(&format!(r#""cid":"{cid}","record":"#))?;
                let rest = text[start..].lines().next()?;
                Some(rest.trim_end_matches([',', ']', '}']).to_owned())
            };
            assert!(of(text).is_some());
            assert_eq!(of(&event.raw), of(text), "{which}");
            continue;
        }
        // Maps are equal whatever their order; their texts are not.
        assert_eq!(event.json["record"], record["record"], "{which}");
        assert_eq!(
            event.json["record"].to_string(),
            record["record"].to_string(),
            "{which}"
        );
    }
    assert!(
        creates.next().is_none(),
        "more events than records in {name}"
    );
    let last = events.last().unwrap();
    assert_eq!(last.text("type"), "repo", "{name}");
}
