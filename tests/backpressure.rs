//! Backpressure: at the high-water mark of the output a worker stands still, before a fetch and between chunks, and goes on
//! when there is room.

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Connection;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    Event, INPUT, OUTPUT, assert_repo, enqueue, pending, pending_messages, read_events, stream_len,
    wait_until_drained,
};
use support::fixture_server::{FixtureServer, GET_REPO, served};
use support::generator::Repo;
use support::hostile::outcomes::assert_none_failed;
use support::ops::{Ops, watched};
use support::redis_server::RedisServer;
use support::wait::{LIMIT, eventually};

/// The events of a full chunk.
const CHUNK: usize = 501;

struct Stage {
    redis: RedisServer,
    server: FixtureServer,
    connection: Connection,
}

impl Stage {
    /// Until each worker has asked for the length a few times, and none has written in between.
    fn wait_until_nothing_moves(&mut self, workers: usize) {
        let mut still = (0, 0);
        eventually("all workers wait for room", || {
            let now = ["xadd", "xlen"].map(|command| calls(&mut self.connection, command));
            if now[0] != still.0 {
                still = (now[0], now[1]);
            }
            now[0] > 0 && now[1] >= still.1 + 4 * workers
        });
    }

    fn new() -> Self {
        let redis = RedisServer::start();
        let connection = redis.connection();
        let server = FixtureServer::start();
        Self {
            redis,
            server,
            connection,
        }
    }

    fn enqueue(&mut self, seed: u64, size: usize) -> Repo {
        let repo = served(&self.server, seed, size);
        let url = self.server.url();
        enqueue(&mut self.connection, &repo.did, Some(&url));
        repo
    }

    fn builder(&self, mark: usize, workers: usize) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
            .env(
                "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK",
                mark.to_string(),
            )
            .env("BACKFILLER_CONCURRENCY", workers.to_string())
    }

    fn length(&mut self) -> usize {
        stream_len(&mut self.connection, OUTPUT)
    }

    /// Fills the output with entries that are no events.
    fn fill(&mut self, count: usize) {
        let mut commands = redis::pipe();
        for _ in 0..count {
            commands
                .cmd("XADD")
                .arg(OUTPUT)
                .arg("*")
                .arg("event")
                .arg("{}")
                .ignore();
        }
        let () = commands.query(&mut self.connection).unwrap();
    }

    /// Takes the first entries out of the output, as a consumer does.
    fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = read_events(&mut self.connection, OUTPUT);
        events.truncate(count);
        if events.is_empty() {
            return events;
        }
        let mut delete = redis::cmd("XDEL");
        delete.arg(OUTPUT);
        for event in &events {
            delete.arg(&event.id);
        }
        let () = delete.query(&mut self.connection).unwrap();
        events
    }
}

/// How often the server has executed a command.
fn calls(connection: &mut Connection, command: &str) -> usize {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(connection)
        .unwrap();
    let name = format!("cmdstat_{command}:calls=");
    let line = info.lines().find_map(|line| line.strip_prefix(&name));
    let count = line.and_then(|line| line.split(',').next());
    count.map_or(0, |count| count.parse().unwrap())
}

fn said(backfiller: &Backfiller, what: &str) -> usize {
    let lines = backfiller.lines();
    lines.iter().filter(|line| line.contains(what)).count()
}

#[test]
fn undrained_the_output_stops_at_the_mark_and_one_chunk_per_worker() {
    const MARK: usize = 1000;
    for workers in [1, 3] {
        let mut stage = Stage::new();
        let repos: Vec<_> = (0..4).map(|seed| stage.enqueue(seed, 1100)).collect();
        let mut backfiller = watched(stage.builder(MARK, workers)).start();
        // All workers wait, and only draining lets them go on.
        stage.wait_until_nothing_moves(workers);
        let ops = Ops::of(&backfiller);
        eventually(
            "it is shown, also of whoever stands in the midst of a repo",
            || {
                let status = ops.status();
                let workers = status["workers"].as_array().expect("workers");
                let mut bytes = workers.iter().map(|worker| worker["bytes"].as_u64());
                let mut phases = workers.iter().map(|worker| &worker["phase"]);
                bytes.any(|bytes| bytes > Some(0)) && phases.all(|phase| phase == "backpressure")
            },
        );
        let length = stage.length();
        assert!(length >= MARK, "{workers} workers: {length}");
        assert!(
            length <= MARK - 1 + workers * CHUNK,
            "{workers} workers: {length}"
        );
        assert!(
            stage.server.count(GET_REPO) <= workers,
            "no further repo is fetched"
        );
        // A worker is shown as waiting just before it says so.
        eventually("it is said", || said(&backfiller, ": waiting") > 0);
        assert_eq!(said(&backfiller, ": waiting"), 1, "and once");

        let mut events = Vec::new();
        eventually("all is written", || {
            events.extend(stage.take(600));
            let highest = stage.length();
            assert!(
                highest <= MARK - 1 + workers * CHUNK,
                "{workers} workers: {highest}"
            );
            stream_len(&mut stage.connection, INPUT) == 0
        });
        events.extend(stage.take(usize::MAX));
        for repo in &repos {
            assert_repo(&events, repo);
        }
        assert_eq!(said(&backfiller, ": waiting"), 1, "and not for each chunk");
        assert!(said(&backfiller, "output has room again after ") <= 1);
        backfiller.signal(Signal::SIGINT);
        assert_eq!(backfiller.wait().code(), Some(0));
    }
}

