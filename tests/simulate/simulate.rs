//! `make simulate`: the whole network in small, and two instances of the release binary that work on it.
//!
//! Two runs: one with workers enough for every host at its full rate, and one with few workers. SIMULATE_ONLY=whole runs one of them,
//! SIMULATE_SEED draws another network, SIMULATE_BIN names another binary, SIMULATE_LOGS a folder for the logs of the instances and of the server.
//! The exit status is 0 only if all is within its bounds.

#[path = "../support/mod.rs"]
mod support;

#[path = "mod.rs"]
mod simulate;

#[path = "../bench/process.rs"]
#[allow(dead_code, reason = "`make bench` uses the rest")]
mod process;

use std::env;
use std::process::ExitCode;

use simulate::bounds::{self, Figures};
use simulate::{networks, report, run, server};
use support::table;

/// The networks that are run, in their order.
const NETWORKS: [&str; 2] = ["whole", "scarce"];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => server::main(&arguments[1..]),
        // cargo itself adds `--bench`.
        _ => simulate(),
    }
}

fn simulate() -> ExitCode {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let only = set("SIMULATE_ONLY");
    let chosen = |name: &&str| only.as_deref().is_none_or(|only| only == *name);
    let chosen: Vec<&str> = NETWORKS.into_iter().filter(|name| chosen(name)).collect();
    let seed = set("SIMULATE_SEED").map_or(Ok(1), |seed| seed.parse());
    let (Ok(seed), false) = (seed, chosen.is_empty()) else {
        eprintln!(
            "SIMULATE_ONLY is one of {}, SIMULATE_SEED a number",
            NETWORKS.join(", ")
        );
        return ExitCode::from(2);
    };
    println!("{}\n", process::machine());
    let mut rows = Vec::new();
    for name in chosen {
        let network = networks::named(name, seed).expect("one of the networks");
        let server = server::Server::spawn(&network);
        let figures = Figures::of(run::run(network, server));
        println!("{}", report::all(&figures));
        rows.extend(bounds::check(&figures));
    }
    println!("{}", table::bounds(&rows));
    let over = rows.iter().filter(|row| row.ok == Some(false));
    let over: Vec<&str> = over.map(|row| row.what.as_str()).collect();
    if over.is_empty() {
        println!("All is within its bounds.");
        return ExitCode::SUCCESS;
    }
    println!("Over their bounds: {}.", over.join("; "));
    ExitCode::FAILURE
}
