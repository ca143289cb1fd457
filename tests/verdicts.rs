//! What becomes of a message whose repo is not to be had: row by row of the table, how often it is tried, and what its dead
//! letter says. Repos that are not what their owner signed are in `verdicts_invalid.rs`, what only has to wait is in
//! `verdicts_waiting.rs`, panics are in `panics.rs`.

mod support;

use serde_json::json;
use support::events::{
    OUTPUT, assert_timestamp, dead_letters, enqueue_raw, kept_keys, read_events, wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer};
use support::generator::{Repo, SigningKey};
use support::hostile::outcomes::DeadEnd;
use support::hostile::stage::Stage;
use support::identities;
use support::verdicts::{ATTEMPTS, Ended, hasty, sent};

/// The names under which servers say that they do not have a repo.
fn gone() -> Vec<Fault> {
    let names = [
        (400, "RepoNotFound"),
        (404, "RepoNotFound"),
        (400, "RepoDeactivated"),
        (400, "RepoTakendown"),
        (403, "RepoSuspended"),
    ];
    let mut faults: Vec<_> = names
        .into_iter()
        .map(|(code, name)| Fault::xrpc(code, name, "no"))
        .collect();
    let message = "Could not find repo for DID: did:plc:x";
    faults.push(Fault::xrpc(400, "InvalidRequest", message));
    faults
}

/// A new account whose document names the stage's own server. The message names none.
fn without_host(stage: &mut Stage) -> Repo {
    let repo = stage.account();
    stage.enqueue(&repo.did, None);
    repo
}

/// A new account whose document names a PDS; the message names a relay, which answers so.
fn at_relay(stage: &mut Stage, relay: &FixtureServer, pds: &FixtureServer, says: Fault) -> Repo {
    let repo = stage.account();
    identities::serve(stage, &repo, pds);
    relay.set_fault(&repo.did, says);
    identities::enqueue(stage, &repo.did, Some(relay));
    repo
}

#[test]
fn a_repo_that_is_too_large_is_asked_for_once() {
    let mut stage = Stage::new();
    let large = [Fault::Normal, Fault::ChunkedOk].map(|framing| stage.faulty(framing));
    let program = hasty(&stage).env("BACKFILLER_MAX_REPO_BYTES", "1000");
    let ended = Ended::run(&mut stage, program);
    for repo in &large {
        assert!(repo.car().len() > 1000);
        ended.assert_dead(&repo.did, &["too_large"]);
        assert_eq!(stage.server.repo_requests(&repo.did), 1);
    }
    stage.assert_events([]);
}

#[test]
fn a_repo_that_is_gone_is_asked_for_twice() {
    let mut stage = Stage::new();
    let mut repos = Vec::new();
    for fault in gone() {
        repos.push(stage.faulty(fault.clone()));
        let repo = without_host(&mut stage);
        stage.server.set_fault(&repo.did, fault);
        repos.push(repo);
    }
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    for repo in &repos {
        ended.assert_dead(&repo.did, &["repo_gone", "repo_gone"]);
        assert_eq!(stage.server.repo_requests(&repo.did), 2);
    }
    stage.assert_events([]);
}

#[test]
fn a_repo_that_comes_back_is_not_given_up() {
    let mut stage = Stage::new();
    let repos: Vec<_> = gone()
        .into_iter()
        .map(|fault| stage.faulty(Fault::Then(vec![fault])))
        .collect();
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    for repo in &repos {
        ended.assert_done(&repo.did, &["repo_gone"]);
    }
    stage.assert_events(&repos);
}

