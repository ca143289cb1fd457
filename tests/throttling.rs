//! What hosts and the directory are asked: no more than they are allowed to be, and not before they say.

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::events::{INPUT, enqueue, stream_len, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, Request};
use support::generator::{Repo, RepoBuilder, SigningKey, did_plc, records};
use support::instances::{Queue, end_well, summary};
use support::wait::eventually;

/// A status, the headers that come with it, and for how many seconds nothing more may be asked then.
type Spelling<'a> = (u16, &'a [(&'a str, &'a str)], u64);

/// The repo of an account at a host of its own.
struct Account {
    repo: Repo,
    host: FixtureServer,
}

fn account(queue: &Queue, seed: u64) -> Account {
    let host = FixtureServer::start_with_addr("127.0.0.3:0");
    let repo = RepoBuilder::new(did_plc(seed))
        .key(SigningKey::k256(seed))
        .records(records::mixed(seed, 3))
        .build();
    queue
        .server
        .put_document(&repo.did, repo.did_document(&host.url()));
    host.put_repo(&repo.did, repo.car());
    Account { repo, host }
}

/// When the getRepo requests came.
fn times(host: &FixtureServer) -> Vec<Instant> {
    let requests = host.requests().into_iter();
    let requests = requests.filter(Request::is_get_repo);
    requests.map(|request| request.at).collect()
}

/// The most requests within any stretch of so long.
fn most_within(times: &[Instant], stretch: Duration) -> usize {
    let mut times = times.to_vec();
    times.sort();
    let from = |start: usize| {
        let within = times[start..].iter();
        within
            .take_while(|time| **time - times[start] < stretch)
            .count()
    };
    (0..times.len()).map(from).max().unwrap_or_default()
}

/// Each spelling at a host of its own: the second request comes when the host has said, and not before; a message that had to wait is
/// neither charged nor counted as failed.
#[test]
fn each_spelling_of_a_limit_is_kept_to() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let in_four = now.as_secs() + 4;
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(in_four));
    let in_four = in_four.to_string();
    let spellings: [Spelling<'_>; 9] = [
        (429, &[("Retry-After", "2")], 2),
        (503, &[("Retry-After", "2")], 2),
        (429, &[("Retry-After", &date)], 2),
        (
            429,
            &[
                ("RateLimit-Limit", "3000"),
                ("RateLimit-Remaining", "0"),
                ("RateLimit-Reset", &in_four),
                ("RateLimit-Policy", "3000;w=300"),
            ],
            2,
        ),
        (429, &[("RateLimit-Reset", "2")], 2),
        (
            429,
            &[("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "2")],
            2,
        ),
        (429, &[("RateLimit", "\"default\";r=0;t=2")], 2),
        // A success that was the last one for now.
        (
            200,
            &[("RateLimit-Remaining", "0"), ("RateLimit-Reset", "2")],
            2,
        ),
        // No word at all, as a page: half a minute.
        (429, &[], 30),
    ];
    let mut queue = Queue::new();
    let mut accounts = Vec::new();
    for (seed, (status, headers, least)) in (100..).zip(spellings) {
        let account = account(&queue, seed);
        let name = format!("{status} {headers:?}");
        let (content_type, body) = match status {
            200 => ("application/vnd.ipld.car", account.repo.car()),
            _ => ("text/html", b"<html>Too Many Requests</html>".to_vec()),
        };
        let headers = headers.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let fault = Fault::Status {
            code: status,
            headers: headers.collect(),
            content_type: content_type.into(),
            body,
        };
        account
            .host
            .set_fault(&account.repo.did, Fault::Then(vec![fault]));
        let messages = if status == 200 { 2 } else { 1 };
        for _ in 0..messages {
            enqueue(
                &mut queue.connection,
                &account.repo.did,
                Some(&account.host.url()),
            );
        }
        accounts.push((account, name, least));
    }
    let one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "16")
        .env("BACKFILLER_HOST_CONCURRENCY", "1")
        .start();
    wait_until_drained(&mut queue.connection);
    for (account, name, least) in &accounts {
        let times = times(&account.host);
        assert_eq!(times.len(), 2, "{name}");
        let gap = times[1] - times[0];
        assert!(gap >= Duration::from_secs(*least), "{name}: {gap:?}");
        assert!(gap < Duration::from_secs(least + 25), "{name}: {gap:?}");
    }
    let one = end_well(one);
    assert_eq!(
        (summary(&one, "failures"), summary(&one, "retries")),
        (0, 0)
    );
    assert_eq!(summary(&one, "deferrals"), 8);
    assert_eq!(summary(&one, "repos"), 10);
}

#[test]
fn no_host_is_asked_more_than_is_allowed() {
    let mut queue = Queue::new();
    let account = account(&queue, 1);
    for _ in 0..60 {
        enqueue(
            &mut queue.connection,
            &account.repo.did,
            Some(&account.host.url()),
        );
    }
    let _one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "16")
        .env("BACKFILLER_HOST_RPS", "20")
        .start();
    wait_until_drained(&mut queue.connection);
    let times = times(&account.host);
    assert_eq!(times.len(), 60);
    // 20, what a quarter of a second saves up, and what the machine may have held up between permit and request.
    let most = most_within(&times, Duration::from_secs(1));
    assert!(most <= 20 + 5 + 5, "{most} within a second");
    let took = times.iter().max().expect("some").duration_since(times[0]);
    assert!(took >= Duration::from_millis(2500), "{took:?}");
}

