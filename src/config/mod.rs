//! The configuration: one [`Config`], validated once at the start and never changed after it.
//!
//! [`Cli`] holds what the operator wrote, [`Config::from_cli`] checks it, and every other module takes values that need no
//! further check. A value that is not accepted stops the start with one line that names the variable, the value and what is
//! accepted (`tests/config.rs`); the password of the Redis URL appears in no message and in no log line.

mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};
use serde_json::Value as Json;

use self::read::{
    boolean, collections, consumer, contact, decimal, http, key, log_filter, log_format, millis,
    number, optional, plc_url, refuse, seconds, spill_dir, text,
};
use crate::cli::Cli;
use crate::collections::Collections;
use crate::logging::{Field, Format};
use crate::redact::redact;

/// Most worker threads of one process; each holds a connection to Redis and the buffers of one repo.
pub const MAX_CONCURRENCY: u64 = 1024;

/// Requests to one host at a time where nothing else is set: enough to fill the default rate
/// with requests of a second each.
pub const DEFAULT_HOST_CONCURRENCY: usize = 10;
/// Requests to one host a second where nothing else is set: servers of the network allow an address 3,000 in 5 minutes.
pub const DEFAULT_HOST_RPS: f64 = 10.0;
/// did:plc look-ups a second where nothing else is set: four million a day.
pub const DEFAULT_PLC_RPS: f64 = 50.0;

/// Most requests to one host at a time: no more than there are workers.
const MAX_HOST_CONCURRENCY: u64 = MAX_CONCURRENCY;
/// Least requests a second: one in 100 s.
const MIN_RPS: f64 = 0.01;
/// Most requests a second: more than one process makes.
const MAX_RPS: f64 = 100_000.0;
/// Longest time of nothing but deferrals, in seconds: a month. A host that is away for longer is gone.
const MAX_DEFERRED_SECS: u64 = 30 * 86_400;

/// Largest memory budget in mebibytes: 16 TiB, more than a machine has.
const MAX_MEMORY_MB: u64 = 16 << 20;

/// What an operator can set; see the table in the README.
#[derive(Clone)]
pub struct Config {
    /// Where Redis is. Holds the password: printed only through [`redact`].
    pub redis: ConnectionInfo,
    /// The Redis URL without its password, for logs.
    pub redis_shown: String,
    /// Name of this consumer in the group, unique per process.
    pub consumer: String,
    /// Key of the input stream.
    pub backfill_stream: String,
    /// Key of the output stream.
    pub firehose_stream: String,
    /// Consumer group of the input stream.
    pub group: String,
    /// Key of the dead-letter stream.
    pub dlq_stream: String,
    /// Number of worker threads, 1 to [`MAX_CONCURRENCY`].
    pub concurrency: usize,
    /// Length of the output stream, in entries, at which writing waits.
    pub high_water_mark: u64,
    /// Attempts, in deliveries of a message, after which it becomes a dead letter.
    pub max_attempts: u64,
    /// How long a message waits after its first attempt that failed; each further one doubles it.
    pub initial_backoff: Duration,
    /// How long a message waits at most.
    pub max_backoff: Duration,
    /// How long a message may only ever be deferred, and a host be without success, until it is given up.
    pub max_deferred: Duration,
    /// After how long without a sign of life a message may be taken over by another instance.
    pub lease: Duration,
    /// Directory of did:plc documents, without a slash at the end.
    pub plc_url: String,
    /// Look-ups a second that the directory is asked for. `None`: not set by the operator; then [`DEFAULT_PLC_RPS`] holds for a
    /// directory at a public address, and none for one at a loopback or private address, which is the operator's own.
    pub plc_rps: Option<f64>,
    /// Requests to one host at a time. `None`: not set by the operator; then [`DEFAULT_HOST_CONCURRENCY`] holds for hosts at public
    /// addresses only. What is set holds for all.
    pub host_concurrency: Option<usize>,
    /// Requests to one host a second, with [`DEFAULT_HOST_RPS`] in the same way.
    pub host_rps: Option<f64>,
    /// How long one download may take as a whole.
    pub http_timeout: Duration,
    /// Whether servers are asked for compressed repos.
    pub http_gzip: bool,
    /// Largest CAR in bytes that is read.
    pub max_repo_bytes: u64,
    /// Bytes of memory that the repos of all workers may take together.
    pub memory_budget: u64,
    /// Where the blocks of repos go that do not fit.
    pub spill_dir: Arc<Path>,
    /// Whether hosts at loopback and private addresses are allowed.
    pub allow_private_hosts: bool,
    /// Collections whose records become events.
    pub collections: Collections,
    /// How to reach the operator; part of the User-Agent.
    pub contact: Option<String>,
    /// How long the drain after the first Ctrl-C may take.
    pub shutdown_timeout: Duration,
    /// Where the operator's HTTP server listens; `None`: there is none. Port 0 means a free one.
    pub http: Option<SocketAddr>,
    /// Log filter in env_logger's syntax.
    pub log: String,
    /// For whom the lines of the log are.
    pub log_format: Format,
}

