//! The end of the process: what a signal stops, what it lets finish, and how the process says so.

mod support;

use std::time::Instant;

use nix::sys::signal::Signal;
use redis::Connection;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    INPUT, OUTPUT, assert_repo_events, enqueue, enqueue_raw, pending, pending_messages,
    read_events, stream_len, wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::{Repo, did_plc};
use support::redis_server::RedisServer;
use support::wait::eventually;

struct Stage {
    redis: RedisServer,
    server: FixtureServer,
    connection: Connection,
}

impl Stage {
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

    /// Serves and enqueues the repo of a seed; a held one keeps its download in the midst.
    fn enqueue(&mut self, seed: u64, held: bool) -> Repo {
        let repo = served(&self.server, seed, 600);
        let url = self.server.url();
        if held {
            self.server
                .set_fault(&repo.did, Fault::Hold { after: 1000 });
        }
        enqueue(&mut self.connection, &repo.did, Some(&url));
        repo
    }

    fn builder(&self) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
    }

    /// A number of the summary line.
    fn summary(backfiller: &Backfiller, name: &str) -> f64 {
        let lines = backfiller.lines();
        let summaries: Vec<_> = lines
            .iter()
            .filter(|line| line.contains(" summary "))
            .collect();
        let [summary] = summaries[..] else {
            panic!("not one summary: {summaries:?}");
        };
        let field = summary
            .split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        field
            .unwrap_or("0")
            .parse()
            .unwrap_or_else(|_| panic!("{name} in {summary}"))
    }
}

#[test]
fn a_signal_lets_repos_in_flight_finish_and_leaves_the_others() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut stage = Stage::new();
        let held: Vec<_> = (0..2).map(|seed| stage.enqueue(seed, true)).collect();
        let others: Vec<_> = (2..8).map(|seed| stage.enqueue(seed, false)).collect();
        let mut backfiller = stage.builder().start();
        for repo in &held {
            stage.server.wait_until_held(&repo.did, 1);
        }
        eventually("some are read and not begun", || {
            pending(&mut stage.connection) > 2
        });
        backfiller.signal(signal);
        backfiller.wait_for_line(|line| line.contains("signal: reading stops"));
        for repo in &held {
            stage.server.release(&repo.did);
        }
        assert_eq!(backfiller.wait().code(), Some(0), "{signal}");

        let events = read_events(&mut stage.connection, OUTPUT);
        for repo in &held {
            let commit = repo.commit_cid.to_string();
            assert_repo_events(&events, &repo.did, &commit, &repo.rev, &repo.expected);
        }
        assert_eq!(events.len(), 2 * 602, "nothing of the others");
        for repo in &others {
            assert_eq!(
                stage.server.repo_requests(&repo.did),
                0,
                "no repo is begun after a signal"
            );
        }
        assert_eq!(stream_len(&mut stage.connection, INPUT), others.len());
        let left = pending_messages(&mut stage.connection);
        assert!(!left.is_empty() && left.iter().all(|message| message.deliveries == 1));

        // And the next start does them.
        let _next = stage
            .builder()
            .env("BACKFILLER_CONSUMER", &left[0].consumer)
            .start();
        wait_until_drained(&mut stage.connection);
    }
}

#[test]
fn the_summary_counts_repos_records_bytes_seconds_and_failures_by_reason() {
    let began = Instant::now();
    let mut stage = Stage::new();
    let repos: Vec<_> = (0..3).map(|seed| stage.enqueue(seed, false)).collect();
    enqueue_raw(&mut stage.connection, &[("repo", b"?")]);
    enqueue_raw(&mut stage.connection, &[("repo", b"!")]);
    let url = stage.server.url();
    let page = did_plc(99);
    stage.server.set_fault(&page, Fault::status(404));
    enqueue(&mut stage.connection, &page, Some(&url));
    let mut backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| line.contains("failed did="));
    eventually("the others are done", || {
        stream_len(&mut stage.connection, INPUT) == 1
    });
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    let summary = |name| Stage::summary(&backfiller, name);
    let bytes: usize = repos.iter().map(|repo| repo.car().len()).sum();
    assert_eq!(summary("repos"), 3.0);
    assert_eq!(summary("records"), 1800.0);
    assert_eq!(summary("bytes"), bytes as f64);
    assert_eq!(summary("dead_letters"), 2.0);
    assert_eq!(summary("failures"), 3.0);
    assert_eq!(summary("bad_message"), 2.0);
    assert_eq!(summary("http_status"), 1.0);
    let seconds = summary("seconds");
    assert!(
        seconds > 0.0 && seconds <= began.elapsed().as_secs_f64() + 0.1,
        "{seconds}"
    );
}

