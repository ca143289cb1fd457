//! The reader thread: from the input stream and its pending list to the workers, in the order that the [`scheduler`](super::scheduler)
//! says.
//!
//! It reads on as long as it can remember what it has read: what could begin about now is held, the rest is parked, with id and host, so
//! that one host with many messages does not keep those behind it from being seen. First come this consumer's own pending
//! messages; then new ones and those that are due again take turns. A job is sent with the permits of its host, when there is room in the
//! channel, which is short: what has been sent has a slot at its host, and must not wait long. What a worker gives back, because its
//! host is busy or throttles, is parked as well. After a lost connection it looks for deliveries that
//! were lost on the way; messages that it knows already are passed over, so nothing is handed out twice. Malformed messages go
//! to the dead letters here; `intake` is that half. It ends at shutdown; what it holds and no worker has begun is released. Pinned by
//! `tests/group.rs`, `tests/retries.rs`, `tests/fairness.rs` and `tests/shutdown.rs`.

mod intake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::fence::is_no_group;
use super::held::{Held, Hold};
use super::pending::{Pending, Seen};
use super::scheduler::{Kind, Parked, Scheduler};
use super::waiting::{Publisher, Waiting};
use super::{Dispatched, EntryId, Job, Message, Returned, progress};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason, guarded};
use crate::hosts::{Hosts, Learnt};
use crate::identity::Identities;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::status::{Phase, Slot};

/// What one lane costs to be looked at, about: with thousands of hosts the rounds come less often.
const LANE_COST: Duration = Duration::from_micros(2);

/// What the reader shares with the workers.
pub struct Ends {
    /// To the workers.
    pub jobs: Sender<Dispatched>,
    /// The other end, to give back at the end what no worker has taken.
    pub unread: Receiver<Dispatched>,
    /// What workers give back.
    pub returned: Receiver<Returned>,
}

/// The reader; lives on its own thread.
pub struct Reader {
    config: Arc<Config>,
    link: Link,
    ends: Ends,
    hosts: Arc<Hosts>,
    identities: Arc<Identities>,
    scheduler: Scheduler<Job>,
    held: Arc<Held>,
    pending: Pending,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    publisher: Publisher,
    /// Whether new messages are next, and not those that are due again.
    new_is_next: bool,
    /// Whether it was full, and has not had room again since.
    full: bool,
    /// When some that were forgotten are looked at again though there is no room.
    next_recall: Instant,
    /// When it is looked for new messages again, unless nothing else is to be done.
    next_look: Instant,
}

