//! `enqueue`: accounts become messages of the input stream.
//!
//! Accounts come from arguments, files and standard input ([`accounts`]) or from what a host lists ([`listing`]). Each becomes a
//! [`message`] or is refused with one line that says why; none is left out without a word. Unlike the worker it does not wait for a
//! Redis that is away: whoever typed it wants to know. Pinned by `tests/enqueue.rs` and `tests/enqueue_list_repos.rs`.

mod accounts;
mod cursor;
mod input;
mod listing;
mod look_up;
mod message;
mod output;
mod page;
mod progress;
mod rest;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use clap::Args;

use self::output::Output;
use self::progress::Progress;
use self::rest::{Left, Rest};
use super::Failure;
use crate::backfiller::ExitStatus;
use crate::cli::{Cli, HandleOptions, RedisOptions, RequestOptions};
use crate::config::Config;
use crate::dump::Roster;
use crate::fetch::host::{ChosenBy, Host};
use crate::fetch::resolver::Resolver;
use crate::handle::Way;
use crate::hosts::Hosts;
use crate::shutdown::Shutdown;
use crate::terminal::count;

/// Length of the input stream at which adding waits: a message takes some 200 bytes of Redis's memory, so these take 20 MB, and are
/// the work of an hour or more.
const HIGH_WATER_MARK: u64 = 100_000;

/// Examples of `enqueue`, its input and how it ends.
const EXAMPLES: &str = "\
Examples:
  backfiller enqueue did:plc:ewvi7nxzyoun6zhxrhs64oiz alice.example.com
  backfiller enqueue --file accounts.txt --dry-run
  backfiller enqueue --file accounts.txt --rest left.txt
  cut -f1 accounts.tsv | backfiller enqueue -
  backfiller enqueue --host pds.example.com did:plc:ewvi7nxzyoun6zhxrhs64oiz
  backfiller enqueue --list-repos pds.example.com --active-only

A line of a file or of standard input is a DID, a handle, or a message as JSON ({\"did\":…,\"host\":…}); empty lines and what follows a # \
at the beginning of a line are skipped. An account that is named more than once is enqueued once.

A call that is interrupted or fails on the way, be it that Redis goes away, has enqueued some accounts, and not the first ones: look-ups end \
as they like. The same call enqueues all of them again, and their repos are written twice. With --rest those that are left are in a file, which is \
there as a whole: neither enqueued nor refused, and those of which nobody knows because the connection was lost meanwhile. What stands behind a \
line that cannot be read is not in it, and a second Ctrl-C or a kill leaves none.

--list-repos can be ended at any time, also by kill -9: where it is is kept in Redis, in <input>:list-repos:<host>, and written in the \
same transaction as the messages. The same command goes on there; --restart begins anew.

Exit status: 0 all were enqueued; 1 some were refused, or it failed on the way; 2 usage or configuration; 130 interrupted by \
Ctrl-C or SIGTERM, with what was written until then.";

/// Adds accounts to the input: DIDs or handles, from arguments, a file or standard input, or all that a host lists.
///
/// Handles are resolved, and so is each account's server, unless it is named. What cannot become a message is refused with a line on
/// standard error; the others are enqueued.
// Of what is shared with the worker all is read and checked, so that one set of variables and flags fits both, but only what means
// something here is shown.
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    mut_arg("group", |it| it.hide(true)),
    mut_arg("firehose_stream", |it| it.hide(true)),
    mut_arg("firehose_stream_high_water_mark", |it| it.hide(true)),
    mut_arg("dlq_stream", |it| it.hide(true)),
    mut_arg("http_timeout_secs", |it| it.hide(true)),
)]
pub struct Enqueue {
    /// DIDs or handles; - reads them from standard input, one a line
    #[arg(value_name = "ACCOUNT")]
    accounts: Vec<String>,

    /// Reads DIDs or handles from a file, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Writes the accounts that are not enqueued to this new file, where the call is interrupted or fails on the way
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list_repos", "dry_run"])]
    rest: Option<PathBuf>,

    /// Adds every account that this server lists (com.atproto.sync.listRepos), with the server as its host
    #[arg(long, value_name = "HOST", conflicts_with_all = ["accounts", "file", "host"])]
    list_repos: Option<String>,

    /// Leaves out what the server lists as deactivated, taken down or otherwise not active
    #[arg(long)]
    active_only: bool,

    /// Begins the list anew, where an earlier call has got on with it
    #[arg(long)]
    restart: bool,

    /// Stops listing after about so many accounts (with --active-only at the end of a page of 100); the next call goes on behind them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Server that has the accounts, instead of the one in each DID document
    #[arg(long, value_name = "HOST", conflicts_with = "no_resolve")]
    host: Option<String>,

