//! Several instances of the program on one set of messages, each with a proxy of its own between it and Redis.
//!
//! Leases and pauses are short, so that a take-over takes a second; the attempts are many, for what such tests break is Redis's
//! side, which must never cost a message its attempts.

use std::collections::HashMap;

use nix::sys::signal::Signal;
use redis::Connection;

use super::backfiller::{Backfiller, Builder};
use super::events::{
    DEAD_LETTERS, Event, OUTPUT, assert_repo, enqueue, kept_keys, pending_messages, read_events,
    stream_len, wait_until_drained,
};
use super::fixture_server::{FixtureServer, served};
use super::generator::Repo;
use super::hostile::outcomes::assert_none_failed;
use super::proxy::{Proxy, Record};
use super::redis_server::RedisServer;
use super::wait::eventually;

/// What a server needs to lose nothing when it is killed.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// The two servers, and the messages.
pub struct Fleet {
    pub redis: RedisServer,
    pub server: FixtureServer,
    pub connection: Connection,
    /// The repos whose messages were enqueued.
    pub repos: Vec<Repo>,
    /// The ids of these messages.
    pub ids: Vec<String>,
}

/// A program and its way to Redis. The program ends first.
pub struct Instance {
    pub program: Backfiller,
    pub proxy: Proxy,
    pub consumer: String,
}

impl Fleet {
    pub fn new(redis_args: &[&str]) -> Self {
        let redis = RedisServer::start_with(redis_args);
        Self {
            connection: redis.connection(),
            redis,
            server: FixtureServer::start(),
            repos: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Serves a repo of that many records, without a message. Returns its place in `repos`.
    pub fn serve(&mut self, size: usize) -> usize {
        let seed = self.repos.len() as u64;
        self.repos.push(served(&self.server, seed, size));
        self.repos.len() - 1
    }

    /// Enqueues the messages of the repos that have none yet.
    pub fn enqueue(&mut self) {
        let url = self.server.url();
        for repo in &self.repos[self.ids.len()..] {
            self.ids
                .push(enqueue(&mut self.connection, &repo.did, Some(&url)));
        }
    }

    /// Serves repos of these sizes and enqueues their messages.
    pub fn put(&mut self, sizes: &[usize]) {
        sizes.iter().for_each(|size| _ = self.serve(*size));
        self.enqueue();
    }

    /// Starts an instance with so many workers.
    pub fn start(&self, workers: usize) -> Instance {
        self.start_with(workers, |builder| builder)
    }

    /// Starts an instance whose environment is changed so.
    pub fn start_with(&self, workers: usize, with: impl FnOnce(Builder) -> Builder) -> Instance {
        let proxy = Proxy::start(self.redis.port());
        // The number of the port is nobody else's while the proxy lives.
        let consumer = format!("behind-{}", proxy.port());
        let builder = Backfiller::builder(&self.redis, &self.server)
            .env("REDIS_URL", proxy.url())
            .env("BACKFILLER_CONSUMER", &consumer)
            .env("BACKFILLER_CONCURRENCY", workers.to_string())
            .env("BACKFILLER_LEASE_SECS", "1")
            .env("BACKFILLER_MAX_ATTEMPTS", "1000")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "50")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "200");
        Instance {
            program: with(builder).start(),
            proxy,
            consumer,
        }
    }

    /// Waits until that many messages are pending with an instance.
    #[track_caller]
    pub fn wait_until_held(&mut self, instance: &Instance, count: usize) {
        eventually("the messages are with the instance", || {
            let pending = pending_messages(&mut self.connection);
            let own = pending.iter().filter(|it| it.consumer == instance.consumer);
            own.count() == count
        });
    }

    /// Waits until all messages are done, ends the instances, and asserts that nothing but exactly the events is left.
    #[track_caller]
    pub fn assert_written_once<const N: usize>(&mut self, mut instances: [Instance; N]) {
        wait_until_drained(&mut self.connection);
        // They are dropped behind all assertions, for a failing test shows their logs then.
        instances.iter_mut().for_each(Instance::end);
        assert_written_once(&mut self.connection, &self.repos);
    }
}

/// The output has exactly the events of these repos, and nothing else is left.
#[track_caller]
pub fn assert_written_once(connection: &mut Connection, repos: &[Repo]) {
    // By account first: what is asserted of each looks through all events that it is given.
    let mut events: HashMap<String, Vec<Event>> = HashMap::new();
    for event in read_events(connection, OUTPUT) {
        let did = event.text("did").to_owned();
        events.entry(did).or_default().push(event);
    }
    for repo in repos {
        let events = events.remove(&repo.did).unwrap_or_default();
        assert_repo(&events, repo);
    }
    assert!(events.is_empty(), "events of others: {events:?}");
    assert_eq!(kept_keys(connection), [""; 0], "progress that is left");
    assert_eq!(stream_len(connection, DEAD_LETTERS), 0, "dead letters");
    wait_until_drained(connection);
}

impl Instance {
    /// Asks it to end, and waits for that; none of its attempts must have failed or been put off.
    #[track_caller]
    pub fn end(&mut self) {
        self.program.signal(Signal::SIGINT);
        assert_eq!(self.program.wait().code(), Some(0), "{}", self.consumer);
        assert_none_failed(&self.program);
    }

    /// SIGSTOP, and waits until no thread of it runs any more.
    #[track_caller]
    pub fn freeze(&self) {
        self.program.signal(Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.program.pid());
        if !std::path::Path::new(&stat).exists() {
            return; // no such file on this system: the signal alone must do
        }
        eventually("the program is stopped", || {
            let stat = std::fs::read_to_string(&stat).expect("its state");
            let (_, state) = stat.rsplit_once(')').expect("a state behind the name");
            state.trim_start().starts_with('T')
        });
    }

    /// SIGCONT.
    #[track_caller]
    pub fn thaw(&self) {
        self.program.signal(Signal::SIGCONT);
    }

    /// Waits for the line that says that the program has left a job to another instance.
    #[track_caller]
    pub fn wait_until_abandoned(&self, repo: &Repo) {
        let did = format!("abandoned did={} ", repo.did);
        self.program.wait_for_line(|line| line.contains(&did));
    }

    /// Waits for the line that says that a job has ended well, whoever has done it.
    #[track_caller]
    pub fn wait_until_left(&self, repo: &Repo) {
        let ends = ["abandoned", "done"].map(|how| format!("{how} did={} ", repo.did));
        self.program
            .wait_for_line(|line| ends.iter().any(|end| line.contains(end)));
    }

    /// Waits for the line that says that a job is done.
    #[track_caller]
    pub fn wait_until_done(&self, repo: &Repo) {
        let did = format!("done did={} ", repo.did);
        self.program.wait_for_line(|line| line.contains(&did));
    }

    /// How many of its EXECs were such.
    pub fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        self.proxy.count(wanted)
    }
}
