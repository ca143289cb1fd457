//! The harness itself: its servers do what the other tests rely on, and leave nothing behind.

mod support;

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Commands;
use serde_json::{Value, json};

use support::backfiller::Backfiller;
use support::events::{self, Event};
use support::fixture_server::{Fault, FixtureServer};
use support::redis_server::RedisServer;
use support::wait::{LIMIT, eventually, within};

const DID: &str = "did:plc:abcdefghijklmnopqrstuvwx";

#[test]
fn a_redis_server_starts_stops_and_restarts_on_its_port() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let other = RedisServer::start();
    assert_ne!(server.port(), other.port());
    let mut connection = server.connection();
    let _: () = connection.set("key", "value").unwrap();

    let (url, folder) = (server.url(), server.folder().to_owned());
    server.stop();
    let lost: redis::RedisResult<String> = connection.get("key");
    assert!(lost.is_err());
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());

    server.restart();
    assert_eq!(server.url(), url);
    let value: String = server.connection().get("key").unwrap();
    assert_eq!(value, "value", "what the arguments keep is still there");

    drop(server);
    assert!(!folder.exists());
}

#[test]
fn without_arguments_redis_keeps_nothing() {
    let mut server = RedisServer::start();
    let _: () = server.connection().set("key", "value").unwrap();
    server.restart();
    assert!(!server.connection().exists::<_, bool>("key").unwrap());
}

#[test]
fn servers_started_by_threads_outlive_them_and_have_ports_of_their_own() {
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(RedisServer::start)).collect();
    let servers: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut ports: Vec<_> = servers.iter().map(RedisServer::port).collect();
    for server in &servers {
        let pong: String = redis::cmd("PING").query(&mut server.connection()).unwrap();
        assert_eq!(pong, "PONG");
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), servers.len());
}

#[test]
fn a_failing_test_leaves_no_server() {
    let mut port = 0;
    let mut folder = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let server = RedisServer::start();
        port = server.port();
        folder = Some(server.folder().to_owned());
        panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(result.is_err());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!folder.unwrap().exists());
}

/// Names the role of [`victim_of_the_test_above`].
const VICTIM: &str = "BACKFILLER_TEST_VICTIM";

