//! `make plan`: what the whole network takes, on paper.
//!
//! The costs are those of the last `make bench` on this machine (`target/bench/last.json`); sets of which it has no figures are measured
//! first, which takes a minute. All other figures are given by the network or assumed, and each may be set by a variable. The page
//! ([`page`]) says of each figure which of these it is; what follows from them is in [`arithmetic`].

mod arithmetic;
mod page;

use std::env;
use std::process::ExitCode;

use serde_json::Value;

use crate::results::{self, Results};
use crate::{bounds, data, process, sets};
use arithmetic::{Cost, Figures};

/// What the network is said to hold, and where: 20 TB in 45 million repos, nearly all of them on ninety hosts.
const REPOS: f64 = 45e6;
const BYTES: f64 = 20e12;
const HOSTS: f64 = 90.0;

/// Small repos, one large repo, and repos of ten records at servers that take their time.
const NEEDED: [&str; 3] = ["small", "100k", "latency-256"];

/// A figure, for the page.
struct Row {
    name: &'static str,
    value: f64,
    source: &'static str,
    note: String,
}

/// The figures that were taken so far, and what was wrong with one of them.
#[derive(Default)]
struct Inputs {
    rows: Vec<Row>,
    bad: Option<String>,
}

impl Inputs {
    /// The variable of this name, or the default.
    fn take(&mut self, source: &'static str, name: &'static str, default: f64, note: &str) -> f64 {
        let text = env::var(name).unwrap_or_default();
        let (value, source) = match text.trim().parse::<f64>() {
            _ if text.trim().is_empty() => (default, source),
            Ok(value) if value.is_finite() && value > 0.0 => (value, "set"),
            _ => {
                self.bad = Some(format!("{name}: {text:?} is not a number above 0"));
                (default, source)
            }
        };
        self.rows.push(Row {
            name,
            value,
            source,
            note: note.to_owned(),
        });
        value
    }
}

pub fn main() -> ExitCode {
    let last = measured();
    let mut inputs = Inputs::default();
    let figures = figures(&mut inputs, &last["sets"]);
    if let Some(bad) = inputs.bad {
        eprintln!("{bad}");
        return ExitCode::from(2);
    }
    println!("{}", page::page(&figures, &inputs.rows, &last));
    ExitCode::SUCCESS
}

/// The last figures of the benchmark, with those that were missing.
fn measured() -> Value {
    let previous = results::previous();
    let has = |name: &str| {
        let set = previous.as_ref().map(|last| &last["sets"][name]);
        set.is_some_and(|set| set.is_object() && (name != "small" || set["consumed"].is_object()))
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    if let (true, Some(last)) = (missing.is_empty(), &previous) {
        return last.clone();
    }
    let store = data::Store::open();
    let mut results = Results::default();
    for set in sets::all().iter().filter(|set| missing.contains(&set.name)) {
        eprintln!("{} was not measured yet: it is now", set.name);
        results.add(crate::run(set, &store));
    }
    results::keep(&results, &bounds::check(&results), previous);
    results::previous().expect("the figures that were just kept")
}

/// A figure of a set that was measured.
fn of(set: &Value, path: &str) -> f64 {
    set.pointer(path).and_then(Value::as_f64).expect(path)
}

/// A line through the repos of 100,000 records and those of ten, which wait as in the network.
fn cost(sets: &Value, path: &str) -> Cost {
    let point = |name: &str| {
        let set = &sets[name];
        (of(set, "/repos"), of(set, "/records"), of(set, path))
    };
    Cost::through(point("100k"), point("latency-256"))
}

fn figures(inputs: &mut Inputs, sets: &Value) -> Figures {
    let small = &sets["small"];
    let small_records = of(small, "/records");
    let small_mean = small_records / of(small, "/repos");
    let (worker, redis) = (
        cost(sets, "/ours/cpu_seconds"),
        cost(sets, "/ours/redis_cpu_seconds"),
    );
    let reading = of(small, "/consumed/redis_cpu_seconds") / small_records;
    let event_bytes = of(small, "/consumed/stream_bytes") / small_records;
    let record_bytes = of(small, "/car_bytes") / small_records;
    let mut take =
        |source, name, default: f64, note: &str| inputs.take(source, name, default, note);

    let repos = take("given", "REPOS", REPOS, "");
    let note = "20 TB in 45 million repos";
    let repo_bytes = take("given", "REPO_BYTES", BYTES / REPOS, note);
    let note = "in the collections and sizes of the set `small`";
    let record_bytes = take("measured", "RECORD_BYTES", record_bytes, note);
    let note = format!("REPO_BYTES / RECORD_BYTES; the set `small` has {small_mean:.0} a repo");
    let records = take("derived", "RECORDS", repo_bytes / record_bytes, &note);
    let note = "of the repos on the largest host: one of ninety equal ones, the least it can be";
    let largest = take("assumed", "LARGEST_PERCENT", 100.0 / HOSTS, note) / 100.0;
    let note = "3,000 requests in 5 minutes for each address";
    let host_rate = take("given", "HOST_RPS", 10.0, note);
    let note = "the program's default";
    let host_concurrency = take("given", "HOST_CONCURRENCY", 10.0, note);
    let note = "IP addresses that hosts are asked from";
    let addresses = take("assumed", "ADDRESSES", 1.0, note).ceil();
    let note = "the program's default, taken for all addresses together";
    let directory_rate = Some(take("given", "PLC_RPS", 50.0, note));
    let note = "until an answer begins, twice for each repo; as in the sets `latency`";
    let latency = take("assumed", "LATENCY_MS", 250.0, note) / 1e3;
    let note = "of one download";
    let download = take("assumed", "DOWNLOAD_MBIT", 10.0, note) * 1e6 / 8.0;
    let note = "of all downloads together";
    let bandwidth = take("assumed", "BANDWIDTH_MBIT", 1_000.0, note) * 1e6 / 8.0;
    let note = "of all instances together; this machine's";
    let cores = take("assumed", "CORES", process::cores() as f64, note);

    let mut micros =
        |name, seconds: f64, note: &str| take("measured", name, seconds * 1e6, note) / 1e6;
    let by_sets = "a line through the sets `100k` and `latency-256`";
    let worker = Cost {
        repo: micros("CPU_REPO_US", worker.repo, by_sets),
        record: micros("CPU_RECORD_US", worker.record, by_sets),
    };
    let redis = Cost {
        repo: micros("REDIS_REPO_US", redis.repo, "Redis's, by the same line"),
        record: micros("REDIS_RECORD_US", redis.record, "Redis's, by the same line"),
    };
    let note = "Redis's, for one consumer: XREADGROUP, XACK, XDEL of 500 entries at a time";
    let reading = micros("CONSUMER_RECORD_US", reading, note);
    let note = "of Redis's memory in the output, with the key of the stream";
    let event_bytes = take("measured", "EVENT_BYTES", event_bytes, note);
    Figures {
        repos,
        repo_bytes,
        records,
        largest,
        host_rate,
        host_concurrency,
        addresses,
        directory_rate,
        latency,
        download,
        bandwidth,
        cores,
        worker,
        redis,
        reading,
        event_bytes,
    }
}
