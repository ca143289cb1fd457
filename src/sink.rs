//! The output side: events in chunks, backpressure, acknowledgement.
//!
//! - A chunk is at most [`MAX_CREATES`] `create` events and at most [`MAX_JSON`] bytes of JSON, ended by one `repo` event, and goes
//!   out as one MULTI … EXEC. The last one of a repo also acknowledges and deletes the message, so a message leaves the input
//!   only together with its last events (I1, `tests/delivery.rs`).
//! - Before each chunk the length of the output is below the high-water mark: a worker that finds it above sleeps and polls. The
//!   length comes with the reply to the chunk before, so it costs no round trip (`tests/backpressure.rs`).
//! - One EXEC is in flight, never two; the next chunk is encoded while Redis executes it.
//! - A chunk is kept until Redis has answered. When the connection is lost before that, the chunk is sent again: its events may then
//!   be there twice, but none is missing. For the last chunk it is first asked whether the message is still pending.
//! - Each reply inside an EXEC is looked at; an error there (a key of another type) ends the process, for half a transaction
//!   cannot be taken back.

use std::mem;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use redis::{RedisError, RedisResult, Value};

use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::{JobError, Reason};
use crate::event::Events;
use crate::queue::{self, Job};
use crate::repo::mst::Leaf;
use crate::repo::record::{self, KeyParser, Skip};
use crate::resp;
use crate::shutdown::Shutdown;

/// `create` events of one chunk.
pub const MAX_CREATES: usize = 500;
/// Bytes of JSON of one chunk, its `repo` event included; a larger record is a chunk of its own.
pub const MAX_JSON: usize = 4 << 20;
/// How often the length of a full output is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How old a length may be to be relied on.
const FRESH: Duration = Duration::from_secs(1);
/// Buffers up to this size are kept for the next chunk.
const KEEP: usize = 2 * MAX_JSON;

/// One worker's way to Redis.
pub struct Sink {
    link: Link,
    shutdown: Shutdown,
    input: Vec<u8>,
    group: Vec<u8>,
    output: Vec<u8>,
    high_water_mark: u64,
    /// The length of the output as last heard, and when.
    length: Option<(u64, Instant)>,
    /// The chunk that is being filled.
    filling: Chunk,
    /// The chunk whose replies have not been read; its buffer is empty when there is none.
    sent: Chunk,
    /// The event that is being encoded.
    event: Vec<u8>,
    keys: KeyParser,
}

/// A transaction in Redis's protocol.
#[derive(Default)]
struct Chunk {
    commands: Vec<u8>,
    /// Commands between MULTI and EXEC.
    queued: usize,
    creates: usize,
    json: usize,
    /// The id of the message that this chunk acknowledges.
    acknowledges: Option<String>,
}

impl Chunk {
    fn clear(&mut self) {
        self.commands.clear();
        self.commands.shrink_to(KEEP);
        (self.queued, self.creates, self.json) = (0, 0, 0);
        self.acknowledges = None;
    }

    fn queue(&mut self, parts: &[&[u8]]) {
        if self.queued == 0 {
            resp::command(&mut self.commands, &[b"MULTI"]);
        }
        resp::command(&mut self.commands, parts);
        self.queued += 1;
    }
}

impl Sink {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(config: &Config, shutdown: &Shutdown) -> RedisResult<Self> {
        Ok(Sink {
            link: Link::new(&config.redis, shutdown)?,
            shutdown: shutdown.clone(),
            input: config.backfill_stream.clone().into_bytes(),
            group: config.group.clone().into_bytes(),
            output: config.firehose_stream.clone().into_bytes(),
            high_water_mark: config.high_water_mark,
            length: None,
            filling: Chunk::default(),
            sent: Chunk::default(),
            event: Vec::new(),
            keys: KeyParser::default(),
        })
    }

    /// Waits until the output is below the mark. Returns `false` when shutdown came first and patience ends with it.
    ///
    /// # Errors
    /// [`Reason::Redis`].
    pub fn wait_for_room(&mut self, patience: Patience) -> Result<bool, JobError> {
        if let Some((length, at)) = self.length
            && at.elapsed() < FRESH
            && length < self.high_water_mark
        {
            return Ok(true);
        }
        let began = Instant::now();
        let mut said = false;
        loop {
            let asked = redis::cmd("XLEN").arg(&self.output).to_owned();
            let length: u64 = match self.link.insist(patience, |link| link.query(&asked)) {
                Ok(length) => length,
                Err(Stop::Shutdown) => return Ok(false),
                Err(Stop::Error(e)) => return Err(fatal("XLEN", &e)),
            };
            self.length = Some((length, Instant::now()));
            if length < self.high_water_mark {
                if said {
                    log::info!(
                        "output has room again after {:.1} s",
                        began.elapsed().as_secs_f64()
                    );
                }
                return Ok(true);
            }
            if !said {
                log::info!(
                    "output has {length} entries, the mark is {}: waiting",
                    self.high_water_mark
                );
                said = true;
            }
            match patience {
                Patience::UntilShutdown => {
                    if self.shutdown.sleep(POLL) {
                        return Ok(false);
                    }
                }
                Patience::UntilDone => thread::sleep(POLL),
            }
        }
    }

