//! A worker: from a job to its outcome, one at a time.
//!
//! `Worker::process` is the way of a repo as a straight line; each stage takes the product of the one before and knows nothing of
//! the next. Nothing is written before the tree is proved (I3). A panic ends the job and not the thread (I5): it is caught at
//! the job's boundary, judged as any other failure, and the worker goes on with fresh buffers. What becomes of a message whose
//! job failed is judged and written down (`outcome`) before the next job is taken. Pinned by `tests/verdicts.rs`.

mod outcome;
pub(crate) mod source;
pub(crate) mod write;

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, select};

use crate::config::Config;
use crate::connection::Patience;
use crate::error::{JobError, Reason, guarded};
use crate::fault::{self, Stage};
use crate::fetch::host::Host;
use crate::fetch::resolver::Resolver;
use crate::hosts::{Hosts, Permits, Stopped};
use crate::identity::Identities;
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::queue::fence::Standing;
use crate::queue::progress::Progress;
use crate::queue::scheduler::Pass;
use crate::queue::{Dispatched, Job, Returned};
use crate::repo::mst;
use crate::shutdown::Shutdown;
use crate::sink::Sink;
use crate::sink::room::Said;
use crate::status::{Phase, Slot};

use self::source::Source;
use self::write::{Written, write};

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
    source: Source,
    /// Since when the present job's host has been without a success, where it is not waited for any more.
    given_up: Option<Instant>,
    sink: Sink,
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
            source: Source::new(&shared, &slot, resolver),
            sink: Sink::new(
                &shared.config,
                &shared.shutdown,
                shared.said.clone(),
                &shared.memory,
                Arc::clone(&shared.metrics),
                Arc::clone(&slot),
            )?,
            shared,
            jobs,
            returned,
            given_up: None,
            slot,
        })
    }

    /// Works until shutdown, or until the reader has ended.
    ///
    /// # Errors
    /// [`Reason::Redis`], when Redis refuses for good.
    pub fn run(mut self) -> Result<(), JobError> {
        while let Some(Dispatched { mut job, pass }) = self.next_job() {
            let permits;
            (permits, self.given_up) = match pass {
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
            self.source.begin(permits);
            self.slot.begin(&job.message.did, &job.id);
            let result = guarded(|| self.process(&mut job));
            let host = self.slot.view().map(|view| view.host).unwrap_or_default();
            self.source.end();
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

    /// The way of a repo.
    fn process(&mut self, job: &mut Job) -> Result<Ended, Stopped> {
        self.slot.enter(Phase::Claim);
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
        let fetched = self.source.fetch(&job.message, job.learnt.as_ref())?;
        self.slot.enter(Phase::Verify);
        let proves = Instant::now();
        let mut tree = mst::prove(&mut self.source.blocks, fetched.commit.data())?;
        self.slot.enter(Phase::Write);
        let writes = Instant::now();
        let observed = self.shared.metrics.observed.as_ref();
        if let Some(observed) = observed {
            let verified = self.source.proving + writes.duration_since(proves);
            observed.verify_seconds.observe(verified.as_secs_f64());
        }
        let written = write(&mut self.sink, job, &fetched, &mut tree)?;
        if let Some(observed) = observed {
            let wrote = writes.elapsed().as_secs_f64();
            observed.write_seconds.observe(wrote);
        }
        Ok(match written {
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
}
