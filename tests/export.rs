//! `backfiller export` of accounts: what it writes is what the worker writes to Redis, byte for byte but for the time, and no Redis is
//! there.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use support::backfiller::Backfiller;
use support::events::{OUTPUT, enqueue, events_of, read_events, wait_until_drained};
use support::exporting::{Export, folder, lines_of, path, timeless};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::{RepoBuilder, SigningKey, Value, did_plc, mixed_repo, records};
use support::heavy::{self, varied};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// What the worker writes for these accounts, without times.
fn written_by_the_worker(
    server: &FixtureServer,
    dids: &[String],
    env: &[(&str, &str)],
) -> Vec<Vec<String>> {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for did in dids {
        enqueue(&mut connection, did, Some(&server.url()));
    }
    let mut program = Backfiller::builder(&redis, server);
    for (key, value) in env {
        program = program.env(*key, *value);
    }
    let _backfiller = program.start();
    wait_until_drained(&mut connection);
    let events = read_events(&mut connection, OUTPUT);
    let of = |did: &String| {
        let events = events_of(&events, did).into_iter();
        events.map(|event| timeless(&event.raw)).collect()
    };
    dids.iter().map(of).collect()
}

/// An export of these accounts is what the worker writes, each repo in one piece and with one time.
#[track_caller]
fn is_what_the_worker_writes(server: &FixtureServer, dids: &[String], env: &[(&str, &str)]) {
    let wanted = written_by_the_worker(server, dids, env);
    let mut export = Export::of(Some(server), &["--concurrency", "3"]).args(dids);
    for (key, value) in env {
        export = export.env(key, value);
    }
    let exported = export.arg("--host").arg(server.url()).run();
    let lines = exported.lines();
    for (did, wanted) in dids.iter().zip(&wanted) {
        let of = lines_of(&lines, did);
        assert_eq!(
            of.iter().copied().map(timeless).collect::<Vec<_>>(),
            *wanted,
            "{did}"
        );
        let time = |line: &str| {
            line.split(r#""time":""#)
                .nth(1)
                .map(|rest| rest[..24].to_owned())
        };
        let times: BTreeSet<_> = of.iter().map(|line| time(line)).collect();
        assert_eq!(times.len(), 1, "{did}");
        let first = lines.iter().position(|line| line == of[0]).expect("a line");
        assert_eq!(lines[first..first + of.len()], of, "{did} is in one piece");
    }
    let total: usize = wanted.iter().map(Vec::len).sum();
    assert_eq!(lines.len(), total);
}

/// Serves the fixtures that the official packages wrote; returns their DIDs.
fn fixtures(server: &FixtureServer) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut dids = Vec::new();
    for entry in fs::read_dir(&folder).expect("the fixtures") {
        let car = entry.expect("an entry").path();
        if car.extension().is_some_and(|extension| extension == "car") {
            let text = fs::read_to_string(car.with_extension("json")).expect("its JSON");
            let about: Json = serde_json::from_str(&text).expect("JSON");
            let did = about["did"].as_str().expect("a DID");
            server.put_document(did, about["didDocument"].clone());
            server.put_repo(did, fs::read(&car).expect("an archive"));
            dids.push(did.to_owned());
        }
    }
    assert_eq!(dids.len(), 8);
    dids
}

#[test]
fn the_fixtures_are_what_the_worker_writes() {
    let server = FixtureServer::start();
    let dids = fixtures(&server);
    is_what_the_worker_writes(&server, &dids, &[]);
}

