//! The networks that are simulated: the whole one, one with few workers, and the small one of the tests.
//!
//! The skew is that of the real network: about ninety large hosts hold nine tenths of all repos, some hundreds of small ones the
//! rest, a twentieth of all hosts is dead, a fiftieth hostile. All is drawn from a seed.

use std::time::Duration;

use super::limits::{Limit, Spelling};
use super::network::{Account, Host, Manner, Network, Settings, did};
use crate::support::generator::Random;

/// What large hosts allow, as in the real network: ten a second.
const LARGE: Limit = Limit::new(300, 30);

/// The network of this name.
pub fn named(name: &str, seed: u64) -> Option<Network> {
    match name {
        "whole" => Some(whole(seed)),
        "scarce" => Some(scarce(seed)),
        "small" => Some(small(seed)),
        _ => None,
    }
}

/// 300 hosts and 20,000 repos. The workers suffice for all hosts, so each host must be served as fast as it allows.
pub fn whole(seed: u64) -> Network {
    let mut plan = Plan::new(seed);
    for (rank, repos) in zipf(90, 18_000, 0.6).into_iter().enumerate() {
        // Those that refuse without a word: some with long windows, and with short ones where there are fewer repos; each has its
        // window used up at least once.
        let (manner, limit) = match rank {
            4 | 7 | 10 | 13 | 16 | 19 => (Manner::Wordless, Limit::new(180, 30)),
            24 | 28 | 32 | 36 | 40 | 44 => (Manner::Wordless, Limit::new(120, 20)),
            _ => (Manner::Large, LARGE),
        };
        let latency = plan.millis(30, 400, 2);
        plan.host(manner, latency, limit, repos);
    }
    for (rank, repos) in zipf(186, 1_790, 0.8).into_iter().enumerate() {
        let spelling = Spelling::ALL[rank % Spelling::ALL.len()];
        let latency = plan.millis(100, 1000, 3);
        plan.host(
            Manner::Small(spelling),
            latency,
            small_limit(spelling, repos, rank),
            repos,
        );
    }
    let dead = [
        (Manner::Refused, 7),
        (Manner::Closed, 6),
        (Manner::Silent, 2),
    ];
    let hostile = [
        (Manner::Loop, 2),
        (Manner::Drip, 1),
        (Manner::Garbage, 1),
        (Manner::Huge, 1),
        (Manner::Forged, 1),
    ];
    for (manner, hosts) in dead.into_iter().chain(hostile) {
        for _ in 0..hosts {
            let latency = plan.millis(30, 400, 2);
            plan.host(manner, latency, LARGE, 10);
        }
    }
    for messages in [150, 100, 100] {
        plan.relay(LARGE, messages, 50..90);
    }
    plan.network(
        "whole",
        Settings {
            workers: 192,
            host_rps: 5,
            host_concurrency: 5,
            max_deferred_secs: 60,
            http_timeout_secs: 35,
            private_hosts: true,
            patience: Duration::from_secs(400),
        },
        None,
    )
}

/// Few workers, and hosts that could take all of them: who is served must not depend on who came first.
pub fn scarce(seed: u64) -> Network {
    let limit = Limit::new(1200, 30);
    let mut plan = Plan::new(seed);
    plan.host(Manner::Large, Duration::from_millis(400), limit, 2000);
    let behind = plan.host(Manner::Large, Duration::from_millis(150), limit, 100);
    for _ in 0..10 {
        let latency = plan.millis(100, 200, 1);
        plan.host(Manner::Large, latency, limit, 250);
    }
    plan.host(Manner::Metadata, Duration::from_millis(100), limit, 10);
    plan.network(
        "scarce",
        Settings {
            workers: 8,
            host_rps: 20,
            host_concurrency: 5,
            max_deferred_secs: 60,
            http_timeout_secs: 20,
            private_hosts: false,
            patience: Duration::from_secs(400),
        },
        Some(behind),
    )
}

/// Hosts of all manners, and few repos. Nothing in it takes long.
pub fn small(seed: u64) -> Network {
    let mut plan = Plan::new(seed);
    plan.host(Manner::Large, Duration::from_millis(150), LARGE, 240);
    let behind = plan.host(Manner::Large, Duration::from_millis(60), LARGE, 100);
    for repos in [60, 40, 30, 20] {
        let latency = plan.millis(30, 150, 1);
        plan.host(Manner::Large, latency, LARGE, repos);
    }
    // A window that is used up once.
    let latency = plan.millis(30, 150, 1);
    plan.host(Manner::Wordless, latency, Limit::new(60, 10), 80);
    for (spelling, repos) in Spelling::ALL.into_iter().zip([30, 70, 64, 26, 24]) {
        let latency = plan.millis(50, 300, 1);
        plan.host(
            Manner::Small(spelling),
            latency,
            small_limit(spelling, repos, 0),
            repos,
        );
    }
    for spelling in [Spelling::Epoch, Spelling::Delta, Spelling::Date] {
        let latency = plan.millis(50, 500, 1);
        plan.host(
            Manner::Small(spelling),
            latency,
            small_limit(spelling, 6, 1),
            6,
        );
    }
    let others = [
        Manner::Refused,
        Manner::Closed,
        Manner::Silent,
        Manner::Loop,
        Manner::Drip,
        Manner::Garbage,
        Manner::Huge,
        Manner::Forged,
    ];
    for manner in others {
        plan.host(manner, Duration::from_millis(50), LARGE, 2);
    }
    plan.relay(LARGE, 20, 2..6);
    plan.network(
        "small",
        Settings {
            workers: 48,
            host_rps: 5,
            host_concurrency: 5,
            max_deferred_secs: 45,
            http_timeout_secs: 4,
            private_hosts: true,
            patience: Duration::from_secs(150),
        },
        Some(behind),
    )
}

