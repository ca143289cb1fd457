//! The reader thread: from the input stream into the channel of the workers.
//!
//! First come the consumer's own pending messages, then new ones. The reader remembers the last id that it has seen, because
//! XREADGROUP delivers in ascending order: after a lost connection, own pending messages behind that id are those whose
//! delivery was lost on the way, and are taken first. So nothing is forgotten and, as long as Redis keeps what it has
//! acknowledged, nothing is handed out twice.
//!
//! It reads no more than the channel has room for, so one instance does not hoard what others could do. Malformed messages go to the
//! dead letters here. It ends at shutdown; what it has sent and no worker has begun stays pending. Pinned by `tests/group.rs`.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, select};
use redis::RedisError;

use super::pending::{self, Delivered};
use super::{Entries, Job, Message};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// How long XREADGROUP waits for new messages: bounds how long the reader takes to see the shutdown.
const BLOCK: Duration = Duration::from_secs(1);
/// Own pending messages taken at a time: the longest command has so many ids.
const PAGE: usize = 100;

/// What an XREADGROUP answers: the entries of each stream, or nothing.
type Batch = Option<Vec<(String, Entries)>>;

/// The reader; lives on its own thread.
pub struct Reader {
    config: Arc<Config>,
    link: Link,
    jobs: Sender<Job>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    /// The last id seen.
    last: Option<String>,
}

impl Reader {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        config: Arc<Config>,
        jobs: Sender<Job>,
        shutdown: &Shutdown,
        metrics: Arc<Metrics>,
    ) -> redis::RedisResult<Self> {
        Ok(Reader {
            link: Link::new(&config.redis, shutdown)?,
            config,
            jobs,
            shutdown: shutdown.clone(),
            metrics,
            last: None,
        })
    }

    /// Reads until shutdown.
    ///
    /// # Errors
    /// [`Reason::Redis`], when Redis refuses for good.
    pub fn run(mut self) -> Result<(), JobError> {
        match self.read_all() {
            Err(Stop::Error(e)) => Err(JobError::new(
                Reason::Redis,
                format_args!("Redis refused the reader: {e}"),
            )),
            Ok(()) | Err(Stop::Shutdown) => Ok(()),
        }
    }

    fn read_all(&mut self) -> Result<(), Stop> {
        let config = Arc::clone(&self.config);
        let mut recover = true;
        while !self.shutdown.is_requested() {
            let taken = if recover {
                self.take_own_pending()
            } else {
                self.take_new()
            };
            match taken {
                Ok(()) => recover = false,
                // The group, or the stream with it, was deleted, or Redis has come back without its data.
                Err(Stop::Error(e)) if e.code() == Some("NOGROUP") => {
                    log::warn!("the consumer group is gone: {e}; creating it again");
                    self.link
                        .insist(Patience::UntilShutdown, |link| create_group(link, &config))?;
                    // The new group may deliver lower ids than the old one did.
                    self.last = None;
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
                    recover = true;
                }
                Err(Stop::Shutdown) => return Err(Stop::Shutdown),
            }
        }
        Ok(())
    }

    /// Takes this consumer's own pending messages behind the last id seen.
    fn take_own_pending(&mut self) -> Result<(), Stop> {
        let mut taken = 0;
        loop {
            let page =
                pending::own_pending(&mut self.link, &self.config, self.last.as_deref(), PAGE)
                    .map_err(Stop::Error)?;
            for id in &page.deleted {
                log::warn!("entry {id} was deleted by somebody else while it was pending");
                self.metrics.deleted_entries.add(1);
            }
            if page.last.is_none() {
                break;
            }
            taken += page.messages.len();
            for message in page.messages {
                self.deliver(message)?;
            }
            // The last ids of a page may have been deleted entries.
            self.last = page.last;
        }
        if taken > 0 {
            log::info!("took {taken} pending messages of this consumer again");
        }
        Ok(())
    }

    fn take_new(&mut self) -> Result<(), Stop> {
        for message in self.read_new().map_err(Stop::Error)? {
            self.deliver(message)?;
        }
        Ok(())
    }

    fn read_new(&mut self) -> Result<Vec<Delivered>, RedisError> {
        let room = self
            .jobs
            .capacity()
            .unwrap_or(1)
            .saturating_sub(self.jobs.len())
            .max(1);
        let batch: Batch = self.link.query(
            redis::cmd("XREADGROUP")
                .arg("GROUP")
                .arg(&self.config.group)
                .arg(&self.config.consumer)
                .arg("COUNT")
                .arg(room)
                .arg("BLOCK")
                .arg(BLOCK.as_millis() as u64)
                .arg("STREAMS")
                .arg(&self.config.backfill_stream)
                .arg(">"),
        )?;
        let entries = batch.into_iter().flatten().flat_map(|(_, entries)| entries);
        Ok(entries
            .map(|(id, fields)| Delivered {
                id,
                deliveries: 1,
                fields,
            })
            .collect())
    }

    /// Hands a message to the workers, or to the dead letters.
    fn deliver(&mut self, message: Delivered) -> Result<(), Stop> {
        self.last = Some(message.id.clone());
        let value = message.value().unwrap_or_default();
        let parsed = match message.value() {
            Some(value) => Message::parse(value),
            None => Err(JobError::new(Reason::BadMessage, "no field repo")),
        };
        match parsed {
            Ok(parsed) => {
                let job = Job {
                    value: value.to_vec(),
                    id: message.id,
                    message: parsed,
                };
                select! {
                    send(self.jobs, job) -> sent => sent.map_err(|_| Stop::Shutdown),
                    recv(self.shutdown.requested()) -> _ => Err(Stop::Shutdown),
                }
            }
            Err(error) => self.bury(&message, &error),
        }
    }

    /// Moves a message to the dead letters.
    fn bury(&mut self, message: &Delivered, error: &JobError) -> Result<(), Stop> {
        let Reader { config, link, .. } = self;
        let buried = link.insist(Patience::UntilShutdown, |link| {
            pending::dead_letter(link, config, message, error)
        });
        if let Err(Stop::Error(e)) = &buried {
            let (id, entry) = (&message.id, message.to_json());
            log::error!("entry {id} may be removed without its dead letter: {e}: {entry}");
        }
        buried?;
        let (id, reason) = (&message.id, error.reason);
        log::warn!("dead letter id={id} reason={reason} error={error}");
        self.metrics.failed(reason);
        self.metrics.dead_letters.add(1);
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
