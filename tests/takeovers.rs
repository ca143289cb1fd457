//! Instances that stand still for longer than their lease, a server that is restarted, and a replica that is promoted: what one
//! instance has begun another one finishes, or the same one after it was rolled back, and each event is there once (I2).

mod support;

use support::events::{OUTPUT, stream_len, wait_until_drained};
use support::fixture_server::Fault;
use support::fleet::{DURABLE, Fleet, Instance, assert_written_once};
use support::proxy::{Action, Exec, Proxy, Record};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// Stops the owner, which has these messages in work; another instance finishes them; then the owner goes on, and each EXEC that it
/// sends or has sent must be answered with nil. Returns the other instance.
#[track_caller]
fn overtake(fleet: &Fleet, mut owner: Instance, first: usize, go_on: impl FnOnce()) -> Instance {
    owner.freeze();
    let repos = &fleet.repos[first..];
    let other = fleet.start(repos.len());
    repos.iter().for_each(|repo| other.wait_until_done(repo));
    let nil_to_events = |it: &Record| it.is_nil() && it.writes_events();
    let before = owner.count(nil_to_events);
    go_on();
    owner.thaw();
    // A process that goes on has lost its connections, and with them the answers: it asks what has become of the messages.
    repos.iter().for_each(|repo| owner.wait_until_left(repo));
    // The answer to an EXEC that was still on its way may come behind that.
    let all = before + repos.len();
    owner
        .proxy
        .wait("each EXEC is answered with nil", all, nil_to_events);
    assert_eq!(owner.count(nil_to_events), all);
    owner.end();
    other
}

/// The EXECs are on their way to Redis when their owner is stopped: the first ones of their repos, then the last ones.
#[test]
fn what_a_stopped_owner_has_sent_comes_too_late() {
    let mut fleet = Fleet::new(&[]);
    let sizes = [5, 1100, 600, 0, 40, 501];
    let mut owner = fleet.start(sizes.len());
    for wanted in [Exec::writes_events, Exec::is_last_chunk] {
        let first = fleet.repos.len();
        let rule = owner.proxy.rule(Action::Delay, wanted);
        fleet.put(&sizes);
        rule.wait(sizes.len());
        owner = overtake(&fleet, owner, first, || drop(rule));
    }
    fleet.assert_written_once([owner]);
}

/// The owner is stopped while it fetches, and sends its EXECs when it goes on.
#[test]
fn what_a_stopped_owner_sends_later_comes_too_late() {
    let mut fleet = Fleet::new(&[]);
    let sizes = [5, 501, 0, 40, 1, 600, 20, 0, 33, 500, 7, 80];
    for size in sizes {
        let repo = fleet.serve(size);
        // Only the first request stands still: that of the other instance is answered.
        let fault = Fault::Then(vec![Fault::Hold { after: 100 }]);
        fleet.server.set_fault(&fleet.repos[repo].did, fault);
    }
    let owner = fleet.start(sizes.len());
    fleet.enqueue();
    let dids: Vec<_> = fleet.repos.iter().map(|repo| repo.did.clone()).collect();
    dids.iter()
        .for_each(|did| fleet.server.wait_until_held(did, 1));
    assert_eq!(owner.count(Record::writes_events), 0, "none is sent yet");
    let release = || dids.iter().for_each(|did| fleet.server.release(did));
    let other = overtake(&fleet, owner, 0, release);
    fleet.assert_written_once([other]);
}

/// Redis is killed while an EXEC is on its way to it, or the answer on its way back, and others are being executed.
///
/// Once for each server: of a transaction that was torn when it was killed Redis 7.0 leaves the beginning in its file, and after a
/// second restart it executes that.
#[track_caller]
fn restart_once(action: Action, wanted: fn(&Exec) -> bool) {
    let mut fleet = Fleet::new(&DURABLE);
    // One for both, for it is all the same whose EXEC it is that is caught.
    let proxy = Proxy::start(fleet.redis.port());
    let start = || fleet.start_with(2, |builder| builder.env("REDIS_URL", proxy.url()));
    let instances = [start(), start()];
    let rule = proxy.once(action, wanted);
    fleet.put(&[700, 5, 1100, 0, 501, 40, 600]);
    rule.wait(1);
    fleet.redis.stop();
    rule.cut_held();
    assert_eq!(rule.records()[0].is_applied(), action == Action::HoldReply);
    drop(rule);
    fleet.redis.restart();
    fleet.connection = fleet.redis.connection();
    fleet.assert_written_once(instances);
}

#[test]
fn restarted_from_its_append_only_file_before_a_chunk_redis_has_each_event_once() {
    restart_once(Action::Delay, Exec::is_chunk);
    restart_once(Action::Delay, Exec::is_last_chunk);
}

#[test]
fn restarted_from_its_append_only_file_behind_a_chunk_redis_has_each_event_once() {
    restart_once(Action::HoldReply, Exec::is_chunk);
    restart_once(Action::HoldReply, Exec::is_last_chunk);
}

/// The one message is of a repo of that many records, of which the first chunk is written on a master and its replica; the second
/// one is written on the master alone, and acknowledged. Then the replica takes the master's place.
#[track_caller]
fn promote_after_losing_a_chunk(size: usize) {
    let mut fleet = Fleet::new(&["--repl-diskless-sync-delay", "0"]);
    let port = fleet.redis.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let mut promoted = replica.connection();
    eventually("the replica follows", || {
        let mut info = redis::cmd("INFO");
        let info: String = info.arg("replication").query(&mut promoted).unwrap();
        info.contains("master_link_status:up")
    });
    let mut instance = fleet.start(1);
    let proxy = &instance.proxy;
    let first = proxy.once(Action::PauseAfter, Exec::is_chunk);
    fleet.put(&[size]);
    first.wait(1);
    eventually("the replica has the first chunk", || {
        stream_len(&mut promoted, OUTPUT) == 501
    });
    let mut detach = redis::cmd("REPLICAOF");
    let () = detach.arg(&["NO", "ONE"]).query(&mut promoted).unwrap();

    let second = proxy.once(Action::PauseAfter, Exec::is_chunk);
    drop(first);
    if size > 1000 {
        second.wait(1);
    } else {
        instance.wait_until_done(&fleet.repos[0]);
    }
    let acknowledged = |it: &Record| it.is_applied() && it.handed_on;
    proxy.wait("both are acknowledged", 2, acknowledged);
    proxy.refuse(true);
    proxy.cut_all();
    proxy.set_upstream(replica.port());
    proxy.refuse(false);

    wait_until_drained(&mut promoted);
    instance.end();
    assert_written_once(&mut promoted, &fleet.repos);
}

#[test]
fn a_chunk_that_the_promoted_replica_has_lost_is_written_there_again() {
    promote_after_losing_a_chunk(1200);
}

#[test]
fn a_last_chunk_that_the_promoted_replica_has_lost_is_written_there_again() {
    promote_after_losing_a_chunk(900);
}
