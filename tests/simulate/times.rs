//! When each host was done, against the time that its own limits allow.
//!
//! The clock begins with the first request of all. A host is done when its last repo has been answered, a relay when it has redirected its
//! last request. What its limits allow is the longer of requests by rate, and requests by concurrency; then one answer, and
//! [`START`], the same for all hosts.

use std::collections::HashMap;
use std::time::Duration;

use super::log::{Entry, NOBODY};
use super::network::{DIRECTORY_LATENCY, INSTANCES, Manner, Network};

/// What is not the host's: the input is one queue, and a host cannot be known before the first of its messages has been read, which for
/// a small one may be the last of all; the second process starts behind the first one; and nobody is asked for much
/// before it has answered once.
pub const START: Duration = Duration::from_secs(2);
/// How long a host is left alone that refuses without saying for how long.
pub const COOL_DOWN: Duration = Duration::from_secs(30);

/// The time of one host.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// `None`: not all of it was answered.
    pub taken: Option<Duration>,
    pub allowed: Duration,
}

impl Time {
    /// 1.0 is what its limits allow.
    pub fn ratio(&self) -> f64 {
        self.taken.map_or(f64::INFINITY, |taken| {
            taken.as_secs_f64() / self.allowed.as_secs_f64()
        })
    }
}

/// The times of the healthy hosts.
pub fn of_hosts(network: &Network, log: &[Entry]) -> Vec<Option<Time>> {
    let began = log.iter().map(|entry| entry.arrived).min();
    let began = began.unwrap_or_default();
    // When each account was first had from the host that holds it, and first redirected by the one that its message names.
    let mut answered: HashMap<(usize, usize), Duration> = HashMap::new();
    for entry in log {
        if let (Some(host), 200 | 307) = (entry.host, entry.status)
            && entry.account != NOBODY
        {
            let at = answered.entry((host, entry.account)).or_insert(entry.ended);
            *at = entry.ended.min(*at);
        }
    }
    let numbered = network.accounts.iter().enumerate();
    let taken = |host: usize| {
        let of_host = numbered
            .clone()
            .filter(|(_, account)| match network.hosts[host].manner {
                Manner::Relay => account.named == host,
                _ => account.host == host,
            });
        let times = of_host.map(|(number, _)| answered.get(&(host, number)).copied());
        let last = times.collect::<Option<Vec<_>>>()?.into_iter().max();
        last.map(|last| last.saturating_sub(began))
    };
    let of_host = |host: usize| {
        network.hosts[host].manner.is_healthy().then(|| Time {
            taken: taken(host),
            allowed: allowed(network, host),
        })
    };
    (0..network.hosts.len()).map(of_host).collect()
}

/// How long the limits of a host allow it to take.
pub fn allowed(network: &Network, host: usize) -> Duration {
    let it = &network.hosts[host];
    let seconds = match it.manner {
        Manner::Relay => at_rate(network, host, it.messages),
        // It says nothing until it refuses, so it is asked as fast as the program asks anybody, and then left alone.
        Manner::Wordless => {
            let set = f64::from(network.settings.host_rps) * INSTANCES as f64;
            let rests = (it.repos - 1) / it.limit.requests as usize;
            it.repos as f64 / set + rests as f64 * COOL_DOWN.as_secs_f64()
        }
        _ => at_rate(network, host, it.repos),
    };
    // What a relay is asked for cannot be had before the relay has redirected it.
    let relayed = network
        .accounts
        .iter()
        .filter(|account| account.host == host && account.named != host);
    let relayed = relayed.map(|account| {
        at_rate(
            network,
            account.named,
            network.hosts[account.named].messages,
        )
    });
    let seconds = relayed.fold(seconds, f64::max);
    Duration::from_secs_f64(seconds) + it.latency + START
}

/// So many requests by rate, or by concurrency.
fn at_rate(network: &Network, host: usize, requests: usize) -> f64 {
    let it = &network.hosts[host];
    let by_rate = requests as f64 / network.rate(it);
    let by_concurrency = requests as f64 * it.latency.as_secs_f64() / network.concurrency() as f64;
    by_rate.max(by_concurrency)
}

/// How long a host may take where the workers do not suffice for all: as long as if those of one instance went round all hosts and
/// asked each once in every round, with a look-up for each repo. Of one instance, because messages that lie together in the
/// input are read in one go and belong to whoever has read them.
pub fn fair(network: &Network, host: usize) -> Duration {
    let hosts = network.hosts.iter();
    let round: Duration = hosts.map(|host| host.latency + DIRECTORY_LATENCY).sum();
    let round = round.div_f64(network.settings.workers as f64);
    let rounds = round.mul_f64(network.hosts[host].repos as f64);
    allowed(network, host).max(rounds + network.hosts[host].latency + START)
}
