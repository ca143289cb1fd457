//! R1 to R7 through the binary: nothing that a rule refuses gets into the output, and nothing that it lets pass is held up by it.

mod support;

use std::collections::BTreeMap;

use serde_json::json;
use support::backfiller::Backfiller;
use support::events::{
    OUTPUT, assert_repo_events, dead_letters, enqueue, events_of, pending_messages, read_events,
};
use support::fixture_server::FixtureServer;
use support::generator::cbor::{write_head, write_text};
use support::generator::{Cid, RepoBuilder, SigningKey, Value, did_plc, records};
use support::hostile::{self, Hostile, outcomes};
use support::redis_server::RedisServer;

/// Runs the program over all hostile repos of a rule and one good repo at the end.
#[track_caller]
fn assert_refused(rule: &'static str) {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let hostile = hostile::of_rule(rule);
    // A host whose bodies break off is soon left alone, so each of these has its own.
    let apart = |entry: &&Hostile| entry.reason == "network";
    let hosts: BTreeMap<_, _> = hostile
        .iter()
        .filter(apart)
        .map(|entry| (&entry.did, FixtureServer::start()))
        .collect();
    let host_of = |did: &String| hosts.get(did).unwrap_or(&server);
    let mut ids = Vec::new();
    for entry in &hostile {
        let host = host_of(&entry.did);
        entry.serve_at(host, &server);
        ids.push(enqueue(&mut connection, &entry.did, Some(&host.url())));
    }
    let good = hostile::good(rule);
    server.put_document(&good.did, good.did_document(&server.url()));
    server.put_repo(&good.did, good.car());
    enqueue(&mut connection, &good.did, Some(&server.url()));

    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
        .start();
    let ended = outcomes::wait_for(&backfiller, hostile.len() + 1);
    assert!(backfiller.is_running());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &hostile {
        let outcome = outcomes::of(&ended, &entry.did);
        let start = format!(
            "failed did={} host={} reason={} ",
            entry.did,
            host_of(&entry.did).url(),
            entry.reason
        );
        assert!(
            outcome.line.contains(&start),
            "{rule}, {}: not {start:?} but {:?}",
            entry.name,
            outcome.line
        );
        *counts.entry(entry.reason).or_default() += 1;
    }
    let done = outcomes::of(&ended, &good.did);
    assert_eq!(done.how, "done");
    assert_eq!(done.number("records"), good.expected.len() as u64);

    let events = read_events(&mut connection, OUTPUT);
    let of_good = events_of(&events, &good.did).len();
    assert_eq!(events.len(), of_good, "events of hostile repos");
    let commit = good.commit_cid.to_string();
    assert_repo_events(&events, &good.did, &commit, &good.rev, &good.expected);
    let pending: Vec<_> = pending_messages(&mut connection)
        .into_iter()
        .map(|message| message.id)
        .collect();
    assert_eq!(pending, ids, "the hostile messages stay pending");
    assert!(dead_letters(&mut connection).is_empty());

    let summary = outcomes::stop(backfiller);
    assert!(summary.contains(" repos=1 "), "{summary}");
    let words: Vec<_> = summary.split(' ').collect();
    assert!(
        words.contains(&format!("failures={}", hostile.len()).as_str()),
        "{summary}"
    );
    for (reason, count) in counts {
        assert!(
            words.contains(&format!("{reason}={count}").as_str()),
            "{summary}"
        );
    }
}

#[test]
fn r2_blocks_that_do_not_hash_to_their_cid_are_refused() {
    assert_refused("R2");
}

#[test]
fn r3_archives_without_a_commit_as_their_first_root_are_refused() {
    assert_refused("R3");
}

#[test]
fn r4_downloads_without_their_end_are_refused() {
    assert_refused("R4");
}

#[test]
fn r5_commits_that_the_owner_did_not_sign_are_refused() {
    assert_refused("R5");
}

#[test]
fn r6_documents_without_a_usable_key_are_refused() {
    assert_refused("R6");
}

#[test]
fn r7_trees_that_are_none_are_refused() {
    assert_refused("R7");
}

