//! The keeper thread: signs of life.
//!
//! It renews the idle time of every message that this process holds, so that no other instance takes them for orphaned; it
//! renews the consumer name; and it gives messages back, which is done on this thread so that no renewal that is under way
//! can come after it.
//!
//! A process that was stopped for a while may have lost its messages, so the keeper renews without looking only while its own
//! last renewal is younger than half a lease. Otherwise it looks first who has each message in the pending list, and lets go of
//! those that others have. Even so it may now and then claim back what somebody else works on: that does no harm, for who may
//! write is decided by the [`fence`](super::fence) and not by the pending list.
//!
//! Redis being away is not waited out here: the next round comes soon, and the reader says it. Pinned by `tests/leases.rs`
//! and `tests/names.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use redis::RedisResult;

use super::fence::is_no_group;
use super::held::{Held, Release};
use super::name::Name;
use super::retry;
use crate::config::Config;
use crate::connection::Link;
use crate::error::JobError;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// How long Redis may take for a reply to the keeper, at most.
const LONGEST_REPLY: Duration = Duration::from_secs(5);

/// Who in the pending list has a message: its id, consumer, idle time in milliseconds and deliveries.
type Listed = (String, String, u64, u64);

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
    ) -> RedisResult<Self> {
        let reply = (config.lease / 2).min(LONGEST_REPLY);
        Ok(Keeper {
            link: Link::new(&config.redis, shutdown)?.with_reply_timeout(reply),
            config,
            name,
            held,
            metrics,
            shutdown: shutdown.clone(),
            name_lost,
            renewed: Instant::now(),
            said: false,
            releases: Vec::new(),
        })
    }

    /// Keeps until `ended` is disconnected: no other thread holds a message then.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub fn run(mut self, ended: &Receiver<Infallible>) -> Result<(), JobError> {
        let every = self.name.renew_every();
        let mut next = Instant::now() + every;
        loop {
            let held = Arc::clone(&self.held);
            let ending = select! {
                recv(ended) -> _ => true,
                recv(held.woken()) -> _ => false,
                default(next.saturating_duration_since(Instant::now())) => false,
            };
            let due = Instant::now() >= next;
            let kept = self.keep(due);
            self.say(kept);
            if ending {
                break;
            }
            if due {
                next = Instant::now() + every;
            }
        }
        if let Err(e) = self.name.give_back(&mut self.link) {
            log::debug!("the consumer name is left to expire: {e}");
        }
        Ok(())
    }

    fn keep(&mut self, due: bool) -> RedisResult<()> {
        self.releases.append(&mut self.held.take_released());
        if !due && self.releases.is_empty() {
            return Ok(());
        }
        if due {
            self.keep_name()?;
        }
        self.renew()?;
        self.release()
    }

    fn keep_name(&mut self) -> RedisResult<()> {
        if self.name_lost.load(Relaxed) {
            return Ok(());
        }
        if let Some(holder) = self.name.keep(&mut self.link)? {
            log::error!(
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
            self.execute(claim.arg(&ids).arg("JUSTID"))?;
        }
        self.renewed = began;
        Ok(())
    }

    /// Of these, those that the pending list still shows with this consumer; the others are lost.
    fn still_ours(&mut self, ids: Vec<String>) -> RedisResult<Vec<String>> {
        let mut ours = Vec::new();
        for id in ids {
            let mut pending = redis::cmd("XPENDING");
            pending
                .arg(&self.config.backfill_stream)
                .arg(&self.config.group)
                .arg(&id)
                .arg(&id)
                .arg(1);
            let listed: Vec<Listed> = match self.link.query(&pending) {
                Err(e) if is_no_group(&e) => Vec::new(),
                listed => listed?,
            };
            if listed
                .iter()
                .any(|(_, consumer, ..)| *consumer == self.config.consumer)
            {
                ours.push(id);
            } else {
                log::debug!("id={id}: another instance has taken the message over");
                self.held.lose(&id);
            }
        }
        Ok(ours)
    }

    /// Makes messages due for all instances at once.
    fn release(&mut self) -> RedisResult<()> {
        let idle = retry::due_at_once(&self.config).as_millis() as u64;
        while let Some(Release { id, begun }) = self.releases.last() {
            let mut claim = self.claim();
            claim.arg(id).arg("IDLE").arg(idle);
            if let Some(attempt) = begun {
                claim.arg("RETRYCOUNT").arg(attempt.saturating_sub(1));
            }
            self.execute(claim.arg("JUSTID"))?;
            self.releases.pop();
            self.metrics.released.add(1);
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

    /// Without the group nothing is pending, and there is nothing to keep.
    fn execute(&mut self, claim: &redis::Cmd) -> RedisResult<()> {
        match self.link.query::<Vec<String>>(claim) {
            Err(e) if is_no_group(&e) => Ok(()),
            done => done.map(drop),
        }
    }

    fn say(&mut self, kept: RedisResult<()>) {
        match kept {
            Ok(()) => self.said = false,
            Err(e) => {
                self.link.give_up();
                if !self.said {
                    log::warn!("leases cannot be renewed: {e}; trying again");
                }
                self.said = true;
            }
        }
    }
}
