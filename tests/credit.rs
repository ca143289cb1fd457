//! Redirects that strangers chose, to a host that is none of theirs: it is asked no more for them than its rate and a second's worth ahead.
//! Each account here is at a host of its own, so that no limit but that of the host to which all of them lead can hold.

mod support;

use std::time::Instant;

use support::backfiller::Builder;
use support::events::{enqueue, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer};
use support::instances::{Queue, end_well, summary};
use support::wait::eventually;

/// How many hosts lead to the one.
const HOSTS: usize = 24;
/// Requests a second that each host allows.
const RATE: usize = 4;
/// What comes beside the rate: the token that is there at first, a second's worth that is owed, the one that goes beyond it, and what
/// the machine may have held up between permit and request.
const AHEAD: usize = 1 + RATE + 1 + 2;

fn program(queue: &Queue) -> Builder {
    queue
        .patient_instance("one")
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
        .env("BACKFILLER_CONCURRENCY", HOSTS.to_string())
        .env("BACKFILLER_HOST_RPS", RATE.to_string())
}

/// When the requests came to a host, the first one first.
fn times(host: &FixtureServer) -> Vec<Instant> {
    let requests = host.requests().into_iter();
    let mut times: Vec<_> = requests.map(|request| request.at).collect();
    times.sort();
    times
}

/// In no stretch of time more requests than the rate allows in it, and those that come ahead.
#[track_caller]
fn assert_spread(times: &[Instant]) {
    for (first, from) in times.iter().enumerate() {
        for (last, until) in times.iter().enumerate().skip(first) {
            let stretch = until.duration_since(*from).as_secs_f64();
            let allowed = (stretch * RATE as f64) as usize + AHEAD;
            let came = last - first + 1;
            assert!(came <= allowed, "{came} in {stretch:.2} s");
        }
    }
}

/// The target is no plain getRepo, so the host cannot be learnt, and whoever finds it busy begins anew.
#[test]
fn redirects_of_many_hosts_to_one_do_not_ask_more_of_it_than_it_allows() {
    let mut queue = Queue::new();
    let victim = FixtureServer::start_with_addr("127.0.0.2:0");
    let _hosts: Vec<_> = (0..HOSTS)
        .map(|_| {
            let (host, repo) = (FixtureServer::start(), queue.serve(2));
            victim.put_repo(&repo.did, repo.car());
            let location = format!("{}&more=1", victim.repo_url(&repo.did));
            host.set_fault(&repo.did, Fault::redirect(location));
            enqueue(&mut queue.connection, &repo.did, Some(&host.url()));
            host
        })
        .collect();
    let one = program(&queue).start();
    wait_until_drained(&mut queue.connection);
    let times = times(&victim);
    assert_eq!(times.len(), HOSTS, "each repo once");
    assert_spread(&times);
    let one = end_well(one);
    assert_eq!(summary(&one, "repos"), HOSTS as u64);
    assert_eq!(summary(&one, "failures"), 0, "who waits is not charged");
}

#[test]
fn nor_do_those_of_many_hosts_of_did_web() {
    const PATH: &str = "/.well-known/did.json";
    let mut queue = Queue::new();
    let victim = FixtureServer::start_with_addr("127.0.0.2:0");
    let _hosts: Vec<_> = (0..HOSTS)
        .map(|_| {
            let host = FixtureServer::start();
            host.redirect_web_document(format!("{}{PATH}", victim.url()));
            let address = host.host();
            let port = address.rsplit(':').next().expect("a port");
            let did = format!("did:web:localhost%3A{port}");
            enqueue(&mut queue.connection, &did, None);
            host
        })
        .collect();
    let _one = program(&queue).start();
    // It has no document, and that is soon seen of each of them.
    eventually("all have been sent there", || victim.count(PATH) == HOSTS);
    assert_spread(&times(&victim));
}
