//! R6: whose answer counts when the host of a message and the PDS of the account's document disagree.

mod support;

use support::fixture_server::{Fault, FixtureServer};
use support::generator::{RepoBuilder, SigningKey, did_plc, records};
use support::hostile::outcomes;
use support::hostile::stage::Stage;
use support::identities::{enqueue, repo, run, serve};

#[test]
fn r6_an_old_copy_at_a_relay_leads_to_the_pds() {
    let mut stage = Stage::new();
    let (pds, relay) = (FixtureServer::start(), FixtureServer::start());
    let did = did_plc(1);
    let repo = repo(&did, &SigningKey::k256(1));
    serve(&stage, &repo, &pds);
    let old = RepoBuilder::new(&did)
        .key(SigningKey::k256(99))
        .records(records::mixed(9, 3))
        .build();
    relay.put_repo(&did, old.car());
    let program = stage.permitted();
    assert_eq!(run(&mut stage, program, &did, Some(&relay)), "done");
    assert_eq!((relay.repo_requests(&did), pds.repo_requests(&did)), (1, 1));
    stage.assert_events([&repo]);
}

#[test]
fn r6_the_answer_of_the_pds_counts() {
    let (gone, not_found) = (
        Fault::xrpc(400, "RepoDeactivated", ""),
        Fault::xrpc(404, "RepoNotFound", ""),
    );
    let at_relay = [
        not_found.clone(),
        gone.clone(),
        Fault::xrpc(400, "RepoTakendown", ""),
        Fault::xrpc(400, "RepoSuspended", ""),
        Fault::xrpc(
            400,
            "InvalidRequest",
            "Could not find repo for DID: did:plc:x",
        ),
    ];
    let at_pds = [
        (Fault::Normal, "done"),
        (gone, "repo_gone"),
        (Fault::status(500), "network"),
        (Fault::status(429), "deferred"),
        (Fault::status(403), "http_status"),
    ];
    let mut stage = Stage::new();
    let relay = FixtureServer::start();
    let mut jobs = Vec::new();
    for (place, relay_says) in at_relay.into_iter().enumerate() {
        for (pds_says, expected) in at_pds.clone() {
            let repo = repo(&did_plc(jobs.len() as u64), &SigningKey::k256(place as u64));
            // Each has its own, for one that says 429 is not asked for the others.
            let pds = FixtureServer::start();
            serve(&stage, &repo, &pds);
            relay.set_fault(&repo.did, relay_says.clone());
            pds.set_fault(&repo.did, pds_says);
            enqueue(&mut stage, &repo.did, Some(&relay));
            jobs.push((repo.did, expected, pds));
        }
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected, pds) in &jobs {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, *expected, "{}", outcome.line);
        assert_eq!(outcome.host, pds.url());
        assert_eq!(
            (relay.repo_requests(did), pds.repo_requests(did)),
            (1, 1),
            "{did}"
        );
    }
}

#[test]
fn r6_other_errors_of_a_relay_do_not_lead_to_the_pds() {
    let mut stage = Stage::new();
    let pds = FixtureServer::start();
    let faults = [
        (Fault::status(500), "network"),
        (Fault::status(429), "deferred"),
        (Fault::status(404), "http_status"),
    ];
    let mut jobs = Vec::new();
    for (fault, expected) in faults {
        let repo = repo(&did_plc(jobs.len() as u64), &SigningKey::k256(1));
        let relay = FixtureServer::start();
        serve(&stage, &repo, &pds);
        relay.set_fault(&repo.did, fault);
        enqueue(&mut stage, &repo.did, Some(&relay));
        jobs.push((repo.did, expected, relay));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected, relay) in &jobs {
        assert_eq!(outcomes::of(&ended, did).how, *expected);
        assert_eq!(relay.repo_requests(did), 1);
    }
    assert!(pds.requests().is_empty());
}

#[test]
fn r6_a_repo_gone_from_its_pds_is_asked_for_once() {
    for with_host in [true, false] {
        let mut stage = Stage::new();
        let pds = FixtureServer::start();
        let repo = repo(&did_plc(1), &SigningKey::k256(1));
        serve(&stage, &repo, &pds);
        pds.set_fault(&repo.did, Fault::xrpc(400, "RepoDeactivated", "gone"));
        let program = stage.permitted();
        assert_eq!(
            run(&mut stage, program, &repo.did, with_host.then_some(&pds)),
            "repo_gone"
        );
        assert_eq!(pds.repo_requests(&repo.did), 1);
    }
}

#[test]
fn r6_a_relay_alone_cannot_say_that_a_repo_is_gone() {
    for (status, expected) in [(500, "deferred"), (429, "deferred"), (404, "identity")] {
        let (mut stage, relay) = (Stage::new(), FixtureServer::start());
        let did = did_plc(1);
        stage.server.put_document_status(&did, status, "{}");
        let program = stage.permitted();
        assert_eq!(run(&mut stage, program, &did, Some(&relay)), expected);
        let requests = (
            relay.repo_requests(&did),
            stage.server.document_requests(&did),
        );
        assert_eq!(requests, (1, 1), "{status}");
    }
}

#[test]
fn r6_a_pds_that_a_relay_redirects_to_has_spoken() {
    let mut stage = Stage::new();
    let (pds, relay) = (FixtureServer::start(), FixtureServer::start());
    let mut jobs = Vec::new();
    for expected in ["repo_gone", "signature", "done"] {
        let repo = stage.account();
        serve(&stage, &repo, &pds);
        match expected {
            "repo_gone" => pds.set_fault(&repo.did, Fault::xrpc(400, "RepoDeactivated", "")),
            "signature" => {
                let other = SigningKey::k256(99);
                pds.put_repo(&repo.did, self::repo(&repo.did, &other).car());
            }
            _ => {}
        }
        relay.set_fault(&repo.did, Fault::redirect(pds.repo_url(&repo.did)));
        enqueue(&mut stage, &repo.did, Some(&relay));
        jobs.push((repo.did, expected));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected) in &jobs {
        assert_eq!(outcomes::of(&ended, did).how, *expected);
        let requests = (relay.repo_requests(did), pds.repo_requests(did));
        assert_eq!(requests, (1, 1), "{expected}");
    }
}
