//! What each worker is doing right now, for log lines and whoever asks.
//!
//! Each worker writes into its own [`Slot`], others only look. Counters and the phase are atomics; the job's names stand behind a
//! lock that is held for the time of a copy and never across I/O.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The stages of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No job.
    Idle,
    /// The output stream is full.
    Backpressure,
    /// Asking the server, and reading the CAR.
    Fetch,
    /// Asking for the DID document.
    Identity,
    /// Proving commit and tree.
    Verify,
    /// Writing events.
    Write,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Idle,
        Phase::Backpressure,
        Phase::Fetch,
        Phase::Identity,
        Phase::Verify,
        Phase::Write,
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
        }
    }
}

/// One worker's state.
#[derive(Default)]
pub struct Slot {
    phase: AtomicU8,
    bytes: AtomicU64,
    records: AtomicU64,
    job: Mutex<Option<Running>>,
}

#[derive(Clone)]
struct Running {
    did: String,
    host: String,
    since: Instant,
}

/// A look at a job that is running.
#[derive(Debug, Clone)]
pub struct View {
    /// The account.
    pub did: String,
    /// The server that is asked; empty until it is known.
    pub host: String,
    /// When the job began.
    pub since: Instant,
    /// What it is at.
    pub phase: Phase,
    /// Bytes of CAR read.
    pub bytes: u64,
    /// Records written.
    pub records: u64,
}

impl Slot {
    /// A job begins.
    pub fn begin(&self, did: &str) {
        self.bytes.store(0, Relaxed);
        self.records.store(0, Relaxed);
        *self.lock() = Some(Running {
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

    /// The job enters a stage.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
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
        let phase = usize::from(self.phase.load(Relaxed));
        Some(View {
            did: running.did,
            host: running.host,
            since: running.since,
            phase: Phase::ALL.get(phase).copied().unwrap_or(Phase::Idle),
            bytes: self.bytes.load(Relaxed),
            records: self.records.load(Relaxed),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
