//! `status`: what the queue, the output, the dead letters and the consumers are at, and how fast it goes.
//!
//! All of it comes from Redis, so it works wherever Redis can be reached, and says the same of one worker and of many. Nothing is
//! written. Each look costs a bounded number of commands, however long the streams are; what was only looked at in part says so.
//! With `--watch` a Redis that is away is shown and waited for, and Ctrl-C ends it well. Pinned by `tests/status_command.rs`.

mod json;
pub(super) mod sample;
mod view;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;

use self::sample::{Glance, Rate, Sample, Sampler};
use super::{Failure, output_failed, server};
use crate::backfiller::ExitStatus;
use crate::cli::RedisOptions;
use crate::config::Config;
use crate::connection::passes;
use crate::shutdown::Shutdown;
use crate::terminal::{cut, escaped, screen};

/// Examples of `status`.
const EXAMPLES: &str = "\
Examples:
  backfiller status
  backfiller status --watch --interval 5
  backfiller status --json | jq .queue.length
  backfiller status --json --watch >> status.ndjson

The rate is how many messages have left the queue, done or dead, between two looks that lie --interval apart: what was added, less \
what the queue has grown by. What is left is the length of the queue at that rate, so it is as good as the last few seconds are typical.

Exit status: 0 shown (with --watch: ended by Ctrl-C); 1 Redis is away or refuses (with --watch that is shown, and waited for); 2 usage \
or configuration.";

/// The shortest interval between two looks with --watch, in seconds.
const SHORTEST: f64 = 0.1;
/// The longest interval, in seconds.
const LONGEST: f64 = 3600.0;

/// Shows queue, output, dead letters and consumers, and the rate.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Status {
    /// Show it again and again, in place on a terminal; Ctrl-C ends it
    #[arg(long)]
    watch: bool,

    /// Seconds over which the rate is measured, and with --watch between two looks; 0 means no rate
    #[arg(long, value_name = "SECS", default_value = "2", value_parser = interval)]
    interval: f64,

    /// A JSON object; with --watch one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    redis: RedisOptions,
}

fn interval(text: &str) -> Result<f64, String> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(seconds) if is_plain && seconds <= LONGEST => Ok(seconds),
        _ => Err(format!("seconds are a decimal number from 0 to {LONGEST}")),
    }
}

/// What is known at one moment.
enum Look {
    /// All of it, and how fast it goes where that was measured.
    There(Box<Sample>, Option<Rate>),
    /// Redis cannot be asked; why, in one line.
    Away(String),
}

/// Does what was asked for.
pub(super) fn run(command: Status) -> Result<ExitStatus, Failure> {
    let config = server::config(&command.redis)?;
    let interval = Duration::from_secs_f64(command.interval);
    if command.watch {
        if command.interval < SHORTEST {
            return Err(Failure::Usage(format!(
                "--watch needs an --interval of at least {SHORTEST} s"
            )));
        }
        return watch(&config, interval, command.json);
    }
    let failed = |error| server::failed(&config, &error);
    let mut sampler = Sampler::new(server::connect(&config)?, &config);
    let before = match interval.is_zero() {
        true => None,
        false => {
            let before = sampler.glance().map_err(failed)?;
            // Ctrl-C ends the process here, as it does everywhere without --watch.
            std::thread::sleep(interval);
            Some(before)
        }
    };
    let sample = sampler.sample().map_err(failed)?;
    let rate = before.and_then(|before| Rate::between(&before, &sample.glance));
    let look = Look::There(Box::new(sample), rate);
    let lines = match command.json {
        true => vec![json::line(&look, &config)],
        false => view::lines(&look, &config, screen().map(|(columns, _)| columns)),
    };
    write(&(lines.join("\n") + "\n"))?;
    Ok(ExitStatus::Done)
}

/// Looks again and again until it is told to end.
fn watch(config: &Config, interval: Duration, json: bool) -> Result<ExitStatus, Failure> {
    let shutdown = Shutdown::default();
    shutdown
        .on_signals()
        .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))?;
    let mut sampler: Option<Sampler<'_>> = None;
    let mut before: Option<Glance> = None;
    let mut is_first = true;
    loop {
        let due = Instant::now() + interval;
        let look = match look(config, &mut sampler)? {
            Ok(sample) => {
                let glance = sample.glance;
                let rate = before.and_then(|before| Rate::between(&before, &glance));
                before = Some(glance);
                Look::There(Box::new(sample), rate)
            }
            Err(why) => {
                // What happened meanwhile is not the rate of now.
                before = None;
                Look::Away(why)
            }
        };
        if shutdown.is_requested() {
            return Ok(ExitStatus::Done);
        }
        write(&frame(&look, config, json, is_first))?;
        is_first = false;
        if shutdown.sleep(due.saturating_duration_since(Instant::now())) {
            return Ok(ExitStatus::Done);
        }
    }
}

/// One look; the inner error is why Redis cannot be asked now.
fn look<'c>(
    config: &'c Config,
    sampler: &mut Option<Sampler<'c>>,
) -> Result<Result<Sample, String>, Failure> {
    let mut ask = || -> Result<Result<Sample, redis::RedisError>, Failure> {
        if sampler.is_none() {
            let link = server::quick_link(config)?;
            *sampler = Some(Sampler::new(link, config));
        }
        let Some(sampler) = sampler else {
            return Err(Failure::Failed("there is no connection".to_owned()));
        };
        // A key may have become something else meanwhile.
        match sampler.wrong_key() {
            Ok(None) => Ok(sampler.sample()),
            Ok(Some(wrong)) => Err(Failure::Failed(escaped(&wrong))),
            Err(error) => Ok(Err(error)),
        }
    };
    match ask()? {
        Ok(sample) => Ok(Ok(sample)),
        Err(error) if passes(&error) => {
            *sampler = None;
            Ok(Err(server::away(config, &error)))
        }
        Err(error) => Err(server::failed(config, &error)),
    }
}

/// What is written for one look of --watch.
fn frame(look: &Look, config: &Config, json: bool, is_first: bool) -> String {
    if json {
        return json::line(look, config) + "\n";
    }
    let Some((columns, lines)) = screen() else {
        return view::lines(look, config, None).join("\n") + "\n\n";
    };
    let mut shown = view::lines(look, config, Some(columns));
    // The last line of the screen is the cursor's.
    let room = lines.saturating_sub(1).max(1);
    if shown.len() > room {
        let rest = shown.len() - room + 1;
        shown.truncate(room - 1);
        shown.push(format!("… {rest} more lines"));
    }
    // From the upper left corner: each row is wiped before its line, for behind one that is as wide as the screen the cursor stands on
    // the last character; then the rest of the screen.
    let mut frame = String::from(if is_first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    for line in shown {
        frame += "\x1b[K";
        frame += &cut(&line, columns);
        frame += "\n";
    }
    frame + "\x1b[J"
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(output_failed)
}
