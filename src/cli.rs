//! The command line: the raw, unchecked words of the operator.
//!
//! Each option is an environment variable as well; a flag wins over its variable. Nothing is checked here: every value is
//! a string until [`Config::from_cli`](crate::config::Config::from_cli) has accepted it, so that a bad value is reported in
//! one form, whichever way it came. Options that several commands share stand in groups; what is of one command only stands
//! with that [command](crate::commands). Pinned by `tests/config.rs` and `tests/command_line.rs`.

use clap::{Args, Parser};

use crate::commands::Command;

/// Exit statuses, as each help page ends with them.
const STATUSES: &str = "\
Exit status: 0 done; 1 failure at run time; 2 usage or configuration; 3 the drain was cut by its time-out; 4 another process \
has the consumer name; 130 second Ctrl-C.

The first Ctrl-C (or SIGTERM) stops reading, finishes the repos in flight and ends; the second ends at once.";

/// Examples of `run`.
const RUN_EXAMPLES: &str = "\
Examples:
  BACKFILLER_CONSUMER=backfiller_1 backfiller run
  backfiller run --consumer backfiller_2 --redis-url redis://redis.example:6379 --concurrency 16";

/// Backfills the repos of AT Protocol accounts, each proved against its owner's signature, as events.
///
/// Without a command the worker runs: it reads account ids from a Redis stream, downloads each account's whole repository, proves
/// it, and appends one event per record to another Redis stream. The commands are for the one who runs it.
#[derive(Parser, Debug)]
#[command(
    name = "backfiller",
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    after_help = format!("{RUN_EXAMPLES}\n\n{STATUSES}")
)]
pub struct CommandLine {
    /// What to do; nothing means `run`.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The options of the worker.
    #[command(flatten)]
    pub worker: Cli,
}

/// Runs the worker, as without a command.
#[derive(Args, Debug, Default, Clone)]
#[command(after_help = format!("{RUN_EXAMPLES}\n\n{STATUSES}"))]
pub struct Cli {
    /// Name of this consumer in the group; unique per process (required)
    #[arg(long, env = "BACKFILLER_CONSUMER", value_name = "NAME")]
    pub consumer: Option<String>,

    /// Worker threads, 1 to 1024 [default: 2]
    #[arg(long, env = "BACKFILLER_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<String>,

    /// Attempts after which a message becomes a dead letter [default: 8]
    #[arg(long, env = "BACKFILLER_MAX_ATTEMPTS", value_name = "N")]
    pub max_attempts: Option<String>,

    /// Milliseconds that a message waits after its first failure; each further one doubles it [default: 30000]
    #[arg(long, env = "BACKFILLER_RETRY_INITIAL_BACKOFF_MS", value_name = "MS")]
    pub retry_initial_backoff_ms: Option<String>,

    /// Milliseconds that a message waits at most [default: 3600000]
    #[arg(long, env = "BACKFILLER_RETRY_MAX_BACKOFF_MS", value_name = "MS")]
    pub retry_max_backoff_ms: Option<String>,

    /// Seconds that a message is at most deferred, and a host without success, until it is given up [default: 259200]
    #[arg(long, env = "BACKFILLER_MAX_DEFERRED_SECS", value_name = "SECS")]
    pub max_deferred_secs: Option<String>,

    /// Seconds without a sign of life after which other instances take messages over, 1 to 3600 [default: 60]
    #[arg(long, env = "BACKFILLER_LEASE_SECS", value_name = "SECS")]
    pub lease_secs: Option<String>,

    /// Seconds that repos in flight may take to finish after Ctrl-C [default: 60]
    #[arg(long, env = "BACKFILLER_SHUTDOWN_TIMEOUT_SECS", value_name = "SECS")]
    pub shutdown_timeout_secs: Option<String>,

    /// Redis and its keys.
    #[command(flatten)]
    pub redis: RedisOptions,

    /// How others are asked.
    #[command(flatten)]
    pub requests: RequestOptions,

    /// What is done with repos.
    #[command(flatten)]
    pub repos: RepoOptions,

    /// The operator's HTTP server.
    #[command(flatten)]
    pub http: HttpOptions,

    /// What is logged.
    #[command(flatten)]
    pub logs: LogOptions,
}

/// Where the operator's HTTP server listens.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Metrics and status")]
pub struct HttpOptions {
    /// Port of the status page, /metrics, /healthz, /readyz and /status.json; 0 takes a free one and logs it [default: off]
    #[arg(long, env = "BACKFILLER_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<String>,

    /// IP address that this port listens on; nobody is asked who he is [default: 127.0.0.1]
    #[arg(long, env = "BACKFILLER_METRICS_BIND", value_name = "ADDRESS")]
    pub metrics_bind: Option<String>,
}

