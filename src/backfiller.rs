//! The supervisor: starts the threads, watches over them, and joins them.
//!
//! It runs on the main thread. Every other thread reports its end through one channel, by a guard that is dropped with the thread's
//! closure, so that a thread that panics reports as well. Between those reports the supervisor writes the heartbeat and the
//! progress lines. When shutdown is asked for, by a signal or by a thread that cannot go on, it waits for the threads as long as
//! the drain may take, and gives back what they hold then; the keeper ends last. Then it returns, and the end of the process ends
//! what is left. Pinned by `tests/shutdown.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use log::Level;
use redis::RedisError;

use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::dump::{Dumper, Place, Roster};
use crate::error::JobError;
use crate::fetch::resolver::Resolver;
use crate::http::{Server, Watched};
use crate::identity::Identities;
use crate::lines::Lines;
use crate::logging::say;
use crate::metrics::Metrics;
use crate::preflight;
use crate::queue::held::Held;
use crate::queue::lease::Keeper;
use crate::queue::name::{Name, Taken};
use crate::queue::reader::{Ends, Reader, create_group};
use crate::shutdown::Shutdown;
use crate::sink::room::Said;
use crate::status::{Phase, Slot};
use crate::worker::{Shared, Worker};

/// How often the supervisor looks around.
const TICK: Duration = Duration::from_secs(1);
/// How much longer than the drain a thread may take to end that has no repo: the reader may be waiting for Redis.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether all threads have ended.
const JOIN_POLL: Duration = Duration::from_millis(5);
/// One job waits in the channel for so many workers: enough that none waits for the reader, and so few that none has its host's
/// permit for long before it is used.
const WORKERS_PER_JOB: usize = 8;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// All that was begun is finished.
    Done = 0,
    /// Something failed that waiting does not mend.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The drain was cut by its time-out.
    DrainCut = 3,
    /// Another process has the consumer name, since before this one started or since it lost it.
    NameLost = 4,
    /// A command was ended by a signal.
    Interrupted = 130,
}

/// Runs until shutdown.
pub fn run(config: Config, shutdown: &Shutdown) -> ExitStatus {
    match supervise(Arc::new(config), shutdown) {
        Ok(status) => status,
        Err(error) => {
            log::error!("{error}");
            error.status()
        }
    }
}

/// What keeps the program from starting.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Http(std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the consumer name {consumer} is held by {holder}: each process needs a name of its own"
    )]
    NameHeld { consumer: String, holder: String },
}

impl StartError {
    /// How the process ends then. A name that another process has is no failure that another start would mend.
    fn status(&self) -> ExitStatus {
        match self {
            StartError::NameHeld { .. } => ExitStatus::NameLost,
            _ => ExitStatus::Failure,
        }
    }
}

fn supervise(config: Arc<Config>, shutdown: &Shutdown) -> Result<ExitStatus, StartError> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    log::info!("~version" = VERSION; "{} {VERSION}", env!("CARGO_PKG_NAME"));
    let configuration = ("~message", "configuration".into());
    let fields = [&[configuration], &*config.fields()].concat();
    say(Level::Info, module_path!(), "", &fields);
    warn_of_memory_as_disk(&config);
    let roster = Roster::default();
    let place = roster.place("main");
    place.enter(Phase::Start);
    // ctrlc's thread, which does nothing but wait for the signals that ask for the end.
    let signals = roster.place("ctrl-c");
    signals.enter(Phase::Wait);
    let dumper = Dumper::start(config.log_format, &roster)?;
    let watched = Watched::new(&config, shutdown);
    // Before Redis is waited for: whoever asks then shall hear what is missing.
    let server = config
        .http
        .map(|address| Server::start(address, &watched, &roster).map_err(StartError::Http))
        .transpose()?;
    let metrics = &watched.metrics;
    let mut link = Link::new(&config.redis, shutdown)?;
    place.enter(Phase::Redis);
    let status = match prepare(&mut link, &config, shutdown)? {
        Some(name) => {
            place.enter(Phase::Start);
            let mut crew = Crew::start(&watched, name, &roster)?;
            let status = watch(&mut crew, &config, shutdown, metrics, &place);
            place.enter(Phase::End);
            crew.end(status)
        }
        None => ExitStatus::Done,
    };
    // Where this function ends before, it ends as well.
    drop(server);
    say(Level::Info, module_path!(), "summary", &metrics.fields());
    dumper.end();
    Ok(status)
}

