//! One request at one host, and the way to the next: what all that follows redirects has in common.
//!
//! An address that somebody else chose passes the [`policy`](super::policy) before anybody is asked; each request has a
//! [`Permit`] of its host, which learns here what became of it, up to the head of the answer. What an answer means, how many
//! redirects are followed, and what the body is, is the business of whoever asks: [`Fetcher`](super::Fetcher) for repos,
//! [`WebDocuments`](crate::did_web::WebDocuments) for documents. Pinned by the tests of these two, and by `tests/credit.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::Response;
use ureq::{Agent, Body};
use url::Url;

use super::error::is_unreachable;
use super::host::Host;
use super::limits::Limits;
use super::policy::{AddressPolicy, Refusal};
use super::resolver::Resolver;
use super::{IDLE, agent};
use crate::config::Config;
use crate::hosts::{Hosts, Key, Permit, Permits};

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The address must not be asked.
    NotPermitted(Refusal),
    /// The request did not come through.
    Failed(ureq::Error),
}

/// Asks hosts that strangers may have chosen, over an agent of its own.
pub struct Client {
    agent: Agent,
    policy: AddressPolicy,
    resolver: Resolver,
    hosts: Arc<Hosts>,
    /// How long all requests for one thing may take together, with their bodies.
    pub whole: Duration,
}

impl Client {
    /// Nothing is connected to before the first question. `whole` is how long all requests for one thing may take together.
    pub fn new(
        config: &Config,
        resolver: &Resolver,
        hosts: &Arc<Hosts>,
        accept: &'static str,
        whole: Duration,
    ) -> Self {
        let policy = AddressPolicy::new(config.allow_private_hosts);
        Client {
            agent: agent(config, resolver.under(policy), accept, whole, IDLE),
            policy,
            resolver: resolver.clone(),
            hosts: Arc::clone(hosts),
            whole,
        }
    }

    /// Makes one request at this host; returns when the head of its answer has arrived, whatever that is.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask(
        &self,
        host: &Host,
        url: &Url,
        permit: &mut Permit,
        deadline: Instant,
    ) -> Result<Response<Body>, Unanswered> {
        self.policy
            .check_url(url, host.chosen_by)
            .map_err(Unanswered::NotPermitted)?;
        let left = deadline.saturating_duration_since(Instant::now());
        permit.begin();
        let answer = self
            .agent
            .get(url.as_str())
            .config()
            .timeout_global(Some(left))
            .build()
            .call();
        let response = answer.map_err(|e| {
            if is_unreachable(&e, left > self.whole / 2) {
                permit.unreachable();
            }
            Unanswered::Failed(e)
        })?;
        let limits = Limits::read(response.headers(), SystemTime::now());
        permit.answered(response.status().as_u16(), &limits);
        // Only now it is known where the name led.
        if url.domain().and_then(|name| self.resolver.is_private(name)) == Some(true) {
            self.hosts.turned_out_private(&host.key());
        }
        Ok(response)
    }

    /// The permit for the host to which a redirect leads, in place of that for the one that sent it: the same one, or what the job has
    /// been given. `may_owe`: whoever came back later would have to begin anew, so a token that is not there yet is owed, within bounds.
    pub fn permit_for(
        &self,
        next: &Key,
        mut before: Permit,
        permits: &mut Permits,
        may_owe: bool,
    ) -> Option<Permit> {
        let gate = self.hosts.gate(next);
        let permit = if before.is_for(&gate) {
            before.renew().then_some(before)
        } else {
            drop(before);
            permits.take(&gate)
        };
        permit.or_else(|| may_owe.then(|| gate.permit_on_credit()).flatten())
    }
}
