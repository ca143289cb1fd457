//! `systemd-unit`: a template unit with few rights, whose limits follow from the settings of the worker.
//!
//! The text is `backfiller@.service` beside this file; what stands there in braces is filled in here. Pinned by `tests/assets.rs`.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::cli::{Cli, RepoOptions};
use crate::commands::Failure;
use crate::config::Config;

const UNIT: &str = include_str!("backfiller@.service");

/// The largest chunk in MiB: one record of 2 MiB of which JSON must escape each byte.
const CHUNK_MIB: u64 = 12;
/// What a worker takes beside the budget in MiB: a chunk that is sent, one that is filled, and its stack and buffers.
const WORKER_MIB: u64 = 2 * CHUNK_MIB + 1;
/// For the rest of the process in MiB: code, connections, what waits for hosts (up to a million ids), and the system's copies of its
/// files until they are on the disk.
const REST_MIB: u64 = 256;
/// Seconds between the end of the longest drain and the kill: what is held is released then.
const STOP_SECONDS: u64 = 30;

/// Folders that `ProtectHome` hides from the unit.
const HIDDEN: [&str; 3] = ["/home/", "/root/", "/run/user/"];

/// Options of `systemd-unit`.
#[derive(Args, Debug)]
pub struct Options {
    /// Where the program is installed [default: where this one is]
    #[arg(long, value_name = "FILE")]
    exec_path: Option<PathBuf>,

    /// Worker threads of each instance, 1 to 1024 [default: 2]
    #[arg(long, env = "BACKFILLER_CONCURRENCY", value_name = "N")]
    concurrency: Option<String>,

    /// Mebibytes of memory that the repos of all workers of an instance may take together [default: 512]
    #[arg(long, env = "BACKFILLER_MEMORY_BUDGET_MB", value_name = "MB")]
    memory_budget_mb: Option<String>,

    /// Seconds that repos in flight may take to finish when the unit is stopped [default: 60]
    #[arg(long, env = "BACKFILLER_SHUTDOWN_TIMEOUT_SECS", value_name = "SECS")]
    shutdown_timeout_secs: Option<String>,
}

/// Examples of `systemd-unit`.
pub const EXAMPLES: &str = "\
Examples:
  backfiller systemd-unit > /etc/systemd/system/backfiller@.service
  backfiller systemd-unit --exec-path /usr/local/bin/backfiller --concurrency 64 --memory-budget-mb 2048";

/// The unit. Where it could not start the program, that is said on standard error.
///
/// # Errors
/// A setting that the worker does not accept, or a path that cannot stand in a unit.
pub fn unit(options: Options) -> Result<String, Failure> {
    let exec = exec_path(options.exec_path)?;
    // Checked as the worker checks them.
    let config = Config::from_cli(&Cli {
        consumer: Some("backfiller".to_owned()),
        concurrency: options.concurrency,
        repos: RepoOptions {
            memory_budget_mb: options.memory_budget_mb,
            ..RepoOptions::default()
        },
        shutdown_timeout_secs: options.shutdown_timeout_secs,
        ..Cli::default()
    })?;
    let concurrency = config.concurrency as u64;
    let budget = config.memory_budget >> 20;
    let drain = config.shutdown_timeout.as_secs();
    let numbers = [
        ("{concurrency}", concurrency),
        ("{budget}", budget),
        ("{drain}", drain),
        ("{stop}", drain + STOP_SECONDS),
        ("{chunk}", CHUNK_MIB),
        ("{worker}", WORKER_MIB),
        ("{rest}", REST_MIB),
        ("{memory_max}", budget + concurrency * WORKER_MIB + REST_MIB),
    ];
    if let Some(folder) = HIDDEN.iter().find(|folder| exec.starts_with(*folder)) {
        // Where it cannot be said, the unit is printed all the same.
        let _ = writeln!(
            io::stderr(),
            "backfiller: the unit could not start {exec}: it is not allowed to see {folder}; install the program elsewhere, \
             and name that with --exec-path"
        );
    }
    let unit = UNIT.replace("{exec}", &exec);
    Ok(numbers.iter().fold(unit, |unit, (name, number)| {
        unit.replace(name, &number.to_string())
    }))
}

/// An absolute path of letters that mean nothing else in a unit.
fn exec_path(given: Option<PathBuf>) -> Result<String, Failure> {
    let path = match given {
        Some(path) => path,
        None => env::current_exe().map_err(|error| {
            Failure::Failed(format!(
                "where this program is cannot be found out: {error}; name it with --exec-path"
            ))
        })?,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+:@-".contains(c);
    match path.to_str() {
        Some(text) if path.is_absolute() && text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err(Failure::Usage(format!(
            "--exec-path {path:?} is not accepted: an absolute path of letters, digits and / . _ + : @ -"
        ))),
    }
}
