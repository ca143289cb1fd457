//! A job that two know: whoever was overtaken writes nothing any more, at whatever instant that happens (I2).
//!
//! Each test leads to one such instant through the proxy, one EXEC at a time, and none of them depends on who is faster. At
//! the end there is exactly one output, nothing pending, an empty input and no progress.

mod support;

use support::events::{OUTPUT, wait_until_drained};
use support::fixture_server::Fault;
use support::fleet::{Fleet, Instance, assert_written_once};
use support::proxy::{Action, Exec, Record, Rule};

/// A repo of three chunks.
const THREE_CHUNKS: usize = 1200;
/// A repo of one chunk, which is also its last.
const ONE_CHUNK: usize = 20;

/// A fleet with one message, and the instance that has it; an EXEC of it has been caught.
fn caught(size: usize, action: Action, wanted: fn(&Exec) -> bool) -> (Fleet, Instance, Rule) {
    let mut fleet = Fleet::new(&[]);
    let owner = fleet.start(1);
    let rule = owner.proxy.once(action, wanted);
    fleet.put(&[size]);
    rule.wait(1);
    (fleet, owner, rule)
}

/// The owner keeps the one connection on which the rule holds an EXEC, and can make no other: its lease ends, and it does not know.
fn isolate(owner: &Instance, rule: &Rule) {
    owner.proxy.refuse(true);
    owner.proxy.cut_others(rule);
}

/// The owner stands still behind the EXEC of its first chunk; another instance has taken the job over and is about to write
/// the second chunk when the owner's WATCH arrives: it watches a key that is already the other's, and only the token tells.
#[test]
fn a_takeover_between_an_exec_and_the_next_watch_is_seen_while_the_other_still_writes() {
    let (mut fleet, owner, rest) = caught(THREE_CHUNKS, Action::PauseAfter, Exec::is_chunk);
    isolate(&owner, &rest);
    let other = fleet.start(1);
    let second = other.proxy.once(Action::Delay, Exec::writes_events);
    second.wait(1);
    rest.release();
    owner.wait_until_abandoned(&fleet.repos[0]);
    second.release();
    other.wait_until_done(&fleet.repos[0]);
    assert_eq!(owner.count(|it| it.is_applied() && it.writes_events()), 1);
    assert_eq!(other.count(|it| it.is_applied() && it.writes_events()), 2);
    owner.proxy.refuse(false);
    fleet.assert_written_once([owner, other]);
}

/// The same, but the other instance has finished, and the key is gone.
#[test]
fn a_takeover_between_an_exec_and_the_next_watch_is_seen_when_the_other_has_finished() {
    let (mut fleet, owner, rest) = caught(THREE_CHUNKS, Action::PauseAfter, Exec::is_chunk);
    isolate(&owner, &rest);
    let other = fleet.start(1);
    other.wait_until_done(&fleet.repos[0]);
    rest.release();
    owner.wait_until_abandoned(&fleet.repos[0]);
    assert_eq!(owner.count(|it| it.is_applied() && it.writes_events()), 1);
    assert_eq!(other.count(|it| it.is_applied() && it.writes_events()), 2);
    owner.proxy.refuse(false);
    fleet.assert_written_once([owner, other]);
}

/// The owner has one message in work and one in its look-ahead when it is stopped. It knows nothing of what became of them.
#[test]
fn a_message_in_the_look_ahead_that_another_instance_has_finished_is_left_alone() {
    let mut fleet = Fleet::new(&[]);
    let owner = fleet.start(1);
    let (in_work, waiting) = (fleet.serve(ONE_CHUNK), fleet.serve(THREE_CHUNKS));
    let did = fleet.repos[in_work].did.clone();
    // Only the first request stands still: that of the other instance is answered.
    fleet
        .server
        .set_fault(&did, Fault::Then(vec![Fault::Hold { after: 1000 }]));
    fleet.enqueue();
    fleet.server.wait_until_held(&did, 1);
    fleet.wait_until_held(&owner, 2);
    owner.freeze();

    let other = fleet.start(1);
    other.wait_until_done(&fleet.repos[in_work]);
    other.wait_until_done(&fleet.repos[waiting]);
    fleet.server.release(&did);
    owner.thaw();
    owner.wait_until_abandoned(&fleet.repos[in_work]);
    owner.wait_until_abandoned(&fleet.repos[waiting]);
    assert_eq!(fleet.server.repo_requests(&did), 2);
    assert_eq!(owner.count(|it| it.is_applied() && it.writes_events()), 0);

    // And it is free again.
    drop(other);
    fleet.put(&[THREE_CHUNKS]);
    owner.wait_until_done(&fleet.repos[2]);
    fleet.assert_written_once([owner]);
}

