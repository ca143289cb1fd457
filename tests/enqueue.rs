//! `enqueue` with the accounts that the operator names, through the real binary.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::Connection;
use serde_json::json;

use support::assertions::assert_repo;
use support::backfiller::{Backfiller, binary};
use support::cli::{Answer, HOSTILE, OnTerminal, assert_harmless, command};
use support::events::{INPUT, OUTPUT, dead_letters, read_events, read_stream, wait_until_drained};
use support::fixture_server::{Document, FixtureServer};
use support::generator::did::did_document;
use support::generator::{SigningKey, did_plc, mixed_repo};
use support::proxy::{Action, Proxy};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// The command with this directory.
fn enqueue(redis: &RedisServer, directory: &FixtureServer, args: &[&str]) -> Command {
    let mut command = command(redis, &["enqueue"]);
    command
        .args(args)
        .env("BACKFILLER_PLC_URL", directory.url());
    command
}

fn run(redis: &RedisServer, directory: &FixtureServer, args: &[&str]) -> Answer {
    enqueue(redis, directory, args)
        .output()
        .expect("it starts")
        .into()
}

/// The messages of the input, in their order.
fn messages(connection: &mut Connection) -> Vec<String> {
    let entries = read_stream(connection, INPUT);
    entries
        .into_iter()
        .map(|(_, mut fields)| {
            let message = fields.remove("repo").expect("a field repo");
            assert!(fields.is_empty(), "{fields:?}");
            message
        })
        .collect()
}

/// The same without their order: look-ups end as they like.
fn sorted(connection: &mut Connection) -> Vec<String> {
    let mut messages = messages(connection);
    messages.sort();
    messages
}

/// An account whose document names this server.
fn account(directory: &FixtureServer, seed: u64, pds: &str) -> String {
    let did = did_plc(seed);
    directory.put_document(&did, did_document(&did, &SigningKey::k256(seed), pds));
    did
}

fn handle_of(did: &str) -> String {
    format!("{}.example.com", did.rsplit(':').next().expect("a name"))
}

#[test]
fn accounts_from_everywhere_become_messages_with_the_servers_of_their_documents() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let dids: Vec<_> = (0..5)
        .map(|n| account(&directory, n, &format!("https://pds{n}.example:8443/")))
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("accounts.txt");
    let given = json!({ "did": dids[3], "host": "PDS.elsewhere.example", "rev": "3kl7ad7zmfk2r", "active": false, "more": 1 });
    let text = format!("# accounts\n\n {}\r\n{given}\n{}\n", dids[1], dids[0]);
    fs::write(&file, text).expect("a file");
    let mut command = enqueue(
        &redis,
        &directory,
        &[
            &dids[0],
            "-",
            &dids[0],
            "--file",
            file.to_str().expect("text"),
        ],
    );
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    write!(stdin, "{}\n{{\"did\":\"{}\"}}", dids[2], dids[4]).expect("it reads");
    drop(stdin);
    let answer: Answer = child.wait_with_output().expect("it ends").into();
    assert_eq!(answer.status, 0, "{answer:?}");
    assert_eq!(answer.stderr, "enqueued 5, skipped 2 (2 duplicate)\n");
    assert_eq!(answer.stdout, "");

    let mut expected: Vec<_> = [0, 1, 2, 4]
        .map(|n| {
            format!(
                r#"{{"did":"{}","host":"https://pds{n}.example:8443"}}"#,
                dids[n]
            )
        })
        .to_vec();
    expected.push(format!(
        r#"{{"did":"{}","host":"https://pds.elsewhere.example","rev":"3kl7ad7zmfk2r","active":false}}"#,
        dids[3]
    ));
    expected.sort();
    assert_eq!(sorted(&mut redis.connection()), expected);
    assert_eq!(
        directory.document_requests(&dids[3]),
        0,
        "its host was given"
    );
}

