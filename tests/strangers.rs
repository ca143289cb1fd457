//! Addresses that a stranger chose: the target of a redirect, the endpoint of a DID document, the host of a did:web. Each kind
//! that must not be asked, in each of these places; what is sent along where one is asked; and who is said to ask.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use support::fetching::{assert_all_done, assert_nobody_came, redirected};
use support::fixture_server::{Fault, FixtureServer, GET_REPO, Request};
use support::generator::{Repo, RepoBuilder, SigningKey, records};
use support::hostile::outcomes;
use support::hostile::stage::Stage;

/// The most redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;

/// Hosts that no stranger may name, one for each class; `PORT` is that of a listener to which nobody must come.
const REFUSED: &[&str] = &[
    // This machine.
    "127.0.0.1:PORT",
    "127.255.255.254:PORT",
    "localhost:PORT",
    "LocalHost.:PORT",
    "pds.localhost:PORT",
    "0.0.0.0:PORT",
    "0.1.2.3:PORT",
    "2130706433:PORT",
    "0x7f.1:PORT",
    "0177.0.0.1:PORT",
    "127.0.0.1.:PORT",
    "%31%32%37.0.0.1:PORT",
    // Private networks, links and shared ones.
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.1.1",
    "100.64.0.1",
    // Metadata.
    "169.254.169.254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "metadata.google.internal",
    // What else is not globally reachable.
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    // Names of the operator's own network.
    "redis:PORT",
    "printer.local",
    "router.home.arpa",
];

/// Those of IPv6.
const REFUSED_V6: &[&str] = &[
    "[::1]:PORT",
    "[::]:PORT",
    "[::ffff:127.0.0.1]:PORT",
    "[::ffff:7f00:1]:PORT",
    "[::127.0.0.1]:PORT",
    "[::ffff:0:127.0.0.1]:PORT",
    "[64:ff9b::127.0.0.1]:PORT",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::1]:PORT",
    "[2001:0:7f00:1::1]",
    "[::ffff:10.0.0.1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "[100::1]",
    "[2001:2::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
    "[ff02::1]",
];

/// A port on which nobody must come, neither over TLS nor without: whoever asks leaves at least a connection.
fn trap() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port.to_string())
}

fn with_port(hosts: &[&str], port: &str) -> Vec<String> {
    let hosts = hosts.iter();
    hosts.map(|host| host.replace("PORT", port)).collect()
}

#[test]
fn redirects_to_what_is_not_public_are_refused() {
    let mut stage = Stage::new();
    let (listener, port) = trap();
    let mut targets = Vec::new();
    for host in with_port(&[REFUSED, REFUSED_V6].concat(), &port) {
        targets.push(format!("https://{host}"));
    }
    // Plain http, to whom one would ask over TLS, and credentials, for whomever they are.
    targets.push("http://pds.example.com".to_owned());
    targets.push("http://1.1.1.1".to_owned());
    targets.push("https://user:secret@pds.example.com".to_owned());
    targets.push(format!("https://secret@127.0.0.1:{port}"));
    let dids: Vec<_> = targets
        .iter()
        .map(|target| {
            let to = |repo: &Repo| format!("{target}{GET_REPO}?did={}", repo.did);
            redirected(&mut stage, 302, to).did
        })
        .collect();
    let program = stage.program();
    let ended = stage.run(program);
    for (target, did) in targets.iter().zip(&dids) {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, "http_status", "{target}: {}", outcome.line);
        let said = outcome.line.contains("not permitted");
        assert!(said, "{target}: {}", outcome.line);
        assert!(!outcome.line.contains("secret"), "{}", outcome.line);
    }
    assert_nobody_came(&listener);
}