/// An EXEC that is still on its way when its connection is lost arrives while the owner, who has acquired the job again, is
/// about to send it a second time.
#[track_caller]
fn a_delayed_exec_arrives_before_the_second(size: usize, wanted: fn(&Exec) -> bool) {
    let (mut fleet, owner, first) = caught(size, Action::Delay, wanted);
    let again = owner.proxy.once(Action::Delay, Exec::writes_events);
    first.cut_held();
    again.wait(1);
    first.release();
    owner.proxy.wait("the first is answered", 1, Record::is_nil);
    again.release();
    owner.wait_until_done(&fleet.repos[0]);
    let [first, again] = [first, again].map(|rule| rule.records().remove(0));
    assert!(first.is_nil() && again.is_applied());
    assert_eq!((first.kind, first.id), (again.kind, again.id));
    fleet.assert_written_once([owner]);
}

/// The same, but it arrives when all is done.
#[track_caller]
fn a_delayed_exec_arrives_at_the_end(size: usize, wanted: fn(&Exec) -> bool) {
    let (mut fleet, owner, first) = caught(size, Action::Delay, wanted);
    first.cut_held();
    owner.wait_until_done(&fleet.repos[0]);
    first.release();
    owner.proxy.wait("the first is answered", 1, Record::is_nil);
    fleet.assert_written_once([owner]);
}

/// The same, but it arrives before the owner is connected again: then it is executed, and must not be sent a second time.
#[track_caller]
fn a_delayed_exec_arrives_before_the_reconnect(size: usize, wanted: fn(&Exec) -> bool) {
    let (mut fleet, owner, first) = caught(size, Action::Delay, wanted);
    let number = first.records()[0].number;
    owner.proxy.refuse(true);
    owner.proxy.cut_all();
    first.release();
    owner.proxy.wait("the first is answered", 1, |it| {
        it.number == number && it.is_applied()
    });
    owner.proxy.refuse(false);
    let chunks = size / 500 + 1;
    let writes = |it: &Record| it.is_applied() && it.writes_events();
    owner.proxy.wait("each chunk is written", chunks, writes);
    fleet.assert_written_once([owner]);
}

#[test]
fn a_delayed_chunk_arrives_before_it_is_sent_again() {
    a_delayed_exec_arrives_before_the_second(THREE_CHUNKS, Exec::is_chunk);
}

#[test]
fn a_delayed_last_chunk_arrives_before_it_is_sent_again() {
    a_delayed_exec_arrives_before_the_second(THREE_CHUNKS, Exec::is_last_chunk);
}

#[test]
fn a_delayed_single_chunk_arrives_before_it_is_sent_again() {
    a_delayed_exec_arrives_before_the_second(ONE_CHUNK, Exec::is_last_chunk);
}

#[test]
fn a_delayed_chunk_arrives_when_all_is_done() {
    a_delayed_exec_arrives_at_the_end(THREE_CHUNKS, Exec::is_chunk);
}

#[test]
fn a_delayed_last_chunk_arrives_when_all_is_done() {
    a_delayed_exec_arrives_at_the_end(THREE_CHUNKS, Exec::is_last_chunk);
}

#[test]
fn a_delayed_single_chunk_arrives_when_all_is_done() {
    a_delayed_exec_arrives_at_the_end(ONE_CHUNK, Exec::is_last_chunk);
}

#[test]
fn a_delayed_chunk_arrives_before_the_reconnect() {
    a_delayed_exec_arrives_before_the_reconnect(THREE_CHUNKS, Exec::is_chunk);
}

#[test]
fn a_delayed_last_chunk_arrives_before_the_reconnect() {
    a_delayed_exec_arrives_before_the_reconnect(THREE_CHUNKS, Exec::is_last_chunk);
}

#[test]
fn a_delayed_single_chunk_arrives_before_the_reconnect() {
    a_delayed_exec_arrives_before_the_reconnect(ONE_CHUNK, Exec::is_last_chunk);
}

/// The only EXEC of a small repo is on its way when another instance takes the job over. Nothing was written before it, so nothing
/// but the token keeps it from being executed after the other instance has written all.
#[test]
fn a_takeover_of_a_single_chunk_repo_whose_exec_is_on_its_way_leaves_one_output() {
    let (mut fleet, owner, only) = caught(ONE_CHUNK, Action::Delay, Exec::is_last_chunk);
    isolate(&owner, &only);
    let other = fleet.start(1);
    other.wait_until_done(&fleet.repos[0]);
    only.release();
    owner
        .proxy
        .wait("it is answered with nil", 1, Record::is_nil);
    owner.wait_until_abandoned(&fleet.repos[0]);
    owner.proxy.refuse(false);
    fleet.assert_written_once([owner, other]);
}

