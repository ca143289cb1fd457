//! `check`: what would go wrong, before it does.
//!
//! Takes the variables and flags of the worker and looks at all that it needs, in one line each: `ok`, `warn` or `fail`, what, and
//! in which state it is. Nothing is changed, in Redis or elsewhere, and one request is made: a look-up in the directory. What cannot
//! be looked at because something before it failed is left out. Pinned by `tests/check.rs`.

mod directory;
mod instances;
mod machine;
mod server;

use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{Failure, output_failed};
use crate::backfiller::ExitStatus;
use crate::cli::Cli;
use crate::config::Config;
use crate::terminal::{cut, escaped, escaped_bytes};

/// Examples of `check`.
const EXAMPLES: &str = "\
Examples:
  BACKFILLER_CONSUMER=backfiller_1 backfiller check
  backfiller check --consumer backfiller_1 --redis-url redis://redis.example:6379 --strict
  backfiller check --json | jq -r 'select(.level != \"ok\").detail'

Exit status: 0 all is well, or there are warnings only; 1 something failed, or with --strict there is a warning; 2 the configuration \
is not accepted.";

/// Checks configuration, Redis, directory and machine, and says what would go wrong.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// Warnings count as failures
    #[arg(long)]
    strict: bool,

    /// A JSON object for each line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    worker: Cli,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    /// It works, and may be regretted.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// One line.
#[derive(Debug)]
struct Finding {
    level: Level,
    /// What was looked at; stable.
    what: &'static str,
    /// In which state it is: for people, and may change.
    detail: String,
}

fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Level::Ok, what, detail)
}

fn warn(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Level::Warn, what, detail)
}

fn fail(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Level::Fail, what, detail)
}

fn finding(level: Level, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        level,
        what,
        detail: detail.into(),
    }
}

/// How many columns a name that a stranger chose may take.
const LONGEST_NAME: usize = 100;

/// What strangers have written, fit for one line among others.
fn named(bytes: &[u8]) -> String {
    cut(&escaped_bytes(bytes), LONGEST_NAME)
}

/// Says each finding as soon as it is there, and remembers the worst.
struct Report {
    json: bool,
    worst: Level,
}

impl Report {
    fn say(&mut self, finding: Finding) -> Result<(), Failure> {
        let Finding {
            level,
            what,
            detail,
        } = finding;
        self.worst = self.worst.max(level);
        let line = match self.json {
            true => json!({ "level": level.name(), "what": what, "detail": detail }).to_string(),
            false => format!("{:<4}  {what:<13}  {}", level.name(), one_line(&detail)),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(output_failed)
    }

    fn say_all(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        findings.into_iter().try_for_each(|f| self.say(f))
    }
}

/// What is left of control characters, should a text bring some along: those of strangers are escaped where they come in.
fn one_line(text: &str) -> String {
    if text.chars().any(char::is_control) {
        escaped(text)
    } else {
        text.to_owned()
    }
}

/// Looks at all of it.
pub(super) fn run(command: &Check) -> Result<ExitStatus, Failure> {
    let mut report = Report {
        json: command.json,
        worst: Level::Ok,
    };
    let config = match Config::from_cli(&command.worker) {
        Ok(config) => Arc::new(config),
        Err(error) => {
            report.say(fail("configuration", error.to_string()))?;
            return Ok(ExitStatus::Usage);
        }
    };
    report.say(configuration(&config))?;
    server::check(&config, &mut report)?;
    report.say(directory::check(&config))?;
    report.say_all(machine::check(&config))?;
    let failed = match report.worst {
        Level::Ok => false,
        Level::Warn => command.strict,
        Level::Fail => true,
    };
    Ok(match failed {
        true => ExitStatus::Failure,
        false => ExitStatus::Done,
    })
}

fn configuration(config: &Config) -> Finding {
    let (consumer, group) = (escaped(&config.consumer), escaped(&config.group));
    let (input, output) = (
        escaped(&config.backfill_stream),
        escaped(&config.firehose_stream),
    );
    ok(
        "configuration",
        format!(
            "consumer {consumer} of {group}, {input} → {output}, {} workers, {} MiB",
            config.concurrency,
            config.memory_budget >> 20
        ),
    )
}
