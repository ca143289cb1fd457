//! The whole network in small: hosts of all manners, several hundred repos, two instances.
//!
//! What `make simulate` shows of 300 hosts, where it does not depend on how busy the machine is: every repo ends as its host deserves,
//! nothing is lost, no host sees much more than it allows, and nobody waits for those that came before.

mod support;

#[path = "simulate/mod.rs"]
mod simulate;

use std::time::Duration;

use simulate::bounds::{Figures, ends_of};
use simulate::network::Manner;
use simulate::server::Server;
use simulate::{networks, report, run};

/// How much more than its limit a host may see: on a busy machine, requests that were made one after the other come together.
const EXCESS: f64 = 1.25;

#[test]
fn every_host_is_treated_as_it_wants_and_every_repo_ends_as_it_deserves() {
    let network = networks::small(1);
    let server = Server::start(&network);
    let figures = Figures::of(run::run(network, server));
    // Shown where something fails.
    println!("{}", report::all(&figures));

    for row in ends_of(&figures) {
        let what = format!("{}: {} of {}", row.what, row.reached, row.bound);
        assert_eq!(row.ok, Some(true), "{what}");
    }
    for (host, rates) in figures.rates.iter().enumerate() {
        let it = &figures.run.network.hosts[host];
        // Where the host's own window is longer, it may be used up at once.
        let share = match it.manner {
            Manner::Small(_) => rates.counted,
            Manner::Wordless => rates.own,
            _ => rates.short.max(rates.long),
        };
        let manner = it.manner.name();
        assert!(
            share <= EXCESS,
            "{:.0} % at {host}, {manner}",
            share * 100.0
        );
    }
    not_delayed(&figures);
}

/// The messages behind those of the first host are done long before these: both hosts allow as much, and it has more than twice as
/// many.
fn not_delayed(figures: &Figures) {
    let network = &figures.run.network;
    let behind = network.behind.expect("a host behind the first");
    let (few, many) = (
        network.hosts[behind].repos,
        network.hosts[network.front].repos,
    );
    assert!(many > 2 * few);
    let answered = |host: usize| {
        let entries = figures.run.log.iter();
        let answered = entries.filter(move |it| it.host == Some(host) && it.status == 200);
        let mut times: Vec<Duration> = answered.map(|it| it.ended).collect();
        times.sort();
        times
    };
    let last = answered(behind)[few - 1];
    let before = answered(network.front);
    let before = before.iter().filter(|at| **at < last).count();
    assert!(
        before <= many * 3 / 4,
        "{before} of {many} messages were done before the {few} behind them"
    );
}
