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
//!   passed: behind the chunk in flight where it was executed, with it where it was not, and further back where a fail-over
//!   has lost what was acknowledged. So the blocks are kept until the last chunk is answered (`tests/cuts.rs`,
//!   `tests/redis_away.rs`).
//! - Before each chunk the output has [`room`] (`tests/backpressure.rs`). A chunk that Redis refuses for now, for want of memory
//!   for example, is waited for in the same way, and sent again as it is.
//! - Events are encoded where they are sent from, and what the chunks take counts in the memory of all jobs
//!   ([`Budget`]).
//! - Each reply inside an EXEC is looked at; an error there (a key of another type) ends the process, for half a transaction
//!   cannot be taken back, and the message is written into the log.

pub mod batch;
pub mod chunk;
pub mod encoder;
pub mod room;
mod writer;

use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use redis::{RedisError, RedisResult};

use self::chunk::{Answer, Chunk};
use self::encoder::Encoder;
use self::room::{Room, Said};
pub use self::writer::Writer;
use crate::config::Config;
use crate::connection::{Link, Patience, Stop, not_connected, passes, stays};
use crate::error::{JobError, Reason};
use crate::event::{Events, timestamp};
use crate::fault::{self, Stage};
use crate::memory::{Budget, Share};
use crate::metrics::Metrics;
use crate::queue::ending::{self, Ending, Original};
use crate::queue::fence::{Executed, Fence, Standing};
use crate::queue::progress::{Progress, Written};
use crate::queue::retry::Verdict;
use crate::queue::{Job, said_deleted};
use crate::repo::mst::Leaf;
use crate::repo::record::Skip;
use crate::resp::{self, Pipeline};
use crate::shutdown::Shutdown;
use crate::status::Slot;

/// `create` events of one chunk.
pub const MAX_CREATES: usize = 500;
/// Bytes of JSON of one chunk, its `repo` event included; a larger record is a chunk of its own.
pub const MAX_JSON: usize = 4 << 20;

/// Takes the leaves of one proven repo, in order, each with [`wants`](EventWriter::wants) and, where it says so,
/// [`record`](EventWriter::record). Dropped without [`finish`](EventWriter::finish), it leaves what was written before as it is.
pub trait EventWriter {
    /// Why not all is written.
    type Error: From<JobError>;

    /// How many leaves, from the first, are written already: they are to be left out.
    fn resumed(&self) -> u64;

