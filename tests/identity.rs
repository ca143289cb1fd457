//! R6: whose key counts, how documents may look, when one is asked for again, and which PDS it names.

mod support;

use serde_json::{Value as Json, json};
use support::events;
use support::fixture_server::FixtureServer;
use support::generator::did::{
    did_document, did_document_of_2019, did_document_with, verification_method,
};
use support::generator::{SigningKey, did_plc};
use support::hostile::outcomes::{self, DeadEnd};
use support::hostile::stage::Stage;
use support::identities::{repo, run, serve};

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
    // Without a host, the document is looked up to find the PDS; it is as fresh when the signature is verified.
    let jobs = [(Some(url.as_str()), 1), (None, 1)].map(|(host, documents)| {
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
        // Five failures of its own in a row would close it.
        (404, "identity"),
        (500, "deferred"),
        (410, "identity"),
        (502, "deferred"),
        (400, "identity"),
        (504, "deferred"),
        (401, "deferred"),
        (403, "deferred"),
        (302, "deferred"),
        (408, "deferred"),
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

/// One that asks to wait is not asked for anybody else meanwhile, so each of these has its own.
#[test]
fn r6_a_directory_that_asks_to_wait_defers() {
    for status in [429, 503] {
        for with_host in [true, false] {
            let mut stage = Stage::new();
            let (repo, pds) = (stage.account(), FixtureServer::start());
            pds.put_repo(&repo.did, repo.car());
            let body = repo.did_document(&pds.url()).to_string();
            stage.server.put_document_status(&repo.did, status, body);
            let (program, host) = (stage.permitted(), with_host.then_some(&pds));
            assert_eq!(run(&mut stage, program, &repo.did, host), "deferred");
            assert_eq!(stage.server.document_requests(&repo.did), 1, "{status}");
            stage.assert_events([]);
        }
    }
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
