//! The pending list as retry queue: any instance tries again what another could not do, new messages and those that are due again
//! take turns, of the same host and of others, and a list of several pages is looked through to its end.

mod support;

use std::time::Instant;

use redis::Connection;

use support::events::{
    DEAD_LETTERS, GROUP, INPUT, dead_letters, enqueue, enqueue_raw, pending_messages, stream_len,
};
use support::fixture_server::{Fault, FixtureServer, Request};
use support::generator::{Repo, SigningKey, did_document, did_plc};
use support::instances::{Message, Queue, end_well, summary};
use support::wait::eventually;

#[test]
fn what_one_instance_could_not_do_another_tries_again() {
    let mut queue = Queue::new();
    let message = queue.put(5);
    let fails = || Fault::status(500);
    queue
        .server
        .set_fault(&message.repo.did, Fault::Then(vec![fails(), fails()]));
    // The first would wait for half a minute before it tries again.
    let one = queue.patient_instance("one").start();
    let line = one.wait_for_line(|line| line.contains("failed did="));
    assert!(line.contains(" reason=network attempt=1 "), "{line}");
    let one = end_well(one);
    assert_eq!(summary(&one, "retries"), 1);
    assert_eq!(summary(&one, "released"), 0, "it waits, as it should");
    let pending = queue.pending(&message).expect("a pending message");
    assert_eq!((pending.consumer.as_str(), pending.deliveries), ("one", 1));

    let two = queue.instance("two").start();
    let line = two.wait_for_line(|line| line.contains("failed did="));
    assert!(line.contains(" reason=network attempt=2 "), "{line}");
    queue.assert_all_done([&message]);
    assert_eq!(queue.requests(&message), 3);
    assert_eq!(summary(&end_well(two), "taken_over"), 1);
}

/// Messages of accounts whose repos the server never has.
fn put_hopeless(queue: &mut Queue, count: u64) -> Vec<String> {
    let url = queue.server.url();
    let key = SigningKey::k256(1);
    let put = |seed| {
        let did = did_plc(1000 + seed);
        let document = did_document(&did, &key, &url);
        queue.server.put_document(&did, document);
        queue.server.set_fault(&did, Fault::status(500));
        enqueue(&mut queue.connection, &did, Some(&url));
        did
    };
    (0..count).map(put).collect()
}

/// Puts a message for the repo, which this host has, or else the one of all others.
fn put_at(queue: &mut Queue, host: Option<&FixtureServer>, repo: &Repo) {
    let host = host.unwrap_or(&queue.server);
    host.put_repo(&repo.did, repo.car());
    enqueue(&mut queue.connection, &repo.did, Some(&host.url()));
}

/// So many are due all the time that they alone would keep the worker busy: when the last one has failed, the first is due again.
/// Then new messages come, for `new_host` or for the same host.
fn flood_of_retries(new_host: Option<&FixtureServer>) {
    const HOPELESS: usize = 400;
    let mut queue = Queue::new();
    let hopeless = put_hopeless(&mut queue, HOPELESS as u64);
    let _one = queue
        .instance("one")
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "1")
        .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "1")
        .env("BACKFILLER_MAX_ATTEMPTS", "1000000")
        .env("RUST_LOG", "error")
        .start();
    let last = &hopeless[HOPELESS - 1];
    eventually("each has failed", || queue.server.repo_requests(last) >= 1);
    let repos: Vec<_> = (0..10).map(|_| queue.serve(1)).collect();
    let before = Instant::now();
    for repo in &repos {
        put_at(&mut queue, new_host, repo);
    }
    eventually("the new ones are done", || {
        stream_len(&mut queue.connection, INPUT) == HOPELESS
    });
    let servers = new_host.into_iter().chain([&queue.server]);
    let mut since: Vec<_> = servers.flat_map(FixtureServer::requests).collect();
    since.retain(|request| request.is_get_repo() && request.at >= before);
    since.sort_by_key(|request| request.at);
    let is_new = |request: &Request| {
        let mut dids = repos.iter().map(|repo| &repo.did);
        dids.any(|did| request.did.as_ref() == Some(did))
    };
    assert_eq!(
        since.iter().filter(|request| is_new(request)).count(),
        repos.len()
    );
    let first = since.iter().position(is_new).expect("a request");
    let last = since.iter().rposition(is_new).expect("a request");
    // It is looked for new messages a few times a second, and each second turn is theirs.
    assert!(first <= HOPELESS / 2, "{first} retries before them");
    let between = last - first + 1 - repos.len();
    assert!(between >= 5, "{between} retries in between");
    // The last of them may have been enqueued behind a look for new messages.
    assert!(between <= HOPELESS / 2, "{between} retries in between");
}