#[test]
fn a_killed_test_process_leaves_no_server() {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim_of_the_test_above", "--nocapture"])
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find_map(|line| {
        let (_, said) = line.split_once("victim: ")?;
        Some(said.to_owned())
    });
    let killed = victim.kill().and_then(|()| victim.wait()).unwrap();
    assert_eq!(killed.signal(), Some(9));

    let said = said.expect("the victim says where its server is");
    let (port, folder) = said.split_once(' ').unwrap();
    let port: u16 = port.parse().unwrap();
    eventually("the server of the killed process is gone", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// Does nothing unless the test above runs it, as a process to be killed. Its server is started for
/// a thread that has ended: the server must live on regardless.
#[test]
fn victim_of_the_test_above() {
    if env::var_os(VICTIM).is_none() {
        return;
    }
    let server = thread::spawn(RedisServer::start).join().unwrap();
    let _: () = server.connection().set("key", "value").unwrap();
    println!("victim: {} {}", server.port(), server.folder().display());
    io::stdout().flush().unwrap();
    let mut nothing = String::new();
    let (silent, _peer) = quiet_pair();
    let _ = (&silent).read_to_string(&mut nothing); // until it is killed
}

/// Two ends of a connection on which nobody says anything.
fn quiet_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A client that shows what really comes over the wire.
struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    head: String,
    /// The body as it was sent, chunk lengths and all.
    body: Vec<u8>,
    /// How the connection ended behind the body; `None` when it was not read to its end.
    end: Option<io::Result<()>>,
}

impl Client {
    fn connect(server: &FixtureServer) -> Self {
        let stream = TcpStream::connect(server.host()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, target: &str) {
        let request = format!("GET {target} HTTP/1.1\r\nHost: here\r\nX-Test: Yes\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn head(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                self.0.read_line(&mut head).unwrap(),
                0,
                "the head is cut: {head}"
            );
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head,
            body: Vec::new(),
            end: None,
        }
    }

    /// An answer with a length.
    fn get(&mut self, target: &str) -> Answer {
        self.send(target);
        let mut answer = self.head();
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// An answer up to the end of the connection.
    fn get_to_end(&mut self, target: &str) -> Answer {
        self.send(target);
        let mut answer = self.head();
        answer.end = Some(self.0.read_to_end(&mut answer.body).map(drop));
        answer
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn ended_well(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }
}

fn target(did: &str) -> String {
    format!("/xrpc/com.atproto.sync.getRepo?did={did}")
}

/// A server with a repository of 100,000 bytes.
fn server_with_repo() -> (FixtureServer, Vec<u8>) {
    let server = FixtureServer::start();
    let car: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    server.put_repo(DID, car.clone());
    (server, car)
}

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

#[test]
fn messages_go_in_and_are_counted() {
    let server = RedisServer::start();
    let mut connection = server.connection();
    assert_eq!(events::pending(&mut connection), 0, "there is no group yet");
    let id = events::enqueue(&mut connection, DID, Some("http://here"));
    events::enqueue(&mut connection, DID, None);
    events::enqueue_raw(&mut connection, &[("other", b"\xff"), ("repo", b"{}")]);
    assert_eq!(events::stream_len(&mut connection, events::INPUT), 3);

    let entries = events::read_stream(&mut connection, events::INPUT);
    let message: Value = serde_json::from_str(&entries[0].1["repo"]).unwrap();
    assert_eq!(
        (&entries[0].0, message),
        (&id, json!({ "did": DID, "host": "http://here" }))
    );
    assert_eq!(entries[1].1["repo"], json!({ "did": DID }).to_string());
    assert_eq!(entries[2].1["other"], "\u{fffd}");

    let (input, group) = (events::INPUT, events::GROUP);
    let _: () = connection.xgroup_create(input, group, "0").unwrap();
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(group)
        .arg("me")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(input)
        .arg(">");
    read.exec(&mut connection).unwrap();
    assert_eq!(events::pending(&mut connection), 1);
    let pending = events::pending_messages(&mut connection);
    assert_eq!((&pending[0].id, pending[0].deliveries), (&id, 1));
    assert_eq!(pending[0].consumer, "me");

    let key = format!("{}:progress:{input}:{group}:{id}", events::OUTPUT);
    let _: () = connection.hset(&key, "leaves", 1).unwrap();
    assert_eq!(events::progress_keys(&mut connection), [key]);
    let _: () = connection
        .xadd(events::DEAD_LETTERS, "*", &[("reason", "car")])
        .unwrap();
    assert_eq!(events::dead_letters(&mut connection)[0]["reason"], "car");

    let _: () = connection.xack(input, group, &[&id]).unwrap();
    let _: () = connection.del(input).unwrap();
    events::wait_until_drained(&mut connection);
}

const TIME: &str = "2024-02-29T01:02:03.004Z";

fn create_text(number: usize, record: &str) -> String {
    format!(
        r#"{{"type":"create","seq":-1,"time":"{TIME}","did":"{DID}","commit":"c","rev":"r","collection":"a.b.c","rkey":"k{number}","cid":"l{number}","record":{record}}}"#
    )
}

fn repo_text() -> String {
    format!(r#"{{"type":"repo","seq":-1,"time":"{TIME}","did":"{DID}","commit":"c","rev":"r"}}"#)
}

/// Whether the assertion lets these texts pass as the events of so many records `{"z":1,"a":[]}`.
fn passes(texts: &[String], records: usize) -> bool {
    let event = |raw: &String| Event {
        id: "0-0".into(),
        raw: raw.clone(),
        json: serde_json::from_str(raw).unwrap(),
    };
    let events: Vec<_> = texts.iter().map(event).collect();
    let expected: Vec<_> = (0..records)
        .map(|number| {
            let record = json!({ "z": 1, "a": [] });
            (
                "a.b.c".to_owned(),
                format!("k{number}"),
                format!("l{number}"),
                record,
            )
        })
        .collect();
    let check = || events::assert_repo_events(&events, DID, "c", "r", &expected);
    panic::catch_unwind(AssertUnwindSafe(check)).is_ok()
}

#[test]
fn the_assertion_accepts_what_the_contract_says() {
    let creates = |range: std::ops::Range<usize>| {
        range
            .map(|number| create_text(number, r#"{"z":1,"a":[]}"#))
            .collect::<Vec<_>>()
    };
    let repo = || vec![repo_text()];
    assert!(passes(&repo(), 0));
    assert!(passes(&[creates(0..1), repo()].concat(), 1));
    assert!(passes(&[creates(0..500), repo()].concat(), 500));
    let two_chunks = [creates(0..500), repo(), creates(500..501), repo()].concat();
    assert!(passes(&two_chunks, 501));

    assert!(!passes(&[], 0));
    assert!(
        !passes(&[repo(), repo()].concat(), 0),
        "one repo event for an empty repo"
    );
    assert!(!passes(&creates(0..1), 1), "no repo event at the end");
    assert!(
        !passes(&[creates(0..501), repo()].concat(), 501),
        "a chunk too large"
    );
    let early = [creates(0..2), repo(), creates(2..3), repo()].concat();
    assert!(!passes(&early, 3), "a chunk that is not full");
    assert!(!passes(&[creates(0..500), repo(), repo()].concat(), 500));
    assert!(
        !passes(&[creates(0..2), repo()].concat(), 1),
        "one too many"
    );
    assert!(!passes(&[creates(0..2), repo()].concat(), 3), "one too few");
    assert!(
        !passes(&[creates(1..2), creates(0..1), repo()].concat(), 2),
        "out of order"
    );
}

#[test]
fn the_assertion_sees_the_text() {
    let with = |record: &str| passes(&[create_text(0, record), repo_text()], 1);
    assert!(with(r#"{"z":1,"a":[]}"#));
    assert!(!with(r#"{"a":[],"z":1}"#), "another order of keys");
    assert!(!with(r#"{"z":1, "a":[]}"#), "a blank");
    assert!(!with(r#"{"z":1.0,"a":[]}"#), "a float");
    assert!(!with(r#"{"z":2,"z":1,"a":[]}"#), "a key twice");
    let changed = |from: &str, to: &str| {
        let texts = [create_text(0, r#"{"z":1,"a":[]}"#), repo_text()];
        passes(&texts.map(|text| text.replace(from, to)), 1)
    };
    assert!(!changed(r#""seq":-1"#, r#""seq":1"#));
    assert!(!changed(
        r#""commit":"c","rev":"r""#,
        r#""rev":"r","commit":"c""#
    ));
    assert!(!changed(r#""commit":"c""#, r#""commit":"d""#));
    assert!(!changed(".004Z", ".004000Z"));
    assert!(!changed(".004Z", "+00:00"));
    let later = repo_text().replace(".004Z", ".005Z");
    let texts = [create_text(0, r#"{"z":1,"a":[]}"#), later];
    assert!(!passes(&texts, 1), "another time");
}

#[test]
fn the_program_runs_with_its_output_captured() {
    let (redis, fixture) = (RedisServer::start(), FixtureServer::start());
    let mut help = Backfiller::builder(&redis, &fixture).arg("--help").start();
    assert!(help.wait().success());
    help.wait_for_line(|line| line.contains("BACKFILLER_CONSUMER"));
    assert!(!help.stdout_lines().is_empty());
    let missing = || help.wait_for_line(|line| line == "never printed");
    let missing = panic::catch_unwind(AssertUnwindSafe(missing));
    assert!(missing.is_err(), "an ended program prints no more lines");

    let mut program = Backfiller::builder(&redis, &fixture)
        .env("RUST_LOG", "debug")
        .start();
    program.signal(Signal::SIGKILL);
    assert_eq!(program.wait().signal(), Some(9));
    assert!(!program.is_running());
}

#[test]
fn waiting_gives_the_value_or_gives_up() {
    let mut countdown = 3;
    let value = eventually("the countdown is over", || {
        countdown -= 1;
        (countdown == 0).then_some("value")
    });
    assert_eq!(value, "value");
    assert_eq!(within(Duration::ZERO, || false), None);
    assert_eq!(within(Duration::ZERO, || true), Some(()));
}