#[test]
fn chunks_and_skipped_records_are_what_the_worker_writes() {
    let server = FixtureServer::start();
    let sizes = [0, 1, 499, 500, 501, 1501];
    let repos = sizes
        .into_iter()
        .zip(1..)
        .map(|(size, seed)| mixed_repo(seed, size));
    let large = heavy::repo(20, 9, 'x', 1 << 20);
    let text = Value::map([("t", Value::text("x".repeat(3 << 20)))]);
    assert!(text.encode().len() > 2 << 20);
    let skipped = RepoBuilder::new(did_plc(21))
        .key(SigningKey::p256(21))
        .records(records::mixed(21, 600))
        .raw_record("com.example.bad", "one", vec![0x01])
        .record("com.example.bad", "two", text)
        .raw_record("no-nsid", "three", vec![0xa0])
        .build();
    let mut dids = Vec::new();
    for repo in repos.chain([large, skipped]) {
        server.serve(&repo);
        dids.push(repo.did);
    }
    is_what_the_worker_writes(&server, &dids, &[]);
}

#[test]
fn only_wanted_collections_are_exported() {
    let server = FixtureServer::start();
    let mut dids = fixtures(&server);
    dids.push(served(&server, 1, 700).did);
    is_what_the_worker_writes(
        &server,
        &dids,
        &[(
            "BACKFILLER_COLLECTIONS",
            "app.bsky.feed.*,app.bsky.graph.follow",
        )],
    );
}

#[test]
fn a_repo_that_does_not_fit_into_memory_is_exported_from_a_file() {
    let server = FixtureServer::start();
    let folder = TempDir::new().expect("a folder");
    let repo = varied();
    server.serve(&repo);
    let spill = folder.path().to_str().expect("a path");
    let env = [
        ("BACKFILLER_MEMORY_BUDGET_MB", "1"),
        ("BACKFILLER_SPILL_DIR", spill),
    ];
    is_what_the_worker_writes(&server, std::slice::from_ref(&repo.did), &env);
    let mut export = Export::of(Some(&server), &[&repo.did]);
    for (key, value) in env {
        export = export.env(key, value);
    }
    let exported = export.run();
    let summary = exported.errors.last().expect("a summary");
    assert!(summary.contains(" spills=1 "), "{summary}");
    assert_eq!(fs::read_dir(spill).expect("the folder").count(), 0);
}

#[test]
fn accounts_come_from_redirects_relays_and_their_own_servers() {
    let (directory, relay, pds) = (
        FixtureServer::start(),
        FixtureServer::start_with_addr("127.0.0.2:0"),
        FixtureServer::start_with_addr("127.0.0.3:0"),
    );
    let repos: Vec<_> = (1..=4).map(|seed| mixed_repo(seed, 30)).collect();
    for repo in &repos {
        directory.put_document(&repo.did, repo.did_document(&pds.url()));
        pds.put_repo(&repo.did, repo.car());
    }
    let [redirected, unknown, copied, own] = &repos[..] else {
        unreachable!("four repos");
    };
    relay.set_fault(
        &redirected.did,
        Fault::redirect(pds.repo_url(&redirected.did)),
    );
    relay.set_fault(
        &unknown.did,
        Fault::xrpc(400, "RepoNotFound", "no such repo"),
    );
    relay.put_repo(&copied.did, copied.car());
    let dids = [&redirected.did, &unknown.did, &copied.did];
    let lines = Export::of(Some(&directory), &["--host", &relay.url()])
        .args(dids)
        .run()
        .lines();
    for did in dids {
        assert_eq!(lines_of(&lines, did).len(), 31, "{did}");
    }
    assert_eq!(pds.repo_requests(&copied.did), 0);
    let lines = Export::of(Some(&directory), &[&own.did]).run().lines();
    assert_eq!(lines.len(), 31);
    assert_eq!(relay.repo_requests(&own.did), 0);
}

#[test]
fn a_did_web_is_an_account_as_any_other() {
    let (directory, web) = (FixtureServer::start(), FixtureServer::start());
    let port = web.host().rsplit(':').next().expect("a port").to_owned();
    let did = format!("did:web:localhost%3A{port}");
    let repo = RepoBuilder::new(&did)
        .records(records::mixed(1, 10))
        .build();
    web.put_web_document(repo.did_document(&web.url()));
    web.put_repo(&did, repo.car());
    let lines = Export::of(Some(&directory), &[&did]).run().lines();
    assert_eq!(lines.len(), 11);
    assert!(directory.requests().is_empty());
}