/// In each attempt the relay is asked, then the PDS; one attempt is charged, and the PDS's answer is the one that counts.
#[test]
fn what_a_relay_does_not_have_is_judged_by_what_the_pds_says() {
    let mut stage = Stage::new();
    let (pds, relay) = (FixtureServer::start(), FixtureServer::start());
    let not_found = Fault::xrpc(404, "RepoNotFound", "");
    let answers = [
        (
            Fault::xrpc(400, "RepoDeactivated", ""),
            vec!["repo_gone"; 2],
        ),
        (Fault::status(500), vec!["network"; ATTEMPTS as usize]),
        (Fault::status(403), vec!["http_status"; ATTEMPTS as usize]),
    ];
    let mut wanted = Vec::new();
    for (says, attempts) in answers {
        // The relay does not have it, or what it has is signed with a key of before.
        let repo = at_relay(&mut stage, &relay, &pds, not_found.clone());
        pds.set_fault(&repo.did, says.clone());
        wanted.push((repo, attempts.clone()));
        let repo = at_relay(&mut stage, &relay, &pds, Fault::Normal);
        let old = identities::repo(&repo.did, &SigningKey::k256(99));
        relay.put_repo(&repo.did, old.car());
        pds.set_fault(&repo.did, says);
        wanted.push((repo, attempts));
    }
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    for (repo, attempts) in &wanted {
        ended.assert_dead(&repo.did, attempts);
        let requests = (relay.repo_requests(&repo.did), pds.repo_requests(&repo.did));
        assert_eq!(requests, (attempts.len(), attempts.len()), "{}", repo.did);
    }
    stage.assert_events([]);
}

#[test]
fn an_account_without_identity_is_looked_up_twice() {
    let mut stage = Stage::new();
    let relay = FixtureServer::start();
    let not_found = Fault::xrpc(404, "RepoNotFound", "");
    let mut dids = Vec::new();
    for (status, body) in [(404, "{}"), (410, "{}"), (200, "no JSON"), (200, "{}")] {
        // Without a host, with one that has the repo, and with one that has not.
        let repos = [
            without_host(&mut stage),
            stage.faulty(Fault::Normal),
            at_relay(&mut stage, &relay, &relay, not_found.clone()),
        ];
        for repo in repos {
            stage.server.put_document_status(&repo.did, status, body);
            dids.push(repo.did);
        }
    }
    let mut documented = |change: fn(&mut serde_json::Value)| {
        let repo = without_host(&mut stage);
        let mut document = repo.did_document(&stage.server.url());
        change(&mut document);
        stage.server.put_document(&repo.did, document);
        repo.did
    };
    dids.push(documented(|document| {
        document["verificationMethod"] = json!([]);
    }));
    dids.push(documented(|document| {
        document["verificationMethod"][0]["publicKeyMultibase"] = json!("z");
    }));
    dids.push(documented(|document| document["service"] = json!([])));
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    for did in &dids {
        ended.assert_dead(did, &["identity", "identity"]);
        assert_eq!(stage.server.document_requests(did), 2, "{did}");
    }
    stage.assert_events([]);
}

#[test]
fn what_does_not_come_through_is_tried_as_often_as_configured() {
    let mut stage = Stage::new();
    let faults = [
        Fault::status(500),
        Fault::status(502),
        Fault::xrpc(500, "RepoNotFound", ""),
        Fault::Truncate { after: 500 },
        Fault::TruncateChunked { after: usize::MAX },
        Fault::Reset { after: 0 },
        Fault::Hold { after: 500 },
    ];
    // At one host, those that break off would close it to the others.
    let apart = faults.map(|fault| stage.faulty_apart(fault));
    let mut dids: Vec<_> = apart.iter().map(|(repo, _)| repo.did.clone()).collect();
    let dead_end = DeadEnd::new();
    let refused = stage.account();
    stage.enqueue(&refused.did, Some(&dead_end.url()));
    dids.push(refused.did);
    let program = hasty(&stage).env("BACKFILLER_HTTP_TIMEOUT_SECS", "1");
    let ended = Ended::run(&mut stage, program);
    for did in &dids {
        ended.assert_dead(did, &["network"; ATTEMPTS as usize]);
    }
    for (Repo { did, .. }, server) in &apart {
        assert_eq!(server.repo_requests(did), ATTEMPTS as usize, "{did}");
    }
    stage.assert_events([]);
}

