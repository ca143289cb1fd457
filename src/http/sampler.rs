//! What Redis knows: the lengths of the streams, the pending list and the last dead letters, asked for once a second by one thread
//! with a connection of its own.
//!
//! Requests are answered by what it heard last, so a Redis that hangs keeps nobody waiting, and however many ask here, Redis is asked
//! once. The letters can be as long as messages are, and they are no part of the memory budget: so each is read once, one at a time,
//! and after all else has been said; all of them are read again only where some of them have gone. Pinned by
//! `tests/status_json.rs` and `tests/status_letters.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
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
/// When it is tried again to read them after that failed: long ones are not to be sent every second for nothing.
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
    /// Dropped by whoever wants it to end.
    end: Receiver<Infallible>,
    /// When the lengths were asked for last.
    asked: Instant,
    /// How many letters there were when they were read last.
    read: u64,
    /// Until when they are not read, for they could not be.
    unreadable: Option<Instant>,
}

impl Sampler {
    /// Connects when it first asks.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(watched: &Arc<Watched>, end: Receiver<Infallible>) -> RedisResult<Self> {
        let link = Link::new(&watched.config.redis, &watched.shutdown)?;
        Ok(Sampler {
            link: link.with_reply_timeout(REPLY_TIMEOUT),
            watched: Arc::clone(watched),
            sample: Sample::default(),
            end,
            asked: Instant::now(),
            read: 0,
            unreadable: None,
        })
    }

    /// Asks until it is told to end.
    pub fn run(mut self, slot: &Slot) {
        loop {
            slot.enter(Phase::Redis);
            if self.ask() {
                self.look_for_letters();
            }
            slot.enter(Phase::Wait);
            if self.end.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Asks how much there is and lets others know. Returns whether there was an answer.
    fn ask(&mut self) -> bool {
        self.asked = Instant::now();
        let lengths = self.lengths();
        let is_answered = lengths.is_ok();
        match lengths {
            Ok(lengths) => {
                self.sample.last = lengths;
                self.sample.answered = Some(Instant::now());
                self.sample.error = None;
            }
            Err(e) => self.sample.error = Some(cut(&e.to_string())),
        }
        self.watched.set_sample(self.sample.clone());
        is_answered
    }

    fn lengths(&mut self) -> RedisResult<Lengths> {
        let config = Arc::clone(&self.watched.config);
        Ok(Lengths {
            queue: self.length(&config.backfill_stream)?,
            pending: self.pending(&config.backfill_stream, &config.group)?,
            output: self.length(&config.firehose_stream)?,
            letters: self.length(&config.dlq_stream)?,
        })
    }

    /// Reads the letters that are not known yet, and lets others know.
    fn look_for_letters(&mut self) {
        if self.unreadable.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.unreadable = match self.read_letters() {
            Ok(()) => None,
            Err(e) => {
                log::debug!("~error":% = e; "the last dead letters could not be read: {e}");
                Some(Instant::now() + LETTERS_AGAIN)
            }
        };
    }

    fn read_letters(&mut self) -> RedisResult<()> {
        let (there, known) = (self.sample.last.letters, Arc::clone(&self.sample.letters));
        let newest = known.first().map(|letter| letter.id.as_str());
        let mut letters = self.letters_behind(newest)?;
        if newest.is_some() && letters.len() < LETTERS {
            // Ids only grow: where there are as many more as have come, none of those that are known has gone.
            if self.read + letters.len() as u64 == there {
                letters.extend_from_slice(&known);
                letters.truncate(LETTERS);
            } else {
                letters = self.letters_behind(None)?;
            }
        }
        self.read = there;
        if letters != *known {
            self.sample.letters = Arc::new(letters);
            self.watched.set_sample(self.sample.clone());
        }
        Ok(())
    }

    /// The last dead letters, newest first, down to this one or as many as are shown; one at a time, for each may be as long as a
    /// message can be.
    fn letters_behind(&mut self, known: Option<&str>) -> RedisResult<Vec<Letter>> {
        let config = Arc::clone(&self.watched.config);
        let mut letters = Vec::with_capacity(LETTERS);
        let least = known.map_or("-".to_owned(), |id| format!("({id}"));
        let mut most = "+".to_owned();
        while letters.len() < LETTERS && self.end.try_recv() != Err(TryRecvError::Disconnected) {
            // What is said of Redis must not become old while long letters come.
            if self.asked.elapsed() >= EVERY {
                self.ask();
            }
            let mut read = redis::cmd("XREVRANGE");
            read.arg(&config.dlq_stream).arg(most).arg(&least);
            let page: StreamRangeReply = self.link.query(read.arg("COUNT").arg(1))?;
            let Some(entry) = page.ids.into_iter().next() else {
                break;
            };
            most = format!("({}", entry.id);
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
