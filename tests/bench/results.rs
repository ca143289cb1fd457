//! The figures of the sets, and their form in `target/bench/last.json`.
//!
//! A run that measures a part of the sets replaces those and keeps the others, so that each set is compared with its own last run. What was
//! replaced is in `previous.json` then.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::bounds::Bound;
use crate::consume::Consumed;
use crate::process::{folder, machine};

/// Times in seconds, sizes in bytes, of one run over a set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// From the first message to the last event.
    pub wall: f64,
    /// CPU time of the program, or of the floor.
    pub cpu: f64,
    /// CPU time of Redis.
    pub redis: f64,
    /// CPU time of the server of the repos.
    pub server: f64,
    /// The most memory that the program has had.
    pub rss: u64,
    /// The share of all processors that these three used.
    pub used: f64,
    /// The share that everything else on the machine used.
    pub others: f64,
}

impl Figures {
    /// The better of each, but the most memory.
    pub fn at_best(self, other: Option<Figures>) -> Figures {
        let Some(other) = other else {
            return self;
        };
        Figures {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
            redis: self.redis.min(other.redis),
            server: self.server.min(other.server),
            rss: self.rss.max(other.rss),
            used: self.used.max(other.used),
            others: self.others.max(other.others),
        }
    }

    fn to_json(self) -> Value {
        json!({
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "redis_cpu_seconds": self.redis,
            "server_cpu_seconds": self.server,
            "peak_rss_bytes": self.rss,
            "machine_used": self.used,
            "machine_used_by_others": self.others,
        })
    }
}

/// Of the latency sets.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Repos a second, between the 10th and the 90th percentile.
    pub repos: f64,
    /// The share of the machine that was busy meanwhile.
    pub machine: f64,
}

/// Of the program that waits.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Of one core.
    pub share: f64,
    pub rss: u64,
}

/// All about one set.
#[derive(Clone, Debug, Default)]
pub struct SetResult {
    pub name: String,
    pub concurrency: usize,
    pub repos: usize,
    pub records: usize,
    pub car_bytes: usize,
    pub ours: Figures,
    pub floor: Option<Figures>,
    /// Redis's CPU time for the same pipelines, encoded before.
    pub encoded: Option<f64>,
    /// What a consumer of the output costs Redis.
    pub consumed: Option<Consumed>,
    pub rate: Option<Rate>,
    pub idle: Option<Idle>,
}

impl SetResult {
    /// Microseconds for a record.
    pub fn per_record(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.records as f64
    }

    /// Microseconds for a repo.
    pub fn per_repo(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.repos as f64
    }

    /// CPU time against that of the floor.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.ours.cpu / floor.cpu)
    }

    fn to_json(&self) -> Value {
        json!({
            "concurrency": self.concurrency,
            "repos": self.repos,
            "records": self.records,
            "car_bytes": self.car_bytes,
            "ours": self.ours.to_json(),
            "floor": self.floor.map(Figures::to_json),
            "redis_cpu_seconds_of_encoded": self.encoded,
            "consumed": self.consumed.map(|consumed| json!({ "redis_cpu_seconds": consumed.redis, "stream_bytes": consumed.bytes })),
            "rate": self.rate.map(|rate| json!({ "repos_per_second": rate.repos, "machine_used": rate.machine })),
            "idle": self.idle.map(|idle| json!({ "core_used": idle.share, "rss_bytes": idle.rss })),
        })
    }
}

/// The sets of one run.
#[derive(Default)]
pub struct Results(pub Vec<SetResult>);

impl Results {
    pub fn add(&mut self, result: SetResult) {
        self.0.push(result);
    }

    /// The set of this name, where it was measured.
    pub fn get(&self, name: &str) -> Option<&SetResult> {
        self.0.iter().find(|result| result.name == name)
    }
}

fn file(name: &str) -> PathBuf {
    folder().join(name)
}

/// What the last run left.
pub fn previous() -> Option<Value> {
    let text = fs::read_to_string(file("last.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Keeps this run, and the one before.
pub fn keep(results: &Results, bounds: &[Bound], previous: Option<Value>) {
    let mut sets = match &previous {
        Some(previous) => previous["sets"].as_object().cloned().unwrap_or_default(),
        None => Map::new(),
    };
    for result in &results.0 {
        sets.insert(result.name.clone(), result.to_json());
    }
    let bounds = bounds.iter().filter(|bound| bound.ok.is_some());
    let bounds: Vec<Value> = bounds.map(Bound::to_json).collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let last = json!({
        "at": now.map_or(0, |since| since.as_secs()),
        "machine": machine(),
        "sets": sets,
        "bounds": bounds,
    });
    let write = |name: &str, value: &Value| {
        let text = format!("{value:#}\n");
        fs::write(file(name), text).expect("the results are written");
    };
    if let Some(previous) = previous {
        write("previous.json", &previous);
    }
    write("last.json", &last);
}
