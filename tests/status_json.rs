//! `/status.json`: its shape, what each worker and each host is at, what failed and why, also while Redis is away; and that what
//! strangers chose stands in it exactly as they wrote it, and as nothing but text.

mod support;

use serde_json::{Value, json};

use support::backfiller::Backfiller;
use support::events::{OUTPUT, enqueue_raw, pending_messages, stream_len, wait_until_drained};
use support::fixture_server::Fault;
use support::hostile::stage::Stage;
use support::ops::{Ops, watched};
use support::verdicts::{ATTEMPTS, hasty, stop};
use support::wait::eventually;

/// The keys of an object, in their order.
fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

fn millis(value: &Value) -> u64 {
    let millis = value.as_u64().expect("unix milliseconds");
    assert!(millis > 1_700_000_000_000, "{millis}");
    millis
}

fn start(stage: &Stage) -> (Backfiller, Ops) {
    let backfiller = watched(hasty(stage)).start();
    let ops = Ops::of(&backfiller);
    (backfiller, ops)
}

/// The first status of which this holds.
fn when(ops: Ops, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let status = ops.status();
        holds(&status).then_some(status)
    })
}

fn connected(status: &Value) -> bool {
    status["redis"]["connected"] == true && status["queue"]["pending"].is_u64()
}

#[test]
fn an_idle_program_has_all_keys_and_nothing_in_them() {
    let stage = Stage::new();
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_CONSUMER", "the <consumer>")
        .env("BACKFILLER_MEMORY_BUDGET_MB", "64")
        .start();
    let ops = Ops::of(&backfiller);
    let mut status = when(ops, "Redis has answered", |status| {
        let workers = status["workers"].as_array().unwrap().len();
        connected(status) && status["hosts"]["total"] == 1 && workers == 2
    });
    let (now, started) = (millis(&status["now_ms"]), millis(&status["started_ms"]));
    assert!(started <= now);
    let age = status["redis"]["age_seconds"].take();
    assert!((0.0..60.0).contains(&age.as_f64().unwrap()), "{age}");
    for moment in ["now_ms", "started_ms"] {
        status[moment] = json!(0);
    }
    let idle = |name: &str| {
        json!({
            "name": name, "phase": "idle", "did": null, "id": null, "host": null, "bytes": 0, "records": 0,
            "phase_seconds": 0.0, "job_seconds": 0.0,
        })
    };
    let wanted = json!({
        "version": env!("CARGO_PKG_VERSION"), "consumer": "the <consumer>", "group": "repo_backfill_group",
        "now_ms": 0, "started_ms": 0, "draining": false,
        "redis": {"connected": true, "error": null, "age_seconds": null},
        "queue": {"stream": "repo_backfill", "length": 0, "pending": 0, "held": 0, "parked": 0},
        "output": {"stream": "firehose_backfill", "length": 0, "high_water_mark": 100_000},
        "dead_letters": {"stream": "repo_backfill_dlq", "length": 0, "last": []},
        "totals": {
            "repos": 0, "failures": 0, "dead_letters": 0, "retries": 0, "deferrals": 0, "records": 0, "skipped": 0,
            "filtered": 0, "events": 0, "chunks": 0, "bytes": 0, "spills": 0, "backpressure_seconds": 0.0,
        },
        "memory": {"budget_bytes": 64 << 20, "used_bytes": 0},
        "history": {"step_seconds": 15, "points": []},
        "workers": [idle("worker-0"), idle("worker-1")],
        // The directory.
        "hosts": {"total": 1, "cooling": 0, "shown": [{"host": "directory", "waiting": 0, "running": 0, "closed_seconds": null}]},
        "failures": [],
    });
    // As texts: the order of the keys is the same.
    assert_eq!(status.to_string(), wanted.to_string());
}