#[test]
fn other_refusals_are_tried_as_often_as_configured() {
    let mut stage = Stage::new();
    let page = Fault::Status {
        code: 200,
        headers: Vec::new(),
        content_type: "text/html".into(),
        body: b"<!doctype html>".to_vec(),
    };
    let faults = [
        Fault::status(400),
        Fault::status(401),
        Fault::status(403),
        Fault::status(404),
        Fault::status(204),
        Fault::xrpc(400, "InvalidRequest", "another one"),
        page,
    ];
    let dids = faults.map(|fault| stage.faulty(fault).did);
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    for did in &dids {
        ended.assert_dead(did, &["http_status"; ATTEMPTS as usize]);
        assert_eq!(stage.server.repo_requests(did), ATTEMPTS as usize, "{did}");
    }
    stage.assert_events([]);
}

#[test]
fn with_one_attempt_nothing_is_tried_again() {
    let mut stage = Stage::new();
    let first_is = |fault| Fault::Then(vec![fault]);
    let mut unsigned = stage.faulty(Fault::Normal);
    unsigned.key = SigningKey::k256(99);
    let unsigned = unsigned.clone().resign_with_root(unsigned.root);
    stage
        .server
        .set_fault(&unsigned.did, first_is(sent(&unsigned)));
    let failed = [
        (stage.faulty(first_is(Fault::status(500))), "network"),
        (stage.faulty(first_is(Fault::status(404))), "http_status"),
        (stage.faulty(first_is(gone().remove(0))), "repo_gone"),
        (unsigned, "signature"),
    ];
    let good = stage.faulty(Fault::Normal);
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "1");
    let ended = Ended::run(&mut stage, program);
    for (repo, reason) in &failed {
        ended.assert_dead(&repo.did, &[reason]);
        assert_eq!(stage.server.repo_requests(&repo.did), 1, "{reason}");
    }
    stage.assert_events([&good]);
}

/// Failures count in a row: what another kind of failure has come between is no confirmation. All attempts are charged.
#[test]
fn an_account_is_gone_when_that_is_said_twice_in_a_row() {
    let mut stage = Stage::new();
    let gone = || gone().remove(0);
    let away = || Fault::status(500);
    let row = |faults: &[fn() -> Fault]| Fault::Then(faults.iter().map(|fault| fault()).collect());
    let lost = stage.faulty(row(&[away, gone, gone]));
    let found = stage.faulty(row(&[gone, away, gone, away, gone, away]));
    let program = hasty(&stage).env("BACKFILLER_MAX_ATTEMPTS", "8");
    let ended = Ended::run(&mut stage, program);
    ended.assert_dead(&lost.did, &["network", "repo_gone", "repo_gone"]);
    let turns = ["repo_gone", "network"].repeat(3);
    ended.assert_done(&found.did, &turns);
    assert_eq!(ended.numbers(&found.did), [1, 2, 3, 4, 5, 6]);
    stage.assert_events([&found]);
}

#[test]
fn a_dead_letter_says_all_that_is_known() {
    let mut stage = Stage::new();
    let repo = stage.account();
    let refusal = Fault::xrpc(400, "RepoTakendown", "by \"us\"\r\nfailed did=x");
    stage.server.set_fault(&repo.did, refusal);
    // The value is kept as it came, with what this program does not look at.
    let url = stage.server.url();
    let value = format!(
        " {{ \"host\" : \"{url}\",\n \"more\": [1.50, \"\\u00e9\"], \"did\":\"{}\" }}",
        repo.did
    );
    let fields = [("repo", value.as_bytes()), ("other", b"field")];
    let id = enqueue_raw(&mut stage.connection, &fields);
    let _backfiller = hasty(&stage)
        .env("BACKFILLER_CONSUMER", "the consumer")
        .start();
    wait_until_drained(&mut stage.connection);
    let mut letters = dead_letters(&mut stage.connection);
    let mut letter = letters.remove(0);
    assert!(letters.is_empty());
    assert_timestamp(&letter.remove("time").expect("a time"));
    let error = format!("{url} answered 400 RepoTakendown: by \"us\"\\r\\nfailed did=x");
    let wanted = [
        ("repo", value.as_str()),
        ("reason", "repo_gone"),
        ("error", &error),
        ("attempts", "2"),
        ("consumer", "the consumer"),
        ("id", &id),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(letter, wanted.into());
    assert!(kept_keys(&mut stage.connection).is_empty());
    assert!(read_events(&mut stage.connection, OUTPUT).is_empty());
}
