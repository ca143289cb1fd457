//! What the log looks like: for people as ever, for programs one JSON object a line; and that no stranger writes lines or fields of it.

mod support;

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use support::backfiller::{Backfiller, Builder};
use support::events::{assert_timestamp, dead_letters, enqueue_raw, wait_until_drained};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::cid::Cid;
use support::generator::{RepoBuilder, SigningKey, did_plc, records};
use support::hostile::stage::Stage;
use support::verdicts::{hasty, stop};

/// Ends a line, moves a cursor, closes a string, and pretends to be more than it is.
const EVIL: &str = "x\n\r\u{1b}[2J\u{85}\u{2028}\u{202e}\" did=did:plc:evil reason=none\\ {\"level\":\"INFO\"}\u{0}";

/// The seed of the account that is done.
const DONE: u64 = 501;

fn program(builder: Builder, format: &str) -> Builder {
    builder.env("BACKFILLER_LOG_FORMAT", format)
}

/// What no line may hold.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || "\u{2028}\u{2029}\u{200e}\u{200f}".contains(c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
}

/// Each line as an object; all have the first four fields.
#[track_caller]
fn objects(backfiller: &Backfiller) -> Vec<Map<String, Value>> {
    let read = |line: String| {
        assert!(!line.contains(is_unsafe), "{line:?}");
        let object: Map<String, Value> =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let keys: Vec<_> = object.keys().take(4).collect();
        assert_eq!(keys, ["time", "level", "thread", "message"], "{line}");
        assert_timestamp(object["time"].as_str().expect("a time"));
        object
    };
    backfiller.lines().into_iter().map(read).collect()
}

/// The one line with this message.
#[track_caller]
fn said<'o>(objects: &'o [Map<String, Value>], message: &str) -> &'o Map<String, Value> {
    let mut found = objects.iter().filter(|it| it["message"] == message);
    let first = found.next();
    assert!(found.next().is_none(), "{message} is said more than once");
    first.unwrap_or_else(|| panic!("{message} is not in {objects:#?}"))
}

/// One account that is done, one that fails and is given up, and a message that is nothing.
fn run(format: &str) -> Backfiller {
    let mut stage = Stage::new();
    let program = program(hasty(&stage), format).env("BACKFILLER_MAX_ATTEMPTS", "1");
    let done = served(&stage.server, DONE, 3);
    let url = stage.server.url();
    stage.enqueue(&done.did, Some(&url));
    let failing = stage.faulty(Fault::status(500));
    enqueue_raw(&mut stage.connection, &[("repo", b"?")]);
    let backfiller = program.start();
    wait_until_drained(&mut stage.connection);
    assert_eq!(
        dead_letters(&mut stage.connection).len(),
        2,
        "{}",
        failing.did
    );
    stop(backfiller)
}

