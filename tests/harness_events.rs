//! The harness itself: messages go in, events come out, and the assertion on events sees what is wrong with them.

mod support;

use std::panic::{self, AssertUnwindSafe};

use redis::Commands;
use serde_json::{Value, json};

use support::events::{self, Event};
use support::redis_server::RedisServer;

const DID: &str = "did:plc:abcdefghijklmnopqrstuvwx";

#[test]
fn messages_go_in_and_are_counted() {
    let server = RedisServer::start();
    let mut connection = server.connection();
    assert_eq!(events::pending(&mut connection), 0, "there is no group yet");
    let id = events::enqueue(&mut connection, DID, Some("http://here"));
    events::enqueue(&mut connection, DID, None);
    events::enqueue_raw(&mut connection, &[("other", b"\xff"), ("repo", b"{}")]);
    assert_eq!(events::stream_len(&mut connection, events::INPUT), 3);

    let entries = events::read_stream(&mut connection, events::INPUT);
    let message: Value = serde_json::from_str(&entries[0].1["repo"]).unwrap();
    assert_eq!(
        (&entries[0].0, message),
        (&id, json!({ "did": DID, "host": "http://here" }))
    );
    assert_eq!(entries[1].1["repo"], json!({ "did": DID }).to_string());
    assert_eq!(entries[2].1["other"], "\u{fffd}");

    let (input, group) = (events::INPUT, events::GROUP);
    let _: () = connection.xgroup_create(input, group, "0").unwrap();
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(group)
        .arg("me")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(input)
        .arg(">");
    read.exec(&mut connection).unwrap();
    assert_eq!(events::pending(&mut connection), 1);
    let pending = events::pending_messages(&mut connection);
    assert_eq!((&pending[0].id, pending[0].deliveries), (&id, 1));
    assert_eq!(pending[0].consumer, "me");

    let key = format!("{}:progress:{input}:{group}:{id}", events::OUTPUT);
    let _: () = connection.hset(&key, "leaves", 1).unwrap();
    assert_eq!(events::progress_keys(&mut connection), [key]);
    let _: () = connection
        .xadd(events::DEAD_LETTERS, "*", &[("reason", "car")])
        .unwrap();
    assert_eq!(events::dead_letters(&mut connection)[0]["reason"], "car");

    let _: () = connection.xack(input, group, &[&id]).unwrap();
    let _: () = connection.del(input).unwrap();
    events::wait_until_drained(&mut connection);
}

const TIME: &str = "2024-02-29T01:02:03.004Z";

fn create_text(number: usize, record: &str) -> String {
    format!(
        r#"{{"type":"create","seq":-1,"time":"{TIME}","did":"{DID}","commit":"c","rev":"r","collection":"a.b.c","rkey":"k{number}","cid":"l{number}","record":{record}}}"#
    )
}

fn repo_text() -> String {
    format!(r#"{{"type":"repo","seq":-1,"time":"{TIME}","did":"{DID}","commit":"c","rev":"r"}}"#)
}

/// Whether the assertion lets these texts pass as the events of so many records `{"z":1,"a":[]}`.
fn passes(texts: &[String], records: usize) -> bool {
    let event = |raw: &String| Event {
        id: "0-0".into(),
        raw: raw.clone(),
        json: serde_json::from_str(raw).unwrap(),
    };
    let events: Vec<_> = texts.iter().map(event).collect();
    let expected: Vec<_> = (0..records)
        .map(|number| {
            let record = json!({ "z": 1, "a": [] });
            (
                "a.b.c".to_owned(),
                format!("k{number}"),
                format!("l{number}"),
                record,
            )
        })
        .collect();
    let check = || events::assert_repo_events(&events, DID, "c", "r", &expected);
    panic::catch_unwind(AssertUnwindSafe(check)).is_ok()
}

#[test]
fn the_assertion_accepts_what_the_contract_says() {
    let creates = |range: std::ops::Range<usize>| {
        range
            .map(|number| create_text(number, r#"{"z":1,"a":[]}"#))
            .collect::<Vec<_>>()
    };
    let repo = || vec![repo_text()];
    assert!(passes(&repo(), 0));
    assert!(passes(&[creates(0..1), repo()].concat(), 1));
    assert!(passes(&[creates(0..500), repo()].concat(), 500));
    let two_chunks = [creates(0..500), repo(), creates(500..501), repo()].concat();
    assert!(passes(&two_chunks, 501));

    assert!(!passes(&[], 0));
    assert!(
        !passes(&[repo(), repo()].concat(), 0),
        "one repo event for an empty repo"
    );
    assert!(!passes(&creates(0..1), 1), "no repo event at the end");
    assert!(
        !passes(&[creates(0..501), repo()].concat(), 501),
        "a chunk too large"
    );
    let early = [creates(0..2), repo(), creates(2..3), repo()].concat();
    assert!(!passes(&early, 3), "a chunk that is not full");
    assert!(!passes(&[creates(0..500), repo(), repo()].concat(), 500));
    assert!(
        !passes(&[creates(0..2), repo()].concat(), 1),
        "one too many"
    );
    assert!(!passes(&[creates(0..2), repo()].concat(), 3), "one too few");
    assert!(
        !passes(&[creates(1..2), creates(0..1), repo()].concat(), 2),
        "out of order"
    );
}

#[test]
fn the_assertion_sees_the_text() {
    let with = |record: &str| passes(&[create_text(0, record), repo_text()], 1);
    assert!(with(r#"{"z":1,"a":[]}"#));
    assert!(!with(r#"{"a":[],"z":1}"#), "another order of keys");
    assert!(!with(r#"{"z":1, "a":[]}"#), "a blank");
    assert!(!with(r#"{"z":1.0,"a":[]}"#), "a float");
    assert!(!with(r#"{"z":2,"z":1,"a":[]}"#), "a key twice");
    let changed = |from: &str, to: &str| {
        let texts = [create_text(0, r#"{"z":1,"a":[]}"#), repo_text()];
        passes(&texts.map(|text| text.replace(from, to)), 1)
    };
    assert!(!changed(r#""seq":-1"#, r#""seq":1"#));
    assert!(!changed(
        r#""commit":"c","rev":"r""#,
        r#""rev":"r","commit":"c""#
    ));
    assert!(!changed(r#""commit":"c""#, r#""commit":"d""#));
    assert!(!changed(".004Z", ".004000Z"));
    assert!(!changed(".004Z", "+00:00"));
    let later = repo_text().replace(".004Z", ".005Z");
    let texts = [create_text(0, r#"{"z":1,"a":[]}"#), later];
    assert!(!passes(&texts, 1), "another time");
}