impl Reader {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        config: Arc<Config>,
        ends: Ends,
        (hosts, identities): (Arc<Hosts>, Arc<Identities>),
        held: Arc<Held>,
        shutdown: &Shutdown,
        (metrics, slot): (Arc<Metrics>, Arc<Slot>),
        waiting: Option<Arc<Waiting>>,
    ) -> redis::RedisResult<Self> {
        Ok(Reader {
            link: Link::new(&config.redis, shutdown)?,
            pending: Pending::new(Arc::clone(&config), Arc::clone(&held), Arc::clone(&metrics)),
            scheduler: Scheduler::new(config.concurrency),
            config,
            ends,
            hosts,
            identities,
            held,
            shutdown: shutdown.clone(),
            metrics,
            slot,
            publisher: Publisher::new(waiting),
            new_is_next: false,
            full: false,
            next_recall: Instant::now(),
            next_look: Instant::now(),
        })
    }

    /// Reads until shutdown.
    ///
    /// # Errors
    /// [`Reason::Redis`], when Redis refuses for good.
    pub fn run(mut self) -> Result<(), JobError> {
        let result = self.read_all();
        // Workers take no more jobs after shutdown; a job that is dropped is released.
        while let Ok(job) = self.ends.unread.try_recv() {
            drop(job);
        }
        // What was held and parked is anybody's again.
        self.metrics.held.set(0);
        self.metrics.parked.set(0);
        self.publisher.end();
        match result {
            Err(Stop::Error(e)) => Err(JobError::new(
                Reason::Redis,
                format_args!("Redis refused the reader: {e}"),
            )),
            Ok(()) | Err(Stop::Shutdown) => Ok(()),
        }
    }

    fn read_all(&mut self) -> Result<(), Stop> {
        let config = Arc::clone(&self.config);
        while !self.shutdown.is_requested() {
            let round = self.go_round();
            if round.is_err() {
                self.slot.enter(Phase::Redis);
            }
            match round {
                Ok(()) => {}
                // The group, or the stream with it, was deleted, or Redis has come back without its data.
                Err(Stop::Error(e)) if is_no_group(&e) => {
                    log::warn!("~error":% = e; "the consumer group is gone: {e}; creating it again");
                    self.link.insist(Patience::UntilShutdown, |link| {
                        create_group(link, &config)?;
                        progress::sweep(link, &config)
                    })?;
                    self.pending.recover();
                }
                Err(Stop::Error(e)) => {
                    // insist() waits until Redis can be used again, or says that waiting does not help. Acknowledging an
                    // entry that cannot exist changes nothing, but is refused where reading from the group is: a replica
                    // would answer a PING.
                    let mut probe = redis::cmd("XACK");
                    probe
                        .arg(&config.backfill_stream)
                        .arg(&config.group)
                        .arg("0-0");
                    let mut failed = Some(e);
                    self.link
                        .insist(Patience::UntilShutdown, |link| match failed.take() {
                            Some(e) => Err(e),
                            None => link.query::<u64>(&probe),
                        })?;
                    self.pending.recover();
                }
                Err(Stop::Shutdown) => return Err(Stop::Shutdown),
            }
        }
        Ok(())
    }

    /// One round: hands on what can begin, claims what can begin next, reads what is due or new, and waits where there was
    /// nothing to do.
    fn go_round(&mut self) -> Result<(), Stop> {
        let began = Instant::now();
        self.scheduler.begin_round();
        self.take_back();
        self.park_unwanted(began);
        let mut busy = self.dispatch();
        self.slot.enter(Phase::Claim);
        busy |= self.claim_wanted(began)?;
        self.slot.enter(Phase::Read);
        busy |= self.read(busy)?;
        let (held, parked) = self.scheduler.counts();
        self.metrics.held.set(held as u64);
        self.metrics.parked.set(parked as u64);
        let scheduler = &self.scheduler;
        self.publisher.publish(began, || scheduler.waiting());
        if !busy {
            self.slot.enter(Phase::Wait);
            self.wait(began);
        }
        Ok(())
    }

    /// Sends jobs to the workers, as long as hosts are free and the channel has room.
    fn dispatch(&mut self) -> bool {
        let mut any = false;
        while !self.ends.jobs.is_full() {
            let identities = &self.identities;
            let next = self.scheduler.next(Instant::now(), |job| {
                identities.gate_of_look_up(&job.message.did)
            });
            let Some((_, job, pass)) = next else {
                break;
            };
            any = true;
            // Nobody else sends, so there is room; the workers are gone only at the end.
            if self.ends.jobs.try_send(Dispatched { job, pass }).is_err() {
                break;
            }
        }
        any
    }

    /// Parks what workers have given back.
    fn take_back(&mut self) {
        while let Ok(returned) = self.ends.returned.try_recv() {
            if let Some(id) = EntryId::parse(&returned.id) {
                let Returned {
                    key,
                    needs_directory,
                    ..
                } = returned;
                let parked = Parked {
                    id,
                    learnt: returned.learnt.map(Box::new),
                    needs_directory,
                };
                let gate = self.hosts.gate(&key);
                self.scheduler.park(&key, &gate, parked, Kind::Returned);
            }
        }
    }

    /// Parks what is held though its host, or the directory that it needs, has closed meanwhile.
    fn park_unwanted(&mut self, now: Instant) {
        let identities = &self.identities;
        let closed = !identities.is_directory_open(now);
        let waits = |job: &Job| closed && identities.needs_directory(&job.message.did);
        for (key, gate, job) in self.scheduler.unwanted(now, waits) {
            let Some(id) = EntryId::parse(&job.id) else {
                self.scheduler.hold(&key, &gate, job);
                continue;
            };
            let parked = Parked {
                id,
                needs_directory: self.identities.needs_directory(&job.message.did),
                learnt: job.learnt.map(Box::new),
            };
            job.hold.park();
            self.scheduler.park(&key, &gate, parked, Kind::Returned);
        }
    }

    /// Claims parked messages whose hosts have become free.
    fn claim_wanted(&mut self, now: Instant) -> Result<bool, Stop> {
        // A few at a time, unless workers wait.
        if !self.scheduler.is_hungry() && !self.ends.jobs.is_empty() {
            return Ok(false);
        }
        let directory_open = self.identities.is_directory_open(now);
        let wanted = self.scheduler.wanted(now, directory_open);
        if wanted.is_empty() {
            return Ok(false);
        }
        let ids = wanted.iter().map(|(.., parked)| parked.id.to_string());
        let claimed = self.pending.claim(&mut self.link, ids.collect());
        for ((key, gate, parked), delivered) in
            wanted.into_iter().zip(claimed.map_err(Stop::Error)?)
        {
            let Some(delivered) = delivered else {
                continue;
            };
            match parse(&delivered.seen) {
                Ok(message) => {
                    let learnt = parked.learnt.map(|learnt| *learnt);
                    let job = job(
                        &delivered.seen,
                        message,
                        delivered.attempt,
                        learnt,
                        delivered.hold,
                    );
                    self.scheduler.hold(&key, &gate, job);
                }
                Err(error) => {
                    self.bury(&delivered.seen, delivered.attempt, &delivered.hold, &error)?
                }
            }
        }
        Ok(true)
    }

    /// Waits until something is given back, or for what may be ready then.
    fn wait(&self, began: Instant) {
        let now = Instant::now();
        let mut until = self.next_look;
        if self.scheduler.room() > 0 {
            until = until.min(now + self.pending.idle_for());
        }
        if let Some(ready) = self.scheduler.next_ready() {
            until = until.min(ready);
        }
        // A job that was sent and is not taken yet is no reason to go round.
        let rest = began + LANE_COST * u32::try_from(self.scheduler.lanes()).unwrap_or(u32::MAX);
        if rest > now && self.shutdown.sleep(rest - now) {
            return;
        }
        select! {
            recv(self.hosts.woken()) -> _ => {}
            recv(self.shutdown.requested()) -> _ => {}
            default(until.saturating_duration_since(Instant::now())) => {}
        }
    }
}

/// Reads what the message says.
fn parse(seen: &Seen) -> Result<Message, JobError> {
    match seen.value() {
        Some(value) => guarded(|| Message::parse(value)),
        None => Err(JobError::new(Reason::BadMessage, "no field repo")),
    }
}

fn job(seen: &Seen, message: Message, attempt: u64, learnt: Option<Learnt>, hold: Hold) -> Job {
    Job {
        value: seen.value().unwrap_or_default().to_vec(),
        id: seen.id.clone(),
        message,
        attempt,
        learnt,
        hold,
    }
}

/// Creates stream and group where they are absent; the group begins with the first entry.
///
/// # Errors
/// Any but that the group exists.
pub fn create_group(link: &mut Link, config: &Config) -> redis::RedisResult<()> {
    let created = link.query::<String>(
        redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&config.backfill_stream)
            .arg(&config.group)
            .arg(0)
            .arg("MKSTREAM"),
    );
    match created {
        Err(e) if e.code() == Some("BUSYGROUP") => Ok(()),
        Err(e) => Err(e),
        Ok(_) => {
            log::info!(
                "~group" = config.group, "~stream" = config.backfill_stream;
                "created group {} of stream {}",
                config.group,
                config.backfill_stream
            );
            Ok(())
        }
    }
}
