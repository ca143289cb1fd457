//! From whom a repo is fetched, and who says whose it is.
//!
//! A repo comes from the host that is known to have it, and only the PDS of the account's document can say that it is gone. Each request
//! has a permit; where there is none, the job stops and its message waits for that host. A [`Source`] knows nothing of Redis: the worker has
//! one, and so has each thread of [`export`](crate::commands). Pinned by `tests/relays.rs`, `tests/waiting.rs` and
//! `tests/fairness.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Shared;
use crate::error::{JobError, Reason};
use crate::fetch::host::Host;
use crate::fetch::resolver::Resolver;
use crate::fetch::{Asked, Fetcher};
use crate::hosts::{Busy, Learnt, Permit, Permits, Stopped};
use crate::identity::Identity;
use crate::queue::Message;
use crate::repo::blocks::BlockStore;
use crate::repo::car::{self, Root};
use crate::repo::commit::Commit;
use crate::status::{Phase, Slot};

/// A repo whose blocks are in the store and whose commit is signed by its owner.
pub(crate) struct Fetched {
    pub host: Host,
    pub bytes: u64,
    pub root: cid::Cid,
    pub commit: Commit,
}

/// Fetches repos, one at a time, and proves who signed them; lives on its own thread, with its own ureq agent.
pub(crate) struct Source {
    shared: Shared,
    slot: Arc<Slot>,
    fetcher: Fetcher,
    /// What the present job has been given and has not used yet.
    permits: Permits,
    /// The blocks of the repo that was fetched.
    pub blocks: BlockStore,
    /// For the block of a commit that is read from a file.
    buffer: Vec<u8>,
    /// When the present job began: what was looked up before may be out of date.
    pub began: Instant,
    /// When its downloads must be done.
    deadline: Instant,
    /// How long it took to verify the signature.
    pub proving: Duration,
    /// The commit of the present job, as soon as a CAR has named it.
    pub commit: Option<String>,
}

impl Source {
    /// Nothing is connected to before the first job.
    pub fn new(shared: &Shared, slot: &Arc<Slot>, resolver: &Resolver) -> Self {
        Source {
            fetcher: Fetcher::new(&shared.config, resolver, &shared.hosts),
            blocks: BlockStore::new(&shared.memory, &shared.config.spill_dir),
            buffer: Vec::new(),
            began: Instant::now(),
            deadline: Instant::now(),
            proving: Duration::ZERO,
            commit: None,
            permits: Permits::default(),
            slot: Arc::clone(slot),
            shared: shared.clone(),
        }
    }

    /// A job begins, with what it has been given.
    pub fn begin(&mut self, permits: Permits) {
        self.began = Instant::now();
        self.commit = None;
        self.permits = permits;
    }

    /// Gives back what the job has not used, and the memory of its repo.
    pub fn end(&mut self) {
        self.permits = Permits::default();
        if self.blocks.is_spilled() {
            self.shared.metrics.spills.add(1);
        }
        self.blocks.clear();
        self.buffer = Vec::new();
    }

    /// Fetches the repo from the host that is known to have it (`learnt`), from the message's or, where it names none, from the PDS of
    /// the DID document.
    ///
    /// Only the PDS of the current document can say that a repo is gone; another host, or the PDS of a document that was kept
    /// from before, may also hold one that an older key signed. So then the current PDS is asked, and its answer counts.
    ///
    /// # Errors
    /// Those of the download, the proof of the commit and the look-up; [`Stopped::Busy`] where a host has no room.
    pub fn fetch(
        &mut self,
        message: &Message,
        learnt: Option<&Learnt>,
    ) -> Result<Fetched, Stopped> {
        let did = &message.did;
        self.deadline = Instant::now() + self.shared.config.http_timeout;
        let is_scarce = |permit: &Permit| permit.is_scarce();
        if did.starts_with("did:web:") || self.permits.look_up.as_ref().is_some_and(is_scarce) {
            // Its server has limits as well, and has no part in what the reader gives out: so before the download. And while the
            // directory is tried, nothing is downloaded in vain.
            self.slot.enter(Phase::Identity);
            self.resolve(did)?;
        }
        let mut source = match (learnt, &message.host) {
            (Some(learnt), _) => learnt.clone(),
            (None, Some(host)) => Learnt::at_once(host.clone()),
            (None, None) => {
                let mut known = self.resolve(did)?;
                if known.pds.is_none() {
                    // The document may have been kept from before.
                    known = self.resolve_since(did)?;
                }
                Learnt::at_once(pds(&known, did)?)
            }
        };
        let error = match self.fetch_from(&mut source, message) {
            Err(Stopped::Failed(e)) if matches!(e.reason, Reason::RepoGone | Reason::Signature) => {
                e
            }
            result => return result,
        };
        self.slot.enter(Phase::Identity);
        let current = self.resolve_since(did)?;
        match pds(&current, did) {
            Ok(pds) if pds.is_same_server(&source.host) => Err(error.into()),
            Ok(pds) => {
                log::debug!("~did" = did, "~error":% = error; "{error}; asking the PDS of {did}");
                self.fetch_from(&mut Learnt::at_once(pds), message)
            }
            Err(no_pds) if error.reason == Reason::RepoGone => Err(no_pds.into()),
            Err(_) => Err(error.into()),
        }
    }

