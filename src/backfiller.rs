//! The supervisor: starts the threads, watches over them, and joins them.
//!
//! It runs on the main thread. Every other thread reports its end through one channel, by a guard that is dropped with the thread's
//! closure, so that a thread that panics reports as well. Between those reports the supervisor writes the heartbeat and the
//! progress lines. When shutdown is asked for, by a signal or by a thread that cannot go on, it waits for the threads as long as
//! the drain may take; then it returns, and the end of the process ends what is left. Pinned by `tests/shutdown.rs`.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use redis::{RedisError, RedisResult};

use crate::config::Config;
use crate::connection::{Link, Patience, Stop};
use crate::error::JobError;
use crate::fetch::resolver::Resolver;
use crate::identity::Identities;
use crate::metrics::Metrics;
use crate::queue::reader::{Reader, create_group};
use crate::shutdown::Shutdown;
use crate::status::{Progress, Slot};
use crate::worker::{Shared, Worker};

/// How often the supervisor looks around.
const TICK: Duration = Duration::from_secs(1);
/// How often the heartbeat line is written.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long the heartbeat waits for Redis before it does without.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The oldest Redis with all that is used here.
const OLDEST_REDIS: u64 = 7;

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
}

/// Runs until shutdown.
pub fn run(config: Config, shutdown: &Shutdown) -> ExitStatus {
    match supervise(Arc::new(config), shutdown) {
        Ok(status) => status,
        Err(error) => {
            log::error!("{error}");
            ExitStatus::Failure
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
    Refused(String),
}

fn supervise(config: Arc<Config>, shutdown: &Shutdown) -> Result<ExitStatus, StartError> {
    log::info!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    log::info!("{config}");
    let mut link = Link::new(&config.redis, shutdown)?;
    if !prepare(&mut link, &config)? {
        return Ok(ExitStatus::Done);
    }
    let metrics = Arc::new(Metrics::default());
    let mut crew = Crew::start(&config, shutdown, &metrics)?;
    let status = watch(&mut crew, &config, shutdown, &metrics);
    log::info!("summary {metrics}");
    Ok(status)
}

/// Checks the server and creates the group. Returns `false` when shutdown came first.
fn prepare(link: &mut Link, config: &Config) -> Result<bool, StartError> {
    let checked = link.insist(Patience::UntilShutdown, |link| {
        let refusal = refusal(link, config)?;
        if refusal.is_none() {
            create_group(link, config)?;
        }
        Ok(refusal)
    });
    match checked {
        Ok(None) => Ok(true),
        Ok(Some(refusal)) => Err(StartError::Refused(refusal)),
        Err(Stop::Shutdown) => Ok(false),
        Err(Stop::Error(e)) => Err(e.into()),
    }
}

/// Why this server cannot be worked with, if so.
fn refusal(link: &mut Link, config: &Config) -> RedisResult<Option<String>> {
    let info: redis::InfoDict = link.query(redis::cmd("INFO").arg("server"))?;
    let version: String = info.get("redis_version").unwrap_or_default();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u64>().ok());
    if major.is_some_and(|major| major < OLDEST_REDIS) {
        return Ok(Some(format!(
            "Redis {version} is too old: {OLDEST_REDIS}.0 or later is needed"
        )));
    }
    if info.get::<String>("redis_mode").as_deref() == Some("cluster") {
        return Ok(Some(
            "Redis runs in cluster mode: its transactions cannot span the three streams".to_owned(),
        ));
    }
    for key in [
        &config.backfill_stream,
        &config.firehose_stream,
        &config.dlq_stream,
    ] {
        let kind: String = link.query(redis::cmd("TYPE").arg(key))?;
        if !matches!(kind.as_str(), "none" | "stream") {
            return Ok(Some(format!("the key {key} holds a {kind}, not a stream")));
        }
    }
    Ok(None)
}

/// The threads, and how they report their end.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    ended: Receiver<End>,
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
    fn start(
        config: &Arc<Config>,
        shutdown: &Shutdown,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let (end, ended) = unbounded();
        let (resolver, mut threads) = Resolver::start()?;
        // As many jobs wait as are worked on: enough that no worker waits for the reader, and no more is hoarded.
        let (sender, jobs) = bounded(config.concurrency);
        let shared = Shared {
            config: Arc::clone(config),
            identities: Arc::new(Identities::new(config, &resolver)),
            metrics: Arc::clone(metrics),
            shutdown: shutdown.clone(),
        };
        let slots: Vec<Arc<Slot>> = (0..config.concurrency).map(|_| Arc::default()).collect();
        for (n, slot) in slots.iter().enumerate() {
            let worker = Worker::new(shared.clone(), jobs.clone(), Arc::clone(slot), &resolver)?;
            threads.push(spawn(format!("worker-{n}"), &end, move || worker.run())?);
        }
        let reader = Reader::new(Arc::clone(config), sender, shutdown, Arc::clone(metrics))?;
        threads.push(spawn("reader".to_owned(), &end, move || reader.run())?);
        Ok(Crew {
            threads,
            ended,
            slots,
        })
    }
}

