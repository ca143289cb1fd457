//! Permits: a slot at a host and a token of its rate, from when they are given until whoever has them is done with that host.
//!
//! Nobody need remember to give a slot back or to say that an answer came whole: dropping does it, so no path through the program can leave
//! a host with a slot too few. A token that was not used is given back. Pinned by the tests of [`hosts`](super).

use std::mem;
use std::time::{Duration, Instant};

use super::{HostGate, lock};
use crate::fetch::limits::Limits;

/// A token is good for so long. Whoever was held up longer, by a full output, pays for the moment of his request as well, or all
/// who were held up would be one burst.
const TOKEN_TIME: Duration = Duration::from_secs(1);

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
    /// A slot and a token that were taken now, at this time of the gate.
    pub(super) fn new(gate: &HostGate, time: u64, now: Instant) -> Self {
        Permit {
            gate: gate.clone(),
            time,
            since: time,
            given: now,
            used: false,
            whole: false,
            aside: false,
        }
    }

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
        if mem::take(&mut self.whole) {
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
        if self.used && self.whole {
            state.completed(self.time);
        }
        if self.aside {
            state.not_used();
        } else {
            state.end(self.since, self.used);
        }
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
