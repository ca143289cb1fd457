//! Documents of did:web: `https://<host>/.well-known/did.json`, over an agent of our own.
//!
//! A host of a did:web is an address that a stranger chose, and so is each one that it redirects to: every [`hop`](crate::fetch::hop)
//! passes the policy and has the permit of its host, by the rules for getRepo. The atproto specification allows hosts only, without
//! a path (atproto.com/specs/did); a port is written `%3A…`. `localhost` is asked over plain http, as rsky-identity and the reference
//! implementation do; the policy lets that pass only where private hosts are allowed.
//!
//! rsky-identity has a client for this, which can take neither our User-Agent nor our policy, and needs an async runtime.
//! Pinned by the tests here and by `tests/did_web.rs`, `tests/strangers.rs` and `tests/credit.rs`.

use std::sync::Arc;
use std::time::Instant;

use ureq::Body;
use ureq::http::Response;
use url::Host as UrlHost;

use crate::config::Config;
use crate::error::{JobError, Reason};
use crate::fetch::hop::{Client, Unanswered};
use crate::fetch::host::{ChosenBy, Host};
use crate::fetch::policy::Refusal;
use crate::fetch::resolver::Resolver;
use crate::fetch::{MAX_REDIRECTS, header};
use crate::hosts::{Busy, Hosts, Permit, Permits, Stopped};
use crate::identity::{DOCUMENT_TYPES, LOOK_UP_TIMEOUT};

/// Where a host has its document.
const DOCUMENT_PATH: &str = "/.well-known/did.json";

/// Asks hosts of did:web; shared by all workers.
pub struct WebDocuments {
    client: Client,
}

impl WebDocuments {
    /// Nothing is connected to before the first question.
    pub fn new(config: &Config, resolver: &Resolver, hosts: &Arc<Hosts>) -> Self {
        WebDocuments {
            client: Client::new(config, resolver, hosts, DOCUMENT_TYPES, LOOK_UP_TIMEOUT),
        }
    }

    /// The answer that holds the document of this DID, whose body is still to be read, and the permit of the host that sends it.
    /// `permit` is for the DID's own host.
    ///
    /// # Errors
    /// [`Reason::Identity`] where it can have none (no such document, a DID that is no host, an address that must not be asked,
    /// redirects without end); [`Reason::Network`] where the way to it failed. [`Stopped::Busy`] where a host refuses for now, or has
    /// done so before.
    pub fn ask(
        &self,
        did: &str,
        permit: Permit,
        permits: &mut Permits,
    ) -> Result<(Response<Body>, Permit), Stopped> {
        let deadline = Instant::now() + LOOK_UP_TIMEOUT;
        let never = |what: &dyn std::fmt::Display| {
            Stopped::Failed(JobError::new(
                Reason::Identity,
                format_args!("{did}: {what}"),
            ))
        };
        let mut host = host_of(did).map_err(|e| never(&e))?;
        let (mut url, mut permit) = (host.url_of(DOCUMENT_PATH), permit);
        for _ in 0..=MAX_REDIRECTS {
            let failed = |what: &dyn std::fmt::Display| {
                let host = url.host_str().unwrap_or_default();
                JobError::new(Reason::Network, format_args!("{did}: {host}: {what}"))
            };
            let asked = self.client.ask(&host, &url, &mut permit, deadline);
            let response = asked.map_err(|e| match e {
                Unanswered::NotPermitted(refusal) => never(&refusal),
                Unanswered::Failed(ureq::Error::Other(e)) if e.is::<Refusal>() => never(&e),
                Unanswered::Failed(e) => failed(&e).into(),
            })?;
            let status = response.status().as_u16();
            match (status, header(response.headers(), "location")) {
                (200..=299, _) => return Ok((response, permit)),
                (404 | 410, _) => return Err(never(&"not found")),
                (429 | 503, _) => {
                    let (key, learnt) = (host.key(), None);
                    let text = failed(&format_args!("answered {status}")).text;
                    let reason = Reason::Deferred;
                    let error = JobError { reason, text };
                    return Err(Busy::refused(key, learnt, error).into());
                }
                (300..=399, Some(target)) => {
                    url = url
                        .join(target)
                        .map_err(|e| never(&format_args!("redirect to {target:?}: {e}")))?;
                    host = Host::of(&url, ChosenBy::Stranger);
                    // To come back here later would cost the first host one more request.
                    let next = self.client.permit_for(&host.key(), permit, permits, true);
                    permit = next.ok_or_else(|| Busy::new(host.key(), None))?;
                }
                _ => return Err(failed(&format_args!("answered {status}")).into()),
            }
        }
        Err(never(&format_args!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// The host that has the document of a did:web.
///
/// # Errors
/// Why the DID names none, in words.
pub fn host_of(did: &str) -> Result<Host, String> {
    let id = did.strip_prefix("did:web:").unwrap_or_default();
    if id.contains(':') {
        return Err("a did:web with a path is not supported".to_owned());
    }
    // Nothing else needs an escape in a host; what else has one is judged by what it stands for.
    let host = id.replace("%3A", ":").replace("%3a", ":");
    let parse = |scheme| Host::parse(&format!("{scheme}://{host}"), ChosenBy::Stranger);
    let https = parse("https")?;
    match https.url_of(DOCUMENT_PATH).host() {
        Some(UrlHost::Domain("localhost")) => parse("http"),
        _ => Ok(https),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_did_is_a_host_and_perhaps_a_port() {
        for (did, url) in [
            ("did:web:example.com", "https://example.com/"),
            ("did:web:EXAMPLE.com", "https://example.com/"),
            ("did:web:example.com%3A8443", "https://example.com:8443/"),
            ("did:web:example.com%3a8443", "https://example.com:8443/"),
            ("did:web:localhost%3A2583", "http://localhost:2583/"),
            ("did:web:localhost", "http://localhost/"),
            // Judged by the policy as what they are.
            ("did:web:127.0.0.1", "https://127.0.0.1/"),
            ("did:web:2130706433", "https://127.0.0.1/"),
            ("did:web:%31%32%37.0.0.1", "https://127.0.0.1/"),
            ("did:web:LOCALHOST.", "https://localhost./"),
        ] {
            let host = host_of(did).unwrap();
            assert_eq!(host.url_of("/").as_str(), url, "{did}");
            assert_eq!(host.chosen_by, ChosenBy::Stranger);
        }
    }

    #[test]
    fn what_is_more_or_less_than_a_host_has_no_document() {
        for did in [
            "did:web:",
            "did:web:example.com:path",
            "did:web:example.com:",
            "did:web:example.com%2Fpath",
            "did:web:example.com%3Fa",
            "did:web:example.com%23a",
            "did:web:user%40example.com",
            "did:web:user%3Apassword%40example.com",
            "did:web:example.com%3Aport",
            "did:web:example.com%3A1%3A2",
            "did:web:https%3A%2F%2Fexample.com",
            "did:web:[",
            "did:web:%5B%3A%3A1",
            "did:web:%00",
        ] {
            let host = host_of(did);
            assert!(host.is_err(), "{did}: {host:?}");
        }
    }
}
