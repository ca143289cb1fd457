//! `backfiller dead-letters`: selection, counts, what is shown, and that each letter is requeued once.

mod support;

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use redis::Connection;
use serde_json::{Value, json};
use support::backfiller::Backfiller;
use support::child::Running;
use support::cli::{Answer, HOSTILE, OnTerminal, assert_harmless, command, run};
use support::events::{
    DEAD_LETTERS, INPUT, dead_letters, enqueue_raw, read_stream, stream_len, wait_until_drained,
};
use support::fixture_server::FixtureServer;
use support::proxy::{Action, Proxy};
use support::redis_server::RedisServer;
use support::wait::eventually;

const COMMAND: &str = "dead-letters";

/// Appends a letter with these fields; returns its id.
fn letter(connection: &mut Connection, fields: &[(&str, &str)]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(DEAD_LETTERS).arg("*");
    for (name, value) in fields {
        add.arg(name).arg(value);
    }
    add.query(connection).expect("XADD")
}

/// A letter as the worker writes it; returns its id.
fn ours(connection: &mut Connection, n: usize, reason: &str) -> String {
    let repo = json!({ "did": did(n), "host": "pds.example" }).to_string();
    let original = format!("{n}-7");
    let error = format!("error {n}");
    let fields = [
        ("repo", repo.as_str()),
        ("reason", reason),
        ("error", error.as_str()),
        ("attempts", "3"),
        ("consumer", "c1"),
        ("id", original.as_str()),
        ("time", "2026-01-02T03:04:05.678Z"),
    ];
    letter(connection, &fields)
}

/// A letter of a message without a field `repo`; returns its id.
fn without_repo(connection: &mut Connection) -> String {
    let fields = [
        ("repo", ""),
        ("reason", "bad_message"),
        ("error", "no field repo"),
        ("attempts", "1"),
        ("consumer", "c1"),
        ("id", "77-7"),
        ("time", "2026-01-02T03:04:05.678Z"),
        ("entry", r#"[["who","did:plc:x\n"]]"#),
    ];
    letter(connection, &fields)
}

fn pid(redis: &RedisServer) -> Pid {
    Pid::from_raw(redis.pid().try_into().unwrap())
}

fn did(n: usize) -> String {
    format!("did:plc:{n:024}")
}

/// Four letters by `network`, `car`, `network` and one without a message; and their ids.
fn four(connection: &mut Connection) -> [String; 4] {
    [
        ours(connection, 1, "network"),
        ours(connection, 2, "car"),
        ours(connection, 3, "network"),
        without_repo(connection),
    ]
}

#[track_caller]
fn list(redis: &RedisServer, args: &[&str]) -> Answer {
    run(redis, &[&[COMMAND, "list"], args].concat()).ok()
}

/// The ids that `list --json` prints.
#[track_caller]
fn listed(redis: &RedisServer, args: &[&str]) -> Vec<String> {
    let answer = list(redis, &[args, &["--json"]].concat());
    let id = |letter: &Value| letter["id"].as_str().expect("an id").to_owned();
    answer.json().iter().map(id).collect()
}

/// The values of the field `repo` in the input.
fn requeued(connection: &mut Connection) -> Vec<String> {
    let entries = read_stream(connection, INPUT).into_iter();
    entries.map(|(_, fields)| fields["repo"].clone()).collect()
}

#[test]
fn a_list_has_a_line_for_each_letter_and_the_counts() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let empty = list(&redis, &[]);
    assert_eq!(empty.stdout, "0 dead letters\n");
    let ids = four(&mut connection);
    let answer = list(&redis, &[]);
    let lines = answer.lines();
    assert_eq!(lines.len(), 6, "{lines:?}");
    for (title, column) in ["ID", "TIME", "REASON", "ATTEMPTS", "DID", "ERROR"]
        .into_iter()
        .zip(0..)
    {
        assert_eq!(lines[0].split_whitespace().nth(column), Some(title));
    }
    for (line, n) in lines[1..4].iter().zip(1..) {
        assert!(line.starts_with(&ids[n - 1]), "{line}");
        let errors = lines[0].find("ERROR").expect("a column");
        assert_eq!(&line[errors..], format!("error {n}"), "columns line up");
        assert!(line.contains(&did(n)) && line.contains("2026-01-02T03:04:05.678Z"));
    }
    assert!(lines[4].contains(" – "), "no DID: {}", lines[4]);
    assert_eq!(lines[5], "4 dead letters: network 2, bad_message 1, car 1");
}