    /// Asks nobody: messages name no host, and the worker looks it up
    #[arg(long)]
    no_resolve: bool,

    /// Waits while the input has this many messages or more; 0: never
    #[arg(long, value_name = "N", default_value_t = HIGH_WATER_MARK)]
    high_water_mark: u64,

    /// Look-ups at a time, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,

    /// Prints the messages on standard output, one a line, and needs no Redis; a list begins at its start
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    redis: RedisOptions,

    #[command(flatten)]
    requests: RequestOptions,

    #[command(flatten)]
    handles: HandleOptions,
}

/// How it came to its end.
enum End {
    /// All that was to be enqueued is, or was refused.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// What all that asks has in common.
struct Kit {
    config: Arc<Config>,
    hosts: Arc<Hosts>,
    resolver: Resolver,
    resolvers: Vec<JoinHandle<()>>,
    shutdown: Shutdown,
}

impl Kit {
    fn new(config: Config, shutdown: Shutdown) -> Result<Self, Failure> {
        let config = Arc::new(config);
        let (resolver, resolvers) =
            Resolver::start(config.concurrency, &Roster::default()).map_err(no_thread)?;
        Ok(Kit {
            hosts: Hosts::new(&config),
            config,
            resolver,
            resolvers,
            shutdown,
        })
    }

    /// Ends its threads, once nobody asks any more.
    fn end(self) {
        drop(self.resolver);
        for thread in self.resolvers {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::Failed(format!("a thread cannot be started: {error}"))
}

/// Does what was asked for.
pub(super) fn run(options: &Enqueue) -> Result<ExitStatus, Failure> {
    let nothing = options.accounts.is_empty() && options.file.is_empty();
    if nothing && options.list_repos.is_none() {
        let text = "which accounts? name some, or --file, - for standard input, or --list-repos";
        return Err(Failure::Usage(text.to_owned()));
    }
    let of_a_list = options.active_only || options.restart || options.limit.is_some();
    if of_a_list && options.list_repos.is_none() {
        let text = "--active-only, --restart and --limit are for --list-repos";
        return Err(Failure::Usage(text.to_owned()));
    }
    let config = Config::from_cli(&Cli {
        redis: options.redis.clone(),
        requests: options.requests.clone(),
        concurrency: Some(options.concurrency.to_string()),
        // Never used: no such command reads messages.
        consumer: Some("none".to_owned()),
        ..Cli::default()
    })?;
    let way = Way::from_options(&options.handles)?;
    let [listed, host] = [&options.list_repos, &options.host].map(|host| {
        let host = host
            .as_deref()
            .map(|it| Host::parse(it, ChosenBy::Operator));
        host.transpose().map_err(Failure::Usage)
    });
    let (listed, host) = (listed?, host?);
    let inputs = input::open(&options.accounts, &options.file)?;
    let rest = options.rest.as_deref();
    let rest = rest.map(|path| Rest::new(path, &options.accounts, &options.file));
    let mut rest = rest.transpose()?;

    let shutdown = Shutdown::default();
    shutdown
        .on_signals_saying(
            "signal: what has been looked up is enqueued, then this ends; a second signal ends at once",
            "second signal: ending at once",
            || {},
        )
        .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))?;
    let mut output = Output::new(options.dry_run, &config, options.high_water_mark)?;
    let kit = Kit::new(config, shutdown)?;
    let mut progress = Progress::new(options.dry_run);
    let end = match &listed {
        Some(host) => listing::run(options, &kit, host, &mut output, &mut progress),
        None => {
            let asked = (way, host, inputs);
            accounts::run(options, &kit, asked, &mut output, &mut progress, &mut rest)
        }
    };
    let is_whole = matches!(end, Ok(End::Done)) && !progress.is_broken();
    if let Some(rest) = rest.filter(|_| !is_whole) {
        match rest.write() {
            Ok(Left {
                accounts,
                path,
                broken,
            }) => {
                let further = broken.map_or(String::new(), |why| format!("; none behind {why}"));
                progress.say(&format!("{} left, in {path:?}{further}", count(accounts)));
            }
            Err(failure) => progress.say(&failure.to_string()),
        }
    }
    let end = end.map_err(|failure| progress.failed(failure))?;
    progress.summary(matches!(end, End::Interrupted));
    match end {
        // Whoever is still waiting for an answer ends with the process.
        End::Interrupted => Ok(ExitStatus::Interrupted),
        End::Done => {
            kit.end();
            Ok(if progress.has_refused() {
                ExitStatus::Failure
            } else {
                ExitStatus::Done
            })
        }
    }
}
