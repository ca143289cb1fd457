//! This machine: room for repos that do not fit into memory, and descriptors for all connections.

use std::io::Write;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::{Finding, fail, ok, warn};
use crate::config::Config;
use crate::preflight;
use crate::terminal::{count, escaped};

/// Descriptors that a process has anyway: its streams, its log, the reader's, keeper's and supervisor's connections, those of the
/// metrics, and some to spare.
const BASE: u64 = 64;
/// Descriptors of a worker at most: Redis, a request, four connections that are kept for the next ones, one to the directory, and the
/// file of a repo.
const PER_WORKER: u64 = 8;

/// Looks at the folder for repos and at the limit of open files.
pub(super) fn check(config: &Config) -> [Finding; 2] {
    [folder(config), descriptors(config)]
}

fn folder(config: &Config) -> Finding {
    let what = "spill folder";
    let shown = escaped(&config.spill_dir.display().to_string());
    let written = tempfile::tempfile_in(&config.spill_dir).and_then(|mut file| {
        file.write_all(b"x")?;
        file.flush()
    });
    if let Err(error) = written {
        return fail(
            what,
            format!("{shown} cannot be written: {error}; repos that do not fit into memory wait"),
        );
    }
    let room = match statvfs(&*config.spill_dir) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => return warn(what, format!("{shown}: its room is not known: {error}")),
    };
    let mib = |bytes: u64| format!("{} MiB", count(bytes >> 20));
    let state = format!("{shown} can be written, with room for {}", mib(room));
    if preflight::is_memory(&config.spill_dir) {
        return warn(
            what,
            format!("{state}, but it is a tmpfs: what is moved there stays in memory"),
        );
    }
    if room < config.max_repo_bytes {
        return warn(
            what,
            format!(
                "{state}: less than one repo of {} (BACKFILLER_MAX_REPO_BYTES)",
                mib(config.max_repo_bytes)
            ),
        );
    }
    ok(what, state)
}

fn descriptors(config: &Config) -> Finding {
    let what = "descriptors";
    let needed = BASE + PER_WORKER * config.concurrency as u64;
    let workers = config.concurrency;
    // None: there is no limit.
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < needed => warn(
            what,
            format!(
                "{} files may be open, and {workers} workers may need {}: raise it (ulimit -n, LimitNOFILE=)",
                count(limit),
                count(needed)
            ),
        ),
        limit => ok(
            what,
            format!(
                "{} files may be open, and {workers} workers may need {}",
                limit.map_or("any number of".to_owned(), count),
                count(needed)
            ),
        ),
    }
}
