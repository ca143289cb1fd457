//! Waiting for a host on a thread that has nothing else to do meanwhile.
//!
//! The worker never waits for a host (see [`scheduler`](crate::queue::scheduler)); a command that looks accounts up may. It keeps to
//! the same gates: a request begins when there is a slot and a token, and after a refusal when the host is open again. Every wait has
//! an end, and ends on shutdown.

use std::time::{Duration, Instant};

use super::gate::Allowance;
use super::{HostGate, Hosts, Permit, Permits, Stopped};
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
    /// Those of `attempt`; and what it waits for, where the time is up.
    pub fn insist<T>(
        &self,
        hosts: &Hosts,
        first: Option<(HostGate, bool)>,
        mut attempt: impl FnMut(&mut Permits) -> Result<T, Stopped>,
    ) -> Result<T, JobError> {
        let mut next = first;
        let mut said: Option<JobError> = None;
        loop {
            let mut permits = Permits::default();
            if let Some((gate, is_directory)) = &next {
                let permit = self.permit(gate).map_err(|e| match &said {
                    Some(said) => JobError::new(e.reason, format_args!("{said}; {e}")),
                    None => e,
                })?;
                let place = if *is_directory {
                    &mut permits.look_up
                } else {
                    &mut permits.host
                };
                *place = Some(permit);
            }
            match attempt(&mut permits) {
                Err(Stopped::Busy(busy)) => {
                    next = Some((hosts.gate(&busy.key), busy.key.is_directory()));
                    said = Some(busy.error);
                    if Instant::now() > self.until || self.shutdown.sleep(POLL) {
                        let text = "interrupted or out of time";
                        return Err(said.unwrap_or_else(|| JobError::new(Reason::Deferred, text)));
                    }
                }
                result => return result.map_err(Stopped::into_error),
            }
        }
    }
}
