//! The pending list as retry queue: which messages are due, and taking them.
//!
//! XPENDING lists and XCLAIM … JUSTID takes: neither charges a delivery, as XREADGROUP from an id and plain XCLAIM would. The list
//! is looked through in pages with an exclusive cursor, without XPENDING's IDLE, which walks the whole list in one blocking call.
//! A message is due when no live process can hold it and its backoff is over (see [`retry`](super::retry)). Several instances may
//! find the same one due: XCLAIM's minimal idle time lets the first have it.
//!
//! This consumer's own pending messages that it does not hold are held by nobody, for its name is its alone. At a start they come
//! first, and of those that were begun at most once none waits. After a lost connection they are looked through again: a delivery
//! whose reply was lost on the way is found by its having no progress hash, and is due at once.
//!
//! Pinned by `tests/group.rs`, `tests/retries.rs` and `tests/leases.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, from_redis_value};

use super::held::{Held, Hold};
use super::message::FIELD;
use super::{Entries, Fields, progress, retry};
use crate::config::Config;
use crate::connection::Link;
use crate::metrics::Metrics;
use crate::resp::Pipeline;

/// Messages listed at a time; longer replies would hold Redis up for all.
const PAGE: usize = 1000;
/// How often a page is looked at, at most.
const TICK: Duration = Duration::from_secs(1);

/// A message that was delivered, and is held.
pub struct Delivered {
    /// The id of the entry.
    pub id: String,
    /// Its fields, in their order.
    pub fields: Fields,
    /// The number of the attempt that it would be, from 1.
    pub attempt: u64,
    /// Whether a worker has begun it before.
    pub begun: bool,
    /// The hold on it.
    pub hold: Hold,
}

impl Delivered {
    /// The value of the field `repo`; `None` where the entry has no such field.
    pub fn value(&self) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(name, _)| name == FIELD.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// All its fields as JSON, for a dead letter or a log line that would otherwise lose them; what is not UTF-8 is replaced.
    pub fn to_json(&self) -> String {
        let text = |bytes: &[u8]| serde_json::Value::from(String::from_utf8_lossy(bytes));
        let pairs = self.fields.iter();
        let pairs =
            pairs.map(|(name, value)| serde_json::Value::from(vec![text(name), text(value)]));
        serde_json::Value::Array(pairs.collect()).to_string()
    }
}

/// What is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// This consumer's own messages, at the start.
    Start,
    /// The same, after a connection was lost or the group created anew.
    Recovery,
    /// All messages of the group.
    Group,
}

/// A message that seems to be due.
struct Due {
    id: String,
    deliveries: u64,
    /// It must have been idle for so long to be taken.
    idle: Duration,
    /// Whether another consumer had it.
    foreign: bool,
}

/// The pending list, as the reader goes through it.
pub struct Pending {
    config: Arc<Config>,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    pass: Pass,
    /// The last id listed; `None`: from the first.
    cursor: Option<String>,
    /// When the next page is due.
    next: Instant,
    due: VecDeque<Due>,
    /// Own messages taken in this pass.
    taken: usize,
}

impl Pending {
    /// Begins with this consumer's own messages.
    pub fn new(config: Arc<Config>, held: Arc<Held>, metrics: Arc<Metrics>) -> Self {
        Pending {
            config,
            held,
            metrics,
            pass: Pass::Start,
            cursor: None,
            next: Instant::now(),
            due: VecDeque::new(),
            taken: 0,
        }
    }

    /// Looks through this consumer's own messages again.
    pub fn recover(&mut self) {
        self.due.clear();
        self.cursor = None;
        self.next = Instant::now();
        if self.pass == Pass::Group {
            self.pass = Pass::Recovery;
        }
    }

    /// Whether own messages are looked through, which come before all others.
    pub fn is_own_first(&self) -> bool {
        self.pass != Pass::Group
    }

    /// How long nothing is to be done here.
    pub fn idle_for(&self) -> Duration {
        if self.due.is_empty() {
            self.next.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        }
    }

    /// Takes at most `room` messages that are due.
    ///
    /// # Errors
    /// Of Redis. What was taken and not returned is found again by [`Pending::recover`].
    pub fn take(&mut self, link: &mut Link, room: usize) -> RedisResult<Vec<Delivered>> {
        if self.due.is_empty() && self.next <= Instant::now() {
            self.list(link)?;
        }
        let count = room.min(self.due.len());
        let due: Vec<_> = self.due.drain(..count).collect();
        let taken = self.claim(link, due)?;
        if self.is_own_first() && self.due.is_empty() && self.cursor.is_none() {
            if self.taken > 0 {
                let taken = self.taken;
                log::info!("took {taken} pending messages of this consumer again");
            }
            self.taken = 0;
            self.pass = Pass::Group;
        }
        Ok(taken)
    }

