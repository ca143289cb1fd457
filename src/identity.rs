//! From a DID to its signing key and its server (R6).
//!
//! did:plc documents come from the directory over one pooled agent that all workers share, did:web documents from their
//! [own hosts](crate::did_web). Documents vary, so only what is needed is read, and leniently; but `id` must be the DID itself, and
//! the key is that of the first verification method named `#atproto`. Answers are kept for a while, because a message is often
//! tried more than once; whoever doubts a kept answer asks with [`Identities::resolve_since`]. That the directory cannot be
//! asked says nothing about an account: it defers the job. Source: atproto.com/specs/did. Pinned by
//! `tests/identity.rs`, `tests/did_web.rs` and `tests/relays.rs` (`r6_…`), and by `tests/look_ups.rs`.

use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use rsky_crypto::did::{format_did_key, parse_multikey};
use rsky_crypto::multibase::multibase_to_bytes;
use rsky_identity::did::atproto_data::{VerificationMaterial, get_did_key_from_multibase};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};
use url::Url;

use crate::config::Config;
use crate::did_web::{WebDocuments, host_of};
use crate::error::{JobError, Reason};
use crate::fetch::cut_short;
use crate::fetch::host::{ChosenBy, Host};
use crate::fetch::limits::Limits;
use crate::fetch::policy::names_own;
use crate::fetch::resolver::Resolver;
use crate::handle::Handle;
use crate::hosts::wait::Waiting;
use crate::hosts::{Busy, HostGate, Hosts, Key, Learnt, Permit, Permits, Stopped};
use crate::queue::Message;
use crate::redact::{secrets_of, without_secrets};

/// How long one look-up may take as a whole.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// What documents may be sent as.
pub const DOCUMENT_TYPES: &str = "application/did+ld+json, application/json";
/// Largest document in bytes; other implementations have the same limit.
pub const MAX_DOCUMENT: u64 = 64 * 1024;
/// How many identities are kept: some 300 bytes each. (Unwrapped when this is compiled, and never again.)
const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// How long an identity is kept. Keys change seldom, and a signature that fails asks again.
const CACHE_TIME: Duration = Duration::from_secs(10 * 60);

/// What a DID document says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The signing key as `did:key:…`.
    pub signing_key: String,
    /// The account's server as the document names it; whether it may be asked is the fetch's business.
    pub pds: Option<Host>,
    /// The account's handle as the document names it, in lower case; it counts only where the handle leads to this DID as well.
    pub handle: Option<String>,
}

/// Looks identities up; shared by all workers.
pub struct Identities {
    directory: Agent,
    directory_gate: HostGate,
    directory_key: Key,
    hosts: Arc<Hosts>,
    plc_url: String,
    web: WebDocuments,
    cache: Mutex<LruCache<String, (Instant, Arc<Identity>)>>,
}

impl Identities {
    /// Nothing is connected to before the first look-up.
    pub fn new(config: &Config, resolver: &Resolver, hosts: &Arc<Hosts>) -> Self {
        let key = directory_key(&config.plc_url);
        Identities {
            directory_gate: hosts.gate(&key),
            directory_key: key,
            hosts: Arc::clone(hosts),
            // The operator wrote the directory's address, so it is under no policy; and all workers ask it.
            directory: crate::fetch::agent(
                config,
                resolver.clone(),
                DOCUMENT_TYPES,
                LOOK_UP_TIMEOUT,
                config.concurrency,
            ),
            plc_url: config.plc_url.clone(),
            web: WebDocuments::new(config, resolver, hosts),
            cache: Mutex::new(LruCache::new(CACHE_SIZE)),
        }
    }

    /// The identity of a DID, kept from before or looked up.
    ///
    /// # Errors
    /// [`Reason::Identity`] where there is no document or no usable key in it; [`Reason::Deferred`] where the directory, and
    /// [`Reason::Network`] where the server of a did:web, cannot be asked; [`Reason::BadMessage`] for another DID method.
    /// [`Stopped::Busy`] where the server of a did:web has no room now, or the directory is closed.
    pub fn resolve(&self, did: &str, permits: &mut Permits) -> Result<Arc<Identity>, Stopped> {
        self.resolve_if(did, permits, |since| since.elapsed() < CACHE_TIME)
    }

