//! Lanes and turns, in virtual time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::cli::Cli;
use crate::config::Config;
use crate::fetch::limits::Limits;
use crate::hosts::Hosts;

fn hosts() -> Arc<Hosts> {
    let cli = Cli {
        consumer: Some("one".to_owned()),
        ..Cli::default()
    };
    Hosts::new(&Arc::new(Config::from_cli(&cli).unwrap()))
}

/// A scheduler, the gates, a clock, and what is in flight.
struct Stage {
    scheduler: Scheduler<u64>,
    hosts: Arc<Hosts>,
    now: Instant,
    next_id: u64,
    /// Host and id of what was begun, in this order.
    begun: Vec<(Key, u64)>,
}

impl Stage {
    fn new(workers: usize) -> Self {
        Stage {
            scheduler: Scheduler::new(workers),
            hosts: hosts(),
            // Behind all that the gates themselves may take for the present.
            now: Instant::now() + Duration::from_secs(1),
            next_id: 0,
            begun: Vec::new(),
        }
    }

    /// Reads so many messages of a host.
    fn read(&mut self, key: &Key, count: usize) {
        let gate = self.hosts.gate(key);
        for _ in 0..count {
            let id = self.next_id;
            self.next_id += 1;
            match self.scheduler.place(key, &gate, (false, true), self.now) {
                Place::Hold => self.scheduler.hold(key, &gate, id),
                Place::Park => self.scheduler.park(key, &gate, parked(id), Kind::New),
            }
        }
    }

    /// One round of the reader, with so many workers free; each job is done at once.
    fn round(&mut self, workers: usize) {
        self.scheduler.begin_round();
        for _ in 0..workers {
            for (key, gate, job) in self.scheduler.unwanted(self.now, |_| false) {
                self.scheduler
                    .park(&key, &gate, parked(job), Kind::Returned);
            }
            for (key, gate, parked) in self.scheduler.wanted(self.now, true) {
                let EntryId(id, _) = parked.id;
                self.scheduler.hold(&key, &gate, id);
            }
            let Some((key, id, pass)) = self.scheduler.next(self.now, |_| None) else {
                break;
            };
            if let Pass::Permits { mut host, .. } = pass {
                host.begin();
                host.answered(200, &Limits::default());
            }
            self.begun.push((key, id));
        }
    }

    /// So many seconds, in steps of ten milliseconds.
    fn run(&mut self, seconds: u64, workers: usize) {
        for _ in 0..seconds * 100 {
            self.round(workers);
            self.now += Duration::from_millis(10);
        }
    }

    fn count(&self, key: &Key) -> usize {
        self.begun.iter().filter(|(begun, _)| begun == key).count()
    }
}

fn parked(id: u64) -> Parked {
    Parked {
        id: EntryId(id, 0),
        learnt: None,
        needs_directory: false,
    }
}

fn public(name: &str) -> Key {
    Key::host(name, false)
}

#[test]
fn a_host_with_most_of_the_messages_does_not_delay_those_behind_it_and_has_its_full_rate() {
    let mut stage = Stage::new(16);
    let (big, small) = (public("big.example:443"), public("small.example:443"));
    stage.read(&big, 50_000);
    stage.read(&small, 100);
    stage.run(12, 16);
    assert_eq!(stage.count(&small), 100);
    // 100 at ten a second, and not one in flight more than they allow at the start.
    let last = stage
        .begun
        .iter()
        .rposition(|(key, _)| *key == small)
        .unwrap();
    assert!(last < 220, "the last of 100 was number {last}");
    let big_count = stage.count(&big);
    assert!(
        (115..=122).contains(&big_count),
        "{big_count} in 12 s at 10 a second"
    );
}

#[test]
fn hosts_without_limits_take_turns_where_workers_are_few() {
    let mut stage = Stage::new(2);
    let (big, small) = (
        Key::host("10.0.0.1:80", true),
        Key::host("10.0.0.2:80", true),
    );
    stage.read(&big, 50_000);
    stage.read(&small, 100);
    for _ in 0..130 {
        stage.round(2);
    }
    assert_eq!(
        stage.count(&small),
        100,
        "of the first 260, half are the small host's"
    );
}

