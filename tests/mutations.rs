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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use support::events::{
    DEAD_LETTERS, Event, INPUT, enqueue, pending, stream_len, take_events,
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
        let root = car::read(&mutant.served[..], &mut self.blocks)?;
        let block = self.blocks.get(&root.digest);
        let block = block.ok_or_else(|| JobError::new(Reason::Incomplete, "the commit"))?;
        let commit = Commit::read(block, &mutant.did, now)?;
        commit.verify(&mutant.key.did_key())?;
        let tree = mst::prove(&self.blocks, commit.data())?;
        let events = Events::new(&mutant.did, &root.cid, &commit.rev, now);
        let (mut texts, mut skipped) = (Vec::new(), 0);
        let mut walk = tree.walk();
        while let Some(leaf) = walk.next()? {
            let mut event = Vec::new();
            match encode(&events, &mut self.keys, &leaf, tree.record(&leaf), &mut event) {
                Ok(()) => texts.push(text(&event)),
                Err(_) => skipped += 1,
            }
        }
        texts.push(text(events.repo()));
        let time = timestamp(now);
        Ok(Outcome::Events { texts, time, skipped })
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
    leaf: &mst::Leaf<'_, '_>,
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
    let since = time.duration_since(UNIX_EPOCH).expect("a clock of our time");
    u64::try_from(since.as_micros()).expect("a clock of our time")
}

/// The mutants reach what they are made for.
#[track_caller]
fn assert_reach(tally: &Tally, each: u64) {
    for class in CLASSES {
        let count = tally.classes.get(class).copied().unwrap_or(0);
        assert!(count >= each, "only {count} times {class}: {}", tally.line());
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