#[test]
fn a_worker_shows_what_it_is_at() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Hold { after: 500 });
    let (backfiller, ops) = start(&stage);
    let is_fetching = |worker: &Value| worker["phase"] == "fetch" && worker["bytes"] == 500;
    let status = when(ops, "a worker fetches", |status| {
        let mut workers = status["workers"].as_array().unwrap().iter();
        workers.any(is_fetching)
    });
    let mut workers = status["workers"].as_array().unwrap().iter();
    let worker = workers.find(|worker| is_fetching(worker)).unwrap();
    assert_eq!(worker["did"], repo.did);
    assert_eq!(worker["id"], stage.messages[0].0);
    assert_eq!(worker["host"], stage.server.url());
    assert_eq!(worker["records"], 0);
    // Of a repo that takes long the rate shows what comes, and not all of it at its end.
    assert_eq!(ops.status()["totals"]["bytes"], 500);
    let seconds = |key: &str| worker[key].as_f64().unwrap();
    assert!(seconds("job_seconds") >= seconds("phase_seconds"));
    let name = worker["name"].as_str().unwrap();
    when(ops, "its time goes on", |status| {
        let mut workers = status["workers"].as_array().unwrap().iter();
        let same = workers.find(|worker| worker["name"] == name).unwrap();
        same["phase_seconds"].as_f64() > Some(seconds("phase_seconds") + 0.1)
    });
    let host = stage.server.host();
    when(
        ops,
        "its host is shown, and its message pending",
        |status| {
            let mut hosts = status["hosts"]["shown"].as_array().unwrap().iter();
            status["queue"]["pending"] == 1
                && hosts.any(|shown| shown["host"] == host && shown["running"] == 1)
        },
    );
    stage.server.release(&repo.did);
    wait_until_drained(&mut stage.connection);
    let events = stream_len(&mut stage.connection, OUTPUT) as u64;
    let status = when(ops, "the end is seen", |status| {
        status["output"]["length"] == events && status["queue"]["length"] == 0
    });
    let totals = &status["totals"];
    let counted = ["repos", "records", "events", "chunks", "bytes", "failures"]
        .map(|key| totals[key].as_u64().unwrap());
    let (records, bytes) = (repo.expected.len() as u64, repo.car().len() as u64);
    assert_eq!(counted, [1, records, events, 1, bytes, 0]);
    stop(backfiller);
}

