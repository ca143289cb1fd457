//! `backfiller status`: what it says of queue, output, dead letters and consumers, and that it outlives a Redis that is away.

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use redis::{Connection, FromRedisValue};
use serde_json::{Value, json};
use support::backfiller::Backfiller;
use support::cli::{Answer, HOSTILE, OnTerminal, assert_harmless, command, run};
use support::events::{DEAD_LETTERS, GROUP, INPUT, OUTPUT, enqueue};
use support::fixture_server::{Fault, FixtureServer, served};
use support::redis_server::RedisServer;
use support::wait::eventually;

fn query<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    redis::cmd(words[0])
        .arg(&words[1..])
        .query(connection)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[track_caller]
fn object(redis: &RedisServer, args: &[&str]) -> Value {
    let args = [&["status", "--json", "--interval", "0"], args].concat();
    let mut objects = run(redis, &args).ok().json();
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

#[track_caller]
fn text(redis: &RedisServer) -> String {
    run(redis, &["status", "--interval", "0"]).ok().stdout
}

/// The line that begins with this.
#[track_caller]
fn line<'t>(text: &'t str, start: &str) -> &'t str {
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(start));
    line.unwrap_or_else(|| panic!("no line {start:?}: {text}"))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

#[test]
fn without_streams_and_group_there_are_zeros_and_a_sentence() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let shown = text(&redis);
    assert!(line(&shown, "queue ").ends_with("0 in repo_backfill: 0 not delivered yet, 0 pending"));
    assert!(line(&shown, "rate ").ends_with("not measured"));
    assert!(line(&shown, "output ").contains("0 in firehose_backfill, of 100,000 at which"));
    assert!(line(&shown, "dead letters ").ends_with("0 in repo_backfill_dlq"));
    assert!(line(&shown, "There is no stream repo_backfill yet").ends_with('.'));
    let none = object(&redis, &[]);
    let wanted = json!({
        "now_ms": none["now_ms"],
        "redis": { "connected": true, "error": null },
        "queue": { "stream": INPUT, "exists": false, "length": 0 },
        "group": {
            "name": GROUP, "exists": false, "pending": 0, "undelivered": 0, "undelivered_is_estimate": false,
        },
        "pending": { "looked_at": 0, "is_sample": false, "by_age": none["pending"]["by_age"], "by_attempts": {} },
        "consumers": [], "more_consumers": 0,
        "output": { "stream": OUTPUT, "length": 0, "high_water_mark": 100_000 },
        "dead_letters": { "stream": DEAD_LETTERS, "length": 0, "looked_at": 0, "by_reason": {} },
        "rate": null,
    });
    assert_eq!(none, wanted);
    let age = none["now_ms"].as_u64().unwrap().abs_diff(now_ms());
    assert!(age < 60_000, "{age} ms");

    enqueue(&mut connection, "did:plc:a", None);
    enqueue(&mut connection, "did:plc:b", None);
    let shown = text(&redis);
    assert!(line(&shown, "queue ").ends_with("2 in repo_backfill: 2 not delivered yet, 0 pending"));
    line(&shown, "There is no group repo_backfill_group yet");
    let object = object(&redis, &[]);
    assert_eq!(
        object["queue"],
        json!({ "stream": INPUT, "exists": true, "length": 2 })
    );
    assert_eq!(object["group"]["undelivered"], 2);
    assert_eq!(object["group"]["exists"], false);
}

