//! The keeper thread: signs of life.
//!
//! It renews the idle time of every message that this process holds, so that no other instance takes them for orphaned; it
//! renews the consumer name; and it gives messages back, which is done on this thread so that no renewal that is under way
//! can come after it.
//!
//! A process that was stopped for a while may have lost its messages, so the keeper renews without looking only while its own
//! last renewal is younger than half a lease. Otherwise it looks first who has each message in the pending list, and lets go of
//! those that others have. Even so it may now and then claim back what somebody else works on: that may cost the other one's
//! work but never an event, for who may write is decided by the [`fence`](super::fence) and not by the pending list. A process that
//! has lost its name cannot tell its messages from those of the other one in the list, so it gives nothing back any more.
//!
//! XCLAIM drops a message whose entry was deleted from the pending list, and answers without it. Of one that no attempt has begun,
//! the keeper is the only one to see that, and says it.
//!
//! Redis being away is not waited out here: the next round comes soon, and the reader says it. Pinned by `tests/leases.rs`,
//! `tests/names.rs`, `tests/releases.rs` and `tests/memory_limit.rs`.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use redis::{RedisResult, from_redis_value};

use super::fence::is_no_group;
use super::held::{Held, Release};
use super::name::Name;
use super::{PendingRow, progress, retry, said_deleted};
use crate::config::Config;
use crate::connection::Link;
use crate::metrics::Metrics;
use crate::resp::Pipeline;
use crate::shutdown::Shutdown;
use crate::status::{Phase, Slot};

/// How long Redis may take for a reply to the keeper, at most.
const LONGEST_REPLY: Duration = Duration::from_secs(5);

/// Messages given back by one command, at most: a longer one would hold Redis up for all.
const RELEASES: usize = 500;

/// How soon it is tried again when Redis cannot be used.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How long Redis may take for a reply to the keeper.
pub fn reply_timeout(config: &Config) -> Duration {
    (config.lease / 2).min(LONGEST_REPLY)
}

/// The keeper; lives on its own thread, until all others have ended.
pub struct Keeper {
    config: Arc<Config>,
    link: Link,
    name: Name,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    /// Set when another process has taken the name.
    name_lost: Arc<AtomicBool>,
    slot: Arc<Slot>,
    /// When the last renewal that succeeded began.
    renewed: Instant,
    /// Whether the log knows that Redis cannot be used.
    said: bool,
    /// What is to be given back.
    releases: Vec<Release>,
}

impl Keeper {
    /// For a name that has just been taken.
    ///
    /// # Errors
    /// When the address of Redis cannot be used at all.
    pub fn new(
        config: Arc<Config>,
        name: Name,
        held: Arc<Held>,
        metrics: Arc<Metrics>,
        shutdown: &Shutdown,
        name_lost: Arc<AtomicBool>,
        slot: Arc<Slot>,
    ) -> RedisResult<Self> {
        Ok(Keeper {
            link: Link::new(&config.redis, shutdown)?.with_reply_timeout(reply_timeout(&config)),
            config,
            name,
            held,
            metrics,
            shutdown: shutdown.clone(),
            name_lost,
            slot,
            renewed: Instant::now(),
            said: false,
            releases: Vec::new(),
        })
    }

    /// Keeps until `ended` is disconnected: no other thread holds a message then. What fails is tried again.
    pub fn run(mut self, ended: &Receiver<Infallible>) {
        let every = Name::renewal_interval(&self.config);
        let mut next = Instant::now() + every;
        loop {
            let held = Arc::clone(&self.held);
            self.slot.enter(Phase::Wait);
            let ending = select! {
                recv(ended) -> _ => true,
                recv(held.woken()) -> _ => false,
                default(next.saturating_duration_since(Instant::now())) => false,
            };
            self.slot.enter(Phase::Renew);
            let due = Instant::now() >= next;
            let kept = self.keep(due);
            let failed = kept.is_err();
            self.say(kept);
            if ending {
                break;
            }
            if failed {
                next = Instant::now() + every.min(TRY_AGAIN);
            } else if due {
                next = Instant::now() + every;
            }
        }
        if let Err(e) = self.name.give_back(&mut self.link) {
            log::debug!("~error":% = e; "the consumer name is left to expire: {e}");
        }
    }

    fn keep(&mut self, due: bool) -> RedisResult<()> {
        self.releases.append(&mut self.held.take_released());
        if !due && self.releases.is_empty() {
            return Ok(());
        }
        // That the name cannot be kept, for want of memory, is no reason to let the messages go.
        let name = if due { self.keep_name() } else { Ok(()) };
        if due || self.renewed.elapsed() > self.config.lease / 2 {
            self.renew()?;
        }
        if !self.name_lost.load(Relaxed) {
            self.release()?;
        }
        name
    }

    fn keep_name(&mut self) -> RedisResult<()> {
        if self.name_lost.load(Relaxed) {
            return Ok(());
        }
        if let Some(holder) = self.name.keep(&mut self.link)? {
            log::error!(
                "~consumer" = self.config.consumer, "~holder" = holder;
                "the consumer name {} is held by {holder} now: no more jobs are taken, those in flight are finished",
                self.config.consumer
            );
            self.name_lost.store(true, Relaxed);
            self.shutdown.request();
        }
        Ok(())
    }