#[test]
fn hosts_say_how_many_wait_and_for_how_long_they_are_left_alone() {
    let mut stage = Stage::new();
    let url = stage.server.url();
    let held = stage.faulty(Fault::Hold { after: 10 });
    for _ in 0..5 {
        let repo = stage.account();
        stage.enqueue(&repo.did, Some(&url));
    }
    let (_, refusing) = stage.faulty_apart(Fault::status_with_header(429, "retry-after", "600"));
    let backfiller = watched(hasty(&stage))
        .env("BACKFILLER_HOST_CONCURRENCY", "1")
        .start();
    let ops = Ops::of(&backfiller);
    let find = |status: &Value, host: &str| {
        let shown = status["hosts"]["shown"].as_array().unwrap();
        shown.iter().position(|shown| shown["host"] == host)
    };
    let (busy, closed) = (stage.server.host(), refusing.host());
    let status = when(ops, "one host is busy, another is closed", |status| {
        let shown = |host| find(status, host).map(|at| &status["hosts"]["shown"][at]);
        shown(&busy).is_some_and(|shown| shown["waiting"] == 5)
            && shown(&closed).is_some_and(|shown| shown["waiting"] == 1)
    });
    let order = [busy.as_str(), &closed, "directory"].map(|host| find(&status, host));
    assert_eq!(order, [Some(0), Some(1), Some(2)], "{}", status["hosts"]);
    let shown = &status["hosts"]["shown"];
    assert_eq!(
        (&shown[0]["running"], &shown[0]["closed_seconds"]),
        (&json!(1), &Value::Null)
    );
    let left = shown[1]["closed_seconds"].as_f64().unwrap();
    assert!((500.0..=600.0).contains(&left), "{left}");
    assert_eq!(
        (&status["hosts"]["total"], &status["hosts"]["cooling"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(status["totals"]["deferrals"], 1);
    let waiting = |key: &str| status["queue"][key].as_u64().unwrap();
    assert_eq!(waiting("held") + waiting("parked"), 6);
    assert!(status["failures"].as_array().unwrap().is_empty());
    stage.server.release(&held.did);
}

/// Letters are read after they are counted.
fn letters_shown(status: &Value) -> usize {
    status["dead_letters"]["last"].as_array().unwrap().len()
}

#[test]
fn failures_and_dead_letters_say_why() {
    let mut stage = Stage::new();
    let repos: Vec<_> = (0..4).map(|_| stage.faulty(Fault::status(404))).collect();
    let (backfiller, ops) = start(&stage);
    wait_until_drained(&mut stage.connection);
    let status = when(ops, "four letters are seen", |status| {
        status["dead_letters"]["length"] == 4 && letters_shown(status) == 4
    });
    let [failures] = &status["failures"].as_array().unwrap()[..] else {
        panic!("{}", status["failures"]);
    };
    let attempts = 4 * ATTEMPTS;
    assert_eq!(keys(failures), ["reason", "count", "last"]);
    assert_eq!(
        (&failures["reason"], &failures["count"]),
        (&json!("http_status"), &json!(attempts))
    );
    let last = failures["last"].as_array().unwrap();
    assert_eq!(last.len(), 5);
    let times: Vec<_> = last
        .iter()
        .map(|failure| millis(&failure["at_ms"]))
        .collect();
    assert!(times.iter().rev().is_sorted(), "newest first: {times:?}");
    let host = stage.server.url();
    for failure in last {
        assert_eq!(
            keys(failure),
            ["at_ms", "did", "host", "id", "attempt", "error"]
        );
        let (id, _) = stage
            .messages
            .iter()
            .find(|(_, did)| failure["did"] == *did)
            .unwrap();
        assert_eq!(
            (&failure["id"], &failure["host"]),
            (&json!(id), &json!(host))
        );
        assert!((1..=ATTEMPTS).contains(&failure["attempt"].as_u64().unwrap()));
        assert_eq!(failure["error"], format!("{host} answered 404"));
    }
    let letters = status["dead_letters"]["last"].as_array().unwrap();
    let written = support::events::read_stream(&mut stage.connection, "repo_backfill_dlq");
    assert_eq!(letters.len(), 4);
    for (letter, (id, fields)) in letters.iter().zip(written.iter().rev()) {
        let repo: Value = serde_json::from_str(&fields["repo"]).unwrap();
        let wanted = json!({
            "id": id, "did": repo["did"], "reason": "http_status", "error": fields["error"],
            "attempts": ATTEMPTS, "time": fields["time"],
        });
        assert_eq!(letter.to_string(), wanted.to_string());
        assert!(repos.iter().any(|repo| letter["did"] == repo.did));
    }
    assert_eq!(status["totals"]["dead_letters"], 4);
    assert_eq!(status["totals"]["retries"], attempts - 4);
    stop(backfiller);
}

/// DIDs, hosts and error texts are strangers' choice.
#[test]
fn what_strangers_chose_is_text_and_exact() {
    let mut stage = Stage::new();
    let did = "did:plc:\"><script>alert('\u{2028}\u{1b}[31m\\')</script>\r\n\u{202e}\u{e9}";
    let malformed = json!({ "did": did, "host": "https://\"><img src=x>/" }).to_string();
    let id = enqueue_raw(&mut stage.connection, &[("repo", malformed.as_bytes())]);
    let said = "</script><b>\"no\"\u{7}\\";
    let refusing = stage.faulty(Fault::xrpc(403, "Forbidden", said));
    let percent = "did:web:%3Cscript%3E.example";
    let web = enqueue_raw(
        &mut stage.connection,
        &[("repo", json!({ "did": percent }).to_string().as_bytes())],
    );
    let (_backfiller, ops) = start(&stage);
    wait_until_drained(&mut stage.connection);
    let status = when(ops, "three letters are seen", |status| {
        status["dead_letters"]["length"] == 3 && letters_shown(status) == 3
    });
    let letters = status["dead_letters"]["last"].as_array().unwrap();
    let mut dids: Vec<_> = letters
        .iter()
        .map(|letter| letter["did"].as_str().unwrap())
        .collect();
    dids.sort_unstable();
    let mut wanted = [did, refusing.did.as_str(), percent];
    wanted.sort_unstable();
    assert_eq!(dids, wanted);
    let failures = status["failures"].as_array().unwrap();
    let of = |id: &str| {
        let last = failures
            .iter()
            .flat_map(|failures| failures["last"].as_array().unwrap());
        last.clone().find(|failure| failure["id"] == id).unwrap()
    };
    assert_eq!(of(&id)["did"], did, "as it was named");
    assert_eq!(of(&web)["did"], percent);
    let error = of(&stage.messages[0].0)["error"].as_str().unwrap();
    assert!(error.ends_with("</script><b>\"no\"\\u{7}\\"), "{error}");
    // Not a byte of it is anywhere else.
    let metrics = ops.metrics().text;
    for foreign in ["did:", "script", "127.0.0.1"] {
        assert!(!metrics.contains(foreign), "{foreign}: {metrics}");
    }
    let log = ops.get("/status.json");
    assert_eq!(log.headers["x-content-type-options"], "nosniff");
    assert!(!log.body.contains(['\n', '\u{1b}', '\u{7}']));
}

#[test]
fn while_redis_is_away_the_rest_is_shown_and_no_password() {
    let mut stage = Stage::new();
    let repo = stage.faulty(Fault::Hold { after: 10 });
    let set = |stage: &mut Stage, password: &str| {
        let command = ["SET", "requirepass", password];
        let () = redis::cmd("CONFIG")
            .arg(&command)
            .query(&mut stage.connection)
            .unwrap();
    };
    set(&mut stage, "s3cr3t");
    let url = format!("redis://:s3cr3t@127.0.0.1:{}", stage.redis.port());
    let backfiller = watched(hasty(&stage)).env("REDIS_URL", url).start();
    let ops = Ops::of(&backfiller);
    stage.server.wait_until_held(&repo.did, 1);
    when(ops, "Redis has answered", connected);
    assert_eq!(pending_messages(&mut stage.connection).len(), 1);
    // Another password, and all connections are gone.
    set(&mut stage, "an0ther");
    let mut kill = redis::cmd("CLIENT");
    let () = kill
        .arg(&["KILL", "TYPE", "normal"])
        .query(&mut stage.connection)
        .unwrap();
    let refused = when(ops, "it is refused", |status| {
        status["redis"]["connected"] == false
    });
    stage.redis.stop();
    let away = when(ops, "Redis is away", |status| {
        let error = status["redis"]["error"].as_str();
        error != refused["redis"]["error"].as_str()
    });
    for status in [refused, away] {
        assert!(!status.to_string().contains("s3cr3t"), "{status}");
        assert!(!status["redis"]["error"].as_str().unwrap().is_empty());
        assert!(status["redis"]["age_seconds"].is_f64());
        let lengths = [
            &status["queue"]["length"],
            &status["queue"]["pending"],
            &status["output"]["length"],
            &status["dead_letters"]["length"],
        ];
        assert_eq!(lengths, [&Value::Null; 4]);
        let mut workers = status["workers"].as_array().unwrap().iter();
        assert!(workers.any(|worker| worker["did"] == repo.did), "{status}");
    }
    stage.server.release(&repo.did);
    when(ops, "the worker waits for Redis", |status| {
        let mut workers = status["workers"].as_array().unwrap().iter();
        workers.any(|worker| worker["did"] == repo.did && worker["phase"] == "redis")
    });
}

/// Steps are those of the clock: this waits for one.
#[test]
fn the_history_says_what_was_done_in_each_step() {
    let mut stage = Stage::new();
    let repos: Vec<_> = (0..3).map(|_| stage.faulty(Fault::Normal)).collect();
    stage.faulty(Fault::xrpc(400, "RepoTakendown", "no"));
    let (_backfiller, ops) = start(&stage);
    wait_until_drained(&mut stage.connection);
    let status = when(ops, "all of it is in the history", |status| {
        let points = status["history"]["points"].as_array().unwrap();
        let done = points.iter().map(|point| point["repos"].as_u64().unwrap());
        done.sum::<u64>() == 3
    });
    let points = status["history"]["points"].as_array().unwrap();
    let sum = |key: &str| {
        points
            .iter()
            .map(|point| point[key].as_u64().unwrap())
            .sum::<u64>()
    };
    let records: usize = repos.iter().map(|repo| repo.expected.len()).sum();
    let bytes: usize = repos.iter().map(|repo| repo.car().len()).sum();
    assert_eq!(sum("records"), records as u64);
    assert_eq!(sum("bytes"), bytes as u64);
    assert_eq!(sum("failures"), 2);
    let last = points.last().unwrap();
    assert_eq!(
        keys(last),
        [
            "at_ms", "repos", "records", "bytes", "failures", "queue", "output"
        ]
    );
    assert!(millis(&last["at_ms"]) <= millis(&status["now_ms"]));
    assert_eq!(last["queue"], 0);
    assert_eq!(last["output"], stream_len(&mut stage.connection, OUTPUT));
}
