//! What waits for a host or for the directory comes to its end, and holds up nothing that could go on.

mod support;

use support::backfiller::{Backfiller, Builder};
use support::events::{INPUT, enqueue, stream_len, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, Request};
use support::generator::{Repo, SigningKey, did_plc};
use support::identities::repo;
use support::instances::{Message, Queue, end_well, summary};
use support::wait::eventually;

fn permitted(queue: &Queue) -> Builder {
    queue
        .patient_instance("one")
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
}

/// A server that is a did:web and has its repo; it is called localhost.
fn web_server() -> (FixtureServer, Repo, String) {
    let server = FixtureServer::start();
    let port = server.host().rsplit(':').next().expect("a port").to_owned();
    let url = format!("http://localhost:{port}");
    let repo = repo(&format!("did:web:localhost%3A{port}"), &SigningKey::p256(4));
    server.put_web_document(repo.did_document(&url));
    server.put_repo(&repo.did, repo.car());
    (server, repo, url)
}

/// Document and repo come from one host, which may be asked for one of them at a time: the repo is not downloaded again and again.
#[test]
fn an_account_whose_document_and_repo_share_a_host_gets_both_within_its_rate() {
    let mut queue = Queue::new();
    let (server, repo, url) = web_server();
    let one = permitted(&queue).env("BACKFILLER_HOST_RPS", "1").start();
    enqueue(&mut queue.connection, &repo.did, Some(&url));
    wait_until_drained(&mut queue.connection);
    assert_eq!(server.repo_requests(&repo.did), 1);
    end_well(one);
}

/// A redirect is more than a host: what waits for its host asks for what it names.
#[test]
fn a_redirect_to_a_busy_host_is_followed_to_its_path() {
    let mut queue = Queue::new();
    let (first, second) = (queue.serve(2), queue.serve(3));
    let (relay, store) = (FixtureServer::start(), FixtureServer::start());
    for repo in [&first, &second] {
        let target = format!("{}&token=secret", store.repo_url(&repo.did));
        relay.set_fault(&repo.did, Fault::redirect(target));
        store.put_repo(&repo.did, repo.car());
    }
    store.set_fault(&first.did, Fault::Hold { after: 100 });
    let one = permitted(&queue)
        .env("BACKFILLER_CONCURRENCY", "4")
        .env("BACKFILLER_HOST_CONCURRENCY", "1")
        .start();
    enqueue(&mut queue.connection, &first.did, Some(&relay.url()));
    store.wait_until_held(&first.did, 1);
    enqueue(&mut queue.connection, &second.did, Some(&relay.url()));
    eventually("the second one is asked for", || {
        relay.repo_requests(&second.did) > 0
    });
    store.release(&first.did);
    wait_until_drained(&mut queue.connection);
    let requests = store.requests().into_iter().filter(Request::is_get_repo);
    for request in requests {
        assert!(request.target.contains("token=secret"), "{request:?}");
    }
    assert_eq!(summary(&end_well(one), "failures"), 0);
}

/// A server that redirects to itself, at a rate that does not allow two requests at once.
#[test]
fn a_redirect_to_the_same_host_comes_to_its_end() {
    let mut queue = Queue::new();
    let repo = queue.serve(2);
    let server = FixtureServer::start();
    server.put_repo(&repo.did, repo.car());
    let hop = Fault::redirect(format!("{}&moved=1", server.repo_url(&repo.did)));
    server.set_fault(&repo.did, Fault::Then(vec![hop, Fault::Normal]));
    let one = permitted(&queue).env("BACKFILLER_HOST_RPS", "2").start();
    enqueue(&mut queue.connection, &repo.did, Some(&server.url()));
    wait_until_drained(&mut queue.connection);
    let requests = server.requests();
    let last = requests.iter().rfind(|request| request.is_get_repo());
    assert!(
        last.is_some_and(|request| request.target.contains("moved=1")),
        "{last:?}"
    );
    end_well(one);
}

/// An instance whose directory has just refused for so many seconds, and the account whose document it refused.
fn refused(queue: &mut Queue, seconds: u64) -> (Backfiller, Message) {
    let refused = queue.serve(3);
    queue.server.refuse_document(&refused.did, seconds);
    let one = permitted(queue).env("BACKFILLER_CONCURRENCY", "4").start();
    let refused = queue.enqueue(refused);
    wait_until_refused(&one);
    (one, refused)
}

