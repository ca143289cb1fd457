//! Pages of the dead letters that a selection means, from one end of the stream to the other.

use std::collections::{BTreeSet, HashSet};

use redis::{RedisResult, Value, from_redis_value};

use super::letter::Letter;
use super::selection::Selection;
use crate::config::Config;
use crate::connection::Link;
use crate::queue::{Entries, EntryId};
use crate::resp::Pipeline;

/// Most letters of a page.
const PAGE: usize = 64;
/// Letters of the first page: nobody knows yet how large they are.
const FIRST_PAGE: usize = 8;
/// About how many bytes a page may have. Redis counts entries only, so each page is as many as would have fitted of the page before,
/// and at most twice as many as that had.
const PAGE_BYTES: usize = 4 << 20;

/// Where a scan is; a clone goes over the same letters again.
#[derive(Clone)]
pub(super) struct Scan {
    stream: String,
    selection: Selection,
    reasons: HashSet<String>,
    dids: HashSet<String>,
    originals: HashSet<String>,
    way: Way,
    /// Letters of the next page.
    page: usize,
    /// How many may still be selected.
    left: u64,
    /// How many were.
    selected: u64,
    /// The last of them.
    last: Option<EntryId>,
    /// The ids that were named, the letters' own or else those of their messages, and that no letter so far has had.
    unseen: BTreeSet<EntryId>,
}

/// Which letters are looked at.
#[derive(Clone)]
enum Way {
    /// Those of these ids.
    Ids(Vec<EntryId>),
    /// All between two bounds, both as XRANGE takes them.
    Range { from: String, to: String },
    /// None any more.
    Ended,
}

