//! The repos of a run: a mixed set, enqueued over and over, and taken out of the output event by event.
//!
//! A repo is in flight at most once at a time, so each event that comes out belongs to one message; and a repo is judged at the
//! instant at which its message has left the input: all its events must be there by then, each once. What comes later of it is
//! found too, for it belongs to no message, or to one that has all its own events already.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};

use redis::Connection;

use super::super::events::{INPUT, OUTPUT, enqueue, pending_messages, read_stream};
use super::super::fixture_server::FixtureServer;
use super::super::generator::{Random, Repo, RepoBuilder, Value, did_plc, mixed_repo};
use super::judge::Judge;
use super::tally::Tally;

/// How many records the repos have: none, one, chunks that are exactly full or one over, and several chunks.
const SIZES: [usize; 19] = [
    0, 0, 1, 1, 1, 500, 500, 500, 501, 501, 501, 501, 501, 501, 999, 1_700, 1_700, 1_700, 2_600,
];
/// So many more have 10 to 50.
const SMALL: usize = 28;
/// Records so large that chunks end at their size, not at their count.
const LARGE: (usize, usize) = (5, 1_000_000);
/// How many messages are in the input at a time: more than wait at any time for the lease of a dead process to run out.
const IN_FLIGHT: usize = 36;

/// A message in the input.
pub struct Flight {
    /// The entry's id.
    pub id: String,
    pub repo: usize,
    pub did: String,
    /// The last consumer that had it, for the counting of takeovers.
    consumer: Option<String>,
    /// Whether a process was killed in the midst of it.
    pub struck: bool,
    /// Those that have come out so far, by ids and texts.
    events: Vec<(String, String)>,
}

/// All repos, and the messages of those in flight.
pub struct Repos {
    repos: Vec<Repo>,
    idle: Vec<usize>,
    /// By the place of the repo.
    flights: BTreeMap<usize, Flight>,
    places: HashMap<String, usize>,
    judge: Judge,
}

impl Repos {
    /// Builds the set; a server is PDS and directory of all of it.
    pub fn new(server: &FixtureServer, random: &mut Random) -> Self {
        let base = random.bits();
        let seeds = (0..).map(|place| base.wrapping_add(place));
        let small: Vec<_> = (0..SMALL).map(|_| 10 + random.below(41) as usize).collect();
        let sizes = SIZES.iter().chain(&small);
        let repos = sizes.zip(seeds).map(|(size, seed)| mixed_repo(seed, *size));
        let mut repos: Vec<_> = repos.collect();
        repos.push(large_repo(base.wrapping_sub(1)));
        for repo in &repos {
            server.serve(repo);
        }
        let places = repos.iter().enumerate();
        Self {
            places: places
                .map(|(place, repo)| (repo.did.clone(), place))
                .collect(),
            idle: (0..repos.len()).collect(),
            flights: BTreeMap::new(),
            judge: Judge::new(repos.len()),
            repos,
        }
    }

    /// Enqueues repos until there is work enough.
    pub fn enqueue(&mut self, connection: &mut Connection, host: &str, random: &mut Random) {
        while self.flights.len() < IN_FLIGHT {
            let place = self
                .idle
                .swap_remove(random.below(self.idle.len() as u64) as usize);
            let did = self.repos[place].did.clone();
            let flight = Flight {
                id: enqueue(connection, &did, Some(host)),
                repo: place,
                did,
                consumer: None,
                struck: false,
                events: Vec::new(),
            };
            self.flights.insert(place, flight);
        }
    }

    /// Takes what is in the output, and judges the repos whose messages have left the input.
    pub fn collect(&mut self, connection: &mut Connection, tally: &mut Tally) {
        for message in pending_messages(connection) {
            let mut flights = self.flights.values_mut();
            if let Some(flight) = flights.find(|flight| flight.id == message.id) {
                let before = flight.consumer.replace(message.consumer.clone());
                tally.takeovers += usize::from(before.is_some_and(|name| name != message.consumer));
            }
        }
        // In this order: a message that is gone now has all its events in what is taken now.
        let left: HashSet<_> = read_stream(connection, INPUT)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let events = take_output(connection);
        tally.events += events.len();
        for (id, raw) in events {
            let did = raw
                .split_once(r#""did":""#)
                .and_then(|(_, rest)| rest.split('"').next());
            let place = did.and_then(|did| self.places.get(did));
            let Some(flight) = place.and_then(|place| self.flights.get_mut(place)) else {
                panic!("an event of no repo in flight: {id} {raw}");
            };
            flight.events.push((id, raw));
        }
        let over = self
            .flights
            .values()
            .filter(|flight| !left.contains(&flight.id));
        for place in over.map(|flight| flight.repo).collect::<Vec<_>>() {
            let flight = self.flights.remove(&place).expect("it was found there");
            let repo = &self.repos[place];
            self.judge.assert_complete(place, repo, flight.events);
            tally.repos += 1;
            tally.survivors += usize::from(flight.struck);
            self.idle.push(place);
        }
    }

    pub fn flights(&self) -> btree_map::Values<'_, usize, Flight> {
        self.flights.values()
    }

    pub fn flight_mut(&mut self, id: &str) -> Option<&mut Flight> {
        self.flights.values_mut().find(|flight| flight.id == id)
    }

    pub fn dids(&self) -> Vec<String> {
        self.repos.iter().map(|repo| repo.did.clone()).collect()
    }

    /// Fewer bytes than the archive of an account has.
    pub fn bytes_of(&self, did: &str) -> u64 {
        let blocks = self.repos[self.places[did]].blocks.iter();
        blocks.map(|(_, block)| block.len() as u64).sum()
    }

    /// Asserts that the output never had more entries than the events that were taken and judged.
    pub fn assert_nothing_else(&self, connection: &mut Connection, tally: &Tally) {
        assert!(self.flights.is_empty());
        let info: HashMap<String, redis::Value> = redis::cmd("XINFO")
            .arg(&["STREAM", OUTPUT])
            .query(connection)
            .expect("XINFO");
        let added: usize =
            redis::from_redis_value(info["entries-added"].clone()).expect("a number");
        assert_eq!(
            added, tally.events,
            "entries of the output that nobody has judged"
        );
    }
}

/// Takes all entries out of the output; returns their ids and texts.
fn take_output(connection: &mut Connection) -> Vec<(String, String)> {
    let entries = read_stream(connection, OUTPUT).into_iter();
    let entries: Vec<_> = entries
        .map(
            |(id, mut fields)| match (fields.remove("event"), fields.len()) {
                (Some(raw), 0) => (id, raw),
                (event, _) => panic!("entry {id} is not one field `event`: {event:?} {fields:?}"),
            },
        )
        .collect();
    if !entries.is_empty() {
        let ids: Vec<_> = entries.iter().map(|(id, _)| id).collect();
        let mut delete = redis::cmd("XDEL");
        let deleted: usize = delete
            .arg(OUTPUT)
            .arg(&ids)
            .query(connection)
            .expect("XDEL");
        assert_eq!(
            deleted,
            ids.len(),
            "somebody else takes events out of the output"
        );
    }
    entries
}

fn large_repo(seed: u64) -> Repo {
    let (records, bytes) = LARGE;
    (0..records)
        .fold(RepoBuilder::new(did_plc(seed)), |repo, number| {
            let text = Value::text("a".repeat(bytes));
            let value = Value::map([("$type", Value::text("com.example.large")), ("text", text)]);
            repo.record("com.example.large", &format!("record-{number}"), value)
        })
        .build()
}
