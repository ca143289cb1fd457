//! Several instances over one queue, and what Redis says of who has which message.

use nix::sys::signal::Signal;
use redis::Connection;

use super::backfiller::{Backfiller, Builder};
use super::events::{
    GROUP, INPUT, OUTPUT, Pending, assert_repo, enqueue, kept_keys, pending_messages, read_events,
    stream_len, wait_until_drained,
};
use super::fixture_server::{Fault, FixtureServer, served};
use super::generator::Repo;
use super::redis_server::RedisServer;
use super::wait::eventually;

/// A repo and the message that asks for it.
pub struct Message {
    pub id: String,
    pub repo: Repo,
}

/// A Redis server, one that is directory and PDS, and messages of accounts that these two know.
pub struct Queue {
    pub redis: RedisServer,
    pub server: FixtureServer,
    pub connection: Connection,
    seed: u64,
}

impl Queue {
    pub fn new() -> Self {
        let redis = RedisServer::start();
        let connection = redis.connection();
        Self {
            redis,
            server: FixtureServer::start(),
            connection,
            seed: 0,
        }
    }

    /// An instance of this name: one worker, and so at most ten messages at a time (one in work, one in the channel, eight that the
    /// reader holds); a lease of a second, and backoffs that are shorter than that.
    pub fn instance(&self, name: &str) -> Builder {
        Backfiller::builder(&self.redis, &self.server)
            .env("BACKFILLER_CONSUMER", name)
            .env("BACKFILLER_CONCURRENCY", "1")
            .env("BACKFILLER_LEASE_SECS", "1")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "50")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "200")
    }

    /// The same with the lease and the backoffs that are the defaults: nothing is taken over, or tried again, by waiting.
    pub fn patient_instance(&self, name: &str) -> Builder {
        self.instance(name)
            .env_remove("BACKFILLER_LEASE_SECS")
            .env_remove("BACKFILLER_RETRY_INITIAL_BACKOFF_MS")
            .env_remove("BACKFILLER_RETRY_MAX_BACKOFF_MS")
    }

    /// A new account with a repo of so many records, and its message.
    pub fn put(&mut self, size: usize) -> Message {
        let repo = self.serve(size);
        self.enqueue(repo)
    }

    /// The same; its download is held until the account is released.
    pub fn put_held(&mut self, size: usize) -> Message {
        let repo = self.serve(size);
        self.hold(&repo);
        self.enqueue(repo)
    }

    /// A new account, without a message.
    pub fn serve(&mut self, size: usize) -> Repo {
        self.seed += 1;
        served(&self.server, self.seed, size)
    }

    pub fn enqueue(&mut self, repo: Repo) -> Message {
        let id = enqueue(&mut self.connection, &repo.did, Some(&self.server.url()));
        Message { id, repo }
    }

    /// Keeps the downloads of this account from now on, until it is released.
    pub fn hold(&self, repo: &Repo) {
        self.server.set_fault(&repo.did, Fault::Hold { after: 100 });
    }

    /// How often the account's repo has been asked for.
    pub fn requests(&self, message: &Message) -> usize {
        self.server.repo_requests(&message.repo.did)
    }

    /// Waits until the account's repo has been asked for so often, and is being held.
    #[track_caller]
    pub fn wait_until_held(&self, message: &Message, requests: usize) {
        self.server.wait_until_held(&message.repo.did, requests);
    }

    pub fn release(&self, message: &Message) {
        self.server.release(&message.repo.did);
    }

    /// What the pending list says of a message.
    pub fn pending(&mut self, message: &Message) -> Option<Pending> {
        let mut listed = pending_messages(&mut self.connection).into_iter();
        listed.find(|pending| pending.id == message.id)
    }

    /// The deliveries of a message that is pending.
    #[track_caller]
    pub fn deliveries(&mut self, message: &Message) -> usize {
        let pending = self.pending(message);
        pending.expect("a pending message").deliveries
    }

    /// Waits until an instance has its name, and so is at work.
    #[track_caller]
    pub fn wait_until_running(&mut self, consumer: &str) {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(name_key(consumer));
        eventually(&format!("{consumer} runs"), || {
            exists.query::<bool>(&mut self.connection).expect("EXISTS")
        });
    }

    /// Waits until so many messages are pending.
    #[track_caller]
    pub fn wait_until_pending(&mut self, count: usize) {
        eventually(&format!("{count} messages are pending"), || {
            pending_messages(&mut self.connection).len() == count
        });
    }

    /// Waits until the idle time of each message has gone down so often: that many signs of life. All that time this consumer has
    /// them.
    #[track_caller]
    pub fn wait_for_renewals(&mut self, messages: &[&Message], consumer: &str, times: usize) {
        let mut seen: Vec<_> = messages.iter().map(|_| (0, 0)).collect();
        eventually("all are renewed several times", || {
            for (message, (last, drops)) in messages.iter().zip(&mut seen) {
                let pending = self.pending(message).expect("a pending message");
                assert_eq!(pending.consumer, consumer, "{}", pending.id);
                *drops += usize::from(pending.idle_ms < *last);
                *last = pending.idle_ms;
            }
            seen.iter().all(|(_, drops)| *drops >= times)
        });
    }

    /// Waits until the name's time to live has gone up so often: the keeper does a round of its work each time.
    #[track_caller]
    pub fn wait_for_rounds(&mut self, consumer: &str, times: usize) {
        let mut ttl = redis::cmd("PTTL");
        ttl.arg(name_key(consumer));
        let (mut last, mut rounds) = (i64::MAX, 0);
        eventually("the keeper goes its rounds", || {
            let left: i64 = ttl.query(&mut self.connection).expect("PTTL");
            rounds += usize::from(left > last);
            last = left;
            rounds >= times
        });
    }

    /// Removes the entry of a message, as somebody might who does not know of the group.
    pub fn delete(&mut self, message: &Message) {
        let deleted: usize = redis::cmd("XDEL")
            .arg(INPUT)
            .arg(&message.id)
            .query(&mut self.connection)
            .expect("XDEL");
        assert_eq!(deleted, 1, "the entry was there");
    }

    /// Waits until nothing is left to do; each repo's events are there exactly once then, and no others, and nothing else is.
    #[track_caller]
    pub fn assert_all_done<'m>(&mut self, messages: impl IntoIterator<Item = &'m Message>) {
        wait_until_drained(&mut self.connection);
        let events = read_events(&mut self.connection, OUTPUT);
        let mut expected = 0;
        for Message { repo, .. } in messages {
            assert_repo(&events, repo);
            expected += repo.expected.len() + repo.expected.len().div_ceil(500).max(1);
        }
        assert_eq!(events.len(), expected, "events of other repos");
        assert_eq!(kept_keys(&mut self.connection), [""; 0]);
    }

    pub fn command(&mut self, command: &str) {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            command.arg(word);
        });
        let () = command.query(&mut self.connection).expect("an answer");
    }

    /// How many entries the output has.
    pub fn output_len(&mut self) -> usize {
        stream_len(&mut self.connection, OUTPUT)
    }
}

/// The key that says who has a consumer name.
pub fn name_key(consumer: &str) -> String {
    format!("{OUTPUT}:consumer:{INPUT}:{GROUP}:{consumer}")
}

/// A number of the summary line of a program that has ended.
#[track_caller]
pub fn summary(backfiller: &Backfiller, name: &str) -> u64 {
    let line = backfiller.wait_for_line(|line| line.contains("] summary "));
    let mut words = line.split(' ');
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = value.and_then(|value| value.parse().ok());
    number.unwrap_or_else(|| panic!("no number {name} in {line:?}"))
}

/// Ends a program with Ctrl-C, which must work as it should.
#[track_caller]
pub fn end_well(mut backfiller: Backfiller) -> Backfiller {
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    backfiller
}

/// Whether a line of the log says so.
pub fn has_said(backfiller: &Backfiller, what: &str) -> bool {
    backfiller.lines().iter().any(|line| line.contains(what))
}