    /// The identity of a DID as it was at `instant` or later: for whoever doubts what was kept from before.
    ///
    /// # Errors
    /// As [`Identities::resolve`].
    pub fn resolve_since(
        &self,
        did: &str,
        permits: &mut Permits,
        instant: Instant,
    ) -> Result<Arc<Identity>, Stopped> {
        self.resolve_if(did, permits, |since| since >= instant)
    }

    /// The lane of a message that names no host: a did:web's own server is probably the one, and anyhow is asked first.
    fn key_of(&self, did: &str) -> Key {
        match host_of(did) {
            Ok(host) if !is_plc(did) => host.key(),
            _ => Key::unknown(),
        }
    }

    /// The identity of a DID, on a thread that waits for its turn.
    ///
    /// # Errors
    /// As [`Identities::resolve`]; [`Stopped::Busy`] where the time is up.
    pub fn resolve_in_turn(&self, did: &str, waiting: &Waiting) -> Result<Arc<Identity>, Stopped> {
        let directory = self
            .needs_directory(did)
            .then(|| self.directory_key.clone());
        waiting.insist(&self.hosts, directory, |permits| self.resolve(did, permits))
    }

    /// Whose token it takes to look the DID up, unless it is known or a worker takes it.
    pub fn gate_of_look_up(&self, did: &str) -> Option<HostGate> {
        let is_known = || {
            let cache = self.lock();
            let kept = cache.peek(did);
            kept.is_some_and(|(since, _)| since.elapsed() < CACHE_TIME)
        };
        (is_plc(did) && !is_known()).then(|| self.directory_gate.clone())
    }

    /// Whether the directory can be asked; if not, whoever can do without goes on meanwhile.
    pub fn is_directory_open(&self, now: Instant) -> bool {
        !self.directory_gate.is_shut(now)
    }

    /// The lane in which a message waits that was given back, and what is known of its host then; `learnt`: what was known before.
    pub fn lane_behind(
        &self,
        message: &Message,
        learnt: Option<Learnt>,
        busy: Busy,
    ) -> (Key, Option<Learnt>) {
        // Whoever waits for the directory, or for the host of a did:web, knows as much of the repo's host as before.
        let mut learnt = busy.learnt.or(learnt);
        let key = match (&learnt, &message.host) {
            _ if !busy.key.is_directory() => busy.key,
            (Some(learnt), _) => learnt.host.key(),
            _ => self.lane_of(message),
        };
        // What the message says itself need not be remembered.
        learnt.take_if(|learnt| learnt.hops == 0 && message.host.as_ref() == Some(&learnt.host));
        (key, learnt)
    }

    /// The lane of a message that nobody has begun.
    pub fn lane_of(&self, message: &Message) -> Key {
        match &message.host {
            Some(host) => host.key(),
            None => self.key_of(&message.did),
        }
    }

    /// Whether the DID must be looked up in the directory.
    pub fn needs_directory(&self, did: &str) -> bool {
        self.gate_of_look_up(did).is_some()
    }

    fn resolve_if(
        &self,
        did: &str,
        permits: &mut Permits,
        will_do: impl FnOnce(Instant) -> bool,
    ) -> Result<Arc<Identity>, Stopped> {
        let kept = self.lock().get(did).cloned();
        match kept {
            Some((since, identity)) if will_do(since) => Ok(identity),
            _ => self.look_up(did, permits),
        }
    }