/// Where Redis is, and which of its keys are ours.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Redis")]
pub struct RedisOptions {
    /// Redis server: redis://, rediss:// (TLS) or unix:// [default: redis://localhost:6379]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<String>,

    /// Input stream of account ids [default: repo_backfill]
    #[arg(long, env = "BACKFILLER_BACKFILL_STREAM", value_name = "KEY")]
    pub backfill_stream: Option<String>,

    /// Consumer group of the input stream [default: repo_backfill_group]
    #[arg(long, env = "BACKFILLER_GROUP", value_name = "NAME")]
    pub group: Option<String>,

    /// Output stream of events [default: firehose_backfill]
    #[arg(long, env = "BACKFILLER_FIREHOSE_STREAM", value_name = "KEY")]
    pub firehose_stream: Option<String>,

    /// Length of the output stream at which writing waits [default: 100000]
    #[arg(
        long,
        env = "BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK",
        value_name = "N"
    )]
    pub firehose_stream_high_water_mark: Option<String>,

    /// Stream of dead letters [default: repo_backfill_dlq]
    #[arg(long, env = "BACKFILLER_DLQ_STREAM", value_name = "KEY")]
    pub dlq_stream: Option<String>,
}

/// How servers and the directory are asked, and how much.
// These comments are the text of --help: URLs stand in them as the operator writes them.
#[allow(rustdoc::bare_urls)]
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Requests")]
pub struct RequestOptions {
    /// Directory of did:plc documents; a mirror is fine [default: https://plc.directory]
    #[arg(
        long,
        env = "BACKFILLER_PLC_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub plc_url: Option<String>,

    /// did:plc look-ups a second; where it is not set, 50 of a directory at a public address [default: 50]
    #[arg(long, env = "BACKFILLER_PLC_RPS", value_name = "RATE")]
    pub plc_rps: Option<String>,

    /// Requests to one host at a time, 1 to 1024; where it is not set, 10 to hosts at public addresses [default: 10]
    #[arg(long, env = "BACKFILLER_HOST_CONCURRENCY", value_name = "N")]
    pub host_concurrency: Option<String>,

    /// Requests to one host a second; where it is not set, 10 to hosts at public addresses [default: 10]
    #[arg(long, env = "BACKFILLER_HOST_RPS", value_name = "RATE")]
    pub host_rps: Option<String>,

    /// Seconds that one download may take as a whole [default: 600]
    #[arg(long, env = "BACKFILLER_HTTP_TIMEOUT_SECS", value_name = "SECS")]
    pub http_timeout_secs: Option<String>,

    /// Allow hosts at loopback and private addresses, and plain http to them [default: false]
    #[arg(long, env = "BACKFILLER_ALLOW_PRIVATE_HOSTS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_private_hosts: Option<String>,

    /// How the servers' operators can reach you (mail or URL); appears in the User-Agent
    #[arg(long, env = "BACKFILLER_CONTACT", value_name = "TEXT")]
    pub contact: Option<String>,
}

/// How handles are resolved to DIDs.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Handles")]
pub struct HandleOptions {
    /// Server that resolves handles (com.atproto.identity.resolveHandle) instead of the DNS and the handles' own hosts
    #[arg(
        long,
        env = "BACKFILLER_HANDLE_RESOLVER",
        value_name = "URL",
        hide_env_values = true
    )]
    pub handle_resolver: Option<String>,

    /// DNS server to ask instead of the system's: an address and a port
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub dns: Option<String>,
}

/// How repos are read, and which of their records count.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Repos")]
pub struct RepoOptions {
    /// Ask servers for compressed repos [default: false]
    #[arg(long, env = "BACKFILLER_HTTP_GZIP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub http_gzip: Option<String>,

    /// Largest repo in bytes of CAR that is read [default: 4294967296]
    #[arg(long, env = "BACKFILLER_MAX_REPO_BYTES", value_name = "BYTES")]
    pub max_repo_bytes: Option<String>,

    /// Mebibytes of memory that the repos of all workers may take together; what does not fit goes to a file [default: 512]
    #[arg(long, env = "BACKFILLER_MEMORY_BUDGET_MB", value_name = "MB")]
    pub memory_budget_mb: Option<String>,

    /// Folder of those files, on a disk [default: /var/tmp]
    #[arg(long, env = "BACKFILLER_SPILL_DIR", value_name = "FOLDER")]
    pub spill_dir: Option<String>,

    /// Collections whose records become events, with commas between them; app.bsky.feed.* stands for all below it [default: all]
    #[arg(long, env = "BACKFILLER_COLLECTIONS", value_name = "NSIDS")]
    pub collections: Option<String>,
}

/// What is logged.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// Log filter, as env_logger reads it: error, warn, info, debug, or module=level [default: info]
    #[arg(long = "log", env = "RUST_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Form of the log: text, for people, or json, one object a line [default: text]
    #[arg(long, env = "BACKFILLER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
}
