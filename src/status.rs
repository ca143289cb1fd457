//! What each thread is doing right now, for log lines and whoever asks.
//!
//! Each thread writes into its own [`Slot`], others only look. Counters and the phase are atomics; the job's names stand behind a
//! lock that is held for the time of a copy and never across I/O. Whoever may not wait even for that [glances](Slot::glance).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// The stages of a job, and what threads do that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No job.
    Idle,
    /// The output stream is full, or takes nothing for now.
    Backpressure,
    /// Asking the server, and reading the CAR.
    Fetch,
    /// Asking for the DID document.
    Identity,
    /// Proving commit and tree.
    Verify,
    /// Writing events.
    Write,
    /// Setting up.
    Start,
    /// Until Redis can be used.
    Redis,
    /// Until something is to be done.
    Wait,
    /// Drain: until what has been begun is finished.
    Drain,
    /// Giving back and joining.
    End,
    /// Looking for messages that are due or new.
    Read,
    /// Claiming messages whose hosts are free; of a worker: acquiring the one that it was given.
    Claim,
    /// Renewing leases and the consumer name.
    Renew,
    /// Looking a host name up.
    Resolve,
    /// Answering clients of the operator's HTTP server.
    Serve,
    /// Writing a thread dump.
    Dump,
    /// The thread is gone.
    Ended,
}

impl Phase {
    const ALL: [Phase; 18] = [
        Phase::Idle,
        Phase::Backpressure,
        Phase::Fetch,
        Phase::Identity,
        Phase::Verify,
        Phase::Write,
        Phase::Start,
        Phase::Redis,
        Phase::Wait,
        Phase::Drain,
        Phase::End,
        Phase::Read,
        Phase::Claim,
        Phase::Renew,
        Phase::Resolve,
        Phase::Serve,
        Phase::Dump,
        Phase::Ended,
    ];

    /// As it stands in log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Backpressure => "backpressure",
            Phase::Fetch => "fetch",
            Phase::Identity => "identity",
            Phase::Verify => "verify",
            Phase::Write => "write",
            Phase::Start => "start",
            Phase::Redis => "redis",
            Phase::Wait => "wait",
            Phase::Drain => "drain",
            Phase::End => "end",
            Phase::Read => "read",
            Phase::Claim => "claim",
            Phase::Renew => "renew",
            Phase::Resolve => "resolve",
            Phase::Serve => "serve",
            Phase::Dump => "dump",
            Phase::Ended => "ended",
        }
    }
}

/// How many bits of [`Slot::stage`] are the phase.
const PHASE_BITS: u32 = 8;

/// One thread's state.
pub struct Slot {
    /// What times are counted from.
    made: Instant,
    /// The phase in the lowest [`PHASE_BITS`], and above them since when, in milliseconds: one number, so that who looks without
    /// a lock never sees one phase with the time of another.
    stage: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
    job: Mutex<Option<Running>>,
}

impl Default for Slot {
    fn default() -> Self {
        Slot {
            made: Instant::now(),
            stage: AtomicU64::new(Phase::Idle as u64),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            job: Mutex::new(None),
        }
    }
}

#[derive(Clone)]
struct Running {
    id: String,
    did: String,
    host: String,
    since: Instant,
}

/// A look at a job that is running.
#[derive(Debug, Clone)]
pub struct View {
    /// The id of the message, as Redis gave it.
    pub id: String,
    /// The account.
    pub did: String,
    /// The server that is asked; empty until it is known.
    pub host: String,
    /// When the job began.
    pub since: Instant,
    /// What it is at.
    pub phase: Phase,
    /// How long it has been at that.
    pub in_phase: Duration,
    /// Bytes of CAR read.
    pub bytes: u64,
    /// Records written.
    pub records: u64,
}

/// What can be seen of a thread without waiting for anybody.
#[derive(Debug)]
pub struct Glance {
    /// What it is at.
    pub phase: Phase,
    /// How long it has been at that.
    pub in_phase: Duration,
    /// The job, if there is one.
    pub job: Sight,
}

/// What a glance shows of a job.
#[derive(Debug)]
pub enum Sight {
    /// There is none.
    None,
    /// The thread is just writing its names down.
    Blurred,
    /// All of it.
    Clear(View),
}

/// How often a glance tries for the lock: it is held for a copy only, unless the one who holds it has been stopped.
const GLANCES: usize = 100;

impl Slot {
    /// A job begins.
    pub fn begin(&self, did: &str, id: &str) {
        self.bytes.store(0, Relaxed);
        self.records.store(0, Relaxed);
        *self.lock() = Some(Running {
            id: id.to_owned(),
            did: did.to_owned(),
            host: String::new(),
            since: Instant::now(),
        });
    }

    /// The job has ended.
    pub fn end(&self) {
        self.enter(Phase::Idle);
        *self.lock() = None;
    }

