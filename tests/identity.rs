//! R6: whose key counts, when a document is asked for again, and whose answer counts when servers disagree.

mod support;

use serde_json::{Value as Json, json};
use support::backfiller::Builder;
use support::events;
use support::fixture_server::{Fault, FixtureServer};
use support::generator::did::{
    did_document, did_document_of_2019, did_document_with, verification_method,
};
use support::generator::{Repo, RepoBuilder, SigningKey, did_plc, records};
use support::hostile::outcomes::{self, DeadEnd};
use support::hostile::stage::Stage;

/// The repo of an account and a key of its own choice.
fn repo(did: &str, key: &SigningKey) -> Repo {
    let records = records::mixed(5, 7);
    RepoBuilder::new(did)
        .key(key.clone())
        .records(records)
        .build()
}

/// Registers the repo with the directory and with its PDS.
fn serve(stage: &Stage, repo: &Repo, pds: &FixtureServer) {
    let document = repo.did_document(&pds.url());
    stage.server.put_document(&repo.did, document);
    pds.put_repo(&repo.did, repo.car());
}

fn enqueue(stage: &mut Stage, did: &str, host: Option<&FixtureServer>) {
    stage.enqueue(did, host.map(FixtureServer::url).as_deref());
}

/// Runs the one message of the account; returns how its job ended.
#[track_caller]
fn run(stage: &mut Stage, program: Builder, did: &str, host: Option<&FixtureServer>) -> String {
    enqueue(stage, did, host);
    stage.run_one(program)
}

/// Documents that are usable, however they look.
fn usable(did: &str, key: &SigningKey, pds: &str) -> Vec<(&'static str, Json)> {
    let method = |id: &str, key: &SigningKey| {
        let mut method = verification_method(did, "Multikey", &key.multibase());
        method["id"] = json!(id);
        method
    };
    let full = format!("{did}#atproto");
    let other = SigningKey::k256(1000);
    let with = |methods: Vec<Json>| did_document_with(did, methods, pds);
    let changed = |field: &str, value: Json| {
        let mut document = did_document(did, key, pds);
        match value {
            Json::Null => drop(document.as_object_mut().expect("a map").remove(field)),
            value => document[field] = value,
        }
        document
    };
    let pds_type = "AtprotoPersonalDataServer";
    let service = |id: &str, endpoint: Json| json!([{ "id": id, "type": pds_type, "serviceEndpoint": endpoint }]);
    let extra = json!({ "deep": [[{ "a": [1.5, null] }]], "text": "é" });
    let mut extra_in_method = method("#atproto", key);
    extra_in_method["publicKeyJwk"] = json!({ "kty": "EC" });
    vec![
        ("as the directory writes it", did_document(did, key, pds)),
        (
            "2019, compressed",
            did_document_of_2019(did, key, true, pds),
        ),
        (
            "2019, uncompressed",
            did_document_of_2019(did, key, false, pds),
        ),
        ("#atproto", with(vec![method("#atproto", key)])),
        ("did#atproto", with(vec![method(&full, key)])),
        (
            "the first of several",
            with(vec![method("#atproto", key), method(&full, &other)]),
        ),
        (
            "the first of several, in full",
            with(vec![method(&full, key), method("#atproto", &other)]),
        ),
        (
            "behind others",
            with(vec![
                method("#atproto_label", &other),
                json!(7),
                method("#atproto", key),
            ]),
        ),
        ("more in the method", with(vec![extra_in_method])),
        (
            "@context as text",
            changed("@context", json!("https://www.w3.org/ns/did/v1")),
        ),
        ("no @context", changed("@context", Json::Null)),
        ("no alsoKnownAs", changed("alsoKnownAs", Json::Null)),
        (
            "alsoKnownAs as text",
            changed("alsoKnownAs", json!("at://alice.example")),
        ),
        ("more fields", changed("more", extra)),
        (
            "a service endpoint that is a map",
            changed("service", service("#atproto_pds", json!({ "uri": pds }))),
        ),
        (
            "a service endpoint that is a list",
            changed("service", service("#atproto_pds", json!([pds]))),
        ),
        ("no service", changed("service", Json::Null)),
        ("a service that is no list", changed("service", json!({}))),
        (
            "another service",
            changed(
                "service",
                service("#bsky_notif", json!("https://api.example")),
            ),
        ),
    ]
}