/// Blocks that leave the memory for a tmpfs have not left it.
fn warn_of_memory_as_disk(config: &Config) {
    if preflight::is_memory(&config.spill_dir) {
        let folder = config.spill_dir.display();
        log::warn!(
            "~folder":% = folder;
            "{folder} (BACKFILLER_SPILL_DIR) is a tmpfs: what is moved there stays in memory"
        );
    }
}

/// Checks the server, takes the consumer name and creates the group. `None`: shutdown came first.
fn prepare(
    link: &mut Link,
    config: &Config,
    shutdown: &Shutdown,
) -> Result<Option<Name>, StartError> {
    let refused = link.insist(Patience::UntilShutdown, |link| {
        preflight::refusal(link, config)
    });
    match refused {
        Ok(None) => {}
        Ok(Some(refusal)) => return Err(StartError::Refused(refusal)),
        Err(Stop::Shutdown) => return Ok(None),
        Err(Stop::Error(e)) => return Err(e.into()),
    }
    let name = Name::new(config);
    match name.take(link, shutdown) {
        Ok(Taken::Yes) => {}
        Ok(Taken::By(holder)) => {
            return Err(StartError::NameHeld {
                consumer: config.consumer.clone(),
                holder,
            });
        }
        Ok(Taken::Shutdown) | Err(Stop::Shutdown) => return Ok(None),
        Err(Stop::Error(e)) => return Err(e.into()),
    }
    match link.insist(Patience::UntilShutdown, |link| create_group(link, config)) {
        Ok(()) => Ok(Some(name)),
        Err(Stop::Shutdown) => Ok(None),
        Err(Stop::Error(e)) => Err(e.into()),
    }
}

/// The threads, and how they report their end.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    ended: Receiver<End>,
    /// Dropped to tell the keeper that all others have ended.
    others: Sender<Infallible>,
    held: Arc<Held>,
    name_lost: Arc<AtomicBool>,
    slots: Vec<Arc<Slot>>,
}

/// The end of a thread.
enum End {
    /// As it should.
    Well,
    /// It could not go on.
    Failed(JobError),
    /// It panicked outside of a job.
    Panicked,
}

impl Crew {
    fn start(watched: &Watched, name: Name, roster: &Roster) -> Result<Self, StartError> {
        let (config, metrics, shutdown) = (&watched.config, &watched.metrics, &watched.shutdown);
        let (end, ended) = unbounded();
        let (others, others_ended) = bounded(0);
        let (held, name_lost) = (Arc::new(Held::default()), Arc::new(AtomicBool::new(false)));
        let place = roster.place("keeper");
        let keeper = Keeper::new(
            Arc::clone(config),
            name,
            Arc::clone(&held),
            Arc::clone(metrics),
            shutdown,
            Arc::clone(&name_lost),
            place.slot(),
        )?;
        let keeper = thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || {
                let _place = place;
                keeper.run(&others_ended);
            })?;
        let (resolver, mut threads) = Resolver::start(config.concurrency, roster)?;
        let (sender, jobs) = bounded((config.concurrency / WORKERS_PER_JOB).max(1));
        let (give_back, returned) = unbounded();
        let hosts = Arc::clone(&watched.hosts);
        let shared = Shared {
            config: Arc::clone(config),
            identities: Arc::new(Identities::new(config, &resolver, &hosts)),
            hosts,
            metrics: Arc::clone(metrics),
            memory: Arc::clone(&watched.memory),
            said: Said::default(),
            shutdown: shutdown.clone(),
        };
        let mut slots = Vec::new();
        for n in 0..config.concurrency {
            let ends = (jobs.clone(), give_back.clone());
            let name = format!("worker-{n}");
            let place = roster.place(&name);
            slots.push(place.slot());
            let worker = Worker::new(shared.clone(), ends, place.slot(), &resolver)?;
            threads.push(spawn(name, &end, place, move || worker.run())?);
        }
        let ends = Ends {
            jobs: sender,
            unread: jobs,
            returned,
        };
        let place = roster.place("reader");
        let reader = Reader::new(
            Arc::clone(config),
            ends,
            (Arc::clone(&shared.hosts), Arc::clone(&shared.identities)),
            Arc::clone(&held),
            shutdown,
            (Arc::clone(metrics), place.slot()),
            watched.waiting.clone(),
        )?;
        threads.push(spawn("reader".to_owned(), &end, place, move || {
            reader.run()
        })?);
        watched.begins_to_work(slots.clone());
        Ok(Crew {
            threads,
            keeper,
            ended,
            others,
            held,
            name_lost,
            slots,
        })
    }

    /// Gives back what is still held and ends the keeper; joins all threads that have ended.
    fn end(mut self, status: ExitStatus) -> ExitStatus {
        self.held.release_all();
        drop(self.others);
        // A look-up of a name cannot be stopped, and the resolver's threads are all that may still run, unless the drain was
        // cut: what does not end in time is left to the end of the process.
        if status == ExitStatus::DrainCut {
            self.threads.clear();
        }
        self.threads.push(self.keeper);
        let limit = Instant::now() + IDLE_GRACE;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < limit {
            thread::sleep(JOIN_POLL);
        }
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            // A panic has been reported already.
            let _ = thread.join();
        }
        if status == ExitStatus::Done && self.name_lost.load(Relaxed) {
            return ExitStatus::NameLost;
        }
        status
    }

    /// How many workers have a repo.
    fn in_flight(&self) -> usize {
        let slots = self.slots.iter();
        slots.filter(|slot| slot.view().is_some()).count()
    }
}