#[test]
fn a_second_signal_ends_at_once_with_130() {
    for second in [Signal::SIGINT, Signal::SIGTERM] {
        let mut stage = Stage::new();
        let repo = stage.enqueue(0, true);
        let mut backfiller = stage.builder().start();
        stage.server.wait_until_held(&repo.did, 1);
        backfiller.signal(Signal::SIGINT);
        backfiller.wait_for_line(|line| line.contains("signal: reading stops"));
        assert!(backfiller.is_running());
        let asked = Instant::now();
        backfiller.signal(second);
        assert_eq!(backfiller.wait().code(), Some(130));
        assert!(asked.elapsed().as_secs() < 5, "at once");
        assert_eq!(pending(&mut stage.connection), 1);
        assert_eq!(stream_len(&mut stage.connection, INPUT), 1);
        assert_eq!(stream_len(&mut stage.connection, OUTPUT), 0);
    }
}

#[test]
fn the_drain_is_cut_by_its_time_out_with_3() {
    for seconds in ["1", "0"] {
        let mut stage = Stage::new();
        let repo = stage.enqueue(0, true);
        let mut backfiller = stage
            .builder()
            .env("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", seconds)
            .start();
        stage.server.wait_until_held(&repo.did, 1);
        let asked = Instant::now();
        backfiller.signal(Signal::SIGTERM);
        assert_eq!(backfiller.wait().code(), Some(3));
        let took = asked.elapsed().as_secs_f64();
        let least: f64 = seconds.parse().unwrap();
        assert!(took >= least && took < 10.0, "{seconds} s: {took}");
        let lines = backfiller.lines();
        assert!(
            lines
                .iter()
                .any(|line| line.contains("the drain is cut with 1 repos in flight")),
            "{lines:?}"
        );
        assert_eq!(Stage::summary(&backfiller, "repos"), 0.0);
        assert_eq!(pending(&mut stage.connection), 1);
        assert_eq!(stream_len(&mut stage.connection, INPUT), 1);
        assert_eq!(stream_len(&mut stage.connection, OUTPUT), 0);
    }
}

#[test]
fn an_idle_process_ends_within_three_seconds() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut stage = Stage::new();
        let mut backfiller = stage.builder().start();
        stage.enqueue(0, false);
        wait_until_drained(&mut stage.connection);
        let asked = Instant::now();
        backfiller.signal(signal);
        assert_eq!(backfiller.wait().code(), Some(0), "{signal}");
        let took = asked.elapsed().as_secs_f64();
        assert!(took < 3.0, "{signal}: {took} s");
        assert_eq!(Stage::summary(&backfiller, "repos"), 1.0);
    }
}

#[test]
fn a_signal_while_redis_is_away_at_the_start_ends_promptly() {
    let mut stage = Stage::new();
    stage.redis.stop();
    let mut backfiller = stage.builder().start();
    backfiller.wait_for_line(|line| line.contains("Redis cannot be used"));
    let asked = Instant::now();
    backfiller.signal(Signal::SIGTERM);
    assert_eq!(backfiller.wait().code(), Some(0));
    let took = asked.elapsed().as_secs_f64();
    assert!(took < 3.0, "{took} s");
    assert_eq!(Stage::summary(&backfiller, "repos"), 0.0);
}

#[test]
fn a_signal_while_redis_is_away_later_ends_promptly() {
    let mut stage = Stage::new();
    let mut backfiller = stage.builder().start();
    stage.enqueue(0, false);
    wait_until_drained(&mut stage.connection);
    stage.redis.stop();
    backfiller.wait_for_line(|line| line.contains("Redis cannot be used"));
    let asked = Instant::now();
    backfiller.signal(Signal::SIGTERM);
    assert_eq!(backfiller.wait().code(), Some(0));
    let took = asked.elapsed().as_secs_f64();
    assert!(took < 3.0, "{took} s");
    assert_eq!(Stage::summary(&backfiller, "repos"), 1.0);
}

#[test]
fn with_no_time_for_the_drain_an_idle_process_still_ends_well() {
    let mut stage = Stage::new();
    let mut backfiller = stage
        .builder()
        .env("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "0")
        .start();
    stage.enqueue(0, false);
    wait_until_drained(&mut stage.connection);
    backfiller.wait_for_line(|line| line.contains(" done did="));
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    assert_eq!(Stage::summary(&backfiller, "repos"), 1.0);
}
