//! Which message is next: the look-ahead, by host.
//!
//! Every message that this process knows and that no worker has is in the lane of its host, in one of two ways:
//!
//! - **held**: read or claimed, and about to begin. A message is held only while its host would take it about now, and no more are held
//!   than the look-ahead allows, twice the number of workers: nothing is kept from the other instances that they could do.
//! - **parked**: remembered as id and lane, while the message itself is pending in Redis, with nobody's lease and without
//!   a charge. The other instances may take it, as soon as they have nothing better to do. It is claimed when its host has room for it;
//!   whoever claims it first has it.
//!
//! Lanes take turns, and within a lane so do messages that are new, those that are due again and those that were given back. So the
//! host with most of the messages gets one turn in each round as all others, and is served at the rate that it
//! allows; what is beyond that rate is parked and read past, up to [`MOST_PARKED`], so it does not keep from view what lies behind it.
//! A held message whose host closes is parked again. Where there is no room and workers have nothing to do, the last messages of the
//! host with most of them are forgotten: they stay pending, and are found again when there is room.
//!
//! Nothing here speaks with Redis, and time is an argument; the [`reader`](super::reader) does what is decided here. Pinned by the tests
//! here, `tests/fairness.rs`, `tests/throttling.rs`, and `make simulate`.

mod parked;

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::time::Instant;

use self::parked::Parking;
pub use self::parked::{Kind, Parked};
use super::EntryId;
use crate::hosts::gate::Allowance;
use crate::hosts::{HostGate, Key, Permit};

/// How many messages are parked at most: some 50 bytes each. Reading stops there, unless workers have nothing to do.
pub const MOST_PARKED: usize = 100_000;
/// Held at least, however few the workers are: claiming a few at a time is cheaper.
const LEAST_LOOK_AHEAD: usize = 8;

/// What a worker needs to begin.
pub enum Pass {
    /// A slot and a token at the host and, where the DID must be looked up, at whoever knows it.
    Permits {
        /// At the host; of no importance where it is not known yet.
        host: Permit,
        /// For looking the DID up.
        look_up: Option<Permit>,
    },
    /// The host has been without a success since then: the message need not wait for it any more.
    GivenUp(Instant),
}

/// Where a message goes that has just been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It may begin about now.
    Hold,
    /// Later.
    Park,
}

/// All lanes; `J` is a message that is held.
pub struct Scheduler<J> {
    lanes: HashMap<Key, Lane<J>>,
    /// The lanes that are not empty, in the order of their turns.
    turns: VecDeque<Key>,
    parked: HashSet<EntryId>,
    held: usize,
    look_ahead: usize,
    /// When a lane that is not empty may be ready, as far as that is known.
    next: Option<Instant>,
}

struct Lane<J> {
    gate: HostGate,
    held: VecDeque<J>,
    parked: Parking,
}

impl<J> Lane<J> {
    /// How many more messages its host would take about now.
    fn room(&self, now: Instant) -> Result<usize, Option<Instant>> {
        match self.gate.allowance(now) {
            Allowance::Now(count) => Ok(count.saturating_sub(self.held.len())),
            Allowance::GivenUp(_) => Ok(usize::MAX),
            Allowance::From(time) => Err(Some(time)),
            Allowance::WhenOneEnds => Err(None),
        }
    }

    /// The first message that need not wait for its look-up: its place and permit. And when there is another token for look-ups,
    /// where one has to wait.
    fn first_ready(
        &self,
        now: Instant,
        look_up: &impl Fn(&J) -> Option<HostGate>,
    ) -> (Option<(usize, Option<Permit>)>, Option<Instant>) {
        let mut blocked: Option<HostGate> = None;
        for (place, job) in self.held.iter().enumerate() {
            let Some(gate) = look_up(job) else {
                return (Some((place, None)), None);
            };
            if blocked.as_ref().is_some_and(|blocked| blocked.is(&gate)) {
                continue;
            }
            if let Some(permit) = gate.permit(now) {
                return (Some((place, Some(permit))), None);
            }
            blocked = Some(gate);
        }
        let ready = blocked.and_then(|gate| match gate.allowance(now) {
            Allowance::From(time) => Some(time),
            _ => None,
        });
        (None, ready)
    }
}

