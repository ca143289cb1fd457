//! The consumer group: its creation, own pending messages at the start, deleted entries, and several instances side by side.

mod support;

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use redis::Connection;

use support::backfiller::Backfiller;
use support::events::{
    DEAD_LETTERS, GROUP, INPUT, OUTPUT, assert_repo, enqueue, pending, pending_messages,
    read_events, stream_len, wait_until_drained,
};
use support::fixture_server::{Fault, FixtureServer, served};
use support::generator::{Repo, did_plc};
use support::redis_server::RedisServer;
use support::wait::eventually;

/// Two servers, a connection, and nothing in them.
fn servers() -> (RedisServer, FixtureServer, Connection) {
    let redis = RedisServer::start();
    let connection = redis.connection();
    (redis, FixtureServer::start(), connection)
}

/// Serves the repos of these seeds and enqueues them; returns the ids of the messages as well.
fn put_repos(
    server: &FixtureServer,
    connection: &mut Connection,
    seeds: impl IntoIterator<Item = u64>,
) -> Vec<(String, Repo)> {
    let put = |seed| {
        let repo = served(server, seed, 5);
        (enqueue(connection, &repo.did, Some(&server.url())), repo)
    };
    seeds.into_iter().map(put).collect()
}

/// Each repo's events are there, exactly once.
#[track_caller]
fn assert_done(connection: &mut Connection, repos: &[(String, Repo)]) {
    let events = read_events(connection, OUTPUT);
    for (_, repo) in repos {
        assert_repo(&events, repo);
    }
    assert_eq!(events.len(), repos.len() * 6);
}

fn create_group(connection: &mut Connection) {
    let () = redis::cmd("XGROUP")
        .arg(&["CREATE", INPUT, GROUP, "0", "MKSTREAM"])
        .query(connection)
        .unwrap();
}

/// Delivers that many messages to a consumer, as XREADGROUP does.
fn deliver(connection: &mut Connection, consumer: &str, count: usize) {
    let () = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, consumer, "COUNT"])
        .arg(count)
        .arg(&["STREAMS", INPUT, ">"])
        .query(connection)
        .unwrap();
}

fn stop(mut backfiller: Backfiller) -> Vec<String> {
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    backfiller.lines()
}

#[test]
fn the_group_is_created_with_its_stream_where_there_is_none() {
    let (redis, server, mut connection) = servers();
    let backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("created group repo_backfill_group"));
    assert_eq!(stream_len(&mut connection, INPUT), 0);
    let kind: String = redis::cmd("TYPE")
        .arg(INPUT)
        .query(&mut connection)
        .unwrap();
    assert_eq!(kind, "stream");
    let repos = put_repos(&server, &mut connection, 0..3);
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
}

#[test]
fn messages_from_before_the_first_start_are_processed() {
    let (redis, server, mut connection) = servers();
    let repos = put_repos(&server, &mut connection, 0..3);
    let _backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
}

#[test]
fn an_existing_group_and_other_names_are_fine() {
    let (redis, server, mut connection) = servers();
    create_group(&mut connection);
    let repos = put_repos(&server, &mut connection, 0..3);
    let backfiller = Backfiller::builder(&redis, &server).start();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    let lines = stop(backfiller);
    assert!(!lines.iter().any(|line| line.contains("created group")));

    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_BACKFILL_STREAM", "in")
        .env("BACKFILLER_GROUP", "the group")
        .env("BACKFILLER_FIREHOSE_STREAM", "out")
        .env("BACKFILLER_DLQ_STREAM", "dead")
        .start();
    for value in [
        format!(
            r#"{{"did":"{}","host":"{}"}}"#,
            repos[0].1.did,
            server.url()
        ),
        "?".into(),
    ] {
        let () = redis::cmd("XADD")
            .arg(&["in", "*", "repo", &value])
            .query(&mut connection)
            .unwrap();
    }
    eventually("events and dead letter under other names", || {
        stream_len(&mut connection, "out") == 6 && stream_len(&mut connection, "dead") == 1
    });
    backfiller.wait_for_line(|line| line.contains("created group the group of stream in"));
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 0);
}

