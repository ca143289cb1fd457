//! Hosts take turns: the one with most of the messages, the one that is slow and the one that is gone keep nobody waiting.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use support::backfiller::Builder;
use support::events::{
    DEAD_LETTERS, GROUP, INPUT, dead_letters, enqueue, pending_messages, stream_len,
    wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, Request};
use support::generator::{Repo, SigningKey, did_document, did_plc};
use support::hostile::outcomes::DeadEnd;
use support::instances::{Queue, summary};
use support::wait::eventually;

/// Another host, which has this repo as well.
fn host_with(repo: &Repo) -> FixtureServer {
    let host = FixtureServer::start_with_addr("127.0.0.2:0");
    host.put_repo(&repo.did, repo.car());
    host
}

fn enqueue_many(queue: &mut Queue, repo: &Repo, host: &FixtureServer, count: usize) {
    for _ in 0..count {
        enqueue(&mut queue.connection, &repo.did, Some(&host.url()));
    }
}

/// The program with the limits that public hosts have, also for those of the tests.
fn limited(queue: &Queue, name: &str, rps: &str) -> Builder {
    queue
        .patient_instance(name)
        .env("BACKFILLER_CONCURRENCY", "8")
        .env("BACKFILLER_HOST_CONCURRENCY", "4")
        .env("BACKFILLER_HOST_RPS", rps)
}

fn repo_requests(host: &FixtureServer) -> Vec<Request> {
    let mut requests = host.requests();
    requests.retain(Request::is_get_repo);
    requests
}

#[test]
fn a_host_with_most_of_the_messages_does_not_delay_those_behind_it() {
    const MANY: usize = 20_000;
    const FEW: usize = 20;
    let mut queue = Queue::new();
    let repo = queue.serve(2);
    let (big, small) = (host_with(&repo), host_with(&repo));
    enqueue_many(&mut queue, &repo, &big, MANY);
    enqueue_many(&mut queue, &repo, &small, FEW);
    let _one = limited(&queue, "one", "10").start();
    eventually("the small host's messages are done", || {
        repo_requests(&small).len() == FEW
    });
    // Both may be asked ten times a second, and the big one is asked from the start on.
    let last = repo_requests(&small)[FEW - 1].at;
    let before = |request: &&Request| request.at <= last;
    let of_big = repo_requests(&big).iter().filter(before).count();
    assert!(of_big >= FEW / 2, "the big one has its turns: {of_big}");
    let first = repo_requests(&big)[0].at;
    let allowed = 10.0 * (last - first).as_secs_f64() + 4.0;
    assert!(of_big as f64 <= allowed, "{of_big} of {allowed}");
    let left = stream_len(&mut queue.connection, INPUT);
    assert!(left > MANY / 2, "{left}");
}

/// Where workers are few and hosts free, the hosts share the workers.
#[test]
fn hosts_without_limits_share_the_workers() {
    const MANY: usize = 2_000;
    const FEW: usize = 20;
    let mut queue = Queue::new();
    let repo = queue.serve(2);
    let (big, small) = (host_with(&repo), host_with(&repo));
    enqueue_many(&mut queue, &repo, &big, MANY);
    enqueue_many(&mut queue, &repo, &small, FEW);
    let _one = queue.patient_instance("one").start();
    eventually("the small host's messages are done", || {
        repo_requests(&small).len() == FEW
    });
    let last = repo_requests(&small)[FEW - 1].at;
    let of_big = repo_requests(&big);
    let of_big = of_big.iter().filter(|request| request.at <= last).count();
    // By turns, when the small one has been seen; it lies ten readings behind.
    assert!(of_big < MANY / 2, "{of_big} of the big host's before");
}

#[test]
fn what_waits_for_a_host_is_free_for_other_instances() {
    const MESSAGES: usize = 300;
    let mut queue = Queue::new();
    let repo = queue.serve(2);
    let host = host_with(&repo);
    enqueue_many(&mut queue, &repo, &host, MESSAGES);
    let one = limited(&queue, "one", "0.01").start();
    eventually("one has read all", || {
        pending_messages(&mut queue.connection).len() >= MESSAGES - 1
    });
    // It has taken the only one that it may take in this minute, and holds up no other.
    let two = queue.patient_instance("two").start();
    eventually("two has done all others", || {
        stream_len(&mut queue.connection, INPUT) <= 1
    });
    let two = support::instances::end_well(two);
    assert!(summary(&two, "taken_over") >= MESSAGES as u64 - 2);
    drop(one);
}

/// One worker for both: it waits for nobody.
#[test]
fn a_host_that_throttles_keeps_no_worker() {
    let mut queue = Queue::new();
    let (slow, quick) = (queue.serve(2), queue.serve(3));
    let (throttling, host) = (host_with(&slow), host_with(&quick));
    let later = Fault::status_with_header(429, "Retry-After", "3");
    throttling.set_fault(&slow.did, Fault::Then(vec![later]));
    enqueue(&mut queue.connection, &slow.did, Some(&throttling.url()));
    enqueue_many(&mut queue, &quick, &host, 200);
    let one = queue.patient_instance("one").start();
    wait_until_drained(&mut queue.connection);
    let [refused, done] = &repo_requests(&throttling)[..] else {
        panic!("two requests");
    };
    let gap = done.at - refused.at;
    assert!(gap >= Duration::from_secs(3), "{gap:?}");
    let others = repo_requests(&host);
    assert!(others[199].at < done.at, "the others did not wait for it");
    let one = support::instances::end_well(one);
    assert_eq!(
        (summary(&one, "deferrals"), summary(&one, "failures")),
        (1, 0)
    );
    assert_eq!(summary(&one, "repos"), 201);
}

