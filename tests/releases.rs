//! Release: whoever ends gives back what it has not begun, and what it could not finish, so that others go on with it at once and
//! nobody is charged. The lease and the backoffs are long here: nothing but a release explains what the others do.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::backfiller::Backfiller;
use support::events::{OUTPUT, assert_repo, progress_keys, read_events};
use support::instances::{Message, Queue, end_well, has_said, summary};
use support::wait::eventually;

/// Far less than a lease or a backoff, and far more than a release takes.
const AT_ONCE: Duration = Duration::from_secs(15);

/// Another instance, which runs and has nothing to do.
fn idle_instance(queue: &mut Queue) -> Backfiller {
    let two = queue
        .patient_instance("two")
        .env("BACKFILLER_CONCURRENCY", "3")
        .start();
    queue.wait_until_running("two");
    two
}

#[test]
fn what_waits_for_a_worker_is_given_to_others_while_the_repo_in_flight_is_finished() {
    let mut queue = Queue::new();
    let in_flight = queue.put_held(5);
    let waiting = [queue.put_held(5), queue.put_held(5)];
    let mut one = queue.patient_instance("one").start();
    queue.wait_until_held(&in_flight, 1);
    queue.wait_until_pending(3);
    let two = idle_instance(&mut queue);

    let asked = Instant::now();
    one.signal(Signal::SIGINT);
    for message in &waiting {
        queue.wait_until_held(message, 1);
        let pending = queue.pending(message).expect("a pending message");
        assert_eq!((pending.consumer.as_str(), pending.deliveries), ("two", 1));
    }
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert!(one.is_running());
    assert_eq!(queue.requests(&in_flight), 1);

    queue.release(&in_flight);
    assert_eq!(one.wait().code(), Some(0));
    assert_eq!(summary(&one, "repos"), 1);
    assert_eq!(summary(&one, "released"), 2);
    waiting.iter().for_each(|message| queue.release(message));
    let [a, b] = &waiting;
    queue.assert_all_done([&in_flight, a, b]);
    let two = end_well(two);
    assert_eq!(summary(&two, "repos"), 2);
    assert_eq!(summary(&two, "taken_over"), 2);
}

#[test]
fn a_worker_that_waits_for_room_before_a_fetch_gives_its_message_back() {
    let mut queue = Queue::new();
    queue.command(&format!("XADD {OUTPUT} * event {{}}"));
    let messages = [queue.put_held(5), queue.put_held(5), queue.put_held(5)];
    let one = queue
        .patient_instance("one")
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1")
        .start();
    one.wait_for_line(|line| line.contains("[worker-0] the output has 1 entries"));
    queue.wait_until_pending(3);
    // To the other the output is not full.
    let two = idle_instance(&mut queue);
    let asked = Instant::now();
    let one = end_well(one);
    for message in &messages {
        queue.wait_until_held(message, 1);
        assert_eq!(queue.deliveries(message), 1);
    }
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(summary(&one, "released"), 3);
    queue.command(&format!("DEL {OUTPUT}"));
    messages.iter().for_each(|message| queue.release(message));
    queue.assert_all_done(&messages);
    let two = end_well(two);
    assert_eq!(summary(&two, "taken_over"), 3);
}

/// The repo is between two chunks, and nobody makes room for the next one.
#[test]
fn what_the_drain_could_not_finish_is_finished_by_others() {
    let mut queue = Queue::new();
    let written = queue.put(1200);
    let mut one = queue
        .patient_instance("one")
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "100")
        .env("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "1")
        .start();
    eventually("the first chunk is written", || queue.output_len() == 501);
    let two = idle_instance(&mut queue);
    queue.hold(&written.repo);

    let asked = Instant::now();
    one.signal(Signal::SIGTERM);
    assert_eq!(one.wait().code(), Some(3));
    assert!(has_said(&one, "the drain is cut with 1 repos in flight"));
    assert_eq!(summary(&one, "released"), 1);
    assert_eq!(progress_keys(&mut queue.connection).len(), 1);

    queue.wait_until_held(&written, 1);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(queue.deliveries(&written), 1, "it is the same attempt");
    assert_eq!(queue.output_len(), 501);
    queue.release(&written);
    queue.assert_all_done([&written]);
    let id = &written.id;
    two.wait_for_line(|line| line.contains(&format!("id={id}: going on behind leaf 500")));
    let two = end_well(two);
    assert_eq!(summary(&two, "taken_over"), 1);
    assert_eq!(summary(&two, "records"), 700);
}

#[test]
fn what_the_drain_cut_in_its_download_is_not_charged() {
    let mut queue = Queue::new();
    let messages = [queue.put_held(5), queue.put_held(5), queue.put_held(5)];
    let mut one = queue
        .patient_instance("one")
        .env("BACKFILLER_SHUTDOWN_TIMEOUT_SECS", "1")
        .start();
    queue.wait_until_held(&messages[0], 1);
    queue.wait_until_pending(3);
    let two = idle_instance(&mut queue);

    let asked = Instant::now();
    one.signal(Signal::SIGTERM);
    assert_eq!(one.wait().code(), Some(3));
    assert_eq!(summary(&one, "released"), 3);
    for (message, requests) in messages.iter().zip([2, 1, 1]) {
        queue.wait_until_held(message, requests);
        assert_eq!(queue.deliveries(message), 1);
    }
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    messages.iter().for_each(|message| queue.release(message));
    queue.assert_all_done(&messages);
    assert_eq!(summary(&end_well(two), "taken_over"), 3);
}

/// Where nobody else runs, what was given back waits for the next, whatever its name.
#[test]
fn what_was_given_back_is_there_for_the_next_start() {
    let mut queue = Queue::new();
    let in_flight = queue.put_held(5);
    let waiting = [queue.put(5), queue.put(5)];
    let mut one = queue.patient_instance("one").start();
    queue.wait_until_held(&in_flight, 1);
    queue.wait_until_pending(3);
    one.signal(Signal::SIGINT);
    one.wait_for_line(|line| line.contains("signal: reading stops"));
    queue.release(&in_flight);
    assert_eq!(one.wait().code(), Some(0));
    let events = read_events(&mut queue.connection, OUTPUT);
    assert_repo(&events, &in_flight.repo);

    let asked = Instant::now();
    let _two = idle_instance(&mut queue);
    let [a, b]: &[Message; 2] = &waiting;
    queue.assert_all_done([&in_flight, a, b]);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}
