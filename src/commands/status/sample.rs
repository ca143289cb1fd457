//! One look at all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use redis::{RedisError, RedisResult, Value, from_redis_value};

use crate::commands::dead_letters::Counts;
use crate::config::Config;
use crate::connection::Link;
use crate::preflight;
use crate::queue::{Entries, EntryId, progress};
use crate::resp::Pipeline;

/// Rows of the pending list that are asked for at a time.
const PENDING_PAGE: usize = 1000;
/// Pages of it that are looked at, from the oldest message on.
const PENDING_PAGES: usize = 20;
/// Dead letters that are read at a time.
const LETTERS_PAGE: usize = 100;
/// Pages of them that are looked at, from the newest on.
const LETTERS_PAGES: usize = 20;
/// Consumers that are asked about, the liveliest first: each name that there ever was stays in the group.
const CONSUMERS: usize = 1000;

/// Keys that are looked at a time for names of consumers that have not read anything yet.
const KEYS_PAGE: usize = 1000;
/// Pages of them: other things may be in the same Redis.
const KEYS_PAGES: usize = 20;

/// Up to which age, in seconds, a pending message counts where; older ones come last.
pub(super) const AGES: [(&str, u64); 6] = [
    ("< 1 min", 60),
    ("< 10 min", 600),
    ("< 1 h", 3600),
    ("< 6 h", 6 * 3600),
    ("< 1 d", 86_400),
    ("< 3 d", 3 * 86_400),
];

/// As much as a rate needs.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Glance {
    /// When it was taken.
    pub at: Instant,
    /// Messages in the queue.
    pub length: u64,
    /// Messages that were ever added to it; `None` where Redis does not say it, or there is no stream.
    pub added: Option<u64>,
}

/// How fast messages leave the queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Rate {
    /// Over how long, in seconds.
    pub seconds: f64,
    /// Messages that left it in this time: done, dead, or deleted by somebody.
    pub done: u64,
    /// The same each second.
    pub per_second: f64,
    /// How long the queue lasts at that rate, in seconds; `None` where nothing moves.
    pub seconds_left: Option<f64>,
}

impl Rate {
    /// What left the queue is what was added, less what it has grown by.
    pub(in crate::commands) fn between(before: &Glance, after: &Glance) -> Option<Self> {
        let added = after.added?.checked_sub(before.added?)?;
        let done = (added + before.length).checked_sub(after.length)?;
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let per_second = done as f64 / seconds;
        let seconds_left = match after.length {
            0 => Some(0.0),
            length => (done > 0).then(|| length as f64 / per_second),
        };
        Some(Rate {
            seconds,
            done,
            per_second,
            seconds_left,
        })
    }
}

/// All that is shown.
#[derive(Debug)]
pub(in crate::commands) struct Sample {
    pub glance: Glance,
    /// Redis's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether there is an input stream.
    pub has_stream: bool,
    /// What the group says; `None` where there is none.
    pub group: Option<Group>,
    pub pending: Pending,
    pub consumers: Vec<Consumer>,
    /// Consumers that were not asked about.
    pub more_consumers: usize,
    /// Entries of the output.
    pub output: u64,
    pub dead: Dead,
}

/// The consumer group.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Group {
    /// Messages delivered and neither done nor dead.
    pub pending: u64,
    /// Messages not delivered yet.
    pub undelivered: u64,
    /// Whether Redis does not know that exactly: after deletions in its midst it is length less pending.
    pub is_estimate: bool,
}

/// What was looked at of the pending list.
#[derive(Debug, Default)]
pub(in crate::commands) struct Pending {
    /// Rows.
    pub looked_at: u64,
    /// Whether there were more.
    pub is_sample: bool,
    /// By the age of the message, as [`AGES`] says, and older.
    pub by_age: [u64; AGES.len() + 1],
    /// By its attempts.
    pub by_attempts: BTreeMap<u64, u64>,
}

/// A consumer of the group.
#[derive(Debug)]
pub(in crate::commands) struct Consumer {
    /// Its name, which need be no text.
    pub name: Vec<u8>,
    /// Messages that are pending with it.
    pub pending: u64,
    /// Milliseconds since it last asked for anything; `None`: Redis does not know it before it has got something.
    pub idle_ms: Option<u64>,
    /// Milliseconds since it last got anything; only newer servers say it.
    pub inactive_ms: Option<u64>,
    /// Who has its name: a live process renews a key within seconds. `None`: nobody.
    pub holder: Option<Vec<u8>>,
}

/// What was looked at of the dead letters.
#[derive(Debug, Default, Clone)]
pub(in crate::commands) struct Dead {
    /// How many there are.
    pub length: u64,
    /// The counts of those that were looked at.
    pub counts: Counts,
    /// The newest one's id.
    newest: Option<String>,
}

/// Looks, over one connection.
pub(in crate::commands) struct Sampler<'c> {
    link: Link,
    config: &'c Config,
    /// The dead letters of the last look: they seldom change.
    dead: Dead,
}