/// It is what is wrong with its message, perhaps.
#[test]
fn a_did_that_no_message_should_have_selects_its_letter() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for did in ["did:key:zQ3sh", "did:plc:a b"] {
        let message = json!({ "did": did }).to_string();
        letter(
            &mut connection,
            &[("reason", "bad_message"), ("repo", &message)],
        );
        let listed = run(&redis, &[COMMAND, "list", "--json", "--did", did]).ok();
        assert_eq!(listed.lines().len(), 1, "{did}");
    }
}

#[test]
fn a_selection_means_letters_for_which_all_of_it_holds() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [a, b, c, d] = four(&mut connection);
    let (a, b, c, d) = (a.as_str(), b.as_str(), c.as_str(), d.as_str());
    let (did1, did3) = (did(1), did(3));
    for (args, wanted) in [
        (&[][..], &[a, b, c, d][..]),
        (&["--newest"], &[d, c, b, a]),
        (&["--limit", "2"], &[a, b]),
        (&["--limit", "2", "--newest"], &[d, c]),
        (&["--reason", "network"], &[a, c]),
        (&["--reason", "network", "--reason", "car"], &[a, b, c]),
        (&["--reason", "network", "--limit", "1", "--newest"], &[c]),
        (&["--reason", "mst"], &[]),
        (&["--did", &did1], &[a]),
        (&["--did", &did1, "--did", &did3], &[a, c]),
        (&["--did", &did1, "--reason", "car"], &[]),
        (&["--did", "did:plc:nobody"], &[]),
        (&["--id", b], &[b]),
        (&["--id", c, "--id", a, "--id", a], &[a, c]),
        (&["--id", c, "--id", a, "--newest"], &[c, a]),
        (&["--id", c, "--id", a, "--limit", "1"], &[a]),
        (&["--id", a, "--reason", "car"], &[]),
        (&["--id", "1-7"], &[]),
        (&["--original-id", "1-7"], &[a]),
        (&["--original-id", "1-7", "--original-id", "77-7"], &[a, d]),
        (&["--original-id", a], &[]),
    ] {
        assert_eq!(listed(&redis, args), wanted, "{args:?}");
    }
    let answer = list(
        &redis,
        &["--counts", "--reason", "network", "--reason", "car"],
    );
    let words: Vec<Vec<_>> = answer
        .lines()
        .iter()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        words,
        [
            ["REASON", "COUNT"],
            ["network", "2"],
            ["car", "1"],
            ["all", "3"]
        ]
    );
    let counts = list(&redis, &["--counts", "--json"]).json();
    let wanted = json!({ "total": 4, "by_reason": { "network": 2, "bad_message": 1, "car": 1 } });
    assert_eq!(counts, [wanted]);
}

#[test]
fn json_is_exact_and_its_keys_are_stable() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [a, .., d] = four(&mut connection);
    let mut add = redis::cmd("XADD");
    add.arg(DEAD_LETTERS).arg("*").arg("repo").arg(b"\xff\xfe");
    add.arg("error").arg(HOSTILE).arg("more").arg("x");
    let e: String = add.query(&mut connection).unwrap();
    let letters = list(&redis, &["--json"]).json();
    let keys = |letter: &Value| {
        let keys: Vec<_> = letter.as_object().unwrap().keys().cloned().collect();
        keys.join(" ")
    };
    for letter in &letters {
        assert_eq!(
            keys(letter),
            "id original_id time reason attempts did error consumer repo entry other"
        );
    }
    let first = json!({
        "id": a, "original_id": "1-7", "time": "2026-01-02T03:04:05.678Z", "reason": "network", "attempts": 3, "did": did(1),
        "error": "error 1", "consumer": "c1", "repo": format!("{{\"did\":\"{}\",\"host\":\"pds.example\"}}", did(1)),
        "entry": null, "other": {},
    });
    assert_eq!(letters[0], first);
    assert_eq!(letters[3]["id"], d);
    assert_eq!(letters[3]["entry"], json!([["who", "did:plc:x\n"]]));
    let foreign = json!({
        "id": e, "original_id": null, "time": null, "reason": null, "attempts": null, "did": null, "error": HOSTILE,
        "consumer": null, "repo": { "$bytes": "//4" }, "entry": null, "other": { "more": "x" },
    });
    assert_eq!(letters[4], foreign);
    let shown = run(&redis, &[COMMAND, "show", "--json", &e]).ok().json();
    assert_eq!(shown, [foreign]);
}