/// Starts a thread that reports its end, however it ends.
fn spawn(
    name: String,
    end: &Sender<End>,
    place: Place,
    body: impl FnOnce() -> Result<(), JobError> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    struct Report {
        to: Sender<End>,
        end: Option<End>,
    }
    impl Drop for Report {
        fn drop(&mut self) {
            // The supervisor is gone only when the process ends.
            let _ = self.to.send(self.end.take().unwrap_or(End::Panicked));
        }
    }
    let report = Report {
        to: end.clone(),
        end: None,
    };
    thread::Builder::new().name(name).spawn(move || {
        // Moves all of the report in here, not only the field: it must be dropped at the end of this thread.
        let mut report = report;
        let _place = place;
        report.end = Some(match body() {
            Ok(()) => End::Well,
            Err(error) => End::Failed(error),
        });
    })
}

/// Waits until all threads have ended, or the drain has lasted too long.
fn watch(
    crew: &mut Crew,
    config: &Config,
    shutdown: &Shutdown,
    metrics: &Metrics,
    place: &Place,
) -> ExitStatus {
    place.enter(Phase::Wait);
    // Workers and reader; the resolver's threads end when all of these have, and the keeper is told to.
    let mut running = config.concurrency + 1;
    let mut status = ExitStatus::Done;
    let mut lines = Lines::new(config, shutdown);
    let mut deadline = None;
    while running > 0 {
        match crew.ended.recv_timeout(TICK) {
            Ok(end) => {
                running -= 1;
                let failure = match end {
                    End::Well => None,
                    End::Failed(error) => Some(error.text),
                    End::Panicked => Some(
                        "a thread panicked outside of a job; this is a defect of this program"
                            .to_owned(),
                    ),
                };
                if let Some(failure) = failure {
                    log::error!("~error" = failure; "cannot go on: {failure}");
                    status = ExitStatus::Failure;
                    shutdown.request();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if crew.keeper.is_finished() && status == ExitStatus::Done {
            log::error!("cannot go on: the keeper panicked; this is a defect of this program");
            status = ExitStatus::Failure;
            shutdown.request();
        }
        let now = Instant::now();
        if running > 0 && shutdown.is_requested() {
            place.enter(Phase::Drain);
            let deadline = *deadline.get_or_insert(now + config.shutdown_timeout);
            let in_flight = crew.in_flight();
            if now >= deadline && in_flight > 0 {
                log::warn!(
                    "~in_flight" = in_flight;
                    "the drain is cut with {in_flight} repos in flight; they are released, and others go on with them"
                );
                return match status {
                    ExitStatus::Done => ExitStatus::DrainCut,
                    failure => failure,
                };
            }
            if now >= deadline + IDLE_GRACE {
                log::warn!("{running} threads without a repo did not end in time");
                return status;
            }
        }
        lines.write_due(&crew.slots, metrics, now);
    }
    status
}
