//! The reader thread: from the input stream and its pending list into the channel of the workers.
//!
//! First come this consumer's own pending messages; then new ones and those that are due again take turns. It reads no more than the
//! channel has room for, so one instance does not hoard what others could do. After a lost connection it looks for deliveries that
//! were lost on the way; messages that it holds already are passed over, so nothing is handed out twice. Malformed messages go
//! to the dead letters here. It ends at shutdown; what it holds and no worker has begun is released. Pinned by
//! `tests/group.rs`, `tests/retries.rs` and `tests/shutdown.rs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, select};

use super::ending::{Ending, Original, conclude};
use super::fence::{Executed, Fence, Standing, is_no_group};
use super::held::Held;
use super::pending::{Delivered, Pending};
use super::{Entries, Job, Message, progress, retry, said_deleted};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason, guarded};
use crate::event::unix_millis;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// How long XREADGROUP waits for new messages: bounds how long the reader takes to see the shutdown.
const BLOCK: Duration = Duration::from_secs(1);

/// What an XREADGROUP answers: the entries of each stream, or nothing.
type Batch = Option<Vec<(String, Entries)>>;

/// The reader; lives on its own thread.
pub struct Reader {
    config: Arc<Config>,
    link: Link,
    jobs: Sender<Job>,
    /// The other end, to give back at the end what no worker has taken.
    unread: Receiver<Job>,
    held: Arc<Held>,
    pending: Pending,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    /// Whether new messages are next, and not those that are due again.
    new_is_next: bool,
}

impl Reader {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        config: Arc<Config>,
        (jobs, unread): (Sender<Job>, Receiver<Job>),
        held: Arc<Held>,
        shutdown: &Shutdown,
        metrics: Arc<Metrics>,
    ) -> redis::RedisResult<Self> {
        Ok(Reader {
            link: Link::new(&config.redis, shutdown)?,
            pending: Pending::new(Arc::clone(&config), Arc::clone(&held), Arc::clone(&metrics)),
            config,
            jobs,
            unread,
            held,
            shutdown: shutdown.clone(),
            metrics,
            new_is_next: false,
        })
    }

    /// Reads until shutdown.
    ///
    /// # Errors
    /// [`Reason::Redis`], when Redis refuses for good.
    pub fn run(mut self) -> Result<(), JobError> {
        let result = self.read_all();
        // Workers take no more jobs after shutdown; a job that is dropped is released.
        while let Ok(job) = self.unread.try_recv() {
            drop(job);
        }
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
            match self.read_some() {
                Ok(()) => {}
                // The group, or the stream with it, was deleted, or Redis has come back without its data.
                Err(Stop::Error(e)) if is_no_group(&e) => {
                    log::warn!("the consumer group is gone: {e}; creating it again");
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

    /// Takes what is due or what is new, and hands it on.
    fn read_some(&mut self) -> Result<(), Stop> {
        let wait = self.pending.idle_for();
        let own_first = self.pending.is_own_first();
        let retries_next = wait.is_zero() && (own_first || !self.new_is_next);
        let room = self.jobs.capacity().unwrap_or(1);
        let room = room.saturating_sub(self.jobs.len()).max(1);
        let messages = if retries_next {
            self.pending.take(&mut self.link, room)
        } else {
            self.read_new(room, wait.min(BLOCK))
        };
        self.new_is_next = retries_next;
        for message in messages.map_err(Stop::Error)? {
            self.deliver(message)?;
        }
        Ok(())
    }

    /// Reads new messages; waits for them at most so long, and not at all for less than a millisecond.
    fn read_new(&mut self, room: usize, wait: Duration) -> redis::RedisResult<Vec<Delivered>> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(&self.config.group)
            .arg(&self.config.consumer);
        read.arg("COUNT").arg(room);
        if wait.as_millis() > 0 {
            // BLOCK 0 would wait for ever.
            read.arg("BLOCK").arg(wait.as_millis() as u64);
        }
        read.arg("STREAMS")
            .arg(&self.config.backfill_stream)
            .arg(">");
        let batch: Batch = self.link.query(&read)?;
        let entries = batch.into_iter().flatten().flat_map(|(_, entries)| entries);
        // One that is held already was delivered anew because Redis has forgotten that it was.
        let held = entries.filter_map(|(id, fields)| {
            let Some(hold) = self.held.hold(&id) else {
                self.held.regain(&id);
                return None;
            };
            Some(Delivered {
                attempt: retry::next_attempt(1, false),
                id,
                fields,
                hold,
            })
        });
        Ok(held.collect())
    }

    /// Hands a message to the workers, or to the dead letters.
    fn deliver(&mut self, message: Delivered) -> Result<(), Stop> {
        let parsed = match message.value() {
            Some(value) => guarded(|| Message::parse(value)),
            None => Err(JobError::new(Reason::BadMessage, "no field repo")),
        };
        match parsed {
            Ok(parsed) => {
                let job = Job {
                    value: message.value().unwrap_or_default().to_vec(),
                    id: message.id,
                    message: parsed,
                    attempt: message.attempt,
                    hold: message.hold,
                };
                select! {
                    send(self.jobs, job) -> sent => sent.map_err(|_| Stop::Shutdown),
                    recv(self.shutdown.requested()) -> _ => Err(Stop::Shutdown),
                }
            }
            Err(error) => self.bury(&message, &error),
        }
    }

    /// Judges a message that cannot be understood, which is its dead letter.
    fn bury(&mut self, message: &Delivered, error: &JobError) -> Result<(), Stop> {
        let Reader { config, link, .. } = self;
        let (id, reason, attempt) = (&message.id, error.reason, message.attempt);
        let patience = Patience::UntilShutdown;
        message.hold.begin(attempt);
        let mut fence = Fence::new(config, id, attempt);
        let mut standing = link.insist(patience, |link| fence.acquire(link))?;
        if standing == Standing::Mine {
            let now = unix_millis(SystemTime::now());
            let entry = message.value().is_none().then(|| message.to_json());
            let ending = Ending {
                original: Original {
                    id,
                    value: message.value(),
                    entry: entry.as_deref(),
                },
                verdict: &retry::judge(config, error, None, attempt, fence.progress(), now),
                error,
            };
            if let Executed::Not(other) = conclude(link, &mut fence, config, patience, ending)? {
                standing = other;
            }
        }
        message.hold.settle();
        match standing {
            Standing::Mine => {
                log::warn!("dead letter id={id} reason={reason} attempts={attempt} error={error}");
                self.metrics.failed(reason);
                self.metrics.dead_letters.add(1);
            }
            Standing::Deleted => said_deleted(&self.metrics, id),
            _ => log::info!("abandoned id={id}: another instance has the message, or has ended it"),
        }
        Ok(())
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
                "created group {} of stream {}",
                config.group,
                config.backfill_stream
            );
            Ok(())
        }
    }
}