fn wait_until_refused(one: &Backfiller) {
    one.wait_for_line(|line| line.contains("deferred did=") && line.contains("directory"));
}

fn answer_again(queue: &Queue, refused: &Message) {
    let Message { repo, .. } = refused;
    let document = repo.did_document(&queue.server.url());
    queue.server.put_document(&repo.did, document);
}

/// Accounts at the directory, many more than the look-ahead, wait for it; a did:web has nothing to do with it.
#[test]
fn a_directory_that_is_closed_holds_up_only_those_who_need_it() {
    let mut queue = Queue::new();
    let (_server, web, _) = web_server();
    // Longer than a test lasts.
    let (one, _) = refused(&mut queue, 600);
    for n in 0..50 {
        enqueue(&mut queue.connection, &did_plc(n + 1000), None);
    }
    enqueue(&mut queue.connection, &web.did, None);
    eventually("the did:web is done", || {
        stream_len(&mut queue.connection, INPUT) == 51
    });
    let asked = (0..50).filter(|n| queue.server.document_requests(&did_plc(n + 1000)) > 0);
    assert_eq!(asked.count(), 0, "the directory is still left alone");
    end_well(one);
}

/// Behind its cool-down the directory is asked by one at a time: not for as long as that one's download takes.
#[test]
fn a_slow_download_does_not_hold_up_look_ups() {
    let mut queue = Queue::new();
    let (one, refused) = refused(&mut queue, 2);
    answer_again(&queue, &refused);
    let slow = queue.put_held(5);
    for _ in 0..5 {
        queue.put(2);
    }
    eventually("the slow one alone is left", || {
        queue.requests(&slow) == 1 && stream_len(&mut queue.connection, INPUT) == 1
    });
    assert_eq!(queue.server.held(&slow.repo.did), 1);
    queue.release(&slow);
    wait_until_drained(&mut queue.connection);
    // Had the others waited for it, its server would have been silent for too long.
    assert_eq!(summary(&end_well(one), "failures"), 0);
}

/// A download that was begun before the directory closed has not looked its account up yet, and keeps nobody else from it.
#[test]
fn a_download_from_before_the_cool_down_does_not_hold_up_look_ups() {
    let mut queue = Queue::new();
    let slow = queue.put_held(5);
    let refused = queue.serve(3);
    queue.server.refuse_document(&refused.did, 2);
    let one = permitted(&queue).env("BACKFILLER_CONCURRENCY", "4").start();
    queue.wait_until_held(&slow, 1);
    let refused = queue.enqueue(refused);
    wait_until_refused(&one);
    answer_again(&queue, &refused);
    for _ in 0..5 {
        queue.put(2);
    }
    eventually("the slow one alone is left", || {
        stream_len(&mut queue.connection, INPUT) == 1
    });
    assert_eq!(queue.server.held(&slow.repo.did), 1);
    queue.release(&slow);
    wait_until_drained(&mut queue.connection);
    // Had the others waited for it, its server would have been silent for too long.
    assert_eq!(summary(&end_well(one), "failures"), 0);
}

/// While the directory is closed, and behind it, a host with many accounts that wait for it does not come before the others.
#[test]
fn a_busy_host_that_waits_for_the_directory_keeps_no_other_from_it() {
    const MANY: usize = 200;
    const FEW: usize = 10;
    let mut queue = Queue::new();
    let (busy, other) = (FixtureServer::start(), FixtureServer::start());
    let refused = queue.serve(3);
    queue.server.refuse_document(&refused.did, 2);
    let one = permitted(&queue)
        .env("BACKFILLER_CONCURRENCY", "4")
        .env("BACKFILLER_HOST_RPS", "5")
        .start();
    let refused = queue.enqueue(refused);
    wait_until_refused(&one);
    answer_again(&queue, &refused);
    for (host, count) in [(&busy, MANY), (&other, FEW)] {
        for _ in 0..count {
            let repo = queue.serve(1);
            host.put_repo(&repo.did, repo.car());
            enqueue(&mut queue.connection, &repo.did, Some(&host.url()));
        }
    }
    let requests = |host: &FixtureServer| {
        let requests = host.requests().into_iter();
        requests.filter(Request::is_get_repo).count()
    };
    eventually("the other host's are done", || requests(&other) == FEW);
    let before = requests(&busy);
    assert!(before <= 4 * FEW, "{before} of the busy one before");
    drop(one);
}