impl<'c> Sampler<'c> {
    pub(in crate::commands) fn new(link: Link, config: &'c Config) -> Self {
        Sampler {
            link,
            config,
            dead: Dead::default(),
        }
    }

    /// As [`preflight::wrong_key`].
    pub(in crate::commands) fn wrong_key(&mut self) -> RedisResult<Option<String>> {
        preflight::wrong_key(&mut self.link, self.config)
    }

    /// Only what a rate needs.
    pub(in crate::commands) fn glance(&mut self) -> RedisResult<Glance> {
        let at = Instant::now();
        let mut info = redis::cmd("XINFO");
        info.arg("STREAM").arg(&self.config.backfill_stream);
        let info = self.link.query::<Fields>(&info);
        let info = match info {
            Err(error) if is_no_key(&error) => None,
            info => Some(info?),
        };
        let number = |name| info.as_ref().and_then(|info| number(info, name));
        Ok(Glance {
            at,
            length: number("length").unwrap_or(0),
            added: number("entries-added"),
        })
    }

    /// All of it.
    pub(in crate::commands) fn sample(&mut self) -> RedisResult<Sample> {
        let (seconds, micros): (u64, u64) = self.link.query(&redis::cmd("TIME"))?;
        let now_ms = seconds * 1000 + micros / 1000;
        let glance = self.glance()?;
        let found = self.group(glance.length)?;
        let has_stream = found.is_some();
        let group = found.flatten();
        let (pending, (consumers, more_consumers)) = match group {
            Some(_) => (self.pending(now_ms)?, self.consumers()?),
            None => Default::default(),
        };
        let mut length = redis::cmd("XLEN");
        let output = self.link.query(length.arg(&self.config.firehose_stream))?;
        Ok(Sample {
            glance,
            now_ms,
            has_stream,
            group,
            pending,
            consumers,
            more_consumers,
            output,
            dead: self.dead()?,
        })
    }

    /// The group; the outer `None`: there is no stream.
    fn group(&mut self, length: u64) -> RedisResult<Option<Option<Group>>> {
        let mut info = redis::cmd("XINFO");
        info.arg("GROUPS").arg(&self.config.backfill_stream);
        let groups: Vec<Fields> = match self.link.query(&info) {
            Err(error) if is_no_key(&error) => return Ok(None),
            groups => groups?,
        };
        let named = groups.iter().find(|group| {
            let name = group.get("name").cloned().unwrap_or(Value::Nil);
            bytes(name).is_some_and(|name| name == self.config.group.as_bytes())
        });
        Ok(Some(named.map(|group| {
            let pending = number(group, "pending").unwrap_or(0);
            let lag = number(group, "lag");
            Group {
                pending,
                undelivered: lag.unwrap_or_else(|| length.saturating_sub(pending)),
                is_estimate: lag.is_none(),
            }
        })))
    }

    /// The first pages of the pending list.
    fn pending(&mut self, now_ms: u64) -> RedisResult<Pending> {
        let mut pending = Pending::default();
        let mut from = "-".to_owned();
        for page in 0..=PENDING_PAGES {
            // One row behind the last page says whether it was all.
            let rows = if page < PENDING_PAGES {
                PENDING_PAGE
            } else {
                1
            };
            let mut list = redis::cmd("XPENDING");
            list.arg(&self.config.backfill_stream)
                .arg(&self.config.group);
            list.arg(&from).arg("+").arg(rows);
            let rows: Vec<(String, Value, u64, u64)> = match self.link.query(&list) {
                // Deleted since it was seen.
                Err(error) if error.code() == Some("NOGROUP") => Vec::new(),
                rows => rows?,
            };
            let Some((last, ..)) = rows.last() else {
                break;
            };
            if page == PENDING_PAGES {
                pending.is_sample = true;
                break;
            }
            from = format!("({last}");
            for (id, _, _, attempts) in &rows {
                let added = EntryId::parse(id).map_or(0, |id| id.millis());
                let age = now_ms.saturating_sub(added) / 1000;
                let place = AGES.iter().position(|(_, limit)| age < *limit);
                pending.by_age[place.unwrap_or(AGES.len())] += 1;
                *pending.by_attempts.entry(*attempts).or_default() += 1;
                pending.looked_at += 1;
            }
        }
        Ok(pending)
    }

