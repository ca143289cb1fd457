//! What only has to wait: a server that asks for it, a directory or a Redis that cannot be asked. It is not charged, but a message
//! that nothing else happens to for three days is given up. And how long a message waits that has failed.

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::backfiller::Backfiller;
use support::events::{
    INPUT, OUTPUT, assert_repo, pending, progress_keys, stream_len, take_events,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::Repo;
use support::hostile::outcomes::{self, DeadEnd};
use support::hostile::stage::Stage;
use support::verdicts::{ATTEMPTS, Ended, deliveries, hasty, stop, wait_for_failures};
use support::wait::eventually;

/// Rounds after which a message that were charged would be a dead letter. A server that says how long to wait is believed so
/// often in a row, and comes back in time for these.
const ROUNDS: usize = ATTEMPTS as usize + 1;

const HOUR: Duration = Duration::from_secs(3600);

/// Asks to wait for a moment.
fn short_wait(code: u16) -> Fault {
    Fault::status_with_header(code, "Retry-After", "1")
}

/// Ways in which a server asks for that.
fn short_waits() -> [Fault; 4] {
    [
        short_wait(429),
        short_wait(503),
        Fault::status_with_header(429, "RateLimit-Reset", "1"),
        Fault::status_with_header(503, "RateLimit-Reset", "1"),
    ]
}

/// Ways in which it asks to wait for longer than a test lasts, or does not say for how long.
fn long_waits() -> [Fault; 6] {
    [
        Fault::status(429),
        Fault::status(503),
        Fault::status_with_header(429, "Retry-After", "0"),
        Fault::status_with_header(503, "Retry-After", "3600"),
        Fault::xrpc(429, "RateLimitExceeded", "slow down"),
        Fault::xrpc(503, "NotEnoughResources", "slow down"),
    ]
}

/// Accounts whose servers answer so, each one's its own: whoever asks to wait is not asked for anybody else meanwhile.
fn refused<const N: usize>(stage: &mut Stage, faults: [Fault; N]) -> [(Repo, FixtureServer); N] {
    faults.map(|fault| stage.faulty_apart(fault))
}

fn dids(refused: &[(Repo, FixtureServer)]) -> Vec<String> {
    refused.iter().map(|(repo, _)| repo.did.clone()).collect()
}

/// From now on the servers answer as they should, and all are done.
#[track_caller]
fn assert_done_when_mended(stage: &mut Stage, refused: &[(Repo, FixtureServer)]) {
    for (repo, server) in refused {
        server.clear_fault(&repo.did);
    }
    let program = hasty(stage);
    let ended = Ended::run(stage, program);
    for (repo, _) in refused {
        ended.assert_done(&repo.did, &[]);
    }
    stage.assert_events(refused.iter().map(|(repo, _)| repo));
}

/// Runs the program until each account's attempts have failed so often, and ends it.
#[track_caller]
fn run_until_failed(stage: &Stage, dids: &[String], times: usize) -> Backfiller {
    let backfiller = hasty(stage).start();
    for did in dids {
        wait_for_failures(&backfiller, did, times);
    }
    stop(backfiller)
}

/// Each attempt failed so, and none was charged to the message, which had so many attempts before.
#[track_caller]
fn assert_deferred(stage: &mut Stage, backfiller: &Backfiller, did: &str, before: usize) {
    let outcomes = outcomes::so_far(backfiller);
    let of_it = outcomes.iter().filter(|outcome| outcome.did == did);
    let deferred: Vec<_> = of_it.skip(before).collect();
    assert!(deferred.len() >= ROUNDS, "{did}");
    for outcome in deferred {
        assert_eq!(outcome.how, "deferred", "{}", outcome.line);
        assert_eq!(outcome.number("attempt"), before as u64 + 1);
    }
    assert_eq!(deliveries(stage, did), before, "{did}");
}

#[test]
fn a_server_that_asks_to_wait_for_a_moment_is_asked_again_and_charges_nothing() {
    let mut stage = Stage::new();
    let mut refused = Vec::from(refused(&mut stage, short_waits()));
    // One attempt was charged before.
    let sequence = [vec![Fault::status(500)], vec![short_wait(429); 100]].concat();
    let (charged, server) = stage.faulty_apart(Fault::Then(sequence));

    let dids = dids(&refused);
    let backfiller = hasty(&stage).start();
    for did in &dids {
        wait_for_failures(&backfiller, did, ROUNDS);
    }
    wait_for_failures(&backfiller, &charged.did, 1 + ROUNDS);
    let backfiller = stop(backfiller);
    for did in &dids {
        assert_deferred(&mut stage, &backfiller, did, 0);
    }
    assert_deferred(&mut stage, &backfiller, &charged.did, 1);
    for (repo, server) in &refused {
        let requests = server.requests().into_iter();
        let times: Vec<_> = requests.map(|request| request.at).collect();
        let waited = |pair: &[Instant]| pair[1] - pair[0] >= Duration::from_secs(1);
        assert!(times.windows(2).all(waited), "{}: {times:?}", repo.did);
    }
    assert!(stream_len(&mut stage.connection, OUTPUT) == 0);
    refused.push((charged, server));
    assert_done_when_mended(&mut stage, &refused);
}

/// One process would not ask a second time for as long as a test lasts.
#[test]
fn a_server_that_asks_to_wait_for_long_is_asked_again_and_charges_nothing() {
    let mut stage = Stage::new();
    let refused = refused(&mut stage, long_waits());
    for round in 1..=ROUNDS {
        let backfiller = run_until_failed(&stage, &dids(&refused), 1);
        for (repo, server) in &refused {
            assert_deferred_once(&mut stage, &backfiller, &repo.did);
            assert_eq!(server.repo_requests(&repo.did), round);
        }
    }
    assert_done_when_mended(&mut stage, &refused);
}

#[test]
fn a_directory_that_cannot_be_asked_charges_nothing() {
    let mut stage = Stage::new();
    let repos = [true, false].map(|with_host| {
        let repo = stage.account();
        stage.server.put_document_status(&repo.did, 500, "");
        let url = stage.server.url();
        stage.enqueue(&repo.did, with_host.then_some(url.as_str()));
        repo
    });
    let dids: Vec<_> = repos.iter().map(|repo| repo.did.clone()).collect();
    // One process would soon leave it alone.
    for _ in 0..ROUNDS {
        let first = run_until_failed(&stage, &dids, 1);
        assert_all_deferred(&mut stage, &first, &dids);
    }
    // From now on nobody answers in its place; after a few more attempts, it is not tried for a while.
    let dead_end = DeadEnd::new();
    for _ in 0..ROUNDS {
        let program = hasty(&stage).env("BACKFILLER_PLC_URL", dead_end.url());
        let second = program.start();
        for did in &dids {
            wait_for_failures(&second, did, 1);
        }
        let second = stop(second);
        assert_all_deferred(&mut stage, &second, &dids);
    }
    assert_done_with_documents(&mut stage, &repos);
}

#[test]
fn a_directory_that_asks_to_wait_charges_nothing() {
    for status in [429, 503] {
        for with_host in [true, false] {
            let mut stage = Stage::new();
            let (repo, url) = (stage.account(), stage.server.url());
            stage.server.put_document_status(&repo.did, status, "");
            stage.enqueue(&repo.did, with_host.then_some(url.as_str()));
            // One process would not ask a second time for as long as a test lasts.
            for round in 1..=ROUNDS {
                let backfiller = run_until_failed(&stage, std::slice::from_ref(&repo.did), 1);
                assert_deferred_once(&mut stage, &backfiller, &repo.did);
                assert_eq!(stage.server.document_requests(&repo.did), round);
            }
            assert_done_with_documents(&mut stage, &[repo]);
        }
    }
}

/// The one attempt of this process was deferred, and nothing was charged.
#[track_caller]
fn assert_deferred_once(stage: &mut Stage, backfiller: &Backfiller, did: &str) {
    let outcomes = outcomes::so_far(backfiller);
    let outcome = outcomes::of(&outcomes, did);
    assert_eq!(outcome.how, "deferred", "{}", outcome.line);
    assert_eq!(outcome.number("attempt"), 1);
    assert_eq!(deliveries(stage, did), 0, "{did}");
}

/// All attempts were put off, however many there were, and nobody was charged.
#[track_caller]
fn assert_all_deferred(stage: &mut Stage, backfiller: &Backfiller, dids: &[String]) {
    for outcome in outcomes::so_far(backfiller) {
        assert_eq!(outcome.how, "deferred", "{}", outcome.line);
        assert_eq!(outcome.number("attempt"), 1);
    }
    for did in dids {
        assert_eq!(deliveries(stage, did), 0, "{did}");
    }
}

/// The directory answers as it should again, and all are done.
#[track_caller]
fn assert_done_with_documents(stage: &mut Stage, repos: &[Repo]) {
    for repo in repos {
        let document = repo.did_document(&stage.server.url());
        stage.server.put_document(&repo.did, document);
    }
    let program = hasty(stage);
    let ended = Ended::run(stage, program);
    for repo in repos {
        ended.assert_done(&repo.did, &[]);
    }
    stage.assert_events(repos);
}

/// Sets back since when the message, the only one there is, has been deferred.
#[track_caller]
fn set_back(stage: &mut Stage, age: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let since = (now - age).as_millis() as u64;
    let keys = progress_keys(&mut stage.connection);
    let [key] = &keys[..] else {
        panic!("not one message: {keys:?}");
    };
    let before: Option<u64> = redis::cmd("HGET")
        .arg(&[key, "deferred"])
        .query(&mut stage.connection)
        .expect("HGET");
    let before = before.expect("it is deferred");
    assert!(before <= now.as_millis() as u64 && before > (now - HOUR).as_millis() as u64);
    let () = redis::cmd("HSET")
        .arg(&[key, "deferred", &since.to_string()])
        .query(&mut stage.connection)
        .expect("HSET");
}

/// A stage with one message that was deferred, and that had so many attempts before.
fn deferred(before: usize) -> (Stage, Repo) {
    let mut stage = Stage::new();
    let sequence = [vec![Fault::status(500); before], vec![short_wait(429); 100]];
    let repo = stage.faulty(Fault::Then(sequence.concat()));
    run_until_failed(&stage, std::slice::from_ref(&repo.did), before + 1);
    (stage, repo)
}

#[test]
fn what_waits_for_three_days_is_given_up() {
    for before in 0..=1 {
        let (mut stage, repo) = deferred(before);
        set_back(&mut stage, 72 * HOUR);
        let program = hasty(&stage);
        let ended = Ended::run(&mut stage, program);
        assert_eq!(ended.attempts(&repo.did), ["deferred"]);
        ended.assert_letter(&repo.did, "network", before as u64);
        stage.assert_events([]);
    }
}

#[test]
fn what_waits_for_a_minute_less_goes_on_waiting() {
    let (mut stage, repo) = deferred(0);
    set_back(&mut stage, 72 * HOUR - HOUR / 60);
    let backfiller = run_until_failed(&stage, std::slice::from_ref(&repo.did), ROUNDS);
    assert_deferred(&mut stage, &backfiller, &repo.did, 0);
    stage.server.clear_fault(&repo.did);
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    ended.assert_done(&repo.did, &[]);
    stage.assert_events([&repo]);
}

/// Three days of nothing else: an attempt that was charged begins them anew.
#[test]
fn what_was_tried_in_between_waits_anew() {
    let (mut stage, repo) = deferred(0);
    set_back(&mut stage, 80 * HOUR);
    const DEFERRED: usize = ROUNDS - 1;
    let sequence = [vec![Fault::status(500)], vec![short_wait(503); DEFERRED]];
    stage
        .server
        .set_fault(&repo.did, Fault::Then(sequence.concat()));
    let program = hasty(&stage);
    let ended = Ended::run(&mut stage, program);
    let failed = [vec!["network"], vec!["deferred"; DEFERRED]].concat();
    ended.assert_done(&repo.did, &failed);
    stage.assert_events([&repo]);
}

/// Each wait is at least the half of what is configured, doubled each time: the other half is jitter.
#[test]
fn each_wait_is_longer_than_the_one_before() {
    let mut stage = Stage::new();
    let repos = [1, 2, 3].map(|_| stage.faulty(Fault::status(500)));
    let program = hasty(&stage)
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "300")
        .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "1200")
        .env("BACKFILLER_MAX_ATTEMPTS", "5");
    let ended = Ended::run(&mut stage, program);
    for repo in &repos {
        ended.assert_dead(&repo.did, &["network"; 5]);
        let requests = stage.server.requests().into_iter();
        let times = requests.filter(|request| request.did.as_ref() == Some(&repo.did));
        let times: Vec<_> = times.filter(|r| r.is_get_repo()).map(|r| r.at).collect();
        let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let least = [150, 300, 600, 600].map(Duration::from_millis);
        assert_eq!(waits.len(), least.len());
        for (wait, least) in waits.iter().zip(least) {
            assert!(*wait >= least, "{waits:?}");
        }
    }
}

