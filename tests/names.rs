//! Consumer names: one live process has a name. A second one is refused, a crash gives the name back within seconds, an end at
//! once; and a process that has lost its name finishes what it has begun and ends.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Connection;

use support::backfiller::Backfiller;
use support::events::{OUTPUT, assert_repo, read_events};
use support::instances::{Queue, has_said, name_key, summary};
use support::wait::eventually;

/// For what the machine itself needs: starting a program, and being busy with others.
const SLACK: Duration = Duration::from_secs(6);

/// Who has the name, as the key says.
fn holder(connection: &mut Connection, consumer: &str) -> Option<String> {
    let mut get = redis::cmd("GET");
    get.arg(name_key(consumer)).query(connection).expect("GET")
}

/// For how long the name is still taken.
fn left(connection: &mut Connection, consumer: &str) -> Duration {
    let mut ttl = redis::cmd("PTTL");
    let left: i64 = ttl.arg(name_key(consumer)).query(connection).expect("PTTL");
    Duration::from_millis(left.max(0).unsigned_abs())
}

/// Waits until this very process has the name.
#[track_caller]
fn wait_until_taken(connection: &mut Connection, consumer: &str, backfiller: &Backfiller) {
    let pid = format!(" pid {} ", backfiller.pid());
    eventually("the process has the name", || {
        holder(connection, consumer).is_some_and(|holder| holder.contains(&pid))
    });
}

fn host_name() -> String {
    let output = Command::new("uname").arg("-n").output().expect("uname");
    let name = String::from_utf8(output.stdout).expect("a name");
    name.trim().to_owned()
}

#[test]
fn a_second_process_of_the_same_name_is_refused_and_told_who_has_it() {
    // The second may have a shorter lease than the first, whose key then lasts longer than it would wait for one of its own.
    for (lease, refused_after) in [("1", 2), ("3", 3)] {
        let mut queue = Queue::new();
        let in_flight = queue.put_held(5);
        let mut first = queue
            .instance("one")
            .env("BACKFILLER_LEASE_SECS", lease)
            .start();
        queue.wait_until_held(&in_flight, 1);
        let before = holder(&mut queue.connection, "one");

        let began = Instant::now();
        let mut second = queue.instance("one").start();
        assert_eq!(second.wait().code(), Some(4), "lease {lease}");
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(refused_after) + SLACK,
            "{took:?}"
        );
        let (host, pid) = (host_name(), first.pid());
        let lines = second.lines();
        let last = lines.last().expect("a line");
        let wanted = format!("the consumer name one is held by {host} pid {pid} since ");
        assert!(
            last.contains(" ERROR ") && last.contains(&wanted),
            "{lines:?}"
        );
        assert!(last.contains("each process needs a name of its own"));

        assert!(first.is_running());
        assert_eq!(holder(&mut queue.connection, "one"), before);
        assert_eq!(queue.deliveries(&in_flight), 1);
        queue.release(&in_flight);
        queue.assert_all_done([&in_flight]);
        assert_eq!(queue.requests(&in_flight), 1, "the second did nothing");
        first.signal(Signal::SIGINT);
        assert_eq!(first.wait().code(), Some(0));
        assert!(
            !has_said(&first, "is held by"),
            "and the first knows nothing"
        );
    }
}

#[test]
fn after_a_crash_the_name_is_free_when_its_key_expires() {
    for lease in ["1", "3"] {
        let mut queue = Queue::new();
        let in_flight = queue.put_held(5);
        let mut first = queue
            .instance("one")
            .env("BACKFILLER_LEASE_SECS", lease)
            .start();
        queue.wait_until_held(&in_flight, 1);
        first.kill();

        let began = Instant::now();
        let left = left(&mut queue.connection, "one");
        assert!(left <= Duration::from_secs(lease.parse().unwrap()));
        let second = queue.instance("one").start();
        queue.wait_until_held(&in_flight, 2);
        let took = began.elapsed();
        assert!(
            took >= left && took < left + SLACK,
            "{took:?} with {left:?} left"
        );
        second.wait_for_line(|line| line.contains("took 1 pending messages of this consumer"));
        assert_eq!(queue.deliveries(&in_flight), 2);
        queue.release(&in_flight);
        queue.assert_all_done([&in_flight]);
    }
}

