//! A repo that kills the process each time is not worked on for ever, and takes no other with it.

mod support;

use serde_json::json;

use support::backfiller::Backfiller;
use support::events::{
    Pending, assert_repo, dead_letters, enqueue, kept_keys, pending_messages, take_events,
    wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::redis_server::RedisServer;
use support::wait::eventually;

const MAX_ATTEMPTS: usize = 3;

/// Kills the process MAX_ATTEMPTS times while it fetches the first of two repos; each process has another of these names.
fn killed_by_the_first_repo(name: impl Fn(usize) -> String) {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let server = FixtureServer::start();
    let deadly = served(&server, 1, 30);
    server.set_fault(&deadly.did, Fault::Hold { after: 1000 });
    let patient = served(&server, 2, 20);
    let url = server.url();
    let id = enqueue(&mut connection, &deadly.did, Some(&url));
    let patient_id = enqueue(&mut connection, &patient.did, Some(&url));
    let start = |number| {
        Backfiller::builder(&redis, &server)
            .env("BACKFILLER_CONSUMER", name(number))
            // So that the other one waits in the look-ahead while the first is fetched.
            .env("BACKFILLER_CONCURRENCY", "1")
            .env("BACKFILLER_MAX_ATTEMPTS", MAX_ATTEMPTS.to_string())
            .env("BACKFILLER_LEASE_SECS", "1")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "10")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "10")
            .start()
    };

    for attempt in 1..=MAX_ATTEMPTS {
        let mut process = start(attempt);
        // The requests of the processes that are dead are held as well.
        server.wait_until_held(&deadly.did, attempt);
        let mut message = |id: &String| -> Option<Pending> {
            let mut all = pending_messages(&mut connection).into_iter();
            all.find(|message| message.id == *id)
        };
        let begun = message(&id).expect("it is pending");
        assert_eq!(begun.deliveries, attempt);
        assert_eq!(begun.consumer, name(attempt));
        let waiting = eventually("another message is in the look-ahead", || {
            message(&patient_id).filter(|message| message.consumer == name(attempt))
        });
        assert_eq!(waiting.deliveries, 1);
        process.kill();
        let waiting = message(&patient_id).expect("it is pending");
        assert_eq!(waiting.deliveries, 1, "charged for work that never began");
        assert_eq!(server.repo_requests(&patient.did), 0, "attempt {attempt}");
    }

    let process = start(MAX_ATTEMPTS + 1);
    process.wait_for_line(|line| {
        let parts = [
            "dead letter ",
            &deadly.did,
            &id,
            "reason=panic",
            "attempts=3",
        ];
        parts.iter().all(|part| line.contains(part))
    });
    wait_until_drained(&mut connection);
    assert_eq!(server.repo_requests(&deadly.did), MAX_ATTEMPTS);
    let letters = dead_letters(&mut connection);
    let [letter] = &letters[..] else {
        panic!("one dead letter: {letters:?}");
    };
    let repo = json!({ "did": deadly.did, "host": url }).to_string();
    let consumer = name(MAX_ATTEMPTS + 1);
    let expected = [
        ("repo", repo.as_str()),
        ("reason", "panic"),
        ("attempts", "3"),
        ("consumer", consumer.as_str()),
        ("id", id.as_str()),
    ];
    for (field, value) in expected {
        assert_eq!(letter[field], value, "{field} of {letter:?}");
    }
    assert!(!letter["error"].is_empty());
    let events = take_events(&mut connection);
    assert_repo(&events, &patient);
    let other = events.iter().find(|event| event.text("did") != patient.did);
    assert!(other.is_none(), "of the deadly repo: {other:?}");
    assert_eq!(kept_keys(&mut connection), Vec::<String>::new());
}

#[test]
fn a_repo_that_kills_the_process_each_time_is_dead_lettered() {
    killed_by_the_first_repo(|_| "always-the-same".to_owned());
}

#[test]
fn also_when_each_process_has_another_name() {
    killed_by_the_first_repo(|number| format!("process-{number}"));
}
