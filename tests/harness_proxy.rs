//! The proxy of the harness: each thing that it can do to a connection, against a real server.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::{self, AssertUnwindSafe};
use std::thread::{self, JoinHandle};

use redis::{Connection, RedisResult, Value};

use support::events::{DEAD_LETTERS, GROUP, INPUT, OUTPUT, stream_len};
use support::proxy::{Action, Cut, Exec, Kind, Outcome, Proxy, Towards, random_cuts};
use support::redis_server::RedisServer;
use support::wait::{LIMIT, eventually};

const PROGRESS: &str = "firehose_backfill:progress:repo_backfill:repo_backfill_group:7-0";

fn connect(proxy: &Proxy) -> RedisResult<Connection> {
    let client = redis::Client::open(proxy.url())?;
    let connection = client.get_connection_with_timeout(LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

/// A server, a proxy before it, and a connection past the proxy.
fn stage() -> (RedisServer, Proxy, Connection) {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port());
    let connection = redis.connection();
    (redis, proxy, connection)
}

/// Commands in Redis's protocol: each of words between blanks.
fn packed(commands: &[&str]) -> Vec<u8> {
    let packed = commands.iter().map(|command| {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| _ = command.arg(word));
        command.get_packed_command()
    });
    packed.collect::<Vec<_>>().concat()
}

/// Writes a chunk and what follows it, in one write; the replies to MULTI and XADD, to EXEC, and to what follows it.
fn write_chunk(connection: &mut Connection) -> RedisResult<Vec<Value>> {
    let (add, watch) = (
        format!("XADD {OUTPUT} * event x"),
        format!("WATCH {PROGRESS}"),
    );
    let set = format!("HSET {PROGRESS} commit 1");
    let length = format!("XLEN {OUTPUT}");
    let chunk = packed(&["MULTI", &add, &set, "EXEC", &watch, &length]);
    connection.send_packed_command(&chunk)?;
    (0..6).map(|_| connection.recv_response()).collect()
}

fn chunk_in_background(proxy: &Proxy) -> JoinHandle<RedisResult<Vec<Value>>> {
    let mut connection = connect(proxy).unwrap();
    thread::spawn(move || write_chunk(&mut connection))
}

#[track_caller]
fn assert_length_after(replies: RedisResult<Vec<Value>>, length: i64) {
    let replies = replies.expect("all is answered");
    assert!(
        matches!(&replies[3], Value::Array(it) if it.len() == 2),
        "{replies:?}"
    );
    assert_eq!(replies[5], Value::Int(length));
}

#[test]
fn it_tells_what_a_transaction_is_for() {
    let (_redis, proxy, _) = stage();
    let mut connection = connect(&proxy).unwrap();
    let add = format!("XADD {OUTPUT} * event x");
    let acknowledge = format!("XACK {INPUT} {GROUP} 7-0");
    let letter = format!("XADD {DEAD_LETTERS} * repo x");
    let progress = format!("HSET {PROGRESS} failed x");
    let claim = format!("XCLAIM {INPUT} {GROUP} me 0 7-0 RETRYCOUNT 1 JUSTID");
    let expected = [
        (vec![&add, &progress], Kind::Chunk),
        (vec![&add, &acknowledge], Kind::LastChunk),
        (vec![&letter, &acknowledge], Kind::DeadLetter),
        (vec![&progress, &claim], Kind::Other),
        (vec![&claim], Kind::Other),
    ];
    for (commands, _) in &expected {
        let mut all = vec!["MULTI"];
        all.extend(commands.iter().map(|command| command.as_str()));
        all.push("EXEC");
        connection.send_packed_command(&packed(&all)).unwrap();
        all.iter()
            .for_each(|_| _ = connection.recv_response().unwrap());
    }
    proxy.wait("all are handed on", 5, |record| record.handed_on);
    let seen: Vec<_> = proxy
        .records()
        .into_iter()
        .map(|it| (it.kind, it.id))
        .collect();
    let expected = expected.map(|(_, kind)| (kind, Some("7-0".to_owned())));
    assert_eq!(seen, expected);
    assert_eq!(proxy.count(|record| record.is_applied()), 5);
    assert_eq!(proxy.counts().connections, 1);
}

#[test]
fn it_tells_a_nil_and_a_refused_exec() {
    let (_redis, proxy, mut other) = stage();
    let mut connection = connect(&proxy).unwrap();
    let () = redis::cmd("WATCH")
        .arg(PROGRESS)
        .query(&mut connection)
        .unwrap();
    let () = redis::cmd("HSET")
        .arg(PROGRESS)
        .arg(&["owner", "other"])
        .query(&mut other)
        .unwrap();
    assert_eq!(write_chunk(&mut connection).unwrap()[3], Value::Nil);
    assert_eq!(proxy.count(|record| record.is_nil()), 1);
    // A command at a time, as somebody does who waits for each reply.
    let () = redis::cmd("MULTI").query(&mut connection).unwrap();
    let bad: RedisResult<()> = redis::cmd("HSET").query(&mut connection);
    assert!(bad.is_err());
    let refused: RedisResult<()> = redis::cmd("EXEC").query(&mut connection);
    assert!(refused.is_err());
    let last = proxy.records().pop().unwrap();
    assert!(matches!(last.outcome, Outcome::Refused(why) if why.contains("EXECABORT")));
}