#[test]
fn at_a_clean_end_the_name_is_free_at_once() {
    let mut queue = Queue::new();
    // Left alone, the key would last for ten seconds.
    let mut first = queue.patient_instance("one").start();
    wait_until_taken(&mut queue.connection, "one", &first);
    assert!(left(&mut queue.connection, "one") > Duration::from_secs(5));
    first.signal(Signal::SIGINT);
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(holder(&mut queue.connection, "one"), None);

    let repo = queue.put(5);
    let second = queue.patient_instance("one").start();
    queue.assert_all_done([&repo]);
    assert!(!has_said(&second, "is held by"), "it has not waited");
}

#[test]
fn a_process_whose_name_was_taken_finishes_its_repo_and_ends_with_4() {
    let mut queue = Queue::new();
    let in_flight = queue.put_held(5);
    let waiting = [queue.put(5), queue.put(5)];
    let mut first = queue.instance("one").start();
    queue.wait_until_held(&in_flight, 1);
    queue.wait_until_pending(3);

    let other = "elsewhere pid 7 since yesterday";
    let () = redis::cmd("SET")
        .arg(name_key("one"))
        .arg(other)
        .query(&mut queue.connection)
        .unwrap();
    first.wait_for_line(|line| {
        line.contains(" ERROR ")
            && line.contains(&format!("the consumer name one is held by {other} now"))
            && line.contains("no more jobs are taken")
    });
    let late = queue.put(5);
    // It goes on giving signs of life for what it finishes.
    queue.wait_for_renewals(&[&in_flight], "one", 4);
    assert!(first.is_running());
    queue.release(&in_flight);
    assert_eq!(first.wait().code(), Some(4));

    let events = read_events(&mut queue.connection, OUTPUT);
    assert_repo(&events, &in_flight.repo);
    assert_eq!(events.len(), in_flight.repo.expected.len() + 1);
    assert_eq!(holder(&mut queue.connection, "one").as_deref(), Some(other));
    // The other process has the name, and so these messages.
    assert_eq!(summary(&first, "released"), 0);
    for message in &waiting {
        assert_eq!(queue.requests(message), 0);
        assert_eq!(queue.deliveries(message), 1, "it was not begun");
    }
    assert!(queue.pending(&late).is_none(), "it was not even read");

    let _next = queue.instance("two").start();
    let [a, b] = &waiting;
    queue.assert_all_done([&in_flight, a, b, &late]);
}

#[test]
fn a_process_stopped_for_longer_than_its_name_lasts_gives_way_to_the_next() {
    let mut queue = Queue::new();
    let in_flight = queue.put_held(5);
    let mut first = queue.instance("one").start();
    queue.wait_until_held(&in_flight, 1);
    first.signal(Signal::SIGSTOP);
    eventually("the name has expired", || {
        holder(&mut queue.connection, "one").is_none()
    });
    let mut second = queue.instance("one").start();
    // What the first has in work is the second's by the name.
    queue.wait_until_held(&in_flight, 2);
    let held_by = holder(&mut queue.connection, "one");

    first.signal(Signal::SIGCONT);
    first.wait_for_line(|line| {
        line.contains(&format!(" pid {} since ", second.pid()))
            && line.contains("no more jobs are taken")
    });
    assert!(first.is_running(), "it finishes what it has");
    queue.release(&in_flight);
    assert_eq!(first.wait().code(), Some(4));
    assert_eq!(summary(&first, "abandoned"), 1);
    queue.assert_all_done([&in_flight]);
    assert_eq!(holder(&mut queue.connection, "one"), held_by);
    second.signal(Signal::SIGINT);
    assert_eq!(second.wait().code(), Some(0));
    assert_eq!(summary(&second, "repos"), 1);
}

#[test]
fn a_name_that_redis_has_forgotten_is_taken_again() {
    let mut queue = Queue::new();
    let mut first = queue.instance("one").start();
    wait_until_taken(&mut queue.connection, "one", &first);
    let before = holder(&mut queue.connection, "one");
    queue.command(&format!("DEL {}", name_key("one")));
    wait_until_taken(&mut queue.connection, "one", &first);

    // Without a file it comes back with nothing.
    queue.redis.restart();
    queue.connection = queue.redis.connection();
    wait_until_taken(&mut queue.connection, "one", &first);
    assert_eq!(holder(&mut queue.connection, "one"), before);
    // It is kept, and not only taken.
    queue.wait_for_rounds("one", 5);

    let repo = queue.put(5);
    queue.assert_all_done([&repo]);
    assert!(!has_said(&first, "is held by"));
    first.signal(Signal::SIGINT);
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(holder(&mut queue.connection, "one"), None);
}