    /// Downloads the repo into the block store and proves who signed it; `source` becomes the one who answers.
    fn fetch_from(&mut self, source: &mut Learnt, message: &Message) -> Result<Fetched, Stopped> {
        let did = &message.did;
        self.slot.enter(Phase::Fetch);
        let asked_at = Instant::now();
        self.blocks.clear();
        let gate = self.shared.hosts.gate(&source.host.key());
        let Some(permit) = self.permits.take(&gate) else {
            return Err(Busy::at(source.clone()).into());
        };
        self.permits.late = true;
        // Others need not wait for the directory as long as this download takes.
        if let Some(look_up) = &mut self.permits.look_up {
            look_up.set_aside();
        }
        let Learnt { host, hops } = source;
        let asked = Asked {
            host,
            hops,
            permit,
            permits: &mut self.permits,
        };
        let counted = (&*self.slot, &self.shared.metrics.bytes);
        let mut download = self.fetcher.get_repo(asked, did, counted, self.deadline)?;
        let mut root = None;
        let read = car::read(&mut download, &mut self.blocks, &mut root);
        self.commit = root.map(|root| root.cid.to_string());
        let bytes = download.bytes;
        // The host is free for the next one; what follows is our own work.
        drop(download);
        let root = read?;
        if let Some(observed) = &self.shared.metrics.observed {
            observed
                .fetch_seconds
                .observe(asked_at.elapsed().as_secs_f64());
            observed.repo_bytes.observe(bytes as f64);
        }

        let block = commit_block(&mut self.blocks, &root, &mut self.buffer)?;
        let commit = Commit::read(block, did, SystemTime::now())?;
        self.verify(did, &commit)?;
        let host = &source.host;
        if let Some(known) = &message.rev
            && *known > commit.rev
        {
            let why = format_args!("rev {} is older than {known}", commit.rev);
            log::info!(did = did, host:% = host, why:% = why; "");
        }
        Ok(Fetched {
            host: host.clone(),
            bytes,
            root: root.cid,
            commit,
        })
    }

    /// Verifies the signature; where it does not fit the key of a document kept from before, the document is fetched once more
    /// (R6).
    fn verify(&mut self, did: &str, commit: &Commit) -> Result<(), Stopped> {
        self.slot.enter(Phase::Identity);
        let known = self.resolve(did)?;
        self.slot.enter(Phase::Verify);
        let began = Instant::now();
        let fits = commit.verify(&known.signing_key).is_ok();
        self.proving = began.elapsed();
        if fits {
            return Ok(());
        }
        self.slot.enter(Phase::Identity);
        let current = self.resolve_since(did)?;
        self.slot.enter(Phase::Verify);
        Ok(commit.verify(&current.signing_key)?)
    }

    /// The identity of the account, which may have been kept from before.
    fn resolve(&mut self, did: &str) -> Result<Arc<Identity>, Stopped> {
        self.shared.identities.resolve(did, &mut self.permits)
    }

    /// The identity of the account as it is now.
    fn resolve_since(&mut self, did: &str) -> Result<Arc<Identity>, Stopped> {
        let identities = &self.shared.identities;
        identities.resolve_since(did, &mut self.permits, self.began)
    }
}

/// The block of the commit that a CAR names as its root; `buffer` is for one that is read from a file.
///
/// # Errors
/// [`Reason::Incomplete`] where it is not there, [`Reason::Deferred`] where the file cannot be read.
pub(crate) fn commit_block<'b>(
    blocks: &'b mut BlockStore,
    root: &Root,
    buffer: &'b mut Vec<u8>,
) -> Result<&'b [u8], JobError> {
    blocks.read(&root.digest, buffer)?.ok_or_else(|| {
        let text = format_args!("commit {} is not in the CAR", root.cid);
        JobError::new(Reason::Incomplete, text)
    })
}

/// The account's own server.
fn pds(identity: &Identity, did: &str) -> Result<Host, JobError> {
    identity.pds.clone().ok_or_else(|| {
        let text = format_args!("{did}: no PDS in the document");
        JobError::new(Reason::Identity, text)
    })
}
