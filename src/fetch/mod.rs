//! Downloads of repos: `GET /xrpc/com.atproto.sync.getRepo?did=…` over ureq.
//!
//! [`Fetcher::get_repo`] returns as soon as the head of a success has arrived; the body is read by the caller while it comes.
//! Redirects are followed here and not by ureq, so that each [`hop`] passes the [`policy`] and has its host's permit. All waits have an end: connecting,
//! the first byte, each byte after it, a pace that is too slow ([`transport`]), and the whole. Every error that [`Download`]
//! returns while it is read carries a [`JobError`], because only here it is known whether the server, the network or the
//! operator's limit is the reason.
//! Pinned by `tests/hosts.rs`, `tests/redirects.rs`, `tests/statuses.rs`, `tests/downloads.rs` and `tests/slow_servers.rs`.

pub mod addresses;
pub mod document;
pub mod error;
pub mod hop;
pub mod host;
pub mod limits;
pub mod names;
pub mod policy;
pub mod resolver;
pub mod transport;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, BodyReader};
use url::Url;

use self::hop::{Client, Unanswered};
use self::host::{ChosenBy, Host};
use self::resolver::Resolver;
use crate::config::Config;
use crate::error::{Class, JobError, Reason};
use crate::hosts::{Busy, Hosts, Learnt, Permit, Permits, Stopped};
use crate::metrics::Counter;
use crate::status::Slot;

/// How long a name may take to resolve and a server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to begin its answer, and then may be silent in the midst of it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that an agent keeps: a worker's makes one request at a time, but goes from host to host and back; and that for documents of
/// did:web has few requests, nearly each at a host of its own.
const IDLE: usize = 4;
/// Redirects followed for one request.
pub const MAX_REDIRECTS: usize = 5;
/// How much of an error's body is read, in bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// Name and version of this program, and how to reach its operator.
pub fn user_agent(config: &Config) -> String {
    let name = concat!("rsky-backfiller/", env!("CARGO_PKG_VERSION"));
    match &config.contact {
        Some(contact) => format!("{name} (+{contact})"),
        None => name.to_owned(),
    }
}

/// A ureq agent as this program uses it: statuses are answers, nothing is followed, no proxy from the environment is used.
///
/// A proxy would resolve names itself, past the rule that they lead to public addresses only. `whole` is how long a request may
/// take with its body, `idle` how many connections are kept for the next ones.
pub fn agent(
    config: &Config,
    resolver: Resolver,
    accept: &'static str,
    whole: Duration,
    idle: usize,
) -> Agent {
    let encoding = if config.http_gzip {
        AutoHeaderValue::Default
    } else {
        AutoHeaderValue::None
    };
    let settings = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .user_agent(user_agent(config))
        .accept(accept)
        .accept_encoding(encoding)
        .timeout_global(Some(whole))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(IDLE_TIMEOUT))
        .timeout_per_read(Some(IDLE_TIMEOUT))
        .timeout_per_write(Some(IDLE_TIMEOUT))
        .build();
    Agent::with_parts(
        settings,
        transport::connector(transport::Limits::DEFAULT),
        resolver,
    )
}

/// One worker's downloads, over its own agent.
pub struct Fetcher {
    client: Client,
    max_bytes: u64,
}

impl Fetcher {
    /// A fetcher with an agent of its own.
    pub fn new(config: &Config, resolver: &Resolver, hosts: &Arc<Hosts>) -> Self {
        let (accept, whole) = ("application/vnd.ipld.car", config.http_timeout);
        Fetcher {
            client: Client::new(config, resolver, hosts, accept, whole),
            max_bytes: config.max_repo_bytes,
        }
    }