#[test]
fn while_being_drained_the_output_never_exceeds_the_mark_and_one_chunk() {
    const MARK: usize = 1000;
    let mut stage = Stage::new();
    let sizes = [2500, 1, 0, 1500, 1000];
    for (seed, size) in (0..).zip(sizes) {
        stage.enqueue(seed, size);
    }
    let _backfiller = stage.builder(MARK, 1).start();
    let (began, mut highest, mut trims) = (Instant::now(), 0, 0);
    while stream_len(&mut stage.connection, INPUT) > 0 {
        assert!(
            began.elapsed() < LIMIT,
            "stuck at {} entries",
            stage.length()
        );
        let length = stage.length();
        highest = highest.max(length);
        // There is room only where there was none.
        if length >= MARK {
            trims += 1;
            let () = redis::cmd("XTRIM")
                .arg(&[OUTPUT, "MAXLEN", "700"])
                .query(&mut stage.connection)
                .unwrap();
        }
    }
    assert!(highest <= MARK - 1 + CHUNK, "{highest}");
    assert!(highest >= MARK && trims > 3, "{highest}, {trims} trims");
    let added: usize = sizes
        .iter()
        .map(|size| size + size.div_ceil(500).max(1))
        .sum();
    assert_eq!(entries_added(&mut stage.connection), added);
}

/// How many entries the output has ever had.
fn entries_added(connection: &mut Connection) -> usize {
    let info: HashMap<String, redis::Value> = redis::cmd("XINFO")
        .arg(&["STREAM", OUTPUT])
        .query(connection)
        .unwrap();
    redis::from_redis_value(info["entries-added"].clone()).unwrap()
}

#[test]
fn before_a_fetch_too_a_full_output_is_waited_for() {
    let mut stage = Stage::new();
    stage.fill(10);
    let repo = stage.enqueue(0, 3);
    let backfiller = stage.builder(10, 1).start();
    backfiller
        .wait_for_line(|line| line.contains("output has 10 entries, the mark is 10: waiting"));
    assert_eq!(stage.server.requests().len(), 0, "nothing is asked for");
    assert_eq!(pending(&mut stage.connection), 1);
    stage.take(1);
    wait_until_drained(&mut stage.connection);
    backfiller.wait_for_line(|line| line.contains("output has room again after "));
    assert_eq!(said(&backfiller, ": waiting"), 1);
    stage.take(9);
    assert_repo(&stage.take(usize::MAX), &repo);
}

/// The time that a download may take begins with the download.
#[test]
fn a_wait_for_room_does_not_count_as_a_slow_download() {
    let mut stage = Stage::new();
    stage.fill(10);
    let repo = stage.enqueue(0, 3);
    let builder = stage.builder(10, 1);
    let backfiller = builder.env("BACKFILLER_HTTP_TIMEOUT_SECS", "1").start();
    backfiller.wait_for_line(|line| line.contains("the mark is 10: waiting"));
    let since = Instant::now();
    eventually("longer than a download may take", || {
        since.elapsed() > Duration::from_millis(1500)
    });
    let () = redis::cmd("DEL")
        .arg(OUTPUT)
        .query(&mut stage.connection)
        .unwrap();
    wait_until_drained(&mut stage.connection);
    assert!(
        !backfiller
            .lines()
            .iter()
            .any(|line| line.contains("failed did="))
    );
    assert_eq!(stage.server.repo_requests(&repo.did), 1);
}

#[test]
fn a_signal_while_waiting_before_a_fetch_ends_at_once() {
    let mut stage = Stage::new();
    stage.fill(10);
    for seed in 0..3 {
        stage.enqueue(seed, 3);
    }
    let mut backfiller = stage.builder(10, 1).start();
    backfiller.wait_for_line(|line| line.contains(": waiting"));
    let asked = Instant::now();
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    let seconds = asked.elapsed().as_secs_f64();
    assert!(seconds < 10.0, "the drain would take 60 s: {seconds}");
    assert_eq!(stage.server.requests().len(), 0);
    assert_eq!(stream_len(&mut stage.connection, INPUT), 3);
    assert!(pending(&mut stage.connection) >= 1);
    assert!(
        pending_messages(&mut stage.connection)
            .iter()
            .all(|message| message.deliveries == 1)
    );
    assert_none_failed(&backfiller);
}

#[test]
fn a_signal_between_chunks_waits_for_room_and_finishes_the_repo() {
    let mut stage = Stage::new();
    let repo = stage.enqueue(0, 1200);
    let mut backfiller = stage.builder(100, 1).start();
    backfiller
        .wait_for_line(|line| line.contains("output has 501 entries, the mark is 100: waiting"));
    backfiller.signal(Signal::SIGTERM);
    backfiller.wait_for_line(|line| line.contains("signal: reading stops"));
    let mut events = Vec::new();
    eventually("the repo is finished in spite of the signal", || {
        events.extend(stage.take(usize::MAX));
        stream_len(&mut stage.connection, INPUT) == 0
    });
    assert_eq!(backfiller.wait().code(), Some(0));
    events.extend(stage.take(usize::MAX));
    assert_repo(&events, &repo);
    assert_eq!(pending(&mut stage.connection), 0);
}

#[test]
fn the_drain_time_out_cuts_a_repo_that_waits_between_chunks() {
    let mut stage = Stage::new();
    let repo = stage.enqueue(0, 1200);
    let mut backfiller = stage
        .builder(100, 1)
        .env("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "1")
        .start();
    backfiller.wait_for_line(|line| line.contains(": waiting"));
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(3));
    assert_eq!(stage.length(), CHUNK);
    assert_eq!(pending(&mut stage.connection), 1);
    assert_eq!(stream_len(&mut stage.connection, INPUT), 1);
    let events = stage.take(usize::MAX);
    assert!(events.iter().all(|event| event.text("did") == repo.did));
}