    /// Renews the idle time of all held messages.
    fn renew(&mut self) -> RedisResult<()> {
        let began = Instant::now();
        let stale = began - self.renewed > self.config.lease / 2;
        let mut ids = self.held.ids();
        if stale {
            ids = self.still_ours(ids)?;
            let releases = self.releases.iter().map(|release| release.id.clone());
            let ours = self.still_ours(releases.collect())?;
            self.releases.retain(|release| ours.contains(&release.id));
        }
        if !ids.is_empty() {
            let mut claim = self.claim();
            if let Some(kept) = Self::execute(&mut self.link, claim.arg(&ids).arg("JUSTID"))? {
                self.miss(&ids, &kept)?;
            }
        }
        self.renewed = began;
        Ok(())
    }

    /// Sees to the messages that nobody has begun and that are not pending any more.
    fn miss(&mut self, ids: &[String], kept: &[String]) -> RedisResult<()> {
        let kept: HashSet<_> = kept.iter().collect();
        for id in ids.iter().filter(|id| !kept.contains(id)) {
            if self.held.is_waiting(id) {
                self.forget(id)?;
                self.held.lose(id);
            }
        }
        Ok(())
    }

    /// A message that nobody can have ended is not pending any more: counts and says it, if its entry is gone.
    fn forget(&mut self, id: &str) -> RedisResult<()> {
        if progress::remove_if_deleted(&mut self.link, &self.config, id)? {
            said_deleted(&self.metrics, id);
        }
        Ok(())
    }

    /// Of these, those that the pending list still shows with this consumer; the others are lost.
    fn still_ours(&mut self, mut ids: Vec<String>) -> RedisResult<Vec<String>> {
        let (input, group) = (&self.config.backfill_stream, &self.config.group);
        let mut commands = Pipeline::default();
        for id in &ids {
            let id = id.as_bytes();
            commands.add(&[
                b"XPENDING",
                input.as_bytes(),
                group.as_bytes(),
                id,
                id,
                b"1",
            ]);
        }
        let mut ours = HashSet::new();
        for reply in self.link.pipeline(&commands)? {
            let listed: Vec<PendingRow> = match reply.extract_error() {
                // Nobody has anything, until the reader has created the group again.
                Err(e) if is_no_group(&e) => return Ok(ids),
                reply => from_redis_value(reply?)?,
            };
            let listed = listed.into_iter();
            let listed = listed.filter(|(_, consumer, ..)| *consumer == self.config.consumer);
            ours.extend(listed.map(|(id, ..)| id));
        }
        ids.retain(|id| {
            let is_ours = ours.contains(id);
            if !is_ours {
                log::debug!(id = id, why = "another instance has taken the message over"; "");
                self.held.lose(id);
            }
            is_ours
        });
        Ok(ids)
    }

    /// Makes messages due for all instances at once.
    fn release(&mut self) -> RedisResult<()> {
        let idle = retry::DUE_AT_ONCE.as_millis() as u64;
        // Those that were begun have each its own number of attempts; of the others there may be very many.
        while !self.releases.is_empty() {
            let first = self.releases.len().saturating_sub(RELEASES);
            let (mut ids, mut ended) = (Vec::new(), 0);
            for Release { id, parked, begun } in &self.releases[first..] {
                // The reader may have taken it again meanwhile.
                if self.held.contains(id) {
                    continue;
                }
                let Some(attempt) = begun else {
                    ended += usize::from(!parked);
                    ids.push(id.clone());
                    continue;
                };
                let mut claim = self.claim();
                claim.arg(id).arg("IDLE").arg(idle);
                claim.arg("RETRYCOUNT").arg(attempt.saturating_sub(1));
                let released = Self::execute(&mut self.link, claim.arg("JUSTID"))?;
                let released = released.map_or(0, |ids| ids.len());
                self.metrics.released.add(released as u64);
            }
            if !ids.is_empty() {
                let mut claim = self.claim();
                claim.arg(&ids).arg("IDLE").arg(idle);
                let released = Self::execute(&mut self.link, claim.arg("JUSTID"))?;
                let offered = self.held.were_offered(ids.iter());
                // What the reader has taken again in the midst of this is not for the others.
                let again: Vec<_> = ids.iter().filter(|id| self.held.contains(id)).collect();
                if !again.is_empty() {
                    let mut claim = self.claim();
                    Self::execute(&mut self.link, claim.arg(&again).arg("JUSTID"))?;
                }
                if let Some(released) = released {
                    self.metrics.released.add(released.len().min(ended) as u64);
                    let released: HashSet<_> = released.iter().collect();
                    for id in offered.difference(&released) {
                        self.forget(id)?;
                    }
                }
            }
            self.releases.truncate(first);
        }
        Ok(())
    }

    fn claim(&self) -> redis::Cmd {
        let mut claim = redis::cmd("XCLAIM");
        claim
            .arg(&self.config.backfill_stream)
            .arg(&self.config.group)
            .arg(&self.config.consumer)
            .arg(0);
        claim
    }

    /// The ids that were claimed; `None` without the group: nothing is pending, and there is nothing to keep.
    fn execute(link: &mut Link, claim: &redis::Cmd) -> RedisResult<Option<Vec<String>>> {
        match link.query(claim) {
            Err(e) if is_no_group(&e) => Ok(None),
            claimed => claimed.map(Some),
        }
    }

    fn say(&mut self, kept: RedisResult<()>) {
        match kept {
            Ok(()) => self.said = false,
            Err(e) => {
                self.link.give_up();
                if !self.said {
                    log::warn!("~error":% = e; "leases cannot be renewed: {e}; trying again");
                }
                self.said = true;
            }
        }
    }
}