#[test]
fn no_more_requests_are_in_flight_at_a_host_than_are_allowed() {
    let mut queue = Queue::new();
    let account = account(&queue, 1);
    let did = &account.repo.did;
    // Each request takes one of these, and so does each release.
    let holds = Fault::Then(vec![Fault::Hold { after: 10 }; 100]);
    account.host.set_fault(did, holds);
    for _ in 0..20 {
        enqueue(&mut queue.connection, did, Some(&account.host.url()));
    }
    let _one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "16")
        .env("BACKFILLER_HOST_CONCURRENCY", "3")
        .start();
    let mut done = 0;
    // It starts with one at a time, and each success allows one more, up to three.
    for allowed in [1, 2, 3, 3] {
        done += allowed;
        // Those that were released just now may still count as held.
        eventually("the next ones have come", || {
            times(&account.host).len() >= done
        });
        account.host.wait_until_held(did, allowed);
        assert_eq!(times(&account.host).len(), done);
        account.host.release(did);
    }
    account.host.clear_fault(did);
    account.host.release(did);
    wait_until_drained(&mut queue.connection);
}

/// Heads that are as good as any, and bodies that break off: after five the host is left alone, and its messages wait without being
/// charged, while those of another one are done. When it is tried again and is well, they all come.
#[test]
fn a_host_that_cuts_its_bodies_is_left_alone_until_it_is_well() {
    const CUTS: usize = 5;
    const MESSAGES: usize = 20;
    let mut queue = Queue::new();
    let (cutting, other) = (account(&queue, 1), account(&queue, 2));
    let cut = Fault::Truncate { after: 500 };
    cutting.host.set_fault(&cutting.repo.did, cut);
    for account in [&cutting, &other] {
        let (did, url) = (&account.repo.did, account.host.url());
        (0..MESSAGES).for_each(|_| drop(enqueue(&mut queue.connection, did, Some(&url))));
    }
    let one = queue.instance("one").start();
    eventually("the other host's messages are done", || {
        stream_len(&mut queue.connection, INPUT) == MESSAGES
    });
    // What comes in now lies behind all that the first host was asked for.
    enqueue(
        &mut queue.connection,
        &other.repo.did,
        Some(&other.host.url()),
    );
    eventually("that one is done", || times(&other.host).len() > MESSAGES);
    assert_eq!(times(&cutting.host).len(), CUTS);
    cutting.host.clear_fault(&cutting.repo.did);
    wait_until_drained(&mut queue.connection);
    let times = times(&cutting.host);
    assert_eq!(times.len(), CUTS + MESSAGES);
    let pause = times[CUTS] - times[CUTS - 1];
    assert!(pause >= Duration::from_secs(29), "{pause:?}");
    let one = end_well(one);
    let counts = ["repos", "failures", "retries"].map(|name| summary(&one, name));
    assert_eq!(counts, [2 * MESSAGES as u64 + 1, CUTS as u64, CUTS as u64]);
}

#[test]
fn the_directory_is_asked_no_more_than_is_allowed() {
    const ACCOUNTS: u64 = 40;
    let mut queue = Queue::new();
    for _ in 0..ACCOUNTS {
        queue.put(1);
    }
    let _one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "16")
        .env("BACKFILLER_PLC_RPS", "10")
        .start();
    wait_until_drained(&mut queue.connection);
    let requests = queue.server.requests().into_iter();
    let look_ups = requests.filter(|request| request.path.starts_with("/did:plc:"));
    let times: Vec<_> = look_ups.map(|request| request.at).collect();
    assert_eq!(times.len() as u64, ACCOUNTS);
    let most = most_within(&times, Duration::from_secs(2));
    assert!(most <= 20 + 2 + 5, "{most} within two seconds");
    let took = times.iter().max().expect("some").duration_since(times[0]);
    assert!(took >= Duration::from_secs(3), "{took:?}");
}

/// The directory's 429 stops all look-ups for as long as it says; what needs none goes on, and nobody is charged.
#[test]
fn a_directory_that_throttles_is_left_alone() {
    let mut queue = Queue::new();
    let known = queue.put(2);
    let one = queue
        .patient_instance("one")
        .env("BACKFILLER_CONCURRENCY", "2")
        .start();
    wait_until_drained(&mut queue.connection);

    let document = known.repo.did_document(&queue.server.url());
    let refused = queue.serve(3);
    queue
        .server
        .put_document_status(&refused.did, 429, "<html>");
    queue.enqueue(refused.clone());
    one.wait_for_line(|line| line.contains("deferred did=") && line.contains("directory"));
    let asked = queue.server.document_requests(&refused.did);
    let other = queue.serve(4);
    queue.enqueue(other.clone());
    let again = queue.enqueue(known.repo.clone());
    eventually("what is known is done", || {
        !support::events::pending_messages(&mut queue.connection)
            .iter()
            .any(|message| message.id == again.id)
            && queue.requests(&again) == 2
    });
    assert_eq!(queue.server.document_requests(&other.did), 0);
    assert_eq!(queue.server.document_requests(&refused.did), asked);
    drop(document);
    let one = end_well(one);
    assert_eq!((summary(&one, "failures"), summary(&one, "repos")), (0, 2));
}
