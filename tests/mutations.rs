//! I3 and I5 under fire: a hundred thousand mutants of sound repositories, most of them refused, none of them a panic or a hang, and
//! never an event that the signed repo does not contain.
//!
//! The bulk goes through the program's own stages in this process, as `worker.rs` strings them together; some thousands go
//! through the real binary and a real Redis, and must end in the same way. What is right is said by a second reader of repos
//! (`support/mutants/reader`), in both directions: no event too many, none too few, and the reason that fits.
//! `make fuzz` goes on with other seeds.

mod support;

#[path = "support/mutants/mod.rs"]
mod mutants;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mutants::campaign::{self, Plan, Tally};
use mutants::verdict::Outcome;
use mutants::{Mutant, Mutants};
use rsky_backfiller::error::{JobError, Reason};
use rsky_backfiller::event::{Events, timestamp};
use rsky_backfiller::repo::blocks::BlockStore;
use rsky_backfiller::repo::commit::Commit;
use rsky_backfiller::repo::record::{self, KeyParser, Skip};
use rsky_backfiller::repo::{car, mst};
use support::backfiller::Backfiller;
use support::blocks;
use support::events::{
    DEAD_LETTERS, INPUT, OUTPUT, dead_letters, enqueue, kept_keys, pending, read_stream, stream_len,
};
use support::fixture_server::FixtureServer;
use support::generator::did_document;
use support::hostile::outcomes;
use support::redis_server::RedisServer;

/// Mutants in CI, in this process and through the binary.
const MUTANTS: u64 = 100_000;
const THROUGH_THE_BINARY: u64 = 3_000;
/// Mutants that one process of the binary gets.
const BATCH: u64 = 500;

/// What must come of mutants, each often enough.
const CLASSES: [&str; 8] = [
    "car",
    "commit",
    "did_mismatch",
    "events",
    "events, others skipped",
    "incomplete",
    "mst",
    "signature",
];

/// The program's stages, with what they keep from one repo to the next.
#[derive(Default)]
struct Stages {
    blocks: BlockStore,
    keys: KeyParser,
}

impl Stages {
    /// The way of a repo as `worker.rs` and `sink` have it.
    fn process(&mut self, mutant: &Mutant, now: SystemTime) -> Result<Outcome, JobError> {
        self.blocks.clear();
        let root = car::read(&mutant.served[..], &mut self.blocks, &mut None)?;
        let block = blocks::get(&self.blocks, &root.digest);
        let block = block.ok_or_else(|| JobError::new(Reason::Incomplete, "the commit"))?;
        let commit = Commit::read(&block, &mutant.did, now)?;
        commit.verify(&mutant.key.did_key())?;
        let mut tree = mst::prove(&mut self.blocks, commit.data())?;
        let time = timestamp(now);
        let events = Events::new(&mutant.did, &root.cid, &commit.rev, &time);
        let (mut texts, mut skipped) = (Vec::new(), 0);
        let mut walk = tree.walk();
        while let Some(leaf) = walk.next(&tree)? {
            let mut event = Vec::new();
            match encode(
                &events,
                &mut self.keys,
                &leaf,
                tree.record(&leaf)?,
                &mut event,
            ) {
                Ok(()) => texts.push(text(&event)),
                Err(_) => skipped += 1,
            }
        }
        texts.push(text(events.repo()));
        Ok(Outcome::Events {
            texts,
            time,
            skipped,
        })
    }

    fn outcome(&mut self, mutant: &Mutant, now: SystemTime) -> Outcome {
        let caught = catch_unwind(AssertUnwindSafe(|| self.process(mutant, now)));
        match caught {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Refused {
                reason: error.reason.code().to_owned(),
                text: error.text,
            },
            Err(payload) => Outcome::Panic(panic_text(&*payload)),
        }
    }
}

