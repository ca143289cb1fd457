//! The configuration: one [`Config`], validated once at the start and never changed after it.
//!
//! [`Cli`] holds what the operator wrote, [`Config::from_cli`] checks it, and every other module takes values that need no
//! further check. A value that is not accepted stops the start with one line that names the variable, the value and what is
//! accepted (`tests/config.rs`); the password of the Redis URL appears in no message and in no log line.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};
use url::Url;

use crate::cli::Cli;
use crate::redact::redact;

/// Most worker threads of one process; each holds a connection to Redis and the buffers of one repo.
pub const MAX_CONCURRENCY: u64 = 1024;

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
    /// After how long without a sign of life a message may be taken over by another instance.
    pub lease: Duration,
    /// Directory of did:plc documents, without a slash at the end.
    pub plc_url: String,
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
    /// How to reach the operator; part of the User-Agent.
    pub contact: Option<String>,
    /// How long the drain after the first Ctrl-C may take.
    pub shutdown_timeout: Duration,
    /// Log filter in env_logger's syntax.
    pub log: String,
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
        let redis_url = text(&cli.redis_url).unwrap_or("redis://localhost:6379");
        let redis = redis_url.into_connection_info().map_err(|_| ConfigError {
            variable: "REDIS_URL",
            value: format!("={}", redact(redis_url)),
            accepted: "a URL redis://, rediss:// or unix://".to_owned(),
        })?;
        let config = Config {
            redis,
            redis_shown: redact(redis_url),
            consumer: consumer(&cli.consumer)?,
            backfill_stream: key(
                "BACKFILLER_BACKFILL_STREAM",
                &cli.backfill_stream,
                "repo_backfill",
            )?,
            firehose_stream: key(
                "BACKFILLER_FIREHOSE_STREAM",
                &cli.firehose_stream,
                "firehose_backfill",
            )?,
            group: key("BACKFILLER_GROUP", &cli.group, "repo_backfill_group")?,
            dlq_stream: key(
                "BACKFILLER_DLQ_STREAM",
                &cli.dlq_stream,
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
                &cli.firehose_stream_high_water_mark,
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
            lease: Duration::from_secs(number(
                "BACKFILLER_LEASE_SECS",
                &cli.lease_secs,
                60,
                1,
                3600,
            )?),
            plc_url: plc_url(&cli.plc_url)?,
            http_timeout: seconds(
                "BACKFILLER_HTTP_TIMEOUT_SECS",
                &cli.http_timeout_secs,
                600,
                1,
            )?,
            http_gzip: boolean("BACKFILLER_HTTP_GZIP", &cli.http_gzip)?,
            max_repo_bytes: number(
                "BACKFILLER_MAX_REPO_BYTES",
                &cli.max_repo_bytes,
                4 << 30,
                1,
                u64::MAX,
            )?,
            memory_budget: number(
                "BACKFILLER_MEMORY_BUDGET_MB",
                &cli.memory_budget_mb,
                512,
                1,
                MAX_MEMORY_MB,
            )? << 20,
            spill_dir: spill_dir(&cli.spill_dir)?,
            allow_private_hosts: boolean(
                "BACKFILLER_ALLOW_PRIVATE_HOSTS",
                &cli.allow_private_hosts,
            )?,
            contact: contact(&cli.contact)?,
            shutdown_timeout: seconds(
                "BACKFILLER_SHUTDOWN_TIMEOUT_SECS",
                &cli.shutdown_timeout_secs,
                60,
                0,
            )?,
            log: log_filter(&cli.log)?,
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
}

impl fmt::Display for Config {
    /// One line, without secrets, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "redis={} consumer={} group={} input={} output={} dead_letters={} concurrency={} high_water_mark={} \
             max_attempts={} backoff={}ms..{}ms lease={}s plc={} http_timeout={}s gzip={} max_repo_bytes={} memory_budget={}MB spill_dir={} private_hosts={} shutdown_timeout={}s",
            self.redis_shown,
            self.consumer,
            self.group,
            self.backfill_stream,
            self.firehose_stream,
            self.dlq_stream,
            self.concurrency,
            self.high_water_mark,
            self.max_attempts,
            self.initial_backoff.as_millis(),
            self.max_backoff.as_millis(),
            self.lease.as_secs(),
            redact(&self.plc_url),
            self.http_timeout.as_secs(),
            self.http_gzip,
            self.max_repo_bytes,
            self.memory_budget >> 20,
            self.spill_dir.display(),
            self.allow_private_hosts,
            self.shutdown_timeout.as_secs(),
        )
    }
}