/// A value that is not accepted; displayed in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}{value} is not accepted: {accepted}")]
pub struct ConfigError {
    /// The environment variable (the flag has the same name).
    pub variable: &'static str,
    /// `=value`, or ` (unset)`.
    pub value: String,
    /// What would be accepted.
    pub accepted: String,
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is not accepted. An empty value counts as unset.
    pub fn from_cli(cli: &Cli) -> Result<Self, ConfigError> {
        let redis_url = text(&cli.redis.redis_url).unwrap_or("redis://localhost:6379");
        let redis = redis_url.into_connection_info().map_err(|_| {
            refuse(
                "REDIS_URL",
                &redact(redis_url),
                "a URL redis://, rediss:// or unix://",
            )
        })?;
        let config = Config {
            redis,
            redis_shown: redact(redis_url),
            consumer: consumer(&cli.consumer)?,
            backfill_stream: key(
                "BACKFILLER_BACKFILL_STREAM",
                &cli.redis.backfill_stream,
                "repo_backfill",
            )?,
            firehose_stream: key(
                "BACKFILLER_FIREHOSE_STREAM",
                &cli.redis.firehose_stream,
                "firehose_backfill",
            )?,
            group: key("BACKFILLER_GROUP", &cli.redis.group, "repo_backfill_group")?,
            dlq_stream: key(
                "BACKFILLER_DLQ_STREAM",
                &cli.redis.dlq_stream,
                "repo_backfill_dlq",
            )?,
            concurrency: number(
                "BACKFILLER_CONCURRENCY",
                &cli.concurrency,
                2,
                1,
                MAX_CONCURRENCY,
            )? as usize,
            high_water_mark: number(
                "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK",
                &cli.redis.firehose_stream_high_water_mark,
                100_000,
                1,
                u64::MAX,
            )?,
            max_attempts: number(
                "BACKFILLER_MAX_ATTEMPTS",
                &cli.max_attempts,
                8,
                1,
                1_000_000,
            )?,
            initial_backoff: millis(
                "BACKFILLER_RETRY_INITIAL_BACKOFF_MS",
                &cli.retry_initial_backoff_ms,
                30_000,
            )?,
            max_backoff: millis(
                "BACKFILLER_RETRY_MAX_BACKOFF_MS",
                &cli.retry_max_backoff_ms,
                3_600_000,
            )?,
            max_deferred: Duration::from_secs(number(
                "BACKFILLER_MAX_DEFERRED_SECS",
                &cli.max_deferred_secs,
                72 * 3600,
                1,
                MAX_DEFERRED_SECS,
            )?),
            lease: Duration::from_secs(number(
                "BACKFILLER_LEASE_SECS",
                &cli.lease_secs,
                60,
                1,
                3600,
            )?),
            plc_url: plc_url(&cli.requests.plc_url)?,
            plc_rps: decimal(
                "BACKFILLER_PLC_RPS",
                &cli.requests.plc_rps,
                MIN_RPS,
                MAX_RPS,
            )?,
            host_concurrency: optional(
                "BACKFILLER_HOST_CONCURRENCY",
                &cli.requests.host_concurrency,
                1,
                MAX_HOST_CONCURRENCY,
            )?
            .map(|n| n as usize),
            host_rps: decimal(
                "BACKFILLER_HOST_RPS",
                &cli.requests.host_rps,
                MIN_RPS,
                MAX_RPS,
            )?,
            http_timeout: seconds(
                "BACKFILLER_HTTP_TIMEOUT_SECS",
                &cli.requests.http_timeout_secs,
                600,
                1,
            )?,
            http_gzip: boolean("BACKFILLER_HTTP_GZIP", &cli.repos.http_gzip)?,
            max_repo_bytes: number(
                "BACKFILLER_MAX_REPO_BYTES",
                &cli.repos.max_repo_bytes,
                4 << 30,
                1,
                u64::MAX,
            )?,
            memory_budget: number(
                "BACKFILLER_MEMORY_BUDGET_MB",
                &cli.repos.memory_budget_mb,
                512,
                1,
                MAX_MEMORY_MB,
            )? << 20,
            spill_dir: spill_dir(&cli.repos.spill_dir)?,
            allow_private_hosts: boolean(
                "BACKFILLER_ALLOW_PRIVATE_HOSTS",
                &cli.requests.allow_private_hosts,
            )?,
            collections: collections(&cli.repos.collections)?,
            contact: contact(&cli.requests.contact)?,
            shutdown_timeout: seconds(
                "BACKFILLER_SHUTDOWN_TIMEOUT_SECS",
                &cli.shutdown_timeout_secs,
                60,
                0,
            )?,
            http: http(&cli.http.metrics_port, &cli.http.metrics_bind)?,
            log: log_filter(&cli.logs.log)?,
            log_format: log_format(&cli.logs.log_format)?,
        };
        config.streams_differ()?;
        config.backoff_grows()?;
        Ok(config)
    }

