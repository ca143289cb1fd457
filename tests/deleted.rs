//! What others delete while it is being worked on: an entry, the consumer group, the whole stream. Each is said, an entry is
//! counted, nothing is left behind, and where the message still exists its repo comes out exactly once.

mod support;

use nix::sys::signal::Signal;

use support::backfiller::{Backfiller, Builder};
use support::events::{
    GROUP, INPUT, OUTPUT, assert_repo, kept_keys, pending, progress_keys, read_events, stream_len,
    take_events,
};
use support::fixture_server::{Fault, FixtureServer};
use support::generator::Repo;
use support::instances::{Message, Queue, has_said, summary};
use support::wait::eventually;

/// With this mark a worker waits after each chunk until the output is emptied.
fn one_chunk_at_a_time(builder: Builder) -> Builder {
    builder.env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
}

#[track_caller]
fn end_well(backfiller: &mut Backfiller) {
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
}

/// Waits until it is said that the entry was deleted, and ends the program; nothing is left of it.
#[track_caller]
fn assert_counted(queue: &mut Queue, mut backfiller: Backfiller, message: &Message) {
    let id = &message.id;
    let wanted = format!("entry {id} was deleted by somebody else while it was pending");
    backfiller.wait_for_line(|line| line.contains(" WARN ") && line.contains(&wanted));
    eventually("nothing is pending, and no progress is left", || {
        pending(&mut queue.connection) == 0 && kept_keys(&mut queue.connection).is_empty()
    });
    end_well(&mut backfiller);
    let said = backfiller.lines();
    let said = said.iter().filter(|line| line.contains(&wanted)).count();
    assert_eq!(said, 1);
    assert_eq!(summary(&backfiller, "deleted_entries"), 1);
    assert_eq!(stream_len(&mut queue.connection, INPUT), 0);
}

/// Leaves a message with its first chunk written, by an instance of this name that is dead.
fn half_written(queue: &mut Queue, consumer: &str) -> Message {
    let message = queue.put(1200);
    let mut dead = one_chunk_at_a_time(queue.instance(consumer)).start();
    eventually("the first chunk is written", || queue.output_len() == 501);
    dead.kill();
    assert_eq!(progress_keys(&mut queue.connection).len(), 1);
    message
}

#[test]
fn an_entry_deleted_while_it_waits_for_its_retry_is_counted() {
    let mut queue = Queue::new();
    // Of the same name, so that it is tried again at once, for all the patience.
    let message = half_written(&mut queue, "one");
    let did = &message.repo.did;
    queue.server.set_fault(did, Fault::status(500));
    let mut one = queue.patient_instance("one").start();
    one.wait_for_line(|line| line.contains("failed did=") && line.contains(" attempt=2 "));
    end_well(&mut one);
    queue.delete(&message);
    assert_eq!(queue.deliveries(&message), 2, "it is still pending");
    assert_eq!(progress_keys(&mut queue.connection).len(), 1);
    let two = queue.instance("two").start();
    assert_counted(&mut queue, two, &message);
    assert_eq!(queue.requests(&message), 2, "it is not fetched again");
}

#[test]
fn an_entry_deleted_after_its_owner_died_is_counted() {
    let mut queue = Queue::new();
    let message = half_written(&mut queue, "dead");
    queue.delete(&message);
    let two = queue.instance("two").start();
    assert_counted(&mut queue, two, &message);
    assert_eq!(queue.requests(&message), 1, "it is not fetched again");
}

#[test]
fn an_entry_deleted_while_it_waits_for_a_worker_is_counted() {
    let mut queue = Queue::new();
    let in_flight = queue.put_held(5);
    let half = queue.put(1200);
    let mut dead = one_chunk_at_a_time(queue.instance("one"))
        .env("BACKFILLER_CONCURRENCY", "2")
        .start();
    queue.wait_until_held(&in_flight, 1);
    eventually("the first chunk is written", || queue.output_len() == 501);
    dead.kill();
    // The next one has a single worker, so the second of its pending messages waits behind the first.
    let one = queue.instance("one").start();
    queue.wait_until_held(&in_flight, 2);
    queue.wait_for_renewals(&[&half], "one", 1);
    queue.delete(&half);
    queue.wait_for_renewals(&[&in_flight], "one", 5);
    queue.release(&in_flight);
    assert_counted(&mut queue, one, &half);
    assert_eq!(queue.requests(&half), 1, "it is not fetched again");
    let events = read_events(&mut queue.connection, OUTPUT);
    assert_repo(&events, &in_flight.repo);
}

#[test]
fn an_entry_deleted_while_its_repo_is_fetched_is_counted() {
    let mut queue = Queue::new();
    let message = queue.put_held(1200);
    let one = queue.instance("one").start();
    queue.wait_until_held(&message, 1);
    queue.delete(&message);
    queue.release(&message);
    assert_counted(&mut queue, one, &message);
}

#[test]
fn an_entry_deleted_while_its_repo_is_written_is_counted() {
    let mut queue = Queue::new();
    let message = queue.put(1200);
    let one = one_chunk_at_a_time(queue.instance("one")).start();
    eventually("the first chunk is written", || queue.output_len() == 501);
    queue.delete(&message);
    // Whoever renews its idle time may find out first.
    queue.wait_for_rounds("one", 3);
    eventually("all is written", || {
        take_events(&mut queue.connection);
        progress_keys(&mut queue.connection).is_empty()
    });
    assert_counted(&mut queue, one, &message);
}