fn refuse(variable: &'static str, value: &str, accepted: impl Into<String>) -> ConfigError {
    ConfigError {
        variable,
        // Escaped, so that the message stays one line.
        value: format!("={}", value.escape_debug()),
        accepted: accepted.into(),
    }
}

/// An empty value counts as unset, as service managers and compose files write it.
fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|s| !s.is_empty())
}

fn number(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    let Some(value) = text(value) else {
        return Ok(default);
    };
    match value.parse::<u64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ if max == u64::MAX => Err(refuse(
            variable,
            value,
            format!("a whole number from {min} up"),
        )),
        _ => Err(refuse(
            variable,
            value,
            format!("a whole number from {min} to {max}"),
        )),
    }
}

/// At most a day: a longer wait is a mistake in units.
fn seconds(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
    min: u64,
) -> Result<Duration, ConfigError> {
    number(variable, value, default, min, 86_400).map(Duration::from_secs)
}

/// At most a day, and more than nothing: a retry without any pause would be a loop.
fn millis(
    variable: &'static str,
    value: &Option<String>,
    default: u64,
) -> Result<Duration, ConfigError> {
    number(variable, value, default, 1, 86_400_000).map(Duration::from_millis)
}

fn boolean(variable: &'static str, value: &Option<String>) -> Result<bool, ConfigError> {
    let value = text(value).unwrap_or("false");
    match value.to_ascii_lowercase().as_str() {
        "false" | "0" | "no" | "off" => Ok(false),
        "true" | "1" | "yes" | "on" => Ok(true),
        _ => Err(refuse(variable, value, "true or false")),
    }
}

/// Keys and names go into Redis commands and log lines as they are.
fn key(
    variable: &'static str,
    value: &Option<String>,
    default: &str,
) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or(default);
    if value.len() > 256 || value.chars().any(|c| c.is_control()) {
        return Err(refuse(
            variable,
            value,
            "at most 256 bytes without control characters",
        ));
    }
    Ok(value.to_owned())
}

fn consumer(value: &Option<String>) -> Result<String, ConfigError> {
    if text(value).is_none() {
        return Err(ConfigError {
            variable: "BACKFILLER_CONSUMER",
            value: " (unset)".to_owned(),
            accepted: "a name that no other process of the group has, for example backfiller_1"
                .to_owned(),
        });
    }
    key("BACKFILLER_CONSUMER", value, "")
}

fn plc_url(value: &Option<String>) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or("https://plc.directory");
    match Url::parse(value) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(refuse(
            "BACKFILLER_PLC_URL",
            &redact(value),
            "a URL http:// or https:// without a query",
        )),
    }
}

/// A file is made there for a moment, to see that it can be.
fn spill_dir(value: &Option<String>) -> Result<Arc<Path>, ConfigError> {
    let value = text(value).unwrap_or("/var/tmp");
    let folder = Path::new(value);
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(folder.into()),
        Err(e) => Err(refuse(
            "BACKFILLER_SPILL_DIR",
            value,
            format!("a folder in which files can be made, which failed with: {e}"),
        )),
    }
}

fn log_filter(value: &Option<String>) -> Result<String, ConfigError> {
    let value = text(value).unwrap_or("info");
    match env_filter::Builder::new().try_parse(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(refuse(
            "RUST_LOG",
            value,
            "off, error, warn, info, debug or trace, or a list of module=level",
        )),
    }
}

