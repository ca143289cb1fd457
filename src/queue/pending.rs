//! The pending list as retry queue: which messages are due, and taking them.
//!
//! XPENDING lists and XCLAIM … JUSTID takes: neither charges a delivery, as XREADGROUP from an id and plain XCLAIM would. The list
//! is looked through in pages with an exclusive cursor, without XPENDING's IDLE, which walks the whole list in one blocking call.
//! A message is due when no live process can hold it and its backoff is over (see [`retry`]). Then its entry is read, and the
//! [`scheduler`](super::scheduler) decides when its host has room for it. What was listed may have
//! changed until then, so it is looked at again before it is taken; and several instances may find the same one
//! due: XCLAIM's minimal idle time lets the first have it. What another instance has parked, this one looks at only when it has
//! nothing else to do, and what it has forgotten itself, only when there is room again.
//!
//! This consumer's own pending messages that it does not hold are held by nobody, for its name is its alone. At a start they come
//! first, and of those that were begun at most once none waits. After a lost connection they are looked through again: a delivery
//! whose reply was lost on the way is found by its having neither owner nor progress, and is due at once. The messages of others are
//! then left alone for a while: when Redis was away, nobody could renew theirs.
//!
//! Pinned by `tests/group.rs`, `tests/retries.rs`, `tests/leases.rs` and `tests/deleted.rs`.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, from_redis_value};

use super::held::{Held, Hold};
use super::lease::reply_timeout;
use super::message::FIELD;
use super::name::Name;
use super::{Entries, Fields, PendingRow, progress, retry, said_deleted};
use crate::config::Config;
use crate::connection::Link;
use crate::metrics::Metrics;
use crate::resp::Pipeline;

/// Messages listed at a time; longer replies would hold Redis up for all.
const PAGE: usize = 1000;
/// Pages looked at in one go: a million messages are looked through in a minute, and Redis is busy with it for 2 % of the time.
const PAGES: usize = 20;
/// How often that is done, at most.
const TICK: Duration = Duration::from_secs(1);

/// A message that is pending.
pub struct Seen {
    /// The id of the entry.
    pub id: String,
    /// Its fields, in their order.
    pub fields: Fields,
}

/// A message that was taken, and is held.
pub struct Delivered {
    /// The message.
    pub seen: Seen,
    /// The number of the attempt that it would be, from 1.
    pub attempt: u64,
    /// The hold on it.
    pub hold: Hold,
}

impl Seen {
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
    /// Whether it does not wait for its backoff, as long as it is this consumer's.
    at_once: bool,
}

/// A message that is due, as it was found.
struct Look {
    seen: Seen,
    attempt: u64,
    /// How long it has been idle, in milliseconds.
    idle: u64,
    /// Whether another consumer has it.
    foreign: bool,
}

/// Which messages are looked at that were offered to all instances, since their hosts had no room for them.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Those that this one has offered, and does not remember.
    pub own: bool,
    /// Those that others have.
    pub others: bool,
}

