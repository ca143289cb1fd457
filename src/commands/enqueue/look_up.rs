//! From what an account is called to its message: the DID of a handle, the server of a DID.
//!
//! A server that a DID document names becomes the host of a message, and the worker takes that for the operator's own choice. So it is
//! checked here: https, and a name that the public DNS can have, unless private hosts are allowed.

use url::Host as UrlHost;

use super::input::Wanted;
use super::message::NewMessage;
use super::{Enqueue, Kit};
use crate::commands::accounts::Name;
use crate::error::{JobError, Reason};
use crate::fetch::host::{ChosenBy, Host};
use crate::fetch::policy::AddressPolicy;
use crate::handle::{Handles, Way};
use crate::hosts::Stopped;
use crate::hosts::wait::Waiting;
use crate::identity::{Identities, Identity};
use crate::shutdown::Shutdown;

use std::sync::Arc;
use std::time::Duration;

/// How long one account may wait for hosts that have no room or refuse for now.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often one account is asked for when that fails on the way.
const TRIES: u32 = 3;
/// The pause before the second try; the third waits twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Why an account does not become a message.
#[derive(Debug)]
pub(super) struct Refused {
    /// A stable word for the summary.
    pub reason: &'static str,
    /// What is wrong.
    pub text: String,
}

impl From<JobError> for Refused {
    fn from(error: JobError) -> Self {
        Refused {
            reason: error.reason.code(),
            text: error.text,
        }
    }
}

/// Asks for what is missing; shared by all threads.
pub(super) struct LookUps {
    handles: Handles,
    identities: Identities,
    host: Option<Host>,
    resolves: bool,
    allow_private_hosts: bool,
    shutdown: Shutdown,
}

impl LookUps {
    /// Nobody is asked before the first account. `host`: the server of all of them.
    pub fn new(options: &Enqueue, kit: &Kit, way: Way, host: Option<Host>) -> Self {
        let (config, hosts) = (&kit.config, &kit.hosts);
        LookUps {
            handles: Handles::new(way, config, &kit.resolver, hosts),
            identities: Identities::new(config, &kit.resolver, hosts),
            host,
            resolves: !options.no_resolve,
            allow_private_hosts: config.allow_private_hosts,
            shutdown: kit.shutdown.clone(),
        }
    }

    /// The message of an account.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, wanted: Wanted) -> Result<NewMessage, Refused> {
        let Wanted { name, host, hints } = wanted;
        let mut host = host.or_else(|| self.host.clone());
        let (did, identity) = match name {
            Name::Did(did) if host.is_some() || !self.resolves => (did, None),
            Name::Did(did) => {
                let identity =
                    self.insist(|waiting| self.identities.resolve_in_turn(&did, waiting))?;
                (did, Some(identity))
            }
            Name::Handle(_) if !self.resolves => {
                return Err(Refused {
                    reason: "handle",
                    text: "a handle must be resolved, which --no-resolve forbids".to_owned(),
                });
            }
            Name::Handle(handle) => {
                let resolve =
                    |waiting: &_| self.handles.resolve(&handle, &self.identities, waiting);
                let account = self.insist(resolve)?;
                (account.did, Some(account.identity))
            }
        };
        if let (None, Some(identity)) = (&host, identity) {
            host = Some(self.server(&did, &identity)?);
        }
        Ok(NewMessage { did, host, hints })
    }

    /// The server that a DID document names, if it may be asked.
    fn server(&self, did: &str, identity: &Arc<Identity>) -> Result<Host, Refused> {
        let refused = |text| Refused {
            reason: "endpoint",
            text,
        };
        let none = || {
            refused(format!(
                "{did}: the document names no server that can be asked"
            ))
        };
        let host = identity.pds.clone().ok_or_else(none)?;
        check_endpoint(&host, self.allow_private_hosts)
            .map_err(|why| refused(format!("{did}: the document's server: {why}")))?;
        Ok(host)
    }

    /// Asks again where it failed on the way.
    fn insist<T>(
        &self,
        mut ask: impl FnMut(&Waiting) -> Result<T, Stopped>,
    ) -> Result<T, JobError> {
        let waiting = Waiting::at_most(PATIENCE, &self.shutdown);
        let mut tries = 0;
        loop {
            let error = match ask(&waiting).map_err(Stopped::into_error) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            tries += 1;
            let passes = matches!(error.reason, Reason::Network | Reason::Deferred);
            if !passes || tries == TRIES || self.shutdown.sleep(PAUSE * tries) {
                return Err(error);
            }
        }
    }
}

/// Whether a server that a stranger has named may become the host of a message.
///
/// # Errors
/// Why not.
fn check_endpoint(host: &Host, allow_private_hosts: bool) -> Result<(), String> {
    let url = host.url_of("/");
    let policy = AddressPolicy::new(allow_private_hosts);
    policy
        .check_url(&url, ChosenBy::Stranger)
        .map_err(|refusal| refusal.to_string())?;
    match url.host() {
        Some(UrlHost::Ipv4(_) | UrlHost::Ipv6(_)) if !allow_private_hosts => Err(format!(
            "the address {host} instead of a name is not permitted (see BACKFILLER_ALLOW_PRIVATE_HOSTS)"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_documents_server_is_a_public_name_over_https() {
        let check = |text: &str, private| {
            let host = Host::parse(text, ChosenBy::Stranger).unwrap();
            check_endpoint(&host, private).is_ok()
        };
        for text in ["https://pds.example", "https://pds.example:8443"] {
            assert!(check(text, false), "{text}");
        }
        for text in [
            "http://pds.example",
            "https://8.8.8.8",
            "https://127.0.0.1",
            "https://[2606:4700::1111]",
            "https://0x7f.1",
            "https://localhost",
            "https://a.localhost",
            "https://redis",
            "https://pds.internal",
            "https://pds.local.",
        ] {
            assert!(!check(text, false), "{text}");
            assert!(check(text, true), "{text}");
        }
    }
}
