//! Waiting for a host on a thread that has nothing else to do meanwhile.
//!
//! The worker never waits for a host (see [`scheduler`](crate::queue::scheduler)); a command that looks accounts up may. It keeps to
//! the same gates: a request begins when there is a slot and a token, and after a refusal when the host is open again. Every wait has
//! an end, and ends on shutdown. Whoever has a queue waits no time at all, and is told whom the next one waits for.

use std::time::{Duration, Instant};

use super::gate::Allowance;
use super::{Busy, HostGate, Hosts, Key, Permit, Permits, Stopped};
use crate::error::{JobError, Reason};
use crate::shutdown::Shutdown;

/// How often it is looked whether a slot is free again. Whoever has one keeps it for as long as an answer takes.
const POLL: Duration = Duration::from_millis(20);

/// Until when somebody waits.
#[derive(Clone)]
pub struct Waiting {
    /// Ends the wait.
    pub shutdown: Shutdown,
    /// Ends it as well.
    pub until: Instant,
}

impl Waiting {
    /// Waits at most so long from now on.
    pub fn at_most(time: Duration, shutdown: &Shutdown) -> Self {
        Waiting {
            shutdown: shutdown.clone(),
            until: Instant::now() + time,
        }
    }

    /// Waits for nobody: who has no room is [`Stopped::Busy`] at once.
    pub fn not_at_all(shutdown: &Shutdown) -> Self {
        Self::at_most(Duration::ZERO, shutdown)
    }

    /// A permit of this host, as soon as there is one.
    ///
    /// # Errors
    /// [`Reason::Deferred`] where there is none in time; [`Reason::Network`] where the host is given up.
    pub fn permit(&self, gate: &HostGate) -> Result<Permit, JobError> {
        loop {
            if let Some(permit) = gate.permit(Instant::now()) {
                return Ok(permit);
            }
            let now = Instant::now();
            let until = match gate.allowance(now) {
                Allowance::Now(_) => now,
                Allowance::From(until) => until,
                Allowance::WhenOneEnds => now + POLL,
                Allowance::GivenUp(_) => {
                    let text = "the host has refused or failed for too long";
                    return Err(JobError::new(Reason::Network, text));
                }
            };
            if until > self.until {
                let left = until.saturating_duration_since(now).as_secs_f64();
                let text = format_args!("not to be asked for another {left:.0} s");
                return Err(JobError::new(Reason::Deferred, text));
            }
            if self.shutdown.sleep(
                until
                    .saturating_duration_since(now)
                    .max(Duration::from_millis(1)),
            ) {
                return Err(JobError::new(Reason::Deferred, "interrupted"));
            }
        }
    }

    /// Does `attempt` until it says something else than that it must wait for a host; `first`: whom it will ask, where that is known.
    ///
    /// # Errors
    /// Those of `attempt`; and [`Stopped::Busy`], with what it waits for, where the time is up.
    pub fn insist<T>(
        &self,
        hosts: &Hosts,
        first: Option<Key>,
        mut attempt: impl FnMut(&mut Permits) -> Result<T, Stopped>,
    ) -> Result<T, Stopped> {
        let mut next = first.map(|key| Busy::new(key, None));
        let mut is_first = true;
        loop {
            let mut permits = Permits::default();
            if let Some(busy) = &mut next {
                match self.permit(&hosts.gate(&busy.key)) {
                    Ok(permit) if busy.key.is_directory() => permits.look_up = Some(permit),
                    Ok(permit) => permits.host = Some(permit),
                    Err(e) => {
                        let error = match is_first {
                            true => e,
                            false => JobError::new(e.reason, format_args!("{}; {e}", busy.error)),
                        };
                        if error.reason != Reason::Deferred {
                            return Err(error.into());
                        }
                        busy.error = error;
                        return Err(busy.clone().into());
                    }
                }
            }
            is_first = false;
            match attempt(&mut permits) {
                Err(Stopped::Busy(busy)) => {
                    if Instant::now() > self.until || self.shutdown.sleep(POLL) {
                        return Err(Stopped::Busy(busy));
                    }
                    next = Some(*busy);
                }
                result => return result,
            }
        }
    }
}
