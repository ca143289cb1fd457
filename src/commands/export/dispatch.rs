//! Who is next, and what becomes of a job that failed.
//!
//! The main thread does here what the reader does for the worker, by the same [`Scheduler`] and the same gates: a job begins when its host and
//! its look-up have room, each host in its turn. Attempts that failed are judged by the worker's own rules ([`retry`]); what
//! waits, waits here. Refused for now (429 and 503, a directory that is not there, a disk that is full), a job is tried
//! [`MOST_PUT_OFF`] times in all, each time when its host's cool-down is over. CARs that are there are tried once. Pinned by
//! `tests/export.rs` and `tests/export_failures.rs`.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::vec::IntoIter;

use crossbeam_channel::{Receiver, Sender, select};

use super::job::Job;
use super::sources::Origin;
use super::teller::Teller;
use super::worker::{Ended, Report};
use crate::error::{Class, JobError, Reason};
use crate::event::unix_millis;
use crate::fetch::host::Host;
use crate::hosts::{Busy, Key, Permits, Stopped};
use crate::queue::progress::FAILED;
use crate::queue::retry::{self, Verdict};
use crate::queue::scheduler::{Pass, Scheduler};
use crate::worker::Shared;

/// How often a job may be refused for now until it is given up. Without a word of the host about when to come back its pauses double from
/// 30 s on: a quarter of an hour in all.
pub(super) const MOST_PUT_OFF: u64 = 6;
/// Jobs that nobody has begun are in view for so many workers each: enough that none waits for the next.
const IN_VIEW: usize = 2;
/// Jobs that wait at most, for hosts and for another attempt: some 500 bytes each. No further ones are begun then.
const MOST_WAITING: usize = 10_000;
/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);

/// How it ended.
pub(super) enum End {
    /// All had their turn.
    Done,
    /// Shutdown came first.
    Shutdown,
    /// The output takes no more.
    OutputFailed(io::Error),
}

/// Hands out jobs, and judges those that come back.
pub(super) struct Dispatcher {
    shared: Shared,
    list: IntoIter<Origin>,
    /// The accounts that had their turn: each is exported once, however often and by whichever name it is asked for.
    seen: HashSet<String>,
    /// Whom to ask, where not the account's own server.
    host: Option<Host>,
    jobs: Sender<(Job, Permits)>,
    reports: Receiver<Report>,
    teller: Teller,
    scheduler: Scheduler<Job>,
    /// Jobs in the scheduler that nobody has begun.
    fresh: usize,
    /// Jobs that are tried again then.
    waiting: BTreeMap<(Instant, u64), Job>,
    /// Tells those apart that are due at the same time.
    waits: u64,
    /// Jobs that were handed out, also those that wait in the channel for a worker.
    in_flight: usize,
}

impl Dispatcher {
    /// Nothing is begun.
    pub(super) fn new(
        shared: &Shared,
        list: Vec<Origin>,
        host: Option<Host>,
        (jobs, reports): (Sender<(Job, Permits)>, Receiver<Report>),
        teller: Teller,
    ) -> Self {
        Dispatcher {
            scheduler: Scheduler::new(shared.config.concurrency),
            shared: shared.clone(),
            list: list.into_iter(),
            seen: HashSet::new(),
            host,
            jobs,
            reports,
            teller,
            fresh: 0,
            waiting: BTreeMap::new(),
            waits: 0,
            in_flight: 0,
        }
    }

    /// Gives up all but whoever speaks.
    pub(super) fn into_teller(self) -> Teller {
        self.teller
    }

    /// Works until all jobs have ended.
    pub(super) fn run(&mut self) -> End {
        let shutdown = self.shared.shutdown.clone();
        let hosts = Arc::clone(&self.shared.hosts);
        loop {
            self.scheduler.begin_round();
            self.fill();
            self.dispatch();
            // Not those that no worker has yet, nor, counted behind them, those that have come back.
            let elsewhere = self.jobs.len() + self.reports.len();
            let at_work = self.in_flight.saturating_sub(elsewhere);
            self.teller.tick(&self.shared.metrics, at_work);
            if self.in_flight == 0 && self.scheduler.is_empty() && self.waiting.is_empty() {
                return End::Done;
            }
            let now = Instant::now();
            let due = self.waiting.keys().next().map(|(due, _)| *due);
            let until = self.scheduler.next_ready().into_iter().chain(due).min();
            let wait = until.map_or(TICK, |until| until.saturating_duration_since(now));
            select! {
                recv(self.reports) -> report => if let Ok(report) = report {
                    self.in_flight -= 1;
                    if let Some(end) = self.ended(report) {
                        return end;
                    }
                },
                recv(hosts.woken()) -> _ => {}
                recv(shutdown.requested()) -> _ => return End::Shutdown,
                default(wait.min(TICK)) => {}
            }
        }
    }

    /// Brings jobs into view: those that are due again, and then new ones.
    fn fill(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.waiting.first_entry().filter(|it| it.key().0 <= now) {
            let job = entry.remove();
            self.hold(job);
        }
        let in_view = IN_VIEW * self.shared.config.concurrency;
        while self.fresh < in_view
            && self.scheduler.counts().0 + self.waiting.len() < MOST_WAITING
            && let Some(origin) = self.list.next()
        {
            let job = Job::new(origin, self.host.as_ref());
            if self.is_first(&job) {
                self.fresh += 1;
                self.hold(job);
            }
        }
    }

