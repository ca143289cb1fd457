//! Statuses as the program serves them: nothing to do, busy, failing, without Redis, draining, and full of strangers' words.

use serde_json::{Value, json};

use crate::support::generator::did::did_plc;

/// The worker's clock in all of them, in milliseconds: some moment.
pub const NOW_MS: u64 = 1_764_000_000_000;
/// The step of the history in seconds, and how many make an hour.
const STEP_SECONDS: u64 = 15;
const STEPS: u64 = 240;

const HOSTS: [&str; 5] = [
    "pds.example",
    "one.large.host.example",
    "two.large.host.example",
    "three.large.host.example",
    "at.home.example",
];
const PHASES: [&str; 6] = ["fetch", "fetch", "fetch", "identity", "verify", "write"];

/// A process that has just begun, and finds nothing.
pub fn empty() -> Value {
    json!({
        "version": "0.1.0", "consumer": "backfiller_1", "group": "repo_backfill_group",
        "now_ms": NOW_MS, "started_ms": NOW_MS - 8000, "draining": false,
        "redis": {"connected": true, "error": null, "age_seconds": 0.4},
        "queue": {"stream": "repo_backfill", "length": 0, "pending": 0, "held": 0, "parked": 0},
        "output": {"stream": "firehose_backfill", "length": 0, "high_water_mark": 100_000},
        "dead_letters": {"stream": "repo_backfill_dlq", "length": 0, "last": []},
        "totals": {
            "repos": 0, "failures": 0, "dead_letters": 0, "retries": 0, "deferrals": 0, "records": 0, "skipped": 0,
            "filtered": 0, "events": 0, "chunks": 0, "bytes": 0, "spills": 0, "backpressure_seconds": 0.0
        },
        "memory": {"budget_bytes": 512_u64 << 20, "used_bytes": 0},
        "history": {"step_seconds": STEP_SECONDS, "points": []},
        "workers": (0..4).map(idle).collect::<Vec<_>>(),
        "hosts": {"total": 0, "cooling": 0, "shown": []},
        "failures": []
    })
}

/// After some days, with that many workers, of which each sixteenth has nothing to do.
pub fn busy(workers: u64) -> Value {
    let mut status = empty();
    status["started_ms"] = (NOW_MS - 300_000_000).into();
    status["queue"] = json!({"stream": "repo_backfill", "length": 361_234, "pending": 4410, "held": 64, "parked": 4282});
    status["output"]["length"] = 21_034.into();
    status["totals"] = json!({
        "repos": 1_234_567, "failures": 3, "dead_letters": 3, "retries": 3, "deferrals": 20_413,
        "records": 612_345_678, "skipped": 1203, "filtered": 0, "events": 613_700_123, "chunks": 2_345_678,
        "bytes": 301_234_567_890_u64, "spills": 14, "backpressure_seconds": 3.2
    });
    status["memory"]["used_bytes"] = (231_u64 << 20).into();
    status["history"]["points"] = history(|step| {
        let wave = 100 + step * 37 % 30;
        json!({"repos": 2 * wave, "records": 900 * wave, "bytes": 400_000 * wave, "failures": step % 80 / 79,
            "queue": 400_000 - 160 * step, "output": 10_000 + step * 97 % 20_000})
    });
    status["workers"] = (0..workers).map(worker).collect();
    let hosts = HOSTS.iter().zip([3420, 812, 120, 3, 1]);
    let hosts = hosts.map(|(host, waiting)| open(&format!("{host}:443"), waiting));
    let hosts = hosts.chain([open("directory", 0)]).collect::<Vec<_>>();
    status["hosts"] = json!({"total": 611, "cooling": 0, "shown": hosts});
    status["failures"] = json!([gone()]);
    status["dead_letters"]["length"] = 1233.into();
    status["dead_letters"]["last"] = (1..4).map(letter).collect();
    status
}

/// Hosts that fail, and an output that nobody reads.
pub fn failing() -> Value {
    let mut status = busy(64);
    status["output"]["length"] = 100_000.into();
    status["totals"]["failures"] = 1856.into();
    status["totals"]["backpressure_seconds"] = 4123.4.into();
    for worker in status["workers"].as_array_mut().expect("workers") {
        if worker["phase"] == "write" {
            worker["phase"] = "backpressure".into();
        }
    }
    for (host, seconds) in [(0, 1723.2), (3, 17.2)] {
        status["hosts"]["shown"][host]["closed_seconds"] = seconds.into();
    }
    status["hosts"]["cooling"] = 2.into();
    let error = "the connection was closed before the answer was complete: 123,456 of 2,345,678 bytes had come";
    let network = (1..6).map(|n| failure(n, error)).collect::<Vec<_>>();
    let signature = failure(9, "the signature does not fit the key of the DID document");
    status["failures"] = json!([
        gone(),
        {"reason": "network", "count": 1841, "last": network},
        {"reason": "signature", "count": 12, "last": [signature]},
    ]);
    status
}

