//! A look as lines for people.

use std::time::{Duration, SystemTime};

use super::Look;
use super::sample::{AGES, Consumer, Rate, Sample};
use crate::config::Config;
use crate::event::timestamp;
use crate::terminal::{Table, count, cut, duration, escaped, number, text};

/// Consumers that are shown.
const SHOWN: usize = 50;
/// Attempts from which on they are counted together.
const MANY_ATTEMPTS: u64 = 8;

/// The lines. `screen`: how many columns the terminal has, where it is one.
pub(super) fn lines(look: &Look, config: &Config, screen: Option<usize>) -> Vec<String> {
    let lines = match look {
        Look::There(sample, rate) => of_sample(sample, rate.as_ref(), config, screen),
        Look::Away(why) => vec![
            format!("Redis is away: {why}"),
            "Waiting for it; Ctrl-C ends this.".to_owned(),
        ],
    };
    match screen {
        Some(columns) => lines.iter().map(|line| cut(line, columns)).collect(),
        None => lines,
    }
}

fn of_sample(
    sample: &Sample,
    rate: Option<&Rate>,
    config: &Config,
    screen: Option<usize>,
) -> Vec<String> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(sample.now_ms);
    let mut lines = vec![
        format!("{}  {}", timestamp(now), escaped(&config.redis_shown)),
        String::new(),
        format!("queue         {}", queue(sample, config)),
        format!("rate          {}", speed(rate)),
        format!("output        {}", output(sample, config)),
        format!("dead letters  {}", dead(sample, config)),
    ];
    let (stream, group) = (escaped(&config.backfill_stream), escaped(&config.group));
    if !sample.has_stream {
        lines.push(format!(
            "There is no stream {stream} yet: nothing was enqueued, and no worker has run."
        ));
    } else if sample.group.is_none() {
        lines.push(format!(
            "There is no group {group} yet: the first worker creates it."
        ));
    }
    if sample.pending.looked_at > 0 {
        lines.push(String::new());
        lines.extend(pending(sample, screen));
    }
    if !sample.consumers.is_empty() {
        lines.push(String::new());
        lines.extend(consumers(sample, screen));
    }
    lines
}

fn queue(sample: &Sample, config: &Config) -> String {
    let (length, pending, undelivered, about) = match sample.group {
        Some(group) => {
            let about = if group.is_estimate { "about " } else { "" };
            (
                sample.glance.length,
                group.pending,
                group.undelivered,
                about,
            )
        }
        None => (sample.glance.length, 0, sample.glance.length, ""),
    };
    format!(
        "{} in {}: {about}{} not delivered yet, {} pending",
        count(length),
        escaped(&config.backfill_stream),
        count(undelivered),
        count(pending)
    )
}

fn speed(rate: Option<&Rate>) -> String {
    let Some(rate) = rate else {
        return "not measured".to_owned();
    };
    let speed = format!(
        "{:.1} messages a second left the queue, done or dead, within {:.1} s",
        rate.per_second, rate.seconds
    );
    match rate.seconds_left {
        Some(0.0) => format!("{speed}; none is left"),
        Some(left) => format!("{speed}; {} left at that rate", duration(left)),
        None => speed,
    }
}

fn output(sample: &Sample, config: &Config) -> String {
    let (length, mark) = (sample.output, config.high_water_mark);
    let waits = if length >= mark {
        ": writing waits until somebody reads it"
    } else {
        ""
    };
    format!(
        "{} in {}, of {} at which writing waits ({:.0} %){waits}",
        count(length),
        escaped(&config.firehose_stream),
        count(mark),
        100.0 * length as f64 / mark as f64
    )
}

fn dead(sample: &Sample, config: &Config) -> String {
    let dead = &sample.dead;
    let stream = escaped(&config.dlq_stream);
    let mut line = format!("{} in {stream}", count(dead.length));
    let reasons: Vec<_> = dead
        .counts
        .sorted()
        .iter()
        .map(|(reason, n)| format!("{} {}", escaped(reason), count(*n)))
        .collect();
    if !reasons.is_empty() {
        line += &format!(": {}", reasons.join(", "));
    }
    if dead.counts.total < dead.length {
        line += &format!(" (of the newest {})", count(dead.counts.total));
    }
    line
}

/// Two small tables side by side would not line up; one below the other they do.
fn pending(sample: &Sample, screen: Option<usize>) -> Vec<String> {
    let pending = &sample.pending;
    let looked_at = match pending.is_sample {
        true => format!(" (of the oldest {} only)", count(pending.looked_at)),
        false => String::new(),
    };
    let mut lines = vec![format!("pending, by the age of the message{looked_at}")];
    let ages: Vec<_> = AGES
        .iter()
        .map(|(title, _)| *title)
        .chain(["older"])
        .collect();
    let columns: Vec<_> = ages.iter().map(|title| number(title)).collect();
    let row: Vec<_> = pending.by_age.iter().map(|n| count(*n)).collect();
    lines.extend(Table::new(&columns, screen).page(&[row]));
    lines.push(String::new());
    lines.push(format!("pending, by attempts{looked_at}"));
    let titles = ["0", "1", "2", "3", "4", "5", "6", "7", "8 or more"];
    let mut counts = [0; MANY_ATTEMPTS as usize + 1];
    for (attempts, n) in &pending.by_attempts {
        counts[(*attempts).min(MANY_ATTEMPTS) as usize] += n;
    }
    let columns = titles.map(number);
    let row = counts.map(count);
    lines.extend(Table::new(&columns, screen).page(&[row]));
    lines
}

fn consumers(sample: &Sample, screen: Option<usize>) -> Vec<String> {
    let columns = [
        text("CONSUMER"),
        text("STATE"),
        number("PENDING"),
        number("LAST SIGN OF LIFE"),
        text("PROCESS"),
    ];
    // Who is alive first, then who holds back most.
    let mut sorted: Vec<&Consumer> = sample.consumers.iter().collect();
    sorted.sort_by_key(|c| (c.holder.is_none(), std::cmp::Reverse(c.pending), c.idle_ms));
    let rest = sample.more_consumers + sorted.len().saturating_sub(SHOWN);
    let rows: Vec<_> = sorted
        .iter()
        .take(SHOWN)
        .map(|consumer| {
            let state = if consumer.holder.is_some() {
                "alive"
            } else {
                "gone"
            };
            let idle = consumer.idle_ms.map_or_else(
                || "nothing read yet".to_owned(),
                |ms| format!("{} ago", duration(ms as f64 / 1000.0)),
            );
            let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            [
                lossy(&consumer.name),
                state.to_owned(),
                count(consumer.pending),
                idle,
                consumer.holder.as_deref().map_or_else(String::new, lossy),
            ]
        })
        .collect();
    let mut lines = Table::new(&columns, screen).page(&rows);
    if rest > 0 {
        lines.push(format!("… and {} more", count(rest as u64)));
    }
    lines
}