#[test]
fn one_is_shown_whole_by_either_id() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [a, .., d] = four(&mut connection);
    let by_own = run(&redis, &[COMMAND, "show", &a]).ok().stdout;
    assert_eq!(
        by_own,
        format!(
            "dead letter {a}\nrepo:\n  {{\n    \"did\": \"{}\",\n    \"host\": \"pds.example\"\n  }}\nreason: network\nerror: error 1\n\
             attempts: 3\nconsumer: c1\nid in the input: 1-7\ntime: 2026-01-02T03:04:05.678Z\n",
            did(1)
        )
    );
    let by_original = run(&redis, &[COMMAND, "show", "1-7"]).ok().stdout;
    assert_eq!(
        by_original.replacen(
            " (found by the id that its message had in the input)",
            "",
            1
        ),
        by_own
    );
    let malformed = run(&redis, &[COMMAND, "show", &d]).ok().stdout;
    assert!(
        malformed
            .contains("entry:\n  [\n    [\n      \"who\",\n      \"did:plc:x\\n\"\n    ]\n  ]\n"),
        "{malformed}"
    );
    assert!(malformed.contains("cannot be requeued"), "{malformed}");
    let nobody = run(&redis, &[COMMAND, "show", "5-5"]);
    assert!(nobody.refusal(1).contains("no dead letter has the id 5-5"));
}

#[test]
fn a_change_of_all_must_be_asked_for() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    four(&mut connection);
    for args in [
        &["requeue"][..],
        &["requeue", "--limit", "1"],
        &["drop", "--yes"],
        &["requeue", "--all", "--reason", "car"],
        &["drop", "--all", "--id", "1-1", "--yes"],
    ] {
        let answer = run(&redis, &[&[COMMAND], args].concat());
        answer.refusal(2);
    }
    for args in [
        &["list", "--reason", "no_such_reason"][..],
        &["list", "--id", "17"],
        &["list", "--did", "alice.example.com"],
        &["requeue", "--did", "plc:abc"],
        &["drop", "--yes", "--did", "alice.example.com"],
        &["show", "x"],
        &["show"],
        &["list", "--limit", "0"],
        &["list", "--all"],
        &[],
    ] {
        let answer = run(&redis, &[&[COMMAND], args].concat());
        assert_eq!((answer.status, answer.stdout.as_str()), (2, ""), "{args:?}");
    }
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);
    assert_eq!(stream_len(&mut connection, INPUT), 0);
}

#[test]
fn what_is_requeued_is_the_original_value_and_leaves_the_letters() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [_, b, c, d] = four(&mut connection);
    let value = |n| json!({ "did": did(n), "host": "pds.example" }).to_string();

    let dry = run(&redis, &[COMMAND, "requeue", "--all", "--dry-run"]).ok();
    assert_eq!(
        dry.lines(),
        [
            "would requeue 3 dead letters: network 2, car 1",
            "left 1 without a field `repo`, which cannot be requeued"
        ]
    );
    assert_eq!(stream_len(&mut connection, INPUT), 0);
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);

    let one = run(&redis, &[COMMAND, "requeue", "--original-id", "1-7"]).ok();
    assert_eq!(one.stdout, "requeued 1 dead letter: network 1\n");
    assert_eq!(requeued(&mut connection), [value(1)]);
    assert_eq!(listed(&redis, &[]), [b, c, d.clone()]);

    let rest = run(&redis, &[COMMAND, "requeue", "--all", "--json"]).ok();
    let wanted = json!({ "requeued": 2, "left": 1, "dry_run": false, "by_reason": { "car": 1, "network": 1 } });
    assert_eq!(rest.json(), [wanted]);
    assert_eq!(requeued(&mut connection), [1, 2, 3].map(value));
    assert_eq!(listed(&redis, &[]), [d]);

    // Values that are no text are requeued as they are.
    let mut add = redis::cmd("XADD");
    let bytes = b"\xff\x00\r\n".as_slice();
    add.arg(DEAD_LETTERS).arg("*").arg("repo").arg(bytes);
    let () = add.query(&mut connection).unwrap();
    run(&redis, &[COMMAND, "requeue", "--all"]).ok();
    type Fields = Vec<(String, Vec<u8>)>;
    let newest: Vec<(String, Fields)> = redis::cmd("XREVRANGE")
        .arg(&[INPUT, "+", "-", "COUNT", "1"])
        .query(&mut connection)
        .unwrap();
    assert_eq!(newest[0].1, [("repo".to_owned(), bytes.to_vec())]);
}