/// The pending list, as the reader goes through it.
pub struct Pending {
    config: Arc<Config>,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    pass: Pass,
    /// The last id listed; `None`: from the first.
    cursor: Option<String>,
    /// The same, of what was forgotten.
    recalled: Option<String>,
    /// When the next page is due.
    next: Instant,
    due: VecDeque<Due>,
    /// Own messages taken in this pass.
    taken: usize,
    /// Messages that this process has offered and does not remember: as many as the last pass has seen, and those since.
    pub forgotten: usize,
    /// The same in this pass.
    passed: usize,
    /// Until when the messages of others are left alone.
    grace: Instant,
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
            recalled: None,
            next: Instant::now(),
            due: VecDeque::new(),
            taken: 0,
            forgotten: 0,
            passed: 0,
            grace: Instant::now(),
        }
    }

    /// Looks through this consumer's own messages again.
    pub fn recover(&mut self) {
        self.due.clear();
        self.passed = 0;
        self.cursor = None;
        self.next = Instant::now();
        // Time enough for two renewals, of which one may have to wait for its reply.
        let renewals = 2 * Name::renewal_interval(&self.config);
        self.grace = Instant::now() + renewals + reply_timeout(&self.config);
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

    /// Reads at most `room` messages that are due, without taking them. `known` says which are looked after already.
    ///
    /// # Errors
    /// Of Redis. What was not returned is found again by [`Pending::recover`].
    pub fn read(
        &mut self,
        link: &mut Link,
        room: usize,
        offered: Offered,
        known: impl Fn(&str) -> bool,
    ) -> RedisResult<Vec<Seen>> {
        for page in 1..=PAGES {
            if !self.due.is_empty() || self.next > Instant::now() {
                break;
            }
            self.list(link, offered, &known)?;
            if page == PAGES && !self.is_own_first() && self.due.is_empty() {
                // Nothing to do on so many pages: the others can wait for the next tick.
                self.next = Instant::now() + self.tick();
            }
        }
        let count = room.min(self.due.len());
        let due: Vec<_> = self.due.drain(..count).collect();
        let seen = self.look(link, due)?;
        let seen: Vec<_> = seen.into_iter().flatten().map(|look| look.seen).collect();
        if self.is_own_first() {
            self.taken += seen.len();
            if self.due.is_empty() && self.cursor.is_none() {
                if self.taken > 0 {
                    let taken = self.taken;
                    log::info!("~messages" = taken; "took {taken} pending messages of this consumer again");
                }
                self.taken = 0;
                self.pass = Pass::Group;
            }
        }
        Ok(seen)
    }

    /// Lists a page of what was forgotten, to be read next: so that each has its turn, though there is no room for all of them.
    ///
    /// # Errors
    /// Of Redis.
    pub fn recall(&mut self, link: &mut Link, known: impl Fn(&str) -> bool) -> RedisResult<()> {
        let rows = self.page(link, self.recalled.as_ref(), true)?;
        for (id, _, idle, _) in &rows {
            if is_offered(*idle) && !known(id) && !self.held.contains(id) {
                self.due.push_back(Due {
                    id: id.clone(),
                    at_once: false,
                });
            }
        }
        self.recalled = next_cursor(&rows);
        Ok(())
    }

    /// Takes these, as far as they still are due and nobody else has done so: this consumer's own at once. One result for each.
    ///
    /// # Errors
    /// Of Redis. What was taken and not returned is found again by [`Pending::recover`].
    pub fn claim(
        &mut self,
        link: &mut Link,
        ids: Vec<String>,
    ) -> RedisResult<Vec<Option<Delivered>>> {
        let due = ids.into_iter().map(|id| Due { id, at_once: true });
        let looks = self.look(link, due.collect())?;
        let (input, group) = (
            self.config.backfill_stream.as_bytes(),
            self.config.group.as_bytes(),
        );
        let me = self.config.consumer.as_bytes();
        let mut claim = Pipeline::default();
        for look in looks.iter().flatten() {
            let (idle, id) = (look.idle.to_string(), look.seen.id.as_bytes());
            let idle = idle.as_bytes();
            claim.add(&[b"XCLAIM", input, group, me, idle, id, b"JUSTID"]);
        }
        let mut foreign = 0;
        let mut replies = link.pipeline(&claim)?.into_iter();
        let taken = looks.into_iter().map(|look| {
            let Some(look) = look else {
                return Ok(None);
            };
            let claimed = replies.next().unwrap_or(Value::Nil).extract_error()?;
            let claimed: Vec<String> = from_redis_value(claimed)?;
            if claimed.is_empty() {
                return Ok(None);
            }
            foreign += u64::from(look.foreign);
            Ok(self.held.hold(&look.seen.id).map(|hold| Delivered {
                attempt: look.attempt,
                seen: look.seen,
                hold,
            }))
        });
        let taken = taken.collect::<RedisResult<Vec<_>>>()?;
        if foreign > 0 {
            log::info!("~messages" = foreign; "took over {foreign} pending messages of other consumers");
            self.metrics.taken_over.add(foreign);
        }
        Ok(taken)
    }

    /// Lists the next page, and remembers what is due on it.
    fn list(
        &mut self,
        link: &mut Link,
        wanted: Offered,
        known: &impl Fn(&str) -> bool,
    ) -> RedisResult<()> {
        let rows = self.page(link, self.cursor.as_ref(), self.is_own_first())?;
        let lost = self.lost_deliveries(link, &rows)?;
        for (place, row) in rows.iter().enumerate() {
            let (id, consumer, idle, deliveries) = row;
            let at_once = (self.pass == Pass::Start && *deliveries <= 1) || lost.contains(&place);
            if known(id) || self.held.contains(id) {
                continue;
            }
            let ours = *consumer == self.config.consumer;
            let is_wanted = if ours { wanted.own } else { wanted.others };
            if is_offered(*idle) && !is_wanted {
                self.passed += usize::from(ours);
                continue;
            }
            if self.is_due(row, at_once) {
                let id = id.clone();
                self.due.push_back(Due { id, at_once });
            }
        }
        self.cursor = next_cursor(&rows);
        if self.cursor.is_none() {
            self.forgotten = mem::take(&mut self.passed);
            self.next = Instant::now() + self.tick();
        }
        Ok(())
    }

    /// A page of the list, behind this id.
    fn page(
        &self,
        link: &mut Link,
        behind: Option<&String>,
        own: bool,
    ) -> RedisResult<Vec<PendingRow>> {
        let mut list = redis::cmd("XPENDING");
        list.arg(&self.config.backfill_stream)
            .arg(&self.config.group)
            .arg(behind.map_or("-".to_owned(), |id| format!("({id}")))
            .arg("+")
            .arg(PAGE);
        if own {
            list.arg(&self.config.consumer);
        }
        link.query(&list)
    }

    fn tick(&self) -> Duration {
        TICK.min(self.config.lease / 4)
    }

    /// Whether the message of this row may be taken now.
    fn is_due(&self, (id, consumer, idle, deliveries): &PendingRow, at_once: bool) -> bool {
        let ours = *consumer == self.config.consumer;
        if !ours && self.grace > Instant::now() {
            return false;
        }
        let after = retry::due_after(&self.config, id, *deliveries, ours);
        (ours && at_once) || Duration::from_millis(*idle) >= after
    }

    /// The places of own messages that nobody has begun, though this consumer does not hold them.
    fn lost_deliveries(&self, link: &mut Link, rows: &[PendingRow]) -> RedisResult<Vec<usize>> {
        if self.pass != Pass::Recovery {
            return Ok(Vec::new());
        }
        let once = rows.iter().enumerate();
        // Nobody has lost what has been offered.
        let once = once.filter(|(_, (id, _, idle, deliveries))| {
            *deliveries <= 1 && !is_offered(*idle) && !self.held.contains(id)
        });
        let mut places = Vec::new();
        let mut exist = Pipeline::default();
        for (place, (id, ..)) in once {
            places.push(place);
            self.add_exists(&mut exist, id);
        }
        let mut lost = Vec::new();
        for (place, exists) in places.into_iter().zip(link.pipeline(&exist)?) {
            if !from_redis_value::<bool>(exists.extract_error()?)? {
                lost.push(place);
            }
        }
        Ok(lost)
    }

    /// Whether a worker has begun the message: it has an owner, for a week, or progress.
    fn add_exists(&self, commands: &mut Pipeline, id: &str) {
        let owner = progress::owner_key(&self.config, id);
        let progress = progress::key(&self.config, id);
        commands.add(&[b"EXISTS", owner.as_bytes(), progress.as_bytes()]);
    }

    /// Reads these, as far as they still are due. One result for each.
    fn look(&self, link: &mut Link, due: Vec<Due>) -> RedisResult<Vec<Option<Look>>> {
        let (input, group) = (
            self.config.backfill_stream.as_bytes(),
            self.config.group.as_bytes(),
        );
        let mut look = Pipeline::default();
        for Due { id, .. } in &due {
            self.add_exists(&mut look, id);
            let id = id.as_bytes();
            look.add(&[b"XRANGE", input, id, id]);
            // Behind XRANGE: what has no entry and still is pending was deleted; what is neither was ended by another one.
            look.add(&[b"XPENDING", input, group, id, id, b"1"]);
        }
        let mut replies = link.pipeline(&look)?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
        let mut looks = Vec::with_capacity(due.len());
        for Due { id, at_once } in due {
            let begun: u64 = from_redis_value(next()?)?;
            let (entries, rows) = (next()?, next()?);
            let entries: Entries = from_redis_value(entries)?;
            let rows: Vec<PendingRow> = from_redis_value(rows)?;
            let look = match (rows.into_iter().next(), entries.into_iter().next()) {
                (None, _) => None,
                (Some(_), None) => {
                    self.forget(link, &id)?;
                    None
                }
                (Some(row), Some(_)) if !self.is_due(&row, at_once) => None,
                (Some((_, consumer, idle, deliveries)), Some((_, fields))) => Some(Look {
                    seen: Seen { id, fields },
                    attempt: retry::next_attempt(deliveries, begun > 0),
                    idle,
                    foreign: consumer != self.config.consumer,
                }),
            };
            looks.push(look);
        }
        Ok(looks)
    }

    /// Counts and says an entry that somebody deleted while it was pending, and removes what is left of it. Of several
    /// instances that see it, one acknowledges it.
    fn forget(&self, link: &mut Link, id: &str) -> RedisResult<()> {
        let mut commands = Pipeline::default();
        let (input, group) = (
            self.config.backfill_stream.as_bytes(),
            self.config.group.as_bytes(),
        );
        let owner = progress::owner_key(&self.config, id);
        let progress = progress::key(&self.config, id);
        commands.add(&[b"XACK", input, group, id.as_bytes()]);
        commands.add(&[b"DEL", owner.as_bytes(), progress.as_bytes()]);
        let commands = commands.in_transaction();
        let executed = link.pipeline(&commands)?.pop().unwrap_or(Value::Nil);
        let (acknowledged, _): (u64, u64) = from_redis_value(executed.extract_error()?)?;
        if acknowledged > 0 {
            said_deleted(&self.metrics, id);
        }
        Ok(())
    }
}

/// Whether a message was offered to all instances, by whichever.
fn is_offered(idle: u64) -> bool {
    u128::from(idle) >= retry::DUE_AT_ONCE.as_millis()
}

/// The last id of a page; `None` where it is the last page.
fn next_cursor(rows: &[PendingRow]) -> Option<String> {
    let last = rows.last().filter(|_| rows.len() == PAGE);
    last.map(|(id, ..)| id.clone())
}