    fn look_up(&self, did: &str, permits: &mut Permits) -> Result<Arc<Identity>, Stopped> {
        let began = Instant::now();
        let document = if is_plc(did) {
            let permit = permits.look_up.take();
            // One more than was foreseen is owed: what was downloaded meanwhile is not to be downloaded again.
            let permit = match permit {
                // It may have closed since the permit was given.
                Some(mut permit) => permit.renew().then_some(permit),
                None => self.directory_gate.permit_in_advance(),
            };
            let asked = permit.is_some();
            let document = match permit {
                Some(permit) => self.ask_directory(did, permit),
                None => {
                    let text = "the directory is not asked for the time being";
                    Err(JobError::new(Reason::Deferred, text))
                }
            };
            document.map_err(|error| self.behind_directory(error, asked))?
        } else if did.starts_with("did:web:") {
            let host = host_of(did).map_err(|e| no_identity(did, e))?;
            let gate = self.hosts.gate(&host.key());
            let late = permits.late;
            let permit = permits.take(&gate);
            let permit = permit.or_else(|| late.then(|| gate.permit_in_advance()).flatten());
            let permit = permit.ok_or_else(|| Busy::new(host.key(), None))?;
            self.ask_web(did, permit, permits)?
        } else {
            let text = format_args!("{did}: unsupported DID method");
            return Err(JobError::new(Reason::BadMessage, text).into());
        };
        let identity = Arc::new(read_document(did, &document)?);
        // Only answers that can be used are kept, so that a key that appears later is seen.
        self.lock()
            .put(did.to_owned(), (began, Arc::clone(&identity)));
        Ok(identity)
    }

    /// What is put off waits for the directory itself, if that is closed, and else as long as after a failure: what it says may
    /// have to do with this DID alone. `refused`: it was asked.
    fn behind_directory(&self, error: JobError, refused: bool) -> Stopped {
        if error.reason == Reason::Deferred && self.directory_gate.is_closed(Instant::now()) {
            let key = self.directory_key.clone();
            return Busy {
                key,
                learnt: None,
                error,
                refused,
            }
            .into();
        }
        error.into()
    }

    fn ask_directory(&self, did: &str, mut permit: Permit) -> Result<Value, JobError> {
        let unreachable = |e: &dyn std::fmt::Display| {
            let said = without_secrets(&e.to_string(), &secrets_of(&self.plc_url));
            JobError::new(Reason::Deferred, format_args!("directory: {said}"))
        };
        permit.begin();
        // A DID's characters stand for themselves in a path, but for '%', which none of did:plc has.
        let mut response = self
            .directory
            .get(format!("{}/{did}", self.plc_url))
            .call()
            .map_err(|e| {
                permit.unreachable();
                unreachable(&e)
            })?;
        let limits = Limits::read(response.headers(), SystemTime::now());
        permit.answered(response.status().as_u16(), &limits);
        if (500..=599).contains(&response.status().as_u16()) {
            // Whatever stands before the directory, it is not there; where this is about one DID, others are answered in between.
            permit.cut();
        }
        match response.status().as_u16() {
            200 => {}
            404 => return Err(no_identity(did, "not found in the directory")),
            410 => return Err(no_identity(did, "tombstoned in the directory")),
            400 => return Err(no_identity(did, "refused by the directory")),
            // Whatever else it says is about itself, or about us.
            status => return Err(unreachable(&format_args!("answered {status}"))),
        }
        read_json(did, &mut response, &mut permit, unreachable)
    }