#[test]
fn a_key_of_another_type_ends_the_start_with_a_sentence() {
    for key in [INPUT, OUTPUT, DEAD_LETTERS] {
        let (redis, server, mut connection) = servers();
        let () = redis::cmd("RPUSH")
            .arg(key)
            .arg("x")
            .query(&mut connection)
            .unwrap();
        let mut backfiller = Backfiller::builder(&redis, &server).start();
        assert_eq!(backfiller.wait().code(), Some(1), "{key}");
        let wanted = format!("the key {key} holds a list, not a stream");
        let lines = backfiller.lines();
        assert!(
            lines.iter().any(|line| line.contains(&wanted)),
            "{key}: {lines:?}"
        );
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert_eq!(keys, [key], "nothing else was touched");
    }
}

#[test]
fn a_server_in_cluster_mode_ends_the_start_with_a_sentence() {
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let server = FixtureServer::start();
    let mut backfiller = Backfiller::builder(&redis, &server).start();
    assert_eq!(backfiller.wait().code(), Some(1));
    backfiller.wait_for_line(|line| line.contains("ERROR") && line.contains("cluster mode"));
}

#[test]
fn own_pending_messages_come_first_and_only_what_begins_is_charged() {
    let (redis, server, mut connection) = servers();
    // The first message is begun and held, the second waits behind it; both stay pending.
    let mut repos = put_repos(&server, &mut connection, 0..2);
    server.set_fault(&repos[0].1.did, Fault::Hold { after: 100 });
    let builder = || {
        Backfiller::builder(&redis, &server)
            .env("BACKFILLER_CONSUMER", "one")
            .env("BACKFILLER_CONCURRENCY", "1")
            .env("BACKFILLER_LEASE_SECS", "1")
    };
    let counts = |connection: &mut Connection| -> Vec<(String, usize)> {
        let messages = pending_messages(connection).into_iter();
        messages
            .map(|message| (message.id, message.deliveries))
            .collect()
    };
    let wanted: Vec<_> = repos.iter().map(|(id, _)| (id.clone(), 1)).collect();
    let mut first = builder().start();
    server.wait_until_held(&repos[0].1.did, 1);
    eventually("both are delivered", || counts(&mut connection) == wanted);
    first.kill();
    assert_eq!(counts(&mut connection), wanted);

    repos.extend(put_repos(&server, &mut connection, 2..3));
    let second = builder().start();
    server.wait_until_held(&repos[0].1.did, 2);
    assert_eq!(
        counts(&mut connection)[..2],
        [(repos[0].0.clone(), 2), wanted[1].clone()],
        "a restart charges what it begins again, and nothing else"
    );
    server.release(&repos[0].1.did);
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    let order: Vec<_> = server
        .requests()
        .into_iter()
        .filter(support::fixture_server::Request::is_get_repo)
        .collect();
    let order: Vec<_> = order
        .iter()
        .filter_map(|request| request.did.as_deref())
        .collect();
    let dids: Vec<_> = repos.iter().map(|(_, repo)| repo.did.as_str()).collect();
    assert_eq!(order, [dids[0], dids[0], dids[1], dids[2]]);
    let lines = stop(second);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("took 2 pending messages")),
        "{lines:?}"
    );
}

#[test]
fn more_pending_messages_than_a_page_are_all_taken() {
    let (redis, server, mut connection) = servers();
    create_group(&mut connection);
    let repos = put_repos(&server, &mut connection, 0..250);
    deliver(&mut connection, "one", 250);
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "one")
        .start();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    backfiller.wait_for_line(|line| line.contains("took 250 pending messages"));
}

#[test]
fn entries_deleted_while_pending_are_counted_and_said() {
    let (redis, server, mut connection) = servers();
    create_group(&mut connection);
    let mut repos = put_repos(&server, &mut connection, 0..130);
    deliver(&mut connection, "one", 130);
    // One at the front, one in the midst, and all of the second page.
    let gone: Vec<String> = [0, 50]
        .into_iter()
        .chain(100..130)
        .map(|n: usize| repos[n].0.clone())
        .collect();
    let () = redis::cmd("XDEL")
        .arg(INPUT)
        .arg(&gone)
        .query(&mut connection)
        .unwrap();
    repos.retain(|(id, _)| !gone.contains(id));
    let backfiller = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "one")
        .start();
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    let lines = stop(backfiller);
    for id in &gone {
        let said = lines
            .iter()
            .filter(|line| line.contains(&format!("entry {id} was deleted")))
            .count();
        assert_eq!(said, 1, "{id}");
    }
    let summary = lines.iter().find(|line| line.contains("summary ")).unwrap();
    assert!(
        summary.contains("repos=98 ") && summary.contains("deleted_entries=32 "),
        "{summary}"
    );
}