#[test]
fn r6_endpoints_of_documents_that_are_not_public_are_refused() {
    let mut stage = Stage::new();
    let (listener, port) = trap();
    let mut endpoints = Vec::new();
    for host in with_port(&[REFUSED, REFUSED_V6].concat(), &port) {
        endpoints.push(format!("https://{host}"));
    }
    for host in ["pds.example.com", "1.1.1.1", &format!("127.0.0.1:{port}")] {
        endpoints.push(format!("http://{host}"));
    }
    for odd in [
        "https://user:secret@pds.example.com",
        "https://pds.example.com/path",
        "https://pds.example.com?query",
        "https://pds.example.com#fragment",
        "ftp://pds.example.com",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "javascript:alert(1)",
        "https://",
        "",
    ] {
        endpoints.push(odd.to_owned());
    }
    let dids: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let repo = stage.account();
            let mut document = repo.did_document("");
            document["service"][0]["serviceEndpoint"] = json!(endpoint);
            stage.server.put_document(&repo.did, document);
            stage.enqueue(&repo.did, None);
            repo.did
        })
        .collect();
    let program = stage.program();
    let ended = stage.run(program);
    for (endpoint, did) in endpoints.iter().zip(&dids) {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, "identity", "{endpoint}: {}", outcome.line);
        assert!(!outcome.line.contains("secret"), "{}", outcome.line);
        assert_eq!(stage.server.repo_requests(did), 0, "{endpoint}");
    }
    for did in &dids[..REFUSED.len() + REFUSED_V6.len()] {
        let line = &outcomes::of(&ended, did).line;
        assert!(line.contains("not permitted"), "{line}");
    }
    assert_nobody_came(&listener);
}

#[test]
fn r6_hosts_of_did_web_that_are_not_public_are_refused() {
    let mut stage = Stage::new();
    let (listener, port) = trap();
    let mut dids = Vec::new();
    for host in with_port(REFUSED, &port) {
        dids.push(format!("did:web:{}", host.replace(':', "%3A")));
    }
    for odd in [
        "did:web:127.0.0.1:path",
        "did:web:user%40127.0.0.1",
        "did:web:127.0.0.1%2Fpath",
        "did:web:%5B%3A%3A1%5D",
    ] {
        dids.push(odd.to_owned());
    }
    for did in &dids {
        stage.enqueue(did, None);
    }
    let program = stage.program();
    let ended = stage.run(program);
    for did in &dids {
        let outcome = outcomes::of(&ended, did);
        assert_eq!(outcome.how, "identity", "{}", outcome.line);
    }
    // These are hosts, and the rules refuse them.
    for did in &dids[..REFUSED.len()] {
        let line = &outcomes::of(&ended, did).line;
        assert!(line.contains("not permitted"), "{line}");
    }
    assert_nobody_came(&listener);
}

