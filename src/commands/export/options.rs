//! What is said on the command line, and what it means together. Pinned by `tests/export.rs` and `tests/export_offline.rs`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::offline::Opener;
use super::sources::Origin;
use super::trust::Trust;
use crate::cli::{Cli, HandleOptions, LogOptions, RepoOptions, RequestOptions};
use crate::commands::Failure;
use crate::config::Config;
use crate::fetch::host::{ChosenBy, Host};
use crate::queue::message::check_did;

/// Attempts of one account, where the operator does not say another number.
const MAX_ATTEMPTS: &str = "4";
/// Milliseconds until the second of them.
const INITIAL_BACKOFF_MS: &str = "1000";
/// Milliseconds between two of them at most.
const MAX_BACKOFF_MS: &str = "60000";
/// Seconds without a success after which a host is not waited for any more.
const MAX_DEFERRED_SECS: &str = "3600";
/// What is logged, where the operator does not say it: that somebody waits, and which records are skipped.
const LOG: &str = "warn";

/// Examples of `export`, and what else there is to know.
pub(in crate::commands) const EXAMPLES: &str = "\
Examples:
  backfiller export did:plc:ewvi7nxzyoun6zhxrhs64oiz > atproto.ndjson
  backfiller export alice.example.com bob.example.com --output two.ndjson
  backfiller export --file accounts.txt --concurrency 16 --output all.ndjson
  backfiller export did:plc:ewvi7nxzyoun6zhxrhs64oiz --collections 'app.bsky.feed.*' | jq -c .record
  backfiller export repo.car --did-doc did.json > repo.ndjson
  curl -s \"$PDS/xrpc/com.atproto.sync.getRepo?did=$DID\" | backfiller export - --key did:key:zQ3sh...

A SOURCE is, in this order: - for a CAR on standard input; what begins with did: or at:// is an account; what has a slash in it, ends in .car or is \
the name of a file that exists is a CAR file; anything else is a handle. Accounts are fetched, and CARs are read and nobody is asked: \
these two are exported by different calls. A line of a list (--file) is a DID or a handle; empty lines and those that begin with # are passed over. An account \
that is named more than once is exported once.

Each line is an event, byte for byte as the worker writes it to Redis: create events in key order, at most 500 and 4 MiB of them, then one \
repo event, and so on. One repo is written at a time, from its first line to its last; in which order the repos come depends on who answers first. \
Nothing of a repo is written before all of it is proved.

What fails at a server is tried again (--max-attempts); whoever refuses for now (429, 503) is waited for, as long as he says or 30 s \
and then twice as long each time, and is given up at the 6th refusal, or after an hour without a success. A CAR that is there is tried once. \
A file (--output) gets its name when all is written, also where some have failed; until then it is .NAME.….part beside it, which only a \
process that is killed leaves behind.

Exit status: 0 all exported; 1 some failed, or the output did, or whoever reads it (| head) had gone before all was written, which is not said \
otherwise; 2 usage or configuration; 130 Ctrl-C. For each one that failed there is a line \
on standard error: what it is, a reason code, what happened; the others are written. The first Ctrl-C gives downloads up, writes the repo that is being \
written to its end, makes no file, and ends; the second ends at once.";

/// Exports accounts, or CAR files, as lines of JSON: the same proofs and the same events, without any Redis.
#[derive(Args, Debug, Default, Clone)]
#[command(mut_arg("log", |log| log.help(format!(
    "Log filter, as env_logger reads it: error, warn, info, debug, or module=level [default: {LOG}]"
))))]
pub struct Options {
    /// Accounts (DIDs or handles), or CAR files; - is a CAR on standard input
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<OsString>,

    /// List of accounts, one a line; - is standard input; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// Write to this file, which is there when all is written
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    pub force: bool,

    /// Ask this server, not each account's own: a PDS, or a relay
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// Accounts at a time, 1 to 1024 [default: 2]
    #[arg(long, env = "BACKFILLER_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<String>,

    /// Attempts of one account that fails [default: 4]
    #[arg(long, env = "BACKFILLER_MAX_ATTEMPTS", value_name = "N")]
    pub max_attempts: Option<String>,

    /// Milliseconds until the second attempt; each further one doubles it [default: 1000]
    #[arg(long, env = "BACKFILLER_RETRY_INITIAL_BACKOFF_MS", value_name = "MS")]
    pub retry_initial_backoff_ms: Option<String>,

    /// Milliseconds between two attempts at most [default: 60000]
    #[arg(long, env = "BACKFILLER_RETRY_MAX_BACKOFF_MS", value_name = "MS")]
    pub retry_max_backoff_ms: Option<String>,

    /// Whose signing key CAR files are held against.
    #[command(flatten)]
    pub trust: TrustOptions,

    /// How others are asked.
    #[command(flatten)]
    pub requests: RequestOptions,

