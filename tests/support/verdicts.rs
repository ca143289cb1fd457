//! Messages that are tried until they have ended, and what the log and the dead letters say of them.

use std::collections::BTreeMap;

use super::backfiller::{Backfiller, Builder};
use super::events::{
    OUTPUT, dead_letters, events_of, kept_keys, pending_messages, read_events, wait_until_drained,
};
use super::fixture_server::Fault;
use super::generator::Repo;
use super::hostile::outcomes::{self, Outcome};
use super::hostile::stage::Stage;
use super::wait::eventually;

/// The attempts that [`hasty`] programs have.
pub const ATTEMPTS: u64 = 3;

/// A dead letter: its fields.
pub type Letter = BTreeMap<String, String>;

/// The program, for which a message that failed is due again soon. It may ask servers on private addresses.
pub fn hasty(stage: &Stage) -> Builder {
    let attempts = ATTEMPTS.to_string();
    stage
        .permitted()
        .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "20")
        .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "50")
        .env("BACKFILLER_LEASE_SECS", "1")
        .env("BACKFILLER_MAX_ATTEMPTS", attempts)
}

/// The repo as any server may send it, once, whatever the server has for the account.
pub fn sent(repo: &Repo) -> Fault {
    Fault::Status {
        code: 200,
        headers: Vec::new(),
        content_type: "application/vnd.ipld.car".into(),
        body: repo.car(),
    }
}

/// What the messages of a stage have come to, when none of them is left.
pub struct Ended {
    log: Vec<String>,
    outcomes: Vec<Outcome>,
    letters: Vec<Letter>,
    messages: Vec<(String, String)>,
}

impl Ended {
    /// Runs the program until each message has become events or a dead letter, and ends it.
    #[track_caller]
    pub fn run(stage: &mut Stage, program: Builder) -> Self {
        let backfiller = program.start();
        wait_until_drained(&mut stage.connection);
        Self::see(stage, &[stop(backfiller)])
    }

    /// Reads what they have come to, by the logs of all programs that there were.
    #[track_caller]
    pub fn see(stage: &mut Stage, programs: &[Backfiller]) -> Self {
        let connection = &mut stage.connection;
        assert!(pending_messages(connection).is_empty());
        assert_eq!(kept_keys(connection), [""; 0], "progress of nothing");
        let letters = dead_letters(connection);
        Self {
            log: programs.iter().flat_map(Backfiller::lines).collect(),
            outcomes: programs.iter().flat_map(outcomes::so_far).collect(),
            letters,
            messages: stage.messages.clone(),
        }
    }

    /// How each attempt at the account's repo ended, in order.
    pub fn attempts(&self, did: &str) -> Vec<&str> {
        let outcomes = self.outcomes.iter();
        let of_it = outcomes.filter(|outcome| outcome.did == did);
        of_it.map(|outcome| outcome.how.as_str()).collect()
    }

    /// The numbers of the attempts at the account's repo that failed, in order.
    pub fn numbers(&self, did: &str) -> Vec<u64> {
        let failed = self.outcomes.iter();
        let failed = failed.filter(|outcome| outcome.did == did && outcome.how != "done");
        failed.map(|outcome| outcome.number("attempt")).collect()
    }

    /// The letter of the account's message, if there is one.
    #[track_caller]
    pub fn letter(&self, did: &str) -> Option<&Letter> {
        let id = self.id(did);
        let mut letters = self.letters.iter().filter(|letter| letter["id"] == id);
        let letter = letters.next();
        assert!(letters.next().is_none(), "two letters of {did}");
        letter
    }

    /// The account's message has become a letter, after these attempts, each of which was charged.
    #[track_caller]
    pub fn assert_dead(&self, did: &str, attempts: &[&str]) {
        assert_eq!(self.attempts(did), attempts, "{did}");
        let count = attempts.len() as u64;
        assert!(self.numbers(did).into_iter().eq(1..=count), "{did}");
        self.assert_letter(did, attempts[attempts.len() - 1], count);
    }

    /// The letter names this reason and so many attempts, and the log says the same.
    #[track_caller]
    pub fn assert_letter(&self, did: &str, reason: &str, attempts: u64) {
        let Some(letter) = self.letter(did) else {
            panic!("no letter of {did}");
        };
        let told = (letter["reason"].as_str(), letter["attempts"].as_str());
        assert_eq!(told, (reason, attempts.to_string().as_str()), "{letter:?}");
        let mut failed = self.outcomes.iter().filter(|outcome| outcome.did == did);
        let last = &failed.next_back().expect("a failure").line;
        let error = format!(" error={}", letter["error"]);
        assert!(last.ends_with(&error), "{last:?} and {error:?}");
        let id = self.id(did);
        let said =
            format!("dead letter did={did} id={id} reason={reason} attempts={attempts}{error}");
        let lines = self.log.iter().filter(|line| line.ends_with(&said));
        assert_eq!(lines.count(), 1, "{said}");
    }

    /// The account's message has become events at the end of these attempts.
    #[track_caller]
    pub fn assert_done(&self, did: &str, failed: &[&str]) {
        assert_eq!(self.attempts(did), [failed, &["done"]].concat(), "{did}");
        assert_eq!(self.letter(did), None);
    }

    #[track_caller]
    fn id(&self, did: &str) -> &str {
        let mut messages = self.messages.iter();
        let message = messages.find(|(_, of)| of == did);
        message.map_or_else(|| panic!("no message of {did}"), |(id, _)| id)
    }
}

/// Ends the program with Ctrl-C, which must work as it should.
#[track_caller]
pub fn stop(mut backfiller: Backfiller) -> Backfiller {
    assert!(backfiller.is_running());
    backfiller.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    backfiller
}

/// Waits until so many attempts at the account's repo have failed.
#[track_caller]
pub fn wait_for_failures(backfiller: &Backfiller, did: &str, count: usize) {
    eventually(&format!("{count} attempts at {did} have failed"), || {
        let failed = outcomes::so_far(backfiller).into_iter();
        failed.filter(|outcome| outcome.did == did).count() >= count
    });
}

/// How many deliveries Redis counts for the account's message; it must be pending.
#[track_caller]
pub fn deliveries(stage: &mut Stage, did: &str) -> usize {
    let mut messages = stage.messages.iter();
    let (id, _) = messages.find(|(_, of)| of == did).expect("a message");
    let pending = pending_messages(&mut stage.connection);
    let message = pending.iter().find(|message| message.id == *id);
    message.expect("it is pending").deliveries
}

/// What is written of a repo that is not finished: of its records none twice, in order, from the first. Returns how many.
#[track_caller]
pub fn assert_begun(stage: &mut Stage, repo: &Repo) -> usize {
    let events = read_events(&mut stage.connection, OUTPUT);
    let events = events_of(&events, &repo.did);
    let written = events
        .iter()
        .filter(|event| event.text("type") == "create")
        .map(|event| (event.text("collection"), event.text("rkey")));
    let written: Vec<_> = written.collect();
    let expected = repo.expected.iter();
    let expected = expected.map(|record| (record.collection.as_str(), record.rkey.as_str()));
    let first: Vec<_> = expected.take(written.len()).collect();
    assert_eq!(written, first);
    written.len()
}
