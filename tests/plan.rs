//! The arithmetic of `make plan`, against cases that were computed by hand: each bound binds in one of them.

#[path = "bench/plan/arithmetic.rs"]
#[allow(dead_code, reason = "the page needs more of it")]
mod arithmetic;

use arithmetic::{BUDGET, Bound, Cost, Figures, MEMORY_OF_A_WORKER};

/// A million repos of 1 MB with 100 records. A slot is taken for 0.5 + 1 s, a worker for 2 × 0.5 + 1 + 0.001 + 100 × 0.00001 s.
/// Alone: the largest host 10,000 s, the directory 2,000 s, the network 1,000 s, Redis 800 s, CPU 1,000 s.
const FIGURES: Figures = Figures {
    repos: 1e6,
    repo_bytes: 1e6,
    records: 100.0,
    largest: 0.1,
    host_rate: 10.0,
    host_concurrency: 20.0,
    addresses: 1.0,
    directory_rate: Some(500.0),
    latency: 0.5,
    download: 1e6,
    bandwidth: 1e9,
    cores: 2.0,
    worker: Cost {
        repo: 0.001,
        record: 0.00001,
    },
    redis: Cost {
        repo: 0.0002,
        record: 0.000005,
    },
    reading: 0.000001,
    event_bytes: 600.0,
};

#[track_caller]
fn assert_close(value: f64, expected: f64) {
    let off = (value - expected).abs();
    assert!(off <= expected.abs() * 1e-9, "{value}, not {expected}");
}

#[track_caller]
fn assert_binds(figures: Figures, bound: Bound, time: f64) {
    let plan = figures.plan();
    assert_eq!(plan.binds, bound);
    assert_close(plan.time, time);
    assert_close(plan.rate, figures.repos / time);
}

#[test]
fn the_largest_host_binds() {
    assert_binds(FIGURES, Bound::LargestHost, 10_000.0);
    let plan = FIGURES.plan();
    assert_eq!(plan.next.0, Bound::Directory);
    assert_close(plan.next.1, 2_000.0);
    // 100 repos a second of 2.002 s each.
    assert_close(plan.workers, 201.0);
    assert_close(plan.instances, 1.0);
    assert_close(plan.cores, 0.2);
    assert_close(plan.redis, 0.08);
    assert_close(plan.download, 1e8);
    assert_close(plan.memory, BUDGET + 201.0 * MEMORY_OF_A_WORKER);
    assert_close(FIGURES.output_bytes(), 6e10);
}

#[test]
fn the_largest_host_allows_its_rate_to_each_address() {
    let figures = Figures {
        addresses: 3.0,
        ..FIGURES
    };
    assert_binds(figures, Bound::LargestHost, 10_000.0 / 3.0);
    // 300 repos a second of 2.002 s each are 601 workers: 201 at each of the three addresses.
    assert_close(figures.plan().instances, 3.0);
    assert_close(figures.plan().workers, 603.0);
    let memory = 3.0 * BUDGET + 603.0 * MEMORY_OF_A_WORKER;
    assert_close(figures.plan().memory, memory);
}

#[test]
fn a_slow_host_is_bound_by_its_slots() {
    let figures = Figures {
        host_concurrency: 3.0,
        ..FIGURES
    };
    // Three slots of 1.5 s each: two requests a second.
    assert_binds(figures, Bound::LargestHost, 50_000.0);
}

#[test]
fn the_directory_binds_unless_there_is_a_mirror() {
    let small_hosts = Figures {
        largest: 0.001,
        ..FIGURES
    };
    assert_binds(small_hosts, Bound::Directory, 2_000.0);
    // 500 repos a second of 2.002 s each: 1,001 workers, in four processes of 251.
    assert_close(small_hosts.plan().instances, 4.0);
    assert_close(small_hosts.plan().workers, 1_004.0);
    let mirror = Figures {
        directory_rate: None,
        ..FIGURES
    };
    assert_eq!(mirror.alone(Bound::Directory), None);
    assert_eq!(mirror.bounds().len(), 4);
}

/// Neither a host nor the directory binds.
const FREE: Figures = Figures {
    largest: 0.001,
    directory_rate: None,
    ..FIGURES
};

#[test]
fn the_network_binds() {
    let bandwidth = 1e8;
    assert_binds(Figures { bandwidth, ..FREE }, Bound::Network, 10_000.0);
}

#[test]
fn redis_binds_with_what_reads_the_output() {
    let reading = 0.0001;
    // 0.0002 + 100 × 0.000005 to write, 100 × 0.0001 to read.
    assert_binds(Figures { reading, ..FREE }, Bound::Redis, 10_700.0);
    assert_close(Figures { reading, ..FREE }.plan().redis, 1.0);
}

#[test]
fn the_processors_bind() {
    let cores = 0.5;
    assert_binds(Figures { cores, ..FREE }, Bound::Cpu, 4_000.0);
    assert_close(Figures { cores, ..FREE }.plan().cores, 0.5);
}

#[test]
fn a_cost_goes_through_both_sets() {
    // 2 repos of 10 records each in 0.06 s, one of 1,000 in 1.02 s: 0.02 s a repo and 0.001 s a record.
    let cost = Cost::through((2.0, 20.0, 0.06), (1.0, 1_000.0, 1.02));
    assert_close(cost.repo, 0.02);
    assert_close(cost.record, 0.001);
    assert_close(cost.of(500.0), 0.52);
}
