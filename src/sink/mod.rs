//! The output side: events in chunks, backpressure, progress, acknowledgement.
//!
//! - A chunk is at most [`MAX_CREATES`] `create` events and at most [`MAX_JSON`] bytes of JSON, ended by one `repo` event, and goes
//!   out as one MULTI … EXEC. It notes the leaves that are passed with it in the progress hash; the last one of a repo
//!   acknowledges and deletes the message instead, so a message leaves the input only together with its last events (I1,
//!   `tests/delivery.rs`).
//! - Each EXEC is fenced ([`fence`](crate::queue::fence)): the reply to the chunk before has been read, and named this owner behind
//!   a new WATCH. So one EXEC is in flight, never two, and none of somebody whose message was taken over is executed (I2). The
//!   next chunk is encoded while Redis executes the one before; no chunk costs a round trip more than it would without a fence.
//! - When a connection is lost, the message is acquired again, and writing goes on behind the leaves that Redis says are
//!   passed: behind the chunk in flight where it was executed, before it where it was not, and further back where a fail-over
//!   has lost what was acknowledged. So the blocks are kept until the last chunk is answered (`tests/cuts.rs`,
//!   `tests/redis_away.rs`).
//! - Before each chunk the output has [`room`] (`tests/backpressure.rs`). An output that Redis has no memory for is waited for in
//!   the same way.
//! - Each reply inside an EXEC is looked at; an error there (a key of another type) ends the process, for half a transaction
//!   cannot be taken back, and the message is written into the log.

mod chunk;
pub mod room;

use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use redis::{RedisError, RedisResult};

use self::chunk::{Answer, Chunk, KEEP};
use self::room::{Room, Said};
use crate::config::Config;
use crate::connection::{Link, Patience, Stop, not_connected, passes};
use crate::error::{JobError, Reason};
use crate::event::{Events, timestamp};
use crate::metrics::Metrics;
use crate::queue::Job;
use crate::queue::ending::{self, Original};
use crate::queue::fence::{Executed, Fence, Standing};
use crate::queue::pending::said_deleted;
use crate::queue::progress::{Progress, Written};
use crate::queue::retry::Verdict;
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
    /// The connection was lost: writing goes on where Redis says, which a new [`Sink::begin`] knows.
    Resume,
    /// The message belongs to somebody else, or to nobody any more.
    NotOurs(Standing),
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
    config: Arc<Config>,
    room: Room,
    metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    /// The right to write for the present job.
    fence: Option<Fence>,
    /// The chunk that is being filled.
    filling: Chunk,
    /// The chunk that is to be executed next.
    sent: Chunk,
    /// Whether it has been sent, be it in part.
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
        config: &Arc<Config>,
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
            config: Arc::clone(config),
            metrics,
            slot,
            fence: None,
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

    /// Begins an attempt: makes the message this worker's. `None`: shutdown came before that.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn acquire(&mut self, job: &Job) -> Result<Option<Standing>, JobError> {
        let fence = Fence::new(&self.config, &job.id, job.attempt, job.begun);
        let fence = self.fence.insert(fence);
        match self
            .link
            .insist(Patience::UntilShutdown, |link| fence.acquire(link))
        {
            Ok(standing) => {
                self.room.heard(fence.output_length());
                if standing == Standing::Deleted {
                    said_deleted(&self.metrics, &job.id);
                }
                Ok(Some(standing))
            }
            Err(Stop::Shutdown) => Ok(None),
            Err(Stop::Error(e)) => Err(refused("a message", &e)),
        }
    }

    /// What Redis knew of the message when it was acquired last.
    pub fn progress(&self, job: &Job) -> Option<&Progress> {
        let fence = self.fence.as_ref().filter(|fence| fence.is_for(&job.id));
        fence.map(Fence::progress)
    }

    /// Begins the events of a proven repo, or goes on with them.
    pub fn begin<'s>(&'s mut self, job: &'s Job, commit: &cid::Cid, rev: &str) -> Writer<'s> {
        let commit_text = commit.to_string();
        let written = self
            .progress(job)
            .and_then(|progress| progress.written(&commit_text))
            .unwrap_or_else(|| Written {
                leaves: 0,
                time: timestamp(SystemTime::now()),
            });
        Writer {
            events: Events::new(&job.message.did, commit, rev, &written.time),
            commit: commit_text,
            resumed: written.leaves,
            passed: written.leaves,
            time: written.time,
            sink: self,
            job,
        }
    }

    /// Writes down what becomes of the message of an attempt that failed.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn conclude(
        &mut self,
        job: &Job,
        verdict: &Verdict,
        error: &JobError,
        attempt: u64,
    ) -> Result<Executed, JobError> {
        // A panic may have come before the message was acquired.
        let fence = match &mut self.fence {
            Some(fence) if fence.is_for(&job.id) => fence,
            other => other.insert(Fence::new(&self.config, &job.id, attempt, job.begun)),
        };
        let original = Original {
            id: &job.id,
            value: Some(&job.value),
            entry: None,
        };
        let (link, config) = (&mut self.link, &self.config);
        ending::conclude(link, fence, config, original, verdict, error, attempt).map_err(|stop| {
            match stop {
                Stop::Error(e) => refused("what becomes of a message", &e),
                Stop::Shutdown => JobError::new(Reason::Redis, "stopped"),
            }
        })
    }

    /// Sends the filled chunk, after the one before has been answered and there is room.
    fn send(&mut self, job: &Job) -> Result<(), Interrupted> {
        self.settle(job)?;
        self.wait_for_room(Patience::UntilDone)?;
        mem::swap(&mut self.filling, &mut self.sent);
        self.filling.clear();
        let Sink { link, sent, .. } = self;
        // Where this does not succeed, settle() looks into it.
        if let Some(fence) = &mut self.fence {
            self.tried = fence.is_armed(link);
            self.in_flight = fence.send(link, &sent.commands).is_ok();
        }
        Ok(())
    }

    /// Waits until Redis has answered the chunk that was sent, if there is one.
    fn settle(&mut self, job: &Job) -> Result<(), Interrupted> {
        if self.sent.queued == 0 {
            return Ok(());
        }
        let answer = if mem::take(&mut self.in_flight) {
            self.sent.read_replies(&mut self.link)
        } else {
            Err(not_connected())
        };
        match answer {
            Ok(Answer::Executed {
                acknowledged,
                failure,
                hash,
                length,
            }) => {
                self.room.heard(length);
                self.check(job, acknowledged, failure)?;
                self.count();
                let fence = self.fence.as_mut();
                if !self.sent.last
                    && !fence
                        .map_or(Ok(false), |fence| fence.rearm(hash))
                        .map_err(|e| refused("to say what is written", &e))?
                {
                    return Err(Interrupted::NotOurs(Standing::Taken));
                }
                self.sent.clear();
                Ok(())
            }
            Ok(Answer::Refused { length }) => {
                self.room.heard(length);
                self.sent.clear();
                Err(Interrupted::NotOurs(Standing::Taken))
            }
            Err(e) if passes(&e) => self.recover(job, e),
            Err(e) => Err(refused("a chunk", &e).into()),
        }
    }

    /// Acquires the message again after a chunk was not answered, or not even sent.
    fn recover(&mut self, job: &Job, error: RedisError) -> Result<(), Interrupted> {
        let Some(fence) = &mut self.fence else {
            return Err(refused("a chunk", &error).into());
        };
        // What was never sent is no news of Redis: whoever lost the connection before has said it.
        let mut error = self.tried.then_some(error);
        let standing = self
            .link
            .insist(Patience::UntilDone, |link| match error.take() {
                Some(error) => Err(error),
                None => fence.acquire(link),
            });
        let standing = match standing {
            Ok(standing) => standing,
            Err(Stop::Error(e)) => return Err(refused("a message", &e).into()),
            Err(Stop::Shutdown) => return Err(JobError::new(Reason::Redis, "stopped").into()),
        };
        self.room.heard(fence.output_length());
        let last = self.tried && self.sent.last;
        match standing {
            // Its EXEC was executed, or another owner's.
            Standing::Gone if last => {
                let (did, id) = (&job.message.did, &job.id);
                log::info!(
                    "did={did} id={id}: the answer to the last chunk was lost, and the message is not pending any more"
                );
                self.count();
                self.sent.clear();
                Ok(())
            }
            Standing::Mine => Err(Interrupted::Resume),
            standing => Err(Interrupted::NotOurs(standing)),
        }
    }

    /// Looks at the replies to what was executed.
    fn check(
        &self,
        job: &Job,
        acknowledged: bool,
        failure: Option<RedisError>,
    ) -> Result<(), JobError> {
        if let Some(e) = failure {
            if self.sent.last {
                let (id, value) = (&job.id, String::from_utf8_lossy(&job.value));
                let value = value.escape_debug();
                log::error!("entry {id} is removed without all its events: {value}");
            }
            return Err(refused("a command of a chunk", &e));
        }
        if self.sent.last && !acknowledged {
            said_deleted(&self.metrics, &job.id);
        }
        Ok(())
    }

    fn count(&self) {
        self.metrics.records.add(self.sent.creates as u64);
        self.slot.add_records(self.sent.creates as u64);
    }

    /// Forgets what is being written, and a connection whose replies nobody will read.
    fn abandon(&mut self) {
        if self.in_flight {
            self.link.give_up();
        }
        (self.tried, self.in_flight) = (false, false);
        self.sent.clear();
        self.filling.clear();
    }
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
    commit: String,
    time: String,
    /// Leaves that were written before.
    resumed: u64,
    /// Leaves up to the last one taken, those before included.
    passed: u64,
}

