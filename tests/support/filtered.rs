//! Repos whose collections are of two kinds that take turns, and a program that wants only some of them.

use redis::Connection;

use super::backfiller::{Backfiller, Builder};
use super::events::enqueue;
use super::fixture_server::FixtureServer;
use super::generator::{ExpectedRecord, Record, Repo, RepoBuilder, Value, did_plc};
use super::redis_server::RedisServer;

/// The variable of the list.
pub const COLLECTIONS: &str = "BACKFILLER_COLLECTIONS";

/// A repo of so many collections, each with so many records: `aa.even.c`, `ab.odd.c`, `ac.even.c`, … In the order of its keys the two
/// kinds take turns.
pub fn in_turns(seed: u64, collections: usize, each: usize) -> Repo {
    let letters = |n: usize| [b'a' + (n / 26) as u8, b'a' + (n % 26) as u8].map(char::from);
    let records = (0..collections * each).map(|n| {
        let (collection, number) = (n / each, n % each);
        let [a, b] = letters(collection);
        let kind = ["even", "odd"][collection % 2];
        let value = Value::map([("n", Value::Int(n as i128))]);
        Record::new(&format!("{a}{b}.{kind}.c"), format!("{number:04}"), value)
    });
    RepoBuilder::new(did_plc(seed)).records(records).build()
}

/// The list of the collections of one kind.
pub fn every(kind: &str, repo: &Repo) -> String {
    let mut list: Vec<_> = repo
        .expected
        .iter()
        .map(|record| record.collection.as_str())
        .filter(|collection| is(kind, collection))
        .collect();
    list.dedup();
    list.join(",")
}

/// Whether a collection is of this kind.
pub fn is(kind: &str, collection: &str) -> bool {
    collection.split('.').nth(1) == Some(kind)
}

/// The two servers.
pub struct Stage {
    pub redis: RedisServer,
    pub server: FixtureServer,
    pub connection: Connection,
}

impl Stage {
    pub fn new() -> Self {
        let redis = RedisServer::start();
        let connection = redis.connection();
        Stage {
            redis,
            server: FixtureServer::start(),
            connection,
        }
    }

    /// Serves a repo and enqueues its message.
    pub fn put(&mut self, repo: &Repo) {
        let url = self.server.url();
        self.server.put_document(&repo.did, repo.did_document(&url));
        self.server.put_repo(&repo.did, repo.car());
        enqueue(&mut self.connection, &repo.did, Some(&url));
    }

    /// One worker, which takes messages over and tries them again within a second.
    pub fn program(&self, list: &str) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
            .env("BACKFILLER_CONCURRENCY", "1")
            .env("BACKFILLER_LEASE_SECS", "1")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "50")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "200")
            .env(COLLECTIONS, list)
    }
}

/// The records of one kind.
pub fn of_kind(kind: &str, records: &[ExpectedRecord]) -> Vec<ExpectedRecord> {
    let wanted = records.iter().filter(|it| is(kind, &it.collection));
    wanted.cloned().collect()
}
