//! Processes killed (SIGKILL) in the midst of their work: nothing is lost, and nothing there twice.

mod support;

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use support::crash::{self, Tally};

/// The same traps, names and repos at each run; when which instance gets how far is the machine's.
const SEED: u64 = 3;

#[test]
fn killed_at_any_instant_each_repo_comes_out_exactly_once() {
    crash::run(SEED);
}

/// `make soak`: whole runs, one after the other, until SOAK_SECONDS are over. SOAK_SEED is the seed of the first one.
#[test]
#[ignore = "runs for as long as wanted"]
fn soak() {
    let number = |name: &str| -> Option<u64> {
        let text = env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        )
    };
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(600));
    let first = number("SOAK_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    let began = Instant::now();
    let mut total = Tally::default();
    for seed in first.. {
        println!("SOAK_SEED={seed}");
        total.add(&crash::run(seed));
        if began.elapsed() >= time {
            break;
        }
    }
    println!("all runs, {:.0} s: {total}", began.elapsed().as_secs_f64());
}
