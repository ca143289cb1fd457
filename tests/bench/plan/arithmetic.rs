//! The arithmetic of the plan, and nothing else: figures in, figures out. `tests/plan.rs` has cases that were computed by hand, each
//! bound binding in one of them.
//!
//! Times are in seconds, rates a second. All is the mean: without failures, refusals and repeats, and with work for every worker
//! until the end.

/// What one process should have of workers at most: as many as the benchmark has shown to wait without a loss.
pub const WORKERS_OF_AN_INSTANCE: f64 = 256.0;
/// The default of BACKFILLER_MEMORY_BUDGET_MB, in bytes.
pub const BUDGET: f64 = 512.0 * 1_048_576.0;
/// What a worker may take besides: two chunks of 4 MiB and about one more.
pub const MEMORY_OF_A_WORKER: f64 = 9.0 * 1_048_576.0;

/// CPU time: so much for each repo, and so much for each record in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub repo: f64,
    pub record: f64,
}

impl Cost {
    /// The line through two sets, each of (repos, records, CPU time of all).
    pub fn through(one: (f64, f64, f64), other: (f64, f64, f64)) -> Self {
        let of = |(repos, records, time): (f64, f64, f64)| (records / repos, time / repos);
        let ((x1, y1), (x2, y2)) = (of(one), of(other));
        let record = (y2 - y1) / (x2 - x1);
        Cost {
            repo: y1 - record * x1,
            record,
        }
    }

    /// Of a repo with so many records.
    pub fn of(self, records: f64) -> f64 {
        self.repo + self.record * records
    }
}

/// All that the plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub repos: f64,
    pub repo_bytes: f64,
    /// Of a repo.
    pub records: f64,
    /// The largest host's share of all repos.
    pub largest: f64,
    /// What one address may ask of a host: requests a second, and at a time.
    pub host_rate: f64,
    pub host_concurrency: f64,
    /// From which hosts are asked.
    pub addresses: f64,
    /// What the directory allows, whatever the addresses; `None`: a mirror of one's own.
    pub directory_rate: Option<f64>,
    /// Until an answer begins; a repo takes two of these, the document's and its own.
    pub latency: f64,
    /// Bytes a second of one download, and of all together.
    pub download: f64,
    pub bandwidth: f64,
    /// Of all machines that have workers.
    pub cores: f64,
    pub worker: Cost,
    /// Redis's, for the writers and for one reader of the output, of a record.
    pub redis: Cost,
    pub reading: f64,
    /// What a record takes in the output stream.
    pub event_bytes: f64,
}

/// What can bound the rate of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    LargestHost,
    Directory,
    Network,
    Redis,
    Cpu,
}

/// What suffices for the bound that binds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    pub binds: Bound,
    pub time: f64,
    /// The bound that would bind next, and the time then.
    pub next: (Bound, f64),
    /// Repos a second.
    pub rate: f64,
    pub workers: f64,
    pub instances: f64,
    /// Those that are busy.
    pub cores: f64,
    /// Of one core.
    pub redis: f64,
    /// Bytes a second that are downloaded.
    pub download: f64,
    pub memory: f64,
}

impl Figures {
    /// How long a worker is busy with a repo.
    pub fn job(&self) -> f64 {
        2.0 * self.latency + self.repo_bytes / self.download + self.worker.of(self.records)
    }

    /// What the largest host gives: its rate or, where its answers take long, its slots by the time that each is taken.
    pub fn largest_rate(&self) -> f64 {
        let slot = self.latency + self.repo_bytes / self.download;
        self.addresses * self.host_rate.min(self.host_concurrency / slot)
    }

    pub fn redis_of_a_repo(&self) -> f64 {
        self.redis.of(self.records) + self.reading * self.records
    }

    /// What the output stream holds if nobody trims it.
    pub fn output_bytes(&self) -> f64 {
        self.repos * self.records * self.event_bytes
    }

    /// How long all repos take if nothing but this bounds them.
    pub fn alone(&self, bound: Bound) -> Option<f64> {
        let repo = match bound {
            Bound::LargestHost => self.largest / self.largest_rate(),
            Bound::Directory => 1.0 / self.directory_rate?,
            Bound::Network => self.repo_bytes / self.bandwidth,
            Bound::Redis => self.redis_of_a_repo(),
            Bound::Cpu => self.worker.of(self.records) / self.cores,
        };
        Some(self.repos * repo)
    }

    /// All of them, the longest first.
    pub fn bounds(&self) -> Vec<(Bound, f64)> {
        use Bound::{Cpu, Directory, LargestHost, Network, Redis};
        let all = [LargestHost, Directory, Network, Redis, Cpu].into_iter();
        let mut all: Vec<_> = all
            .filter_map(|bound| Some((bound, self.alone(bound)?)))
            .collect();
        all.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        all
    }

    /// The bound that binds, and what suffices for it. Workers by Little's law: as many as there are repos at a time.
    pub fn plan(&self) -> Plan {
        let bounds = self.bounds();
        let (binds, time) = bounds[0];
        let rate = self.repos / time;
        let workers = (rate * self.job()).ceil();
        // As many at each address, so that each has the same part of a host's rate.
        let of_an_address = (workers / self.addresses / WORKERS_OF_AN_INSTANCE).ceil();
        let instances = self.addresses * of_an_address;
        let workers = (workers / instances).ceil() * instances;
        Plan {
            binds,
            time,
            next: bounds[1],
            rate,
            workers,
            instances,
            cores: rate * self.worker.of(self.records),
            redis: rate * self.redis_of_a_repo(),
            download: rate * self.repo_bytes,
            memory: instances * BUDGET + workers * MEMORY_OF_A_WORKER,
        }
    }
}