impl Scan {
    /// Of the letters that are there now.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub(super) fn begin(
        link: &mut Link,
        config: &Config,
        selection: &Selection,
    ) -> RedisResult<Self> {
        let stream = config.dlq_stream.clone();
        let way = if selection.id.is_empty() {
            let mut newest = redis::cmd("XREVRANGE");
            newest.arg(&stream).arg("+").arg("-").arg("COUNT").arg(1);
            let newest: Entries = link.query(&newest)?;
            match newest.first() {
                Some((newest, _)) => Way::Range {
                    from: "-".to_owned(),
                    to: newest.clone(),
                },
                None => Way::Ended,
            }
        } else {
            let mut ids = selection.id.clone();
            ids.sort_unstable();
            ids.dedup();
            // Taken from the end.
            if !selection.newest {
                ids.reverse();
            }
            Way::Ids(ids)
        };
        Ok(Scan {
            stream,
            reasons: selection.reason.iter().cloned().collect(),
            dids: selection.did.iter().cloned().collect(),
            originals: selection
                .original_id
                .iter()
                .map(EntryId::to_string)
                .collect(),
            way,
            page: FIRST_PAGE,
            left: selection.limit.unwrap_or(u64::MAX),
            selected: 0,
            last: None,
            unseen: match selection.id.is_empty() {
                true => selection.original_id.iter().copied().collect(),
                false => selection.id.iter().copied().collect(),
            },
            selection: selection.clone(),
        })
    }

    /// The next letters that are meant, perhaps none; `None` at the end.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub(super) fn next(&mut self, link: &mut Link) -> RedisResult<Option<Vec<Letter>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let page = match &mut self.way {
            Way::Ended => return Ok(None),
            Way::Ids(ids) => {
                if ids.is_empty() {
                    return Ok(None);
                }
                let next = ids.split_off(ids.len().saturating_sub(self.page));
                let next: Vec<String> = next.iter().rev().map(EntryId::to_string).collect();
                by_ids(link, &self.stream, &next)?
            }
            Way::Range { from, to } => {
                let (command, first, last) = match self.selection.newest {
                    true => ("XREVRANGE", &*to, &*from),
                    false => ("XRANGE", &*from, &*to),
                };
                let mut range = redis::cmd(command);
                range.arg(&self.stream).arg(first).arg(last);
                let page: Entries = link.query(range.arg("COUNT").arg(self.page))?;
                match (page.last(), self.selection.newest) {
                    (None, _) => {
                        self.way = Way::Ended;
                        return Ok(None);
                    }
                    (Some((last, _)), true) => *to = format!("({last}"),
                    (Some((last, _)), false) => *from = format!("({last}"),
                }
                letters(page)
            }
        };
        let size: usize = page.iter().map(Letter::size).sum();
        let average = (size / page.len().max(1)).max(1);
        self.page = (PAGE_BYTES / average).clamp(1, PAGE.min(2 * self.page));
        for letter in &page {
            let seen = match self.selection.id.is_empty() {
                true => EntryId::parse(&letter.text("id")),
                false => EntryId::parse(&letter.id),
            };
            if let Some(id) = seen {
                self.unseen.remove(&id);
            }
        }
        let mut meant: Vec<_> = page
            .into_iter()
            .filter(|letter| self.means(letter))
            .collect();
        meant.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= meant.len() as u64;
        self.selected += meant.len() as u64;
        if let Some(last) = meant.last() {
            self.last = EntryId::parse(&last.id);
        }
        Ok(Some(meant))
    }

    /// The same, but no further than one that its limit has ended: for letters that are gone since then no others move up.
    pub(super) fn no_further_than(mut self, ended: &Scan) -> Self {
        let (0, Some(last)) = (ended.left, ended.last) else {
            return self;
        };
        let newest = self.selection.newest;
        let is_within = |id: &EntryId| if newest { *id >= last } else { *id <= last };
        match &mut self.way {
            Way::Ids(ids) => {
                ids.retain(is_within);
                self.unseen.retain(is_within);
            }
            Way::Range { from, to } => {
                *(if newest { from } else { to }) = last.to_string();
                // Not all letters are looked at.
                self.unseen.clear();
            }
            Way::Ended => {}
        }
        self
    }

    /// How many letters were selected so far.
    pub(super) fn selected(&self) -> u64 {
        self.selected
    }

    /// At the end: which of the named ids no letter has. None where the limit ended it, for then not all letters were looked at.
    pub(super) fn missing(&self) -> Vec<EntryId> {
        match self.left {
            0 => Vec::new(),
            _ => self.unseen.iter().copied().collect(),
        }
    }

    /// So many of the letters of the last page do not count towards the limit.
    pub(super) fn give_back(&mut self, count: u64) {
        self.left = self.left.saturating_add(count);
    }

    fn means(&self, letter: &Letter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.text("reason")))
            && (self.originals.is_empty() || self.originals.contains(&letter.text("id")))
            && (self.dids.is_empty() || letter.did().is_some_and(|did| self.dids.contains(&did)))
    }
}

/// The letters of these ids that are there.
///
/// # Errors
/// Of the way, or of Redis.
pub(super) fn by_ids(link: &mut Link, stream: &str, ids: &[String]) -> RedisResult<Vec<Letter>> {
    let mut commands = Pipeline::default();
    add_by_ids(&mut commands, stream, ids);
    let replies = link.pipeline(&commands)?;
    read_by_ids(replies)
}

/// Asks for the letters of these ids.
pub(super) fn add_by_ids(commands: &mut Pipeline, stream: &str, ids: &[String]) {
    for id in ids {
        let (stream, id) = (stream.as_bytes(), id.as_bytes());
        commands.add(&[b"XRANGE", stream, id, id]);
    }
}

/// Reads the replies to that.
///
/// # Errors
/// Of Redis.
pub(super) fn read_by_ids(replies: impl IntoIterator<Item = Value>) -> RedisResult<Vec<Letter>> {
    let mut found = Vec::new();
    for reply in replies {
        let entries: Entries = from_redis_value(reply.extract_error()?)?;
        found.extend(letters(entries));
    }
    Ok(found)
}

fn letters(entries: Entries) -> Vec<Letter> {
    let entries = entries.into_iter();
    entries.map(|(id, fields)| Letter { id, fields }).collect()
}
