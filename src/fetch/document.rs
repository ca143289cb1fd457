//! Small answers, read as a whole: lists of repos, answers about handles.
//!
//! Each [`hop`](super::hop) passes the policy and has the permit of its host, by the rules for getRepo; redirects are followed, and
//! whom a redirect names a stranger has chosen. What an answer means is the business of whoever asks. Pinned by
//! `tests/handles.rs` and `tests/enqueue_list_repos.rs`.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

use super::hop::{Client, Unanswered};
use super::host::{ChosenBy, Host};
use super::policy::Refusal;
use super::resolver::Resolver;
use super::{MAX_REDIRECTS, cut_short, error, redirect_target};
use crate::config::Config;
use crate::error::{JobError, Reason};
use crate::hosts::{Busy, Hosts, Permits, Stopped};

/// An answer with its body.
#[derive(Debug)]
pub struct Answer {
    /// Who gave it, redirects followed.
    pub host: Host,
    /// Its status: neither a redirect nor 429 or 503.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The error of an answer that is not a success.
    pub fn error(&self) -> JobError {
        error::of_status(&self.host, self.status, &self.body)
    }
}

/// Asks for small answers; shared by all threads.
pub struct Documents {
    client: Client,
    hosts: Arc<Hosts>,
    max_bytes: u64,
}

impl Documents {
    /// Nothing is connected to before the first question. `max_bytes`: the largest body that is read; `whole`: how long one may take
    /// with its redirects.
    pub fn new(
        config: &Config,
        resolver: &Resolver,
        hosts: &Arc<Hosts>,
        accept: &'static str,
        max_bytes: u64,
        whole: Duration,
    ) -> Self {
        Documents {
            client: Client::new(config, resolver, hosts, accept, whole),
            hosts: Arc::clone(hosts),
            max_bytes,
        }
    }

    /// Asks for `url`, which is at `host`.
    ///
    /// # Errors
    /// [`Reason::HttpStatus`] for an address that must not be asked and for redirects without end, [`Reason::TooLarge`] for a body that
    /// is, [`Reason::Network`] where the way to it failed. [`Stopped::Busy`] where a host has no room or refuses for now.
    pub fn get(&self, host: &Host, url: Url, permits: &mut Permits) -> Result<Answer, Stopped> {
        let deadline = Instant::now() + self.client.whole;
        let never = |host: &Host, what: &dyn std::fmt::Display| {
            JobError::new(Reason::HttpStatus, format_args!("{host}: {what}"))
        };
        let (mut host, mut url) = (host.clone(), url);
        let gate = self.hosts.gate(&host.key());
        let permit = permits.take(&gate);
        let mut permit = permit.ok_or_else(|| Busy::new(host.key(), None))?;
        for _ in 0..=MAX_REDIRECTS {
            let asked = self.client.ask(&host, &url, &mut permit, deadline);
            let mut response = asked.map_err(|e| match e {
                Unanswered::NotPermitted(refusal) => never(&host, &refusal),
                Unanswered::Failed(ureq::Error::Other(e)) if e.is::<Refusal>() => never(&host, &e),
                Unanswered::Failed(e) => error::of_transport(&host, &e),
            })?;
            let status = response.status().as_u16();
            if let Some(target) = redirect_target(&url, response.headers())
                && (300..=399).contains(&status)
            {
                host = Host::of(&target, ChosenBy::Stranger);
                url = target;
                // To come back here later would cost the first host one more request.
                let next = self.client.permit_for(&host.key(), permit, permits, true);
                permit = next.ok_or_else(|| Busy::new(host.key(), None))?;
                continue;
            }
            let mut body = Vec::new();
            let mut reader = response.body_mut().as_reader().take(self.max_bytes + 1);
            if let Err(e) = reader.read_to_end(&mut body) {
                let e = e.into();
                let slow = permit.elapsed() > self.client.whole / 2;
                cut_short(&mut permit, &e, slow);
                return Err(error::of_transport(&host, &e).into());
            }
            if matches!(status, 429 | 503) {
                let error = error::of_status(&host, status, &body);
                return Err(Busy::refused(host.key(), None, error).into());
            }
            if body.len() as u64 > self.max_bytes {
                let text = format_args!("{host}: an answer of more than {} bytes", self.max_bytes);
                return Err(JobError::new(Reason::TooLarge, text).into());
            }
            return Ok(Answer { host, status, body });
        }
        Err(never(&host, &format_args!("more than {MAX_REDIRECTS} redirects")).into())
    }
}