#[test]
fn private_hosts_are_asked_only_where_they_are_allowed() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    let refused = Export::of(Some(&server), &[&repo.did])
        .env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "false")
        .run();
    assert_eq!(refused.status, Some(1));
    assert_eq!(refused.failure(&repo.did).0, "identity");
    assert_eq!(refused.output, b"");
    assert_eq!(server.repo_requests(&repo.did), 0);
}

#[test]
fn a_list_names_accounts_and_its_mistakes_cost_nothing() {
    let server = FixtureServer::start();
    let repos: Vec<_> = (1..=40).map(|seed| served(&server, seed, 3)).collect();
    // The first one is named as an argument too.
    let mut list = format!("# accounts\n\nat://{}\n", repos[0].did);
    for repo in &repos[1..] {
        list += &format!(" {}\r\n", repo.did);
    }
    let files = folder(&[
        ("list", list.as_bytes()),
        ("bad", b"did:plc:a\nnot/an account\n"),
    ]);
    let named = Export::of(Some(&server), &[&repos[0].did, "--concurrency", "8"])
        .args(["--file", &path(&files, "list"), "--file"])
        .args([&path(&files, "list")])
        .run();
    let lines = named.lines();
    for repo in &repos {
        assert_eq!(lines_of(&lines, &repo.did).len(), 4, "{}", repo.did);
    }
    assert!(
        named
            .errors
            .last()
            .expect("a summary")
            .contains("40 of 40 exported, 0 failed")
    );
    let read = Export::of(Some(&server), &["--file", "-"])
        .input(list)
        .run();
    assert_eq!(read.lines().len(), 40 * 4);

    let requests = server.requests().len();
    Export::of(Some(&server), &["--file", &path(&files, "bad")])
        .run()
        .is_refused("/bad\": \"not/an account\": neither a DID nor a handle");
    assert_eq!(server.requests().len(), requests);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_begins() {
    let server = FixtureServer::start();
    let did = served(&server, 1, 3).did;
    for (args, what) in [
        (&[][..], "nothing to export"),
        (&["no-handle"], "neither a DID nor a handle"),
        (&["did:key:zQ3sh"], "neither did:plc nor did:web"),
        (&["did:plc:\u{1b}[31m"], "did"),
        (&["./no-such.car"], "No such file"),
        (&["src"], "is a folder"),
        (&["-", "-", "--unverified"], "only once"),
        (&[&did, "--host", "ftp://pds.example"], "--host"),
        (
            &[&did, "--unverified"],
            "--unverified is for CAR files only",
        ),
        (
            &["alice.example.com", "--unverified"],
            "--unverified is for CAR files only",
        ),
        (
            &[&did, "--key", "did:key:zQ3sh"],
            "--key is for CAR files only",
        ),
        (&[&did, "--did", &did], "--did is for CAR files only"),
        (&[&did, "-"], "different calls"),
        (&["-"], "whose signature"),
        (
            &["-", "--unverified", "--host", "pds.example"],
            "--host is for accounts",
        ),
        (&["-", "--key", "did:key:zabc"], "--key"),
        (&["-", "--key", "did:key:\u{1b}[31m"], "--key"),
        (&["-", "--did-doc", "no-such-file"], "--did-doc"),
        (&["-", "--did-doc", "Cargo.toml"], "no JSON"),
        (&["-", "--unverified", "--did", "did:x"], "--did"),
        (&[&did, "--concurrency", "0"], "BACKFILLER_CONCURRENCY"),
        (&["--file", "no-such-list"], "no-such-list"),
    ] {
        Export::of(Some(&server), args)
            .input("")
            .run()
            .is_refused(what);
    }
    // With a list the accounts are in the file.
    let files = folder(&[("list", did.as_bytes())]);
    Export::of(
        Some(&server),
        &["--unverified", "--file", &path(&files, "list")],
    )
    .run()
    .is_refused("--unverified is for CAR files only");
    assert!(server.requests().is_empty());
}

#[test]
fn its_threads_have_names() {
    let server = FixtureServer::start();
    let dids: Vec<_> = (1..=3).map(|seed| served(&server, seed, 3).did).collect();
    for did in &dids {
        server.set_fault(did, Fault::Hold { after: 10 });
    }
    let export = Export::of(Some(&server), &["--concurrency", "3"]).args(&dids);
    let running = export.start();
    for did in &dids {
        server.wait_until_held(did, 1);
    }
    let tasks = format!("/proc/{}/task", running.child.pid());
    let names: BTreeSet<_> = fs::read_dir(tasks)
        .expect("the threads")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect();
    for name in ["worker-0", "worker-1", "worker-2", "resolver-0"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    for did in &dids {
        server.release(did);
    }
    assert_eq!(running.wait().lines().len(), 12);
}

#[test]
fn a_host_has_no_more_requests_at_a_time_than_it_may() {
    let (server, other) = (
        FixtureServer::start(),
        FixtureServer::start_with_addr("127.0.0.2:0"),
    );
    let [first, second] = [1, 2].map(|seed| served(&server, seed, 3).did);
    let elsewhere = mixed_repo(3, 3);
    server.put_document(&elsewhere.did, elsewhere.did_document(&other.url()));
    other.put_repo(&elsewhere.did, elsewhere.car());
    server.set_fault(&first, Fault::Hold { after: 10 });
    server.set_fault(&second, Fault::Hold { after: 10 });
    let export = Export::of(
        Some(&server),
        &["--concurrency", "3", "--host-concurrency", "1"],
    );
    let running = export.args([&first, &second, &elsewhere.did]).start();
    eventually("the other host is asked", || {
        other.repo_requests(&elsewhere.did) == 1
    });
    let asked = || [&first, &second].map(|did| server.repo_requests(did));
    eventually("one is asked for", || asked().iter().sum::<usize>() > 0);
    assert_eq!(asked().iter().sum::<usize>(), 1);
    for did in [&first, &second] {
        server.release(did);
    }
    assert_eq!(running.wait().lines().len(), 12);
    assert_eq!(asked(), [1, 1]);
}

#[test]
fn a_handle_is_the_account_that_names_it_as_well() {
    let (directory, resolver) = (FixtureServer::start(), FixtureServer::start());
    let repo = served(&directory, 1, 5);
    let document = repo.did_document(&directory.url());
    let named = document["alsoKnownAs"][0].as_str().expect("a handle");
    let handle = named.strip_prefix("at://").expect("a handle");
    // What is no account is answered as the account without a name: whatever handle it is asked for.
    resolver.put_document("", json!({ "did": repo.did }));
    let url = resolver.url();
    let export = |args: &[&str]| {
        let export = Export::of(Some(&directory), &["--handle-resolver", &url]);
        export.args(args.iter().copied()).run()
    };
    let shouted = format!("@{}", handle.to_uppercase());
    let host = directory.url();
    for args in [
        &[handle][..],
        &[&shouted],
        &[handle, "--host", &host],
        // By both of its names it is one account.
        &[handle, &repo.did],
    ] {
        let exported = export(args);
        let lines = exported.lines();
        assert_eq!(lines_of(&lines, &repo.did).len(), 6, "{args:?}");
        let summary = exported.errors.last().expect("a summary");
        assert!(summary.contains(" 1 of 1 exported"), "{summary}");
    }
    let asked = format!("/xrpc/com.atproto.identity.resolveHandle?handle={handle}");
    assert_eq!(resolver.count(&asked), 4);

    let exported = export(&["mallory.example.com", &repo.did]);
    assert_eq!(exported.status, Some(1));
    assert_eq!(exported.lines_however().len(), 6);
    let (reason, text) = exported.failure("mallory.example.com");
    assert_eq!(reason, "identity");
    assert!(text.contains(handle), "{text}");
}

/// Both ends of a new terminal.
#[allow(
    unsafe_code,
    reason = "nix has no call for it under the features that are on"
)]
fn terminal() -> (fs::File, fs::File) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the first two pointers are to numbers that outlive the call, the others may be null.
    let result = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call has just opened both, and nobody else has them.
    unsafe { (fs::File::from_raw_fd(ours), fs::File::from_raw_fd(theirs)) }
}