#[test]
fn pending_messages_are_counted_by_age_and_attempts() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let now = now_ms();
    let ages = [12 * 86_400, 2 * 86_400, 7 * 3600, 3 * 3600, 1800, 300, 10];
    for seconds in ages {
        let id = format!("{}-0", now - seconds * 1000);
        let _: String = query(&mut connection, &["XADD", INPUT, &id, "repo", "x"]);
    }
    let _: String = query(
        &mut connection,
        &["XADD", INPUT, "*", "repo", "not delivered"],
    );
    let () = query(&mut connection, &["XGROUP", "CREATE", INPUT, GROUP, "0"]);
    let read = [
        "XREADGROUP",
        "GROUP",
        GROUP,
        "c1",
        "COUNT",
        "7",
        "STREAMS",
        INPUT,
        ">",
    ];
    let _: redis::Value = query(&mut connection, &read);
    for (n, attempts) in [(0, "8"), (1, "12"), (2, "3")] {
        let id = format!("{}-0", now - ages[n] * 1000);
        let claim = [
            "XCLAIM",
            INPUT,
            GROUP,
            "c2",
            "0",
            &id,
            "RETRYCOUNT",
            attempts,
        ];
        let _: redis::Value = query(&mut connection, &claim);
    }
    let found = object(&redis, &[]);
    let group = json!({
        "name": GROUP, "exists": true, "pending": 7, "undelivered": 1, "undelivered_is_estimate": false,
    });
    assert_eq!(found["group"], group);
    let limits: [Option<u64>; 7] = [
        Some(60),
        Some(600),
        Some(3600),
        Some(21_600),
        Some(86_400),
        Some(259_200),
        None,
    ];
    let by_age: Vec<_> = limits
        .iter()
        .map(|limit| json!({ "below_seconds": limit, "count": 1 }))
        .collect();
    assert_eq!(found["pending"]["by_age"], json!(by_age));
    assert_eq!(
        found["pending"]["by_attempts"],
        json!({ "1": 4, "3": 1, "8": 1, "12": 1 })
    );
    let shown = text(&redis);
    let mut lines = shown.lines();
    let mut table = |title: &str| {
        lines
            .find(|line| *line == title)
            .unwrap_or_else(|| panic!("{title}: {shown}"));
        let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(head.chars().count(), row.chars().count(), "they line up");
        let row: Vec<_> = row.split_whitespace().collect();
        row.join(" ")
    };
    assert_eq!(table("pending, by the age of the message"), "1 1 1 1 1 1 1");
    assert_eq!(table("pending, by attempts"), "0 4 0 1 0 0 0 0 2");
    let consumer = |name: &str| {
        let line = line(&shown, name);
        line.split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        (consumer("c1"), consumer("c2")),
        ("c1 gone 4".into(), "c2 gone 3".into())
    );
    assert!(line(&shown, "queue ").ends_with("8 in repo_backfill: 1 not delivered yet, 7 pending"));

    // Where entries were deleted that nobody has read, Redis does not know it any more.
    let a: String = query(&mut connection, &["XADD", INPUT, "*", "repo", "deleted"]);
    let _: String = query(&mut connection, &["XADD", INPUT, "*", "repo", "y"]);
    let _: u64 = query(&mut connection, &["XDEL", INPUT, &a]);
    let group = json!({
        "name": GROUP, "exists": true, "pending": 7, "undelivered": 2, "undelivered_is_estimate": true,
    });
    assert_eq!(object(&redis, &[])["group"], group);
    assert!(text(&redis).contains("about 2 not delivered yet"));
}