#[test]
fn an_enqueued_account_becomes_its_events() {
    let (redis, server) = (RedisServer::start(), FixtureServer::start());
    let mut connection = redis.connection();
    let repos = [mixed_repo(1, 20), mixed_repo(2, 600)];
    for repo in &repos {
        server.serve(repo);
    }
    // The first with the host of its document, the second by its handle, the host left to the worker.
    server.resolve_handle(&handle_of(&repos[1].did), &repos[1].did);
    let url = server.url();
    let args = [
        &repos[0].did,
        &handle_of(&repos[1].did),
        "--handle-resolver",
        &url,
    ];
    let answer = run(
        &redis,
        &server,
        &[&args[..], &["--allow-private-hosts"]].concat(),
    );
    assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 2\n"));
    assert!(
        messages(&mut connection)
            .iter()
            .all(|message| message.contains(&url))
    );

    let program = Backfiller::builder(&redis, &server);
    let mut program = program
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
        .start();
    wait_until_drained(&mut connection);
    program.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(program.wait().code(), Some(0));
    let events = read_events(&mut connection, OUTPUT);
    for repo in &repos {
        assert_repo(&events, repo);
    }
    assert!(dead_letters(&mut connection).is_empty());
}

#[test]
fn with_a_host_or_without_any_nobody_is_asked() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let did = did_plc(1);
    for (args, message) in [
        (&["--no-resolve"][..], format!(r#"{{"did":"{did}"}}"#)),
        (
            &["--host", "pds.example"],
            format!(r#"{{"did":"{did}","host":"https://pds.example"}}"#),
        ),
        // The operator may name what a stranger may not.
        (
            &["--host", "http://127.0.0.1:2583/"],
            format!(r#"{{"did":"{did}","host":"http://127.0.0.1:2583"}}"#),
        ),
    ] {
        let mut connection = redis.connection();
        let answer = run(&redis, &directory, &[&[did.as_str()], args].concat());
        assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 1\n"));
        assert_eq!(messages(&mut connection), [message]);
        redis::cmd("DEL")
            .arg(INPUT)
            .exec(&mut connection)
            .expect("deleted");
    }
    let answer = run(&redis, &directory, &["--no-resolve", "alice.example.com"]);
    assert_eq!(answer.status, 1);
    assert!(
        answer
            .stderr
            .contains("refused alice.example.com: a handle must be resolved"),
        "{answer:?}"
    );
    assert!(directory.requests().is_empty());
}

#[test]
fn each_server_that_a_document_must_not_name_is_refused_with_its_reason() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let bad = [
        ("http://pds.example", "plain http"),
        ("https://127.0.0.1", "loopback address"),
        ("https://10.0.0.1:8443", "private address"),
        ("https://[::1]", "loopback address"),
        ("https://0x7f.1", "loopback address"),
        ("https://93.184.215.14", "instead of a name"),
        ("https://[2606:4700::1111]", "instead of a name"),
        ("https://localhost", "loopback address"),
        ("https://a.localhost:8443", "loopback address"),
        ("https://redis", "local address"),
        ("https://metadata.google.internal", "local address"),
        ("https://pds.local", "local address"),
        (
            "https://user:secret@pds.example",
            "no server that can be asked",
        ),
        ("ftp://pds.example", "no server that can be asked"),
        ("https://pds.example/path", "no server that can be asked"),
        ("", "no server that can be asked"),
    ];
    let dids: Vec<_> = (0_u64..)
        .zip(bad)
        .map(|(n, (pds, _))| account(&directory, n, pds))
        .collect();
    let good = account(&directory, 99, "https://pds.example");
    let mut args: Vec<&str> = dids.iter().map(String::as_str).collect();
    args.push(&good);
    let answer = run(&redis, &directory, &args);
    assert_eq!(answer.status, 1);
    let lines: Vec<_> = answer.stderr.lines().collect();
    for (did, (pds, why)) in dids.iter().zip(bad) {
        let of = |line: &&&str| line.starts_with(&format!("refused {did}: "));
        let found: Vec<_> = lines.iter().filter(of).collect();
        assert_eq!(found.len(), 1, "{pds}: {lines:?}");
        assert!(found[0].contains(why), "{pds}: {found:?}");
    }
    assert_eq!(lines.len(), bad.len() + 1);
    let summary = format!("enqueued 1, refused {0} ({0} endpoint)", bad.len());
    assert_eq!(lines.last(), Some(&summary.as_str()));
    assert!(!answer.stderr.contains("secret"));
    let expected = format!(r#"{{"did":"{good}","host":"https://pds.example"}}"#);
    assert_eq!(messages(&mut redis.connection()), [expected]);

    // What is an address or a name at all is the operator's business where he says so.
    let answer = run(
        &redis,
        &directory,
        &[&args[..], &["--allow-private-hosts=true"]].concat(),
    );
    assert_eq!(
        answer
            .stderr
            .lines()
            .filter(|line| line.starts_with("refused "))
            .count(),
        4
    );
}

#[test]
fn what_is_no_account_is_refused_and_the_others_are_enqueued() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let good = account(&directory, 1, "https://pds.example");
    let gone = did_plc(2);
    directory.put_document_status(&gone, 410, "{}");
    let hostile = format!("did:plc:{}", HOSTILE.replace(['\r', '\n', '\0'], ""));
    let bad_message = r#"{"did":"did:plc:abc","host":"ftp://a"}"#;
    let bad = [
        &gone,
        &did_plc(3),
        "did:key:zabc",
        "did:plc:",
        "nobody",
        &hostile,
        bad_message,
    ];
    let answer = run(&redis, &directory, &[&bad[..], &[&good]].concat());
    assert_eq!(answer.status, 1, "{answer:?}");
    assert_eq!(answer.stderr.lines().count(), bad.len() + 1);
    for why in [
        "tombstoned",
        "not found in the directory",
        "neither did:plc nor did:web",
        "at least two parts",
        "neither http nor https",
    ] {
        assert!(answer.stderr.contains(why), "{why}: {answer:?}");
    }
    assert_harmless(&answer.stderr);
    assert!(
        answer
            .stderr
            .ends_with("enqueued 1, refused 7 (2 identity, 5 syntax)\n"),
        "{answer:?}"
    );
    assert_eq!(messages(&mut redis.connection()).len(), 1);
}

#[test]
fn a_directory_that_fails_for_a_moment_is_asked_again() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let did = did_plc(1);
    let document = did_document(&did, &SigningKey::k256(1), "https://pds.example");
    let document = Document::ok(document.to_string());
    directory.answer(
        format!("/{did}"),
        [Document::status(500, ""), Document::refusal(1), document],
    );
    let answer = run(&redis, &directory, &[&did]);
    assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 1\n"));
    assert_eq!(directory.document_requests(&did), 3);
}

#[test]
fn the_directorys_rate_is_kept() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let dids: Vec<_> = (0..9)
        .map(|n| account(&directory, n, "https://pds.example"))
        .collect();
    let mut args: Vec<&str> = dids.iter().map(String::as_str).collect();
    args.extend(["--plc-rps", "20"]);
    let answer = run(&redis, &directory, &args);
    assert_eq!((answer.status, answer.stderr.as_str()), (0, "enqueued 9\n"));
    let requests = directory.requests();
    let (first, last) = (requests[0].at, requests[8].at);
    // A quarter of a second's worth may come at once.
    assert!(
        last - first >= Duration::from_millis(150),
        "{:?}",
        last - first
    );
}

