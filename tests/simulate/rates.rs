//! How many requests each host saw, against what it allows: the worst window of all, wherever it begins, and the worst of those that the
//! host itself counts.

use std::time::Duration;

use super::log::Entry;
use super::network::{Host, Network};

/// The shortest window that is looked at: in a shorter one a single request more is more than a twentieth.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(30);

/// Shares of what is allowed, 1.0 is all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub short: f64,
    pub long: f64,
    /// Over any window as long as the host's own, or the short one where that is longer.
    pub own: f64,
    /// In the host's own windows, each of which begins with the first request behind the one before.
    pub counted: f64,
}

/// The rates of each host. A refusal is a request as any other.
pub fn of_hosts(network: &Network, log: &[Entry]) -> Vec<Rates> {
    let mut arrivals = vec![Vec::new(); network.hosts.len()];
    for entry in log {
        if let Some(host) = entry.host {
            arrivals[host].push(entry.arrived);
        }
    }
    let of_host = |(host, mut arrivals): (&Host, Vec<Duration>)| {
        arrivals.sort();
        let share = |window| {
            most_within(&arrivals, window) as f64 / (host.limit.rate() * window.as_secs_f64())
        };
        Rates {
            short: share(SHORT),
            long: share(LONG),
            own: share(host.limit.window.max(SHORT)),
            counted: most_counted(&arrivals, host.limit.window) as f64
                / f64::from(host.limit.requests),
        }
    };
    network.hosts.iter().zip(arrivals).map(of_host).collect()
}

/// The most of these that lie within one window.
pub fn most_within(sorted: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in sorted.iter().enumerate() {
        while sorted[first] + window <= *at {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// The most of these that lie within one of the windows that follow each other.
pub fn most_counted(sorted: &[Duration], window: Duration) -> usize {
    let (mut began, mut count, mut most) = (None, 0, 0);
    for at in sorted {
        if began.is_none_or(|began| began + window <= *at) {
            (began, count) = (Some(*at), 0);
        }
        count += 1;
        most = most.max(count);
    }
    most
}