#[test]
fn a_host_that_cannot_be_reached_is_left_alone_and_its_messages_are_given_up_in_time() {
    const MESSAGES: usize = 200;
    let mut queue = Queue::new();
    let nobody = DeadEnd::new();
    let key = SigningKey::k256(1);
    for n in 0..MESSAGES {
        let did = did_plc(n as u64);
        let document = did_document(&did, &key, &nobody.url());
        queue.server.put_document(&did, document);
        enqueue(&mut queue.connection, &did, Some(&nobody.url()));
    }
    let one = queue
        .instance("one")
        .env("BACKFILLER_CONCURRENCY", "8")
        .env("BACKFILLER_MAX_DEFERRED_SECS", "2")
        .start();
    eventually("all are dead letters", || {
        stream_len(&mut queue.connection, DEAD_LETTERS) == MESSAGES
    });
    let letters = dead_letters(&mut queue.connection);
    assert!(letters.iter().all(|letter| letter["reason"] == "network"));
    let attempts: u64 = letters
        .iter()
        .map(|letter| letter["attempts"].parse::<u64>().expect("a number"))
        .sum();
    // Five in a row open the circuit; whoever was on the way then has tried as well.
    assert!(
        (5..=5 + 8).contains(&attempts),
        "{attempts} attempts in all"
    );
    assert_eq!(stream_len(&mut queue.connection, INPUT), 0);
    let one = support::instances::end_well(one);
    // Each of them was given up in the end, without another attempt.
    assert_eq!(summary(&one, "network"), attempts + MESSAGES as u64);
}

/// A redirect to a host that is at its limit: the message waits for that host without a worker, is not charged, and does not trouble the
/// first host again.
#[test]
fn a_redirect_to_a_busy_host_gives_the_message_back_with_the_host_that_was_learnt() {
    let mut queue = Queue::new();
    let (first, second) = (queue.serve(2), queue.serve(3));
    let pds = host_with(&first);
    pds.put_repo(&second.did, second.car());
    let relay = FixtureServer::start();
    for repo in [&first, &second] {
        relay.set_fault(&repo.did, Fault::redirect(pds.repo_url(&repo.did)));
    }
    pds.set_fault(&first.did, Fault::Hold { after: 100 });
    enqueue(&mut queue.connection, &first.did, Some(&relay.url()));
    let one = queue
        .patient_instance("one")
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
        .env("BACKFILLER_CONCURRENCY", "4")
        .env("BACKFILLER_HOST_CONCURRENCY", "1")
        .start();
    pds.wait_until_held(&first.did, 1);
    enqueue(&mut queue.connection, &second.did, Some(&relay.url()));
    let line = one.wait_for_line(|line| line.contains("deferred did="));
    assert!(
        line.contains(&second.did) && line.contains(" attempt=1 "),
        "{line}"
    );
    assert!(line.contains(" has no room now"), "{line}");
    // No worker has it while it waits.
    eventually("it is not charged", || {
        let pending = pending_messages(&mut queue.connection);
        pending.iter().any(|message| message.deliveries == 0)
    });
    assert_eq!(pds.repo_requests(&second.did), 0);
    pds.release(&first.did);
    wait_until_drained(&mut queue.connection);
    assert_eq!(relay.repo_requests(&second.did), 1);
    assert_eq!(pds.repo_requests(&second.did), 1);
    let one = support::instances::end_well(one);
    assert_eq!((summary(&one, "repos"), summary(&one, "failures")), (2, 0));
}

/// Enqueues by the thousand. Returns the ids.
fn enqueue_in_bulk(queue: &mut Queue, repo: &Repo, host: &str, count: usize) -> Vec<String> {
    let message = json!({ "did": repo.did, "host": host }).to_string();
    let mut ids = Vec::new();
    while ids.len() < count {
        let mut pipeline = redis::pipe();
        for _ in 0..1000.min(count - ids.len()) {
            pipeline
                .cmd("XADD")
                .arg(&[INPUT, "*", "repo", message.as_str()]);
        }
        let added: Vec<String> = pipeline.query(&mut queue.connection).expect("XADD");
        ids.extend(added);
    }
    ids
}

/// A host that is gone and has more messages than can be remembered: those behind them are done all the same, and its own when it
/// is back.
#[test]
fn more_messages_of_a_dead_host_than_can_be_parked_stop_nobody() {
    const DEAD: usize = 101_000;
    const FEW: usize = 20;
    let mut queue = Queue::new();
    let repo = queue.serve(2);
    let address = TcpListener::bind("127.0.0.9:0").and_then(|it| it.local_addr());
    let address = address.expect("a free port").to_string();
    let ids = enqueue_in_bulk(&mut queue, &repo, &format!("http://{address}"), DEAD);
    let alive = host_with(&repo);
    enqueue_many(&mut queue, &repo, &alive, FEW);
    let one = queue.patient_instance("one").start();
    eventually("the messages of the other host are done", || {
        stream_len(&mut queue.connection, INPUT) == DEAD
    });
    assert_eq!(repo_requests(&alive).len(), FEW);
    // So that it does not take so long: somebody takes most of those away that are remembered.
    for some in ids[100..DEAD - 2000].chunks(1000) {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XACK").arg(&[INPUT, GROUP]).arg(some).ignore();
        pipeline.cmd("XDEL").arg(INPUT).arg(some).ignore();
        let taken: () = pipeline.query(&mut queue.connection).expect("XACK, XDEL");
        taken
    }
    let back = FixtureServer::start_with_addr(&address);
    back.put_repo(&repo.did, repo.car());
    wait_until_drained(&mut queue.connection);
    let one = support::instances::end_well(one);
    assert_eq!(summary(&one, "repos"), (FEW + 100 + 2000) as u64);
    assert_eq!(summary(&one, "dead_letters"), 0);
}
