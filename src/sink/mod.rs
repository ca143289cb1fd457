//! The output side: events in chunks, backpressure, acknowledgement.
//!
//! - A chunk is at most [`MAX_CREATES`] `create` events and at most [`MAX_JSON`] bytes of JSON, ended by one `repo` event, and goes
//!   out as one MULTI … EXEC. The last one of a repo also acknowledges and deletes the message, so a message leaves the input
//!   only together with its last events (I1, `tests/delivery.rs`).
//! - Before each chunk the output has [`room`] (`tests/backpressure.rs`).
//! - One EXEC is in flight, never two; the next chunk is encoded while Redis executes it.
//! - A chunk is kept until Redis has answered. When the connection is lost before that, it is sent again, so that its events may be
//!   there twice; but for the last one, where the message that is no longer pending says that it was executed.
//! - Redis that was away may have come back without what it had acknowledged (a fail-over, a crash without an append-only
//!   file). So where a new connection meets another server, or the same after a restart, all events of the repo are written again,
//!   whatever that server says of the message; and the blocks are kept until the last chunk is answered. Events may be there twice,
//!   and none is missing (`tests/redis_away.rs`).
//! - Each reply inside an EXEC is looked at; an error there (a key of another type) ends the process, for half a transaction
//!   cannot be taken back, and the message is written into the log.

mod chunk;
pub mod room;

use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use redis::{RedisError, RedisResult};

use self::chunk::{Chunk, Executed, KEEP};
use self::room::{Room, Said};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason};
use crate::event::Events;
use crate::metrics::Metrics;
use crate::queue::{self, Job};
use crate::repo::mst::Leaf;
use crate::repo::record::{self, KeyParser, Skip};
use crate::shutdown::Shutdown;
use crate::status::Slot;

/// `create` events of one chunk.
pub const MAX_CREATES: usize = 500;
/// Bytes of JSON of one chunk, its `repo` event included; a larger record is a chunk of its own.
pub const MAX_JSON: usize = 4 << 20;

/// Why the events of a repo are not all written.
#[derive(Debug)]
pub enum Interrupted {
    /// Chunks that Redis had acknowledged may be lost: all events are to be written again, from the first.
    StartAgain,
    /// Redis refuses for good.
    Failed(JobError),
}

impl From<JobError> for Interrupted {
    fn from(error: JobError) -> Self {
        Interrupted::Failed(error)
    }
}

/// One worker's way to Redis.
pub struct Sink {
    link: Link,
    room: Room,
    input: Vec<u8>,
    group: Vec<u8>,
    output: Vec<u8>,
    metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    /// The incarnation of the server that this repo's events are written to.
    incarnation: u64,
    /// The chunk that is being filled.
    filling: Chunk,
    /// The chunk that is to be executed next.
    sent: Chunk,
    /// Whether that chunk has been sent, be it in part.
    tried: bool,
    /// Whether its replies are to be read.
    in_flight: bool,
    /// The event that is being encoded.
    event: Vec<u8>,
    keys: KeyParser,
}

impl Sink {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        config: &Config,
        shutdown: &Shutdown,
        said: Said,
        metrics: Arc<Metrics>,
        slot: Arc<Slot>,
    ) -> RedisResult<Self> {
        Ok(Sink {
            link: Link::new(&config.redis, shutdown)?,
            room: Room::new(
                &config.firehose_stream,
                config.high_water_mark,
                shutdown,
                said,
            ),
            input: config.backfill_stream.clone().into_bytes(),
            group: config.group.clone().into_bytes(),
            output: config.firehose_stream.clone().into_bytes(),
            metrics,
            slot,
            incarnation: 0,
            filling: Chunk::default(),
            sent: Chunk::default(),
            tried: false,
            in_flight: false,
            event: Vec::new(),
            keys: KeyParser::default(),
        })
    }

    /// Waits until the output is below the mark. Returns `false` when shutdown came first and patience ends with it.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn wait_for_room(&mut self, patience: Patience) -> Result<bool, JobError> {
        self.room.wait(&mut self.link, patience)
    }

    /// Begins the events of a proven repo.
    pub fn begin<'s>(&'s mut self, job: &'s Job, commit: &cid::Cid, rev: &str) -> Writer<'s> {
        self.incarnation = self.link.incarnation();
        self.slot.begin_records();
        Writer {
            events: Events::new(&job.message.did, commit, rev, SystemTime::now()),
            sink: self,
            job,
        }
    }

    /// Sends the filled chunk, after the one before has been answered and there is room.
    fn send(&mut self, job: &Job) -> Result<(), Interrupted> {
        self.settle(job)?;
        self.wait_for_room(Patience::UntilDone)?;
        mem::swap(&mut self.filling, &mut self.sent);
        self.filling.clear();
        // Where this does not succeed, settle() looks into it.
        self.tried = self.link.is_open() && self.link.incarnation() == self.incarnation;
        self.in_flight = self.tried && self.link.send(&self.sent.commands).is_ok();
        Ok(())
    }

    /// Waits until Redis has executed the chunk that was sent, if there is one; sends it where it is not in flight.
    fn settle(&mut self, job: &Job) -> Result<(), Interrupted> {
        if self.sent.queued == 0 {
            return Ok(());
        }
        let mut in_flight = mem::take(&mut self.in_flight);
        let mut tried = mem::take(&mut self.tried);
        let Sink {
            link,
            sent,
            input,
            group,
            incarnation,
            ..
        } = self;
        let settled = link.insist(Patience::UntilDone, |link| {
            if !mem::take(&mut in_flight) {
                link.open()?;
                if link.incarnation() != *incarnation {
                    return Ok(Settled::Never);
                }
                // What was never sent cannot have been executed, whatever has become of the message.
                if tried && sent.last && !queue::is_pending(link, input, group, &job.id)? {
                    return Ok(Settled::Earlier);
                }
                tried = true;
                link.send(&sent.commands)?;
            }
            sent.read_replies(link).map(Settled::Now)
        });
        match settled {
            Ok(Settled::Now(executed)) => self.executed(executed, job)?,
            Ok(Settled::Earlier) => self.room.heard(None),
            Ok(Settled::Never) => return Err(Interrupted::StartAgain),
            Err(Stop::Error(e)) => return Err(refused("a chunk", &e).into()),
            Err(Stop::Shutdown) => return Err(JobError::new(Reason::Redis, "stopped").into()),
        }
        self.metrics.records.add(self.sent.creates as u64);
        self.slot.add_records(self.sent.creates as u64);
        self.sent.clear();
        Ok(())
    }

    fn executed(&mut self, executed: Executed, job: &Job) -> Result<(), Interrupted> {
        let (id, did) = (&job.id, &job.message.did);
        self.room.heard(executed.length);
        if let Some(e) = executed.failure {
            if self.sent.last {
                let value = String::from_utf8_lossy(&job.value);
                let value = value.escape_debug();
                log::error!("entry {id} is removed without all its events: {value}");
            }
            return Err(refused("a command of a chunk", &e).into());
        }
        if self.sent.last && !executed.acknowledged {
            log::warn!("did={did} id={id}: the message was not pending any more");
        }
        Ok(())
    }

    /// Forgets what is being written, and a connection whose replies nobody will read.
    fn abandon(&mut self) {
        if self.sent.queued > 0 {
            self.link.give_up();
        }
        (self.tried, self.in_flight) = (false, false);
        self.sent.clear();
        self.filling.clear();
    }
}