    /// Whether a leaf's record is wanted; else the leaf is passed, and its record need not be read.
    ///
    /// A key that is none belongs to no collection: [`record`](EventWriter::record) says that it is skipped.
    fn wants(&mut self, leaf: &Leaf<'_>) -> bool;

    /// Takes a leaf whose record is `block`, or `None` where the leaf's CID leads to no block. Returns why the record was skipped.
    ///
    /// # Errors
    /// Why the chunk that it has filled is not written.
    fn record(
        &mut self,
        leaf: &Leaf<'_>,
        block: Option<&[u8]>,
    ) -> Result<Option<Skip>, Self::Error>;

    /// Writes the last chunk, and returns when all is written.
    ///
    /// # Errors
    /// Why it is not.
    fn finish(self) -> Result<(), Self::Error>;
}

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
    /// The commit that is being written.
    commit: String,
    /// The `time` of its events.
    time: String,
    /// The chunk that is being filled.
    filling: Chunk,
    /// The chunk that is to be executed next.
    sent: Chunk,
    /// Whether it has been sent, be it in part.
    tried: bool,
    /// Whether its replies are to be read.
    in_flight: bool,
    encoder: Encoder,
    /// What the chunks take.
    share: Share,
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
        memory: &Arc<Budget>,
        metrics: Arc<Metrics>,
        slot: Arc<Slot>,
    ) -> RedisResult<Self> {
        Ok(Sink {
            link: Link::new(&config.redis, shutdown)?.shown_in(&slot),
            room: Room::new(
                &config.firehose_stream,
                config.high_water_mark,
                shutdown,
                said,
                (Arc::clone(&metrics), Arc::clone(&slot)),
            ),
            config: Arc::clone(config),
            metrics,
            slot,
            fence: None,
            commit: String::new(),
            time: String::new(),
            filling: Chunk::default(),
            sent: Chunk::default(),
            tried: false,
            in_flight: false,
            encoder: Encoder::new(append(&config.firehose_stream)),
            share: Share::new(memory),
        })
    }

    /// Waits until the output is below the mark. Returns `false` when shutdown came first and patience ends with it.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn wait_for_room(&mut self, patience: Patience) -> Result<bool, JobError> {
        self.room.wait(&mut self.link, patience)
    }

    /// Begins an attempt: makes the message this worker's, and charges it; where others have made attempts since it was read, its
    /// number becomes another. `None`: shutdown came before that.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn acquire(&mut self, job: &mut Job) -> Result<Option<Standing>, JobError> {
        job.hold.begin(job.attempt);
        let fence = self
            .fence
            .insert(Fence::new(&self.config, &job.id, job.attempt));
        match self
            .link
            .insist(Patience::UntilShutdown, |link| fence.acquire(link))
        {
            Ok(standing) => {
                self.room.heard(fence.output_length());
                job.attempt = fence.attempt();
                job.hold.begin(job.attempt);
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
        self.commit = commit.to_string();
        let written = self
            .progress(job)
            .and_then(|progress| progress.written(&self.commit))
            .unwrap_or_else(|| Written {
                leaves: 0,
                time: timestamp(SystemTime::now()),
            });
        self.time = written.time;
        Writer {
            events: Events::new(&job.message.did, commit, rev, &self.time),
            resumed: written.leaves,
            passed: written.leaves,
            sealed: written.leaves,
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
            other => other.insert(Fence::new(&self.config, &job.id, attempt)),
        };
        let ending = Ending {
            original: Original {
                id: &job.id,
                value: Some(&job.value),
                entry: None,
            },
            verdict,
            error,
        };
        let patience = Patience::UntilDone;
        ending::conclude(&mut self.link, fence, &self.config, patience, ending)
            .map_err(|stop| stopped("what becomes of a message", &stop))
    }

    /// Gives up a connection that a panic may have left with replies that nobody has read.
    pub fn reset(&mut self) {
        self.link.give_up();
    }

    /// Sends the filled chunk, after the one before has been answered and there is room.
    fn send(&mut self, job: &Job) -> Result<(), Interrupted> {
        self.settle(job)?;
        self.wait_for_room(Patience::UntilDone)?;
        mem::swap(&mut self.filling, &mut self.sent);
        self.filling.clear();
        self.send_again();
        fault::panic_if_asked(Stage::Write, &job.message.did);
        Ok(())
    }

    /// Sends the chunk as it is. Where this does not succeed, settle() looks into it.
    fn send_again(&mut self) {
        let Sink { link, sent, .. } = self;
        if let Some(fence) = &mut self.fence {
            self.tried = fence.is_armed(link);
            self.in_flight = fence.send(link, sent.commands()).is_ok();
        }
    }

    /// Waits until the chunk that was sent, if there is one, is executed; sends it again where it was not.
    fn settle(&mut self, job: &Job) -> Result<(), Interrupted> {
        while self.sent.queued() > 0 {
            let answer = if mem::take(&mut self.in_flight) {
                self.sent.read_replies(&mut self.link)
            } else {
                Err(not_connected())
            };
            match answer {
                Ok(answer) => self.answered(job, answer)?,
                Err(e) if passes(&e) => self.recover(job, e)?,
                Err(e) => return Err(refused("a chunk", &e).into()),
            }
        }
        Ok(())
    }

    /// Redis has executed the chunk, or refused it because of another owner.
    fn answered(&mut self, job: &Job, answer: Answer) -> Result<(), Interrupted> {
        match answer {
            Answer::Executed {
                added,
                deleted,
                failure,
                owner,
                length,
            } => {
                self.room.heard(length);
                self.room.executed();
                if let Some(e) = failure {
                    return Err(self.failed(job, added, &e).into());
                }
                if !deleted {
                    said_deleted(&self.metrics, &job.id);
                }
                let (last, passed) = (self.sent.last, self.sent.to);
                self.count();
                if last {
                    return Ok(());
                }
                match self.fence.as_mut().map(|fence| fence.rearm(owner)) {
                    Some(Ok(true)) => Ok(()),
                    // Where nobody else has acquired it, the next chunk will be sent again.
                    Some(Ok(false)) => self.regain(job, passed),
                    Some(Err(e)) => Err(refused("to say whose a message is", &e).into()),
                    None => Err(Interrupted::NotOurs(Standing::Taken)),
                }
            }
            Answer::Refused { length } => {
                self.room.heard(length);
                self.regain(job, self.sent.from)?;
                self.send_again();
                Ok(())
            }
        }
    }

    /// Acquires the message again after the fence has refused it, unless somebody else has acquired it; so many leaves must
    /// be written then.
    fn regain(&mut self, job: &Job, passed: u64) -> Result<(), Interrupted> {
        let standing = self.reacquire(job, None)?;
        match standing {
            Standing::Mine if self.is_written(passed) => Ok(()),
            Standing::Mine => Err(Interrupted::Resume),
            standing => Err(Interrupted::NotOurs(standing)),
        }
    }

    /// Acquires the message again after a chunk was not answered, not executed, or not even sent.
    fn recover(&mut self, job: &Job, error: RedisError) -> Result<(), Interrupted> {
        // What was never sent is no news of Redis: whoever lost the connection before has said it.
        let news = self.tried.then_some(error);
        let executed_or_not = news.as_ref().is_some_and(|e| !stays(e));
        let standing = self.reacquire(job, news)?;
        match standing {
            // Its EXEC was executed, or another owner's.
            Standing::Gone if executed_or_not && self.sent.last => {
                let (did, id) = (&job.message.did, &job.id);
                let why = "the answer to the last chunk was lost, and the message is not pending any more";
                log::info!(did = did, id = id, why = why; "");
                self.count();
                Ok(())
            }
            Standing::Mine if self.is_written(self.sent.from) => {
                self.send_again();
                Ok(())
            }
            // It was executed, and only the answer was lost.
            Standing::Mine if !self.sent.last && self.is_written(self.sent.to) => {
                self.count();
                Ok(())
            }
            Standing::Mine => Err(Interrupted::Resume),
            standing => Err(Interrupted::NotOurs(standing)),
        }
    }

    /// Acquires the message again, unless somebody else has done so: whoever works on it must not lose it to one that was away.
    fn reacquire(&mut self, job: &Job, news: Option<RedisError>) -> Result<Standing, Interrupted> {
        let Some(fence) = &mut self.fence else {
            return Ok(Standing::Taken);
        };
        let mut news = match news {
            Some(e) if stays(&e) => {
                self.room.refused(&e);
                None
            }
            news => news,
        };
        let standing = self
            .link
            .insist(Patience::UntilDone, |link| match news.take() {
                Some(error) => Err(error),
                None => fence.acquire_unless_taken(link),
            })
            .map_err(|stop| stopped("a message", &stop))?;
        self.room.heard(fence.output_length());
        if standing == Standing::Mine {
            job.hold.begin(job.attempt);
        }
        Ok(standing)
    }

    /// Whether Redis says that so many leaves are written, neither fewer nor more.
    fn is_written(&self, passed: u64) -> bool {
        let progress = self.fence.as_ref().map(Fence::progress);
        let written = progress.and_then(|progress| progress.written(&self.commit));
        written.map_or(0, |written| written.leaves) == passed
    }

    /// A command of a chunk has failed, and the others have been executed all the same.
    fn failed(&mut self, job: &Job, added: usize, error: &RedisError) -> JobError {
        let (id, value) = (&job.id, String::from_utf8_lossy(&job.value));
        let value = value.escape_debug();
        if self.sent.last {
            log::error!("~id" = id; "entry {id} is removed without all its events: {value}");
            job.hold.settle();
        } else if added > 0 || self.take_back().is_err() {
            log::error!("~id" = id; "entry {id} goes on behind events that are not written: {value}");
        } else {
            log::error!("~id" = id; "entry {id} stays, with what was written before: {value}");
        }
        refused("a command of a chunk", error)
    }

    /// Says of the chunk, of which no event was added, that it is not written.
    fn take_back(&mut self) -> Result<(), Stop> {
        let Some(fence) = &mut self.fence else {
            return Ok(());
        };
        let (key, commit) = (fence.progress_key(), self.commit.as_bytes());
        let mut commands = Pipeline::default();
        if self.sent.from == 0 {
            commands.add(&[b"HDEL", key, commit]);
        } else {
            let written = Written::to_field(self.sent.from, &self.time);
            commands.add(&[b"HSET", key, commit, written.as_bytes()]);
        }
        fence
            .transact(&mut self.link, Patience::UntilShutdown, &commands)
            .map(drop)
    }

    /// The chunk is executed.
    fn count(&mut self) {
        let creates = self.sent.events.creates as u64;
        self.metrics.records.add(creates);
        // Each chunk is ended by a `repo` event.
        self.metrics.events.add(creates + 1);
        self.metrics.chunks.add(1);
        self.slot.add_records(creates);
        self.sent.clear();
    }

    /// Forgets what is being written, and a connection whose replies nobody will read.
    fn abandon(&mut self) {
        if self.in_flight {
            self.link.give_up();
        }
        (self.tried, self.in_flight) = (false, false);
        let keeps = !self.share.budget().is_overdrawn();
        for chunk in [&mut self.sent, &mut self.filling] {
            chunk.clear();
            chunk.events.shrink(keeps);
        }
        self.count_memory();
    }

    /// Tells the budget what the chunks take.
    fn count_memory(&mut self) {
        let buffers = [&self.filling.events.bytes, &self.sent.events.bytes];
        let bytes: usize = buffers.map(Vec::capacity).iter().sum();
        self.share.set(bytes as u64);
    }
}

/// The command that appends an event to the output, up to the event.
fn append(output: &str) -> Vec<u8> {
    let mut command = Vec::new();
    resp::command(
        &mut command,
        &[b"XADD", output.as_bytes(), b"*", b"event", b""],
    );
    // The empty event is cut off again.
    command.truncate(command.len() - b"$0\r\n\r\n".len());
    command
}

fn stopped(what: &str, stop: &Stop) -> JobError {
    match stop {
        Stop::Error(e) => refused(what, e),
        Stop::Shutdown => JobError::new(Reason::Redis, format_args!("shutdown came before {what}")),
    }
}

fn refused(what: &str, error: &RedisError) -> JobError {
    JobError::new(Reason::Redis, format_args!("Redis refused {what}: {error}"))
}