    /// Asks `host`, and whom it redirects to, for the whole repo of `did`; `host` becomes the one who answers, also when
    /// what he answers is an error, and `hops` the redirects that led there, those of earlier attempts included.
    ///
    /// What is read of the body is counted while it comes, in the job's slot and among the bytes of all.
    ///
    /// Each request has a permit of its host; the one for the first comes with the call. Where a redirect leads to a host that
    /// has no room, and where a host refuses for now, the message must wait for that host.
    ///
    /// # Errors
    /// [`Reason::RepoGone`], [`Reason::Network`], [`Reason::HttpStatus`] by what the server says, and
    /// [`Reason::TooLarge`] where it announces more than the operator allows. An address that must not be asked is
    /// [`Reason::Identity`], or [`Reason::HttpStatus`] where a redirect named it. [`Stopped::Busy`] as said above.
    pub fn get_repo<'s>(
        &self,
        Asked {
            host,
            hops,
            permit,
            permits,
        }: Asked<'_>,
        did: &str,
        (slot, all): (&'s Slot, &'s Counter),
        deadline: Instant,
    ) -> Result<Download<'s>, Stopped> {
        let mut url = host.get_repo(did);
        let mut permit = permit;
        loop {
            slot.asks(&host.to_string());
            let asked = self.client.ask(host, &url, &mut permit, deadline);
            let mut response = asked.map_err(|e| match e {
                Unanswered::Failed(e) => error::of_transport(host, &e),
                Unanswered::NotPermitted(refusal) => {
                    // The first address comes from the message or the DID document, the others from the servers.
                    let reason = if *hops == 0 {
                        Reason::Identity
                    } else {
                        Reason::HttpStatus
                    };
                    JobError::new(reason, refusal)
                }
            })?;
            let status = response.status();
            if status.is_redirection() {
                let target = redirect_target(&url, response.headers())
                    .ok_or_else(|| error::of_status(host, status.as_u16(), b""))?;
                if *hops == MAX_REDIRECTS {
                    let text = format!("{host}: more than {MAX_REDIRECTS} redirects");
                    return Err(JobError::new(Reason::HttpStatus, text).into());
                }
                *hops += 1;
                *host = Host::of(&target, ChosenBy::Stranger);
                url = target;
                let (key, learnt) = (host.key(), learnt(&url, host, *hops, did));
                let next = self
                    .client
                    .permit_for(&key, permit, permits, learnt.is_none());
                permit = next.ok_or_else(|| Busy::new(key, learnt))?;
                continue;
            }
            if status.as_u16() != 200 {
                let body = read_error_body(&mut response, &mut permit);
                let error = error::of_status(host, status.as_u16(), &body);
                if error.class() != Class::Deferred {
                    return Err(error.into());
                }
                let (key, learnt) = (host.key(), learnt(&url, host, *hops, did));
                return Err(Busy::refused(key, learnt, error).into());
            }
            return Ok(self.download(host.clone(), response, permit, (slot, all))?);
        }
    }

    fn download<'s>(
        &self,
        host: Host,
        response: Response<Body>,
        permit: Permit,
        (slot, all): (&'s Slot, &'s Counter),
    ) -> Result<Download<'s>, JobError> {
        let kind = header(response.headers(), "content-type")
            .unwrap_or_default()
            .to_ascii_lowercase();
        // Some servers send no type or a general one; what is surely no CAR is refused here, the rest by its bytes.
        if kind.starts_with("text/") || kind.contains("json") || kind.contains("html") {
            let text = format!("{host} answered 200 with {kind} instead of a CAR");
            return Err(JobError::new(Reason::HttpStatus, text));
        }
        let body = response.into_body();
        if body
            .content_length()
            .is_some_and(|length| length > self.max_bytes)
        {
            return Err(too_large(self.max_bytes));
        }
        Ok(Download {
            body: body.into_reader(),
            host,
            whole: self.client.whole,
            bytes: 0,
            max_bytes: self.max_bytes,
            slot,
            all,
            permit,
        })
    }
}

/// A body that is being downloaded.
pub struct Download<'s> {
    body: BodyReader<'static>,
    host: Host,
    /// How long a download may take as a whole.
    whole: Duration,
    /// Bytes read so far, after decompression.
    pub bytes: u64,
    max_bytes: u64,
    slot: &'s Slot,
    /// Bytes of all downloads.
    all: &'s Counter,
    /// The host has a free slot again as soon as the body is read or given up.
    permit: Permit,
}

/// Whom to ask.
pub struct Asked<'a> {
    /// The host; becomes the one who answers.
    pub host: &'a mut Host,
    /// Redirects that have led to it.
    pub hops: &'a mut usize,
    /// For one request at it.
    pub permit: Permit,
    /// What else the job has been given: it may have waited for the host to which this one redirects.
    pub permits: &'a mut Permits,
}

impl Read for Download<'_> {
    /// Every error but `Interrupted` carries a [`JobError`].
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                self.all.add(count as u64);
                self.slot.add_bytes(count as u64);
                if self.bytes > self.max_bytes {
                    return Err(io::Error::other(too_large(self.max_bytes)));
                }
                Ok(count)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let e = e.into();
                // Redirects may have left it little of the time.
                let (time, limits) = (self.permit.elapsed(), transport::Limits::DEFAULT);
                let slow = time > self.whole / 2 && !limits.allow(self.bytes, time);
                cut_short(&mut self.permit, &e, slow);
                Err(io::Error::other(error::of_transport(&self.host, &e)))
            }
        }
    }
}

/// A body was not read to its end; `was_patient` as for [`error::is_unreachable`]: it says whether the end of the time for the whole, which
/// is the operator's limit, is held against the host.
pub fn cut_short(permit: &mut Permit, error: &ureq::Error, was_patient: bool) {
    if error::is_unreachable(error, was_patient) {
        permit.cut();
    } else {
        permit.given_up();
    }
}

fn too_large(max_bytes: u64) -> JobError {
    JobError::new(
        Reason::TooLarge,
        format_args!("the repo is larger than {max_bytes} bytes"),
    )
}

/// A header's value, where it is text.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The host as the one to ask from now on; `None` where it was to be asked for something else than getRepo, which only the
/// redirect knows.
fn learnt(url: &Url, host: &Host, hops: usize, did: &str) -> Option<Learnt> {
    let plain = host.get_repo(did);
    let is_plain = url.path() == plain.path() && url.query_pairs().eq(plain.query_pairs());
    is_plain.then(|| Learnt {
        host: host.clone(),
        hops,
    })
}

fn redirect_target(url: &Url, headers: &HeaderMap) -> Option<Url> {
    url.join(header(headers, "location")?).ok()
}

/// An error's body, as far as it comes; that it does not come is no further error of the repo, but one of the host.
fn read_error_body(response: &mut Response<Body>, permit: &mut Permit) -> Vec<u8> {
    let mut body = Vec::new();
    let mut reader = response.body_mut().as_reader().take(MAX_ERROR_BODY);
    if let Err(e) = reader.read_to_end(&mut body) {
        cut_short(permit, &e.into(), false);
    }
    body
}