/// Two a second in all; over how long depends on who asks: those that say nothing until they refuse have long windows, for a refusal
/// counts as a request, and each instance must be refused once.
fn small_limit(spelling: Spelling, repos: usize, rank: usize) -> Limit {
    let seconds = match spelling {
        Spelling::Seconds | Spelling::Date => 30,
        _ if repos >= 20 => 20,
        _ => [10, 20, 30][rank % 3],
    };
    Limit::new(2 * seconds, seconds.into())
}

/// So many sizes, whose sum is `total`, each in proportion to a power of its rank.
fn zipf(count: usize, total: usize, exponent: f64) -> Vec<usize> {
    let weights: Vec<f64> = (1..=count)
        .map(|rank| (rank as f64).powf(-exponent))
        .collect();
    let sum: f64 = weights.iter().sum();
    let size = |weight: &f64| ((weight / sum * total as f64) as usize).max(1);
    let mut sizes: Vec<usize> = weights.iter().map(size).collect();
    // What rounding has left over, one for each.
    let left = total - sizes.iter().sum::<usize>();
    sizes.iter_mut().take(left).for_each(|size| *size += 1);
    sizes
}

/// A network that is being drawn.
struct Plan {
    seed: u64,
    random: Random,
    hosts: Vec<Host>,
    /// The host of each account.
    held: Vec<usize>,
    /// Relays, how many accounts each is asked for, and the hosts that hold these.
    relays: Vec<(usize, usize, std::ops::Range<usize>)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        Plan {
            seed,
            random: Random::new(seed),
            hosts: Vec::new(),
            held: Vec::new(),
            relays: Vec::new(),
        }
    }

    /// A time between the two, short ones more often the higher the power.
    fn millis(&mut self, least: u64, most: u64, power: i32) -> Duration {
        let drawn = self.random.below(1 << 20) as f64 / f64::from(1 << 20);
        let span = (most - least) as f64;
        Duration::from_millis(least + (drawn.powi(power) * span) as u64)
    }

    fn host(&mut self, manner: Manner, latency: Duration, limit: Limit, repos: usize) -> usize {
        let number = self.hosts.len();
        self.hosts.push(Host {
            manner,
            latency,
            limit,
            repos,
            messages: repos,
        });
        self.held.extend(std::iter::repeat_n(number, repos));
        number
    }

    /// A relay that is asked for accounts of these hosts.
    fn relay(&mut self, limit: Limit, messages: usize, hosts: std::ops::Range<usize>) {
        let latency = self.millis(30, 100, 1);
        let number = self.host(Manner::Relay, latency, limit, 0);
        self.relays.push((number, messages, hosts));
    }

    /// The accounts of each host, and the order of the messages: those of the first host in front, right behind them those of `behind`,
    /// then all others as chance wants it.
    fn network(mut self, name: &'static str, settings: Settings, behind: Option<usize>) -> Network {
        let mut accounts: Vec<Account> = (0..)
            .zip(&self.held)
            .map(|(number, &host)| Account {
                did: did(self.seed, number),
                host,
                named: host,
            })
            .collect();
        for (relay, messages, hosts) in &self.relays {
            let of_hosts = |it: &Account| it.named == it.host && hosts.contains(&it.host);
            let mut candidates: Vec<usize> = (0..accounts.len())
                .filter(|&it| of_hosts(&accounts[it]))
                .collect();
            self.random.shuffle(&mut candidates);
            for &account in &candidates[..*messages] {
                let account = &mut accounts[account];
                self.hosts[account.host].messages -= 1;
                self.hosts[*relay].messages += 1;
                account.named = *relay;
            }
        }
        let front = 0;
        let mut order: Vec<usize> = (0..accounts.len()).collect();
        self.random.shuffle(&mut order);
        // A stable sort keeps the others shuffled.
        order.sort_by_key(|&it| match accounts[it].named {
            host if host == front => 0,
            host if Some(host) == behind => 1,
            _ => 2,
        });
        Network {
            name,
            seed: self.seed,
            settings,
            hosts: self.hosts,
            accounts,
            order,
            front,
            behind,
        }
    }
}