/// The text behind the thread, without what differs from run to run.
fn shape(text: &str) -> String {
    const DIFFERS: [&str; 8] = [
        "ms", "id", "host", "seconds", "bytes", "redis", "plc", "consumer",
    ];
    let words = text.split(' ').map(|word| match word.split_once('=') {
        Some((key, _)) if DIFFERS.contains(&key) => format!("{key}=…"),
        Some(("error", text)) if text.starts_with("http://") => "error=URL".to_owned(),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The lines for people, one by one: what else reads them relies on it.
#[test]
fn for_people_the_lines_are_as_ever() {
    let backfiller = run("text");
    let lines = backfiller.lines();
    let mut shapes: Vec<_> = lines
        .iter()
        .map(|line| {
            let (head, text) = line.split_once("] ").expect("a thread");
            let mut words = head.split(' ');
            assert_timestamp(words.next().expect("a time"));
            let level = words.next().expect("a level");
            let thread = head.rsplit_once('[').expect("a thread").1;
            let thread = thread.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{level} {thread} {}", shape(text))
        })
        .collect();
    shapes.sort_unstable();
    let one = did_plc(DONE);
    let version = env!("CARGO_PKG_VERSION");
    let failing = lines
        .iter()
        .find_map(|line| line.split_once(" failed did="))
        .expect("it fails")
        .1;
    let failing = failing.split(' ').next().expect("a DID");
    let mut wanted = [
        format!("INFO main rsky-backfiller {version}"),
        "INFO main redis=… consumer=… group=repo_backfill_group input=repo_backfill output=firehose_backfill \
         dead_letters=repo_backfill_dlq concurrency=2 high_water_mark=100000 max_attempts=1 backoff=20ms..50ms max_deferred=259200s \
         lease=1s plc=… plc_rps=50(public) host_concurrency=10(public) host_rps=10(public) http_timeout=600s gzip=false \
         max_repo_bytes=4294967296 memory_budget=512MB spill_dir=/var/tmp private_hosts=true collections=all shutdown_timeout=60s http=off"
            .to_owned(),
        "INFO main created group repo_backfill_group of stream repo_backfill".to_owned(),
        format!("INFO worker- done did={one} host=… records=3 bytes=… ms=… skipped=0 filtered=0 resumed=0 id=…"),
        format!("WARN worker- failed did={failing} host=… reason=network attempt=1 ms=… id=… error=URL answered 500"),
        format!("WARN worker- dead letter did={failing} id=… reason=network attempts=1 error=URL answered 500"),
        "WARN reader dead letter id=… reason=bad_message attempts=1 error=not a JSON object: expected value at line 1 column 1".to_owned(),
        "INFO ctrl-c signal: reading stops, repos in flight are finished; a second signal ends at once".to_owned(),
        "INFO main summary repos=1 records=3 bytes=… seconds=… spills=0 skipped=0 filtered=0 dead_letters=2 retries=0 deferrals=0 \
         taken_over=0 abandoned=0 released=0 deleted_entries=0 failures=2 bad_message=1 network=1"
            .to_owned(),
    ];
    wanted.sort_unstable();
    assert_eq!(shapes, wanted);
}

#[test]
fn for_programs_each_line_is_an_object_with_the_same_fields() {
    let backfiller = run("json");
    let objects = objects(&backfiller);
    let start = said(&objects, "configuration");
    assert_eq!(
        (&start["level"], &start["thread"]),
        (&json!("INFO"), &json!("main"))
    );
    assert_eq!(start["concurrency"], 2);
    assert_eq!(start["private_hosts"], true);
    assert_eq!(start["lease"], "1s");
    let done = said(&objects, "done");
    let keys: Vec<_> = done.keys().skip(4).collect();
    let wanted = "did host records bytes ms skipped filtered resumed id";
    assert_eq!(keys, wanted.split(' ').collect::<Vec<_>>());
    assert_eq!(done["did"], did_plc(DONE));
    assert_eq!(done["records"], 3);
    assert!(done["bytes"].is_u64() && done["ms"].is_u64(), "{done:?}");
    assert!(
        done["thread"]
            .as_str()
            .is_some_and(|it| it.starts_with("worker-"))
    );
    let failed = said(&objects, "failed");
    assert_eq!(
        (&failed["level"], &failed["reason"]),
        (&json!("WARN"), &json!("network"))
    );
    assert_eq!(failed["attempt"], 1);
    assert!(
        failed["error"]
            .as_str()
            .is_some_and(|it| it.ends_with(" answered 500"))
    );
    let mut letters: Vec<_> = objects
        .iter()
        .filter(|it| it["message"] == "dead letter")
        .collect();
    letters.sort_by_key(|it| it["reason"].to_string());
    assert_eq!(letters.len(), 2);
    assert_eq!(
        (&letters[0]["thread"], &letters[0]["reason"]),
        (&json!("reader"), &json!("bad_message"))
    );
    assert_eq!(
        (&letters[1]["attempts"], &letters[1]["did"]),
        (&json!(1), &failed["did"])
    );
    let summary = said(&objects, "summary");
    assert_eq!(
        [&summary["repos"], &summary["failures"], &summary["network"]],
        [&json!(1), &json!(2), &json!(1)]
    );
    assert!(summary["seconds"].is_f64());
}

/// Everything that a stranger can put into a line, at once.
fn hostile(format: &str) -> (Backfiller, BTreeMap<String, String>) {
    let mut stage = Stage::new();
    let program = program(hasty(&stage), format).env("BACKFILLER_MAX_ATTEMPTS", "1");
    // What a server says.
    let error = Fault::xrpc(400, EVIL, EVIL);
    let refused = stage.faulty(error);
    // What a message says, as its DID, its host, and in bytes that are no text.
    for message in [
        json!({"did": format!("did:plc:{EVIL}")}),
        json!({"did": "did:plc:aaaa", "host": EVIL}),
        json!({"did": "did:plc:aaaa", "host": {EVIL: EVIL}}),
    ] {
        enqueue_raw(
            &mut stage.connection,
            &[("repo", message.to_string().as_bytes())],
        );
    }
    enqueue_raw(&mut stage.connection, &[("repo", b"\xff\xfe\n\r{\x1b[2J")]);
    // Keys of records.
    let cid = Cid::dag_cbor(b"\xa0");
    let skipping = RepoBuilder::new(did_plc(77))
        .key(SigningKey::k256(77))
        .records(records::mixed(77, 3))
        .raw_key_record(EVIL, cid, Some(b"\xa0".to_vec()))
        .raw_key_record(
            *b"a.b.c/\xff\xfe did=did:plc:evil",
            cid,
            Some(b"\xa0".to_vec()),
        )
        .build();
    stage.server.serve(&skipping);
    let url = stage.server.url();
    stage.enqueue(&skipping.did, Some(&url));
    let backfiller = program.start();
    wait_until_drained(&mut stage.connection);
    let backfiller = stop(backfiller);
    let dids = [("refused", refused.did), ("skipping", skipping.did)];
    (
        backfiller,
        dids.map(|(name, did)| (name.to_owned(), did)).into(),
    )
}

#[test]
fn strangers_write_no_lines_and_no_fields_for_people() {
    let (backfiller, dids) = hostile("text");
    let lines = backfiller.lines();
    for line in &lines {
        assert!(!line.contains(is_unsafe), "{line:?}");
        assert_timestamp(line.split(' ').next().expect("a time"));
        // The error is the last field; before it nothing is made up.
        let fields = line.split(" error=").next().expect("a line");
        assert!(!fields.contains(" did=did:plc:evil"), "{line}");
        assert!(!fields.contains(" reason=none"), "{line}");
    }
    let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(of(" dead letter "), 5);
    assert_eq!(of(&format!(" failed did={} ", dids["refused"])), 1);
    assert_eq!(of(&format!(" skipped did={} key=", dids["skipping"])), 2);
}

#[test]
fn strangers_write_no_lines_and_no_fields_for_programs() {
    let (backfiller, dids) = hostile("json");
    let objects = objects(&backfiller);
    let of = |what: &str| -> Vec<_> { objects.iter().filter(|it| it["message"] == what).collect() };
    assert_eq!(of("dead letter").len(), 5);
    let failed = of("failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&failed[0]["did"], &failed[0]["reason"]),
        (&json!(dids["refused"]), &json!("http_status"))
    );
    assert!(
        failed[0]["error"]
            .as_str()
            .is_some_and(|it| it.contains(r#"x\n\r\u{1b}[2J"#))
    );
    let skipped = of("skipped");
    assert_eq!(skipped.len(), 2);
    for line in skipped {
        assert_eq!(line["did"], dids["skipping"]);
        let keys: Vec<_> = line.keys().skip(4).collect();
        assert_eq!(keys, ["did", "key", "cid", "why"]);
    }
    assert!(
        objects
            .iter()
            .all(|it| it.get("did") != Some(&json!("did:plc:evil")))
    );
}

#[test]
fn a_panic_is_one_object_also_with_its_backtrace() {
    for backtrace in ["0", "1"] {
        let mut stage = Stage::new();
        let repo = stage.faulty(Fault::Normal);
        let program = program(hasty(&stage), "json")
            .env("BACKFILLER_MAX_ATTEMPTS", "1")
            .env("RUST_BACKTRACE", backtrace)
            .env("BACKFILLER_TEST_PANIC", format!("fetch:{}", repo.did))
            .start();
        wait_until_drained(&mut stage.connection);
        let backfiller = stop(program);
        let objects = objects(&backfiller);
        let panicked = said(&objects, "panicked");
        assert_eq!(panicked["level"], "ERROR");
        assert!(
            panicked["thread"]
                .as_str()
                .is_some_and(|it| it.starts_with("worker-"))
        );
        assert_eq!(panicked["error"], "asked for by BACKFILLER_TEST_PANIC");
        assert!(
            panicked["location"]
                .as_str()
                .is_some_and(|it| it.contains("fault.rs:"))
        );
        let frames = panicked.get("backtrace").and_then(Value::as_str);
        assert_eq!(
            frames.is_some_and(|it| it.contains("panic_if_asked")),
            backtrace == "1"
        );
        assert_eq!(said(&objects, "failed")["reason"], "panic");
    }
}

/// The flag wins over the variable, and a refusal is in the form that is asked for.
#[test]
fn what_stops_the_start_is_an_object_too() {
    let stage = Stage::new();
    let server = FixtureServer::start();
    let mut backfiller = Backfiller::builder(&stage.redis, &server)
        .env("BACKFILLER_LOG_FORMAT", "text")
        .arg("--log-format=json")
        .env("BACKFILLER_CONCURRENCY", "many\n")
        .start();
    assert_eq!(backfiller.wait().code(), Some(2));
    let refused = objects(&backfiller);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (&refused[0]["level"], &refused[0]["thread"]),
        (&json!("ERROR"), &json!("main"))
    );
    let message = "BACKFILLER_CONCURRENCY=many is not accepted: a whole number from 1 to 1024";
    assert_eq!(refused[0]["message"], message);

    let mut backfiller = Backfiller::builder(&stage.redis, &server)
        .env("BACKFILLER_LOG_FORMAT", "xml")
        .start();
    assert_eq!(backfiller.wait().code(), Some(2));
    let refusal = "backfiller: BACKFILLER_LOG_FORMAT=xml is not accepted: text or json";
    assert_eq!(backfiller.lines(), [refusal]);
}

/// What is said while Redis is away has its error as a field, though for people it stands in a sentence.
#[test]
fn sentences_have_their_values_as_fields() {
    let mut stage = Stage::new();
    stage.redis.stop();
    let mut backfiller = program(stage.program(), "json").start();
    backfiller.wait_for_line(|line| line.contains("Redis cannot be used"));
    stage.redis.restart();
    backfiller.wait_for_line(|line| line.contains("created group"));
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    let objects = objects(&backfiller);
    let away = objects
        .iter()
        .find(|it| it["level"] == "WARN")
        .expect("it is said");
    let error = away["error"].as_str().expect("an error");
    assert_eq!(
        away["message"],
        format!("Redis cannot be used: {error}; waiting for it")
    );
    let back = objects
        .iter()
        .find(|it| it.contains_key("seconds"))
        .expect("it is back");
    let seconds = back["seconds"].as_f64().expect("a number");
    assert_eq!(
        back["message"],
        format!("Redis is back after {seconds:.1} s")
    );
}