#[test]
fn long_lists_are_looked_at_in_part_and_that_is_said() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let () = query(
        &mut connection,
        &["XGROUP", "CREATE", INPUT, GROUP, "0", "MKSTREAM"],
    );
    let mut fill = redis::pipe();
    for _ in 0..20_001 {
        fill.cmd("XADD").arg(&[INPUT, "*", "repo", "x"]).ignore();
    }
    for n in 0..2_005 {
        let reason = if n < 10 { "car" } else { "network" };
        fill.cmd("XADD")
            .arg(&[DEAD_LETTERS, "*", "reason", reason])
            .ignore();
    }
    let () = fill.query(&mut connection).unwrap();
    let read = |count| {
        [
            "XREADGROUP",
            "GROUP",
            GROUP,
            "c1",
            "COUNT",
            count,
            "STREAMS",
            INPUT,
            ">",
        ]
    };
    let _: redis::Value = query(&mut connection, &read("20000"));
    let all = object(&redis, &[]);
    assert_eq!(all["pending"]["looked_at"], 20_000);
    assert_eq!(all["pending"]["is_sample"], false);
    let _: redis::Value = query(&mut connection, &read("1"));
    let part = object(&redis, &[]);
    assert_eq!(part["pending"]["looked_at"], 20_000);
    assert_eq!(part["pending"]["is_sample"], true);
    assert_eq!(
        part["dead_letters"],
        json!({ "stream": DEAD_LETTERS, "length": 2005, "looked_at": 2000, "by_reason": { "network": 1995, "car": 5 } })
    );
    let shown = text(&redis);
    line(&shown, "pending, by attempts (of the oldest 20,000 only)");
    assert!(
        line(&shown, "dead letters")
            .ends_with("2,005 in repo_backfill_dlq: network 1,995, car 5 (of the newest 2,000)")
    );
}

#[test]
fn a_worker_is_alive_until_it_dies() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let repo = served(&server, 1, 3);
    server.set_fault(&repo.did, Fault::Hold { after: 10 });
    let mut worker = Backfiller::builder(&redis, &server)
        .env("BACKFILLER_CONSUMER", "the worker")
        .env("BACKFILLER_LEASE_SECS", "2")
        .start();
    // Redis does not know a consumer that has not got anything yet.
    eventually("it is seen before its first message", || {
        let found = object(&redis, &[]);
        found["consumers"][0]["name"] == "the worker" && found["consumers"][0]["alive"] == true
    });
    enqueue(&mut connection, &repo.did, Some(&server.url()));
    server.wait_until_held(&repo.did, 1);
    let found = object(&redis, &[]);
    let [consumer] = &found["consumers"].as_array().unwrap()[..] else {
        panic!("not one consumer: {found}");
    };
    let process = format!(" pid {} since ", worker.pid());
    assert_eq!(consumer["name"], "the worker");
    assert_eq!(
        (&consumer["alive"], &consumer["pending"]),
        (&json!(true), &json!(1))
    );
    assert!(
        consumer["holder"].as_str().unwrap().contains(&process),
        "{consumer}"
    );
    assert!(consumer["idle_ms"].is_u64());
    let shown = text(&redis);
    let row = line(&shown, "the worker");
    assert!(row.contains("alive") && row.contains(&process), "{row}");
    worker.kill();
    eventually("it is seen to be gone", || {
        object(&redis, &[])["consumers"][0]["alive"] == false
    });
    assert!(line(&text(&redis), "the worker").contains("gone"));
}