/// Redis does not answer.
pub fn without_redis() -> Value {
    let mut status = busy(64);
    status["redis"] = json!({"connected": false, "error": "Connection refused (os error 111)", "age_seconds": 75.2});
    for (of, key) in [
        ("queue", "length"),
        ("queue", "pending"),
        ("output", "length"),
        ("dead_letters", "length"),
    ] {
        status[of][key] = Value::Null;
    }
    let last = status["history"]["points"].as_array_mut().expect("points");
    for point in last.iter_mut().rev().take(5) {
        point["queue"] = Value::Null;
        point["output"] = Value::Null;
    }
    status
}

/// After the first Ctrl-C.
pub fn draining() -> Value {
    let mut status = busy(64);
    status["draining"] = true.into();
    status
}

/// These words wherever a stranger, or whoever wrote the message or the letter, can choose some.
pub fn hostile(words: &str) -> Value {
    let mut status = failing();
    for worker in status["workers"].as_array_mut().expect("workers") {
        for key in ["did", "host", "id"] {
            worker[key] = words.into();
        }
    }
    for host in status["hosts"]["shown"].as_array_mut().expect("hosts") {
        host["host"] = words.into();
    }
    for kind in status["failures"].as_array_mut().expect("failures") {
        for failure in kind["last"].as_array_mut().expect("failures") {
            for key in ["did", "host", "id", "error"] {
                failure[key] = words.into();
            }
        }
    }
    for letter in status["dead_letters"]["last"]
        .as_array_mut()
        .expect("letters")
    {
        for key in ["did", "reason", "error", "id", "time"] {
            letter[key] = words.into();
        }
    }
    // What the operator chose, and what an error of Redis says.
    for key in ["consumer", "group", "version"] {
        status[key] = words.into();
    }
    for of in ["queue", "output", "dead_letters"] {
        status[of]["stream"] = words.into();
    }
    status["redis"] = json!({"connected": false, "error": words, "age_seconds": 1.0});
    // No version of the program has such phases and reasons; what a page shows, it shows as text all the same.
    status["workers"][0]["phase"] = words.into();
    status["workers"][1]["name"] = words.into();
    status["failures"][0]["reason"] = words.into();
    status
}

fn history(step: impl Fn(u64) -> Value) -> Value {
    let point = |n| {
        let mut point = step(n);
        point["at_ms"] = (NOW_MS - (STEPS - 1 - n) * STEP_SECONDS * 1000).into();
        point
    };
    (0..STEPS).map(point).collect()
}

fn idle(n: u64) -> Value {
    json!({"name": format!("worker-{n}"), "phase": "idle", "did": null, "id": null, "host": null, "bytes": 0, "records": 0,
        "phase_seconds": 0.0, "job_seconds": 0.0})
}

fn worker(n: u64) -> Value {
    if n % 16 == 7 {
        return idle(n);
    }
    let place = n as usize;
    // Small numbers that look as if they were drawn.
    let mixed = n * 7919 % 997;
    let seconds = mixed as f64 / 40.0;
    json!({"name": format!("worker-{n}"), "phase": PHASES[place % 6], "did": did_plc(n), "id": format!("1763999950000-{n}"),
        "host": HOSTS[place % 5], "bytes": mixed * mixed * 9, "records": if place % 6 == 5 { mixed * 20 } else { 0 },
        "phase_seconds": seconds / 2.0, "job_seconds": seconds})
}

fn open(host: &str, waiting: u64) -> Value {
    json!({"host": host, "waiting": waiting, "running": 3, "closed_seconds": null})
}

fn gone() -> Value {
    let error = "RepoNotFound: Could not find repo for DID";
    let last = (1..4).map(|n| failure(n, error)).collect::<Vec<_>>();
    json!({"reason": "repo_gone", "count": 3, "last": last})
}

fn failure(n: u64, error: &str) -> Value {
    json!({"at_ms": NOW_MS - 9000 * n, "did": did_plc(900 + n), "host": HOSTS[n as usize % 5], "id": format!("1763999910000-{n}"),
        "attempt": n, "error": error})
}

fn letter(n: u64) -> Value {
    json!({"id": format!("1763999990000-{n}"), "did": did_plc(900 + n), "reason": "repo_gone", "attempts": 2,
        "error": "RepoNotFound: Could not find repo for DID", "time": "2025-11-24T15:59:00.000Z"})
}
