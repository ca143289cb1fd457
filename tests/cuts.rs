//! Connections that are cut at any byte, and between an EXEC and its reply: what was applied is not written again, what was not
//! applied is, and no message has lost an attempt by it.

mod support;

use std::collections::HashMap;

use support::events::{INPUT, pending_messages, stream_len, wait_until_drained};
use support::fleet::Fleet;
use support::proxy::{Action, Exec, Kind, Rule, random_cuts};
use support::wait::eventually;

/// A mixed set: empty ones, those of one chunk, those that end with a chunk, those of several.
const SIZES: [usize; 16] = [
    0, 1, 5, 700, 40, 499, 7, 500, 0, 501, 60, 3, 1100, 25, 80, 600,
];

/// Of the EXECs that write events, the first one of so many of each message.
fn first_of(count: usize) -> impl FnMut(&Exec) -> bool {
    let mut seen: HashMap<String, usize> = HashMap::new();
    move |exec| {
        let Some(id) = exec.id().filter(|_| exec.writes_events()) else {
            return false;
        };
        let seen = seen.entry(id).or_default();
        *seen += 1;
        (*seen - 1).is_multiple_of(count)
    }
}

/// The first chunk of each repo is cut twice, before it is applied and then before its reply is there; the second one gets through,
/// and so on in turns.
#[test]
fn cut_between_an_exec_and_its_reply_each_event_is_written_once() {
    let mut fleet = Fleet::new(&[]);
    let instance = fleet.start(2);
    let before = instance.proxy.rule(Action::CutBefore, first_of(3));
    // This one is not asked for what the other one takes.
    let after = instance.proxy.rule(Action::CutAfter, first_of(2));
    fleet.put(&SIZES);
    wait_until_drained(&mut fleet.connection);
    let (not_applied, applied) = (before.records(), after.records());
    assert!(not_applied.iter().all(|it| !it.is_applied()));
    assert!(applied.iter().all(|it| it.is_applied() && !it.handed_on));
    for records in [&not_applied, &applied] {
        let last = records.iter().filter(|it| it.kind == Kind::LastChunk);
        let (last, all) = (last.count(), records.len());
        assert!(all >= 10 && last >= 5 && all - last >= 4, "{last} of {all}");
    }
    fleet.assert_written_once([instance]);
}

/// However often its connection was cut, a message has begun once.
#[test]
fn a_connection_that_is_cut_costs_no_attempt() {
    let mut fleet = Fleet::new(&[]);
    let instance = fleet.start(1);
    let cuts = [Action::CutBefore, Action::CutAfter].map(|action| {
        let mut left = 3;
        instance.proxy.rule(action, move |exec| {
            left -= i32::from(exec.is_chunk());
            exec.is_chunk() && left >= 0
        })
    });
    let last = instance.proxy.once(Action::Delay, Exec::is_last_chunk);
    fleet.put(&[1600]);
    last.wait(1);
    assert_eq!(cuts.each_ref().map(Rule::count), [3, 3]);
    let pending = pending_messages(&mut fleet.connection);
    assert_eq!((pending.len(), pending[0].deliveries), (1, 1));
    last.release();
    fleet.assert_written_once([instance]);
}

/// Two instances, whose connections are all cut sooner or later, in either direction.
#[track_caller]
fn cut_at_random_bytes(seed: u64) {
    const CUTS: usize = 15;
    let mut fleet = Fleet::new(&[]);
    let instances = [fleet.start(3), fleet.start(3)];
    for (seed, instance) in (2 * seed..).zip(&instances) {
        instance.proxy.cut_bytes(random_cuts(seed, 5..19));
        // Those that were there before.
        instance.proxy.cut_all();
    }
    eventually("connections are cut", || {
        // Only who works is cut.
        if stream_len(&mut fleet.connection, INPUT) < SIZES.len() / 2 {
            fleet.put(&SIZES);
        }
        instances
            .iter()
            .all(|it| it.proxy.counts().cut_bytes >= CUTS)
    });
    instances.iter().for_each(|it| it.proxy.no_more_cut_bytes());
    fleet.assert_written_once(instances);
}

#[test]
fn cut_at_random_bytes_each_event_is_written_once() {
    cut_at_random_bytes(1);
}

#[test]
fn cut_at_other_random_bytes_each_event_is_written_once() {
    cut_at_random_bytes(2);
}
