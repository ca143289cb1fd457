//! The last dead letters in `/status.json`: they can be long and many, so each is read once, and nothing else waits for them.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use redis::Connection;
use serde_json::Value;

use support::events::{DEAD_LETTERS, OUTPUT};
use support::hostile::stage::Stage;
use support::ops::{Ops, watched};
use support::verdicts::{hasty, stop};
use support::wait::{LIMIT, eventually};

/// Letters that are shown.
const SHOWN: usize = 10;
/// How long a letter takes on its way: less than the program waits for an answer, and longer than it lets others wait for it.
const SLOW: Duration = Duration::from_millis(1200);

/// Adds a letter with so long a message; returns its id.
fn add(connection: &mut Connection, bytes: usize) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(DEAD_LETTERS).arg("*");
    add.arg("repo").arg("a".repeat(bytes));
    for (name, value) in [("reason", "network"), ("error", "no"), ("attempts", "3")] {
        add.arg(name).arg(value);
    }
    add.query(connection).expect("XADD")
}

/// The ids of the letters that are shown.
fn shown(status: &Value) -> Vec<&str> {
    let last = status["dead_letters"]["last"].as_array().expect("a list");
    let ids = last.iter().map(|letter| letter["id"].as_str());
    ids.map(|id| id.expect("an id")).collect()
}

fn wait_until_shown(ops: Ops, what: &str, ids: &[String]) {
    eventually(what, || {
        shown(&ops.status())
            .iter()
            .eq(ids.iter().rev())
            .then_some(())
    });
}

/// How many bytes the server has sent.
fn sent(connection: &mut Connection) -> usize {
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("stats").query(connection).expect("INFO");
    let mut lines = info.lines();
    let sent = lines.find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    sent.expect("a count").parse().expect("a number")
}

#[test]
fn a_long_letter_is_read_once() {
    const LONG: usize = 1 << 20;
    let mut stage = Stage::new();
    let connection = &mut stage.connection;
    let mut ids: Vec<_> = (0..SHOWN).map(|_| add(connection, LONG)).collect();
    let backfiller = watched(hasty(&stage)).start();
    let ops = Ops::of(&backfiller);
    wait_until_shown(ops, "all are shown", &ids);

    let connection = &mut stage.connection;
    let before = sent(connection);
    ids.push(add(connection, LONG));
    wait_until_shown(ops, "the new one is shown", &ids[1..]);
    let bytes = sent(connection) - before;
    assert!((LONG..2 * LONG).contains(&bytes), "{bytes}");

    // One goes, and there is room for one that was there before; and one goes and another comes.
    let remove = |connection: &mut Connection, ids: &mut Vec<String>| {
        let mut remove = redis::cmd("XDEL");
        remove.arg(DEAD_LETTERS).arg(ids.remove(4));
        let () = remove.query(connection).expect("XDEL");
    };
    remove(connection, &mut ids);
    wait_until_shown(ops, "one fewer is shown", &ids);
    remove(connection, &mut ids);
    ids.push(add(connection, 1));
    wait_until_shown(ops, "the other one is shown", &ids);
    let () = redis::cmd("DEL")
        .arg(DEAD_LETTERS)
        .query(connection)
        .expect("DEL");
    wait_until_shown(ops, "none is shown", &[]);
    stop(backfiller);
}

/// A way to Redis on which letters take long; says of each that it is on its way.
fn slow_for_letters(redis: u16) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (asks, asked) = channel();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", redis)) else {
                return;
            };
            let ends = |stream: &TcpStream| stream.try_clone().expect("its other end");
            let (back, answers) = (ends(&client), ends(&server));
            let asks = asks.clone();
            thread::spawn(move || pass(client, server, Some(&asks)));
            thread::spawn(move || pass(answers, back, None));
        }
    });
    (port, asked)
}

fn pass(mut from: TcpStream, mut to: TcpStream, asks: Option<&Sender<()>>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        let bytes = &piece[..count];
        let is_letter = bytes.windows(9).any(|word| word == b"XREVRANGE");
        if let Some(asks) = asks.filter(|_| is_letter) {
            // The test may be over.
            let _ = asks.send(());
            thread::sleep(SLOW);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[test]
fn nothing_else_waits_for_letters() {
    const SLOW_ONES: usize = 4;
    let mut stage = Stage::new();
    let connection = &mut stage.connection;
    let ids: Vec<_> = (0..SLOW_ONES).map(|_| add(connection, 1)).collect();
    let (port, asked) = slow_for_letters(stage.redis.port());
    let backfiller = watched(hasty(&stage))
        .env("REDIS_URL", format!("redis://127.0.0.1:{port}"))
        .start();
    let ops = Ops::of(&backfiller);
    asked.recv_timeout(LIMIT).expect("letters are read");
    let status = ops.status();
    assert_eq!(status["redis"]["connected"], true, "{}", status["redis"]);
    assert_eq!(status["dead_letters"]["length"], SLOW_ONES);
    // What comes meanwhile is seen before the letters are all there.
    let mut add = redis::cmd("XADD");
    let () = add
        .arg(&[OUTPUT, "*", "event", "{}"])
        .query(&mut stage.connection)
        .expect("XADD");
    let status = eventually("it is seen", || {
        let status = ops.status();
        (status["output"]["length"] == 1).then_some(status)
    });
    assert_eq!(shown(&status), [""; 0]);
    wait_until_shown(ops, "in the end they are shown", &ids);
    stop(backfiller);
}
