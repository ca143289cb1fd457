//! The hosts that are asked, and how much each may be asked: so that one host with most of the messages, one that is slow and one that
//! throttles neither hold up the rest nor are asked more than they allow.
//!
//! Each host has a [`Gate`], shared by all threads. A request needs a [`Permit`], which is a slot at its host and a token of its rate; it
//! travels with the job, tells the gate what the host answered, and gives the slot back when it is dropped, wherever that is. The
//! reader gives permits out (see [`scheduler`](crate::queue::scheduler)), so that no worker ever waits for a host; where a
//! worker finds out which host is the one (redirects, DID documents), it takes one if there is one, and else gives the message back.
//! Whoever gives something back wakes the reader.
//!
//! A host is a name and a port, whatever the scheme. The directory of did:plc documents has a gate as well, with a rate of its own
//! and no cap, apart from that of a host at the same address.
//!
//! Whether a host is the operator's own (an address that is not public) decides whether the defaults hold for it: limits
//! that the operator has set himself hold for all. No lock is held across I/O. Pinned by the tests here and in [`gate`],
//! by `tests/throttling.rs`, `tests/credit.rs`, `tests/fairness.rs` and `make simulate`.

pub mod bucket;
pub mod gate;
mod permit;
mod stopped;
pub mod wait;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use self::gate::{Allowance, Gate, LONGEST_PAUSE, Rules};
pub use self::permit::{Permit, Permits};
pub use self::stopped::{Busy, Learnt, Stopped};
use crate::config::{Config, DEFAULT_HOST_CONCURRENCY, DEFAULT_HOST_RPS, DEFAULT_PLC_RPS};

/// Above so many hosts, those that need no remembering are forgotten: names that a stranger chose must not fill the memory. The
/// network has a few thousand.
const MANY: usize = 10_000;

/// How long the directory is left alone at most, where it does not say for how long: all work waits for it.
const LONGEST_PAUSE_OF_DIRECTORY: Duration = Duration::from_secs(300);

/// What a gate is of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    name: Arc<str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A host of which the name does not say that it is the operator's own.
    Public,
    /// A host at a loopback or private address.
    Private,
    Directory {
        private: bool,
    },
    /// Not known yet.
    Unknown,
}

impl Key {
    /// A host, by name and port; `private`: its name is a loopback or private address.
    pub fn host(name: &str, private: bool) -> Self {
        Key {
            name: name.into(),
            kind: if private { Kind::Private } else { Kind::Public },
        }
    }

    /// The directory, by name and port.
    pub fn directory(name: &str, private: bool) -> Self {
        Key {
            name: name.into(),
            kind: Kind::Directory { private },
        }
    }

    /// Whether it is the directory's.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Whether it stands for whichever host the DID document will name.
    pub fn is_unknown(&self) -> bool {
        self.kind == Kind::Unknown
    }

