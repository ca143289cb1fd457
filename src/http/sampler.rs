//! What Redis knows: the lengths of the streams, the pending list and the last dead letters, asked for once a second by one thread
//! with a connection of its own.
//!
//! Requests are answered by what it heard last, so a Redis that hangs keeps nobody waiting, and however many ask here, Redis is asked
//! once. The letters, which may be long, are read again only where their number has changed, or now and then. Pinned by
//! `tests/status_json.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use redis::RedisResult;
use redis::streams::{StreamId, StreamRangeReply};

use super::Watched;
use crate::connection::Link;
use crate::queue::fence::is_no_group;
use crate::queue::message::named_did;
use crate::status::{Phase, Slot};

/// How often Redis is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How old an answer may be and still be what is so: longer than it takes to find out that there is none.
pub const STALE: Duration = Duration::from_secs(15);
/// Dead letters that are shown.
const LETTERS: usize = 10;
/// How often they are read though there are as many as before: some may have come for others that went.
const LETTERS_AGAIN: Duration = Duration::from_secs(15);
/// Characters of a letter's text that are kept: all that this program writes.
const MOST_TEXT: usize = 500;

/// What was heard last.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When Redis answered last, if ever.
    answered: Option<Instant>,
    /// Why it has not answered since.
    pub error: Option<String>,
    last: Lengths,
    /// The last dead letters, newest first.
    pub letters: Arc<Vec<Letter>>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lengths {
    /// Entries in the input stream.
    pub queue: u64,
    /// Messages that are pending in the group; `None`: there is no group.
    pub pending: Option<u64>,
    /// Entries in the output stream.
    pub output: u64,
    /// Dead letters.
    pub letters: u64,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The id of its entry.
    pub id: String,
    /// The account, where its message says one.
    pub did: Option<String>,
    /// Why it is dead, as a code.
    pub reason: String,
    /// Why it is dead, in words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u64,
    /// When it was written.
    pub time: String,
}

impl Sample {
    /// Whether Redis has answered when it was asked last, and that is not long ago: whoever waits for its name to be resolved hears of
    /// no error.
    pub fn is_connected(&self, now: Instant) -> bool {
        self.error.is_none() && self.age(now).is_some_and(|age| age <= STALE)
    }

    /// How old the last answer is.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.answered.map(|at| now.saturating_duration_since(at))
    }

    /// What there is, where that is known now.
    pub fn lengths(&self, now: Instant) -> Option<&Lengths> {
        self.is_connected(now).then_some(&self.last)
    }
}

/// Asks Redis; lives on its own thread.
pub struct Sampler {
    watched: Arc<Watched>,
    link: Link,
    sample: Sample,
    /// When the letters were read last.
    read: Option<Instant>,
}

impl Sampler {
    /// Connects when it first asks.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(watched: &Arc<Watched>) -> RedisResult<Self> {
        let link = Link::new(&watched.config.redis, &watched.shutdown)?;
        Ok(Sampler {
            link: link.with_reply_timeout(REPLY_TIMEOUT),
            watched: Arc::clone(watched),
            sample: Sample::default(),
            read: None,
        })
    }

    /// Asks until it is told to end.
    pub fn run(mut self, end: &Receiver<Infallible>, slot: &Slot) {
        loop {
            slot.enter(Phase::Redis);
            match self.ask() {
                Ok(()) => {
                    self.sample.answered = Some(Instant::now());
                    self.sample.error = None;
                }
                Err(e) => self.sample.error = Some(cut(&e.to_string())),
            }
            self.watched.set_sample(self.sample.clone());
            slot.enter(Phase::Wait);
            if end.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn ask(&mut self) -> RedisResult<()> {
        let config = Arc::clone(&self.watched.config);
        let lengths = Lengths {
            queue: self.length(&config.backfill_stream)?,
            pending: self.pending(&config.backfill_stream, &config.group)?,
            output: self.length(&config.firehose_stream)?,
            letters: self.length(&config.dlq_stream)?,
        };
        let is_known = lengths.letters == self.sample.last.letters
            && self.read.is_some_and(|at| at.elapsed() < LETTERS_AGAIN);
        self.sample.last = lengths;
        if !is_known {
            // Also where it fails: letters can be long, and are not to be sent again every second for nothing.
            self.read = Some(Instant::now());
            match self.letters(&config.dlq_stream) {
                Ok(letters) => self.sample.letters = Arc::new(letters),
                Err(e) => {
                    log::debug!("~error":% = e; "the last dead letters could not be read: {e}");
                }
            }
        }
        Ok(())
    }

    /// The last dead letters, one at a time: each may be as long as a message can be.
    fn letters(&mut self, stream: &str) -> RedisResult<Vec<Letter>> {
        let mut letters = Vec::with_capacity(LETTERS);
        let mut before = "+".to_owned();
        while letters.len() < LETTERS {
            let mut read = redis::cmd("XREVRANGE");
            read.arg(stream).arg(before).arg("-").arg("COUNT").arg(1);
            let page: StreamRangeReply = self.link.query(&read)?;
            let Some(entry) = page.ids.into_iter().next() else {
                break;
            };
            before = format!("({}", entry.id);
            letters.push(letter(entry));
        }
        Ok(letters)
    }

    fn length(&mut self, stream: &str) -> RedisResult<u64> {
        self.link.query(redis::cmd("XLEN").arg(stream))
    }

    fn pending(&mut self, stream: &str, group: &str) -> RedisResult<Option<u64>> {
        type Summary = (u64, redis::Value, redis::Value, redis::Value);
        let summary: RedisResult<Summary> = self
            .link
            .query(redis::cmd("XPENDING").arg(stream).arg(group));
        match summary {
            Ok((pending, ..)) => Ok(Some(pending)),
            Err(e) if is_no_group(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn letter(entry: StreamId) -> Letter {
    let text = |name: &str| entry.map.get(name).map(bytes).unwrap_or_default();
    let line = |name| cut(&String::from_utf8_lossy(text(name)));
    Letter {
        did: named_did(text("repo")),
        reason: line("reason"),
        error: line("error"),
        attempts: line("attempts").parse().unwrap_or_default(),
        time: line("time"),
        id: entry.id.clone(),
    }
}

fn bytes(value: &redis::Value) -> &[u8] {
    match value {
        redis::Value::BulkString(bytes) => bytes,
        _ => &[],
    }
}

/// The beginning of a text.
fn cut(text: &str) -> String {
    text.chars().take(MOST_TEXT).collect()
}