impl<J> Scheduler<J> {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Scheduler {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            parked: HashSet::new(),
            held: 0,
            look_ahead: (2 * workers).max(LEAST_LOOK_AHEAD),
            next: None,
        }
    }

    /// Where a message for this host goes. `needs_directory`: whether its DID must be looked up in the directory, `directory_open`: whether that can
    /// be asked.
    pub fn place(
        &self,
        key: &Key,
        gate: &HostGate,
        (needs_directory, directory_open): (bool, bool),
        now: Instant,
    ) -> Place {
        if self.held >= self.look_ahead || (needs_directory && !directory_open) {
            return Place::Park;
        }
        let room = match self.lanes.get(key) {
            // First come, first served.
            Some(lane) if lane.parked.len(directory_open) > 0 => return Place::Park,
            Some(lane) => lane.room(now),
            None => match gate.allowance(now) {
                Allowance::Now(count) => Ok(count),
                Allowance::GivenUp(_) => Ok(1),
                Allowance::From(_) | Allowance::WhenOneEnds => Ok(0),
            },
        };
        match room {
            Ok(1..) => Place::Hold,
            _ => Place::Park,
        }
    }

    /// A message is held.
    pub fn hold(&mut self, key: &Key, gate: &HostGate, job: J) {
        self.lane(key, gate).held.push_back(job);
        self.held += 1;
    }

    /// A message is parked, unless it is already.
    pub fn park(&mut self, key: &Key, gate: &HostGate, parked: Parked, kind: Kind) {
        if self.parked.insert(parked.id) {
            self.lane(key, gate).parked.push(parked, kind);
        }
    }

    /// Whether the message with this id is parked here.
    pub fn is_parked(&self, id: &str) -> bool {
        EntryId::parse(id).is_some_and(|id| self.parked.contains(&id))
    }

    /// How many more messages can be parked.
    pub fn room(&self) -> usize {
        MOST_PARKED.saturating_sub(self.parked.len())
    }

    /// Makes room for so many by forgetting the last messages of the host with the most. Returns how many there were.
    pub fn forget(&mut self, count: usize) -> usize {
        let lanes = self.lanes.values_mut();
        let Some(lane) = lanes.max_by_key(|lane| lane.parked.len(true)) else {
            return 0;
        };
        let last = (0..count).map_while(|_| lane.parked.pop_last());
        last.filter(|parked| self.parked.remove(&parked.id)).count()
    }

    /// Messages that are held and parked.
    pub fn counts(&self) -> (usize, usize) {
        (self.held, self.parked.len())
    }

    /// How many messages wait for each host that has any.
    pub fn waiting(&self) -> Vec<(Key, usize)> {
        let waiting = |lane: &Lane<J>| lane.held.len() + lane.parked.len(true);
        let lanes = self.lanes.iter();
        lanes
            .map(|(key, lane)| (key.clone(), waiting(lane)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.held == 0 && self.parked.is_empty()
    }

    /// Hosts with messages.
    pub fn lanes(&self) -> usize {
        self.turns.len()
    }

    /// Whether it could do with more messages of hosts that are free. (Asked behind [`Scheduler::wanted`], so what is parked
    /// is of hosts that are not.)
    pub fn is_hungry(&self) -> bool {
        self.held < self.look_ahead / 2
    }

    /// When something may be ready that was not when it was asked for last; `None`: when something is given back.
    pub fn next_ready(&self) -> Option<Instant> {
        self.next
    }

    /// Begins a round: what is known of the time is forgotten.
    pub fn begin_round(&mut self) {
        self.next = None;
    }

    /// The next message whose host is free, with its permits. `look_up` says whose token its DID's look-up needs, if any.
    pub fn next(
        &mut self,
        now: Instant,
        look_up: impl Fn(&J) -> Option<HostGate>,
    ) -> Option<(Key, J, Pass)> {
        for _ in 0..self.turns.len() {
            let key = self.turns.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            if lane.held.is_empty() && lane.parked.is_empty() {
                self.lanes.remove(&key);
                continue;
            }
            self.turns.push_back(key.clone());
            if lane.held.is_empty() {
                continue;
            }
            let (place, pass) = match lane.gate.allowance(now) {
                Allowance::GivenUp(since) => (0, Pass::GivenUp(since)),
                Allowance::From(time) => {
                    self.note(time);
                    continue;
                }
                Allowance::WhenOneEnds => continue,
                Allowance::Now(_) => {
                    let (first, ready) = lane.first_ready(now, &look_up);
                    if let Some(time) = ready {
                        self.note(time);
                    }
                    let Some((place, look_up)) = first else {
                        continue;
                    };
                    // The lane was borrowed for what had to be noted.
                    let host = self.lanes.get(&key).and_then(|lane| lane.gate.permit(now));
                    let Some(host) = host else { continue };
                    (place, Pass::Permits { host, look_up })
                }
            };
            let lane = self.lanes.get_mut(&key)?;
            if let Some(job) = lane.held.remove(place) {
                self.held -= 1;
                return Some((key, job, pass));
            }
        }
        None
    }

    /// Takes parked messages out whose hosts are free, up to the look-ahead: they are to be claimed now. `directory_open`: whether the
    /// directory can be asked.
    pub fn wanted(&mut self, now: Instant, directory_open: bool) -> Vec<(Key, HostGate, Parked)> {
        let mut wanted = Vec::new();
        let mut next = self.next;
        let mut room = self.look_ahead.saturating_sub(self.held);
        for key in &self.turns {
            let Some(lane) = self
                .lanes
                .get_mut(key)
                .filter(|lane| lane.parked.len(directory_open) > 0)
            else {
                continue;
            };
            if room == 0 {
                break;
            }
            let count = match lane.room(now) {
                Ok(count) => count.min(room).min(lane.parked.len(directory_open)),
                Err(time) => {
                    next = next.into_iter().chain(time).min();
                    continue;
                }
            };
            room -= count;
            for parked in (0..count).map_while(|_| lane.parked.pop(directory_open)) {
                self.parked.remove(&parked.id);
                wanted.push((key.clone(), lane.gate.clone(), parked));
            }
        }
        self.next = next;
        wanted
    }

    /// Takes held messages out whose hosts have closed, or that wait for something else: they are to be parked.
    pub fn unwanted(
        &mut self,
        now: Instant,
        waits: impl Fn(&J) -> bool,
    ) -> Vec<(Key, HostGate, J)> {
        let mut unwanted = Vec::new();
        for (key, lane) in &mut self.lanes {
            if lane.held.is_empty() {
                continue;
            }
            let allowance = lane.gate.allowance(now);
            if matches!(allowance, Allowance::GivenUp(_)) {
                continue;
            }
            let closed = matches!(allowance, Allowance::From(_)) && lane.gate.is_closed(now);
            if !closed && !lane.held.iter().any(&waits) {
                continue;
            }
            for job in mem::take(&mut lane.held) {
                if closed || waits(&job) {
                    unwanted.push((key.clone(), lane.gate.clone(), job));
                } else {
                    lane.held.push_back(job);
                }
            }
        }
        self.held -= unwanted.len();
        unwanted
    }

    fn lane(&mut self, key: &Key, gate: &HostGate) -> &mut Lane<J> {
        self.lanes.entry(key.clone()).or_insert_with(|| {
            self.turns.push_back(key.clone());
            Lane {
                gate: gate.clone(),
                held: VecDeque::new(),
                parked: Parking::default(),
            }
        })
    }

    fn note(&mut self, time: Instant) {
        self.next = self.next.into_iter().chain([time]).min();
    }
}

#[cfg(test)]
mod tests;