    fn ask_web(&self, did: &str, permit: Permit, permits: &mut Permits) -> Result<Value, Stopped> {
        let failed =
            |e: &dyn std::fmt::Display| JobError::new(Reason::Network, format_args!("{did}: {e}"));
        let (mut response, mut permit) = self.web.ask(did, permit, permits)?;
        Ok(read_json(did, &mut response, &mut permit, failed)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, (Instant, Arc<Identity>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory by name and port.
fn directory_key(plc_url: &str) -> Key {
    let url = Url::parse(plc_url).ok();
    let name = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let port = url.as_ref().and_then(Url::port_or_known_default);
    let private = url.as_ref().is_some_and(names_own);
    Key::directory(&format!("{name}:{}", port.unwrap_or_default()), private)
}

fn is_plc(did: &str) -> bool {
    did.starts_with("did:plc:")
}

/// Reads a document. That its body does not come through is the error that `failed` makes of it, and a failure of its host; what is
/// wrong in it is not.
fn read_json(
    did: &str,
    response: &mut Response<Body>,
    permit: &mut Permit,
    failed: impl FnOnce(&dyn std::fmt::Display) -> JobError,
) -> Result<Value, JobError> {
    let mut body = Vec::new();
    let mut reader = response.body_mut().as_reader().take(MAX_DOCUMENT + 1);
    if let Err(e) = reader.read_to_end(&mut body) {
        let error = failed(&e);
        // A document is small: whoever has had most of the time is too slow.
        cut_short(permit, &e.into(), permit.elapsed() > LOOK_UP_TIMEOUT / 2);
        return Err(error);
    }
    if body.len() as u64 > MAX_DOCUMENT {
        return Err(no_identity(
            did,
            format_args!("document of more than {MAX_DOCUMENT} bytes"),
        ));
    }
    serde_json::from_slice(&body)
        .map_err(|e| no_identity(did, format_args!("document is no JSON: {e}")))
}

/// Reads key and server out of a document (R6).
///
/// # Errors
/// [`Reason::Identity`] where it is another DID's, or has no usable key.
pub fn read_document(did: &str, document: &Value) -> Result<Identity, JobError> {
    if document.get("id").and_then(Value::as_str) != Some(did) {
        return Err(no_identity(did, "the document is that of another DID"));
    }
    let method = first_named(document, "verificationMethod", did, "#atproto")
        .ok_or_else(|| no_identity(did, "no verification method #atproto in the document"))?;
    if method.get("controller").and_then(Value::as_str) != Some(did) {
        return Err(no_identity(
            did,
            "another controller of the verification method #atproto",
        ));
    }
    let signing_key = signing_key(method)
        .map_err(|e| no_identity(did, format_args!("no usable key in the document: {e}")))?;
    Ok(Identity {
        signing_key,
        pds: pds(did, document),
        handle: handle(document),
    })
}

/// The first entry of a list whose id is exactly `name` or `did` and `name`.
fn first_named<'d>(document: &'d Value, list: &str, did: &str, name: &str) -> Option<&'d Value> {
    let is_named = |entry: &&Value| {
        let id = entry.get("id").and_then(Value::as_str);
        id.is_some_and(|id| id.strip_prefix(did).unwrap_or(id) == name)
    };
    document.get(list)?.as_array()?.iter().find(is_named)
}

/// The key of a verification method as `did:key:…`.
///
/// A `Multikey` says its curve in a prefix; the types of 2019 are the curve, and their multibase is the bare point.
fn signing_key(method: &Value) -> Result<String, String> {
    let text = |field| {
        method
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (r#type, multibase) = (text("type"), text("publicKeyMultibase"));
    if r#type == "Multikey" {
        let key = parse_multikey(multibase).map_err(|e| e.to_string())?;
        return format_did_key(key.jwt_alg, key.key_bytes).map_err(|e| e.to_string());
    }
    let point = multibase_to_bytes(multibase.clone()).map_err(|e| e.to_string())?;
    if !matches!(point.len(), 33 | 65) {
        return Err(format!(
            "{type} with a point of {} bytes",
            point.len(),
            r#type = r#type
        ));
    }
    let material = VerificationMaterial {
        r#type: r#type.clone(),
        public_key_multibase: multibase,
    };
    match get_did_key_from_multibase(material) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(format!("unsupported type {:?}", r#type)),
        Err(e) => Err(e.to_string()),
    }
}

/// The account's server, where the document names one.
fn pds(did: &str, document: &Value) -> Option<Host> {
    let service = first_named(document, "service", did, "#atproto_pds")?;
    if service.get("type")?.as_str()? != "AtprotoPersonalDataServer" {
        return None;
    }
    let endpoint = service.get("serviceEndpoint")?.as_str()?;
    Host::parse(endpoint, ChosenBy::Stranger).ok()
}

/// The account's handle: the first of its other names that is one (atproto.com/specs/did).
fn handle(document: &Value) -> Option<String> {
    let names = document.get("alsoKnownAs")?.as_array()?.iter();
    names
        .filter_map(|name| name.as_str()?.strip_prefix("at://"))
        .find_map(|name| Handle::parse(name).ok())
        .map(Handle::into_string)
}

fn no_identity(did: &str, what: impl std::fmt::Display) -> JobError {
    JobError::new(Reason::Identity, format_args!("{did}: {what}"))
}