#[test]
fn messages_of_a_host_keep_their_order() {
    let mut stage = Stage::new(4);
    let key = public("a.example:443");
    stage.read(&key, 500);
    stage.run(60, 4);
    let ids: Vec<_> = stage.begun.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, (0..500).collect::<Vec<_>>());
    assert!(stage.scheduler.is_empty());
    stage.round(1);
    assert_eq!(stage.scheduler.lanes(), 0, "no lane is left behind");
}

#[test]
fn neither_new_messages_of_a_host_nor_those_that_are_due_again_wait_for_all_of_the_others() {
    for (new, again) in [(1000, 1), (1, 1000)] {
        let mut stage = Stage::new(1);
        let key = Key::host("10.0.0.1:80", true);
        let gate = stage.hosts.gate(&key);
        // Whatever is held comes first.
        stage.read(&key, 8);
        let park = |stage: &mut Stage, ids: Range<u64>, kind| {
            for id in ids {
                stage.scheduler.park(&key, &gate, parked(id), kind);
            }
        };
        let (news, agains) = (10_000..10_000 + new, 20_000..20_000 + again);
        if new > again {
            park(&mut stage, news.clone(), Kind::New);
            park(&mut stage, agains.clone(), Kind::Again);
        } else {
            park(&mut stage, agains.clone(), Kind::Again);
            park(&mut stage, news.clone(), Kind::New);
        }
        stage.run(20, 1);
        let place = |id| stage.begun.iter().position(|(_, begun)| *begun == id);
        let few = if new > again {
            agains.start
        } else {
            news.start
        };
        assert!(matches!(place(few), Some(8..=10)), "{new} and {again}");
        assert!(stage.scheduler.is_empty());
        assert_eq!(stage.begun.len(), 8 + 1001);
    }
}

#[test]
fn kinds_take_turns_and_keep_their_order() {
    let mut parking = Parking::default();
    let kinds = [Kind::Again, Kind::New, Kind::Returned];
    for (kind, base) in kinds.into_iter().zip([30, 20, 10]) {
        (0..3).for_each(|n| parking.push(parked(base + n), kind));
    }
    parking.push(parked(33), Kind::Again);
    assert_eq!(parking.len(true), 10);
    let ids = std::iter::from_fn(|| parking.pop(true).map(|parked| parked.id.0));
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids, [10, 20, 30, 11, 21, 31, 12, 22, 32, 33]);
    assert!(parking.is_empty());
}

#[test]
fn no_more_is_held_than_the_look_ahead_and_than_its_host_would_take() {
    let mut stage = Stage::new(8);
    let own = Key::host("10.0.0.1:80", true);
    stage.read(&own, 1000);
    assert_eq!(stage.scheduler.counts(), (16, 984));
    let mut stage = Stage::new(8);
    stage.read(&public("a.example:443"), 1000);
    assert_eq!(stage.scheduler.counts(), (1, 999), "it is not known yet");
}

#[test]
fn hosts_that_wait_do_not_fill_the_look_ahead() {
    let mut stage = Stage::new(4);
    // A thousand hosts that answer nothing, for whatever was begun is still in flight.
    let mut in_flight = Vec::new();
    for n in 0..1000 {
        let key = public(&format!("slow-{n}.example:443"));
        let gate = stage.hosts.gate(&key);
        in_flight.push(gate.permit(stage.now).unwrap());
        stage.read(&key, 10);
    }
    let key = public("quick.example:443");
    stage.read(&key, 10);
    stage.run(3, 4);
    assert_eq!(stage.count(&key), 10);
    assert_eq!(stage.begun.len(), 10);
    assert_eq!(stage.scheduler.counts(), (0, 10_000));
    assert!(stage.scheduler.is_hungry());
    drop(in_flight);
}

#[test]
fn what_is_held_is_parked_again_when_its_host_closes() {
    let mut stage = Stage::new(8);
    let key = public("a.example:443");
    let gate = stage.hosts.gate(&key);
    stage.read(&key, 5);
    let mut permit = gate.permit_in_advance().unwrap();
    permit.begin();
    permit.answered(429, &Limits::default());
    assert_eq!(stage.scheduler.counts(), (1, 4));
    stage.round(8);
    assert_eq!(stage.scheduler.counts(), (0, 5));
    let next = stage.scheduler.next_ready().unwrap();
    assert!(next > stage.now && next < stage.now + Duration::from_secs(31));
    drop(permit);
    stage.run(60, 8);
    let ids: Vec<_> = stage.begun.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
}

