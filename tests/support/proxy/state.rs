//! What the threads of a proxy and the test share.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use super::super::wait::LIMIT;
use super::exec::{Command, Exec, Outcome, Record};
use super::rules::{Action, RuleState};

/// What happened to the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted and led to the server.
    pub connections: usize,
    /// Turned away.
    pub refused: usize,
    /// Closed because the server could not be reached.
    pub unreachable: usize,
    /// Cut by the proxy, for whatever reason.
    pub cut: usize,
    /// Those among them that were cut after a number of bytes.
    pub cut_bytes: usize,
}

/// Where the bytes go after which a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    Server,
    Client,
}

/// Where a connection is to be cut: after so many bytes have been handed on in that direction.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub after: u64,
    pub towards: Towards,
}

/// Chooses for each connection whether and where it is cut.
pub type Chooser = Box<dyn FnMut(usize) -> Option<Cut> + Send>;

/// A connection that lives.
pub struct Link {
    pub client: Arc<TcpStream>,
    pub server: Arc<TcpStream>,
    /// Whether it is to be cut after a number of bytes.
    pub doomed: bool,
    /// Whether it was cut towards the client, or the client has closed it.
    pub cut: bool,
    /// Whether the server has closed it.
    pub ended: bool,
    /// How many of its two threads have ended.
    pub threads_ended: usize,
    /// For each reply that is to come: the EXEC that it answers, if it is one.
    pub awaited: VecDeque<Option<Taken>>,
}

impl Link {
    /// Whether the server has still to answer an EXEC.
    fn is_waiting(&self) -> bool {
        !self.ended && self.awaited.iter().any(Option::is_some)
    }
}

/// An EXEC by its number, and the rule that has taken it.
#[derive(Clone, Copy)]
pub struct Taken {
    pub exec: usize,
    pub by: Option<(usize, Action)>,
}

pub struct State {
    pub closing: bool,
    pub upstream: u16,
    pub refusing: bool,
    pub chooser: Option<Chooser>,
    pub counts: Counts,
    pub connections: BTreeMap<usize, Link>,
    pub records: Vec<Record>,
    /// By their age.
    pub rules: BTreeMap<usize, RuleState>,
    rules_made: usize,
    pub threads: Vec<JoinHandle<()>>,
}

impl State {
    pub fn new(upstream: u16) -> Self {
        Self {
            closing: false,
            upstream,
            refusing: false,
            chooser: None,
            counts: Counts::default(),
            connections: BTreeMap::new(),
            records: Vec::new(),
            rules: BTreeMap::new(),
            rules_made: 0,
            threads: Vec::new(),
        }
    }

    pub fn add_rule(&mut self, rule: RuleState) -> usize {
        self.rules.insert(self.rules_made, rule);
        self.rules_made += 1;
        self.rules_made - 1
    }

    /// A rule whose handle exists.
    pub fn rule(&self, number: usize) -> &RuleState {
        &self.rules[&number]
    }

    pub fn rule_mut(&mut self, number: usize) -> &mut RuleState {
        self.rules.get_mut(&number).expect("its handle exists")
    }

    /// Records an EXEC, and gives it to the oldest rule that wants it.
    pub fn take(&mut self, connection: usize, commands: Vec<Command>) -> Taken {
        let exec = Exec {
            number: self.records.len(),
            connection,
            commands,
        };
        let mut rules = self.rules.iter_mut();
        let by = rules.find_map(|(number, rule)| {
            let taken = rule.take(&exec);
            taken.then_some((*number, rule.action))
        });
        self.records.push(Record {
            number: exec.number,
            connection,
            kind: exec.kind(),
            id: exec.id(),
            action: by.map(|(_, action)| action),
            outcome: Outcome::NotSent,
            handed_on: false,
        });
        Taken {
            exec: exec.number,
            by,
        }
    }

    /// The EXEC is in the state that its rule describes.
    pub fn caught(&mut self, taken: Taken) {
        let rule = taken.by.and_then(|(rule, _)| self.rules.get_mut(&rule));
        if let Some(rule) = rule {
            rule.caught.push(taken.exec);
        }
    }

    /// Cuts a connection towards the client; says whether that was still to be done.
    pub fn cut(&mut self, connection: usize) -> bool {
        let link = self.connections.get_mut(&connection);
        let Some(link) = link.filter(|link| !link.cut) else {
            return false;
        };
        link.cut = true;
        let _ = link.client.shutdown(Shutdown::Both);
        self.counts.cut += 1;
        true
    }

    /// One of the two threads of a connection has ended; with the other one, the connection is forgotten.
    pub fn thread_ended(&mut self, connection: usize) {
        if let Some(link) = self.connections.get_mut(&connection) {
            link.threads_ended += 1;
            if link.threads_ended == 2 {
                self.connections.remove(&connection);
            }
        }
    }

    /// Whether nobody waits for what comes on this connection any more.
    pub fn is_cut(&self, connection: usize) -> bool {
        let link = self.connections.get(&connection);
        self.closing || link.is_none_or(|link| link.cut)
    }

    fn is_waiting(&self, connection: usize) -> bool {
        let link = self.connections.get(&connection);
        !self.closing && link.is_some_and(Link::is_waiting)
    }
}

/// The state, and the news that it has changed.
pub struct Shared {
    state: Mutex<State>,
    pub changed: Condvar,
}

impl Shared {
    pub fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the state, and says so.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }

    /// Holds a caught EXEC until it is released. Ends with the proxy, and with the connection where the EXEC dies with that.
    pub fn hold(&self, connection: usize, taken: Taken, dies: bool) {
        let Some((rule, _)) = taken.by else { return };
        let mut state = self.lock();
        match state.rules.get_mut(&rule) {
            Some(rule) => rule.held.insert(taken.exec),
            None => return,
        };
        state.caught(taken);
        self.changed.notify_all();
        let is_held = |state: &State| {
            let rule = state.rules.get(&rule);
            rule.is_some_and(|rule| rule.held.contains(&taken.exec))
        };
        while is_held(&state) && !state.closing && !(dies && state.is_cut(connection)) {
            state = self.wait(state);
        }
        if let Some(rule) = state.rules.get_mut(&rule) {
            rule.held.remove(&taken.exec);
        }
        self.changed.notify_all();
    }

    /// Waits until the server has answered each EXEC that it was given on this connection, or never will.
    pub fn wait_for_answers(&self, connection: usize) {
        let mut state = self.lock();
        while state.is_waiting(connection) {
            state = self.wait(state);
        }
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the test; panics when that takes too long.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.lock();
        while !condition(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The drop of a failing test's proxy needs the lock.
                drop(state);
                panic!("still not so after {} s: {what}", LIMIT.as_secs());
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