#[test]
fn two_who_requeue_at_once_enqueue_each_letter_once() {
    const LETTERS: usize = 3000;
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut fill = redis::pipe();
    for n in 0..LETTERS {
        fill.cmd("XADD")
            .arg(DEAD_LETTERS)
            .arg("*")
            .arg("repo")
            .arg(did(n));
        fill.arg("reason").arg("network").ignore();
    }
    let () = fill.query(&mut connection).unwrap();
    let start = |args: &[&str]| {
        let mut command = command(&redis, &[&[COMMAND, "requeue"], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let both = [start(&["--all"]), start(&["--all", "--json"])];
    // What the worker adds meanwhile refuses their transactions, and is not theirs.
    for n in 0..200 {
        let fields = [("repo", did(LETTERS + n)), ("reason", "car".to_owned())];
        let fields = fields
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        letter(&mut connection, &fields);
    }
    for one in both {
        let answer: Answer = one.wait_with_output().unwrap().into();
        answer.ok();
    }
    let values = requeued(&mut connection);
    let distinct: BTreeSet<_> = values.iter().cloned().collect();
    assert_eq!(values.len(), distinct.len(), "none twice");
    let left: Vec<_> = dead_letters(&mut connection);
    let left: BTreeSet<_> = left.iter().map(|letter| letter["repo"].clone()).collect();
    assert!(left.is_disjoint(&distinct));
    assert_eq!(values.len() + left.len(), LETTERS + 200, "none lost");
    assert!((0..LETTERS).all(|n| distinct.contains(&did(n))));
}

/// A requeue whose connection goes through this proxy.
fn through(redis: &RedisServer, proxy: &Proxy) -> Child {
    let mut requeue = command(redis, &[COMMAND, "requeue", "--all"]);
    requeue
        .env("REDIS_URL", proxy.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    support::child::spawn(requeue).expect("it starts")
}

#[test]
fn what_another_one_has_requeued_or_dropped_meanwhile_is_not_requeued() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for (n, (other, messages)) in [
        (&["requeue", "--all"][..], 3),
        (&["requeue", "--reason", "network"], 3),
        (&["drop", "--all", "--yes"], 0),
        (&["drop", "--reason", "network", "--yes"], 1),
    ]
    .into_iter()
    .enumerate()
    {
        let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        ours(&mut connection, 1, "network");
        ours(&mut connection, 2, "car");
        ours(&mut connection, 3, "network");
        let proxy = Proxy::start(redis.port());
        let exec = proxy.once(Action::Delay, |_| true);
        let first = through(&redis, &proxy);
        exec.wait(1);
        // It has seen all three, and its transaction is on its way.
        run(&redis, &[&[COMMAND], other].concat()).ok();
        exec.release();
        Answer::from(first.wait_with_output().unwrap()).ok();
        let values = requeued(&mut connection);
        let distinct: BTreeSet<_> = values.iter().collect();
        assert_eq!(
            (values.len(), distinct.len()),
            (messages, messages),
            "{n}: {other:?}"
        );
        assert_eq!(
            stream_len(&mut connection, DEAD_LETTERS),
            0,
            "{n}: {other:?}"
        );
    }
}

#[test]
fn a_connection_that_is_lost_around_the_transaction_loses_and_repeats_nothing() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for (action, done) in [(Action::CutBefore, 0), (Action::CutAfter, 3)] {
        let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        (1..=3).for_each(|n| _ = ours(&mut connection, n, "network"));
        let proxy = Proxy::start(redis.port());
        let _exec = proxy.once(action, |_| true);
        let cut = Answer::from(through(&redis, &proxy).wait_with_output().unwrap());
        let text = cut.refusal(1);
        assert!(text.contains("requeued 0 before that"), "{text}");
        assert_eq!(stream_len(&mut connection, INPUT), done, "{action:?}");
        assert_eq!(
            stream_len(&mut connection, DEAD_LETTERS),
            3 - done,
            "{action:?}"
        );
        run(&redis, &[COMMAND, "requeue", "--all"]).ok();
        let values = requeued(&mut connection);
        let distinct: BTreeSet<_> = values.iter().collect();
        assert_eq!((values.len(), distinct.len()), (3, 3), "{action:?}");
    }
}

#[test]
fn a_kill_in_between_loses_and_repeats_nothing() {
    const LETTERS: usize = 20_000;
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut fill = redis::pipe();
    for n in 0..LETTERS {
        fill.cmd("XADD")
            .arg(DEAD_LETTERS)
            .arg("*")
            .arg("repo")
            .arg(did(n))
            .ignore();
    }
    let () = fill.query(&mut connection).unwrap();
    let mut cut = 0;
    for round in 1..6 {
        let mut command = command(&redis, &[COMMAND, "requeue", "--all"]);
        command.stdout(Stdio::null());
        let mut child = Running(support::child::spawn(command).expect("it starts"));
        let before = stream_len(&mut connection, INPUT);
        eventually("some are requeued", || {
            stream_len(&mut connection, INPUT) > before || child.0.try_wait().unwrap().is_some()
        });
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let (input, dead) = (
            stream_len(&mut connection, INPUT),
            stream_len(&mut connection, DEAD_LETTERS),
        );
        assert_eq!(input + dead, LETTERS, "round {round}");
        cut += usize::from(dead > 0);
    }
    assert!(cut > 0, "none was killed in between");
    run(&redis, &[COMMAND, "requeue", "--all"]).ok();
    let values = requeued(&mut connection);
    let distinct: BTreeSet<_> = values.iter().collect();
    assert_eq!((values.len(), distinct.len()), (LETTERS, LETTERS));
}

#[test]
fn what_fails_again_at_once_does_not_keep_it_busy() {
    let redis = RedisServer::start();
    let server = FixtureServer::start();
    let mut connection = redis.connection();
    let _worker = Backfiller::builder(&redis, &server).start();
    for _ in 0..50 {
        enqueue_raw(&mut connection, &[("repo", b"no JSON")]);
        enqueue_raw(&mut connection, &[("no_repo", b"x")]);
    }
    eventually("all are dead", || {
        stream_len(&mut connection, DEAD_LETTERS) == 100
    });
    let answer = run(&redis, &[COMMAND, "requeue", "--all"]).ok();
    assert_eq!(
        answer.lines(),
        [
            "requeued 50 dead letters: bad_message 50",
            "left 50 without a field `repo`, which cannot be requeued"
        ]
    );
    wait_until_drained(&mut connection);
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 100);
}

#[test]
fn an_input_that_is_no_stream_costs_no_letter() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    four(&mut connection);
    let () = redis::cmd("SET")
        .arg(&[INPUT, "x"])
        .query(&mut connection)
        .unwrap();
    for action in ["list", "requeue", "drop"] {
        let all: &[&str] = if action == "list" { &[] } else { &["--all"] };
        let yes: &[&str] = if action == "drop" { &["--yes"] } else { &[] };
        let answer = run(&redis, &[&[COMMAND, action], all, yes].concat());
        assert_eq!(
            answer.refusal(1),
            "backfiller: the key repo_backfill holds a string, not a stream"
        );
    }
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);
}