#[test]
fn cut_before_an_exec_it_is_not_applied_and_after_it_it_is() {
    let (_redis, proxy, mut other) = stage();
    for (action, length) in [(Action::CutBefore, 0), (Action::CutAfter, 1)] {
        let rule = proxy.once(action, Exec::is_chunk);
        let mut connection = connect(&proxy).unwrap();
        assert!(write_chunk(&mut connection).is_err());
        rule.wait(1);
        assert_eq!(stream_len(&mut other, OUTPUT), length);
        let record = rule.records().pop().unwrap();
        assert_eq!((record.action, record.handed_on), (Some(action), false));
        assert_eq!(record.is_applied(), length == 1);
    }
    assert_eq!(proxy.counts().cut, 2);
    let mut connection = connect(&proxy).unwrap();
    assert_length_after(write_chunk(&mut connection), 2);
}

#[test]
fn a_delayed_exec_arrives_when_it_is_released_whether_its_client_waits_or_not() {
    let (_redis, proxy, mut other) = stage();
    let rule = proxy.rule(Action::Delay, Exec::is_chunk);
    let waiting = chunk_in_background(&proxy);
    rule.wait(1);
    assert_eq!((rule.held(), stream_len(&mut other, OUTPUT)), (1, 0));
    rule.release();
    assert_length_after(waiting.join().unwrap(), 1);

    let cut = chunk_in_background(&proxy);
    rule.wait(2);
    rule.cut_held();
    assert!(cut.join().unwrap().is_err());
    assert_eq!((rule.held(), stream_len(&mut other, OUTPUT)), (1, 1));
    rule.release();
    proxy.wait("both are applied", 2, |record| record.is_applied());
    assert_eq!(stream_len(&mut other, OUTPUT), 2);
    assert!(!rule.records()[1].handed_on);
}

#[test]
fn a_delayed_exec_keeps_the_watch_of_its_connection() {
    let (_redis, proxy, mut other) = stage();
    let mut connection = connect(&proxy).unwrap();
    let () = redis::cmd("WATCH")
        .arg(PROGRESS)
        .query(&mut connection)
        .unwrap();
    let rule = proxy.once(Action::Delay, |_| true);
    let waiting = thread::spawn(move || write_chunk(&mut connection));
    rule.wait(1);
    proxy.cut_all();
    let () = redis::cmd("HSET")
        .arg(PROGRESS)
        .arg(&["owner", "other"])
        .query(&mut other)
        .unwrap();
    rule.release();
    proxy.wait("it is answered with nil", 1, |record| record.is_nil());
    assert!(waiting.join().unwrap().is_err());
    assert_eq!(stream_len(&mut other, OUTPUT), 0);
}

#[test]
fn a_held_reply_is_of_an_exec_that_is_applied_and_unanswered() {
    let (_redis, proxy, mut other) = stage();
    let rule = proxy.rule(Action::HoldReply, Exec::is_chunk);
    let clients: Vec<_> = (0..3).map(|_| chunk_in_background(&proxy)).collect();
    rule.wait(3);
    assert_eq!((rule.held(), stream_len(&mut other, OUTPUT)), (3, 3));
    assert_eq!(proxy.count(|record| record.handed_on), 0);
    rule.release();
    for client in clients {
        assert!(client.join().unwrap().is_ok());
    }
    assert_eq!((rule.held(), rule.count()), (0, 3));

    // A client that goes leaves nothing that is held.
    let mut connection = connect(&proxy).unwrap();
    let add = format!("XADD {OUTPUT} * event x");
    connection
        .send_packed_command(&packed(&["MULTI", &add, "EXEC"]))
        .unwrap();
    rule.wait(4);
    drop(connection);
    eventually("nothing is held", || rule.held() == 0);
    assert_eq!(proxy.count(|record| record.handed_on), 3);
}

#[test]
fn what_follows_an_exec_waits_while_its_reply_does_not() {
    let (_redis, proxy, mut other) = stage();
    let rule = proxy.once(Action::PauseAfter, Exec::is_chunk);
    let client = chunk_in_background(&proxy);
    rule.wait(1);
    proxy.wait("the reply is there", 1, |record| record.handed_on);
    let () = redis::cmd("XADD")
        .arg(OUTPUT)
        .arg(&["*", "event", "between"])
        .query(&mut other)
        .unwrap();
    drop(rule);
    assert_length_after(client.join().unwrap(), 2);
}