    /// Begins the events of a proven repo.
    pub fn begin<'s>(&'s mut self, job: &'s Job, commit: &cid::Cid, rev: &str) -> Writer<'s> {
        self.filling.clear();
        if self.sent.queued > 0 {
            // The job before was left in the midst, and nobody has read the replies to its chunk.
            self.link.give_up();
            self.sent.clear();
        }
        Writer {
            events: Events::new(&job.message.did, commit, rev, SystemTime::now()),
            sink: self,
            job,
        }
    }

    /// Sends the filled chunk, after the one before has been answered and there is room.
    fn send(&mut self) -> Result<(), JobError> {
        self.settle()?;
        self.wait_for_room(Patience::UntilDone)?;
        mem::swap(&mut self.filling, &mut self.sent);
        self.filling.clear();
        // If this fails, settle() finds no connection and sends it again.
        if let Err(e) = self.link.send(&self.sent.commands) {
            log::debug!("sending a chunk: {e}");
        }
        Ok(())
    }

    /// Reads the replies to the chunk in flight; sends it again where they do not come.
    fn settle(&mut self) -> Result<(), JobError> {
        if self.sent.queued == 0 {
            return Ok(());
        }
        let Sink {
            link,
            sent,
            input,
            group,
            ..
        } = self;
        let mut on_the_way = true;
        let length = link.insist(Patience::UntilDone, |link| {
            if !mem::take(&mut on_the_way) {
                if let Some(id) = &sent.acknowledges
                    && !queue::is_pending(link, input, group, id)?
                {
                    return Ok(None);
                }
                link.send(&sent.commands)?;
            }
            read_replies(link, sent)
        });
        let length = match length {
            Ok(length) => length,
            Err(Stop::Error(e)) => return Err(fatal("a chunk", &e)),
            Err(Stop::Shutdown) => {
                return Err(JobError::new(Reason::Redis, "stopped while writing"));
            }
        };
        self.length = length.map(|length| (length, Instant::now()));
        self.sent.clear();
        Ok(())
    }
}

/// Reads MULTI's, each QUEUED, EXEC's and (unless it was the last chunk) XLEN's reply. Returns the length of the output.
fn read_replies(link: &mut Link, chunk: &Chunk) -> RedisResult<Option<u64>> {
    // An error while queuing makes EXEC refuse all; it says more than EXEC's own.
    let mut refused: Option<RedisError> = None;
    for _ in 0..=chunk.queued {
        if let Err(e) = link.receive()?.extract_error() {
            refused.get_or_insert(e);
        }
    }
    let replies = link.receive()?;
    let length = if chunk.acknowledges.is_none() {
        Some(link.receive()?)
    } else {
        None
    };
    if let Some(refused) = refused {
        return Err(refused);
    }
    let Value::Array(replies) = replies.extract_error()? else {
        return Err((
            redis::ErrorKind::UnexpectedReturnType,
            "EXEC was not answered with an array",
        )
            .into());
    };
    if replies.len() != chunk.queued {
        return Err((
            redis::ErrorKind::UnexpectedReturnType,
            "EXEC was answered with another number of replies",
        )
            .into());
    }
    if let Some(id) = &chunk.acknowledges
        && replies[chunk.queued - 2] == Value::Int(0)
    {
        log::warn!(
            "entry {id} had been acknowledged by somebody else; its events may be there twice"
        );
    }
    length
        .map(|length| redis::from_redis_value(length.extract_error()?).map_err(RedisError::from))
        .transpose()
}

fn fatal(what: &str, error: &RedisError) -> JobError {
    JobError::new(Reason::Redis, format_args!("Redis refused {what}: {error}"))
}

/// Takes the leaves of one repo, in order.
///
/// Dropped without [`Writer::finish`], it leaves the message pending and what was sent in the output.
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
    /// [`Reason::Redis`].
    pub fn record(
        &mut self,
        leaf: &Leaf<'_, '_>,
        block: Option<&[u8]>,
    ) -> Result<Option<Skip>, JobError> {
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
    /// [`Reason::Redis`].
    pub fn finish(mut self) -> Result<(), JobError> {
        self.seal(true)?;
        self.sink.settle()
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
    fn seal(&mut self, last: bool) -> Result<(), JobError> {
        let sink = &mut *self.sink;
        let chunk = &mut sink.filling;
        chunk.queue(&[b"XADD", &sink.output, b"*", b"event", self.events.repo()]);
        let id = self.job.id.as_bytes();
        if last {
            chunk.queue(&[b"XACK", &sink.input, &sink.group, id]);
            chunk.queue(&[b"XDEL", &sink.input, id]);
            chunk.acknowledges = Some(self.job.id.clone());
        }
        resp::command(&mut chunk.commands, &[b"EXEC"]);
        if !last {
            resp::command(&mut chunk.commands, &[b"XLEN", &sink.output]);
        }
        sink.send()
    }
}