    /// Lists the next page, and remembers what is due on it.
    fn list(&mut self, link: &mut Link) -> RedisResult<()> {
        let mut list = redis::cmd("XPENDING");
        list.arg(&self.config.backfill_stream)
            .arg(&self.config.group)
            .arg(
                self.cursor
                    .as_ref()
                    .map_or("-".to_owned(), |id| format!("({id}")),
            )
            .arg("+")
            .arg(PAGE);
        if self.is_own_first() {
            list.arg(&self.config.consumer);
        }
        let listed: Vec<(String, String, u64, u64)> = link.query(&list)?;
        let lost = self.lost_deliveries(link, &listed)?;
        for (i, (id, consumer, idle, deliveries)) in listed.iter().enumerate() {
            if self.held.contains(id) {
                continue;
            }
            let ours = *consumer == self.config.consumer;
            let idle = Duration::from_millis(*idle);
            let at_once = (self.pass == Pass::Start && *deliveries <= 1) || lost.contains(&i);
            if at_once || idle >= retry::due_after(&self.config, id, *deliveries, ours) {
                self.due.push_back(Due {
                    id: id.clone(),
                    deliveries: *deliveries,
                    // Whoever takes it before us makes it less idle than this.
                    idle,
                    foreign: !ours,
                });
            }
        }
        self.cursor = listed
            .last()
            .filter(|_| listed.len() == PAGE)
            .map(|(id, ..)| id.clone());
        self.next = match self.cursor {
            Some(_) if self.is_own_first() => Instant::now(),
            _ => Instant::now() + TICK.min(self.config.lease / 4),
        };
        Ok(())
    }

    /// The places of own messages that nobody has begun, though this consumer does not hold them.
    fn lost_deliveries(
        &self,
        link: &mut Link,
        listed: &[(String, String, u64, u64)],
    ) -> RedisResult<Vec<usize>> {
        if self.pass != Pass::Recovery {
            return Ok(Vec::new());
        }
        let once = listed.iter().enumerate();
        let once =
            once.filter(|(_, (id, .., deliveries))| *deliveries <= 1 && !self.held.contains(id));
        let mut places = Vec::new();
        let mut exist = Pipeline::default();
        for (place, (id, ..)) in once {
            places.push(place);
            exist.add(&[b"EXISTS", progress::key(&self.config, id).as_bytes()]);
        }
        let mut lost = Vec::new();
        for (place, exists) in places.into_iter().zip(link.pipeline(&exist)?) {
            if !from_redis_value::<bool>(exists.extract_error()?)? {
                lost.push(place);
            }
        }
        Ok(lost)
    }

    /// Claims these, as far as nobody else has done so.
    fn claim(&mut self, link: &mut Link, due: Vec<Due>) -> RedisResult<Vec<Delivered>> {
        let mut commands = Pipeline::default();
        let (input, group) = (
            self.config.backfill_stream.as_bytes(),
            self.config.group.as_bytes(),
        );
        for Due { id, idle, .. } in &due {
            let key = progress::key(&self.config, id);
            let (id, idle) = (id.as_bytes(), idle.as_millis().to_string());
            let me = self.config.consumer.as_bytes();
            commands.add(&[b"XRANGE", input, id, id]);
            commands.add(&[b"EXISTS", key.as_bytes()]);
            // Behind XRANGE: what is not there and still pending was deleted; what is neither was ended by another instance.
            commands.add(&[b"XPENDING", input, group, id, id, b"1"]);
            commands.add(&[b"XCLAIM", input, group, me, idle.as_bytes(), id, b"JUSTID"]);
        }
        let mut replies = link.pipeline(&commands)?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
        let (mut taken, mut deleted, mut foreign) = (Vec::new(), Vec::new(), 0);
        for due in due {
            let (entries, begun, pending, claimed) = (next()?, next()?, next()?, next()?);
            let entries: Entries = from_redis_value(entries)?;
            let begun: bool = from_redis_value(begun)?;
            let claimed: Vec<String> = from_redis_value(claimed)?;
            let pending: Vec<Value> = from_redis_value(pending)?;
            let Some((id, fields)) = entries.into_iter().next() else {
                if !pending.is_empty() {
                    deleted.push(due.id);
                }
                continue;
            };
            if claimed.is_empty() {
                continue;
            }
            let Some(hold) = self.held.hold(&id) else {
                continue;
            };
            foreign += u64::from(due.foreign);
            taken.push(Delivered {
                attempt: retry::next_attempt(due.deliveries, begun),
                id,
                fields,
                begun,
                hold,
            });
        }
        if self.is_own_first() {
            self.taken += taken.len();
        }
        if foreign > 0 {
            log::info!("took over {foreign} pending messages of other consumers");
            self.metrics.taken_over.add(foreign);
        }
        for id in deleted {
            self.forget(link, &id)?;
        }
        Ok(taken)
    }

    /// Counts and says an entry that somebody deleted while it was pending, and removes what is left of it.
    fn forget(&self, link: &mut Link, id: &str) -> RedisResult<()> {
        let mut commands = Pipeline::default();
        let (input, group) = (
            self.config.backfill_stream.as_bytes(),
            self.config.group.as_bytes(),
        );
        // Redis has dropped it from the pending list when it was claimed; then this does nothing.
        commands.add(&[b"XACK", input, group, id.as_bytes()]);
        commands.add(&[b"DEL", progress::key(&self.config, id).as_bytes()]);
        for reply in link.pipeline(&commands)? {
            reply.extract_error()?;
        }
        said_deleted(&self.metrics, id);
        Ok(())
    }
}

/// Counts and says that an entry was deleted while it was pending.
pub fn said_deleted(metrics: &Metrics, id: &str) {
    log::warn!("entry {id} was deleted by somebody else while it was pending");
    metrics.deleted_entries.add(1);
}