/// Blocks that are no records, by what is wrong with them.
fn bad_records() -> Vec<(&'static str, Vec<u8>)> {
    let field = |value: &[u8]| [b"\xa1\x61a", value].concat();
    let nested = |depth: usize| {
        // The map around is the first level.
        let mut block = field(&[0x81].repeat(depth - 1));
        block.push(0xf6);
        block
    };
    let mut large = Vec::new();
    write_head(&mut large, 5, 1);
    write_text(&mut large, "text");
    write_text(&mut large, &"x".repeat(2 << 20));
    vec![
        ("text", Value::text("record").encode()),
        ("list", Value::List(vec![Value::map([])]).encode()),
        ("null", Value::Null.encode()),
        ("empty", Vec::new()),
        ("duplicate-keys", b"\xa2\x61a\x01\x61a\x02".to_vec()),
        (
            "duplicate-unsorted",
            b"\xa3\x61b\x01\x61a\x02\x61b\x03".to_vec(),
        ),
        ("duplicate-within", field(b"\xa2\x61a\x01\x61a\x02")),
        ("indefinite-map", b"\xbf\x61a\x01\xff".to_vec()),
        ("indefinite-list", field(b"\x9f\x01\xff")),
        ("indefinite-text", field(b"\x7f\x61x\xff")),
        ("long-integer", field(b"\x18\x17")),
        ("long-length", b"\xb8\x01\x61a\x01".to_vec()),
        ("long-negative", field(b"\x39\x00\x10")),
        ("tag-date", field(b"\xc0\x61x")),
        ("tag-bignum", field(b"\xc2\x41\x01")),
        ("tag-42-text", field(b"\xd8\x2a\x61x")),
        ("tag-42-no-cid", field(b"\xd8\x2a\x42\x00\x01")),
        ("bad-utf8", field(b"\x62\xc3\x28")),
        ("bad-utf8-key", b"\xa1\x62\xc3\x28\x01".to_vec()),
        ("nan", field(b"\xfb\x7f\xf8\0\0\0\0\0\0")),
        ("infinity", field(b"\xfb\x7f\xf0\0\0\0\0\0\0")),
        ("minus-infinity", field(b"\xfb\xff\xf0\0\0\0\0\0\0")),
        ("undefined", field(b"\xf7")),
        ("integer-key", b"\xa1\x01\x02".to_vec()),
        ("cut", b"\xa2\x61a\x01".to_vec()),
        ("more-behind", b"\xa1\x61a\x01\x00".to_vec()),
        ("nested-129", nested(129)),
        ("nested-100000", nested(100_000)),
        ("large", large),
    ]
}

#[test]
fn r1_what_is_no_record_is_skipped_and_the_others_go_on() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut builder = RepoBuilder::new(did_plc(11))
        .key(SigningKey::p256(11))
        .records(records::mixed(11, 100))
        .record("com.example.kinds", "all", records::every_kind());
    let mut skipped = Vec::new();
    for (name, block) in bad_records() {
        builder = builder.raw_record("com.example.bad", name, block);
        skipped.push(format!("com.example.bad/{name}"));
    }
    // Good records under keys that are none.
    let record = Value::map([("$type", Value::text("com.example.key"))]).encode();
    let of_length = |length: usize| format!("com.example.long/{}", "k".repeat(length - 17));
    let keys = [
        "com.example.key".to_owned(),
        "com.example.key/".to_owned(),
        "com.example.key/a/b".to_owned(),
        "com.example.key/a b".to_owned(),
        "com.example.key/é".to_owned(),
        "com.example.key/.".to_owned(),
        "com.example.key/..".to_owned(),
        "/a".to_owned(),
        "com/a".to_owned(),
        "com..key/a".to_owned(),
        "com.example.key!/a".to_owned(),
        of_length(1025),
    ];
    for key in keys {
        builder = builder.raw_key_record(key.clone(), Cid::dag_cbor(&record), Some(record.clone()));
        skipped.push(key);
    }
    builder = builder
        .raw_key_record(
            "com.example.raw/here",
            Cid::raw(&record),
            Some(record.clone()),
        )
        .raw_key_record("com.example.raw/elsewhere", Cid::raw(b"elsewhere"), None);
    skipped.extend([
        "com.example.raw/here".to_owned(),
        "com.example.raw/elsewhere".to_owned(),
    ]);
    // What is strange and no reason to skip. (The JSON reader of the tests goes no deeper than 128 levels, event included.)
    let unsorted = b"\xa2\x61b\x01\x61a\x02".to_vec();
    let deep = [b"\xa1\x61a", &[0x81].repeat(120)[..], &[0xf6]].concat();
    let deep_json = (0..120).fold(json!(null), |inner, _| json!([inner]));
    let repo = builder
        .raw_record_expecting(
            "com.example.fine",
            "unsorted",
            unsorted,
            json!({"b": 1, "a": 2}),
        )
        .raw_record_expecting("com.example.fine", "deep", deep, json!({"a": deep_json}))
        .build();
    server.put_document(&repo.did, repo.did_document(&server.url()));
    server.put_repo(&repo.did, repo.car());
    enqueue(&mut connection, &repo.did, Some(&server.url()));

    let backfiller = Backfiller::builder(&redis, &server)
        .env("RUST_LOG", "info,rsky_backfiller=debug")
        .start();
    let ended = outcomes::wait_for(&backfiller, 1);
    let done = outcomes::of(&ended, &repo.did);
    assert_eq!(done.how, "done", "{}", done.line);
    assert_eq!(done.number("records"), repo.expected.len() as u64);
    assert_eq!(done.number("skipped"), skipped.len() as u64);
    let lines = backfiller.lines();
    for key in &skipped {
        // A blank would end the field.
        let shown = key.escape_debug().to_string().replace(' ', "\\u{20}");
        let said = format!("skipped did={} key={shown} cid=", repo.did);
        let count = lines.iter().filter(|line| line.contains(&said)).count();
        assert_eq!(count, 1, "{said}");
    }
    let events = read_events(&mut connection, OUTPUT);
    let commit = repo.commit_cid.to_string();
    assert_repo_events(&events, &repo.did, &commit, &repo.rev, &repo.expected);
    let summary = outcomes::stop(backfiller);
    assert!(
        summary.contains(&format!(" skipped={} ", skipped.len())),
        "{summary}"
    );
    assert!(summary.contains(" failures=0"), "{summary}");
}