#[test]
fn usage_is_refused_with_status_2_before_anything_is_enqueued() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let did = account(&directory, 1, "https://pds.example");
    let folder = tempfile::tempdir().expect("a folder");
    for (args, why) in [
        (&[][..], "which accounts?"),
        (
            &["--host", "ftp://pds.example", &did],
            "neither http nor https",
        ),
        (
            &["--list-repos", "pds.example/path"],
            "more than a name and a port",
        ),
        (&["--file", "/no/such/file", &did], "cannot be read"),
        (
            &["--file", folder.path().to_str().expect("text"), &did],
            "cannot be read",
        ),
        (
            &["--plc-rps", "many", &did],
            "BACKFILLER_PLC_RPS=many is not accepted",
        ),
        (
            &["--handle-resolver", "https://u:secret@a.example", &did],
            "BACKFILLER_HANDLE_RESOLVER",
        ),
        (&["--dns", "localhost", &did], "--dns"),
    ] {
        let answer = run(&redis, &directory, args);
        let line = answer.refusal(2);
        assert!(
            line.contains(why) && !line.contains("secret"),
            "{args:?}: {line}"
        );
    }
    for args in [
        &["--active-only", &did][..],
        &["--list-repos", "a.example", &did],
        &["--list-repos", "a.example", "--file", "-"],
        &["--no-resolve", "--host", "a.example", &did],
        &["--concurrency", "0", &did],
        &["--high-water-mark", "-1", &did],
    ] {
        let answer = run(&redis, &directory, args);
        assert_eq!((answer.status, answer.stdout.as_str()), (2, ""), "{args:?}");
    }
    assert!(messages(&mut redis.connection()).is_empty());
}

