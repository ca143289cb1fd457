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

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use self::gate::{Allowance, Gate, LONGEST_PAUSE, Rules};
use crate::config::{Config, DEFAULT_HOST_CONCURRENCY, DEFAULT_HOST_RPS, DEFAULT_PLC_RPS};
use crate::error::{JobError, Reason};
use crate::fetch::host::Host;
use crate::fetch::limits::Limits;

/// Above so many hosts, those that need no remembering are forgotten: names that a stranger chose must not fill the memory. The
/// network has a few thousand.
const MANY: usize = 10_000;

/// How long the directory is left alone at most, where it does not say for how long: all work waits for it.
const LONGEST_PAUSE_OF_DIRECTORY: Duration = Duration::from_secs(300);
/// A token is good for so long. Whoever was held up longer, by a full output, pays for the moment of his request as well, or all
/// who were held up would be one burst.
const TOKEN_TIME: Duration = Duration::from_secs(1);

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
        let time = state.begin(now);
        Permit {
            time,
            since: time,
            gate: self.clone(),
            given: now,
            used: false,
            whole: false,
            aside: false,
        }
    }

    /// Whether both are of the same host.
    pub fn is(&self, other: &HostGate) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

/// The right to make a request at one host; see the module.
pub struct Permit {
    gate: HostGate,
    /// The time of its gate when the request was made.
    time: u64,
    /// The same when it got its slot.
    since: u64,
    /// When it was given, and from [`Permit::begin`] on when the request was made.
    given: Instant,
    used: bool,
    whole: bool,
    /// Its token waits, and others may have the slot.
    aside: bool,
}

impl Permit {
    /// It is used later, behind something that takes its time: others may have the slot until then.
    pub fn set_aside(&mut self) {
        if !self.aside && !self.used {
            self.aside = true;
            lock(&self.gate.state).leave(self.since);
            self.gate.wake.wake();
        }
    }

    /// How long ago the request was made.
    pub fn elapsed(&self) -> Duration {
        self.given.elapsed()
    }

    /// The request is made now, which may be long after the permit was given.
    pub fn begin(&mut self) {
        self.used = true;
        let now = Instant::now();
        let mut state = lock(&self.gate.state);
        self.time = state.time();
        if now.saturating_duration_since(self.given) > TOKEN_TIME {
            state.take(now);
        }
        self.given = now;
    }

    /// For a request at its host, the first or another, if it may be made now: the host may have closed since the permit was given.
    pub fn renew(&mut self) -> bool {
        let now = Instant::now();
        // An answer that leads to another one of the same host is not yet what was asked for.
        self.whole = false;
        let mut state = lock(&self.gate.state);
        // The slot is there already or was, and so is the token of the first one.
        let free = !state.is_closed(now) && (!self.used || state.has_token(now));
        if free && self.aside {
            self.since = state.enter();
            self.aside = false;
            // Its token has waited, and is not to be paid twice.
            self.given = now;
        }
        if free && self.used {
            state.take(now);
            self.given = now;
            self.used = false;
        }
        free
    }

    /// The host has begun to answer, with this status and these words about its limits. That the answer is whole is taken for granted
    /// when the permit is dropped, unless [`Permit::cut`] or [`Permit::given_up`] was said: a body that is not wanted any more, be it
    /// too large or no CAR, is as whole as it need be.
    pub fn answered(&mut self, status: u16, limits: &Limits) {
        self.whole = !matches!(status, 429 | 503);
        lock(&self.gate.state).answered(self.time, status, limits, Instant::now());
    }

    /// The body that was begun has broken off, or comes too slowly: as if the host had not answered.
    pub fn cut(&mut self) {
        if std::mem::take(&mut self.whole) {
            self.unreachable();
        }
    }

    /// The body that was begun is not read to its end, for a reason that says nothing of the host.
    pub fn given_up(&mut self) {
        self.whole = false;
    }

    /// The host could not be reached, or did not answer.
    pub fn unreachable(&mut self) {
        lock(&self.gate.state).unreachable(self.time, Instant::now());
    }

    /// Whether others wait for it to be used: its host starts slowly.
    pub fn is_scarce(&self) -> bool {
        lock(&self.gate.state).starts_slowly()
    }

    /// Whether it is for this gate.
    pub fn is_for(&self, gate: &HostGate) -> bool {
        self.gate.is(gate)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        if self.aside {
            self.since = state.enter();
        }
        if self.used && self.whole {
            state.completed(self.time);
        }
        state.end(self.since, self.used);
        drop(state);
        self.gate.wake.wake();
    }
}

/// What a job has been given, until it is used.
#[derive(Default)]
pub struct Permits {
    /// At its host, or at whichever host it has waited for.
    pub host: Option<Permit>,
    /// At the directory.
    pub look_up: Option<Permit>,
    /// Whether the repo is being downloaded or is there: what is needed further is owed, for it is not to be downloaded again.
    pub late: bool,
}

impl Permits {
    /// A permit for this host, the one that was given or a new one.
    pub fn take(&mut self, gate: &HostGate) -> Option<Permit> {
        match self.host.take_if(|permit| permit.is_for(gate)) {
            Some(mut permit) => permit.renew().then_some(permit),
            None => gate.permit(Instant::now()),
        }
    }
}

/// The host that turned out to be the one to ask, and how many redirects led there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// The host.
    pub host: Host,
    /// Redirects followed until there.
    pub hops: usize,
}

impl Learnt {
    /// A host that no redirect has led to.
    pub fn at_once(host: Host) -> Self {
        Learnt { host, hops: 0 }
    }
}

/// A host cannot be asked now, and a message waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// The host.
    pub key: Key,
    /// Whether it is the one that has the repo, and how that is known.
    pub learnt: Option<Learnt>,
    /// Why it cannot be asked, for the log.
    pub error: JobError,
}

impl Busy {
    /// The host has no room now.
    pub fn new(key: Key, learnt: Option<Learnt>) -> Self {
        let error = JobError::new(Reason::Deferred, format_args!("{key} has no room now"));
        Busy { key, learnt, error }
    }

    /// The host that has the repo has no room now.
    pub fn at(learnt: Learnt) -> Self {
        Busy::new(learnt.host.key(), Some(learnt))
    }
}

/// Why a step does not come to its end.
#[derive(Debug)]
pub enum Stopped {
    /// It failed.
    Failed(JobError),
    /// It must wait for another host than the one that it was begun for.
    Busy(Box<Busy>),
}

impl Stopped {
    /// The error, whichever it is.
    pub fn into_error(self) -> JobError {
        match self {
            Stopped::Failed(error) => error,
            Stopped::Busy(busy) => busy.error,
        }
    }
}

impl Stopped {
    /// Whom the repo was asked for, where it is not said yet.
    pub fn knowing(mut self, source: &Learnt) -> Self {
        if let Stopped::Busy(busy) = &mut self {
            busy.learnt.get_or_insert_with(|| source.clone());
        }
        self
    }
}

impl From<Busy> for Stopped {
    fn from(busy: Busy) -> Self {
        Stopped::Busy(Box::new(busy))
    }
}

impl From<JobError> for Stopped {
    fn from(error: JobError) -> Self {
        Stopped::Failed(error)
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
