//! Hosts, their manners, and the accounts that they hold.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::limits::{Limit, Spelling};
use crate::support::generator::did_plc;

/// How a host behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Holds many repos, allows many requests, and says in each answer how many are left.
    Large,
    /// Holds few repos, is slow and allows few requests, which it says in its own spelling.
    Small(Spelling),
    /// Refuses without any header, with a page of HTML, when its window is used up.
    Wordless,
    /// Redirects each request to the host that holds the account.
    Relay,
    /// Nobody listens.
    Refused,
    /// Ends each connection at once.
    Closed,
    /// Takes the request and never answers.
    Silent,
    /// Redirects to itself.
    Loop,
    /// Sends a few bytes a second.
    Drip,
    /// Says that it sends a CAR, and sends noise.
    Garbage,
    /// Announces a terabyte.
    Huge,
    /// Sends the repo of another account.
    Forged,
    /// Redirects to the address where clouds keep their secrets.
    Metadata,
}

/// What becomes of a repo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deserved {
    /// All its events, once.
    Events,
    /// A dead letter, with one of these reasons.
    DeadLetter(&'static [&'static str]),
}

impl Manner {
    /// The name of its class.
    pub fn name(self) -> &'static str {
        match self {
            Manner::Large => "large",
            Manner::Small(_) => "small",
            Manner::Wordless => "wordless 429",
            Manner::Relay => "relay",
            Manner::Refused => "dead: refuses",
            Manner::Closed => "dead: closes",
            Manner::Silent => "dead: silent",
            Manner::Loop => "hostile: redirect loop",
            Manner::Drip => "hostile: drips",
            Manner::Garbage => "hostile: noise",
            Manner::Huge => "hostile: a terabyte",
            Manner::Forged => "hostile: another's repo",
            Manner::Metadata => "hostile: to 169.254.169.254",
        }
    }

    /// Whether its repos are to be had.
    pub fn is_healthy(self) -> bool {
        matches!(
            self,
            Manner::Large | Manner::Small(_) | Manner::Wordless | Manner::Relay
        )
    }

    /// What the repos that it holds deserve.
    pub fn deserves(self) -> Deserved {
        match self {
            Manner::Large | Manner::Small(_) | Manner::Wordless | Manner::Relay => Deserved::Events,
            Manner::Refused | Manner::Closed | Manner::Silent | Manner::Drip => {
                Deserved::DeadLetter(&["network"])
            }
            Manner::Loop | Manner::Metadata => Deserved::DeadLetter(&["http_status"]),
            Manner::Garbage => Deserved::DeadLetter(&["car"]),
            Manner::Huge => Deserved::DeadLetter(&["too_large"]),
            Manner::Forged => Deserved::DeadLetter(&["did_mismatch"]),
        }
    }
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    pub manner: Manner,
    /// How long it takes for an answer.
    pub latency: Duration,
    pub limit: Limit,
    /// How many accounts it holds.
    pub repos: usize,
    /// How many messages name it: its own accounts but those that a relay is asked for, or a relay's.
    pub messages: usize,
}

/// One account.
#[derive(Clone, Debug)]
pub struct Account {
    pub did: String,
    /// The host that holds it.
    pub host: usize,
    /// The host that its message names.
    pub named: usize,
}

/// How the program is set up for a network.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of each instance.
    pub workers: usize,
    /// Of each instance, for each host: half of what the host allows, since they share an address.
    pub host_rps: u32,
    pub host_concurrency: u32,
    pub max_deferred_secs: u64,
    pub http_timeout_secs: u64,
    /// Relays redirect to private addresses here, which strangers may not do otherwise.
    pub private_hosts: bool,
    /// How long all may take before what is left is counted as lost.
    pub patience: Duration,
}

/// How many instances share the work.
pub const INSTANCES: usize = 2;

/// All of it.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: &'static str,
    pub seed: u64,
    pub settings: Settings,
    pub hosts: Vec<Host>,
    pub accounts: Vec<Account>,
    /// The accounts in the order of their messages.
    pub order: Vec<usize>,
    /// The host whose messages lie in front of all others.
    pub front: usize,
    /// The host whose messages lie right behind them, where there is one.
    pub behind: Option<usize>,
}

impl Network {
    /// Worker threads of all instances.
    pub fn workers(&self) -> usize {
        self.settings.workers * INSTANCES
    }

    /// Requests at a time that all instances may have at one host.
    pub fn concurrency(&self) -> usize {
        self.settings.host_concurrency as usize * INSTANCES
    }

    /// Requests a second that one host may get: what it allows, and what all instances are set to.
    pub fn rate(&self, host: &Host) -> f64 {
        let set = f64::from(self.settings.host_rps) * INSTANCES as f64;
        host.limit.rate().min(set)
    }

    /// The accounts whose messages name this host.
    pub fn named(&self, host: usize) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(move |it| it.named == host)
    }
}

/// The account of this number in the network of this seed.
pub fn did(seed: u64, number: usize) -> String {
    did_plc(seed << 32 | number as u64)
}

/// The loopback address of a host; that of the directory is none of them.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1 + (host / 200) as u8, 1 + (host % 200) as u8)
}

/// The host at this address; `None` is the directory.
pub fn host_at(address: Ipv4Addr) -> Option<usize> {
    let [_, _, third, fourth] = address.octets();
    Some((usize::from(third).checked_sub(1)?) * 200 + usize::from(fourth).checked_sub(1)?)
}

/// The address of the directory of DID documents.
pub const DIRECTORY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// How long the directory takes for an answer.
pub const DIRECTORY_LATENCY: Duration = Duration::from_millis(20);
