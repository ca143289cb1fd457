//! How busy the workers were while there was work for them.
//!
//! Time is cut into slices. A worker is busy while a request of it is under way, at a host or at the directory. What it could have done
//! besides is what hosts would have taken and nobody asked them: each healthy host has a bucket that gains tokens at its rate and
//! loses one with each request; it may go below zero, where the host allows more at first and less later. Tokens beyond
//! [`BURST`] are lost: these are requests that nobody will make any more. Each would have kept a worker for the host's
//! latency. They count only where the host has repos left that are not under way, is not at its concurrency, and has not told us to stay
//! away (or has refused us without a word, which is told for half a minute); and all hosts together at most as many as there are
//! idle workers in the slice.

use std::time::Duration;

use super::log::Entry;
use super::network::{Manner, Network};
use super::times::COOL_DOWN;

/// A slice of time.
const SLICE: Duration = Duration::from_millis(10);
/// What a bucket holds, in seconds of its host's rate: who comes so much too late can still make up for it.
const BURST: f64 = 0.25;

/// Worker time, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utilisation {
    pub busy: f64,
    /// That of idle workers for whom there was work.
    pub wasted: f64,
}

impl Utilisation {
    pub fn share(&self) -> f64 {
        self.busy / (self.busy + self.wasted)
    }
}

/// One host as the model has it.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    tokens: f64,
    in_flight: usize,
    /// Repos that can be asked for and were not yet.
    left: usize,
    closed_until: Duration,
}

/// What happens at a moment.
enum Change {
    Arrived,
    Ended,
}

/// The utilisation of a run.
pub fn of(network: &Network, log: &[Entry]) -> Utilisation {
    let mut changes: Vec<(Duration, Change, &Entry)> = Vec::new();
    for entry in log {
        changes.push((entry.arrived, Change::Arrived, entry));
        changes.push((entry.ended, Change::Ended, entry));
    }
    changes.sort_by_key(|(at, ..)| *at);
    let (Some((began, ..)), Some((end, ..))) = (changes.first(), changes.last()) else {
        return Utilisation::default();
    };
    let (began, end) = (*began, *end);
    let mut buckets: Vec<Bucket> = network
        .hosts
        .iter()
        .map(|host| Bucket {
            tokens: network.rate(host) * BURST,
            left: host.messages,
            ..Bucket::default()
        })
        .collect();
    let mut result = Utilisation {
        busy: log
            .iter()
            .map(|entry| (entry.ended - entry.arrived).as_secs_f64())
            .sum(),
        wasted: 0.0,
    };
    let mut changes = changes.into_iter().peekable();
    let (mut now, mut in_flight) = (began, 0_usize);
    while now < end {
        let until = now + SLICE;
        while let Some((_, change, entry)) = changes.next_if(|(at, ..)| *at < until) {
            match change {
                Change::Arrived => in_flight += 1,
                Change::Ended => in_flight -= 1,
            }
            apply(network, &mut buckets, &change, entry);
        }
        let usable: f64 = network
            .hosts
            .iter()
            .zip(&mut buckets)
            .map(|(host, bucket)| {
                let lost = bucket.gain(network.rate(host));
                let is_free = host.manner.is_healthy() && now >= bucket.closed_until;
                if !is_free {
                    return 0.0;
                }
                let requests = lost.min(bucket.left as f64);
                let room = network.concurrency().saturating_sub(bucket.in_flight);
                (requests * host.latency.as_secs_f64()).min(room as f64 * SLICE.as_secs_f64())
            })
            .sum();
        let idle = network.workers().saturating_sub(in_flight) as f64 * SLICE.as_secs_f64();
        result.wasted += usable.min(idle);
        now = until;
    }
    result
}

impl Bucket {
    /// A slice passes; returns the tokens that there is no room for.
    fn gain(&mut self, rate: f64) -> f64 {
        self.tokens += rate * SLICE.as_secs_f64();
        let lost = (self.tokens - rate * BURST).max(0.0);
        self.tokens -= lost;
        lost
    }
}

fn apply(network: &Network, buckets: &mut [Bucket], change: &Change, entry: &Entry) {
    let Some(host) = entry.host else {
        return;
    };
    let bucket = &mut buckets[host];
    match change {
        Change::Arrived => {
            bucket.in_flight += 1;
            bucket.tokens -= 1.0;
            bucket.left = bucket.left.saturating_sub(1);
        }
        Change::Ended => {
            bucket.in_flight -= 1;
            let told = entry
                .told
                .or((entry.status == 429).then_some(COOL_DOWN))
                .map(|told| entry.ended + told);
            bucket.closed_until = bucket.closed_until.max(told.unwrap_or_default());
            match (network.hosts[host].manner, entry.status) {
                (Manner::Relay, 307) => {
                    // Now its own host can be asked.
                    let account = &network.accounts[entry.account];
                    buckets[account.host].left += 1;
                }
                (_, 200) => {}
                // It must be asked again.
                _ => bucket.left += 1,
            }
        }
    }
}
