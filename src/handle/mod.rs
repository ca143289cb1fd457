//! From a handle to the DID of its account, by the rules of the protocol (atproto.com/specs/handle).
//!
//! - The TXT records of `_atproto.<handle>` are asked first. One that begins with `did=` is the answer; several that name different DIDs
//!   are none, and nothing else is asked then.
//! - Without such a record, `https://<handle>/.well-known/atproto-did` is asked. That address a stranger chose: the
//!   [`policy`](crate::fetch::policy) holds, for each redirect as well.
//! - Where the operator names a server for it, com.atproto.identity.resolveHandle of that server is asked, and neither of the two.
//! - Whoever answered, the DID's own document must name the handle as well, or anybody could point a handle at somebody else's account.
//!
//! Handles under reserved top-level domains lead nowhere in the public network; they are asked for only at the operator's own server
//! and where private hosts are allowed. Pinned by the tests here and by `tests/handles.rs`.

mod dns;
mod syntax;
mod way;

use std::fmt;
use std::sync::Arc;

use rsky_syntax::handle::is_valid_tld;
use serde_json::{Map, Value};
use url::Url;

use self::dns::Dns;
pub use self::syntax::Handle;
pub use self::way::Way;
use crate::config::Config;
use crate::error::{JobError, Reason};
use crate::fetch::document::Documents;
use crate::fetch::host::{ChosenBy, Host};
use crate::fetch::resolver::Resolver;
use crate::hosts::wait::Waiting;
use crate::hosts::{Hosts, Stopped};
use crate::identity::{Identities, Identity, LOOK_UP_TIMEOUT};
use crate::queue::message::check_did;

/// Where a host says whose handle its name is.
const WELL_KNOWN: &str = "/.well-known/atproto-did";
/// The method that asks a server for it.
const RESOLVE_HANDLE: &str = "/xrpc/com.atproto.identity.resolveHandle";
/// Largest answer in bytes: a DID has at most 2 KiB, and JSON around it.
const MAX_ANSWER: u64 = 8 * 1024;

/// An account that a handle leads to, and that says so itself.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its DID, of a method that is known.
    pub did: String,
    /// What its document says.
    pub identity: Arc<Identity>,
}

/// Resolves handles; shared by all threads.
pub struct Handles {
    way: Asked,
    documents: Documents,
    hosts: Arc<Hosts>,
    allow_private_hosts: bool,
}

enum Asked {
    Own(Box<Dns>),
    Server(Host),
}

impl Handles {
    /// Nothing is asked before the first handle.
    pub fn new(way: Way, config: &Config, resolver: &Resolver, hosts: &Arc<Hosts>) -> Self {
        let accept = "application/json, text/plain";
        Handles {
            way: match way {
                Way::Own(server) => Asked::Own(Box::new(Dns::new(server))),
                Way::Server(host) => Asked::Server(host),
            },
            documents: Documents::new(config, resolver, hosts, accept, MAX_ANSWER, LOOK_UP_TIMEOUT),
            hosts: Arc::clone(hosts),
            allow_private_hosts: config.allow_private_hosts,
        }
    }

    /// The account of a handle, which names it as well. Waits for hosts as long as `waiting` says.
    ///
    /// # Errors
    /// [`Reason::Identity`] where the handle leads to no account, or to one that does not name it; [`Reason::Network`] and
    /// [`Reason::Deferred`] where that cannot be said now; [`Stopped::Busy`] where the time is up.
    pub fn resolve(
        &self,
        handle: &Handle,
        identities: &Identities,
        waiting: &Waiting,
    ) -> Result<Account, Stopped> {
        let did = self.did(handle, waiting)?;
        self.confirm(handle, did, identities, waiting)
    }

    /// The account of this DID, if its document names the handle that has led there.
    ///
    /// # Errors
    /// As [`Handles::resolve`].
    pub fn confirm(
        &self,
        handle: &Handle,
        did: String,
        identities: &Identities,
        waiting: &Waiting,
    ) -> Result<Account, Stopped> {
        let identity = identities.resolve_in_turn(&did, waiting)?;
        let other = match &identity.handle {
            Some(named) if named == handle.as_str() => return Ok(Account { did, identity }),
            Some(named) => none(
                handle,
                format_args!("{did} names the handle {named} instead"),
            ),
            None => none(handle, format_args!("{did} names no handle")),
        };
        Err(other.into())
    }

    /// The DID that a handle leads to, whatever that says.
    ///
    /// # Errors
    /// As [`Handles::resolve`].
    pub fn did(&self, handle: &Handle, waiting: &Waiting) -> Result<String, Stopped> {
        match &self.way {
            Asked::Server(server) => self.ask_server(server, handle, waiting),
            Asked::Own(_) if !self.allow_private_hosts && !is_valid_tld(handle.as_str()) => {
                Err(none(handle, "its top-level domain is reserved").into())
            }
            Asked::Own(dns) => {
                let texts = dns.texts(&format!("_atproto.{handle}"));
                let unsaid = match texts.map(|texts| did_of(handle, &texts)) {
                    Ok(Ok(Some(did))) => return Ok(did),
                    Ok(Err(ambiguous)) => return Err(ambiguous.into()),
                    Ok(Ok(None)) => None,
                    Err(unsaid) => Some(unsaid),
                };
                let host = Host::parse(handle.as_str(), ChosenBy::Stranger);
                let host = host.map_err(|e| none(handle, e))?;
                let asked = self.ask_host(&host, handle, waiting);
                asked.map_err(|stopped| match (unsaid, stopped) {
                    // That nobody has said so is not that there is none.
                    (Some(unsaid), Stopped::Failed(error)) => {
                        let text = format_args!("{handle}: {unsaid}; and {error}");
                        JobError::new(Reason::Network, text).into()
                    }
                    (_, stopped) => stopped,
                })
            }
        }
    }