/// Starts a thread that reports its end, however it ends.
fn spawn(
    name: String,
    end: &Sender<End>,
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
        report.end = Some(match body() {
            Ok(()) => End::Well,
            Err(error) => End::Failed(error),
        });
    })
}

/// Waits until all threads have ended, or the drain has lasted too long.
fn watch(crew: &mut Crew, config: &Config, shutdown: &Shutdown, metrics: &Metrics) -> ExitStatus {
    // Workers and reader; the resolver's threads end when all of these have.
    let mut running = config.concurrency + 1;
    let mut status = ExitStatus::Done;
    let mut reports = Reports::new(config, shutdown);
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
                    log::error!("cannot go on: {failure}");
                    status = ExitStatus::Failure;
                    shutdown.request();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        if shutdown.is_requested()
            && now >= *deadline.get_or_insert(now + config.shutdown_timeout)
            && running > 0
        {
            log::warn!(
                "the drain took longer than {} s and is cut; what was in flight stays pending",
                config.shutdown_timeout.as_secs()
            );
            return if status == ExitStatus::Done {
                ExitStatus::DrainCut
            } else {
                status
            };
        }
        reports.write_due(crew, metrics, now);
    }
    for thread in crew.threads.drain(..) {
        // A panic has been reported already.
        let _ = thread.join();
    }
    status
}

/// The lines that are written from time to time.
struct Reports {
    progress: Progress,
    next_heartbeat: Instant,
    last_records: u64,
    last_time: Instant,
    /// A connection of its own; `None` where there cannot be one.
    link: Option<Link>,
    stream: String,
    group: String,
}

impl Reports {
    fn new(config: &Config, shutdown: &Shutdown) -> Self {
        let now = Instant::now();
        Reports {
            progress: Progress::new(config.concurrency),
            next_heartbeat: now + HEARTBEAT,
            last_records: 0,
            last_time: now,
            link: Link::new(&config.redis, shutdown)
                .ok()
                .map(|link| link.with_reply_timeout(HEARTBEAT_TIMEOUT)),
            stream: config.backfill_stream.clone(),
            group: config.group.clone(),
        }
    }

    fn write_due(&mut self, crew: &Crew, metrics: &Metrics, now: Instant) {
        for line in self.progress.lines(&crew.slots, now) {
            log::info!("{line}");
        }
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT;
        let records = metrics.records.get();
        let seconds = now
            .duration_since(self.last_time)
            .as_secs_f64()
            .max(f64::MIN_POSITIVE);
        let rate = (records - self.last_records) as f64 / seconds;
        (self.last_records, self.last_time) = (records, now);
        let in_flight = crew
            .slots
            .iter()
            .filter(|slot| slot.view().is_some())
            .count();
        let pending = self.pending().map_or("?".to_owned(), |n| n.to_string());
        log::info!(
            "heartbeat done={} failures={} in_flight={in_flight} pending={pending} records/s={rate:.0}",
            metrics.repos.get(),
            metrics.failures(),
        );
    }

    /// How many messages are pending in the group, with all its consumers.
    fn pending(&mut self) -> Option<u64> {
        let summary: redis::RedisResult<(u64, redis::Value, redis::Value, redis::Value)> = self
            .link
            .as_mut()?
            .query(redis::cmd("XPENDING").arg(&self.stream).arg(&self.group));
        summary.ok().map(|(pending, ..)| pending)
    }
}