    /// Input, output and dead letters are three streams: one that were two of them would feed itself.
    fn streams_differ(&self) -> Result<(), ConfigError> {
        let named = [
            ("BACKFILLER_FIREHOSE_STREAM", &self.firehose_stream),
            ("BACKFILLER_DLQ_STREAM", &self.dlq_stream),
        ];
        for (i, (variable, key)) in named.iter().enumerate() {
            if **key == self.backfill_stream || (i == 1 && *key == named[0].1) {
                return Err(refuse(
                    variable,
                    key,
                    "input, output and dead-letter stream must differ",
                ));
            }
        }
        Ok(())
    }

    fn backoff_grows(&self) -> Result<(), ConfigError> {
        if self.max_backoff >= self.initial_backoff {
            return Ok(());
        }
        Err(refuse(
            "BACKFILLER_RETRY_MAX_BACKOFF_MS",
            &self.max_backoff.as_millis().to_string(),
            format!(
                "not less than BACKFILLER_RETRY_INITIAL_BACKOFF_MS, which is {}",
                self.initial_backoff.as_millis()
            ),
        ))
    }

    /// Each value under its name, without secrets, for the log.
    pub fn fields(&self) -> Vec<Field> {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let (initial, longest) = (
            self.initial_backoff.as_millis(),
            self.max_backoff.as_millis(),
        );
        vec![
            ("redis", self.redis_shown.as_str().into()),
            ("consumer", self.consumer.as_str().into()),
            ("group", self.group.as_str().into()),
            ("input", self.backfill_stream.as_str().into()),
            ("output", self.firehose_stream.as_str().into()),
            ("dead_letters", self.dlq_stream.as_str().into()),
            ("concurrency", self.concurrency.into()),
            ("high_water_mark", self.high_water_mark.into()),
            ("max_attempts", self.max_attempts.into()),
            ("backoff", format!("{initial}ms..{longest}ms").into()),
            ("max_deferred", seconds(self.max_deferred).into()),
            ("lease", seconds(self.lease).into()),
            ("plc", redact(&self.plc_url).into()),
            ("plc_rps", limit(self.plc_rps, DEFAULT_PLC_RPS)),
            (
                "host_concurrency",
                limit(self.host_concurrency, DEFAULT_HOST_CONCURRENCY),
            ),
            ("host_rps", limit(self.host_rps, DEFAULT_HOST_RPS)),
            ("http_timeout", seconds(self.http_timeout).into()),
            ("gzip", self.http_gzip.into()),
            ("max_repo_bytes", self.max_repo_bytes.into()),
            (
                "memory_budget",
                format!("{}MB", self.memory_budget >> 20).into(),
            ),
            ("spill_dir", self.spill_dir.display().to_string().into()),
            ("private_hosts", self.allow_private_hosts.into()),
            ("collections", self.collections.to_string().into()),
            ("shutdown_timeout", seconds(self.shutdown_timeout).into()),
            (
                "http",
                self.http
                    .map_or("off".to_owned(), |address| address.to_string())
                    .into(),
            ),
        ]
    }
}

/// A limit as it is set or, where it is not, the default with what it holds for.
fn limit<T: fmt::Display>(set: Option<T>, default: T) -> Json {
    set.map_or_else(|| format!("{default}(public)"), |set| set.to_string())
        .into()
}
