//! What waits for a host comes to its end.

mod support;

use support::backfiller::Builder;
use support::events::{enqueue, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, Request};
use support::generator::{Repo, SigningKey};
use support::identities::repo;
use support::instances::{Queue, end_well, summary};
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