#[test]
fn the_rate_is_what_leaves_the_queue() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let ids: Vec<String> = (0..20)
        .map(|_| enqueue(&mut connection, "did:plc:a", None))
        .collect();
    let watch = Backfiller::builder(&redis, &server)
        .arg("status")
        .arg("--watch")
        .arg("--json")
        .env_remove("BACKFILLER_CONSUMER")
        .arg("--interval=0.1")
        .start();
    let first = watch.wait_for_line(|line| line.contains(r#""rate":{"#));
    let first: Value = serde_json::from_str(&first).unwrap();
    let rate = &first["rate"];
    assert_eq!(
        (&rate["done"], &rate["seconds_left"]),
        (&json!(0), &Value::Null)
    );
    for id in &ids[..15] {
        let _: u64 = query(&mut connection, &["XDEL", INPUT, id]);
        enqueue(&mut connection, "did:plc:b", None);
    }
    eventually("all that left is counted", || {
        let lines = watch.stdout_lines();
        let rates: Vec<Value> = lines
            .iter()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        let mut done = 0;
        for look in &rates {
            let rate = &look["rate"];
            let Some(n) = rate["done"].as_u64() else {
                continue;
            };
            done += n;
            let seconds = rate["seconds"].as_f64().unwrap();
            assert!(seconds >= 0.09, "{rate}");
            let per_second = rate["done_per_second"].as_f64().unwrap();
            assert!((per_second * seconds - n as f64).abs() < 1e-6, "{rate}");
            if n > 0 {
                let left = look["queue"]["length"].as_f64().unwrap() / per_second;
                let said = rate["seconds_left"].as_f64().unwrap();
                assert!((said - left).abs() < 1e-6 * left, "{look}");
            }
        }
        assert!(done <= 15);
        done == 15
    });
    let once = run(&redis, &["status", "--interval", "0.2"]).ok().stdout;
    assert!(
        line(&once, "rate ")
            .contains("0.0 messages a second left the queue, done or dead, within 0."),
        "{once}"
    );
}

#[test]
fn what_is_watched_outlives_a_redis_that_is_away() {
    let mut redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut watch = Backfiller::builder(&redis, &server)
        .env_remove("BACKFILLER_CONSUMER")
        .arg("status")
        .arg("--watch")
        .arg("--json")
        .arg("--interval=0.1")
        .start();
    watch.wait_for_line(|line| line.contains(r#""connected":true"#));
    redis.stop();
    let away = watch.wait_for_line(|line| line.contains(r#""connected":false"#));
    let away: Value = serde_json::from_str(&away).unwrap();
    let error = away["redis"]["error"].as_str().unwrap();
    assert!(error.starts_with("Redis at redis://127.0.0.1:"), "{error}");
    assert_eq!(
        away["queue"],
        json!({ "stream": INPUT, "exists": null, "length": null })
    );
    assert_eq!(
        (&away["pending"], &away["rate"]),
        (&Value::Null, &Value::Null)
    );
    let keys = |object: &Value| {
        object
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let lines = watch.stdout_lines();
    assert_eq!(keys(&away), keys(&serde_json::from_str(&lines[0]).unwrap()));
    redis.restart();
    let seen = lines.len();
    eventually("it comes back", || {
        let lines = watch.stdout_lines();
        lines[seen..]
            .iter()
            .any(|line| line.contains(r#""connected":true"#))
    });
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.wait().code(), Some(0));
    assert_eq!(
        watch.lines().len(),
        watch.stdout_lines().len(),
        "nothing else is said"
    );

    // A pipe gets one picture after another; and it may begin before Redis does.
    redis.stop();
    let mut watch = Backfiller::builder(&redis, &server)
        .env_remove("BACKFILLER_CONSUMER")
        .arg("status")
        .arg("--watch")
        .arg("--interval=0.1")
        .start();
    watch.wait_for_line(|line| line.starts_with("Redis is away: Redis at redis://127.0.0.1:"));
    redis.restart();
    watch.wait_for_line(|line| line.starts_with("queue "));
    assert!(watch.lines().iter().all(|line| !line.contains('\u{1b}')));
    // What waiting does not mend ends it.
    let mut connection = redis.connection();
    let () = query(&mut connection, &["SET", INPUT, "x"]);
    assert_eq!(watch.wait().code(), Some(1));
    assert_eq!(
        watch.lines().last().unwrap(),
        "backfiller: the key repo_backfill holds a string, not a stream"
    );
}

/// What is shown without the orders with which it is drawn.
fn without_drawing(shown: &str) -> String {
    let mut shown = shown.replace("\r\n", "\n");
    for order in ["\u{1b}[2J", "\u{1b}[H", "\u{1b}[K", "\u{1b}[J"] {
        shown = shown.replace(order, "");
    }
    shown
}

#[test]
fn a_terminal_is_drawn_upon_in_place() {
    let mut redis = RedisServer::start();
    let mut connection = redis.connection();
    hostile(&mut connection);
    let watch = command(&redis, &["status", "--watch", "--interval", "0.1"]);
    let mut watch = OnTerminal::start(watch, 60, 12);
    let frames = |shown: &str| shown.matches("\u{1b}[H").count();
    let shown = watch.wait_until("three frames", |shown| frames(shown) > 3);
    assert!(shown.starts_with("\u{1b}[2J\u{1b}[H"), "{shown:?}");
    assert_eq!(shown.matches("\u{1b}[2J").count(), 1, "cleared once");
    for frame in shown.split("\u{1b}[H").skip(1).take(3) {
        let frame = frame.replace("\r\n", "\n");
        let (lines, _) = frame.split_once("\u{1b}[J").expect("a whole frame");
        assert_eq!(lines.lines().count(), 11, "it fits: {lines}");
        for line in lines.lines() {
            let line = line
                .strip_prefix("\u{1b}[K")
                .expect("the row is wiped before it is written");
            assert!(line.chars().count() <= 60, "{line}");
        }
        assert!(lines.contains(" more lines"), "{lines}");
    }
    assert_harmless(&without_drawing(&shown));
    redis.stop();
    watch.wait_for("Redis is away: Redis at redis://127.0.0.1:");
    let before = frames(&watch.shown());
    redis.restart();
    watch.wait_until("the queue, again", |shown| {
        shown
            .split("\u{1b}[H")
            .skip(before + 1)
            .any(|frame| frame.contains("queue  "))
    });
    watch.signal(Signal::SIGINT);
    let (status, _) = watch.wait();
    assert_eq!(status.code(), Some(0));
}

/// A group whose consumers, dead letters and messages were named by somebody who means harm.
fn hostile(connection: &mut Connection) {
    enqueue(connection, HOSTILE, None);
    enqueue(connection, HOSTILE, None);
    let () = query(connection, &["XGROUP", "CREATE", INPUT, GROUP, "0"]);
    let long = "漢".repeat(10_000);
    for name in [HOSTILE, &long] {
        let read = [
            "XREADGROUP",
            "GROUP",
            GROUP,
            name,
            "COUNT",
            "1",
            "STREAMS",
            INPUT,
            ">",
        ];
        let _: redis::Value = query(connection, &read);
        let key = format!("{OUTPUT}:consumer:{INPUT}:{GROUP}:{name}");
        let () = query(connection, &["SET", &key, &format!("{HOSTILE}{long}")]);
    }
    let mut create = redis::cmd("XGROUP");
    create
        .arg(&["CREATECONSUMER", INPUT, GROUP])
        .arg(b"\xff\x1b[2J");
    let _: u64 = create.query(connection).unwrap();
    // No sign of life, whatever it is.
    let _: u64 = query(
        connection,
        &["XGROUP", "CREATECONSUMER", INPUT, GROUP, "list"],
    );
    let key = format!("{OUTPUT}:consumer:{INPUT}:{GROUP}:list");
    let _: u64 = query(connection, &["RPUSH", &key, "x"]);
    for reason in [HOSTILE, "car\u{1b}[2J", &long] {
        let _: String = query(connection, &["XADD", DEAD_LETTERS, "*", "reason", reason]);
    }
}

#[test]
fn what_strangers_have_written_stays_text() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    hostile(&mut connection);
    let shown = text(&redis);
    assert_harmless(&shown);
    assert!(shown.contains("\\u{1b}]0;owned\\u{7}"), "{shown}");
    assert!(shown.contains(&"漢".repeat(10_000)), "a pipe gets all");
    let found = object(&redis, &[]);
    let consumers = found["consumers"].as_array().unwrap();
    let named = |name: Value| {
        consumers
            .iter()
            .find(|c| c["name"] == name)
            .expect("a consumer")
    };
    assert_eq!(named(json!(HOSTILE))["alive"], true);
    assert_eq!(named(json!("list"))["alive"], false);
    named(json!({ "$bytes": "/xtbMko" }));
    for columns in [50_u16, 100] {
        let on = command(&redis, &["status", "--interval", "0"]);
        let (status, shown) = OnTerminal::start(on, columns, 40).wait();
        assert_eq!(status.code(), Some(0));
        let shown = shown.replace("\r\n", "\n");
        assert_harmless(&shown);
        for line in shown.lines() {
            let width: usize = line.chars().map(|c| 1 + usize::from(c == '漢')).sum();
            assert!(width <= usize::from(columns), "{columns}: {line}");
        }
    }
}

#[test]
fn names_of_streams_and_the_mark_are_those_of_the_worker() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for n in 0..3 {
        let _: String = query(&mut connection, &["XADD", "out", "*", "event", "x"]);
        if n > 0 {
            let _: String = query(&mut connection, &["XADD", "in", "*", "repo", "x"]);
        }
    }
    let () = query(&mut connection, &["XGROUP", "CREATE", "in", "g", "$"]);
    let mut named = command(
        &redis,
        &[
            "status",
            "--interval",
            "0",
            "--group",
            "g",
            "--dlq-stream",
            "dead",
        ],
    );
    named
        .env("BACKFILLER_BACKFILL_STREAM", "in")
        .env("BACKFILLER_FIREHOSE_STREAM", "out")
        .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "2");
    let shown = Answer::from(named.output().unwrap()).ok().stdout;
    assert!(line(&shown, "queue ").contains("2 in in: 0 not delivered yet, 0 pending"));
    assert!(
        line(&shown, "output ")
            .contains("3 in out, of 2 at which writing waits (150 %): writing waits until"),
        "{shown}"
    );
    assert!(line(&shown, "dead letters ").ends_with("0 in dead"));
}

#[test]
fn what_cannot_be_asked_is_said_in_one_line() {
    let mut redis = RedisServer::start();
    let mut connection = redis.connection();
    for args in [
        &["--interval", "-1"][..],
        &["--interval", "x"],
        &["--interval", "inf"],
        &["--interval", "3601"],
        &["--no-such-option"],
        &["more"],
    ] {
        let answer = run(&redis, &[&["status"], args].concat());
        assert_eq!((answer.status, answer.stdout.as_str()), (2, ""), "{args:?}");
    }
    let often = run(&redis, &["status", "--watch", "--interval", "0"]);
    assert!(often.refusal(2).contains("--interval"), "{often:?}");
    let () = query(&mut connection, &["SET", OUTPUT, "x"]);
    let wrong = run(&redis, &["status"]);
    assert_eq!(
        wrong.refusal(1),
        "backfiller: the key firehose_backfill holds a string, not a stream"
    );
    let () = query(&mut connection, &["DEL", OUTPUT]);
    let () = query(&mut connection, &["CONFIG", "SET", "requirepass", "right"]);
    for args in [
        &["status"][..],
        &["status", "--watch"],
        &["status", "--json"],
    ] {
        let mut refused = command(&redis, args);
        let url = format!("redis://:wr0ng-secret@127.0.0.1:{}", redis.port());
        refused.env("REDIS_URL", url);
        let refused = Answer::from(refused.output().unwrap());
        let text = refused.refusal(1);
        assert!(
            text.contains("WRONGPASS") && text.contains("redis://:***@"),
            "{text}"
        );
        assert!(!text.contains("wr0ng-secret"), "{text}");
    }
    let () = query(&mut connection, &["CONFIG", "SET", "requirepass", ""]);
    let pid = Pid::from_raw(redis.pid().try_into().unwrap());
    signal::kill(pid, Signal::SIGSTOP).unwrap();
    let began = std::time::Instant::now();
    let stalled = run(&redis, &["status"]);
    signal::kill(pid, Signal::SIGCONT).unwrap();
    stalled.refusal(1);
    assert!(began.elapsed() < Duration::from_secs(40));
    redis.stop();
    for args in [&["status"][..], &["status", "--json", "--interval", "0"]] {
        let away = run(&redis, args);
        let text = away.refusal(1);
        assert!(
            text.starts_with("backfiller: Redis at redis://127.0.0.1:") && text.contains("refused"),
            "{text}"
        );
    }
}