/// A server that gives these answers to requests one after the other, the last one ever again, and keeps their heads.
struct Answering {
    port: u16,
    heads: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Answering {
    fn start(answers: impl FnOnce(u16) -> Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answers = answers(port);
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        // Ends with the test process: it waits for a next client.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream: TcpStream = stream.expect("a client");
                let lines = BufReader::new(&stream).lines();
                let lines = lines.map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                let mut heads = kept.lock().expect("a list");
                let answer = &answers[heads.len().min(answers.len() - 1)];
                heads.push(head);
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { port, heads }
    }

    fn heads(&self) -> Vec<Vec<String>> {
        self.heads.lock().expect("a list").clone()
    }

    fn did(&self) -> String {
        format!("did:web:localhost%3A{}", self.port)
    }
}

fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers = headers.iter().map(|header| format!("{header}\r\n"));
    let headers: String = headers.collect();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn redirect(location: &str) -> String {
    answer("302 Found", &[&format!("Location: {location}")], "")
}

#[test]
fn r6_what_a_host_of_did_web_answers_decides() {
    let blanks = " ".repeat(64 * 1024);
    let large = format!("{{}}{blanks}");
    let cases: Vec<(&str, &str, usize, String)> = vec![
        ("404", "identity", 1, answer("404 Not Found", &[], "{}")),
        ("410", "identity", 1, answer("410 Gone", &[], "{}")),
        ("400", "network", 1, answer("400 Bad Request", &[], "{}")),
        ("403", "network", 1, answer("403 Forbidden", &[], "{}")),
        ("429", "deferred", 1, answer("429 Too Many", &[], "{}")),
        ("500", "network", 1, answer("500 Error", &[], "{}")),
        ("503", "deferred", 1, answer("503 Unavailable", &[], "{}")),
        ("no HTTP", "network", 1, "SSH-2.0\r\n\r\n".to_owned()),
        ("a page", "identity", 1, answer("200 OK", &[], "<html>")),
        ("a map", "identity", 1, answer("200 OK", &[], "{}")),
        ("large", "identity", 1, answer("200 OK", &[], &large)),
        ("nowhere", "network", 1, answer("302 Found", &[], "")),
        ("304", "network", 1, answer("304 Not Modified", &[], "")),
        ("a file", "identity", 1, redirect("file:///etc/passwd")),
        ("bad", "identity", 1, redirect("http://[::1")),
        ("no port", "identity", 1, redirect("//localhost:port/")),
        (
            "credentials",
            "identity",
            1,
            redirect("http://user:secret@localhost/"),
        ),
        ("itself", "identity", MAX_REDIRECTS + 1, redirect("?again")),
    ];
    let mut stage = Stage::new();
    let servers: Vec<_> = cases
        .iter()
        .map(|(_, _, _, answer)| {
            let server = Answering::start(|_| vec![answer.clone()]);
            stage.enqueue(&server.did(), None);
            server
        })
        .collect();
    let program = stage.permitted();
    let ended = stage.run(program);
    for ((name, how, requests, _), server) in cases.iter().zip(&servers) {
        let outcome = outcomes::of(&ended, &server.did());
        assert_eq!(outcome.how, *how, "{name}: {}", outcome.line);
        assert!(!outcome.line.contains("secret"), "{}", outcome.line);
        assert_eq!(server.heads().len(), *requests, "{name}");
    }
}

#[test]
fn r6_redirects_of_did_web_are_followed_five_times_and_carry_nothing_along() {
    for (count, how) in [(MAX_REDIRECTS, "done"), (MAX_REDIRECTS + 1, "identity")] {
        let mut stage = Stage::new();
        let url = stage.server.url();
        let mut account = None;
        let server = Answering::start(|port| {
            let repo = RepoBuilder::new(format!("did:web:localhost%3A{port}"))
                .key(SigningKey::p256(4))
                .records(records::mixed(1, 3))
                .build();
            let document = repo.did_document(&url).to_string();
            account = Some(repo);
            let cookie = "Set-Cookie: secret=1; Path=/";
            // Whole, relative in all ways, and with a fragment, to other names of this machine.
            let locations = [
                format!("http://127.0.0.1:{port}/one"),
                "two".to_owned(),
                "/three?four#fragment".to_owned(),
                format!("//localhost:{port}/five"),
                "?six".to_owned(),
                "seven".to_owned(),
            ];
            let mut answers: Vec<_> = locations[..count]
                .iter()
                .map(|to| answer("301 Moved", &[&format!("Location: {to}"), cookie], ""))
                .collect();
            answers.push(answer("200 OK", &[], &document));
            answers
        });
        let repo = account.expect("it was made");
        stage.server.put_repo(&repo.did, repo.car());
        stage.enqueue(&repo.did, Some(&url));
        let program = stage.permitted();
        assert_eq!(stage.run_one(program), how, "{count} redirects");
        let heads = server.heads();
        let lines = heads.iter().map(|head| head[0].as_str());
        let asked: Vec<_> = lines.collect();
        assert_eq!(
            asked,
            [
                "GET /.well-known/did.json HTTP/1.1",
                "GET /one HTTP/1.1",
                "GET /two HTTP/1.1",
                "GET /three?four HTTP/1.1",
                "GET /five HTTP/1.1",
                "GET /five?six HTTP/1.1",
            ]
        );
        for line in heads.iter().flatten() {
            assert_carries_nothing(line.split(':').next().unwrap_or_default());
            assert!(!line.contains("secret"), "{line}");
        }
    }
}

/// A header of a request that says nothing about who asked before.
#[track_caller]
fn assert_carries_nothing(header: &str) {
    let telling = ["authorization", "cookie", "referer", "proxy-authorization"];
    let name = header.to_ascii_lowercase();
    assert!(!telling.contains(&name.as_str()), "{header}");
}

#[test]
fn redirects_carry_nothing_along() {
    let mut stage = Stage::new();
    let other = FixtureServer::start_with_addr("127.0.0.2:0");
    let mut repos = Vec::new();
    let host = other.host();
    for end in ["", "#fragment", "&more=1#a?b=c"] {
        for start in [format!("http://{host}"), format!("//{host}")] {
            let repo = stage.faulty(Fault::Normal);
            let location = format!("{start}{GET_REPO}?did={}{end}", repo.did);
            let redirect = Fault::Status {
                code: 302,
                headers: vec![
                    ("Location".into(), location),
                    ("Set-Cookie".into(), "secret=1; Path=/".into()),
                    ("WWW-Authenticate".into(), "Basic realm=\"a\"".into()),
                ],
                content_type: "text/plain".into(),
                body: b"moved".to_vec(),
            };
            stage.server.set_fault(&repo.did, redirect);
            other.put_repo(&repo.did, repo.car());
            repos.push(repo);
        }
    }
    let program = stage.permitted();
    let ended = stage.run(program);
    assert_all_done(&mut stage, &repos, &ended);
    let requests = [other.requests(), stage.server.requests()].concat();
    assert_eq!(other.requests().len(), repos.len());
    for request in &requests {
        for (name, value) in &request.headers {
            assert_carries_nothing(name);
            assert!(!value.contains("secret"), "{name}: {value}");
        }
        assert!(!request.target.contains('#'), "{}", request.target);
    }
}

#[test]
fn every_kind_of_request_says_who_asks() {
    let name = concat!("rsky-backfiller/", env!("CARGO_PKG_VERSION"));
    let contact = "mailto:us@example.com";
    for (contact, expected) in [
        (None, name.to_owned()),
        (Some(contact), format!("{name} (+{contact})")),
    ] {
        let mut stage = Stage::new();
        let other = FixtureServer::start();
        // getRepo, its redirect, and the directory.
        let redirected = redirected(&mut stage, 302, |repo| {
            other.put_repo(&repo.did, repo.car());
            other.repo_url(&repo.did)
        });
        // A document of did:web, and its redirect.
        let url = stage.server.url();
        let mut account = None;
        let web = Answering::start(|port| {
            let repo = RepoBuilder::new(format!("did:web:localhost%3A{port}"))
                .records(records::mixed(1, 3))
                .build();
            let document = answer("200 OK", &[], &repo.did_document(&url).to_string());
            account = Some(repo);
            vec![redirect("/moved"), document]
        });
        let of_web = account.expect("it was made");
        stage.server.put_repo(&of_web.did, of_web.car());
        stage.enqueue(&of_web.did, None);
        let mut program = stage.permitted();
        if let Some(contact) = contact {
            program = program.env("BACKFILLER_CONTACT", contact);
        }
        let ended = stage.run(program);
        assert_all_done(&mut stage, &[redirected, of_web], &ended);
        let requests: Vec<Request> = [stage.server.requests(), other.requests()].concat();
        assert_eq!(requests.len(), 4, "two repos, a redirect, a document");
        for request in &requests {
            let agents = request.headers.iter();
            let agents = agents.filter(|(name, _)| name == "user-agent");
            let agents: Vec<_> = agents.map(|(_, value)| value).collect();
            assert_eq!(agents, [&expected], "{}", request.path);
        }
        let heads = web.heads();
        assert_eq!(heads.len(), 2);
        for head in &heads {
            let said = |line: &&String| line.to_ascii_lowercase().starts_with("user-agent:");
            let said: Vec<_> = head.iter().filter(said).collect();
            assert_eq!(said.len(), 1, "{head:?}");
            let agent = said[0].split_once(": ").map(|(_, value)| value);
            assert_eq!(agent, Some(expected.as_str()), "{head:?}");
        }
    }
}
