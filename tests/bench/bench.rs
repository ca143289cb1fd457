//! `make bench`: what the release binary costs, against the floor.
//!
//! The benchmark generates signed repos ([`data`]), starts a private Redis and a server of those repos ([`serve`]) as processes of
//! their own, runs the release binary over each set ([`sets`], [`measure`]) and, in turn with it, the floor ([`floor`]): a
//! straight line of the same work without anything around it. It prints one table of the sets and one of the bounds
//! ([`bounds`]), and keeps the figures in `target/bench/last.json` to print the change the next time ([`results`]).
//!
//! `make profile` has the same set up, and a tool that looks into the program ([`profile`]). `make plan` says what the figures mean
//! for the whole network ([`plan`]).
//!
//! Nothing here counts time or memory of its own process: each process that is measured is a child, and its CPU time is what
//! the kernel has charged to it. `BENCH_SETS=100k,small` selects sets, `BENCH_BIN` names another binary to measure. The exit status is 0
//! only if everything that was measured is within its bound.

mod bounds;
mod consume;
mod data;
mod floor;
mod idle;
mod measure;
mod mix;
mod plan;
mod process;
mod profile;
mod profiled;
mod reference;
mod results;
mod serve;
mod sets;
mod stage;
mod table;

/// What the tests use as well: the generator, a private Redis, and children that end with this process.
#[path = "../support"]
#[allow(dead_code, unreachable_pub, reason = "each user needs a part of it")]
mod support {
    pub mod child;
    pub mod generator;
    pub mod redis_server;
    pub mod table;
    pub mod wait;
}

use std::env;
use std::process::ExitCode;

use results::Results;
use sets::Set;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => serve::main(&arguments[1..]),
        Some("floor") => floor::main(&arguments[1..]),
        Some("profile") => profile::main(),
        Some("plan") => plan::main(),
        // cargo itself adds `--bench`.
        _ => bench(),
    }
}

fn bench() -> ExitCode {
    let names = env::var("BENCH_SETS").unwrap_or_default();
    let (sets, unknown) = sets::selected(&names);
    if !unknown.is_empty() {
        let known: Vec<&str> = sets::all().iter().map(|set| set.name).collect();
        eprintln!(
            "BENCH_SETS: no set is called {}; there are {}",
            unknown.join(", "),
            known.join(", ")
        );
        return ExitCode::from(2);
    }
    println!("{}", process::machine());
    println!("{}\n", measure::binary().display());
    let store = data::Store::open();
    let mut results = Results::default();
    for set in &sets {
        eprint!("{:<15} ", set.name);
        let result = run(set, &store);
        eprintln!("{}", table::short(&result));
        results.add(result);
    }
    let previous = results::previous();
    println!("{}", table::sets(&results, previous.as_ref()));
    println!("{}\n", table::notes(&results));
    let bounds = bounds::check(&results);
    println!("{}", table::bounds(&bounds));
    results::keep(&results, &bounds, previous);
    let over = bounds.iter().filter(|bound| bound.ok == Some(false));
    let over: Vec<&str> = over.map(|bound| bound.what.as_str()).collect();
    if over.is_empty() {
        println!("All that was measured is within its bound.");
        return ExitCode::SUCCESS;
    }
    println!("Over their bounds: {}.", over.join("; "));
    ExitCode::FAILURE
}

/// Measures one set.
fn run(set: &Set, store: &data::Store) -> results::SetResult {
    match set.repos {
        sets::Repos::None => idle::measure(set),
        _ => measure::measure(set, store),
    }
}
