//! The delivery invariants: when a message leaves the input, what becomes of the others, and that nothing stops a thread.

mod support;

use std::fs;

use nix::sys::signal::Signal;

use support::backfiller::Backfiller;
use support::events::{
    GROUP, INPUT, OUTPUT, assert_repo, dead_letters, enqueue, enqueue_raw, events_of, pending,
    pending_messages, read_events, read_stream, stream_len, take_events, wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::did_plc;
use support::hostile::malformed_messages;
use support::monitor::{Monitor, transactions};
use support::redis_server::RedisServer;
use support::wait::eventually;

#[test]
fn i1_a_message_leaves_the_input_only_in_the_transaction_of_its_last_events() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let repo = served(&server, 1, 1200);
    let id = enqueue(&mut connection, &repo.did, Some(&server.url()));
    let monitor = Monitor::start(&redis);
    let mut backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .start();

    let mut events = Vec::new();
    for chunk in 1..=2 {
        eventually("a chunk is there", || {
            stream_len(&mut connection, OUTPUT) == 501
        });
        assert_eq!(stream_len(&mut connection, INPUT), 1, "chunk {chunk}");
        let waiting = pending_messages(&mut connection);
        assert_eq!(waiting.len(), 1, "chunk {chunk}");
        assert_eq!((&waiting[0].id, waiting[0].deliveries), (&id, 1));
        events.extend(take_events(&mut connection));
        assert_eq!(events.len(), chunk * 501);
    }
    wait_until_drained(&mut connection);
    events.extend(read_events(&mut connection, OUTPUT));
    assert_repo(&events, &repo);
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));

    let commands = monitor.commands(&mut connection);
    // The test itself has deleted events, which is no matter of the input.
    let commands: Vec<_> = commands
        .into_iter()
        .filter(|(_, command)| !command.starts_with(&format!(r#""XDEL" "{OUTPUT}""#)))
        .collect();
    let mut transactions = transactions(&commands, &["XADD", "XACK", "XDEL"]);
    let name = transactions.pop().expect("a transaction");
    assert_eq!(name.len(), 1, "the last one lets the consumer name go");
    let sizes: Vec<_> = transactions.iter().map(Vec::len).collect();
    assert_eq!(sizes, [502, 502, 204]);
    let progress = format!("{OUTPUT}:progress:{INPUT}:{GROUP}:{id}");
    let owner = format!("{OUTPUT}:owner:{INPUT}:{GROUP}:{id}");
    let xadd = format!(r#""XADD" "{OUTPUT}" "*" "event" "#);
    for (n, transaction) in transactions.iter().enumerate() {
        let added = if n == 2 { 201 } else { 501 };
        for (place, command) in transaction.iter().enumerate() {
            assert_eq!(
                command.starts_with(&xadd),
                place < added,
                "{place} of {n}: {command}"
            );
        }
        let last = &transaction[added - 1];
        assert!(last.contains(r#"{\"type\":\"repo\","#), "{last}");
    }
    assert_eq!(
        transactions[2][201..],
        [
            format!(r#""XACK" "{INPUT}" "{GROUP}" "{id}""#),
            format!(r#""XDEL" "{INPUT}" "{id}""#),
            format!(r#""DEL" "{progress}" "{owner}""#)
        ]
    );
    for (n, transaction) in transactions[..2].iter().enumerate() {
        let commit = repo.commit_cid;
        let leaves = format!(r#""HSET" "{progress}" "{commit}" "{} "#, 500 * (n + 1));
        assert!(
            transaction[501].starts_with(&leaves),
            "{}",
            transaction[501]
        );
    }
}

/// Repos that cannot be proved: the code of the reason, and the account.
fn put_hostile_repos(server: &FixtureServer) -> Vec<(&'static str, String)> {
    let repo = |seed| served(server, seed, 700);
    let mut flipped = repo(900);
    *flipped.blocks.last_mut().unwrap().1.last_mut().unwrap() ^= 1;
    let mut incomplete = repo(901);
    // The last record in the tree is missing: all before it could be written.
    let last = incomplete.expected.last().unwrap().cid;
    incomplete.blocks.retain(|(cid, _)| *cid != last);
    let unordered = repo(902);
    let (place, _) = unordered.find_node(|node| node.e.len() > 3).unwrap();
    let unordered = unordered.edit_node(place, |node| node.e.reverse());
    let forged = repo(903).resign_with(|_, _| vec![7; 64]);
    let mut stolen = repo(904);
    stolen.did = did_plc(905);
    let hostile = [
        ("car", flipped),
        ("incomplete", incomplete),
        ("mst", unordered),
        ("signature", forged),
        ("did_mismatch", stolen),
    ];
    let mut all: Vec<_> = hostile
        .into_iter()
        .map(|(reason, repo)| {
            server.put_repo(&repo.did, repo.car());
            (reason, repo.did)
        })
        .collect();
    let faults = [
        ("network", Fault::Reset { after: 1000 }),
        ("network", Fault::Truncate { after: 50_000 }),
        ("repo_gone", Fault::xrpc(400, "RepoTakendown", "taken down")),
        ("http_status", Fault::status(404)),
    ];
    for (seed, (reason, fault)) in (910..).zip(faults) {
        let did = repo(seed).did;
        server.set_fault(&did, fault);
        all.push((reason, did));
    }
    let garbage = did_plc(920);
    server.put_repo(&garbage, (0..=255).cycle().take(100_000).collect());
    all.push(("car", garbage));
    all
}

#[test]
fn i3_a_repo_that_fails_verification_writes_nothing() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let hostile = put_hostile_repos(&server);
    for (_, did) in &hostile {
        enqueue(&mut connection, did, Some(&server.url()));
    }
    let backfiller = Backfiller::builder(&redis, &server).start();
    for (reason, did) in &hostile {
        let line = backfiller.wait_for_line(|line| line.contains(&format!("failed did={did} ")));
        assert!(line.contains(&format!(" reason={reason} ")), "{line}");
    }
    assert_eq!(stream_len(&mut connection, OUTPUT), 0);
    assert_eq!(pending(&mut connection), hostile.len());
    assert_eq!(stream_len(&mut connection, INPUT), hostile.len());
}

#[test]
fn i4_each_message_ends_acknowledged_pending_or_as_a_dead_letter() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let hostile = put_hostile_repos(&server);
    let good: Vec<_> = (0..10).map(|seed| served(&server, seed, 20)).collect();
    let bad = malformed_messages();
    let url = server.url();
    let mut failing = Vec::new();
    for (n, message) in bad.iter().enumerate() {
        enqueue_raw(&mut connection, message);
        if let (Some((_, did)), Some(repo)) = (hostile.get(n), good.get(n)) {
            failing.push(enqueue(&mut connection, did, Some(&url)));
            enqueue(&mut connection, &repo.did, Some(&url));
        }
    }
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    for (_, did) in &hostile {
        backfiller.wait_for_line(|line| line.contains(&format!("failed did={did} ")));
    }
    let left = failing.len();
    eventually("only what failed is left", || {
        stream_len(&mut connection, INPUT) == left && pending(&mut connection) == left
    });
    backfiller.signal(Signal::SIGTERM);
    assert_eq!(backfiller.wait().code(), Some(0));

    let waiting = pending_messages(&mut connection).into_iter();
    assert_eq!(
        waiting.map(|message| message.id).collect::<Vec<_>>(),
        failing
    );
    let entries = read_stream(&mut connection, INPUT).into_iter();
    assert_eq!(entries.map(|(id, _)| id).collect::<Vec<_>>(), failing);
    assert_eq!(dead_letters(&mut connection).len(), bad.len());
    let events = read_events(&mut connection, OUTPUT);
    good.iter().for_each(|repo| assert_repo(&events, repo));
    assert_eq!(events.len(), 10 * 21);
}

fn threads(backfiller: &Backfiller) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", backfiller.pid())).unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.filter_map(|task| name(task.ok()?));
    let mut names: Vec<_> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn i5_no_input_stops_a_thread() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONCURRENCY", "3")
        .start();
    let workers_of = |names: &[String]| -> Vec<String> {
        let names = names
            .iter()
            .filter(|name| name.starts_with("worker-") || *name == "reader");
        names.cloned().collect()
    };
    let wanted = ["reader", "worker-0", "worker-1", "worker-2"];
    eventually("all threads run", || {
        workers_of(&threads(&backfiller)) == wanted
    });

    let hostile = put_hostile_repos(&server);
    let nested = "[".repeat(100_000);
    let deep = format!(r#"{{"did":"did:plc:aaaa","x":{nested}"#);
    for _ in 0..10 {
        for message in malformed_messages() {
            enqueue_raw(&mut connection, &message);
        }
        enqueue_raw(&mut connection, &[("repo", deep.as_bytes())]);
        for (_, did) in &hostile {
            enqueue(&mut connection, did, Some(&server.url()));
        }
    }
    let good = served(&server, 1, 600);
    let id = enqueue(&mut connection, &good.did, Some(&server.url()));
    eventually("the good repo behind the storm is done", || {
        pending_messages(&mut connection)
            .iter()
            .all(|message| message.id != id)
            && stream_len(&mut connection, INPUT) == 10 * hostile.len()
    });
    eventually("every hostile repo has failed", || {
        let lines = backfiller.lines();
        lines
            .iter()
            .filter(|line| line.contains(" failed did="))
            .count()
            == 10 * hostile.len()
    });
    assert_eq!(workers_of(&threads(&backfiller)), wanted);
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("reason=panic"))
    );
    let events = read_events(&mut connection, OUTPUT);
    assert_repo(&events, &good);
    assert_eq!(events_of(&events, &good.did).len(), events.len());
}