#[test]
fn a_flood_of_retries_does_not_keep_new_messages_of_its_host_from_being_done() {
    flood_of_retries(None);
}

#[test]
fn a_flood_of_retries_does_not_keep_new_messages_of_other_hosts_from_being_done() {
    flood_of_retries(Some(&FixtureServer::start()));
}

/// New messages are there all the time, for `new_host` or for the same host; the one that has failed is tried again in their
/// midst, and not behind them.
fn flood_of_new_messages(new_host: Option<&FixtureServer>) {
    const NEW: usize = 600;
    let mut queue = Queue::new();
    let failing = queue.put(1);
    let fault = Fault::Then(vec![Fault::status(500)]);
    queue.server.set_fault(&failing.repo.did, fault);
    let repo = queue.serve(1);
    for _ in 0..NEW {
        put_at(&mut queue, new_host, &repo);
    }
    let _one = queue
        .instance("one")
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "1")
        .env("RUST_LOG", "error")
        .start();
    eventually("the failed one is tried again", || {
        queue.requests(&failing) == 2
    });
    let left = stream_len(&mut queue.connection, INPUT);
    assert!(left > NEW / 10, "{left} are left");
}

#[test]
fn a_flood_of_new_messages_does_not_keep_retries_of_its_host_from_being_taken() {
    flood_of_new_messages(None);
}

#[test]
fn a_flood_of_new_messages_does_not_keep_retries_of_other_hosts_from_being_taken() {
    flood_of_new_messages(Some(&FixtureServer::start()));
}

fn deliver_all(connection: &mut Connection, consumer: &str) {
    let () = redis::cmd("XGROUP")
        .arg(&["CREATE", INPUT, GROUP, "0"])
        .query(connection)
        .unwrap();
    let () = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, consumer, "COUNT", "100000"])
        .arg(&["STREAMS", INPUT, ">"])
        .query(connection)
        .unwrap();
}

/// Makes these messages idle for so long that they are due, whatever the lease and the backoff.
fn make_due(connection: &mut Connection, ids: &[&String]) {
    let mut claim = redis::cmd("XCLAIM");
    claim.arg(&[INPUT, GROUP, "dead", "0"]).arg(ids);
    let claimed: Vec<String> = claim
        .arg(&["IDLE", "7200000", "JUSTID"])
        .query(connection)
        .unwrap();
    assert_eq!(claimed.len(), ids.len());
}

#[test]
fn orphans_on_several_pages_of_the_pending_list_are_all_taken_over() {
    const ORPHANS: usize = 2300;
    let mut queue = Queue::new();
    // At the ends of the pages and in their midst there are repos, else messages that need no server.
    let mut messages: Vec<Message> = Vec::new();
    for place in 0..ORPHANS {
        if [0, 1, 500, 999, 1000, 1001, 1999, 2000, ORPHANS - 1].contains(&place) {
            messages.push(queue.put(2));
        } else {
            enqueue_raw(&mut queue.connection, &[("repo", b"?")]);
        }
    }
    deliver_all(&mut queue.connection, "dead");
    let listed = pending_messages(&mut queue.connection);
    assert!(listed.len() == ORPHANS && listed.iter().all(|message| message.consumer == "dead"));

    // The repos alone are due at first, so that the pages keep their ends.
    let repos: Vec<_> = messages.iter().map(|message| &message.id).collect();
    make_due(&mut queue.connection, &repos);
    let two = queue.patient_instance("two").start();
    let others = ORPHANS - messages.len();
    eventually("the repos are done", || {
        stream_len(&mut queue.connection, INPUT) == others
    });
    assert_eq!(stream_len(&mut queue.connection, DEAD_LETTERS), 0);

    let ids = listed.iter().map(|message| &message.id);
    let ids: Vec<_> = ids.filter(|id| !repos.contains(id)).collect();
    make_due(&mut queue.connection, &ids);
    queue.assert_all_done(&messages);
    let letters = dead_letters(&mut queue.connection);
    assert_eq!(letters.len(), others);
    assert!(letters.iter().all(|letter| letter["attempts"] == "1"));
    let two = end_well(two);
    assert_eq!(summary(&two, "taken_over"), ORPHANS as u64);
    assert_eq!(summary(&two, "repos"), messages.len() as u64);
}
