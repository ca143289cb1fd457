//! `make simulate`: the whole network in small, and two instances of the release binary that work on it.
//!
//! Two runs: one with workers enough for every host at its full rate, and one with few workers. SIMULATE_ONLY=whole runs one of them,
//! SIMULATE_SEED draws another network, SIMULATE_BIN names another binary, SIMULATE_LOGS a folder for the logs of the instances and of the server.
//! The exit status is 0 only if all is within its bounds.

#[path = "../support/mod.rs"]
mod support;

#[path = "mod.rs"]
mod simulate;

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
    let only = env::var("SIMULATE_ONLY").unwrap_or_default();
    let seed = env::var("SIMULATE_SEED").unwrap_or_default();
    let seed = seed.parse().unwrap_or(1);
    let mut rows = Vec::new();
    for name in NETWORKS {
        if !only.is_empty() && only != name {
            continue;
        }
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
