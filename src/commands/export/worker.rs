//! A thread of an export: from a job to its lines, one at a time, on the way that the worker takes.
//!
//! The repo is fetched and proved by the worker's own [`Source`], or read from a CAR and proved in the same way; nothing is written before the
//! tree is proved (I3), and a panic ends the job and not the thread (I5). Nobody waits here for a host: the job goes back, and waits in its lane.
//! Pinned by `tests/export.rs` and `tests/export_failures.rs`.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, select};

use super::job::{Job, message};
use super::lines::{About, Buffers, Interrupted, LineWriter};
use super::offline::Opener;
use super::output::Turns;
use super::sources::Origin;
use crate::commands::accounts::Name;
use crate::error::{JobError, Reason, guarded};
use crate::fault::{self, Stage};
use crate::fetch::host::Host;
use crate::fetch::resolver::Resolver;
use crate::handle::Handles;
use crate::hosts::wait::Waiting;
use crate::hosts::{Permits, Stopped};
use crate::repo::mst;
use crate::status::{Phase, Slot};
use crate::worker::Shared;
use crate::worker::source::Source;
use crate::worker::write::write_leaves;

/// How a job ended that did not fail.
pub(super) enum Ended {
    /// In lines.
    Written,
    /// In the DID of its handle: it goes on as an account.
    Resolved,
    /// The output takes no more.
    OutputFailed(io::Error),
    /// Shutdown came before its lines.
    NotBegun,
}

/// A job that comes back.
pub(super) struct Report {
    pub job: Job,
    pub result: Result<Ended, Stopped>,
    /// The commit that it came to.
    pub commit: Option<String>,
}

/// What all threads of an export have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub shared: Shared,
    pub turns: Turns,
    pub handles: Arc<Handles>,
    /// Whom to ask, where not each account's own server.
    pub host: Option<Host>,
    /// `None`: accounts are exported, and not CARs.
    pub opener: Option<Arc<Opener>>,
}

/// A thread of an export.
pub(super) struct Worker {
    common: Common,
    source: Source,
    slot: Arc<Slot>,
    buffers: Buffers,
}

impl Worker {
    /// Connects at the first job.
    pub(super) fn new(common: Common, resolver: &Resolver) -> Self {
        let slot = Arc::default();
        Worker {
            source: Source::new(&common.shared, &slot, resolver),
            buffers: Buffers::new(&common.shared.memory),
            common,
            slot,
        }
    }

    /// Works until shutdown, or until nobody has a job any more.
    pub(super) fn run(mut self, jobs: &Receiver<(Job, Permits)>, reports: &Sender<Report>) {
        loop {
            let next = select! {
                recv(self.common.shared.shutdown.requested()) -> _ => return,
                recv(jobs) -> next => next,
            };
            let Ok((mut job, permits)) = next else {
                return;
            };
            // A handle's hosts turn out on the way: what its lane has given is free again for that.
            let permits = if job.is_handle() {
                drop(permits);
                Permits::default()
            } else {
                permits
            };
            self.source.begin(permits);
            self.slot.begin(job.did(), "");
            let result = guarded(|| self.process(&mut job));
            self.slot.end();
            self.source.end();
            self.buffers.clear();
            let commit = self.source.commit.take();
            let report = Report {
                job,
                result,
                commit,
            };
            if reports.send(report).is_err() {
                return;
            }
        }
    }

    /// The way of a repo.
    fn process(&mut self, job: &mut Job) -> Result<Ended, Stopped> {
        fault::panic_if_asked(Stage::Fetch, job.did());
        let (did, root, commit);
        match (&job.message, &self.common.opener) {
            (Some(message), _) => {
                let fetched = self.source.fetch(message, job.learnt.as_ref())?;
                (did, root, commit) = (message.did.clone(), fetched.root, fetched.commit);
            }
            (None, Some(opener)) => {
                self.slot.enter(Phase::Fetch);
                let counted = (&*self.slot, &self.common.shared.metrics.bytes);
                let opened = opener.open(&job.origin, &mut self.source.blocks, counted)?;
                (did, root, commit) = (opened.did, opened.root, opened.commit);
            }
            (None, None) => return self.resolve(job),
        }
        self.slot.enter(Phase::Verify);
        let mut tree = mst::prove(&mut self.source.blocks, commit.data())?;
        self.slot.enter(Phase::Backpressure);
        let Shared {
            config,
            metrics,
            shutdown,
            ..
        } = &self.common.shared;
        let Some(mut turn) = self.common.turns.wait(shutdown) else {
            return Ok(Ended::NotBegun);
        };
        self.slot.enter(Phase::Write);
        let about = About {
            did: &did,
            commit: &root,
            rev: &commit.rev,
        };
        let with = (&config.collections, &**metrics, &*self.slot);
        let progress = &mut job.progress;
        let writer = LineWriter::new(&mut turn, &mut self.buffers, progress, &about, with);
        match write_leaves(writer, &did, &mut tree) {
            Ok(written) => {
                log::info!("{job}: {} records", written.records);
                turn.count(&written);
                Ok(Ended::Written)
            }
            Err(Interrupted::Failed(error)) => Err(error.into()),
            Err(Interrupted::Output(error)) => Ok(Ended::OutputFailed(error)),
        }
    }

    /// Finds out whose handle it is.
    fn resolve(&mut self, job: &mut Job) -> Result<Ended, Stopped> {
        let Origin::Account(Name::Handle(handle)) = &job.origin else {
            // Offline CARs have an opener, and DIDs a message.
            return Err(JobError::new(Reason::Panic, "neither an account nor a CAR").into());
        };
        self.slot.enter(Phase::Identity);
        let Common {
            shared,
            handles,
            host,
            ..
        } = &self.common;
        let waiting = Waiting::not_at_all(&shared.shutdown);
        // Where the document must wait, nobody is asked twice for the DID.
        let did = match &job.claimed {
            Some(did) => did.clone(),
            None => job.claimed.insert(handles.did(handle, &waiting)?).clone(),
        };
        let account = handles.confirm(handle, did, &shared.identities, &waiting)?;
        job.becomes(message(&account.did, host.as_ref()));
        Ok(Ended::Resolved)
    }
}
