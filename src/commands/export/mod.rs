//! `backfiller export`: the same proofs and the same events without any Redis.
//!
//! ```text
//!  SOURCE… , --file ──► dispatcher (main) ──► worker-0 … worker-(N-1): fetch or read, prove ──► turn ──► lines
//!                            ▲   scheduler, gates, verdicts: the worker's own      │
//!                            └──────────────────── reports ────────────────────────┘
//! ```
//!
//! Fetching, proving and encoding are the worker's ([`Source`](crate::worker::source::Source),
//! [`write_leaves`](crate::worker::write::write_leaves)), and so is who may be asked when; here is only what takes the place of Redis:
//! [`sources`] for the input, [`dispatch`] for the queue, [`output`] and [`lines`] for the output; [`offline`] and [`trust`] are for CARs
//! that are there. Pinned by `tests/export.rs`, `tests/export_failures.rs`, `tests/export_offline.rs` and `tests/export_output.rs`.

mod dispatch;
mod job;
mod lines;
mod offline;
mod options;
mod output;
mod sources;
mod teller;
mod trust;
mod worker;

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use self::dispatch::{Dispatcher, End};
use self::offline::Opener;
pub(super) use self::options::EXAMPLES;
pub use self::options::Options;
use self::output::{Output, Turns};
use self::teller::Teller;
use self::trust::Trust;
use self::worker::{Common, Report, Worker};
use super::Failure;
use crate::backfiller::ExitStatus;
use crate::config::Config;
use crate::dump::Roster;
use crate::fetch::host::Host;
use crate::fetch::resolver::Resolver;
use crate::handle::{Handles, Way};
use crate::hosts::Hosts;
use crate::identity::Identities;
use crate::logging;
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::sink::room::Said;
use crate::worker::Shared;

/// How long the end waits for threads.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether they have ended.
const JOIN_POLL: Duration = Duration::from_millis(1);
/// One job waits in the channel for so many workers, as in the worker.
const WORKERS_PER_JOB: usize = 8;

/// Exports all that is asked for.
pub(super) fn export(options: &Options) -> Result<ExitStatus, Failure> {
    let config = Arc::new(options.config()?);
    let list = sources::all(&options.sources, &options.file)?;
    let opener = options.opener(&list, &config)?;
    let host = options.host(&list)?;
    let way = Way::from_options(&options.handles)?;
    let bar = teller::bar(list.len(), options.output.is_none());
    let (filter, format) = (&*config.log, config.log_format);
    match bar.clone() {
        Some(bar) => logging::to_stderr_beside(move |write| bar.suspend(write), filter, format),
        None => logging::to_stderr(filter, format),
    }
    let output = Output::create(options.output.as_deref(), options.force)?;
    let shutdown = Shutdown::default();
    let part = output.part();
    shutdown
        .on_signals_saying(
            "signal: the repo that is being written is written to its end, then this ends; a second signal ends at once",
            "second signal: ending at once",
            move || {
                // Where it has its name by now, or cannot be removed, it stays.
                let _ = part.as_ref().map(fs::remove_file);
            },
        )
        .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))?;

    let unverified = opener
        .as_ref()
        .is_some_and(|opener| matches!(opener.trust, Trust::Unverified));
    let teller = Teller::new(list.len(), bar, unverified);
    let turns = Turns::new(output);
    let crew = Crew::start(&config, &shutdown, (opener, way, host.clone()), &turns)
        .map_err(|error| Failure::Failed(format!("a thread cannot be started: {error}")))?;
    let ends = (crew.jobs.clone(), crew.reports.clone());
    let mut dispatcher = Dispatcher::new(&crew.shared, list, host, ends, teller);
    let end = dispatcher.run();
    shutdown.request();
    finish(options, crew, dispatcher.into_teller(), turns, end)
}

/// Ends the threads and the output, and says what has become of all.
fn finish(
    options: &Options,
    crew: Crew,
    mut teller: Teller,
    turns: Turns,
    end: End,
) -> Result<ExitStatus, Failure> {
    let metrics = Arc::clone(&crew.shared.metrics);
    // Whoever still writes a repo does so to its end.
    let (output, written) = turns.end().unzip();
    let written = written.unwrap_or_default();
    match end {
        End::Done => {
            crew.join();
            if let Some(output) = output {
                output.finish()?;
            }
            teller.sum_up(&metrics, written, "");
            Ok(if teller.is_well() {
                ExitStatus::Done
            } else {
                ExitStatus::Failure
            })
        }
        // Downloads that nobody waits for any more end with the process.
        End::Shutdown => {
            drop(output);
            let end = match &options.output {
                Some(path) => format!("; interrupted, {path:?} is not made"),
                None => "; interrupted".to_owned(),
            };
            teller.sum_up(&metrics, written, &end);
            Ok(ExitStatus::Interrupted)
        }
        End::OutputFailed(error) => {
            drop((output, teller));
            match (&options.output, error.kind()) {
                // Nobody need be told who has had enough; but one that has died may have been the last to know that not all is there.
                (None, ErrorKind::BrokenPipe) => Ok(ExitStatus::Failure),
                (None, _) => Err(Failure::Failed(format!(
                    "standard output cannot be written: {error}"
                ))),
                (Some(path), _) => Err(Failure::Failed(format!(
                    "--output {path:?} cannot be written: {error}"
                ))),
            }
        }
    }
}

/// The threads.
struct Crew {
    shared: Shared,
    threads: Vec<JoinHandle<()>>,
    jobs: Sender<(job::Job, crate::hosts::Permits)>,
    reports: Receiver<Report>,
}

impl Crew {
    fn start(
        config: &Arc<Config>,
        shutdown: &Shutdown,
        (opener, way, host): (Option<Opener>, Way, Option<Host>),
        turns: &Turns,
    ) -> io::Result<Self> {
        let (resolver, mut threads) = Resolver::start(config.concurrency, &Roster::default())?;
        let hosts = Hosts::new(config);
        let shared = Shared {
            config: Arc::clone(config),
            identities: Arc::new(Identities::new(config, &resolver, &hosts)),
            hosts,
            metrics: Arc::new(Metrics::default()),
            memory: Budget::new(config.memory_budget),
            said: Said::default(),
            shutdown: shutdown.clone(),
        };
        let common = Common {
            shared: shared.clone(),
            turns: turns.clone(),
            handles: Arc::new(Handles::new(way, config, &resolver, &shared.hosts)),
            host,
            opener: opener.map(Arc::new),
        };
        let (jobs, taken) = bounded((config.concurrency / WORKERS_PER_JOB).max(1));
        let (report, reports) = unbounded();
        for n in 0..config.concurrency {
            let worker = Worker::new(common.clone(), &resolver);
            let (taken, report) = (taken.clone(), report.clone());
            let thread = thread::Builder::new().name(format!("worker-{n}"));
            threads.push(thread.spawn(move || worker.run(&taken, &report))?);
        }
        Ok(Crew {
            shared,
            threads,
            jobs,
            reports,
        })
    }

    /// Joins the threads, none of which has anything to do any more. A look-up of a name cannot be stopped: one that still hangs is left
    /// to the end of the process.
    fn join(self) {
        let Crew {
            threads,
            shared,
            jobs,
            reports,
        } = self;
        // The resolver's threads end when nobody can ask them.
        drop((shared, jobs, reports));
        let limit = Instant::now() + GRACE;
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < limit {
            thread::sleep(JOIN_POLL);
        }
        for thread in threads.into_iter().filter(JoinHandle::is_finished) {
            // Workers catch the panics of their jobs, and a resolver's has failed whoever asked.
            let _ = thread.join();
        }
    }
}