#[test]
fn who_must_be_looked_up_waits_for_the_directory_and_holds_up_nobody() {
    let mut stage = Stage::new(4);
    let key = Key::host("10.0.0.1:80", true);
    let gate = stage.hosts.gate(&key);
    stage.read(&key, 8);
    // The directory closes: every second one needs it.
    let unwanted = stage.scheduler.unwanted(stage.now, |id| id % 2 == 1);
    let ids: Vec<_> = unwanted.iter().map(|(.., id)| *id).collect();
    assert_eq!(ids, [1, 3, 5, 7]);
    for (key, gate, id) in unwanted {
        let parked = Parked {
            needs_directory: true,
            ..parked(id)
        };
        stage.scheduler.park(&key, &gate, parked, Kind::Returned);
    }
    assert!(stage.scheduler.wanted(stage.now, false).is_empty());
    // They are not in the way of those that come later, at the same host.
    let place = |needs_directory| {
        stage
            .scheduler
            .place(&key, &gate, (needs_directory, false), stage.now)
    };
    assert_eq!((place(false), place(true)), (Place::Hold, Place::Park));
    // And go on from where they are, no more than there is room for.
    let wanted = stage.scheduler.wanted(stage.now, true);
    assert_eq!(wanted.len(), 4);
}

#[test]
fn a_message_that_needs_a_look_up_waits_for_its_token_and_gives_nothing_away() {
    let mut stage = Stage::new(4);
    let directory = stage.hosts.gate(&Key::directory("plc.example:443", false));
    let key = public("a.example:443");
    stage.read(&key, 1);
    let owed: Vec<_> = (0..100).map(|_| directory.permit_in_advance()).collect();
    stage.scheduler.begin_round();
    let look_up = |_: &u64| Some(directory.clone());
    assert!(stage.scheduler.next(stage.now, look_up).is_none());
    let ready = stage.scheduler.next_ready().unwrap();
    assert!(ready > stage.now && ready < stage.now + Duration::from_secs(3));
    let (_, _, pass) = stage.scheduler.next(ready, look_up).unwrap();
    assert!(matches!(
        pass,
        Pass::Permits {
            look_up: Some(_),
            ..
        }
    ));
    drop(owed);
}

#[test]
fn parked_once_is_parked_once_and_reading_stops_at_the_most() {
    let mut stage = Stage::new(2);
    let key = public("a.example:443");
    let gate = stage.hosts.gate(&key);
    for _ in 0..2 {
        (0..10).for_each(|id| stage.scheduler.park(&key, &gate, parked(id), Kind::New));
    }
    assert_eq!(stage.scheduler.counts(), (0, 10));
    assert_eq!(stage.scheduler.room(), MOST_PARKED - 10);
    assert!(stage.scheduler.is_parked("7-0") && !stage.scheduler.is_parked("7-1"));
    (0..2 * MOST_PARKED as u64)
        .for_each(|id| stage.scheduler.park(&key, &gate, parked(id), Kind::New));
    assert_eq!(stage.scheduler.room(), 0);
}

#[test]
fn the_last_of_the_host_with_the_most_are_forgotten() {
    let mut stage = Stage::new(4);
    let (few, many) = (public("few.example:443"), public("many.example:443"));
    stage.read(&few, 100);
    stage.read(&many, 300);
    assert_eq!(stage.scheduler.forget(250), 250);
    let (held, parked) = stage.scheduler.counts();
    assert_eq!(held + parked, 150);
    let known = |id: u64| stage.scheduler.is_parked(&format!("{id}-0"));
    assert!(known(99) && known(148) && !known(150) && !known(399));
    // From now on the other one has more.
    stage.scheduler.forget(20);
    assert!(!stage.scheduler.is_parked("99-0"));
    assert_eq!(Scheduler::<u64>::new(1).forget(5), 0);
}
