//! Handles and what they lead to: TXT records, the handle's own host, a server that resolves them; and the account must agree.

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsky_backfiller::cli::{Cli, HandleOptions, RequestOptions};
use rsky_backfiller::config::Config;
use rsky_backfiller::dump::Roster;
use rsky_backfiller::error::{JobError, Reason};
use rsky_backfiller::fetch::host::{ChosenBy, Host};
use rsky_backfiller::fetch::resolver::Resolver;
use rsky_backfiller::handle::{Handle, Handles, Way};
use rsky_backfiller::hosts::wait::Waiting;
use rsky_backfiller::hosts::{Hosts, Stopped};
use rsky_backfiller::shutdown::Shutdown;
use serde_json::json;

use support::cli::{Answer, command};
use support::dns::{DnsServer, Record};
use support::events::{INPUT, stream_len};
use support::fixture_server::{Document, FixtureServer};
use support::generator::did::did_document;
use support::generator::{SigningKey, did_plc};
use support::redis_server::RedisServer;

struct Stage {
    redis: RedisServer,
    directory: FixtureServer,
    dns: DnsServer,
}

impl Stage {
    fn new() -> Self {
        Stage {
            redis: RedisServer::start(),
            directory: FixtureServer::start(),
            dns: DnsServer::start(),
        }
    }

    /// An account; its document names this handle.
    fn account(&self, seed: u64, handle: &str) -> String {
        let did = did_plc(seed);
        let mut document = did_document(&did, &SigningKey::k256(seed), "https://pds.example");
        document["alsoKnownAs"] = json!(["https://elsewhere.example", format!("at://{handle}")]);
        self.directory.put_document(&did, document);
        did
    }

    fn txt(&self, handle: &str, texts: &[String]) {
        let name = format!("_atproto.{handle}");
        self.dns.put(&name, Record::Txt(texts.to_vec()));
    }

    /// Enqueues what this handle leads to.
    fn enqueue(&self, handle: &str, args: &[&str]) -> Answer {
        let mut command = command(&self.redis, &["enqueue", handle]);
        command
            .args(args)
            .env("BACKFILLER_PLC_URL", self.directory.url());
        command.output().expect("it starts").into()
    }

    /// The same with this DNS server.
    fn by_dns(&self, handle: &str) -> Answer {
        self.enqueue(handle, &["--dns", &self.dns.address()])
    }
}

#[test]
fn a_txt_record_leads_to_the_account_that_names_the_handle_as_well() {
    let stage = Stage::new();
    let did = stage.account(1, "Alice.example.com");
    let long = format!("v=spf1 {}", "x".repeat(600));
    stage.txt(
        "alice.example.com",
        &[long, format!("did={did}"), format!("did={did}")],
    );
    for handle in ["alice.example.com", "@ALICE.example.com"] {
        let answer = stage.by_dns(handle);
        assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 1\n"));
    }
    let asked = stage.dns.asked();
    assert!(
        asked
            .iter()
            .all(|name| name == "_atproto.alice.example.com"),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2);
}

#[test]
fn txt_records_that_name_two_accounts_or_one_of_another_handle_lead_nowhere() {
    let stage = Stage::new();
    let (alice, bob) = (
        stage.account(1, "alice.example.com"),
        stage.account(2, "bob.example.com"),
    );
    stage.txt(
        "alice.example.com",
        &[format!("did={alice}"), format!("did={bob}")],
    );
    stage.txt("mallory.example.com", &[format!("did={bob}")]);
    stage.txt("bad.example.com", &["did=did:key:zabc".to_owned()]);
    for (handle, why) in [
        ("alice.example.com", "its TXT records name different DIDs"),
        (
            "mallory.example.com",
            "names the handle bob.example.com instead",
        ),
        ("bad.example.com", "neither did:plc nor did:web"),
    ] {
        let answer = stage.by_dns(handle);
        assert_eq!(answer.status, 1, "{answer:?}");
        let line = answer.stderr.lines().next().expect("a line");
        assert!(
            line.starts_with(&format!("refused {handle}: ")) && line.contains(why),
            "{line}"
        );
        assert!(
            answer
                .stderr
                .ends_with("enqueued 0, refused 1 (1 identity)\n"),
            "{answer:?}"
        );
    }
    assert_eq!(stream_len(&mut stage.redis.connection(), INPUT), 0);
}

#[test]
fn reserved_names_are_not_asked_for() {
    let stage = Stage::new();
    for handle in [
        "alice.local",
        "alice.internal",
        "alice.localhost",
        "alice.onion",
        "alice.invalid",
    ] {
        let answer = stage.by_dns(handle);
        assert_eq!(answer.status, 1);
        assert!(
            answer.stderr.contains("its top-level domain is reserved"),
            "{answer:?}"
        );
    }
    assert!(stage.dns.asked().is_empty());
}