#[test]
fn a_redis_that_cannot_be_used_is_said_at_once_and_its_password_never() {
    let (mut redis, directory) = (RedisServer::start(), FixtureServer::start());
    let did = account(&directory, 1, "https://pds.example");
    let mut connection = redis.connection();
    redis::cmd("SET")
        .arg(INPUT)
        .arg("x")
        .exec(&mut connection)
        .expect("set");
    let answer = run(&redis, &directory, &[&did]);
    assert!(
        answer.refusal(1).contains("holds a string, not a stream"),
        "{answer:?}"
    );

    redis.stop();
    let url = format!("redis://:secret@127.0.0.1:{}", redis.port());
    let mut command = enqueue(&redis, &directory, &[&did]);
    let answer: Answer = command
        .env("REDIS_URL", url)
        .output()
        .expect("it starts")
        .into();
    let line = answer.refusal(1);
    assert!(
        line.contains("Redis at redis://:***@127.0.0.1") && !line.contains("secret"),
        "{line}"
    );
    assert!(directory.requests().is_empty(), "nobody is asked in vain");
}

#[test]
fn it_waits_while_the_input_is_above_the_mark() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let mut connection = redis.connection();
    let dids: Vec<_> = (0..4).map(did_plc).collect();
    let first = run(&redis, &directory, &["--no-resolve", &dids[0], &dids[1]]);
    assert_eq!(first.status, 0);
    let mut waits = Backfiller::builder(&redis, &directory);
    for arg in [
        "enqueue",
        "--no-resolve",
        "--high-water-mark",
        "2",
        &dids[2],
        &dids[3],
    ] {
        waits = waits.arg(arg);
    }
    let mut waits = waits.start();
    waits.wait_for_line(|line| {
        line.contains("the input has 2 messages; waiting until there are less than 2")
    });
    assert_eq!(messages(&mut connection).len(), 2);
    redis::cmd("XTRIM")
        .arg(INPUT)
        .arg("MAXLEN")
        .arg(1)
        .exec(&mut connection)
        .expect("trimmed");
    assert_eq!(waits.wait().code(), Some(0));
    assert_eq!(waits.lines().last().map(String::as_str), Some("enqueued 2"));
    assert_eq!(messages(&mut connection).len(), 3);
}

/// A call that has enqueued some of its accounts, and waits for room with all others; then `end` ends it. Between them, its input and what
/// it leaves have each account once.
fn leaves_the_rest(status: i32, end: impl FnOnce(&mut RedisServer, &Backfiller)) {
    let (mut redis, directory) = (RedisServer::start(), FixtureServer::start());
    let mut connection = redis.connection();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        let path = folder.path().join(name);
        path.to_str().expect("text").to_owned()
    };
    let (list, rest) = (path("list"), path("rest"));
    let dids: Vec<_> = (0..3000).map(did_plc).collect();
    let lines = dids
        .iter()
        .fold(String::new(), |text, did| text + did + "\n");
    fs::write(&list, format!("# some\nnobody\n{}\n{lines}", dids[0])).expect("a list");
    let mut running = Backfiller::builder(&redis, &directory);
    for arg in ["enqueue", "--no-resolve", "--high-water-mark", "1"] {
        running = running.arg(arg);
    }
    let args = ["--file", &list, "--rest", &rest];
    let mut running = args
        .into_iter()
        .fold(running, |it, arg| it.arg(arg))
        .start();
    running.wait_for_line(|line| line.contains("waiting until there are less than 1"));
    let before = messages(&mut connection);
    end(&mut redis, &running);
    assert_eq!(running.wait().code(), Some(status));
    let left = fs::read_to_string(&rest).expect("the rest");
    let said = format!("left, in {rest:?}");
    assert!(running.lines().iter().any(|line| line.contains(&said)));
    assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 2);
    let enqueued = match status {
        130 => messages(&mut connection),
        _ => before,
    };
    assert!(!enqueued.is_empty() && !left.is_empty());
    let mut all: Vec<_> = enqueued
        .iter()
        .map(|it| serde_json::from_str::<serde_json::Value>(it).expect("JSON"))
        .map(|it| it["did"].as_str().expect("a DID").to_owned())
        .chain(left.lines().map(str::to_owned))
        .collect();
    all.sort();
    let mut wanted = dids;
    wanted.sort();
    assert!(
        all == wanted,
        "{} and {}",
        enqueued.len(),
        left.lines().count()
    );
}

