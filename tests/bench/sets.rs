//! The sets: which repos, how they are served, and how the program is set up for them.

/// The records of a body, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repos {
    /// No repo at all: the program waits for messages.
    None,
    /// Repos of the sizes that the network has, each with a body of its own.
    Network(usize),
    /// So many repos of so many records, each with a body of its own.
    Own(usize, usize),
    /// So many repos that have the same so many records, and differ in account and commit.
    Shared(usize, usize),
    /// The same, of records of 40 KB: a chunk is full after 4 MiB of JSON, long before 500 events.
    Large(usize, usize),
}

/// One set and the way to measure it.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    pub name: &'static str,
    pub repos: Repos,
    /// Blocks in a random order instead of that of the tree.
    pub shuffled: bool,
    /// Worker threads.
    pub concurrency: usize,
    /// BACKFILLER_MEMORY_BUDGET_MB; the default where there is none.
    pub budget_mb: Option<u64>,
    /// How long the server waits before each answer.
    pub delay_ms: u64,
    /// How often it is measured; the floor before each time.
    pub rounds: usize,
    /// Whether the floor is measured as well.
    pub floor: bool,
    /// Whether Redis's share is measured alone: with pipelines that were encoded before.
    pub encoded: bool,
    /// Whether the output is cut as it grows, since Redis could not hold it.
    pub drained: bool,
}

const PLAIN: Set = Set {
    name: "",
    repos: Repos::None,
    shuffled: false,
    concurrency: 1,
    budget_mb: None,
    delay_ms: 0,
    rounds: 2,
    floor: true,
    encoded: false,
    drained: false,
};

/// One that is spilled, many or slow: the floor has nothing to say there.
const ALONE: Set = Set {
    rounds: 1,
    floor: false,
    ..PLAIN
};

/// How long the server waits in the latency set.
const DELAY_MS: u64 = 250;

/// All sets, in the order they are measured.
pub fn all() -> Vec<Set> {
    let one = |name, records, shuffled, rounds| Set {
        name,
        repos: Repos::Own(1, records),
        shuffled,
        rounds,
        encoded: records == 100_000 && !shuffled,
        ..PLAIN
    };
    let spilled = |name, records| Set {
        name,
        repos: Repos::Own(1, records),
        budget_mb: Some(64),
        ..ALONE
    };
    let many = |name, repos| Set {
        name,
        repos,
        concurrency: 64,
        budget_mb: Some(512),
        drained: true,
        ..ALONE
    };
    let latency = |name, repos, concurrency| Set {
        name,
        repos: Repos::Own(repos, 10),
        concurrency,
        delay_ms: DELAY_MS,
        ..ALONE
    };
    vec![
        Set {
            name: "small",
            repos: Repos::Network(2_000),
            concurrency: 2,
            encoded: true,
            ..PLAIN
        },
        // A few hundredths of a second each, so that many rounds are needed to meet a quiet one.
        one("10k", 10_000, false, 10),
        one("10k-shuffled", 10_000, true, 10),
        one("100k", 100_000, false, 4),
        one("100k-shuffled", 100_000, true, 4),
        one("500k", 500_000, false, 2),
        one("500k-shuffled", 500_000, true, 2),
        one("1m", 1_000_000, false, 2),
        one("1m-shuffled", 1_000_000, true, 2),
        Set {
            name: "large",
            repos: Repos::Large(5, 1_000),
            rounds: 3,
            ..PLAIN
        },
        spilled("500k-spilled", 500_000),
        spilled("1m-spilled", 1_000_000),
        Set {
            name: "workers",
            repos: Repos::Shared(8, 100_000),
            concurrency: 4,
            ..PLAIN
        },
        many("many", Repos::Shared(64, 100_000)),
        many("many-large", Repos::Large(64, 1_000)),
        latency("latency-1", 100, 1),
        latency("latency-64", 8_000, 64),
        latency("latency-256", 8_000, 256),
        Set {
            name: "idle",
            concurrency: 2,
            ..ALONE
        },
    ]
}

/// The sets of these names, and the names that no set has. A name stands also for its variants: `100k` for `100k-shuffled`. No
/// name stands for all sets.
pub fn selected(names: &str) -> (Vec<Set>, Vec<&str>) {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let is = |set: &Set, name: &str| {
        let rest = set.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut sets = all();
    let unknown = names
        .iter()
        .copied()
        .filter(|name| !sets.iter().any(|set| is(set, name)))
        .collect();
    if !names.is_empty() {
        sets.retain(|set| names.iter().any(|name| is(set, name)));
    }
    (sets, unknown)
}

/// The sizes of the network's repos, in records, by the share of repos that are smaller.
///
/// Three quarters of them are under 100 KiB and hold less than 3 % of the bytes; the mean is 373 records.
const QUANTILES: [(f64, f64); 9] = [
    (0.0, 1.0),
    (0.25, 2.0),
    (0.5, 6.0),
    (0.6, 10.0),
    (0.7, 24.0),
    (0.76, 240.0),
    (0.9, 850.0),
    (0.98, 4_040.0),
    (1.0, 10_200.0),
];

/// So many sizes of the network's distribution, in ascending order.
pub fn network_sizes(count: usize) -> Vec<usize> {
    let size = |rank: usize| {
        let share = (rank as f64 + 0.5) / count as f64;
        let above = QUANTILES.iter().position(|(quantile, _)| *quantile > share);
        let above = above.unwrap_or(QUANTILES.len() - 1);
        let ((from, low), (to, high)) = (QUANTILES[above - 1], QUANTILES[above]);
        let way = (share - from) / (to - from);
        (low * f64::powf(high / low, way)).round() as usize
    };
    (0..count).map(size).collect()
}
