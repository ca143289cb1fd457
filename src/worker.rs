//! A worker: from a job to its outcome, one at a time.
//!
//! `Worker::process` is the way of a repo as a straight line; each stage takes the product of the one before and knows nothing of
//! the next. Nothing is written before the tree is proved (I3). A panic ends the job and not the thread (I5): it is caught at
//! the job's boundary, judged as any other failure, and the worker goes on with fresh buffers. What becomes of a message whose
//! job failed is judged by [`retry`] and written down before the next job is taken. Pinned by `tests/verdicts.rs`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, select};

use crate::config::Config;
use crate::connection::Patience;
use crate::error::{Class, JobError, Reason, guarded};
use crate::event::unix_millis;
use crate::fault::{self, Stage};
use crate::fetch::host::Host;
use crate::fetch::resolver::Resolver;
use crate::fetch::{Asked, Fetcher};
use crate::hosts::{Busy, Hosts, Learnt, Permit, Permits, Stopped};
use crate::identity::{Identities, Identity};
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::queue::fence::{Executed, Standing};
use crate::queue::progress::Progress;
use crate::queue::retry::{self, Verdict};
use crate::queue::scheduler::Pass;
use crate::queue::{Dispatched, Job, Returned, said_deleted};
use crate::repo::blocks::BlockStore;
use crate::repo::car;
use crate::repo::commit::Commit;
use crate::repo::mst::{self, Leaf, Tree};
use crate::repo::record::Skip;
use crate::shutdown::Shutdown;
use crate::sink::room::Said;
use crate::sink::{Interrupted, Sink};
use crate::status::{Phase, Slot};

/// Skipped records of one repo that are logged one by one; the others are only counted.
const SKIPS_SAID: u64 = 5;

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// How much each host may be asked.
    pub hosts: Arc<Hosts>,
    /// Who looks identities up.
    pub identities: Arc<Identities>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The memory for what they work on.
    pub memory: Arc<Budget>,
    /// When the log last said that the output is full.
    pub said: Said,
    /// Asked for by whoever ends the process.
    pub shutdown: Shutdown,
}

/// A worker; lives on its own thread, with its own connection to Redis and its own ureq agent.
pub struct Worker {
    shared: Shared,
    jobs: Receiver<Dispatched>,
    /// To the reader: messages that must wait for a host.
    returned: Sender<Returned>,
    slot: Arc<Slot>,
    fetcher: Fetcher,
    /// What the present job has been given and has not used yet.
    permits: Permits,
    /// Since when the present job's host has been without a success, where it is not waited for any more.
    given_up: Option<Instant>,
    sink: Sink,
    blocks: BlockStore,
    /// For the block of a commit that is read from a file.
    buffer: Vec<u8>,
    /// When the present job began: what was looked up before may be out of date.
    began: Instant,
    /// When its downloads must be done.
    deadline: Instant,
    /// The commit of the present job, as soon as a CAR has named it.
    commit: Option<String>,
}

/// A repo whose blocks are in the store and whose commit is signed by its owner.
struct Fetched {
    host: Host,
    bytes: u64,
    root: cid::Cid,
    commit: Commit,
}

/// What became of the leaves of a repo whose events are all written and whose message is acknowledged.
#[derive(Default)]
struct Written {
    records: u64,
    skipped: u64,
    /// Records of collections that are not wanted.
    filtered: u64,
    /// Leaves that were written before this attempt, or before a connection was lost.
    resumed: u64,
}

/// How a job ended that did not fail.
enum Ended {
    /// In events; from this server, so many bytes.
    Written(Host, u64, Written),
    /// Shutdown came before it began; its message is released.
    NotBegun,
    /// Its message is somebody else's, or nobody's any more.
    NotOurs(Standing),
}