#[test]
fn what_an_interrupted_call_leaves_can_be_enqueued_by_another() {
    leaves_the_rest(130, |_, running| {
        running.signal(nix::sys::signal::Signal::SIGINT);
    });
}

/// However many messages are on their way to Redis while the look-ups end.
#[test]
fn look_ups_that_an_interruption_cuts_are_left_and_not_forgotten() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let cut = [did_plc(100), did_plc(101)];
    for count in 1..=6 {
        let path = |name: &str| format!("{}/{name}-{count}", folder.path().display());
        let (list, rest) = (path("list"), path("rest"));
        let named = (0..count).map(|n| {
            let message = serde_json::json!({ "did": did_plc(n), "host": "pds.example" });
            format!("{message}\n")
        });
        let text: String = named
            .chain(cut.iter().map(|did| format!("{did}\n")))
            .collect();
        fs::write(&list, text).expect("a list");
        let proxy = Proxy::start(redis.port());
        let exec = proxy.once(Action::Delay, |_| true);
        let running = Backfiller::builder(&redis, &directory)
            .env("REDIS_URL", proxy.url())
            // Nobody is there: it is tried again after a while.
            .env("BACKFILLER_PLC_URL", "http://127.0.0.1:1");
        let args = ["enqueue", "--file", &list, "--rest", &rest];
        let running = args.into_iter().fold(running, |it, arg| it.arg(arg));
        let mut running = running.start();
        exec.wait(1);
        running.signal(nix::sys::signal::Signal::SIGINT);
        let tasks = format!("/proc/{}/task", running.pid());
        eventually("the look-ups have ended", || {
            let tasks = fs::read_dir(&tasks).expect("the threads");
            let mut names =
                tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
            !names.any(|name| name.starts_with("look-up"))
        });
        exec.release();
        assert_eq!(running.wait().code(), Some(130), "{count}");
        let left = fs::read_to_string(&rest).expect("the rest");
        assert_eq!(left.lines().collect::<Vec<_>>(), cut, "{count}");
    }
}

#[test]
fn a_line_that_cannot_be_read_leaves_what_is_before_it() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| format!("{}/{name}", folder.path().display());
    let (broken, whole, rest) = (path("broken"), path("whole"), path("rest"));
    let long = "a".repeat(70_000);
    fs::write(&broken, format!("{}\n{long}\n{}\n", did_plc(1), did_plc(2))).expect("a list");
    fs::write(&whole, format!("{}\n", did_plc(3))).expect("a list");
    let running = Backfiller::builder(&redis, &directory);
    let args = [
        "enqueue",
        "--no-resolve",
        "--file",
        &broken,
        "--file",
        &whole,
    ];
    let args = args.into_iter().chain(["--rest", &rest]);
    let mut running = args.fold(running, |it, arg| it.arg(arg)).start();
    assert_eq!(running.wait().code(), Some(1));
    assert_eq!(messages(&mut redis.connection()).len(), 2);
    assert_eq!(fs::read_to_string(&rest).expect("the rest"), "");
    let said = format!("0 left, in {rest:?}; none behind line 2 of {broken:?}");
    let lines = running.lines();
    assert!(lines.iter().any(|line| line.contains(&said)), "{lines:#?}");
}

#[test]
fn what_is_left_where_redis_goes_away_can_be_enqueued_by_another_call() {
    leaves_the_rest(1, |redis, _| redis.stop());
}

