//! Connections that are cut at any byte, and between an EXEC and its reply: what was applied is not written again, what was not
//! applied is, and no message has lost an attempt by it.

mod support;

use support::events::{INPUT, stream_len};
use support::fleet::Fleet;
use support::proxy::{Action, Kind, random_cuts};
use support::wait::eventually;

/// A mixed set: empty ones, those of one chunk, those that end with a chunk, those of several.
const SIZES: [usize; 18] = [
    0, 1, 5, 1200, 40, 499, 7, 500, 0, 501, 60, 1000, 3, 25, 1600, 80, 2, 700,
];

/// Each EXEC that writes events is cut twice: before it is applied, and before its reply is there.
#[test]
fn cut_between_an_exec_and_its_reply_each_event_is_written_once() {
    let mut fleet = Fleet::new(&[]);
    let instance = fleet.start(2);
    let (mut seen, mut even) = (0, false);
    let before = instance.proxy.rule(Action::CutBefore, move |exec| {
        seen += usize::from(exec.writes_events());
        exec.writes_events() && seen % 3 == 0
    });
    let after = instance.proxy.rule(Action::CutAfter, move |exec| {
        even ^= exec.writes_events();
        exec.writes_events() && even
    });
    fleet.put(&SIZES);
    for repo in 0..fleet.repos.len() {
        let id = fleet.ids[repo].clone();
        instance
            .proxy
            .wait("the last chunk is applied", 1, move |it| {
                it.kind == Kind::LastChunk && it.is_applied() && it.id.as_ref() == Some(&id)
            });
    }
    let (not_applied, applied) = (before.records(), after.records());
    assert!(
        not_applied
            .iter()
            .all(|it| !it.is_applied() && !it.handed_on)
    );
    assert!(applied.iter().all(|it| it.is_applied() && !it.handed_on));
    for records in [&not_applied, &applied] {
        let last = records
            .iter()
            .filter(|it| it.kind == Kind::LastChunk)
            .count();
        assert!(records.len() >= 10, "{}", records.len());
        assert!(
            last >= 3 && records.len() - last >= 3,
            "{last} of {}",
            records.len()
        );
    }
    drop((before, after));
    fleet.assert_written_once([instance]);
}

/// Two instances, whose connections are all cut sooner or later, in either direction.
#[track_caller]
fn cut_at_random_bytes(seed: u64) {
    const CUTS: usize = 100;
    let mut fleet = Fleet::new(&[]);
    let instances = [fleet.start(2), fleet.start(2)];
    for (seed, instance) in (2 * seed..).zip(&instances) {
        instance.proxy.cut_bytes(random_cuts(seed, 1 << 20));
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
            .all(|it| it.proxy.counts().cut_bytes >= CUTS / 2)
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