#[test]
fn a_terminal_has_a_bar_while_it_goes_on() {
    let server = FixtureServer::start();
    let repo = served(&server, 1, 5);
    server.set_fault(&repo.did, Fault::Hold { after: 10 });
    let (mut ours, theirs) = terminal();
    let export = Export::of(Some(&server), &[&repo.did]).env("TERM", "xterm");
    let running = export.errors_to(theirs).start();
    server.wait_until_held(&repo.did, 1);
    read_until(&mut ours, "0/1 [");
    server.release(&repo.did);
    let shown = read_to_its_end(&mut ours);
    assert_eq!(running.wait().lines().len(), 6);
    assert!(shown.contains("1 of 1 exported, 0 failed"), "{shown:?}");
}

#[test]
fn the_bar_says_how_many_are_at_work() {
    let server = FixtureServer::start();
    let dids = [1, 2, 3].map(|seed| served(&server, seed, 5).did);
    server.set_fault(&dids[0], Fault::Hold { after: 10 });
    let (mut ours, theirs) = terminal();
    let export = Export::of(Some(&server), &["--concurrency", "1"]).args(&dids);
    let running = export.env("TERM", "xterm").errors_to(theirs).start();
    server.wait_until_held(&dids[0], 1);
    let mut shown = String::new();
    for _ in 0..4 {
        shown += &read_until(&mut ours, "at work");
    }
    server.release(&dids[0]);
    shown += &read_to_its_end(&mut ours);
    assert_eq!(running.wait().lines().len(), 18);
    assert!(shown.contains(" 1 at work"), "{shown:?}");
    assert!(!shown.contains(" 2 at work"), "{shown:?}");
}