#[test]
fn a_rest_is_refused_where_it_could_not_be_told_or_written() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let there = folder.path().join("there");
    fs::write(&there, "kept").expect("a file");
    let there = there.to_str().expect("text");
    let did = did_plc(1);
    for (args, what) in [
        (&["--rest", "new", "-"][..], "not pipes"),
        (&["--rest", "new", "--file", "/dev/null"], "not pipes"),
        (&["--rest", there, &did], "there is such a file"),
        (&["--rest", "no/such/folder", &did], "No such file"),
        (&["--rest", "new", "--dry-run", &did], "cannot be used with"),
    ] {
        let answer = run(&redis, &directory, args);
        assert_eq!(answer.status, 2, "{args:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(what), "{}", answer.stderr);
    }
    assert_eq!(fs::read_to_string(there).expect("the file"), "kept");
    // Where all is enqueued, there is none.
    let rest = folder.path().join("rest");
    let args = ["--no-resolve", "--rest", rest.to_str().expect("text"), &did];
    assert_eq!(run(&redis, &directory, &args).status, 0);
    assert!(!rest.exists());
}

#[test]
fn ctrl_c_ends_it_with_what_is_written_by_then() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let mut connection = redis.connection();
    let mut command = enqueue(&redis, &directory, &["--no-resolve", "-"]);
    command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = support::child::spawn(command).expect("it starts");
    let mut stdin = running.stdin.take().expect("a pipe");
    writeln!(stdin, "{}\n{}", did_plc(1), did_plc(2)).expect("it reads");
    eventually("both are enqueued", || messages(&mut connection).len() == 2);
    let pid = nix::unistd::Pid::from_raw(running.id().try_into().expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("the signal is sent");
    // Its input has not ended.
    let answer: Answer = running.wait_with_output().expect("it ends").into();
    drop(stdin);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (130, "interrupted: enqueued 2\n")
    );
    assert_eq!(messages(&mut connection).len(), 2);
}

#[test]
fn a_dry_run_prints_the_messages_and_needs_no_redis() {
    let directory = FixtureServer::start();
    let did = account(&directory, 1, "https://pds.example");
    let dry = |stdout: Stdio| {
        Command::new(binary())
            .args(["enqueue", "--dry-run", &did, "nobody"])
            .env_clear()
            .env("BACKFILLER_PLC_URL", directory.url())
            // Nobody listens there.
            .env("REDIS_URL", "redis://127.0.0.1:1")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
            .wait_with_output()
            .expect("it ends")
    };
    let answer: Answer = dry(Stdio::piped()).into();
    assert_eq!(answer.status, 1);
    assert_eq!(
        answer.stdout,
        format!("{{\"did\":\"{did}\",\"host\":\"https://pds.example\"}}\n")
    );
    assert!(
        answer
            .stderr
            .ends_with("would enqueue 1, refused 1 (1 syntax)\n"),
        "{answer:?}"
    );
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    // A reader that has seen enough is no failure, and is not told about.
    let answer: Answer = dry(writer.into()).into();
    assert_eq!(answer.status, 0, "{answer:?}");
}

#[test]
fn a_terminal_sees_a_bar_and_then_what_was_done() {
    let (redis, directory) = (RedisServer::start(), FixtureServer::start());
    let hostile = HOSTILE.replace(['\r', '\n', '\0'], "");
    let dids: Vec<_> = (0..3).map(did_plc).collect();
    let mut command = enqueue(
        &redis,
        &directory,
        &["--no-resolve", "--high-water-mark", "1", &hostile],
    );
    command.args(&dids).env("TERM", "xterm");
    let mut connection = redis.connection();
    redis::cmd("XADD")
        .arg(INPUT)
        .arg("*")
        .arg("repo")
        .arg("x")
        .exec(&mut connection)
        .expect("added");
    let mut terminal = OnTerminal::start(command, 120, 20);
    terminal.wait_for("waiting until there are less than 1");
    let shown = terminal.wait_for("1/4");
    assert!(shown.contains('█') || shown.contains('░'), "a bar: {shown}");
    redis::cmd("DEL")
        .arg(INPUT)
        .exec(&mut connection)
        .expect("deleted");
    let (status, shown) = terminal.wait();
    assert_eq!(status.code(), Some(1));
    assert!(
        shown
            .trim_end()
            .ends_with("enqueued 3, refused 1 (1 syntax)"),
        "{shown:?}"
    );
    // What moves the cursor is of the bar's own; none of it is the stranger's.
    assert!(
        !shown.contains(&hostile) && !shown.contains("\u{1b}]0;owned"),
        "{shown:?}"
    );
}
