//! What the tests of identities, hosts and downloads have in common: two servers, the accounts on them, and a run over these.

use super::super::backfiller::{Backfiller, Builder};
use super::super::events::{
    OUTPUT, assert_repo_events, dead_letters, enqueue, pending_messages, read_events,
};
use super::super::fixture_server::{Fault, FixtureServer};
use super::super::generator::{Repo, RepoBuilder, SigningKey, did_plc, records};
use super::super::redis_server::RedisServer;
use super::outcomes::{self, Outcome};

/// A Redis server, and one that is the directory and mostly also the PDS.
pub struct Stage {
    pub redis: RedisServer,
    pub server: FixtureServer,
    pub connection: redis::Connection,
    accounts: u64,
    /// The messages that were enqueued: id and DID.
    pub messages: Vec<(String, String)>,
}

impl Stage {
    pub fn new() -> Self {
        let redis = RedisServer::start();
        let connection = redis.connection();
        Self {
            redis,
            server: FixtureServer::start(),
            connection,
            accounts: 0,
            messages: Vec::new(),
        }
    }

    /// The program, which may not ask servers on private addresses, and tries nothing twice while a test looks.
    pub fn program(&self) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "3600000")
    }

    /// The program, which may.
    pub fn permitted(&self) -> Builder {
        self.program().env("BACKFILLER_ALLOW_PRIVATE_HOSTS", "true")
    }

    /// A new account of five records. The directory knows it, and names the stage's own server as its PDS; that has the repo.
    pub fn account(&mut self) -> Repo {
        self.accounts += 1;
        let seed = self.accounts;
        let repo = RepoBuilder::new(did_plc(seed))
            .key(SigningKey::k256(seed))
            .records(records::mixed(seed, 5))
            .build();
        let url = self.server.url();
        self.server.put_document(&repo.did, repo.did_document(&url));
        self.server.put_repo(&repo.did, repo.car());
        repo
    }

    /// A new account whose repo the stage's own server sends so; its message names that server.
    pub fn faulty(&mut self, fault: Fault) -> Repo {
        let repo = self.account();
        self.server.set_fault(&repo.did, fault);
        let url = self.server.url();
        self.enqueue(&repo.did, Some(&url));
        repo
    }

    /// The same at a server of its own.
    pub fn faulty_apart(&mut self, fault: Fault) -> (Repo, FixtureServer) {
        let (repo, server) = (self.account(), FixtureServer::start());
        server.put_repo(&repo.did, repo.car());
        server.set_fault(&repo.did, fault);
        self.enqueue(&repo.did, Some(&server.url()));
        (repo, server)
    }

    pub fn enqueue(&mut self, did: &str, host: Option<&str>) {
        let id = enqueue(&mut self.connection, did, host);
        self.messages.push((id, did.to_owned()));
    }

    /// Runs the program until each message has had its turn, and kills it. What is not done is pending or a dead letter, the
    /// rest is neither.
    #[track_caller]
    pub fn run(&mut self, program: Builder) -> Vec<Outcome> {
        let backfiller = program.start();
        let ended = outcomes::wait_for(&backfiller, self.messages.len());
        drop(backfiller);
        let pending = pending_messages(&mut self.connection);
        let letters = dead_letters(&mut self.connection);
        for (id, did) in &self.messages {
            let is_pending = pending.iter().any(|message| message.id == *id);
            let is_dead = letters.iter().any(|letter| letter["id"] == *id);
            let outcome = outcomes::of(&ended, did);
            let is_kept = is_pending ^ is_dead;
            assert_eq!(is_kept, outcome.how != "done", "{}", outcome.line);
        }
        ended
    }

    /// Runs the program over the one message there is; returns how it ended.
    #[track_caller]
    pub fn run_one(&mut self, program: Builder) -> String {
        let ended = self.run(program);
        assert_eq!(ended.len(), 1);
        ended[0].how.clone()
    }

    /// The events of these repos are there, and no others.
    #[track_caller]
    pub fn assert_events<'a>(&mut self, repos: impl IntoIterator<Item = &'a Repo>) {
        let events = read_events(&mut self.connection, OUTPUT);
        let mut expected = 0;
        for repo in repos {
            let commit = repo.commit_cid.to_string();
            assert_repo_events(&events, &repo.did, &commit, &repo.rev, &repo.expected);
            expected += repo.expected.len() + 1;
        }
        assert_eq!(events.len(), expected, "events of other repos");
    }
}