    /// The job enters a stage. Where it is in it already, its time goes on.
    pub fn enter(&self, phase: Phase) {
        // Only the worker itself writes: nothing comes between the look and the store.
        if self.phase().0 != phase {
            let since = self.made.elapsed().as_millis() as u64;
            self.stage
                .store(since << PHASE_BITS | phase as u64, Relaxed);
        }
    }

    /// Enters a stage until the guard is dropped, and then again the one before.
    pub fn visit(&self, phase: Phase) -> Visit<'_> {
        let (before, _) = self.phase();
        self.enter(phase);
        Visit { slot: self, before }
    }

    /// The stage, and for how long it has been that; takes no lock.
    pub fn phase(&self) -> (Phase, Duration) {
        let stage = self.stage.load(Relaxed);
        let phase = (stage & ((1 << PHASE_BITS) - 1)) as usize;
        let since = Duration::from_millis(stage >> PHASE_BITS);
        (
            Phase::ALL.get(phase).copied().unwrap_or(Phase::Idle),
            self.made.elapsed().saturating_sub(since),
        )
    }

    /// The server that is asked.
    pub fn asks(&self, host: &str) {
        if let Some(running) = self.lock().as_mut() {
            running.host = host.to_owned();
        }
    }

    /// Bytes of CAR have been read.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// The records are written, or written again.
    pub fn begin_records(&self) {
        self.records.store(0, Relaxed);
    }

    /// Records have been written.
    pub fn add_records(&self, records: u64) {
        self.records.fetch_add(records, Relaxed);
    }

    /// The running job, if there is one.
    pub fn view(&self) -> Option<View> {
        let running = self.lock().clone()?;
        Some(self.view_of(running))
    }

    /// What can be seen without waiting.
    pub fn glance(&self) -> Glance {
        let (phase, in_phase) = self.phase();
        let seen = (0..GLANCES).find_map(|_| match self.job.try_lock() {
            Ok(job) => Some(job.clone()),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner().clone()),
            Err(TryLockError::WouldBlock) => {
                thread::yield_now();
                None
            }
        });
        let job = match seen {
            None => Sight::Blurred,
            Some(None) => Sight::None,
            Some(Some(running)) => Sight::Clear(self.view_of(running)),
        };
        Glance {
            phase,
            in_phase,
            job,
        }
    }

    fn view_of(&self, running: Running) -> View {
        let (phase, in_phase) = self.phase();
        View {
            id: running.id,
            did: running.did,
            host: running.host,
            since: running.since,
            phase,
            in_phase,
            bytes: self.bytes.load(Relaxed),
            records: self.records.load(Relaxed),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stage within another one.
pub struct Visit<'s> {
    slot: &'s Slot,
    before: Phase,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.slot.enter(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_names_the_message_and_the_time_in_its_phase() {
        let slot = Slot::default();
        assert!(slot.view().is_none());
        slot.begin("did:web:example", "1-0");
        slot.enter(Phase::Fetch);
        let began = slot.phase();
        std::thread::sleep(Duration::from_millis(20));
        slot.enter(Phase::Fetch);
        let view = slot.view().unwrap();
        assert_eq!((view.id.as_str(), view.phase), ("1-0", Phase::Fetch));
        assert!(view.in_phase >= began.1 + Duration::from_millis(20));
        let long = view.in_phase;
        slot.enter(Phase::Verify);
        let (phase, short) = slot.phase();
        assert_eq!(phase, Phase::Verify);
        assert!(short < long, "a new phase begins anew: {short:?}");
        slot.end();
        assert_eq!(slot.phase().0, Phase::Idle);
        assert!(slot.view().is_none());
    }

    #[test]
    fn after_a_stage_within_another_that_one_goes_on() {
        let slot = Slot::default();
        slot.enter(Phase::Write);
        let full = slot.visit(Phase::Backpressure);
        let away = slot.visit(Phase::Redis);
        assert_eq!(slot.phase().0, Phase::Redis);
        drop(away);
        assert_eq!(slot.phase().0, Phase::Backpressure);
        drop(full);
        assert_eq!(slot.phase().0, Phase::Write);
    }

    #[test]
    fn phases_are_read_as_they_were_written() {
        let slot = Slot::default();
        for (n, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, n);
            slot.enter(phase);
            assert_eq!(slot.phase().0, phase);
        }
    }

    #[test]
    fn a_glance_does_not_wait_for_a_lock_that_is_held() {
        let slot = Slot::default();
        slot.begin("did:web:example", "1-0");
        slot.enter(Phase::Fetch);
        let Sight::Clear(view) = slot.glance().job else {
            panic!("the lock is free");
        };
        assert_eq!(view.did, "did:web:example");
        let held = slot.lock();
        // Were it waited for, this would not return.
        let glance = slot.glance();
        assert_eq!(glance.phase, Phase::Fetch);
        assert!(matches!(glance.job, Sight::Blurred));
        drop(held);
        slot.end();
        assert!(matches!(slot.glance().job, Sight::None));
    }
}