/// What a terminal shows until this is seen.
fn read_until(terminal: &mut fs::File, what: &str) -> String {
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&shown).contains(what) {
        let count = terminal.read(&mut buffer).expect("the terminal");
        assert!(count > 0, "it ends before {what:?}");
        shown.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}

/// What a terminal shows until nobody has its other end any more; it is at its end then, or fails.
fn read_to_its_end(terminal: &mut fs::File) -> String {
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn the_log_and_the_bar_do_not_write_over_each_other() {
    let server = FixtureServer::start();
    let repo = RepoBuilder::new(did_plc(1))
        .key(SigningKey::p256(1))
        .records(records::mixed(1, 5))
        .raw_record("com.example.bad", "one", vec![0x01])
        .build();
    server.serve(&repo);
    server.set_fault(&repo.did, Fault::Hold { after: 10 });
    let (mut ours, theirs) = terminal();
    let export = Export::of(Some(&server), &[&repo.did]).env("TERM", "xterm");
    let running = export.errors_to(theirs).start();
    let before = read_until(&mut ours, "at work");
    server.release(&repo.did);
    let shown = before + &read_to_its_end(&mut ours);
    running.wait();
    let line = shown.lines().find(|line| line.contains("WARN"));
    let line = line.unwrap_or_else(|| panic!("the skipped record: {shown:?}"));
    let (before, _) = line.split_once("WARN").expect("its level");
    // What stands in its row since that was last wiped.
    let row = before.rsplit("\u{1b}[2K").next().expect("a row");
    assert!(!row.contains("at work"), "{line:?}");
    assert!(shown.contains("1 of 1 exported, 0 failed"), "{shown:?}");
}
