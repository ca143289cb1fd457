//! Messages that can never become events: they are copied to the dead letters, whole, and leave the input in the same
//! transaction.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use support::backfiller::Backfiller;
use support::events::{
    DEAD_LETTERS, GROUP, INPUT, OUTPUT, assert_repo, assert_timestamp, enqueue, enqueue_raw,
    pending, read_events, stream_len, wait_until_drained,
};
use support::fixture_server::{FixtureServer, served};
use support::generator::did_plc;
use support::generator::time::timestamp;
use support::hostile::malformed_messages;
use support::monitor::{Monitor, transactions};
use support::redis_server::RedisServer;

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    timestamp(since.as_micros() as u64)
}

#[test]
fn i1_a_dead_letter_is_written_in_the_transaction_that_removes_its_message() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let id = enqueue_raw(&mut connection, &[("repo", b"no JSON")]);
    let monitor = Monitor::start(&redis);
    let _backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    let commands = monitor.commands(&mut connection);
    let transactions = transactions(&commands, &["XADD", "XACK", "XDEL"]);
    let [transaction] = &transactions[..] else {
        panic!("not one transaction: {transactions:?}");
    };
    assert_eq!(transaction.len(), 4);
    assert!(
        transaction[0].starts_with(&format!(r#""XADD" "{DEAD_LETTERS}" "*" "repo" "no JSON""#))
    );
    assert_eq!(
        transaction[1],
        format!(r#""XACK" "{INPUT}" "{GROUP}" "{id}""#)
    );
    assert_eq!(transaction[2], format!(r#""XDEL" "{INPUT}" "{id}""#));
    assert_eq!(
        transaction[3],
        format!(
            r#""DEL" "{OUTPUT}:progress:{INPUT}:{GROUP}:{id}" "{OUTPUT}:owner:{INPUT}:{GROUP}:{id}""#
        )
    );
}

#[test]
fn i4_malformed_messages_become_dead_letters_and_the_good_among_them_events() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut wanted = Vec::new();
    let mut repos = Vec::new();
    let before = now();
    for (n, message) in malformed_messages().into_iter().enumerate() {
        if n % 5 == 0 {
            let repo = served(&server, n as u64, 3);
            enqueue(&mut connection, &repo.did, Some(&server.url()));
            repos.push(repo);
        }
        let id = enqueue_raw(&mut connection, &message);
        wanted.push((id, message));
    }
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "the consumer")
        .start();
    wait_until_drained(&mut connection);
    let after = now();

    // Read as bytes, for not all of them are text.
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let letters: Vec<(String, Fields)> = redis::cmd("XRANGE")
        .arg(DEAD_LETTERS)
        .arg("-")
        .arg("+")
        .query(&mut connection)
        .unwrap();
    assert_eq!(letters.len(), wanted.len());
    for ((_, fields), (id, message)) in letters.iter().zip(&wanted) {
        let names: Vec<_> = fields
            .iter()
            .map(|(name, _)| name.escape_ascii().to_string())
            .collect();
        let mut order = vec![
            "repo", "reason", "error", "attempts", "consumer", "id", "time",
        ];
        let value = message.iter().find(|(name, _)| *name == "repo");
        if value.is_none() {
            // What has no such field is kept whole.
            order.push("entry");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let pairs: Vec<_> = message.iter().map(|(n, v)| (n, text(v))).collect();
            assert_eq!(fields[7].1, serde_json::to_vec(&pairs).unwrap());
        }
        assert_eq!(names, order);
        let value = value.map_or(&b""[..], |(_, value)| *value);
        let shown = value.escape_ascii();
        assert_eq!(fields[0].1, value, "the value of {shown}");
        let text = |n: usize| std::str::from_utf8(&fields[n].1).unwrap();
        assert_eq!(text(1), "bad_message", "{shown}");
        assert!(
            !text(2).is_empty() && !text(2).contains('\n'),
            "{shown}: {}",
            text(2)
        );
        assert_eq!(
            (text(3), text(4), text(5)),
            ("1", "the consumer", id.as_str()),
            "{shown}"
        );
        assert_timestamp(text(6));
        assert!(
            before.as_str() <= text(6) && text(6) <= after.as_str(),
            "{shown}"
        );
    }
    let events = read_events(&mut connection, OUTPUT);
    for repo in &repos {
        assert_repo(&events, repo);
    }
    // What a message says cannot write a line of its own into the log.
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.starts_with("failed did=x"))
    );
}

/// Redis would remove a message also where it cannot add the dead letter; so it must not be asked to.
#[test]
fn i4_without_a_stream_for_it_no_dead_letter_is_tried_and_the_process_ends() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    let () = redis::cmd("SET")
        .arg(DEAD_LETTERS)
        .arg("no stream")
        .query(&mut connection)
        .unwrap();
    let id = enqueue_raw(&mut connection, &[("repo", b"no JSON \"\n")]);
    assert_eq!(backfiller.wait().code(), Some(1));
    assert_eq!(stream_len(&mut connection, INPUT), 1);
    assert_eq!(pending(&mut connection), 1);
    let log = backfiller.lines();
    let named = |line: &&String| line.contains(&id) && line.contains("no JSON");
    assert!(log.iter().any(|line| named(&line)), "{log:?}");
}

#[test]
fn i4_an_output_that_is_no_stream_any_more_ends_the_process_and_keeps_the_message() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    let () = redis::cmd("SET")
        .arg(OUTPUT)
        .arg("no stream")
        .query(&mut connection)
        .unwrap();
    enqueue(&mut connection, &did_plc(1), Some(&server.url()));
    assert_eq!(backfiller.wait().code(), Some(1));
    assert_eq!(stream_len(&mut connection, INPUT), 1);
    assert_eq!(pending(&mut connection), 1);
}