/// Brings Redis into a state in which it refuses to write, with one repo about to be written and with one whose failure is
/// about to be noted, and out of it again.
fn redis_charges_nothing(said: &str, refuse: &[&str], accept: &[&str]) {
    let mut stage = Stage::new();
    let good = served(&stage.server, 1001, 700);
    let bad = served(&stage.server, 1002, 5);
    let mut archive = bad.car();
    *archive.last_mut().expect("a byte") ^= 1;
    stage.server.put_repo(&bad.did, archive);
    let url = stage.server.url();
    for repo in [&good, &bad] {
        stage
            .server
            .set_fault(&repo.did, Fault::Hold { after: 100 });
        stage.enqueue(&repo.did, Some(&url));
    }
    let program = hasty(&stage).env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100");
    let backfiller = program.start();
    for repo in [&good, &bad] {
        stage.server.wait_until_held(&repo.did, 1);
    }
    let mut operator = stage.redis.connection();
    let mut command = |commands: &[&str]| {
        for command in commands {
            let mut words = command.split(' ');
            let mut command = redis::cmd(words.next().expect("a word"));
            command.arg(words.collect::<Vec<_>>());
            let () = command.query(&mut operator).expect("it is obeyed");
        }
    };
    command(refuse);
    for repo in [&good, &bad] {
        stage.server.release(&repo.did);
    }
    eventually("both workers say it", || {
        let lines = backfiller.lines();
        let workers = lines.iter().filter(|line| {
            line.contains("[worker-")
                && line.contains("Redis cannot be used")
                && line.contains(said)
        });
        workers.count() >= 2
    });
    for repo in [&good, &bad] {
        assert_eq!(deliveries(&mut stage, &repo.did), 1);
    }
    assert_eq!(stream_len(&mut stage.connection, OUTPUT), 0);
    command(accept);
    // It waits for room behind the first chunk, and is at the same attempt.
    eventually("a chunk is there", || {
        stream_len(&mut stage.connection, OUTPUT) == 501
    });
    assert_eq!(deliveries(&mut stage, &good.did), 1);
    let mut events = Vec::new();
    eventually("both have ended", || {
        events.extend(take_events(&mut stage.connection));
        stream_len(&mut stage.connection, INPUT) == 0 && pending(&mut stage.connection) == 0
    });
    let ended = Ended::see(&mut stage, &[stop(backfiller)]);
    ended.assert_done(&good.did, &[]);
    ended.assert_dead(&bad.did, &["car", "car"]);
    events.extend(take_events(&mut stage.connection));
    assert_repo(&events, &good);
    assert_eq!(events.len(), 702);
}

#[test]
fn a_redis_without_memory_charges_nothing() {
    let refuse = [
        "CONFIG SET maxmemory-policy noeviction",
        "CONFIG SET maxmemory 1",
    ];
    redis_charges_nothing("OOM", &refuse, &["CONFIG SET maxmemory 0"]);
}

#[test]
fn a_redis_that_is_read_only_charges_nothing() {
    redis_charges_nothing(
        "read only replica",
        &["REPLICAOF 127.0.0.1 1"],
        &["REPLICAOF NO ONE"],
    );
}