    /// Whichever host the DID document will name: its gate is always open.
    pub fn unknown() -> Self {
        Key {
            name: "".into(),
            kind: Kind::Unknown,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// All gates of a process.
pub struct Hosts {
    gates: Mutex<HashMap<Key, HostGate>>,
    /// Above so many the next look for those that can be forgotten comes.
    crowded: Mutex<usize>,
    wake: Wake,
    config: Arc<Config>,
}

impl Hosts {
    /// None is known.
    pub fn new(config: &Arc<Config>) -> Arc<Self> {
        Arc::new(Hosts {
            gates: Mutex::default(),
            crowded: Mutex::new(MANY),
            wake: Wake::default(),
            config: Arc::clone(config),
        })
    }

    /// The gate of a host or a directory.
    pub fn gate(&self, key: &Key) -> HostGate {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.get(key) {
            return gate.clone();
        }
        let now = Instant::now();
        let mut crowded = lock(&self.crowded);
        if gates.len() >= *crowded {
            gates.retain(|_, gate| {
                Arc::strong_count(&gate.state) > 1 || !lock(&gate.state).is_idle(now)
            });
            *crowded = MANY.max(2 * gates.len());
        }
        let gate = HostGate {
            state: Arc::new(Mutex::new(Gate::new(self.rules(key.kind), now))),
            wake: self.wake.clone(),
        };
        gates.insert(key.clone(), gate.clone());
        gate
    }

    /// The host has turned out to be at a private address.
    pub fn turned_out_private(&self, key: &Key) {
        if key.kind == Kind::Public {
            lock(&self.gate(key).state).set_rules(self.rules(Kind::Private));
        }
    }

    /// Of each host there is now, how many requests are at it and until when it is closed. No gate is cloned for it: whoever has one
    /// keeps it from being forgotten.
    pub fn look(&self, now: Instant) -> Vec<(Key, (usize, Option<Instant>))> {
        let gates = lock(&self.gates);
        gates
            .iter()
            .map(|(key, gate)| (key.clone(), gate.look(now)))
            .collect()
    }

    /// Ready when something was given back.
    pub fn woken(&self) -> &Receiver<()> {
        &self.wake.receiver
    }

    /// Wakes the reader.
    pub fn wake(&self) {
        self.wake.wake();
    }

    fn rules(&self, kind: Kind) -> Rules {
        let config = &self.config;
        let (private, rate, default_rate) = match kind {
            Kind::Public => (false, config.host_rps, DEFAULT_HOST_RPS),
            Kind::Private => (true, config.host_rps, DEFAULT_HOST_RPS),
            Kind::Directory { private } => (private, config.plc_rps, DEFAULT_PLC_RPS),
            Kind::Unknown => (true, None, 0.0),
        };
        let concurrency = match kind {
            Kind::Public => config.host_concurrency.or(Some(DEFAULT_HOST_CONCURRENCY)),
            Kind::Private => config.host_concurrency,
            Kind::Directory { .. } | Kind::Unknown => None,
        };
        let is_directory = matches!(kind, Kind::Directory { .. });
        Rules {
            concurrency,
            rate: rate.or((!private).then_some(default_rate)),
            // Nothing goes on without the directory, so nobody is given up for it, and it is soon seen that it is back.
            max_deferred: (!is_directory).then_some(config.max_deferred),
            longest_pause: if is_directory {
                LONGEST_PAUSE_OF_DIRECTORY
            } else {
                LONGEST_PAUSE
            },
        }
    }
}

/// The gate of one host, as all threads share it.
#[derive(Clone)]
pub struct HostGate {
    state: Arc<Mutex<Gate>>,
    wake: Wake,
}

impl HostGate {
    /// What may be begun now.
    pub fn allowance(&self, now: Instant) -> Allowance {
        lock(&self.state).allowance(now)
    }

    /// Requests in flight, and until when it is closed, for a cool-down or by its circuit.
    pub fn look(&self, now: Instant) -> (usize, Option<Instant>) {
        let state = lock(&self.state);
        (state.running(), state.closed_until(now))
    }

    /// Whether it is closed, for a cool-down or by its circuit.
    pub fn is_closed(&self, now: Instant) -> bool {
        lock(&self.state).is_closed(now)
    }

    /// Whether it is closed, or somebody just tries whether it is open again.
    pub fn is_shut(&self, now: Instant) -> bool {
        lock(&self.state).is_shut(now)
    }

    /// A permit, if there is one.
    pub fn permit(&self, now: Instant) -> Option<Permit> {
        let mut state = lock(&self.state);
        match state.allowance(now) {
            Allowance::Now(_) => Some(self.begin(&mut state, now)),
            _ => None,
        }
    }

    /// A permit also where there is no token yet, which is owed then; none only while the gate is closed.
    pub fn permit_in_advance(&self) -> Option<Permit> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        (!state.is_closed(now)).then(|| self.begin(&mut state, now))
    }

    /// The same for whom a stranger has sent there, which is not without end: at half the rate, and none while a second's worth is owed
    /// or no slot is free.
    pub fn permit_on_credit(&self) -> Option<Permit> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        (!state.is_closed(now) && state.lend(now)).then(|| self.begin(&mut state, now))
    }

    fn begin(&self, state: &mut Gate, now: Instant) -> Permit {
        Permit::new(self, state.begin(now), now)
    }

    /// Whether both are of the same host.
    pub fn is(&self, other: &HostGate) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

/// Wakes the one who waits; one call or many are the same.
#[derive(Clone)]
struct Wake {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Default for Wake {
    fn default() -> Self {
        let (sender, receiver) = bounded(1);
        Wake { sender, receiver }
    }
}

impl Wake {
    fn wake(&self) {
        // A full channel wakes as well.
        let _ = self.sender.try_send(());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