impl Writer<'_> {
    /// How many leaves, from the first, are written already: they are to be left out.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

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
            self.passed += 1;
            return Ok(Some(skip));
        }
        let chunk = &self.sink.filling;
        let json = chunk.json + self.sink.event.len() + self.events.repo().len();
        if chunk.creates == MAX_CREATES || (chunk.creates > 0 && json > MAX_JSON) {
            self.seal(false)?;
        }
        self.passed += 1;
        let sink = &mut *self.sink;
        let output = sink.config.firehose_stream.as_bytes();
        sink.filling
            .queue(&[b"XADD", output, b"*", b"event", &sink.event]);
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
        let key = sink.fence.as_ref().map_or(b"".as_slice(), Fence::key);
        let output = sink.config.firehose_stream.as_bytes();
        let chunk = &mut sink.filling;
        chunk.queue(&[b"XADD", output, b"*", b"event", self.events.repo()]);
        if last {
            let input = sink.config.backfill_stream.as_bytes();
            let (group, id) = (sink.config.group.as_bytes(), self.job.id.as_bytes());
            chunk.queue(&[b"XACK", input, group, id]);
            chunk.queue(&[b"XDEL", input, id]);
            chunk.queue(&[b"DEL", key]);
            chunk.last = true;
        } else {
            let written = Written::to_field(self.passed, &self.time);
            chunk.queue(&[b"HSET", key, self.commit.as_bytes(), written.as_bytes()]);
            chunk.queue(&[b"PERSIST", key]);
        }
        chunk.seal(key, output);
        sink.send(self.job)
    }
}

impl Drop for Writer<'_> {
    /// Also where a panic unwinds through the job: the next one must not read the replies of this one.
    fn drop(&mut self) {
        self.sink.abandon();
    }
}
