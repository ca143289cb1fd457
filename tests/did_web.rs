//! R6 for did:web: its document is asked for at its own server, and only where that may be asked.

mod support;

use support::fixture_server::FixtureServer;
use support::generator::did::did_document;
use support::generator::{Repo, SigningKey};
use support::hostile::stage::Stage;
use support::identities::{repo, run};

/// An account of a did:web on this server, registered.
fn web_account(server: &FixtureServer) -> Repo {
    let port = server.host().rsplit(':').next().expect("a port").to_owned();
    let repo = repo(&format!("did:web:localhost%3A{port}"), &SigningKey::p256(4));
    server.put_web_document(repo.did_document(&server.url()));
    server.put_repo(&repo.did, repo.car());
    repo
}

#[test]
fn r6_did_web_resolves_and_its_repo_is_fetched() {
    for with_host in [true, false] {
        let mut stage = Stage::new();
        let web = FixtureServer::start();
        let repo = web_account(&web);
        let program = stage.permitted();
        assert_eq!(
            run(&mut stage, program, &repo.did, with_host.then_some(&web)),
            "done"
        );
        assert_eq!(web.count("/.well-known/did.json"), 1);
        assert_eq!(web.repo_requests(&repo.did), 1);
        assert!(
            stage.server.requests().is_empty(),
            "the directory knows nothing of it"
        );
        stage.assert_events([&repo]);
    }
}

#[test]
fn r6_did_web_that_is_not_found_or_is_another_has_no_identity() {
    let mut stage = Stage::new();
    let web = FixtureServer::start();
    let port = web.host().rsplit(':').next().expect("a port").to_owned();
    let did = format!("did:web:localhost%3A{port}");
    let program = stage.permitted();
    assert_eq!(run(&mut stage, program, &did, None), "identity");
    assert_eq!(web.count("/.well-known/did.json"), 1);

    let mut stage = Stage::new();
    let other = did_document("did:web:example.com", &SigningKey::k256(1), &web.url());
    web.put_web_document(other);
    let program = stage.permitted();
    assert_eq!(run(&mut stage, program, &did, None), "identity");
}

#[test]
fn r6_did_web_on_a_private_address_is_not_asked_without_permission() {
    let mut stage = Stage::new();
    let web = FixtureServer::start();
    let repo = web_account(&web);
    let program = stage.program();
    let host = FixtureServer::start();
    host.put_repo(&repo.did, repo.car());
    assert_eq!(run(&mut stage, program, &repo.did, Some(&host)), "identity");
    assert!(web.requests().is_empty());
}