    /// Whether nobody has asked for this account before.
    fn is_first(&mut self, job: &Job) -> bool {
        let Some(message) = &job.message else {
            return true;
        };
        let is_first = self.seen.insert(message.did.clone());
        if !is_first {
            self.teller.repeated(job);
        }
        is_first
    }

    /// Puts a job into the lane of its host; a CAR, and a handle, into one whose gate is always open.
    fn hold(&mut self, job: Job) {
        let lane = |message| self.shared.identities.lane_of(message);
        let key = job.message.as_ref().map_or_else(Key::unknown, lane);
        self.hold_in(&key, job);
    }

    fn hold_in(&mut self, key: &Key, job: Job) {
        let gate = self.shared.hosts.gate(key);
        self.scheduler.hold(key, &gate, job);
    }

    /// Hands out jobs whose hosts have room, as long as there are workers for them.
    fn dispatch(&mut self) {
        while !self.jobs.is_full() {
            let identities = &self.shared.identities;
            let next = self.scheduler.next(Instant::now(), |job| {
                let did = job.message.as_ref().map(|message| &message.did)?;
                identities.gate_of_look_up(did)
            });
            let Some((_, mut job, pass)) = next else {
                return;
            };
            self.fresh -= usize::from(!job.begun);
            job.begun = true;
            let permits = match pass {
                Pass::Permits { host, look_up } => Permits {
                    host: Some(host),
                    look_up,
                    late: false,
                },
                Pass::GivenUp(since) => {
                    let hours = since.elapsed().as_secs_f64() / 3600.0;
                    let text =
                        format!("its host has refused or not been reached for {hours:.1} hours");
                    self.teller.failed(&job, Reason::Network, &text);
                    continue;
                }
            };
            // Nobody else sends, so there is room; the workers are gone only at the end.
            if self.jobs.try_send((job, permits)).is_err() {
                return;
            }
            self.in_flight += 1;
        }
    }

    /// Decides what becomes of a job that comes back.
    fn ended(&mut self, report: Report) -> Option<End> {
        let Report {
            mut job,
            result,
            commit,
        } = report;
        match result {
            Ok(Ended::Written) => self.teller.done(),
            Ok(Ended::Resolved) => {
                if self.is_first(&job) {
                    self.hold(job);
                }
            }
            Ok(Ended::OutputFailed(error)) => return Some(End::OutputFailed(error)),
            Ok(Ended::NotBegun) => return Some(End::Shutdown),
            Err(Stopped::Busy(busy)) => self.busy(job, *busy),
            Err(Stopped::Failed(error)) if job.origin.is_offline() => {
                self.teller.failed(&job, error.reason, &error.text);
            }
            Err(Stopped::Failed(error)) => {
                // What was learnt may have been the mistake.
                job.learnt = None;
                job.claimed = None;
                if error.class() == Class::Deferred {
                    self.put_off(job, &error, None);
                } else {
                    self.judge(job, &error, commit.as_deref());
                }
            }
        }
        None
    }

    /// It waits for a host that has no room, or refuses for now.
    fn busy(&mut self, mut job: Job, busy: Busy) {
        let (refused, error) = (busy.refused, busy.error.clone());
        let key = match &job.message {
            Some(message) => {
                let learnt = job.learnt.take();
                let (key, learnt) = self.shared.identities.lane_behind(message, learnt, busy);
                job.learnt = learnt;
                key
            }
            None => busy.key,
        };
        if refused {
            self.put_off(job, &error, Some(&key));
        } else {
            self.hold_in(&key, job);
        }
    }

    /// It was refused for now: it is tried again when the lane that it waits in has room, or after a while.
    fn put_off(&mut self, mut job: Job, error: &JobError, lane: Option<&Key>) {
        job.put_off += 1;
        let (times, most) = (job.put_off, MOST_PUT_OFF);
        if times >= most {
            let text = format!("refused {times} times: {}", error.text);
            self.teller.failed(&job, Reason::Network, &text);
            return;
        }
        self.teller.waits(&job, &error.text, (times, most));
        self.shared.metrics.deferrals.add(1);
        match lane {
            Some(key) => self.hold_in(key, job),
            None => self.wait(job, times),
        }
    }

    /// An attempt has failed.
    fn judge(&mut self, mut job: Job, error: &JobError, commit: Option<&str>) {
        let config = &self.shared.config;
        let now = unix_millis(SystemTime::now());
        match retry::judge(config, error, commit, job.attempt, &job.progress, now) {
            Verdict::Retry(failure) => {
                log::info!("{job}: attempt {} failed: {error}", job.attempt);
                self.shared.metrics.retries.add(1);
                job.progress.0.insert(FAILED.to_owned(), failure.to_field());
                let attempts = job.attempt;
                job.attempt += 1;
                self.wait(job, attempts);
            }
            // Only what was put off is deferred.
            Verdict::DeadLetter { .. } | Verdict::Defer { .. } => {
                self.teller.failed(&job, error.reason, &error.text);
            }
        }
    }

    /// It is tried again after the backoff of so many attempts.
    fn wait(&mut self, job: Job, attempts: u64) {
        let pause = retry::backoff(&self.shared.config, job.did(), attempts);
        self.waits += 1;
        self.waiting
            .insert((Instant::now() + pause, self.waits), job);
    }
}