#[test]
fn two_instances_share_the_work() {
    let (redis, server, mut connection) = servers();
    let one = Backfiller::builder(&redis, &server).start();
    let two = Backfiller::builder(&redis, &server).start();
    // Each of the first is held, so that no instance can do all before the other has begun.
    for seed in 0..60 {
        server.set_fault(&did_plc(seed), Fault::Hold { after: 100 });
    }
    let repos = put_repos(&server, &mut connection, 0..120);
    wait_for_two_consumers(&mut connection);
    for (_, repo) in &repos {
        server.release(&repo.did);
    }
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    let done = |lines: Vec<String>| -> BTreeSet<String> {
        let done = lines
            .iter()
            .filter_map(|line| line.split_once(" done did="));
        done.filter_map(|(_, rest)| rest.split(' ').next().map(str::to_owned))
            .collect()
    };
    let (one, two) = (done(stop(one)), done(stop(two)));
    assert!(
        !one.is_empty() && !two.is_empty(),
        "{} and {}",
        one.len(),
        two.len()
    );
    assert!(one.is_disjoint(&two));
    assert_eq!(one.len() + two.len(), repos.len());
}

fn wait_for_two_consumers(connection: &mut Connection) {
    eventually("both instances hold messages", || {
        let messages = pending_messages(connection).into_iter();
        let holders: BTreeSet<_> = messages.map(|message| message.consumer).collect();
        holders.len() == 2
    });
}

#[test]
fn the_pending_messages_of_other_consumers_are_left_alone() {
    let (redis, server, mut connection) = servers();
    create_group(&mut connection);
    let theirs = put_repos(&server, &mut connection, 0..3);
    deliver(&mut connection, "other", 3);
    let ours = put_repos(&server, &mut connection, 3..6);
    let backfiller = Backfiller::builder(&redis, &server).start();
    eventually("ours are done", || stream_len(&mut connection, INPUT) == 3);
    stop(backfiller);
    assert_done(&mut connection, &ours);
    let left = pending_messages(&mut connection);
    let left: Vec<_> = left
        .iter()
        .map(|message| (&message.id, message.consumer.as_str(), message.deliveries))
        .collect();
    let wanted: Vec<_> = theirs.iter().map(|(id, _)| (id, "other", 1)).collect();
    assert_eq!(left, wanted);
}

#[test]
fn a_group_destroyed_while_running_is_created_again() {
    let (redis, server, mut connection) = servers();
    let backfiller = Backfiller::builder(&redis, &server).start();
    backfiller.wait_for_line(|line| line.contains("created group"));
    let () = redis::cmd("XGROUP")
        .arg(&["DESTROY", INPUT, GROUP])
        .query(&mut connection)
        .unwrap();
    backfiller.wait_for_line(|line| {
        line.contains("the consumer group is gone") && line.contains("creating it again")
    });
    let repos = put_repos(&server, &mut connection, 0..3);
    wait_until_drained(&mut connection);
    assert_done(&mut connection, &repos);
    assert_eq!(pending(&mut connection), 0);
}

#[test]
fn a_stream_deleted_while_running_is_created_again_with_its_group() {
    for command in ["DEL repo_backfill", "FLUSHALL"] {
        let (redis, server, mut connection) = servers();
        let mut backfiller = Backfiller::builder(&redis, &server).start();
        backfiller.wait_for_line(|line| line.contains("created group"));
        let mut words = command.split(' ');
        let () = redis::cmd(words.next().unwrap())
            .arg(words.collect::<Vec<_>>())
            .query(&mut connection)
            .unwrap();
        let repos = put_repos(&server, &mut connection, 0..3);
        eventually("the messages are acknowledged", || {
            assert!(backfiller.is_running(), "after {command}");
            stream_len(&mut connection, INPUT) == 0
        });
        assert_done(&mut connection, &repos);
    }
}