    /// How handles are resolved.
    #[command(flatten)]
    pub handles: HandleOptions,

    /// What is done with repos.
    #[command(flatten)]
    pub repos: RepoOptions,

    /// What is logged; here from `warn` on.
    #[command(flatten)]
    pub logs: LogOptions,
}

/// Whose signature a CAR file must have.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "CAR files")]
pub struct TrustOptions {
    /// The account's signing key (k256 or p256)
    #[arg(long, value_name = "did:key:…", group = "signer")]
    pub key: Option<String>,

    /// The account's DID document, which names its signing key
    #[arg(long, value_name = "FILE", group = "signer")]
    pub did_doc: Option<PathBuf>,

    /// Verify no signature: whoever made the CAR may have made up all that is in it
    #[arg(long, group = "signer")]
    pub unverified: bool,

    /// The account that it must be of
    #[arg(long, value_name = "DID")]
    pub did: Option<String>,
}

impl Options {
    /// The configuration of what is the worker's: nothing of it is about Redis.
    ///
    /// # Errors
    /// The first value that is not accepted.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let or = |value: &Option<String>, default: &str| {
            let is_set = value
                .as_deref()
                .is_some_and(|value| !value.trim().is_empty());
            let value = if is_set { value.clone() } else { None };
            value.or_else(|| Some(default.to_owned()))
        };
        let mut logs = self.logs.clone();
        logs.log = or(&logs.log, LOG);
        let initial = or(&self.retry_initial_backoff_ms, INITIAL_BACKOFF_MS);
        Ok(Config::from_cli(&Cli {
            consumer: Some("export".to_owned()),
            concurrency: self.concurrency.clone(),
            max_attempts: or(&self.max_attempts, MAX_ATTEMPTS),
            retry_max_backoff_ms: or(
                &self.retry_max_backoff_ms,
                // A worker's initial backoff may be longer than the longest one here.
                longer(initial.as_deref(), MAX_BACKOFF_MS),
            ),
            retry_initial_backoff_ms: initial,
            max_deferred_secs: Some(MAX_DEFERRED_SECS.to_owned()),
            requests: self.requests.clone(),
            repos: self.repos.clone(),
            logs,
            ..Cli::default()
        })?)
    }

    /// Whom to ask instead of each account's own server.
    ///
    /// # Errors
    /// Where that is no host, or nobody is asked.
    pub(super) fn host(&self, list: &[Origin]) -> Result<Option<Host>, Failure> {
        let Some(host) = &self.host else {
            return Ok(None);
        };
        if list.iter().any(Origin::is_offline) {
            let text = "--host is for accounts: nobody is asked for a CAR file";
            return Err(Failure::Usage(text.to_owned()));
        }
        Host::parse(host, ChosenBy::Operator)
            .map(Some)
            .map_err(|e| Failure::Usage(format!("--host: {e}")))
    }

    /// How CARs are opened that are there; `None`: accounts are exported.
    ///
    /// # Errors
    /// Where both are asked for, or whose signature a CAR must have is not said.
    pub(super) fn opener(
        &self,
        list: &[Origin],
        config: &Config,
    ) -> Result<Option<Opener>, Failure> {
        let TrustOptions {
            key,
            did_doc,
            unverified,
            did,
        } = &self.trust;
        let refuse = |text: String| Err(Failure::Usage(text));
        if let Some(account) = list.iter().find(|origin| !origin.is_offline()) {
            let given = [
                ("--key", key.is_some()),
                ("--did-doc", did_doc.is_some()),
                ("--unverified", *unverified),
                ("--did", did.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((option, _)) => refuse(format!(
                    "{option} is for CAR files only: {account} is an account, whose key is that of its DID document"
                )),
                None => match list.iter().find(|origin| origin.is_offline()) {
                    Some(car) => refuse(format!(
                        "{account} is an account and {car} a CAR: they are exported by different calls"
                    )),
                    None => Ok(None),
                },
            };
        }
        let trust = match (key, did_doc, unverified) {
            (Some(key), ..) => Trust::key(key)?,
            (None, Some(path), _) => Trust::document(path)?,
            (None, None, true) => Trust::Unverified,
            (None, None, false) => {
                return refuse(
                    "whose signature a CAR must have is not said: --key did:key:…, --did-doc FILE, or --unverified"
                        .to_owned(),
                );
            }
        };
        if let Some(did) = did {
            check_did(did).map_err(|e| Failure::Usage(format!("--did: {e}")))?;
        }
        Ok(Some(Opener {
            trust,
            did: did.clone(),
            max_bytes: config.max_repo_bytes,
        }))
    }
}

/// The longer of both, where both are numbers.
fn longer<'a>(one: Option<&'a str>, other: &'a str) -> &'a str {
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    match one {
        Some(one) if number(one) > number(other) => one,
        _ => other,
    }
}