/// The same, but it arrives while the other instance is about to send its own.
#[test]
fn a_takeover_of_a_single_chunk_repo_whose_exec_arrives_before_the_others_leaves_one_output() {
    let (mut fleet, owner, only) = caught(ONE_CHUNK, Action::Delay, Exec::is_last_chunk);
    isolate(&owner, &only);
    let other = fleet.start(1);
    let others = other.proxy.once(Action::Delay, Exec::is_last_chunk);
    others.wait(1);
    only.release();
    owner
        .proxy
        .wait("it is answered with nil", 1, Record::is_nil);
    owner.wait_until_abandoned(&fleet.repos[0]);
    others.release();
    other.wait_until_done(&fleet.repos[0]);
    owner.proxy.refuse(false);
    fleet.assert_written_once([owner, other]);
}

/// The owner is stopped before it sends its only EXEC, and sends it when the other instance has finished.
#[test]
fn a_takeover_of_a_single_chunk_repo_whose_exec_is_not_yet_sent_leaves_one_output() {
    let mut fleet = Fleet::new(&[]);
    let owner = fleet.start(1);
    let repo = fleet.serve(ONE_CHUNK);
    let did = fleet.repos[repo].did.clone();
    fleet
        .server
        .set_fault(&did, Fault::Then(vec![Fault::Hold { after: 1000 }]));
    fleet.enqueue();
    fleet.server.wait_until_held(&did, 1);
    owner.freeze();
    let other = fleet.start(1);
    other.wait_until_done(&fleet.repos[repo]);
    fleet.server.release(&did);
    owner.thaw();
    owner.wait_until_abandoned(&fleet.repos[repo]);
    assert_eq!(owner.count(|it| it.is_applied() && it.writes_events()), 0);
    fleet.assert_written_once([owner, other]);
}

/// The owner is stopped in its download; the other instance fails at the message again and again, and makes it wait in between.
/// What the owner has to say of its own attempt is of no interest any more, also while nobody works on the message.
#[test]
fn an_owner_that_was_overtaken_does_not_go_on_with_a_message_that_waits() {
    let mut fleet = Fleet::new(&[]);
    let owner = fleet.start(1);
    let repo = fleet.serve(THREE_CHUNKS);
    let did = fleet.repos[repo].did.clone();
    let mut sequence = vec![Fault::Hold { after: 1000 }];
    sequence.extend(vec![Fault::status(500); 1000]);
    fleet.server.set_fault(&did, Fault::Then(sequence));
    fleet.enqueue();
    fleet.server.wait_until_held(&did, 1);
    owner.freeze();
    // It waits ten times as long as it works, or longer.
    let other = fleet.start_with(1, |builder| {
        let builder = builder.env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "500");
        builder.env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "500")
    });
    let failed = |attempt: usize| {
        let failed = format!(" reason=network attempt={attempt} ");
        other.program.wait_for_line(|line| line.contains(&failed))
    };
    failed(3);
    owner.thaw();
    fleet.server.release(&did);
    owner.wait_until_abandoned(&fleet.repos[repo]);
    // No attempt of the other is forgotten.
    let last = other.program.lines();
    let last = last
        .iter()
        .filter(|line| line.contains("failed did="))
        .count();
    failed(last + 2);
    fleet.server.clear_fault(&did);
    wait_until_drained(&mut fleet.connection);
    assert_written_once(&mut fleet.connection, &fleet.repos);
}

/// The output is replaced while a chunk is on its way: that chunk is not taken for written when all is mended.
#[test]
fn a_chunk_that_met_a_key_of_another_type_is_written_when_that_is_mended() {
    let (mut fleet, mut owner, first) = caught(THREE_CHUNKS, Action::Delay, Exec::is_chunk);
    let mut connection = fleet.redis.connection();
    let () = redis::cmd("SET")
        .arg(&[OUTPUT, "no stream"])
        .query(&mut connection)
        .expect("SET");
    first.release();
    assert_eq!(owner.program.wait().code(), Some(1));
    let said = |line: &str| line.contains("ERROR") && line.contains(&fleet.repos[0].did);
    owner.program.wait_for_line(said);
    let () = redis::cmd("DEL")
        .arg(OUTPUT)
        .query(&mut connection)
        .expect("DEL");
    let other = fleet.start(1);
    other.wait_until_done(&fleet.repos[0]);
    fleet.assert_written_once([other]);
}