#[test]
fn without_memory_in_redis_nothing_is_requeued_and_nothing_lost() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    four(&mut connection);
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .query(&mut connection)
        .unwrap();
    let answer = run(&redis, &[COMMAND, "requeue", "--all"]);
    let text = answer.refusal(1);
    assert!(
        text.contains("OOM") && text.contains("requeued 0 before that"),
        "{text}"
    );
    assert_eq!(stream_len(&mut connection, INPUT), 0);
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);
}

#[test]
fn without_a_terminal_nothing_is_dropped_unless_yes_is_said() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [_, b, .., d] = four(&mut connection);
    let refused = run(&redis, &[COMMAND, "drop", "--all"]);
    assert!(refused.refusal(2).contains("--yes"), "{refused:?}");
    let dry = run(&redis, &[COMMAND, "drop", "--all", "--dry-run"]).ok();
    assert_eq!(
        dry.stdout,
        "would drop 4 dead letters: network 2, bad_message 1, car 1\n"
    );
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);
    let dropped = run(&redis, &[COMMAND, "drop", "--reason", "network", "--yes"]).ok();
    assert_eq!(dropped.stdout, "dropped 2 dead letters: network 2\n");
    assert_eq!(listed(&redis, &[]), [b.clone(), d]);
    let json = run(&redis, &[COMMAND, "drop", "--id", &b, "--yes", "--json"]).ok();
    let wanted = json!({ "dropped": 1, "dry_run": false, "by_reason": { "car": 1 } });
    assert_eq!(json.json(), [wanted]);
    for args in [
        &["drop", "--yes"][..],
        &["requeue"],
        &["requeue", "--dry-run"],
    ] {
        let none = run(&redis, &[&[COMMAND], args, &["--id", &b]].concat());
        assert!(none.refusal(1).contains("no dead letter"), "{none:?}");
    }
}

