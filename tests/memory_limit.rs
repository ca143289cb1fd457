//! Redis at its maxmemory is a full output, and no failure: a repo in the midst of its chunks waits until a consumer has made
//! room, stays with its owner, and is not charged.

mod support;

use nix::sys::signal::Signal;
use redis::Connection;

use support::events::{INPUT, OUTPUT, assert_repo, pending, stream_len, take_events};
use support::hostile::outcomes::assert_none_failed;
use support::instances::{Queue, summary};
use support::wait::eventually;

/// More than one chunk needs, and less than the repo.
const ROOM: u64 = 1_500_000;

fn used_memory(connection: &mut Connection) -> u64 {
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("memory")
        .query(connection)
        .expect("INFO");
    info.get("used_memory").expect("a number")
}

#[test]
fn out_of_memory_in_the_midst_of_a_repo_it_waits_for_the_consumer_and_keeps_its_lease() {
    let mut queue = Queue::new();
    let message = queue.put_held(6000);
    let mut one = queue.instance("one").start();
    queue.wait_until_held(&message, 1);
    let mut two = queue.instance("two").start();
    queue.wait_until_running("two");
    queue.command("CONFIG SET maxmemory-policy noeviction");
    let limit = used_memory(&mut queue.connection) + ROOM;
    queue.command(&format!("CONFIG SET maxmemory {limit}"));
    queue.release(&message);
    one.wait_for_line(|line| {
        line.contains("[worker-0] Redis cannot be used") && line.contains("OOM")
    });
    let written = queue.output_len();
    assert!(
        written > 0 && written.is_multiple_of(501),
        "{written} entries"
    );
    assert!(progress_leaves(&mut queue) > 0);

    // Not even a small command that needs memory is executed any more, and that for some leases: the other instance would take
    // the message over.
    queue.command("CONFIG SET maxmemory 1");
    queue.wait_for_renewals(&[&message], "one", 8);
    assert_eq!(queue.deliveries(&message), 1, "it is not charged");
    assert_eq!(queue.output_len(), written);

    queue.command(&format!("CONFIG SET maxmemory {limit}"));
    let mut events = Vec::new();
    eventually("all is written", || {
        events.extend(take_events(&mut queue.connection));
        stream_len(&mut queue.connection, INPUT) == 0
    });
    assert_eq!(pending(&mut queue.connection), 0);
    events.extend(take_events(&mut queue.connection));
    assert_repo(&events, &message.repo);
    assert_eq!(queue.requests(&message), 1, "nothing is fetched again");
    for backfiller in [&mut one, &mut two] {
        backfiller.signal(Signal::SIGINT);
        assert_eq!(backfiller.wait().code(), Some(0));
        assert_none_failed(backfiller);
    }
    assert_eq!(summary(&one, "repos"), 1);
    assert_eq!(summary(&two, "taken_over"), 0);
    assert_eq!(stream_len(&mut queue.connection, OUTPUT), 0);
}

/// The leaves that the progress of the one message names.
fn progress_leaves(queue: &mut Queue) -> u64 {
    let keys = support::events::progress_keys(&mut queue.connection);
    let [key] = &keys[..] else {
        panic!("not one progress key: {keys:?}");
    };
    let values: Vec<String> = redis::cmd("HVALS")
        .arg(key)
        .query(&mut queue.connection)
        .expect("HVALS");
    let written = values.iter().filter_map(|value| value.split_once(' '));
    let mut leaves = written.filter_map(|(leaves, _)| leaves.parse().ok());
    leaves.next().unwrap_or(0)
}
