//! Leases: what a live process holds is its own however long it takes; what a dead one has left is taken over when the lease has
//! passed, and not before; and only what was begun is charged.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::instances::{Message, Queue, has_said, summary};
use support::wait::eventually;

/// The first message is in a download that does not end, the others wait for the one worker: one in the channel, one in the
/// reader's hand.
fn three_held(queue: &mut Queue) -> [Message; 3] {
    [queue.put_held(5), queue.put(5), queue.put(5)]
}

/// A renewal comes three times a lease: so many are some leases.
const SEVERAL_LEASES: usize = 8;

#[test]
fn what_a_live_process_holds_is_not_taken_over() {
    let mut queue = Queue::new();
    let held = three_held(&mut queue);
    let all = held.each_ref();
    // Of two seconds, so that a machine that is busy with other things does not look like a dead process.
    let mut one = queue
        .instance("one")
        .env("BACKFILLER_LEASE_SECS", "2")
        .start();
    queue.wait_until_held(&held[0], 1);
    queue.wait_until_pending(3);
    let mut two = queue
        .instance("two")
        .env("BACKFILLER_LEASE_SECS", "2")
        .start();
    queue.wait_until_running("two");
    queue.wait_for_renewals(&all, "one", SEVERAL_LEASES);

    // The other is not idle because it is dead: what is new it does at once.
    let new = queue.put(5);
    eventually("the other does what is new", || queue.requests(&new) == 1);
    for (message, requests) in held.iter().zip([1, 0, 0]) {
        assert_eq!(queue.requests(message), requests);
        assert_eq!(queue.deliveries(message), 1);
    }
    queue.release(&held[0]);
    let [a, b, c] = all;
    queue.assert_all_done([a, b, c, &new]);
    for message in all {
        assert_eq!(queue.requests(message), 1);
    }
    for backfiller in [&mut one, &mut two] {
        backfiller.signal(Signal::SIGINT);
        assert_eq!(backfiller.wait().code(), Some(0));
    }
    assert_eq!(summary(&one, "repos"), 3);
    assert_eq!(summary(&two, "taken_over"), 0);
}

/// Watches until the other consumer has all of these messages; returns how long each may have been idle, at most, when it took
/// them.
fn watch_take_over(queue: &mut Queue, messages: [&Message; 3], from: &str) -> [Duration; 3] {
    let mut idle = [Duration::ZERO; 3];
    let mut seen = [Instant::now(); 3];
    let mut taken = [false; 3];
    eventually("all are taken over", || {
        for (place, message) in messages.into_iter().enumerate() {
            if taken[place] {
                continue;
            }
            let asked = Instant::now();
            let pending = queue.pending(message).expect("a pending message");
            if pending.consumer == from {
                idle[place] = Duration::from_millis(pending.idle_ms as u64);
                seen[place] = asked;
            } else {
                // It was taken between that look and this one. Redis counts whole milliseconds.
                idle[place] += seen[place].elapsed() + Duration::from_millis(2);
                taken[place] = true;
            }
        }
        taken == [true; 3]
    });
    idle
}

#[test]
fn what_a_dead_process_has_left_is_taken_over_after_the_lease_and_charged_if_begun() {
    let mut queue = Queue::new();
    let left = three_held(&mut queue);
    for message in &left {
        queue.hold(&message.repo);
    }
    let mut one = queue.instance("one").start();
    queue.wait_until_held(&left[0], 1);
    queue.wait_until_pending(3);
    let mut two = queue
        .instance("two")
        .env("BACKFILLER_CONCURRENCY", "3")
        .start();
    queue.wait_until_running("two");
    queue.wait_for_renewals(&left.each_ref(), "one", 2);
    one.kill();
    let idle = watch_take_over(&mut queue, left.each_ref(), "one");
    for idle in idle {
        let lease = Duration::from_secs(1);
        assert!(idle >= lease, "taken over after {idle:?}");
    }
    for (message, requests) in left.iter().zip([2, 1, 1]) {
        queue.wait_until_held(message, requests);
        assert_eq!(
            queue.deliveries(message),
            requests,
            "each attempt that began is charged, and nothing else"
        );
    }
    left.iter().for_each(|message| queue.release(message));
    queue.assert_all_done(&left);
    two.signal(Signal::SIGINT);
    assert_eq!(two.wait().code(), Some(0));
    assert_eq!(summary(&two, "taken_over"), 3);
    assert!(has_said(&two, "took over "), "and it is said");
}

/// A process that was stopped wakes up with messages that others have taken: those that it has not begun it leaves to them, and
/// of what it has begun it writes nothing.
#[test]
fn a_stopped_process_leaves_what_was_taken_over_to_the_others() {
    let mut queue = Queue::new();
    let held = three_held(&mut queue);
    for message in &held {
        queue.hold(&message.repo);
    }
    let mut one = queue.instance("one").env("RUST_LOG", "debug").start();
    queue.wait_until_held(&held[0], 1);
    queue.wait_until_pending(3);
    // Just behind a renewal it cannot be in the midst of the next one, which it would end after it wakes up.
    queue.wait_for_renewals(&[&held[0]], "one", 1);
    one.signal(Signal::SIGSTOP);
    let mut two = queue
        .instance("two")
        .env("BACKFILLER_CONCURRENCY", "3")
        .start();
    for (message, requests) in held.iter().zip([2, 1, 1]) {
        queue.wait_until_held(message, requests);
    }
    one.signal(Signal::SIGCONT);
    for message in &held {
        let id = &message.id;
        one.wait_for_line(|line| {
            line.contains(&format!("id={id}: another instance has taken the message"))
        });
    }
    queue.wait_for_renewals(&held.each_ref(), "two", 3);
    // Its worker is free then, and comes to those that it has not begun, while the other still has them in work.
    queue.release(&held[0]);
    for Message { id, .. } in &held {
        one.wait_for_line(|line| line.contains("abandoned did=") && line.contains(id));
    }
    held.iter().for_each(|message| queue.release(message));
    queue.assert_all_done(&held);
    for backfiller in [&mut one, &mut two] {
        backfiller.signal(Signal::SIGINT);
        assert_eq!(backfiller.wait().code(), Some(0));
    }
    for (message, requests) in held.iter().zip([2, 1, 1]) {
        assert_eq!(queue.requests(message), requests);
    }
    assert_eq!(summary(&one, "repos"), 0);
    assert_eq!(summary(&one, "abandoned"), 3);
    assert_eq!(summary(&one, "released"), 0);
    assert_eq!(summary(&two, "repos"), 3);
}