#[test]
fn on_a_terminal_there_is_a_question_before_anything_is_dropped() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    four(&mut connection);
    let start = |args: &[&str]| {
        let command = command(&redis, &[&[COMMAND, "drop"], args].concat());
        OnTerminal::start(command, 120, 40)
    };
    const QUESTION: &str = "Drop 2 dead letters: network 2 (of repo_backfill_dlq) for good? [y/N] ";
    for answer in ["", "n", "no", "maybe", "yess"] {
        let mut asked = start(&["--reason", "network"]);
        asked.wait_for(QUESTION);
        asked.type_line(answer);
        let (status, shown) = asked.wait();
        assert_eq!(status.code(), Some(1), "{answer}");
        assert!(shown.contains("nothing was dropped"), "{shown}");
        assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 4);
    }
    let mut asked = start(&["--reason", "network"]);
    asked.wait_for(QUESTION);
    // Redis may close what is silent for long.
    let () = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .query(&mut connection)
        .unwrap();
    // What comes meanwhile is not what was asked about.
    let late = ours(&mut connection, 4, "network");
    asked.type_line("Y");
    let (status, shown) = asked.wait();
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(
        shown.contains("dropped 2 dead letters: network 2"),
        "{shown}"
    );
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 3);
    run(&redis, &[COMMAND, "drop", "--id", &late, "--yes"]).ok();
    // Nothing to drop, nothing to ask.
    let (status, shown) = start(&["--reason", "network"]).wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(shown, "dropped 0 dead letters\r\n");
    let (status, _) = start(&["--all", "--yes"]).wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 0);
}

#[test]
fn what_is_dropped_with_a_limit_is_what_was_asked_about() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for (newest, by_id) in [(false, false), (true, false), (false, true), (true, true)] {
        let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        let ids: Vec<_> = (0..4)
            .map(|n| ours(&mut connection, n, "network"))
            .collect();
        let mut args = vec![COMMAND, "drop", "--limit", "2"];
        if newest {
            args.push("--newest");
        }
        match by_id {
            true => ids.iter().for_each(|id| args.extend(["--id", id])),
            false => args.push("--all"),
        }
        let mut asked = OnTerminal::start(command(&redis, &args), 120, 40);
        asked.wait_for("Drop 2 dead letters: network 2 (of repo_backfill_dlq)");
        // Somebody else is faster with one of the two, and the next ones do not move up.
        let mut in_order = ids.clone();
        if newest {
            in_order.reverse();
        }
        run(&redis, &[COMMAND, "drop", "--yes", "--id", &in_order[0]]).ok();
        asked.type_line("y");
        let (_, shown) = asked.wait();
        assert!(
            shown.contains("dropped 1 dead letter: network 1"),
            "{args:?}: {shown}"
        );
        let mut left = in_order[2..].to_vec();
        left.sort();
        assert_eq!(listed(&redis, &[]), left, "{args:?}");
    }
}