    /// The consumers, the liveliest first, and how many more there are.
    fn consumers(&mut self) -> RedisResult<(Vec<Consumer>, usize)> {
        let mut info = redis::cmd("XINFO");
        info.arg("CONSUMERS").arg(&self.config.backfill_stream);
        let rows: Vec<Fields> = match self.link.query(info.arg(&self.config.group)) {
            Err(error) if is_no_key(&error) || error.code() == Some("NOGROUP") => Vec::new(),
            rows => rows?,
        };
        let mut consumers: Vec<_> = rows
            .into_iter()
            .filter_map(|mut row| {
                Some(Consumer {
                    name: bytes(row.remove("name")?)?,
                    pending: number(&row, "pending").unwrap_or(0),
                    idle_ms: number(&row, "idle"),
                    // −1: never.
                    inactive_ms: number(&row, "inactive"),
                    holder: None,
                })
            })
            .collect();
        let known: HashSet<_> = consumers.iter().map(|c| c.name.clone()).collect();
        let names = self.names()?;
        let idle = names.into_iter().filter(|name| !known.contains(name));
        consumers.extend(idle.map(|name| Consumer {
            name,
            pending: 0,
            idle_ms: None,
            inactive_ms: None,
            holder: None,
        }));
        consumers.sort_by(|a, b| (a.idle_ms, &a.name).cmp(&(b.idle_ms, &b.name)));
        let more = consumers.len().saturating_sub(CONSUMERS);
        consumers.truncate(CONSUMERS);
        let holders = holders(
            &mut self.link,
            self.config,
            consumers.iter().map(|c| &*c.name),
        )?;
        for (consumer, holder) in consumers.iter_mut().zip(holders) {
            consumer.holder = holder;
        }
        Ok((consumers, more))
    }

    /// The names that processes keep, as far as the first pages of keys have them: a consumer that waits for its first message is not
    /// in the group yet.
    fn names(&mut self) -> RedisResult<HashSet<Vec<u8>>> {
        let prefix = progress::prefix(self.config, "consumer");
        let mut pattern = String::new();
        for c in prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        let (mut names, mut cursor) = (HashSet::new(), Vec::from(*b"0"));
        for _ in 0..KEYS_PAGES {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern);
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) =
                self.link.query(scan.arg("COUNT").arg(KEYS_PAGE))?;
            let found = keys
                .iter()
                .filter_map(|key| key.strip_prefix(prefix.as_bytes()));
            names.extend(found.map(<[u8]>::to_vec));
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
        Ok(names)
    }

    /// The dead letters; what has not changed is not read again.
    fn dead(&mut self) -> RedisResult<Dead> {
        let stream = &self.config.dlq_stream;
        let length: u64 = self.link.query(redis::cmd("XLEN").arg(stream))?;
        let mut dead = Dead {
            length,
            ..Dead::default()
        };
        let mut from = "+".to_owned();
        for page in 0..LETTERS_PAGES {
            let mut range = redis::cmd("XREVRANGE");
            range.arg(stream).arg(&from).arg("-");
            let letters: Entries = self.link.query(range.arg("COUNT").arg(LETTERS_PAGE))?;
            if page == 0 {
                dead.newest = letters.first().map(|(id, _)| id.clone());
                if (length, &dead.newest) == (self.dead.length, &self.dead.newest) {
                    return Ok(self.dead.clone());
                }
            }
            let Some((last, _)) = letters.last() else {
                break;
            };
            from = format!("({last}");
            for (_, fields) in &letters {
                let reason = fields.iter().find(|(name, _)| name == b"reason");
                let reason = reason.map(|(_, reason)| String::from_utf8_lossy(reason));
                dead.counts.add(&reason.unwrap_or_default());
            }
        }
        self.dead = dead.clone();
        Ok(dead)
    }
}

/// Who has each of these consumer names: a live process, as its key says.
///
/// # Errors
/// Of the way.
pub(in crate::commands) fn holders<'n>(
    link: &mut Link,
    config: &Config,
    names: impl Iterator<Item = &'n [u8]>,
) -> RedisResult<Vec<Option<Vec<u8>>>> {
    let prefix = progress::prefix(config, "consumer");
    let mut commands = Pipeline::default();
    for name in names {
        commands.add(&[b"GET", &[prefix.as_bytes(), name].concat()]);
    }
    let replies = link.pipeline(&commands)?;
    // A key of another type is nobody's sign of life.
    Ok(replies.into_iter().map(bytes).collect())
}

/// The fields of an answer of XINFO.
type Fields = HashMap<String, Value>;

fn number(fields: &Fields, name: &str) -> Option<u64> {
    match fields.get(name)? {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        value => from_redis_value(value)
            .ok()
            .filter(|b: &Vec<u8>| !b.is_empty()),
    }
}

/// Whether there is no such stream; Redis has no code of its own for it.
fn is_no_key(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|text| text.contains("no such key"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(before: (u64, u64), after: (u64, u64)) -> Option<Rate> {
        let at = Instant::now();
        let glance = |seconds, (length, added)| Glance {
            at: at + Duration::from_secs(seconds),
            length,
            added: Some(added),
        };
        Rate::between(&glance(0, before), &glance(2, after))
    }

    #[test]
    fn the_rate_is_what_left_whatever_came_in() {
        let both = rate((100, 1000), (110, 1050)).unwrap();
        assert_eq!((both.done, both.per_second), (40, 20.0));
        assert_eq!(both.seconds_left, Some(5.5));
        let still = rate((100, 1000), (100, 1000)).unwrap();
        assert_eq!((still.done, still.seconds_left), (0, None));
        let empty = rate((0, 1000), (0, 1000)).unwrap();
        assert_eq!(empty.seconds_left, Some(0.0));
        // Another stream of the same name.
        assert!(rate((100, 1000), (5, 5)).is_none());
    }
}
