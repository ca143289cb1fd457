//! The harness itself: the fixture server serves what it was given, answers as it was told, and ends at once.

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use support::fixture_server::{Fault, FixtureServer};
use support::wire::{Client, DID, server_with_repo, target};

#[test]
fn repositories_and_documents_are_served_over_one_connection() {
    let (server, car) = server_with_repo();
    let mut client = Client::connect(&server);
    let answer = client.get(&target("did%3Aplc%3Aabcdefghijklmnopqrstuvwx"));
    assert_eq!((answer.status, &answer.body), (200, &car));
    assert_eq!(
        answer.header("content-type"),
        Some("application/vnd.ipld.car")
    );

    let unknown = client.get(&format!("/{DID}"));
    assert_eq!(unknown.status, 404);
    server.put_document(DID, json!({ "id": DID }));
    assert_eq!(client.get(&format!("/{DID}")).json(), json!({ "id": DID }));
    server.put_document_status(DID, 410, r#"{"message":"gone"}"#);
    let tombstone = client.get(&format!("/{}", DID.replace(':', "%3A")));
    assert_eq!(
        (tombstone.status, tombstone.json()),
        (410, json!({ "message": "gone" }))
    );

    assert_eq!(client.get("/.well-known/did.json").status, 404);
    server.put_web_document(json!({ "id": "did:web:here" }));
    assert_eq!(
        client.get("/.well-known/did.json").json(),
        json!({ "id": "did:web:here" })
    );

    server.put_repo(DID, b"other".to_vec());
    assert_eq!(client.get(&target(DID)).body, b"other");
    server.remove_repo(DID);
    let gone = client.get(&target(DID));
    assert_eq!(
        (gone.status, &gone.json()["error"]),
        (400, &json!("RepoNotFound"))
    );

    let requests = server.requests();
    assert_eq!(requests.len(), 8);
    assert!(
        requests
            .iter()
            .all(|request| request.connection == requests[0].connection)
    );
    assert!(requests.is_sorted_by_key(|request| request.at));
    assert_eq!(requests[0].did.as_deref(), Some(DID));
    assert_eq!(requests[0].path, target(DID));
    assert_eq!(requests[0].header("x-test"), Some("Yes"));
    assert_eq!(server.count("/xrpc/"), 3);
    assert_eq!(server.count("/did:plc:"), 3);
    assert_eq!(
        (server.repo_requests(DID), server.document_requests(DID)),
        (3, 3)
    );
    assert_eq!(
        server.repo_url(DID),
        format!("{}{}", server.url(), target(DID))
    );
}

#[test]
fn answers_that_are_no_repository() {
    let (server, car) = server_with_repo();
    let mut client = Client::connect(&server);
    server.set_fault(
        DID,
        Fault::Then(vec![
            Fault::status_with_header(429, "Retry-After", "7"),
            Fault::Normal,
            Fault::Then(vec![Fault::xrpc(400, "RepoTakendown", "taken down")]),
            Fault::Redirect {
                code: 307,
                location: "http://other/path".into(),
            },
            Fault::Status {
                code: 200,
                headers: Vec::new(),
                content_type: "text/html".into(),
                body: b"<p>".to_vec(),
            },
        ]),
    );
    let limited = client.get(&target(DID));
    assert_eq!(
        (limited.status, limited.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(client.get(&target(DID)).body, car);
    let error = client.get(&target(DID));
    let body = json!({ "error": "RepoTakendown", "message": "taken down" });
    assert_eq!((error.status, error.json()), (400, body));
    let moved = client.get(&target(DID));
    assert_eq!(
        (moved.status, moved.header("location")),
        (307, Some("http://other/path"))
    );
    let page = client.get(&target(DID));
    assert_eq!(
        (page.header("content-type"), &page.body[..]),
        (Some("text/html"), &b"<p>"[..])
    );
    assert_eq!(
        client.get(&target(DID)).body,
        car,
        "behind the sequence all is well"
    );

    server.set_fault(DID, Fault::status(500));
    assert_eq!(client.get(&target(DID)).status, 500);
    assert_eq!(client.get(&target(DID)).status, 500, "a single fault stays");
    server.clear_fault(DID);
    assert_eq!(client.get(&target(DID)).body, car);
}

#[test]
fn a_server_with_held_and_dripping_and_stuck_clients_ends_at_once() {
    let (server, _) = server_with_repo();
    let host = server.host();
    let did = |name: &str| format!("did:plc:{name}");
    server.put_repo(&did("drip"), vec![0; 100]);
    server.put_repo(&did("stuck"), vec![0; 64 * 1024 * 1024]);
    server.set_fault(DID, Fault::Hold { after: 0 });
    server.set_fault(
        &did("drip"),
        Fault::Drip {
            bytes: 1,
            every: Duration::from_secs(3600),
        },
    );

    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
    let targets = [target(DID), target(&did("drip")), target(&did("stuck"))];
    for (client, target) in clients.iter_mut().zip(&targets) {
        client.send(target);
        client.head();
    }
    server.wait_until_held(DID, 1);

    let started = Instant::now();
    drop(server);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        started.elapsed()
    );
    assert!(TcpStream::connect(host).is_err());
}

#[test]
fn servers_on_other_addresses_are_other_hosts() {
    let server = FixtureServer::start_with_addr("127.0.0.2:0");
    assert!(server.host().starts_with("127.0.0.2:"));
    assert_eq!(Client::connect(&server).get(&format!("/{DID}")).status, 404);
}
