//! What becomes of a job's message, and what is said of it.
//!
//! What becomes of it is judged by [`retry`] and written down in Redis before anything is counted: an attempt that turns out to be
//! somebody else's counts as abandoned and as nothing else. That a job was put off is neither a failure nor an attempt, until its
//! message is given up. Pinned by `tests/verdicts.rs`, `tests/verdicts_waiting.rs`, `tests/dead_letters.rs` and `tests/metrics.rs`.

use std::time::SystemTime;

use super::Worker;
use super::write::Written;
use crate::error::{Class, JobError, Reason};
use crate::event::unix_millis;
use crate::fetch::host::Host;
use crate::hosts::Busy;
use crate::metrics::Failure;
use crate::queue::fence::{Executed, Standing};
use crate::queue::retry::{self, Verdict};
use crate::queue::{Job, Returned, said_deleted};

impl Worker {
    /// Says that an attempt failed or was put off, judges it, and writes down what becomes of the message. One that waits for a
    /// host goes back to the reader.
    pub(super) fn failed(
        &mut self,
        job: Job,
        host: &str,
        error: JobError,
        busy: Option<Busy>,
    ) -> Result<(), JobError> {
        let config = &self.shared.config;
        // One that was refused because it has had all its attempts has not had another.
        let attempt = job.attempt - u64::from(job.attempt > config.max_attempts);
        self.say(&job, host, &error, attempt);
        if error.class() == Class::Fatal {
            // Nothing more is written of it: the process ends.
            self.count(&job, host, &error, (error.reason, attempt));
            return Err(error);
        }
        let now = unix_millis(SystemTime::now());
        let mut progress = self.sink.progress(&job).cloned().unwrap_or_default();
        if let Some(since) = self.given_up {
            progress.put_off_since(now.saturating_sub(since.elapsed().as_millis() as u64));
        }
        let commit = self.source.commit.as_deref();
        let verdict = retry::judge(config, &error, commit, attempt, &progress, now);
        if error.reason == Reason::Panic {
            self.sink.reset();
        }
        if let Executed::Not(standing) = self.sink.conclude(&job, &verdict, &error, attempt)? {
            self.abandoned(&job, standing);
            return Ok(());
        }
        job.hold.settle();
        let metrics = &self.shared.metrics;
        match verdict {
            Verdict::Retry(_) => {
                self.count(&job, host, &error, (error.reason, attempt));
                metrics.retries.add(1);
            }
            Verdict::Defer { .. } => {
                metrics.deferrals.add(1);
                if let Some(busy) = busy {
                    self.give_back(job, busy);
                }
            }
            Verdict::DeadLetter { reason, attempts } => {
                // Also where it was only ever put off: what is given up has failed, for the reason of its letter.
                self.count(&job, host, &error, (reason, attempt));
                metrics.dead_letter(reason);
                let (did, id) = (&job.message.did, &job.id);
                log::warn!(
                    did = did, id = id, reason = reason.code(), attempts = attempts, error:% = error;
                    "dead letter"
                );
            }
        }
        Ok(())
    }

    /// Counts a failure that is certain, and remembers it.
    fn count(&self, job: &Job, host: &str, error: &JobError, (reason, attempt): (Reason, u64)) {
        self.shared.metrics.failed(reason, || Failure {
            at: SystemTime::now(),
            did: job.message.did.clone(),
            host: host.to_owned(),
            id: job.id.clone(),
            attempt,
            error: error.text.clone(),
        });
    }

    /// Says why a job has not ended in events. That it was put off is no failure.
    fn say(&self, job: &Job, host: &str, error: &JobError, attempt: u64) {
        let (level, what) = if error.class() == Class::Deferred {
            (log::Level::Info, "deferred")
        } else {
            (log::Level::Warn, "failed")
        };
        let (did, id) = (&job.message.did, &job.id);
        log::log!(
            level,
            did = did, host = host, reason = error.reason.code(), attempt = attempt, ms = self.milliseconds(),
            id = id, error:% = error;
            "{what}"
        );
    }

    /// Lets the reader know for which host the message waits, when it is nobody's any more.
    fn give_back(&self, job: Job, busy: Busy) {
        let Job {
            id,
            message,
            learnt,
            hold,
            ..
        } = job;
        drop(hold);
        let identities = &self.shared.identities;
        let (key, learnt) = identities.lane_behind(&message, learnt, busy);
        let returned = Returned {
            id,
            key,
            learnt,
            needs_directory: identities.needs_directory(&message.did),
        };
        // The reader is gone only at the end, and the message is due then when its backoff is over.
        let _ = self.returned.send(returned);
        self.shared.hosts.wake();
    }

    /// Another instance works on the message, or has ended it; or it is delivered anew.
    pub(super) fn abandoned(&self, job: &Job, standing: Standing) {
        // It is not this process's to say when the message is due.
        job.hold.settle();
        let why = match standing {
            Standing::Gone => "it is not pending any more",
            Standing::Deleted => "its entry was deleted",
            Standing::Undelivered => "it is in the stream but not pending",
            Standing::Taken | Standing::Mine => "another instance has taken it over",
        };
        if standing == Standing::Deleted {
            said_deleted(&self.shared.metrics, &job.id);
        }
        log::info!(did = job.message.did, id = job.id, why = why; "abandoned");
        self.shared.metrics.abandoned.add(1);
    }

    pub(super) fn report(&self, job: &Job, host: &Host, bytes: u64, written: &Written) {
        let metrics = &self.shared.metrics;
        metrics.repos.add(1);
        metrics.skipped.add(written.skipped);
        metrics.filtered.add(written.filtered);
        log::info!(
            did = job.message.did, host:% = host, records = written.records, bytes = bytes, ms = self.milliseconds(),
            skipped = written.skipped, filtered = written.filtered, resumed = written.resumed, id = job.id;
            "done"
        );
    }

    /// How long the present job has taken.
    fn milliseconds(&self) -> u64 {
        self.source.began.elapsed().as_millis() as u64
    }
}
