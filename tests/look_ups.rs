//! Hosts of documents, the directory and those of did:web: one whose answers break off is left alone, one whose documents are bad is not.

mod support;

use std::time::Duration;

use support::events::{enqueue, wait_until_drained};
use support::fixture_server::FixtureServer;
use support::hostile::outcomes;
use support::instances::{Queue, end_well, summary};
use support::wait::eventually;

/// What opens a circuit when it comes in a row, and for how long it is open first.
const FAILURES: usize = 5;
const PAUSE: Duration = Duration::from_secs(30);

#[test]
fn a_directory_that_cuts_its_documents_is_left_alone_until_it_is_well() {
    const ACCOUNTS: usize = 12;
    let mut queue = Queue::new();
    let known = queue.put(2);
    let one = queue.patient_instance("one").start();
    wait_until_drained(&mut queue.connection);

    queue.server.cut_documents(true);
    let before = queue.server.count("/did:plc:");
    let look_ups = |queue: &Queue| queue.server.count("/did:plc:") - before;
    for _ in 0..ACCOUNTS {
        queue.put(2);
    }
    eventually("so many are deferred", || {
        let ended = outcomes::so_far(&one).into_iter();
        ended.filter(|it| it.how == "deferred").count() >= FAILURES
    });
    // What needs no look-up goes on.
    let again = queue.enqueue(known.repo.clone());
    eventually("what is known is done", || queue.requests(&again) == 2);
    assert_eq!(look_ups(&queue), FAILURES);
    queue.server.cut_documents(false);
    wait_until_drained(&mut queue.connection);
    let one = end_well(one);
    assert_eq!(summary(&one, "failures"), 0, "nobody is charged");
    assert_eq!(summary(&one, "repos"), ACCOUNTS as u64 + 2);
}

/// Whatever stands before the directory and answers in its place is not the directory.
#[test]
fn a_directory_that_fails_whoever_asks_is_left_alone_until_it_is_well() {
    const ACCOUNTS: usize = 12;
    let mut queue = Queue::new();
    let repos: Vec<_> = (0..ACCOUNTS).map(|_| queue.serve(2)).collect();
    for repo in &repos {
        let server = &queue.server;
        server.put_document_status(&repo.did, 502, "<html>");
        queue.enqueue(repo.clone());
    }
    let one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "1")
        .start();
    eventually("so many are deferred", || {
        let ended = outcomes::so_far(&one).into_iter();
        ended.filter(|it| it.how == "deferred").count() >= FAILURES
    });
    for repo in &repos {
        let document = repo.did_document(&queue.server.url());
        queue.server.put_document(&repo.did, document);
    }
    assert_eq!(queue.server.count("/did:plc:"), FAILURES);
    wait_until_drained(&mut queue.connection);
    let one = end_well(one);
    assert_eq!(summary(&one, "failures"), 0, "nobody is charged");
    assert_eq!(summary(&one, "repos"), ACCOUNTS as u64);
}

#[test]
fn a_host_of_did_web_is_not_left_alone_for_what_its_document_holds() {
    const PATH: &str = "/.well-known/did.json";
    let mut queue = Queue::new();
    let host = FixtureServer::start();
    let address = host.host();
    let port = address.rsplit(':').next().expect("a port");
    for text in ["<html>".to_owned(), " ".repeat(64 * 1024 + 1)] {
        host.put_web_text(text);
        let before = host.count(PATH);
        for _ in 0..=FAILURES {
            let did = format!("did:web:localhost%3A{port}");
            enqueue(&mut queue.connection, &did, None);
        }
        let one = queue
            .patient_instance("one")
            .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
            .start();
        eventually("all have asked", || host.count(PATH) - before > FAILURES);
        let requests = host.requests();
        let took = requests[before + FAILURES].at - requests[before].at;
        assert!(took < PAUSE, "{took:?}");
        drop(one);
        queue.command(&format!("DEL {}", support::events::INPUT));
    }
}
