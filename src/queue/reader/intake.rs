//! What comes in: new messages and those that are due again, each into the lane of its host; what cannot be understood is a dead letter.
//!
//! New ones and those that are due take turns, but for this consumer's own at the start, which come first. Nothing is read that cannot
//! be remembered, unless workers have nothing to do. Pinned by `tests/group.rs`, `tests/retries.rs`, `tests/fairness.rs` and
//! `tests/dead_letters.rs`.

use std::time::{Duration, Instant, SystemTime};

use super::super::ending::{Ending, Original, conclude};
use super::super::fence::{Executed, Fence, Standing};
use super::super::held::Hold;
use super::super::message::named_did;
use super::super::pending::{Offered, Seen};
use super::super::scheduler::{self, Kind, Parked, Place};
use super::super::{Entries, EntryId, retry, said_deleted};
use super::{Reader, job, parse};
use crate::connection::{Patience, Stop};
use crate::error::JobError;
use crate::event::unix_millis;
use crate::metrics::Failure;

/// How long XREADGROUP waits for new messages: bounds how long the reader takes to see the shutdown.
const BLOCK: Duration = Duration::from_secs(1);
/// The same while workers are at work, which may give a message back.
const BLOCK_AT_WORK: Duration = Duration::from_millis(100);
/// Messages read at a time: little enough that workers do not wait for the next job meanwhile.
const BATCH: usize = 200;
/// How many messages may be forgotten: so much longer is the pending list, which is looked through for them, at most.
const MOST_FORGOTTEN: usize = 1_000_000;
/// How much room there must be until it is looked for what was forgotten: enough for one page of the pending list.
const ROOM_AGAIN: usize = scheduler::MOST_PARKED / 100;
/// How often some of those that were forgotten are looked at while there is no room: a million in a quarter of an hour.
const RECALL: Duration = Duration::from_secs(1);
/// How often it is looked for new messages while others wait for their hosts.
const LOOK: Duration = Duration::from_millis(50);
/// What an XREADGROUP answers: the entries of each stream, or nothing.
type Batch = Option<Vec<(String, Entries)>>;

impl Reader {
    /// How many more messages can be parked. What nobody can work on now makes room for what somebody might.
    fn make_room(&mut self) -> Result<usize, Stop> {
        let room = self.scheduler.room();
        if room == 0 {
            if !self.full {
                log::info!(
                    "~messages" = scheduler::MOST_PARKED;
                    "{} messages wait for their hosts",
                    scheduler::MOST_PARKED
                );
            }
            self.full = true;
            // While the directory is closed most of what comes could not begin either.
            let helps =
                self.scheduler.is_hungry() && self.identities.is_directory_open(Instant::now());
            if helps && self.next_recall <= Instant::now() {
                self.recall()?;
            } else if helps && self.pending.forgotten < MOST_FORGOTTEN {
                self.pending.forgotten += self.scheduler.forget(BATCH);
            }
        } else if room > ROOM_AGAIN {
            self.full = false;
        }
        Ok(self.scheduler.room())
    }

    /// Lets some that were forgotten change places with others: their hosts may be free now.
    fn recall(&mut self) -> Result<(), Stop> {
        self.next_recall = Instant::now() + RECALL;
        let known = |id: &str| self.scheduler.is_parked(id);
        let recalled = self.pending.recall(&mut self.link, known);
        recalled.map_err(Stop::Error)?;
        self.pending.forgotten += self.scheduler.forget(ROOM_AGAIN);
        Ok(())
    }

    /// Reads what is due or what is new; `busy`: does not wait for new messages. Returns whether there was something.
    pub(super) fn read(&mut self, busy: bool) -> Result<bool, Stop> {
        let room = self.make_room()?.min(BATCH);
        if room == 0 {
            self.next_look = Instant::now() + LOOK;
            return Ok(false);
        }
        let wait = self.pending.idle_for();
        let own_first = self.pending.is_own_first();
        let retries_next = wait.is_zero() && (own_first || !self.new_is_next);
        self.new_is_next = retries_next;
        if retries_next {
            return self.read_due(room);
        }
        let now = Instant::now();
        let idle = !busy && self.scheduler.is_empty();
        if !idle && now < self.next_look {
            return Ok(false);
        }
        let block = match idle {
            // Whoever is at work may give something back, and is not heard while Redis is waited for.
            true if self.held.is_empty() => wait.min(BLOCK),
            true => wait.min(BLOCK_AT_WORK),
            false => Duration::ZERO,
        };
        let any = self.read_new(room, block)?;
        if !any {
            self.next_look = Instant::now() + LOOK;
        }
        Ok(any || idle)
    }

