//! The harness itself: the fixture server's bodies are cut, chunked, slow and held as they should be on the wire.

mod support;

use std::io::{self, BufRead, Read};
use std::time::{Duration, Instant};

use support::fixture_server::{Fault, FixtureServer};
use support::wire::{Client, DID, server_with_repo, target};

#[test]
fn bodies_that_end_too_early() {
    let (server, car) = server_with_repo();
    let get = || Client::connect(&server).get_to_end(&target(DID));

    server.set_fault(DID, Fault::Truncate { after: 70_000 });
    let answer = get();
    assert_eq!(answer.header("content-length"), Some("100000"));
    assert!(answer.ended_well());
    assert_eq!(answer.body, car[..70_000]);

    server.set_fault(DID, Fault::CloseDelimited { after: None });
    let answer = get();
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.ended_well());
    assert_eq!(answer.body, car);

    server.set_fault(DID, Fault::CloseDelimited { after: Some(10) });
    assert_eq!(get().body, car[..10]);

    server.set_fault(DID, Fault::Reset { after: 1000 });
    let answer = get();
    let error = answer.end.as_ref().unwrap().as_ref().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(answer.body.len() <= 1000);
    assert_eq!(answer.header("content-length"), Some("100000"));
}

#[test]
fn chunked_encoding_whole_and_cut() {
    let (server, car) = server_with_repo();
    server.set_fault(DID, Fault::TruncateChunked { after: 20_000 });
    let answer = Client::connect(&server).get_to_end(&target(DID));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert!(answer.ended_well());
    let (body, whole) = unchunk(&answer.body);
    assert_eq!((body, whole), (car[..20_000].to_vec(), false));

    server.set_fault(DID, Fault::ChunkedOk);
    let mut client = Client::connect(&server);
    client.send(&target(DID));
    assert_eq!(client.head().header("content-length"), None);
    let mut body = Vec::new();
    while !body.ends_with(b"\r\n0\r\n\r\n") {
        assert_ne!(client.0.read_until(b'\n', &mut body).unwrap(), 0);
    }
    assert_eq!(unchunk(&body), (car, true));
    assert_eq!(
        client.get(&format!("/{DID}")).status,
        404,
        "the connection lives on"
    );
}

/// The content of a chunked body, and whether the terminal chunk was there.
fn unchunk(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|pair| pair == b"\r\n") {
        let length = std::str::from_utf8(&body[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let chunk = &body[end + 2..];
        content.extend_from_slice(&chunk[..length]);
        assert_eq!(&chunk[length..length + 2], b"\r\n");
        if length == 0 {
            return (content, true);
        }
        body = &chunk[length + 2..];
    }
    (content, false)
}

#[test]
fn a_dripping_body_takes_its_time() {
    let server = FixtureServer::start();
    server.put_repo(DID, b"0123456789".to_vec());
    server.set_fault(
        DID,
        Fault::Drip {
            bytes: 4,
            every: Duration::from_millis(20),
        },
    );
    let started = Instant::now();
    let mut client = Client::connect(&server);
    assert_eq!(client.get(&target(DID)).body, b"0123456789");
    assert!(started.elapsed() >= Duration::from_millis(40));
    assert_eq!(
        client.get(&target(DID)).body,
        b"0123456789",
        "the connection lives on"
    );
}

#[test]
fn a_held_body_ends_after_its_release() {
    let (server, car) = server_with_repo();
    server.set_fault(DID, Fault::Hold { after: 10 });
    let mut client = Client::connect(&server);
    client.send(&target(DID));
    let answer = client.head();
    assert_eq!(answer.header("content-length"), Some("100000"));
    let mut body = vec![0; 10];
    client.0.read_exact(&mut body).unwrap();
    server.wait_until_held(DID, 1);
    assert_eq!(server.held(DID), 1);

    server.release(DID);
    body.resize(car.len(), 0);
    client.0.read_exact(&mut body[10..]).unwrap();
    assert_eq!(body, car);
    assert_eq!(client.get(&target(DID)).body, car, "and the fault is over");
    assert_eq!(server.held(DID), 0);
}