#[test]
fn r6_documents_may_vary() {
    let mut stage = Stage::new();
    let mut repos = Vec::new();
    let mut names = Vec::new();
    for make in [SigningKey::k256 as fn(u64) -> SigningKey, SigningKey::p256] {
        let count = usable("did:plc:a", &make(0), "").len();
        for place in 0..count {
            let key = make(place as u64);
            let repo = repo(&did_plc(repos.len() as u64), &key);
            let url = stage.server.url();
            let (name, document) = usable(&repo.did, &key, &url).swap_remove(place);
            stage.server.put_document(&repo.did, document);
            stage.server.put_repo(&repo.did, repo.car());
            stage.enqueue(&repo.did, Some(&url));
            names.push(format!("{name}, {}", key.type_of_2019()));
            repos.push(repo);
        }
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (name, repo) in names.iter().zip(&repos) {
        let outcome = outcomes::of(&ended, &repo.did);
        assert_eq!(outcome.how, "done", "{name}: {}", outcome.line);
    }
    stage.assert_events(&repos);
}

#[test]
fn r6_a_document_is_fetched_once_and_once_more_when_the_signature_fails() {
    let mut stage = Stage::new();
    let did = did_plc(1);
    let (old, new, wrong) = (
        SigningKey::k256(1),
        SigningKey::p256(2),
        SigningKey::p256(3),
    );
    let url = stage.server.url();
    let backfiller = stage.permitted().start();
    let mut jobs = 0;
    // How a job ends while the document names one key and the repo is signed with another, and all requests up to then.
    let mut next = |named: &SigningKey, signed_by: &SigningKey| {
        let Stage {
            server, connection, ..
        } = &mut stage;
        server.put_document(&did, did_document(&did, named, &url));
        server.put_repo(&did, repo(&did, signed_by).car());
        events::enqueue(connection, &did, Some(&url));
        jobs += 1;
        let how = outcomes::wait_for(&backfiller, jobs)[jobs - 1].how.clone();
        (
            how,
            server.document_requests(&did),
            server.repo_requests(&did),
        )
    };
    let is = |how: &str, documents: usize, repos: usize| (how.to_owned(), documents, repos);
    assert_eq!(next(&old, &old), is("done", 1, 1));
    assert_eq!(next(&old, &old), is("done", 1, 2), "the document is kept");
    assert_eq!(next(&new, &new), is("done", 2, 3), "the key was rotated");
    assert_eq!(
        next(&new, &new),
        is("done", 2, 4),
        "the new document is kept"
    );
    assert_eq!(
        next(&new, &wrong),
        is("signature", 3, 5),
        "the signature is wrong"
    );
    assert_eq!(next(&new, &wrong), is("signature", 4, 6), "it still is");
    assert_eq!(
        next(&new, &old),
        is("signature", 5, 7),
        "an old key is no key"
    );
    assert_eq!(next(&new, &new), is("done", 5, 8));
}

#[test]
fn r6_a_wrong_signature_is_no_reason_to_ask_again_for_a_fresh_document() {
    let mut stage = Stage::new();
    let url = stage.server.url();
    // Without a host, the document has been looked up before, to find the PDS; it is the kept one then.
    let jobs = [(Some(url.as_str()), 1), (None, 2)].map(|(host, documents)| {
        let did = stage.account().did;
        let other = did_document(&did, &SigningKey::k256(99), &url);
        stage.server.put_document(&did, other);
        stage.enqueue(&did, host);
        (did, documents)
    });
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, documents) in jobs {
        assert_eq!(outcomes::of(&ended, &did).how, "signature");
        assert_eq!(stage.server.document_requests(&did), documents);
        assert_eq!(stage.server.repo_requests(&did), 1);
    }
}

#[test]
fn r6_what_the_directory_answers_decides() {
    let mut stage = Stage::new();
    let answers = [
        (404, "identity"),
        (410, "identity"),
        (400, "identity"),
        (408, "deferred"),
        (429, "deferred"),
        (500, "deferred"),
        (502, "deferred"),
        (503, "deferred"),
        (504, "deferred"),
    ];
    let url = stage.server.url();
    let mut jobs = Vec::new();
    for (status, expected) in answers {
        for host in [Some(url.as_str()), None] {
            let repo = stage.account();
            let body = repo.did_document(&url).to_string();
            stage.server.put_document_status(&repo.did, status, body);
            stage.enqueue(&repo.did, host);
            jobs.push((status.to_string(), repo.did, expected));
        }
    }
    let blanks = " ".repeat(64 * 1024);
    for name in ["a page", "more than 64 KiB"] {
        let repo = stage.account();
        let body = match name {
            "a page" => "<html>".to_owned(),
            _ => repo.did_document(&url).to_string() + &blanks,
        };
        stage.server.put_document_status(&repo.did, 200, body);
        stage.enqueue(&repo.did, Some(&url));
        jobs.push((name.to_owned(), repo.did, "identity"));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (name, did, expected) in &jobs {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, *expected, "{name}: {}", outcome.line);
        assert_eq!(stage.server.document_requests(did), 1, "{name}");
    }
    stage.assert_events([]);
}