    /// Parks messages that are due; they are claimed when their hosts have room.
    fn read_due(&mut self, room: usize) -> Result<bool, Stop> {
        let offered = Offered {
            own: !self.full,
            others: !self.full && self.scheduler.is_hungry(),
        };
        let known = |id: &str| self.scheduler.is_parked(id);
        let seen = self.pending.read(&mut self.link, room, offered, known);
        let seen = seen.map_err(Stop::Error)?;
        for seen in &seen {
            match parse(seen) {
                Ok(message) => {
                    if let Some(id) = EntryId::parse(&seen.id) {
                        let key = self.identities.lane_of(&message);
                        let gate = self.hosts.gate(&key);
                        let parked = Parked {
                            id,
                            learnt: None,
                            needs_directory: self.identities.needs_directory(&message.did),
                        };
                        self.scheduler.park(&key, &gate, parked, Kind::Again);
                    }
                }
                Err(error) => {
                    let claimed = self.pending.claim(&mut self.link, vec![seen.id.clone()]);
                    for delivered in claimed.map_err(Stop::Error)?.into_iter().flatten() {
                        self.bury(seen, delivered.attempt, &delivered.hold, &error)?;
                    }
                }
            }
        }
        Ok(!seen.is_empty())
    }

    /// Reads new messages; waits for them at most so long, and not at all for less than a millisecond.
    fn read_new(&mut self, room: usize, wait: Duration) -> Result<bool, Stop> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(&self.config.group)
            .arg(&self.config.consumer);
        read.arg("COUNT").arg(room);
        if wait.as_millis() > 0 {
            // BLOCK 0 would wait for ever.
            read.arg("BLOCK").arg(wait.as_millis() as u64);
        }
        read.arg("STREAMS")
            .arg(&self.config.backfill_stream)
            .arg(">");
        let batch: Batch = self.link.query(&read).map_err(Stop::Error)?;
        let entries = batch.into_iter().flatten().flat_map(|(_, entries)| entries);
        let mut any = false;
        let mut offered = Vec::new();
        for (id, fields) in entries {
            any = true;
            let seen = Seen { id, fields };
            // One that is known already was delivered anew because Redis has forgotten that it was.
            if self.held.contains(&seen.id) {
                self.held.regain(&seen.id);
                continue;
            }
            let entry = EntryId::parse(&seen.id);
            if self.scheduler.is_parked(&seen.id) {
                continue;
            }
            let attempt = retry::next_attempt(1, false);
            let message = match parse(&seen) {
                Ok(message) => message,
                Err(error) => {
                    if let Some(hold) = self.held.hold(&seen.id) {
                        self.bury(&seen, attempt, &hold, &error)?;
                    }
                    continue;
                }
            };
            let now = Instant::now();
            let key = self.identities.lane_of(&message);
            let gate = self.hosts.gate(&key);
            let needs_directory = self.identities.needs_directory(&message.did);
            let directory = (needs_directory, self.identities.is_directory_open(now));
            match (self.scheduler.place(&key, &gate, directory, now), entry) {
                (Place::Park, Some(id)) => {
                    let parked = Parked {
                        id,
                        learnt: None,
                        needs_directory,
                    };
                    self.scheduler.park(&key, &gate, parked, Kind::New);
                    offered.push(seen.id);
                }
                _ => {
                    if let Some(hold) = self.held.hold(&seen.id) {
                        let job = job(&seen, message, attempt, None, hold);
                        self.scheduler.hold(&key, &gate, job);
                    }
                }
            }
        }
        self.held.offer(offered);
        Ok(any)
    }

    /// Judges a message that cannot be understood, which is its dead letter.
    pub(super) fn bury(
        &mut self,
        message: &Seen,
        attempt: u64,
        hold: &Hold,
        error: &JobError,
    ) -> Result<(), Stop> {
        let Reader { config, link, .. } = self;
        let (id, reason) = (&message.id, error.reason);
        let patience = Patience::UntilShutdown;
        hold.begin(attempt);
        let mut fence = Fence::new(config, id, attempt);
        let mut standing = link.insist(patience, |link| fence.acquire(link))?;
        if standing == Standing::Mine {
            let now = unix_millis(SystemTime::now());
            let entry = message.value().is_none().then(|| message.to_json());
            let ending = Ending {
                original: Original {
                    id,
                    value: message.value(),
                    entry: entry.as_deref(),
                },
                verdict: &retry::judge(config, error, None, attempt, fence.progress(), now),
                error,
            };
            if let Executed::Not(other) = conclude(link, &mut fence, config, patience, ending)? {
                standing = other;
            }
        }
        hold.settle();
        match standing {
            Standing::Mine => {
                log::warn!(
                    id = id, reason = reason.code(), attempts = attempt, error:% = error;
                    "dead letter"
                );
                self.metrics.failed(reason, || Failure {
                    at: SystemTime::now(),
                    did: message.value().and_then(named_did).unwrap_or_default(),
                    host: String::new(),
                    id: id.clone(),
                    attempt,
                    error: error.text.clone(),
                });
                self.metrics.dead_letter(reason);
            }
            Standing::Deleted => said_deleted(&self.metrics, id),
            _ => {
                let why = "another instance has the message, or has ended it";
                log::info!(id = id, why = why; "abandoned");
            }
        }
        Ok(())
    }
}
