//! Redis: what it is, what it keeps, and what is in it.

use std::time::Instant;

use redis::{RedisError, RedisResult};

use super::{Finding, Report, fail, instances, ok, warn};
use crate::commands::status::sample::{Sample, Sampler};
use crate::commands::{Failure, server};
use crate::config::Config;
use crate::connection::Link;
use crate::preflight::{self, Server};
use crate::shutdown::Shutdown;
use crate::terminal::{count, duration, escaped};

/// From how much of its memory on, in percent, Redis is nearly full.
const NEARLY_FULL: u64 = 90;

/// Looks at Redis, as far as it can be reached.
pub(super) fn check(config: &Config, report: &mut Report) -> Result<(), Failure> {
    let failed = |error: RedisError| fail("redis", server::away(config, &error));
    let link = Link::new(&config.redis, &Shutdown::default());
    let mut link = match link {
        Ok(link) => link.with_reply_timeout(server::REPLY_TIMEOUT),
        Err(error) => return report.say(failed(error)),
    };
    let (found, millis) = match ask(&mut link) {
        Ok(found) => found,
        Err(error) => return report.say(failed(error)),
    };
    if let Some(refusal) = found.refusal() {
        return report.say(fail("redis", escaped(&refusal)));
    }
    report.say(itself(config, &found, millis))?;
    report.say(persistence(&found))?;
    report.say(memory(&found))?;
    match preflight::wrong_key(&mut link, config) {
        Ok(None) => report.say(ok(
            "keys",
            format!(
                "{}, {} and {} are streams or not there yet",
                escaped(&config.backfill_stream),
                escaped(&config.firehose_stream),
                escaped(&config.dlq_stream)
            ),
        ))?,
        Ok(Some(wrong)) => return report.say(fail("keys", escaped(&wrong))),
        Err(error) => return report.say(failed(error)),
    }
    match Sampler::new(link, config).sample() {
        Ok(sample) => {
            report.say(group(config, &sample))?;
            report.say(output(config, &sample))?;
            report.say_all(instances::check(config, &sample))
        }
        Err(error) => report.say(failed(error)),
    }
}

/// What the server says of itself, and how many milliseconds it takes to answer.
fn ask(link: &mut Link) -> RedisResult<(Server, f64)> {
    let found = Server::ask(link)?;
    let began = Instant::now();
    link.query::<()>(&redis::cmd("PING"))?;
    Ok((found, began.elapsed().as_secs_f64() * 1000.0))
}

fn itself(config: &Config, found: &Server, millis: f64) -> Finding {
    // Valkey says as redis_version which Redis it stands for.
    let (name, version) = match found.line("valkey_version") {
        valkey if !valkey.is_empty() => ("Valkey", valkey),
        _ => ("Redis", found.version()),
    };
    let detail = escaped(&format!(
        "{name} {version}, {}, at {}, answers in {millis:.1} ms",
        found.line("redis_mode"),
        config.redis_shown
    ));
    if found.line("role") == "slave" {
        return fail(
            "redis",
            format!("{detail}; it is a replica, which takes no writes"),
        );
    }
    ok("redis", detail)
}

fn persistence(found: &Server) -> Finding {
    let what = "persistence";
    let state = |name| escaped(&found.line(name));
    let failed = |name: &str| !matches!(found.line(name).as_str(), "ok" | "");
    let snapshot = found.number("rdb_last_save_time").unwrap_or(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.map_or(0, |now| now.as_secs().saturating_sub(snapshot));
    let (age, bgsave) = (duration(age as f64), state("rdb_last_bgsave_status"));
    if failed("aof_last_write_status") {
        let status = state("aof_last_write_status");
        return fail(
            what,
            format!(
                "the last write to the append-only file ended with {status}: Redis refuses writes"
            ),
        );
    }
    if failed("rdb_last_bgsave_status") {
        return fail(
            what,
            format!(
                "the last snapshot ended with {bgsave}: Redis refuses writes, unless stop-writes-on-bgsave-error is off"
            ),
        );
    }
    if found.number("aof_enabled") != Some(1) {
        let changes = count(found.number("rdb_changes_since_last_save").unwrap_or(0));
        return warn(
            what,
            format!(
                "appendonly is off: what is not in a snapshot is lost when Redis ends; the last one (or the start) was {age} ago, \
                 with {changes} changes since"
            ),
        );
    }
    if failed("aof_last_bgrewrite_status") {
        let status = state("aof_last_bgrewrite_status");
        return warn(
            what,
            format!(
                "the last rewrite of the append-only file ended with {status}: it grows until one succeeds"
            ),
        );
    }
    ok(
        what,
        format!(
            "appendonly is on, its last write and rewrite were ok; the last snapshot was {bgsave}"
        ),
    )
}

fn memory(found: &Server) -> Finding {
    let what = "memory";
    let mib = |bytes: u64| format!("{} MiB", count(bytes >> 20));
    let (used, limit) = (
        found.number("used_memory").unwrap_or(0),
        found.number("maxmemory").unwrap_or(0),
    );
    let of = match limit {
        0 => "no limit of its own".to_owned(),
        limit => mib(limit),
    };
    let policy = found.eviction_policy();
    let state = format!(
        "maxmemory-policy {}, {} used of {of}",
        escaped(&policy),
        mib(used)
    );
    if found.evicts_streams() {
        return warn(
            what,
            format!(
                "{state}: Redis may evict the streams, and an evicted stream is lost work; set noeviction"
            ),
        );
    }
    if policy != "noeviction" {
        return warn(
            what,
            format!(
                "{state}: Redis may evict the keys that say who has a message and a name; set noeviction"
            ),
        );
    }
    if limit > 0 && used >= limit / 100 * NEARLY_FULL {
        return warn(
            what,
            format!("{state}: nearly full, and then it refuses writes and the work waits"),
        );
    }
    ok(what, state)
}

fn group(config: &Config, sample: &Sample) -> Finding {
    let group = escaped(&config.group);
    match sample.group {
        None => ok(
            "group",
            format!("{group} is not there yet: the first worker creates it"),
        ),
        Some(found) => {
            let about = if found.is_estimate { "about " } else { "" };
            let (undelivered, pending) = (count(found.undelivered), count(found.pending));
            ok(
                "group",
                format!(
                    "{group}: {about}{undelivered} messages not delivered yet, {pending} pending"
                ),
            )
        }
    }
}

fn output(config: &Config, sample: &Sample) -> Finding {
    let (output, mark) = (escaped(&config.firehose_stream), config.high_water_mark);
    let state = format!(
        "{} entries in {output}, writing waits at {}",
        count(sample.output),
        count(mark)
    );
    if sample.output >= mark {
        return warn(
            "output",
            format!("{state}: it waits now, until somebody reads them and removes them"),
        );
    }
    ok("output", state)
}