/// When the chunk that was sent was executed.
enum Settled {
    /// Just now.
    Now(Executed),
    /// Before its connection was lost.
    Earlier,
    /// It must not be, before those that came before it are there again.
    Never,
}

fn refused(what: &str, error: &RedisError) -> JobError {
    JobError::new(Reason::Redis, format_args!("Redis refused {what}: {error}"))
}

/// Takes the leaves of one repo, in order.
///
/// Dropped without [`Writer::finish`], it leaves the message pending and what was executed in the output.
pub struct Writer<'s> {
    sink: &'s mut Sink,
    events: Events,
    job: &'s Job,
}

impl Writer<'_> {
    /// Encodes a leaf's `create` event; sends the chunk before it when the event does not fit any more.
    ///
    /// `block` is the record's block, `None` where the leaf's CID leads to no block. Returns why the record was skipped.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn record(
        &mut self,
        leaf: &Leaf<'_, '_>,
        block: Option<&[u8]>,
    ) -> Result<Option<Skip>, Interrupted> {
        if let Err(skip) = self.encode(leaf, block) {
            return Ok(Some(skip));
        }
        let chunk = &self.sink.filling;
        let json = chunk.json + self.sink.event.len() + self.events.repo().len();
        if chunk.creates == MAX_CREATES || (chunk.creates > 0 && json > MAX_JSON) {
            self.seal(false)?;
        }
        let sink = &mut *self.sink;
        sink.filling
            .queue(&[b"XADD", &sink.output, b"*", b"event", &sink.event]);
        sink.filling.creates += 1;
        sink.filling.json += sink.event.len();
        Ok(None)
    }

    /// Sends the last chunk with the acknowledgement, and waits until Redis has executed it.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn finish(mut self) -> Result<(), Interrupted> {
        self.seal(true)?;
        self.sink.settle(self.job)
    }

    fn encode(&mut self, leaf: &Leaf<'_, '_>, block: Option<&[u8]>) -> Result<(), Skip> {
        let Sink { event, keys, .. } = &mut *self.sink;
        let (collection, rkey) = keys.parse(leaf.key)?;
        let block = block.ok_or(Skip::Cid)?;
        event.clear();
        event.shrink_to(KEEP);
        if !self
            .events
            .begin_create(collection, rkey, leaf.value, event)
        {
            return Err(Skip::Cid);
        }
        record::transcode(block, event)?;
        Events::end_create(event);
        Ok(())
    }

    /// Ends the chunk and sends it.
    fn seal(&mut self, last: bool) -> Result<(), Interrupted> {
        let sink = &mut *self.sink;
        let chunk = &mut sink.filling;
        chunk.queue(&[b"XADD", &sink.output, b"*", b"event", self.events.repo()]);
        if last {
            let id = self.job.id.as_bytes();
            chunk.queue(&[b"XACK", &sink.input, &sink.group, id]);
            chunk.queue(&[b"XDEL", &sink.input, id]);
            chunk.last = true;
        }
        chunk.seal(&sink.output);
        sink.send(self.job)
    }
}

impl Drop for Writer<'_> {
    /// Also where a panic unwinds through the job: the next one must not read the replies of this one.
    fn drop(&mut self) {
        self.sink.abandon();
    }
}