#[test]
fn where_no_record_is_there_or_nobody_says_the_handles_own_host_is_asked() {
    let stage = Stage::new();
    stage.dns.put("_atproto.a.test", Record::Empty);
    stage.dns.put("_atproto.b.test", Record::Fails);
    for (handle, says) in [("a.test", false), ("b.test", true)] {
        // There is no such host; that it is asked for is seen by what it says.
        let answer = stage.by_dns(handle);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(
            answer.stderr.contains(&format!("refused {handle}: ")),
            "{answer:?}"
        );
        assert!(
            answer.stderr.contains("lookup address information"),
            "{answer:?}"
        );
        assert_eq!(answer.stderr.contains("DNS: "), says, "{answer:?}");
    }
}

#[test]
fn a_server_that_resolves_handles_is_asked_instead() {
    let stage = Stage::new();
    let did = stage.account(1, "alice.test");
    let server = FixtureServer::start();
    server.resolve_handle("alice.test", &did);
    let method = "/xrpc/com.atproto.identity.resolveHandle?handle=";
    let not_found = r#"{"error":"HandleNotFound","message":"Unable to resolve handle"}"#;
    server.answer(
        format!("{method}nobody.test"),
        [Document::status(400, not_found)],
    );
    server.answer(format!("{method}none.test"), [Document::ok("{}")]);
    server.answer(format!("{method}text.test"), [Document::ok("did:plc:abc")]);
    server.answer(
        format!("{method}long.test"),
        [Document::ok("x".repeat(10_000))],
    );
    let url = server.url();
    let resolver = ["--handle-resolver", &url];
    let answer = stage.enqueue("alice.test", &resolver);
    assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 1\n"));
    for (handle, why) in [
        ("nobody.test", "HandleNotFound: Unable to resolve handle"),
        ("none.test", "did"),
        ("text.test", "no JSON object"),
        ("long.test", "more than 8192 bytes"),
    ] {
        let answer = stage.enqueue(handle, &resolver);
        assert_eq!(answer.status, 1, "{answer:?}");
        assert!(answer.stderr.contains(why), "{handle}: {answer:?}");
    }
    assert!(stage.dns.asked().is_empty());
    // The secrets of an address stay out of what is printed.
    let mut help = command(&stage.redis, &["enqueue", "--help"]);
    help.env(
        "BACKFILLER_HANDLE_RESOLVER",
        "https://user:secret@pds.example",
    );
    let help: Answer = help.output().expect("it starts").into();
    assert!(!help.stdout.contains("secret"));
}

/// What the host of a handle says, as the library asks it: a handle has no port, so the program itself asks at 443 only.
fn ask_host(server: &FixtureServer, allow_private_hosts: bool) -> Result<String, JobError> {
    let cli = Cli {
        consumer: Some("none".to_owned()),
        requests: RequestOptions {
            allow_private_hosts: Some(allow_private_hosts.to_string()),
            ..RequestOptions::default()
        },
        ..Cli::default()
    };
    let config = Arc::new(Config::from_cli(&cli).expect("a configuration"));
    let (resolver, _) = Resolver::start(1, &Roster::default()).expect("threads");
    let hosts = Hosts::new(&config);
    let way = Way::from_options(&HandleOptions::default()).expect("a way");
    let handles = Handles::new(way, &config, &resolver, &hosts);
    let host = Host::parse(&server.url(), ChosenBy::Stranger).expect("a host");
    let handle = Handle::parse("alice.example.com").expect("a handle");
    let waiting = Waiting::at_most(Duration::from_secs(10), &Shutdown::default());
    let asked = handles.ask_host(&host, &handle, &waiting);
    asked.map_err(Stopped::into_error)
}

#[test]
fn the_handles_own_host_names_the_account_in_a_text() {
    let server = FixtureServer::start();
    let path = "/.well-known/atproto-did";
    let did = did_plc(1);
    for text in [did.clone(), format!(" {did}\r\n")] {
        server.answer(path, [Document::ok(text)]);
        assert_eq!(ask_host(&server, true), Ok(did.clone()));
    }
    server.answer("/elsewhere", [Document::ok(did.clone())]);
    server.answer(path, [Document::status(302, "/elsewhere")]);
    assert_eq!(ask_host(&server, true), Ok(did));
    for document in [
        Document::status(404, "did:plc:abc"),
        Document::ok("<html>"),
        Document::ok(""),
        Document::ok("did:plc:abc did:plc:abd"),
        Document::ok("did:plc:".to_owned() + &"a".repeat(10_000)),
        Document::status(302, path),
    ] {
        server.answer(path, [document.clone()]);
        let reason = ask_host(&server, true).map_err(|e| e.reason);
        assert_eq!(reason, Err(Reason::Identity), "{document:?}");
    }
    server.answer(path, [Document::status(500, "")]);
    assert_eq!(
        ask_host(&server, true).map_err(|e| e.reason),
        Err(Reason::Network)
    );

    // A stranger has chosen it.
    let before = server.requests().len();
    let refused = ask_host(&server, false).expect_err("it is at a loopback address");
    assert!(refused.text.contains("not permitted"), "{refused}");
    assert_eq!(server.requests().len(), before);
}