    /// The DID that this host, which is that of the handle, says.
    ///
    /// # Errors
    /// As [`Handles::resolve`].
    pub fn ask_host(
        &self,
        host: &Host,
        handle: &Handle,
        waiting: &Waiting,
    ) -> Result<String, Stopped> {
        let answer = waiting.insist(&self.hosts, None, |permits| {
            self.documents.get(host, host.url_of(WELL_KNOWN), permits)
        });
        let answer = answer.map_err(|stopped| match stopped {
            Stopped::Failed(e) if matches!(e.reason, Reason::HttpStatus | Reason::TooLarge) => {
                none(handle, e).into()
            }
            stopped => stopped,
        })?;
        match answer.status {
            200 => {}
            400..=499 => {
                let text = "neither a TXT record nor a document names a DID";
                return Err(none(handle, text).into());
            }
            _ => return Err(answer.error().into()),
        }
        let did = String::from_utf8_lossy(&answer.body);
        Ok(checked(handle, did.trim())?)
    }

    fn ask_server(
        &self,
        server: &Host,
        handle: &Handle,
        waiting: &Waiting,
    ) -> Result<String, Stopped> {
        let url = resolve_handle(server, handle);
        let answer = waiting.insist(&self.hosts, None, |permits| {
            self.documents.get(server, url.clone(), permits)
        })?;
        match answer.status {
            200 => {}
            400 | 404 => return Err(none(handle, answer.error()).into()),
            _ => return Err(answer.error().into()),
        }
        let said: Map<String, Value> = serde_json::from_slice(&answer.body).map_err(|e| {
            none(
                handle,
                format_args!("{server} answered no JSON object: {e}"),
            )
        })?;
        let did = said.get("did").and_then(Value::as_str);
        Ok(checked(handle, did.unwrap_or_default())?)
    }
}

/// The question to a server that resolves handles.
fn resolve_handle(server: &Host, handle: &Handle) -> Url {
    let mut url = server.url_of(RESOLVE_HANDLE);
    url.query_pairs_mut().append_pair("handle", handle.as_str());
    url
}

/// The one DID that TXT records name; `None` where none does.
fn did_of(handle: &Handle, texts: &[String]) -> Result<Option<String>, JobError> {
    let mut dids: Vec<&str> = texts
        .iter()
        .filter_map(|t| t.strip_prefix("did="))
        .collect();
    // Those that are no DIDs do not count, unless there is nothing else.
    if dids.iter().any(|did| check_did(did).is_ok()) {
        dids.retain(|did| check_did(did).is_ok());
    }
    dids.sort_unstable();
    dids.dedup();
    match dids[..] {
        [] => Ok(None),
        [did] => checked(handle, did).map(Some),
        _ => Err(none(handle, "its TXT records name different DIDs")),
    }
}

/// The DID, if it is one that can be asked for.
fn checked(handle: &Handle, did: &str) -> Result<String, JobError> {
    match check_did(did) {
        Ok(()) => Ok(did.to_owned()),
        Err(e) => Err(none(handle, e)),
    }
}

fn none(handle: &Handle, what: impl fmt::Display) -> JobError {
    JobError::new(Reason::Identity, format_args!("{handle}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(text: &str) -> Handle {
        Handle::parse(text).unwrap()
    }

    #[test]
    fn one_did_in_txt_records_is_the_answer_and_two_are_none() {
        let handle = handle("alice.example.com");
        let read = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            did_of(&handle, &texts).map_err(|e| e.reason)
        };
        let did = Some("did:plc:abc".to_owned());
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["v=spf1 -all", "DID=did:plc:abc"]), Ok(None));
        assert_eq!(read(&["v=spf1 -all", "did=did:plc:abc"]), Ok(did.clone()));
        assert_eq!(
            read(&["did=did:plc:abc", "did=did:plc:abc"]),
            Ok(did.clone())
        );
        assert_eq!(read(&["did=did:plc:abc", "did=nonsense"]), Ok(did));
        for texts in [
            &["did=did:plc:abc", "did=did:plc:abd"][..],
            &["did="],
            &["did=did:key:zabc"],
            &["did=did:plc:a b"],
        ] {
            assert_eq!(read(texts), Err(Reason::Identity), "{texts:?}");
        }
    }

    #[test]
    fn a_server_is_asked_by_the_method_of_the_protocol() {
        let server = Host::parse("https://pds.example", ChosenBy::Operator).unwrap();
        assert_eq!(
            resolve_handle(&server, &handle("alice.example.com")).as_str(),
            "https://pds.example/xrpc/com.atproto.identity.resolveHandle?handle=alice.example.com"
        );
    }
}
