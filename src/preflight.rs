//! What is looked at before anything is begun: by the worker at its start, which refuses what cannot work, and by `check`, which
//! says all of it.
//!
//! Here is only what both look at. Pinned by `tests/config.rs`, `tests/redis_urls.rs` and `tests/check.rs`.

use std::path::Path;

use redis::{InfoDict, RedisResult};

use crate::config::Config;
use crate::connection::Link;

/// The oldest Redis with all that is used here.
const OLDEST_REDIS: u64 = 7;

/// What a Redis says about itself.
pub struct Server {
    info: InfoDict,
}

impl Server {
    /// Asks it.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub fn ask(link: &mut Link) -> RedisResult<Self> {
        let mut info = redis::cmd("INFO");
        for section in ["server", "memory", "persistence", "replication"] {
            info.arg(section);
        }
        let info = link.query(&info)?;
        Ok(Server { info })
    }

    /// A line of its INFO; empty where it has none of this name.
    pub fn line(&self, name: &str) -> String {
        self.info.get(name).unwrap_or_default()
    }

    /// The same where it is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.info.get(name)
    }

    /// Its version; empty where it does not say it.
    pub fn version(&self) -> String {
        self.line("redis_version")
    }

    /// What it does when its memory is full; empty where it does not say it.
    pub fn eviction_policy(&self) -> String {
        self.line("maxmemory_policy")
    }

    /// Whether it may evict any key, the streams among them.
    pub fn evicts_streams(&self) -> bool {
        self.eviction_policy().starts_with("allkeys")
    }

    /// Why it cannot be worked with, if so.
    pub fn refusal(&self) -> Option<String> {
        let version = self.version();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u64>().ok());
        if major.is_some_and(|major| major < OLDEST_REDIS) {
            return Some(format!(
                "Redis {version} is too old: {OLDEST_REDIS}.0 or later is needed"
            ));
        }
        (self.line("redis_mode") == "cluster").then(|| {
            "Redis runs in cluster mode: its transactions cannot span the three streams".to_owned()
        })
    }
}

/// Which of the three keys holds something else than a stream, if one does.
///
/// # Errors
/// Of the way, or of Redis.
pub fn wrong_key(link: &mut Link, config: &Config) -> RedisResult<Option<String>> {
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

/// Why the worker cannot start with this server, if so. Warns of what it only may regret.
///
/// # Errors
/// Of the way, or of Redis.
pub fn refusal(link: &mut Link, config: &Config) -> RedisResult<Option<String>> {
    let server = Server::ask(link)?;
    if server.evicts_streams() {
        log::warn!(
            "~policy" = server.eviction_policy();
            "Redis may evict any key (maxmemory-policy {}): events may then be written twice, and messages be lost",
            server.eviction_policy()
        );
    }
    match server.refusal() {
        Some(refusal) => Ok(Some(refusal)),
        None => wrong_key(link, config),
    }
}

/// Whether the folder is on a tmpfs, where what leaves the memory has not left it.
pub fn is_memory(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: u64 = 0x0102_1994;
        rustix::fs::statfs(folder).is_ok_and(|system| system.f_type as u64 == TMPFS)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        false
    }
}