#[test]
fn r6_a_directory_that_cannot_be_reached_defers() {
    let mut stage = Stage::new();
    let repo = stage.account();
    let nobody = DeadEnd::new();
    let host = FixtureServer::start();
    host.put_repo(&repo.did, repo.car());
    let program = stage.permitted().env("BACKFILLER_PLC_URL", nobody.url());
    assert_eq!(run(&mut stage, program, &repo.did, Some(&host)), "deferred");
    assert_eq!(stage.server.document_requests(&repo.did), 0);
}

#[test]
fn r6_without_a_host_the_pds_of_the_document_is_asked() {
    let mut stage = Stage::new();
    let pds = FixtureServer::start();
    let repo = repo(&did_plc(1), &SigningKey::k256(1));
    serve(&stage, &repo, &pds);
    let program = stage.permitted();
    assert_eq!(run(&mut stage, program, &repo.did, None), "done");
    assert_eq!(
        (
            pds.repo_requests(&repo.did),
            stage.server.repo_requests(&repo.did)
        ),
        (1, 0)
    );
    assert_eq!(stage.server.document_requests(&repo.did), 1);
    stage.assert_events([&repo]);
}

#[test]
fn r6_without_a_pds_that_may_be_asked_there_is_no_identity() {
    let mut stage = Stage::new();
    let url = stage.server.url();
    let endpoints = [
        ("none", Json::Null),
        ("a map", json!({ "uri": url })),
        ("with a path", json!(format!("{url}/path"))),
        ("with credentials", json!(url.replace("://", "://user@"))),
        ("a file", json!("file:///etc/passwd")),
    ];
    let mut dids = Vec::new();
    for (place, (name, endpoint)) in endpoints.into_iter().enumerate() {
        let repo = repo(&did_plc(place as u64), &SigningKey::k256(1));
        serve(&stage, &repo, &stage.server);
        let mut document = repo.did_document(&url);
        document["service"][0]["serviceEndpoint"] = endpoint;
        stage.server.put_document(&repo.did, document);
        stage.enqueue(&repo.did, None);
        dids.push((name, repo.did));
    }
    let other = repo(&did_plc(100), &SigningKey::k256(1));
    serve(&stage, &other, &stage.server);
    let mut document = other.did_document(&url);
    document["service"][0]["id"] = json!("#other_pds");
    stage.server.put_document(&other.did, document);
    stage.enqueue(&other.did, None);
    dids.push(("another service", other.did));
    let program = stage.permitted();
    let ended = stage.run(program);
    for (name, did) in &dids {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, "identity", "{name}: {}", outcome.line);
        assert_eq!(stage.server.repo_requests(did), 0, "{name}");
    }
}

#[test]
fn r6_a_private_pds_is_not_asked_without_permission() {
    let mut stage = Stage::new();
    let pds = FixtureServer::start();
    let repo = repo(&did_plc(1), &SigningKey::k256(1));
    serve(&stage, &repo, &pds);
    let program = stage.program();
    assert_eq!(run(&mut stage, program, &repo.did, None), "identity");
    assert!(pds.requests().is_empty());
}

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
    let (pds, relay) = (FixtureServer::start(), FixtureServer::start());
    let mut jobs = Vec::new();
    for (place, relay_says) in at_relay.into_iter().enumerate() {
        for (pds_says, expected) in at_pds.clone() {
            let repo = repo(&did_plc(jobs.len() as u64), &SigningKey::k256(place as u64));
            serve(&stage, &repo, &pds);
            relay.set_fault(&repo.did, relay_says.clone());
            pds.set_fault(&repo.did, pds_says);
            enqueue(&mut stage, &repo.did, Some(&relay));
            jobs.push((repo.did, expected));
        }
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected) in &jobs {
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
    let (pds, relay) = (FixtureServer::start(), FixtureServer::start());
    let faults = [
        (Fault::status(500), "network"),
        (Fault::status(429), "deferred"),
        (Fault::status(404), "http_status"),
    ];
    let mut jobs = Vec::new();
    for (fault, expected) in faults {
        let repo = repo(&did_plc(jobs.len() as u64), &SigningKey::k256(1));
        serve(&stage, &repo, &pds);
        relay.set_fault(&repo.did, fault);
        enqueue(&mut stage, &repo.did, Some(&relay));
        jobs.push((repo.did, expected));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected) in &jobs {
        assert_eq!(outcomes::of(&ended, did).how, *expected);
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
    let mut stage = Stage::new();
    let relay = FixtureServer::start();
    let mut jobs = Vec::new();
    for (status, expected) in [(500, "deferred"), (429, "deferred"), (404, "identity")] {
        let did = did_plc(status.into());
        stage.server.put_document_status(&did, status, "{}");
        enqueue(&mut stage, &did, Some(&relay));
        jobs.push((did, expected));
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    for (did, expected) in &jobs {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, *expected, "{}", outcome.line);
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
