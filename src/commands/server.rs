//! Redis, as the commands ask it: once, and with an end.
//!
//! The worker waits for a Redis that is away; who asks a question wants to know. So nothing is tried again here, each reply has a
//! time-out, and whatever goes wrong is one line without a password.

use std::time::Duration;

use redis::RedisError;

use super::Failure;
use crate::cli::{Cli, RedisOptions};
use crate::config::Config;
use crate::connection::Link;
use crate::preflight;
use crate::shutdown::Shutdown;
use crate::terminal::escaped;

/// How long Redis may take for a reply to a command.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The same to a command that looks again soon.
const QUICK_REPLY: Duration = Duration::from_secs(3);

/// The configuration of a command that takes what is about Redis alone.
pub(super) fn config(redis: &RedisOptions) -> Result<Config, Failure> {
    let cli = Cli {
        redis: redis.clone(),
        // Never used: no such command reads messages.
        consumer: Some("none".to_owned()),
        ..Cli::default()
    };
    Ok(Config::from_cli(&cli)?)
}

/// A connection, once it has been seen that the streams are streams.
pub(super) fn connect(config: &Config) -> Result<Link, Failure> {
    let failed = |error| failed(config, &error);
    let mut link = Link::new(&config.redis, &Shutdown::default())
        .map_err(failed)?
        .with_reply_timeout(REPLY_TIMEOUT);
    match preflight::wrong_key(&mut link, config).map_err(failed)? {
        Some(wrong) => Err(Failure::Failed(escaped(&wrong))),
        None => Ok(link),
    }
}

/// A connection for who looks again soon: nothing is sent yet, and replies are not waited for long.
pub(super) fn quick_link(config: &Config) -> Result<Link, Failure> {
    let link = Link::new(&config.redis, &Shutdown::default());
    let link = link.map_err(|error| failed(config, &error))?;
    Ok(link.with_reply_timeout(QUICK_REPLY))
}

/// What went wrong with Redis, and which one.
pub(super) fn failed(config: &Config, error: &RedisError) -> Failure {
    Failure::Failed(away(config, error))
}

/// The same as a text of one line.
pub(super) fn away(config: &Config, error: &RedisError) -> String {
    let error = escaped(&error.to_string());
    format!("Redis at {}: {error}", escaped(&config.redis_shown))
}