#[test]
fn who_names_a_letter_learns_that_it_is_not_there() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let [a, b, c, d] = four(&mut connection);
    let ended = |args: &[&str]| {
        let answer = run(&redis, &[&[COMMAND], args].concat());
        assert_eq!(answer.status, 1, "{answer:?}");
        (answer.stdout, answer.stderr)
    };
    // It is there, and something else does not hold of it.
    const UNFIT: &str = "backfiller: none of the named letters fits the rest of the selection\n";
    for selection in [
        &["--id", &b, "--reason", "network"][..],
        &["--id", &b, "--did", &did(1)],
        &["--id", &b, "--original-id", "1-7"],
        &["--original-id", "2-7", "--reason", "network"],
    ] {
        for change in [
            &["requeue"][..],
            &["requeue", "--dry-run"],
            &["drop", "--yes"],
        ] {
            let (out, error) = ended(&[change, selection].concat());
            assert_eq!((out.as_str(), error.as_str()), ("", UNFIT), "{selection:?}");
        }
    }
    // None of them is there.
    let (out, error) = ended(&["requeue", "--id", "9-9", "--id", "8-8"]);
    assert_eq!(out, "");
    assert_eq!(error, "backfiller: no dead letter has the id 8-8, 9-9\n");
    let many: Vec<_> = (1..=20).map(|n| format!("--original-id={n}-0")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let (_, error) = ended(&[&["drop", "--yes"], &many[..]].concat());
    assert_eq!(
        error,
        "backfiller: no dead letter is of a message with the id 1-0, 2-0, 3-0, 4-0, 5-0 and 15 more\n"
    );
    // Some are, and these are done.
    let (out, error) = ended(&["requeue", "--id", &a, "--id", "9-9"]);
    assert_eq!(out, "requeued 1 dead letter: network 1\n");
    assert_eq!(error, "backfiller: no dead letter has the id 9-9\n");
    let (out, error) = ended(&[
        "drop",
        "--yes",
        "--json",
        "--original-id",
        "2-7",
        "--original-id",
        "9-9",
    ]);
    assert!(out.starts_with("{\"dropped\":1,"), "{out}");
    assert_eq!(
        error,
        "backfiller: no dead letter is of a message with the id 9-9\n"
    );
    // One that cannot be requeued is there; and who wants one letter has it, whatever the others are.
    run(&redis, &[COMMAND, "requeue", "--id", &d]).ok();
    let one = ["drop", "--yes", "--limit", "1", "--id", &c, "--id"];
    run(
        &redis,
        &[&[COMMAND], &one[..], &["9999999999999-0"]].concat(),
    )
    .ok();
    assert_eq!(listed(&redis, &[]), [d]);
}

#[test]
fn an_error_that_was_escaped_where_it_arose_is_shown_as_it_stands() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    const ERROR: &str = r"pds.example says \u{1b}[31m";
    let id = letter(&mut connection, &[("repo", "x"), ("error", ERROR)]);
    assert!(list(&redis, &[]).stdout.contains(ERROR));
    let shown = run(&redis, &[COMMAND, "show", &id]).ok();
    assert!(shown.lines().contains(&&*format!("error: {ERROR}")));
}

#[test]
fn what_strangers_have_written_stays_text() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let long = format!("{HOSTILE}{}", "漢".repeat(10_000));
    let repo = json!({ "did": HOSTILE, "host": HOSTILE, HOSTILE: long }).to_string();
    let fields = [
        ("repo", repo.as_str()),
        ("reason", HOSTILE),
        ("error", long.as_str()),
        ("attempts", HOSTILE),
        ("consumer", HOSTILE),
        ("id", HOSTILE),
        ("time", HOSTILE),
        (HOSTILE, HOSTILE),
    ];
    let id = letter(&mut connection, &fields);
    let entry = [("entry", HOSTILE), ("reason", "car\u{1b}[2J")];
    letter(&mut connection, &entry);
    ours(&mut connection, 1, "car");
    for args in [
        &["list"][..],
        &["list", "--counts"],
        &["show", &id],
        &["requeue", "--all", "--dry-run"],
        &["drop", "--all", "--dry-run"],
        &["list", "--json"],
        &["list", "--counts", "--json"],
        &["show", "--json", &id],
    ] {
        let answer = run(&redis, &[&[COMMAND], args].concat()).ok();
        if args.contains(&"--json") {
            // Exact: but JSON itself escapes what would move a cursor.
            assert!(!answer.stdout.contains('\u{1b}'), "{args:?}");
        } else {
            assert_harmless(&answer.stdout);
        }
    }
    let answer = list(&redis, &[]);
    let lines = answer.lines();
    assert_eq!(lines.len(), 5, "one line for each letter");
    assert!(lines[1].contains(&"漢".repeat(10_000)), "a pipe gets all");

    // A terminal gets lines that fit, also those behind the long one.
    for columns in [40_u16, 80, 200] {
        let on = command(&redis, &[COMMAND, "list"]);
        let (status, shown) = OnTerminal::start(on, columns, 40).wait();
        assert_eq!(status.code(), Some(0));
        let shown = shown.replace("\r\n", "\n");
        assert_harmless(&shown);
        let table: Vec<_> = shown.lines().take(4).collect();
        for line in &table {
            let width: usize = line.chars().map(|c| 1 + usize::from(c == '漢')).sum();
            assert!(width <= usize::from(columns), "{columns}: {line}");
        }
        assert!(
            table[1].contains('…') && table[3].starts_with("17"),
            "{table:?}"
        );
    }
    let mut asked = OnTerminal::start(command(&redis, &[COMMAND, "drop", "--all"]), 80, 40);
    asked.wait_for("[y/N]");
    assert_harmless(&asked.shown());
    asked.type_line("n");
    asked.wait();
}