/// It becomes part of a header, so it is held to printable ASCII.
fn contact(value: &Option<String>) -> Result<Option<String>, ConfigError> {
    match text(value) {
        Some(value) if value.len() > 200 || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) => {
            Err(refuse(
                "BACKFILLER_CONTACT",
                value,
                "at most 200 characters of printable ASCII",
            ))
        }
        value => Ok(value.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli() -> Cli {
        Cli {
            consumer: Some("backfiller_1".to_owned()),
            ..Cli::default()
        }
    }

    fn error(change: impl FnOnce(&mut Cli)) -> String {
        let mut cli = cli();
        change(&mut cli);
        Config::from_cli(&cli)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let config = Config::from_cli(&cli()).unwrap();
        assert_eq!(config.redis_shown, "redis://localhost:6379");
        assert_eq!(config.backfill_stream, "repo_backfill");
        assert_eq!(config.firehose_stream, "firehose_backfill");
        assert_eq!(config.group, "repo_backfill_group");
        assert_eq!(config.dlq_stream, "repo_backfill_dlq");
        assert_eq!(config.concurrency, 2);
        assert_eq!(config.high_water_mark, 100_000);
        assert_eq!(config.max_attempts, 8);
        assert_eq!(config.initial_backoff, Duration::from_secs(30));
        assert_eq!(config.max_backoff, Duration::from_secs(3600));
        assert_eq!(config.lease, Duration::from_secs(60));
        assert_eq!(config.plc_url, "https://plc.directory");
        assert_eq!(config.http_timeout, Duration::from_secs(600));
        assert!(!config.http_gzip);
        assert_eq!(config.max_repo_bytes, 4_294_967_296);
        assert_eq!(config.memory_budget, 512 << 20);
        assert_eq!(&*config.spill_dir, Path::new("/var/tmp"));
        assert!(!config.allow_private_hosts);
        assert_eq!(config.contact, None);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(60));
        assert_eq!(config.log, "info");
    }

    #[test]
    fn an_empty_value_counts_as_unset() {
        let mut cli = cli();
        cli.concurrency = Some(" ".to_owned());
        assert_eq!(Config::from_cli(&cli).unwrap().concurrency, 2);
        cli.consumer = Some(String::new());
        assert!(Config::from_cli(&cli).is_err());
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_accepted() {
        assert_eq!(
            error(|c| c.concurrency = Some("0".to_owned())),
            "BACKFILLER_CONCURRENCY=0 is not accepted: a whole number from 1 to 1024"
        );
        assert_eq!(
            error(|c| c.concurrency = Some("1025".to_owned())),
            "BACKFILLER_CONCURRENCY=1025 is not accepted: a whole number from 1 to 1024"
        );
        assert_eq!(
            error(|c| c.lease_secs = Some("0".to_owned())),
            "BACKFILLER_LEASE_SECS=0 is not accepted: a whole number from 1 to 3600"
        );
        assert_eq!(
            error(|c| c.retry_max_backoff_ms = Some("29999".to_owned())),
            "BACKFILLER_RETRY_MAX_BACKOFF_MS=29999 is not accepted: not less than \
             BACKFILLER_RETRY_INITIAL_BACKOFF_MS, which is 30000"
        );
        assert!(
            error(|c| c.consumer = None)
                .starts_with("BACKFILLER_CONSUMER (unset) is not accepted: ")
        );
        assert!(
            error(|c| c.http_gzip = Some("maybe".to_owned()))
                .starts_with("BACKFILLER_HTTP_GZIP=maybe ")
        );
        assert!(
            error(|c| c.plc_url = Some("plc.directory".to_owned()))
                .starts_with("BACKFILLER_PLC_URL=")
        );
        assert!(
            error(|c| c.contact = Some("ops\nX-Evil: 1".to_owned()))
                .starts_with("BACKFILLER_CONTACT=")
        );
        assert!(error(|c| c.dlq_stream = Some("repo_backfill".to_owned())).contains("must differ"));
        assert!(
            error(|c| c.dlq_stream = Some("firehose_backfill".to_owned())).contains("must differ")
        );
        assert!(
            error(|c| c.firehose_stream = Some("repo_backfill".to_owned())).contains("must differ")
        );
    }

    #[test]
    fn no_message_shows_a_password() {
        let message = error(|c| c.redis_url = Some("reddis://user:se@cret@host:1".to_owned()));
        assert!(
            message.starts_with("REDIS_URL=reddis://user:***@host:1 "),
            "{message}"
        );
    }
}