#[test]
fn a_connection_is_cut_after_a_number_of_bytes() {
    let (_redis, proxy, _) = stage();
    let ping = b"PING\r\n".repeat(3);
    for (towards, replies) in [(Towards::Server, 2), (Towards::Client, 0)] {
        proxy.cut_bytes(move |_| Some(Cut { after: 13, towards }));
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&ping).unwrap();
        let mut read = Vec::new();
        let _ = client.read_to_end(&mut read);
        match towards {
            Towards::Server => assert!(read.len() <= 7 * replies, "{read:?}"),
            Towards::Client => assert_eq!(read, b"+PONG\r\n+PONG\r"),
        }
    }
    assert_eq!((proxy.counts().cut_bytes, proxy.counts().cut), (2, 2));
    proxy.no_more_cut_bytes();
    assert_length_after(write_chunk(&mut connect(&proxy).unwrap()), 1);
}

#[test]
fn random_cuts_are_the_same_for_the_same_seed_and_some_let_a_chunk_through() {
    let (_redis, proxy, mut other) = stage();
    let cuts = |seed| {
        let mut choose = random_cuts(seed, 4..16);
        let cuts = (0..50).map(|number| choose(number).unwrap());
        cuts.map(|cut| (cut.after, cut.towards)).collect::<Vec<_>>()
    };
    assert_eq!(cuts(1), cuts(1));
    assert_ne!(cuts(1), cuts(2));
    assert!(
        cuts(1)
            .iter()
            .all(|(after, _)| (8..1 << 15).contains(after))
    );
    proxy.cut_bytes(random_cuts(1, 1..13));
    let ok = (0..50).filter(|_| connect(&proxy).is_ok_and(|mut it| write_chunk(&mut it).is_ok()));
    let ok = ok.count();
    assert!((5..45).contains(&ok), "{ok}");
    proxy.no_more_cut_bytes();
    // What the client was not told of may have been applied all the same; the records know.
    eventually("each EXEC is answered", || {
        proxy.count(|record| record.outcome == Outcome::Unanswered) == 0
    });
    let applied = proxy.count(|record| record.is_applied());
    assert_eq!(applied, stream_len(&mut other, OUTPUT));
    assert!(applied >= ok);
}

#[test]
fn connections_are_turned_away_and_led_elsewhere() {
    let (mut redis, proxy, mut other) = stage();
    let promoted = RedisServer::start();
    let mut old = connect(&proxy).unwrap();
    proxy.set_upstream(promoted.port());
    assert_length_after(write_chunk(&mut old), 1);
    let mut new = connect(&proxy).unwrap();
    assert_length_after(write_chunk(&mut new), 1);
    assert_eq!(stream_len(&mut other, OUTPUT), 1);
    assert_eq!(stream_len(&mut promoted.connection(), OUTPUT), 1);

    proxy.refuse(true);
    proxy.cut_all();
    assert!(write_chunk(&mut old).is_err() && write_chunk(&mut new).is_err());
    assert!(connect(&proxy).is_err());
    proxy.refuse(false);
    proxy.set_upstream(redis.port());
    redis.stop();
    assert!(connect(&proxy).is_err());
    redis.restart();
    assert_length_after(write_chunk(&mut connect(&proxy).unwrap()), 1);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.refused), (3, 1));
    assert_eq!((counts.cut, counts.unreachable), (2, 1));
}

#[test]
fn all_connections_are_cut_but_the_one_on_which_an_exec_is_held() {
    let (_redis, proxy, _) = stage();
    let mut other = connect(&proxy).unwrap();
    assert_length_after(write_chunk(&mut other), 1);
    let rule = proxy.once(Action::PauseAfter, Exec::is_chunk);
    let client = chunk_in_background(&proxy);
    rule.wait(1);
    proxy.cut_others(&rule);
    assert!(write_chunk(&mut other).is_err());
    rule.release();
    assert_length_after(client.join().unwrap(), 2);
    assert_eq!(proxy.counts().cut, 1);
}

#[test]
fn the_oldest_rule_that_wants_an_exec_has_it_and_a_stopped_one_wants_none() {
    let (_redis, proxy, _) = stage();
    let first = proxy.rule(Action::PauseAfter, Exec::is_chunk);
    let second = proxy.rule(Action::CutBefore, Exec::writes_events);
    let client = chunk_in_background(&proxy);
    first.wait(1);
    first.stop();
    assert!(write_chunk(&mut connect(&proxy).unwrap()).is_err());
    assert_eq!((first.count(), first.held(), second.count()), (1, 1, 1));
    first.release();
    assert_length_after(client.join().unwrap(), 1);
}

#[test]
fn it_ends_with_a_failing_test_whatever_it_holds() {
    let (redis, mut other) = (RedisServer::start(), None);
    let failed = panic::catch_unwind(AssertUnwindSafe(|| {
        let proxy = Proxy::start(redis.port());
        let rules = [Action::Delay, Action::HoldReply, Action::PauseAfter]
            .map(|action| proxy.once(action, |_| true));
        other = Some([(); 3].map(|()| chunk_in_background(&proxy)));
        rules.iter().for_each(|rule| rule.wait(1));
        // A handle that outlives the proxy.
        std::mem::forget(rules);
        panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(failed.is_err());
    for client in other.unwrap() {
        assert!(client.join().unwrap().is_err());
    }
}