#[test]
fn a_hundred_thousand_letters_take_little_memory() {
    const LETTERS: usize = 100_000;
    const LARGE: usize = 400;
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let error = "e".repeat(400);
    // A page has not always the same number of letters.
    let large = format!(
        r#"{{"did":"did:plc:large","more":"{}"}}"#,
        "x".repeat(256 << 10)
    );
    for _ in 0..LARGE {
        letter(&mut connection, &[("repo", &large), ("reason", "car")]);
    }
    for page in 0..LETTERS / 1000 {
        let mut fill = redis::pipe();
        for n in 0..1000 {
            let did = did(page * 1000 + n);
            fill.cmd("XADD").arg(DEAD_LETTERS).arg("*").arg("repo");
            fill.arg(format!(r#"{{"did":"{did}"}}"#));
            fill.arg("reason")
                .arg("network")
                .arg("error")
                .arg(&error)
                .ignore();
        }
        let () = fill.query(&mut connection).unwrap();
    }
    // What the command had in memory at most, as far as it was looked at.
    let peak = |args: &[&str]| {
        let mut command = command(&redis, &[&[COMMAND], args].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = support::child::spawn(command).expect("it starts");
        let mut child = Running(child);
        let mut peak = 0;
        let status = eventually("it ends", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid()));
            let text = status.unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
            peak = kilobytes.unwrap_or(0_u64).max(peak);
            child.0.try_wait().unwrap()
        });
        assert!(status.success(), "{args:?}");
        assert!(peak > 0, "its memory was seen");
        peak
    };
    for args in [
        &["list"][..],
        &["list", "--json", "--newest"],
        &["list", "--counts"],
        &["requeue", "--all"],
    ] {
        let peak = peak(args);
        // All letters are 55 MB, and 105 MB the large ones.
        assert!(peak < 80 << 10, "{args:?}: {peak} kB");
    }
    assert_eq!(stream_len(&mut connection, INPUT), LETTERS + LARGE);
    assert_eq!(stream_len(&mut connection, DEAD_LETTERS), 0);
}

#[test]
fn redis_that_is_away_refuses_or_stalls_is_said_in_one_line() {
    let mut redis = RedisServer::start();
    // Whoever is connected already may go on.
    let mut connection = redis.connection();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "right"])
        .query(&mut connection)
        .unwrap();
    let wrong = |url: String| {
        let mut command = command(&redis, &[COMMAND, "list"]);
        command.env("REDIS_URL", url);
        Answer::from(command.output().unwrap())
    };
    let port = redis.port();
    let answer = wrong(format!("redis://:wr0ng-secret@127.0.0.1:{port}"));
    let text = answer.refusal(1);
    assert!(
        text.contains("WRONGPASS") && text.contains("redis://:***@127.0.0.1"),
        "{text}"
    );
    assert!(!text.contains("wr0ng-secret"), "{text}");
    let answer = wrong(format!("redis://127.0.0.1:{port}"));
    assert!(answer.refusal(1).contains("NOAUTH"), "{answer:?}");
    let answer = wrong("http://127.0.0.1".to_owned());
    assert!(answer.refusal(2).contains("REDIS_URL"), "{answer:?}");
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", ""])
        .query(&mut connection)
        .unwrap();
    // Stopped, it accepts connections and answers nothing.
    signal::kill(pid(&redis), Signal::SIGSTOP).unwrap();
    let stalled = run(&redis, &[COMMAND, "list"]);
    signal::kill(pid(&redis), Signal::SIGCONT).unwrap();
    stalled.refusal(1);
    redis.stop();
    for args in [
        &["list"][..],
        &["show", "1-1"],
        &["requeue", "--all"],
        &["drop", "--all", "--yes"],
    ] {
        let answer = run(&redis, &[&[COMMAND], args].concat());
        let text = answer.refusal(1);
        assert!(
            text.starts_with("backfiller: Redis at redis://127.0.0.1:"),
            "{text}"
        );
        assert!(text.contains("refused"), "{text}");
    }
}