/// The attempt fails, so no last chunk finds out that the message is gone.
#[test]
fn an_entry_deleted_while_its_attempt_fails_is_counted() {
    let mut queue = Queue::new();
    let message = half_written(&mut queue, "dead");
    queue.hold(&message.repo);
    let one = queue.instance("one").start();
    queue.wait_until_held(&message, 1);
    queue.delete(&message);
    // Whoever holds a download and goes away breaks it off.
    queue.server = FixtureServer::start();
    one.wait_for_line(|line| line.contains("failed did=") || line.contains("deferred did="));
    assert_counted(&mut queue, one, &message);
}

/// A repo whose first chunk is written, by an instance that waits for room now.
fn between_chunks(queue: &mut Queue) -> (Message, Backfiller) {
    let message = queue.put(1200);
    let one = one_chunk_at_a_time(queue.instance("one")).start();
    eventually("the first chunk is written", || queue.output_len() == 501);
    one.wait_for_line(|line| line.contains("[worker-0] the output has 501 entries"));
    (message, one)
}

/// Makes room until the input is empty; the repo has come out exactly once then, and nothing is left.
#[track_caller]
fn assert_written(queue: &mut Queue, repo: &Repo) {
    let mut events = Vec::new();
    eventually("all is written", || {
        events.extend(take_events(&mut queue.connection));
        stream_len(&mut queue.connection, INPUT) == 0
            && pending(&mut queue.connection) == 0
            && progress_keys(&mut queue.connection).is_empty()
    });
    events.extend(take_events(&mut queue.connection));
    assert_repo(&events, repo);
}

#[test]
fn a_group_destroyed_between_two_chunks_is_created_again_and_nothing_is_written_twice() {
    let mut queue = Queue::new();
    let (message, mut one) = between_chunks(&mut queue);
    queue.command(&format!("XGROUP DESTROY {INPUT} {GROUP}"));
    one.wait_for_line(|line| line.contains("the consumer group is gone"));
    one.wait_for_line(|line| line.contains("created group") && !line.contains("[main]"));
    queue.wait_until_pending(1);
    assert_written(&mut queue, &message.repo);
    end_well(&mut one);
    assert_eq!(queue.requests(&message), 1);
    assert_eq!(summary(&one, "deleted_entries"), 0);
    assert_eq!(summary(&one, "repos"), 1);
}

/// The worker loses its connection as well, and finds no group when it acquires its message again.
#[test]
fn a_group_destroyed_with_all_connections_lost_loses_nothing_and_writes_nothing_twice() {
    let mut queue = Queue::new();
    let (message, mut one) = between_chunks(&mut queue);
    let () = redis::pipe()
        .atomic()
        .cmd("XGROUP")
        .arg(&["DESTROY", INPUT, GROUP])
        .ignore()
        .cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .ignore()
        .query(&mut queue.connection)
        .unwrap();
    one.wait_for_line(|line| line.contains("the consumer group is gone"));
    assert_written(&mut queue, &message.repo);
    end_well(&mut one);
    assert_eq!(summary(&one, "deleted_entries"), 0);
}

/// The message is gone with the stream; what was begun is finished all the same.
#[test]
fn a_stream_deleted_between_two_chunks_is_created_again_and_the_loss_is_said() {
    let mut queue = Queue::new();
    let (message, one) = between_chunks(&mut queue);
    queue.command(&format!("DEL {INPUT}"));
    one.wait_for_line(|line| line.contains("the consumer group is gone"));
    assert_written(&mut queue, &message.repo);
    assert_counted(&mut queue, one, &message);
    // And it goes on.
    let mut next = queue.instance("one").start();
    let new = queue.put(5);
    queue.assert_all_done([&new]);
    end_well(&mut next);
    assert!(!has_said(&next, "the consumer group is gone"));
}

/// A stream deleted with a message whose owner is dead, and with one that waits: what is kept for them does not stay for ever.
/// Progress of a group whose name begins in the same way is left alone.
#[test]
fn a_stream_deleted_with_messages_that_nobody_works_on_leaves_nothing_for_ever() {
    let mut queue = Queue::new();
    let orphan = half_written(&mut queue, "dead");
    let theirs = format!("{OUTPUT}:progress:{INPUT}:{GROUP}:two:7-0");
    queue.command(&format!("HSET {theirs} bafy x"));
    queue.command(&format!("DEL {INPUT}"));
    queue.command(&format!("XGROUP CREATE {INPUT} {GROUP} 0 MKSTREAM"));
    let mut one = queue.instance("one").start();
    queue.wait_until_running("one");
    queue.command(&format!("XGROUP DESTROY {INPUT} {GROUP}"));
    let id = &orphan.id;
    one.wait_for_line(|line| line.contains(&format!("entry {id} is gone with its stream")));
    let ours = format!("{OUTPUT}:progress:{INPUT}:{GROUP}:{id}");
    let mut left = |key: &str| -> i64 {
        let mut ttl = redis::cmd("TTL");
        ttl.arg(key).query(&mut queue.connection).unwrap()
    };
    assert!(left(&ours) > 0, "it expires");
    assert_eq!(left(&theirs), -1, "another group's stays as it is");
    end_well(&mut one);
}