fn encode(
    events: &Events,
    keys: &mut KeyParser,
    leaf: &mst::Leaf<'_>,
    block: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Skip> {
    let (collection, rkey) = keys.parse(leaf.key)?;
    let block = block.ok_or(Skip::Cid)?;
    if !events.begin_create(collection, rkey, leaf.value, out) {
        return Err(Skip::Cid);
    }
    record::transcode(block, out)?;
    Events::end_create(out);
    Ok(())
}

fn text(event: &[u8]) -> String {
    String::from_utf8(event.to_vec()).expect("an event is UTF-8")
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(ToString::to_string);
    literal
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

fn micros(time: SystemTime) -> u64 {
    let since = time
        .duration_since(UNIX_EPOCH)
        .expect("a clock of our time");
    u64::try_from(since.as_micros()).expect("a clock of our time")
}

/// The mutants reach what they are made for.
#[track_caller]
fn assert_reach(tally: &Tally, each: u64) {
    for class in CLASSES {
        let count = tally.classes.get(class).copied().unwrap_or(0);
        assert!(
            count >= each,
            "only {count} times {class}: {}",
            tally.line()
        );
    }
    assert!(
        tally.signed_again * 10 >= tally.mutants * 3,
        "fewer than 30 % are signed again: {}",
        tally.line()
    );
}

#[test]
fn i3_i5_a_hundred_thousand_mutants_are_refused_or_become_what_was_signed() {
    let plan = Plan::from_env(MUTANTS);
    println!("seed {}", plan.seed);
    let now = SystemTime::now();
    let tally = campaign::run(&plan, micros(now), || {
        let mut stages = Stages::default();
        move |mutant: &Mutant| stages.outcome(mutant, now)
    });
    println!("{}", tally.line());
    for ((done, class), count) in &tally.histories {
        println!("  {count:7} {done} -> {class}");
    }
    tally.assert_sound();
    if plan.is_whole() {
        assert_reach(&tally, plan.mutants / 1000);
    }
}

/// The same mutants end in the same way in the real program: the stages above are its stages.
#[test]
fn i3_i4_i5_through_the_binary_the_mutants_end_in_the_same_way() {
    let plan = Plan::from_env(THROUGH_THE_BINARY);
    let mutants = Mutants::of(plan.seed);
    let mut tally = Tally::default();
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut stages = Stages::default();
    let mut first = plan.first;
    let end = plan.first + plan.mutants;
    while first < end && plan.until.is_none_or(|until| Instant::now() < until) {
        let batch: Vec<_> = (first..end.min(first + BATCH))
            .map(|number| mutants.get(number))
            .collect();
        first += BATCH;
        for (mutant, outcome) in through_the_binary(&redis, &mut connection, &batch) {
            let now = SystemTime::now();
            let alike = alike(&outcome, &stages.outcome(mutant, now));
            tally.count(plan.seed, mutant, &outcome, Duration::ZERO, micros(now));
            if !alike {
                tally.fail(
                    plan.seed,
                    mutant,
                    &format!("the binary made {outcome:?} of it, the stages did not"),
                );
            }
        }
        if plan.until.is_some() {
            println!("        through the binary: {}", tally.line());
        }
    }
    println!("        through the binary: {}", tally.line());
    tally.assert_sound();
    if plan.is_whole() {
        assert_reach(&tally, plan.mutants / 1000);
    }
}

/// Whether both are events, or both refused for the same reason; which events is the affair of [`Tally::count`].
fn alike(one: &Outcome, other: &Outcome) -> bool {
    one.class() == other.class()
}

/// The first field of this name in an event's text; those of the event come before those of the record.
fn field(event: &str, name: &str) -> String {
    let value = event.split_once(&format!("\"{name}\":\""));
    let value = value.and_then(|(_, rest)| rest.split_once('"'));
    value.map(|(value, _)| value.to_owned()).unwrap_or_default()
}

/// Lets one process take the mutants; what came out of each. Whatever it did, no message is lost, and no other event is there.
fn through_the_binary<'m>(
    redis: &RedisServer,
    connection: &mut redis::Connection,
    batch: &'m [Mutant],
) -> Vec<(&'m Mutant, Outcome)> {
    let server = FixtureServer::start();
    for mutant in batch {
        server.put_document(
            &mutant.did,
            did_document(&mutant.did, &mutant.key, &server.url()),
        );
        server.put_repo(&mutant.did, mutant.served.clone());
        enqueue(connection, &mutant.did, Some(&server.url()));
    }
    let backfiller = Backfiller::builder(redis, &server)
        .env("BACKFILLER_MAX_ATTEMPTS", "1")
        .start();
    let ended = outcomes::wait_for(&backfiller, batch.len());
    outcomes::stop(backfiller);

    // As texts: a record may be nested so deep that serde_json does not read its event.
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, mut fields) in read_stream(connection, OUTPUT) {
        let text = fields.remove("event").unwrap_or_default();
        events.entry(field(&text, "did")).or_default().push(text);
    }
    let _: usize = redis::cmd("DEL")
        .arg(OUTPUT)
        .query(connection)
        .expect("DEL");
    let mut ended: BTreeMap<_, _> = ended
        .into_iter()
        .map(|outcome| (outcome.did.clone(), outcome))
        .collect();
    assert_eq!(ended.len(), batch.len(), "one end for each");
    let mut taken = Vec::new();
    for mutant in batch {
        let end = ended.remove(&mutant.did).expect("an end for each");
        let events = events.remove(&mutant.did).unwrap_or_default();
        // What was refused and has events all the same counts as what came out.
        let outcome = if end.how == "done" || !events.is_empty() {
            Outcome::Events {
                time: events
                    .first()
                    .map(|event| field(event, "time"))
                    .unwrap_or_default(),
                texts: events,
                skipped: if end.how == "done" {
                    end.number("skipped")
                } else {
                    0
                },
            }
        } else if end.how == "panic" {
            Outcome::Panic(end.line)
        } else {
            Outcome::Refused {
                reason: end.how,
                text: end.line,
            }
        };
        taken.push((mutant, outcome));
    }
    assert!(events.is_empty(), "events of nobody: {events:?}");
    let refused = taken.iter().filter_map(|(mutant, outcome)| match outcome {
        Outcome::Refused { reason, .. } => Some((mutant.did.clone(), reason.clone())),
        _ => None,
    });
    assert_dead_letters(connection, &refused.collect());
    assert_eq!(
        (stream_len(connection, INPUT), pending(connection)),
        (0, 0),
        "no message is left"
    );
    assert_eq!(kept_keys(connection), Vec::<String>::new());
    taken
}

/// Each refused mutant's message is a dead letter after its one attempt, for the reason that the log gives; and none else is.
fn assert_dead_letters(connection: &mut redis::Connection, refused: &BTreeMap<String, String>) {
    let letters = dead_letters(connection).into_iter().map(|letter| {
        assert_eq!(letter["attempts"], "1", "{letter:?}");
        (field(&letter["repo"], "did"), letter["reason"].clone())
    });
    let letters: Vec<_> = letters.collect();
    assert_eq!(letters.len(), refused.len(), "one dead letter for each");
    assert_eq!(&letters.into_iter().collect::<BTreeMap<_, _>>(), refused);
    let _: usize = redis::cmd("DEL")
        .arg(DEAD_LETTERS)
        .query(connection)
        .expect("DEL");
}