impl Worker {
    /// Connects at the first job.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        shared: Shared,
        (jobs, returned): (Receiver<Dispatched>, Sender<Returned>),
        slot: Arc<Slot>,
        resolver: &Resolver,
    ) -> redis::RedisResult<Self> {
        Ok(Worker {
            fetcher: Fetcher::new(&shared.config, resolver, &shared.hosts),
            sink: Sink::new(
                &shared.config,
                &shared.shutdown,
                shared.said.clone(),
                &shared.memory,
                Arc::clone(&shared.metrics),
                Arc::clone(&slot),
            )?,
            blocks: BlockStore::new(&shared.memory, &shared.config.spill_dir),
            buffer: Vec::new(),
            began: Instant::now(),
            deadline: Instant::now(),
            commit: None,
            shared,
            jobs,
            returned,
            permits: Permits::default(),
            given_up: None,
            slot,
        })
    }

    /// The way of a repo.
    fn process(&mut self, job: &mut Job) -> Result<Ended, Stopped> {
        self.slot.enter(Phase::Backpressure);
        if job.hold.is_lost() {
            return Ok(Ended::NotOurs(Standing::Taken));
        }
        if !self.sink.wait_for_room(Patience::UntilShutdown)? {
            return Ok(Ended::NotBegun);
        }
        match self.sink.acquire(job)? {
            None => return Ok(Ended::NotBegun),
            Some(Standing::Mine) => {}
            Some(standing) => return Ok(Ended::NotOurs(standing)),
        }
        let job = &*job;
        self.refuse_spent(job)?;
        self.refuse_given_up()?;
        fault::panic_if_asked(Stage::Fetch, &job.message.did);
        let fetched = self.fetch(job)?;
        self.slot.enter(Phase::Verify);
        let mut tree = mst::prove(&mut self.blocks, fetched.commit.data())?;
        self.slot.enter(Phase::Write);
        Ok(match write(&mut self.sink, job, &fetched, &mut tree)? {
            Ok(written) => Ended::Written(fetched.host, fetched.bytes, written),
            Err(standing) => Ended::NotOurs(standing),
        })
    }

    /// A message that has had all its attempts, and is there all the same, is not begun once more: its last attempt ended with
    /// its process, or the limit was higher then.
    fn refuse_spent(&self, job: &Job) -> Result<(), JobError> {
        let (limit, spent) = (self.shared.config.max_attempts, job.attempt - 1);
        if spent < limit {
            return Ok(());
        }
        let before = self.sink.progress(job).and_then(Progress::failure);
        let judged = before.as_ref().filter(|failure| failure.attempt == spent);
        if let Some(reason) = judged.and_then(|failure| Reason::from_code(&failure.reason)) {
            let text = format_args!("attempt {spent} failed before, and {limit} is the limit now");
            return Err(JobError::new(reason, text));
        }
        let before = before.map_or("none before was judged".to_owned(), |failure| {
            format!("the last one judged: {}", failure.reason)
        });
        let text = format_args!("attempt {spent} ended with its process; {before}");
        Err(JobError::new(Reason::Panic, text))
    }

    /// A host that has been of no use for so long is not waited for by one more message.
    fn refuse_given_up(&self) -> Result<(), JobError> {
        let Some(since) = self.given_up else {
            return Ok(());
        };
        let hours = since.elapsed().as_secs_f64() / 3600.0;
        let text = format_args!("its host has refused or not been reached for {hours:.1} hours");
        Err(JobError::new(Reason::Deferred, text))
    }

    /// Fetches the repo from the host that is known to have it, from the message's or, where it names none, from the PDS of the
    /// DID document.
    ///
    /// Only the PDS of the current document can say that a repo is gone; another host, or the PDS of a document that was kept
    /// from before, may also hold one that an older key signed. So then the current PDS is asked, and its answer counts.
    fn fetch(&mut self, job: &Job) -> Result<Fetched, Stopped> {
        let did = &job.message.did;
        self.deadline = Instant::now() + self.shared.config.http_timeout;
        let is_scarce = |permit: &Permit| permit.is_scarce();
        if did.starts_with("did:web:") || self.permits.look_up.as_ref().is_some_and(is_scarce) {
            // Its server has limits as well, and has no part in what the reader gives out: so before the download. And while the
            // directory is tried, nothing is downloaded in vain.
            self.slot.enter(Phase::Identity);
            self.resolve(did)?;
        }
        let mut source = match (&job.learnt, &job.message.host) {
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
        let error = match self.fetch_from(&mut source, job) {
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
                log::debug!("{error}; asking the PDS of {did}");
                self.fetch_from(&mut Learnt::at_once(pds), job)
            }
            Err(no_pds) if error.reason == Reason::RepoGone => Err(no_pds.into()),
            Err(_) => Err(error.into()),
        }
    }

    /// Downloads the repo into the block store and proves who signed it; `source` becomes the one who answers.
    fn fetch_from(&mut self, source: &mut Learnt, job: &Job) -> Result<Fetched, Stopped> {
        let did = &job.message.did;
        self.slot.enter(Phase::Fetch);
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
        let asked = Asked { host, hops, permit };
        let mut download = self
            .fetcher
            .get_repo(asked, did, &self.slot, self.deadline)?;
        let mut root = None;
        let read = car::read(&mut download, &mut self.blocks, &mut root);
        self.commit = root.map(|root| root.cid.to_string());
        let bytes = download.bytes;
        self.shared.metrics.bytes.add(bytes);
        // The host is free for the next one; what follows is our own work.
        drop(download);
        let root = read?;

        let block = self.blocks.read(&root.digest, &mut self.buffer)?;
        let block = block.ok_or_else(|| {
            let text = format_args!("commit {} is not in the CAR", root.cid);
            JobError::new(Reason::Incomplete, text)
        })?;
        let commit = Commit::read(block, did, SystemTime::now())?;
        self.verify(did, &commit)?;
        let host = &source.host;
        if let Some(known) = &job.message.rev
            && *known > commit.rev
        {
            log::info!(
                "did={did} host={host}: rev {} is older than {known}",
                commit.rev
            );
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
        if commit.verify(&known.signing_key).is_ok() {
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

/// The account's own server.
fn pds(identity: &Identity, did: &str) -> Result<Host, JobError> {
    identity.pds.clone().ok_or_else(|| {
        let text = format_args!("{did}: no PDS in the document");
        JobError::new(Reason::Identity, text)
    })
}

/// Turns the leaves of a proven tree into events, and returns when the last of them is in the output; or whose the message is
/// instead.
fn write(
    sink: &mut Sink,
    job: &Job,
    fetched: &Fetched,
    tree: &mut Tree<'_>,
) -> Result<Result<Written, Standing>, JobError> {
    loop {
        match write_once(sink, job, fetched, tree) {
            Ok(written) => return Ok(Ok(written)),
            Err(Interrupted::NotOurs(standing)) => return Ok(Err(standing)),
            Err(Interrupted::Failed(error)) => return Err(error),
            Err(Interrupted::Resume) => {}
        }
    }
}

/// The same as long as the connection lasts. Leaves whose events are in the output already are left out.
fn write_once(
    sink: &mut Sink,
    job: &Job,
    fetched: &Fetched,
    tree: &mut Tree<'_>,
) -> Result<Written, Interrupted> {
    let mut writer = sink.begin(job, &fetched.root, &fetched.commit.rev);
    let mut written = Written {
        resumed: writer.resumed(),
        ..Written::default()
    };
    if written.resumed > 0 {
        log::info!(
            "did={} id={}: going on behind leaf {}",
            job.message.did,
            job.id,
            written.resumed
        );
    }
    let mut leaves = tree.walk();
    let mut passed = 0;
    while let Some(leaf) = leaves.next(tree)? {
        passed += 1;
        if passed <= written.resumed {
            continue;
        }
        if !writer.wants(&leaf) {
            written.filtered += 1;
            continue;
        }
        match writer.record(&leaf, tree.record(&leaf)?)? {
            None => written.records += 1,
            Some(skip) => {
                written.skipped += 1;
                log_skip(&job.message.did, &leaf, skip, written.skipped);
            }
        }
    }
    writer.finish()?;
    Ok(written)
}

/// The first skipped records of a repo are said at once; all of them only where somebody listens to more.
fn log_skip(did: &str, leaf: &Leaf<'_>, skip: Skip, count: u64) {
    let level = if count <= SKIPS_SAID {
        log::Level::Warn
    } else {
        log::Level::Debug
    };
    let key = String::from_utf8_lossy(leaf.key);
    let (key, cid) = (key.escape_debug(), leaf.value);
    log::log!(level, "skipped did={did} key={key} cid={cid}: {skip}");
}

impl Worker {
    /// Works until shutdown, or until the reader has ended.
    ///
    /// # Errors
    /// [`Reason::Redis`], when Redis refuses for good.
    pub fn run(mut self) -> Result<(), JobError> {
        while let Some(Dispatched { mut job, pass }) = self.next_job() {
            self.began = Instant::now();
            self.commit = None;
            (self.permits, self.given_up) = match pass {
                Pass::Permits { host, look_up } => {
                    let host = Some(host);
                    let late = false;
                    (
                        Permits {
                            host,
                            look_up,
                            late,
                        },
                        None,
                    )
                }
                Pass::GivenUp(since) => (Permits::default(), Some(since)),
            };
            self.slot.begin(&job.message.did);
            let result = guarded(|| self.process(&mut job));
            self.permits = Permits::default();
            let host = self.slot.view().map(|view| view.host).unwrap_or_default();
            if self.blocks.is_spilled() {
                self.shared.metrics.spills.add(1);
            }
            self.blocks.clear();
            self.buffer = Vec::new();
            let concluded = match result {
                Ok(Ended::Written(host, bytes, written)) => {
                    job.hold.settle();
                    self.report(&job, &host, bytes, &written);
                    Ok(())
                }
                Ok(Ended::NotBegun) => {
                    self.slot.end();
                    break;
                }
                Ok(Ended::NotOurs(standing)) => {
                    self.abandoned(&job, standing);
                    Ok(())
                }
                Err(Stopped::Failed(error)) => self.failed(job, &host, error, None),
                Err(Stopped::Busy(busy)) => {
                    let error = busy.error.clone();
                    self.failed(job, &host, error, Some(*busy))
                }
            };
            self.slot.end();
            concluded?;
        }
        Ok(())
    }

    /// Says that an attempt failed or was put off, judges it, and writes down what becomes of the message. One that waits for a
    /// host goes back to the reader.
    fn failed(
        &mut self,
        job: Job,
        host: &str,
        error: JobError,
        busy: Option<Busy>,
    ) -> Result<(), JobError> {
        let config = &self.shared.config;
        // One that was refused because it has had all its attempts has not had another.
        let attempt = job.attempt - u64::from(job.attempt > config.max_attempts);
        self.say(&job, host, &error, attempt);
        if error.class() == Class::Fatal {
            return Err(error);
        }
        let now = unix_millis(SystemTime::now());
        let mut progress = self.sink.progress(&job).cloned().unwrap_or_default();
        if let Some(since) = self.given_up {
            progress.put_off_since(now.saturating_sub(since.elapsed().as_millis() as u64));
        }
        let commit = self.commit.as_deref();
        let verdict = retry::judge(config, &error, commit, attempt, &progress, now);
        if error.reason == Reason::Panic {
            self.sink.reset();
        }
        if let Executed::Not(standing) = self.sink.conclude(&job, &verdict, &error, attempt)? {
            self.abandoned(&job, standing);
            return Ok(());
        }
        job.hold.settle();
        let metrics = &self.shared.metrics;
        match verdict {
            Verdict::Retry(_) => metrics.retries.add(1),
            Verdict::Defer { .. } => {
                metrics.deferrals.add(1);
                if let Some(busy) = busy {
                    self.give_back(job, busy);
                }
            }
            Verdict::DeadLetter { reason, attempts } => {
                metrics.dead_letters.add(1);
                let (did, id) = (&job.message.did, &job.id);
                log::warn!(
                    "dead letter did={did} id={id} reason={reason} attempts={attempts} error={error}"
                );
            }
        }
        Ok(())
    }

    /// Says why a job has not ended in events. That it was put off is no failure.
    fn say(&self, job: &Job, host: &str, error: &JobError, attempt: u64) {
        let (level, what) = if error.class() == Class::Deferred {
            (log::Level::Info, "deferred")
        } else {
            self.shared.metrics.failed(error.reason);
            (log::Level::Warn, "failed")
        };
        let (did, id) = (&job.message.did, &job.id);
        log::log!(
            level,
            "{what} did={did} host={host} reason={} attempt={attempt} ms={} id={id} error={error}",
            error.reason,
            self.began.elapsed().as_millis(),
        );
    }

    /// Lets the reader know for which host the message waits, when it is nobody's any more.
    fn give_back(&self, job: Job, mut busy: Busy) {
        let Job {
            id, message, hold, ..
        } = job;
        drop(hold);
        // What the message says itself need not be remembered.
        busy.learnt
            .take_if(|learnt| learnt.hops == 0 && message.host.as_ref() == Some(&learnt.host));
        // The reader is gone only at the end, and the message is due then when its backoff is over.
        let _ = self.returned.send(Returned { id, busy });
        self.shared.hosts.wake();
    }

    /// Another instance works on the message, or has ended it; or it is delivered anew.
    fn abandoned(&self, job: &Job, standing: Standing) {
        // It is not this process's to say when the message is due.
        job.hold.settle();
        let why = match standing {
            Standing::Gone => "it is not pending any more",
            Standing::Deleted => "its entry was deleted",
            Standing::Undelivered => "it is in the stream but not pending",
            Standing::Taken | Standing::Mine => "another instance has taken it over",
        };
        if standing == Standing::Deleted {
            said_deleted(&self.shared.metrics, &job.id);
        }
        log::info!("abandoned did={} id={}: {why}", job.message.did, job.id);
        self.shared.metrics.abandoned.add(1);
    }

    /// The next job; `None` at shutdown, even where there would be one.
    fn next_job(&self) -> Option<Dispatched> {
        if self.shared.shutdown.is_requested() {
            return None;
        }
        let job = select! {
            recv(self.shared.shutdown.requested()) -> _ => None,
            recv(self.jobs) -> job => job.ok(),
        };
        // There is room in the channel.
        self.shared.hosts.wake();
        job
    }

    fn report(&self, job: &Job, host: &Host, bytes: u64, written: &Written) {
        let metrics = &self.shared.metrics;
        metrics.repos.add(1);
        metrics.skipped.add(written.skipped);
        metrics.filtered.add(written.filtered);
        log::info!(
            "done did={} host={host} records={} bytes={bytes} ms={} skipped={} filtered={} resumed={} id={}",
            job.message.did,
            written.records,
            self.began.elapsed().as_millis(),
            written.skipped,
            written.filtered,
            written.resumed,
            job.id,
        );
    }
}
