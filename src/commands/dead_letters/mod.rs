//! `dead-letters`: what became of messages that could not become events, and another try for them.
//!
//! A selection (by reason, DID or id) is the same for all four. The stream is read in pages of bounded size and never as a whole, up to
//! the letter that was the newest at the beginning: what the worker adds meanwhile is left alone, so requeuing what fails again at
//! once comes to an end. Pinned by `tests/dead_letters_command.rs`.

mod discard;
mod letter;
mod list;
mod requeue;
mod scan;
mod selection;

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use self::selection::{Selection, entry_id};
use super::{Failure, output_failed};
use crate::backfiller::ExitStatus;
use crate::cli::RedisOptions;
use crate::queue::EntryId;
use crate::terminal::{count, escaped};

/// Examples of `dead-letters`.
const EXAMPLES: &str = "\
Examples:
  backfiller dead-letters list --newest --limit 20
  backfiller dead-letters list --counts
  backfiller dead-letters show 1764000000000-0
  backfiller dead-letters requeue --reason network --dry-run
  backfiller dead-letters drop --reason repo_gone

A letter has an id of its own (`list` shows it, `--id` takes it), and says the id that the message had in the input, which is the one \
in the log (`--original-id` takes that). `backfiller dead-letters list --help` and so on have all options.

Exit status: 0 done; 1 Redis is away or refuses, a letter that is named is not there, or the answer to the question was no; 2 usage or \
configuration.";

/// Examples of `list`.
const LIST_EXAMPLES: &str = "\
Examples:
  backfiller dead-letters list --newest --limit 20
  backfiller dead-letters list --reason signature --reason mst
  backfiller dead-letters list --counts
  backfiller dead-letters list --json --did did:plc:ewvi7nxzyoun6zhxrhs64oiz | jq .error

Exit status: 0 done; 1 Redis is away or refuses; 2 usage or configuration.";

/// Examples of `show`.
const SHOW_EXAMPLES: &str = "\
Examples:
  backfiller dead-letters show 1764000000000-0
  backfiller dead-letters show --json 1764000000000-0 | jq -r .repo

Exit status: 0 done; 1 Redis is away or refuses, or there is no such letter; 2 usage or configuration.";

/// Examples of `requeue`.
const REQUEUE_EXAMPLES: &str = "\
Examples:
  backfiller dead-letters requeue --id 1764000000000-0
  backfiller dead-letters requeue --reason network --reason http_status --limit 1000
  backfiller dead-letters requeue --all --dry-run

A letter and its message change places in one transaction: whatever ends this command, and whoever requeues at the same time, each \
letter becomes one message. Messages without a field `repo` cannot be requeued; these letters are counted and stay.

Exit status: 0 done; 1 Redis is away or refuses, or a letter that is named is not there; 2 usage or configuration.";

/// Examples of `drop`.
const DROP_EXAMPLES: &str = "\
Examples:
  backfiller dead-letters drop --reason repo_gone --dry-run
  backfiller dead-letters drop --reason repo_gone
  backfiller dead-letters drop --all --yes

What is dropped is gone. On a terminal you are asked before; without one nothing is dropped unless --yes says so.

Exit status: 0 done; 1 Redis is away or refuses, a letter that is named is not there, or the answer was no; 2 usage or configuration.";

/// Lists dead letters, shows one, puts them back into the input, or drops them.
///
/// A message that cannot become events (see the reasons in the README) leaves the input as an entry of the stream of dead letters,
/// with its original value and why.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DeadLetters {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists them, with counts by reason at the end
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Counts by reason only
        #[arg(long)]
        counts: bool,
        /// A JSON object for each letter, one a line; with --counts one with the counts
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        redis: RedisOptions,
    },

    /// Shows all of one
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The letter's id, or the one that its message had in the input
        #[arg(value_parser = entry_id)]
        id: EntryId,
        /// A JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        redis: RedisOptions,
    },

    /// Puts their messages back into the input, for another try from the beginning
    #[command(after_help = REQUEUE_EXAMPLES)]
    Requeue {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        redis: RedisOptions,
    },

    /// Drops them for good
    #[command(after_help = DROP_EXAMPLES)]
    Drop {
        /// Drop without asking
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        redis: RedisOptions,
    },
}

/// What changes something.
#[derive(Args, Debug)]
struct Change {
    /// All letters, where no --reason, --did, --id or --original-id is given
    #[arg(long)]
    all: bool,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    /// What was done as a JSON object
    #[arg(long)]
    json: bool,
}

/// Does what was asked for.
pub(super) fn run(command: DeadLetters) -> Result<ExitStatus, Failure> {
    match command.action {
        Action::List {
            counts,
            selection,
            json,
            redis,
        } => list::list(&redis, &selection, counts, json),
        Action::Show { id, json, redis } => list::show(&redis, id, json),
        Action::Requeue {
            selection,
            change,
            redis,
        } => requeue::run(&redis, &selection, &change),
        Action::Drop {
            selection,
            change,
            yes,
            redis,
        } => discard::run(&redis, &selection, &change, yes),
    }
}

/// How many letters by reason. What stands there as a reason may come from anybody, so the number of different ones is bounded.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    /// Letters.
    pub total: u64,
    /// By what stands there as their reason.
    pub by_reason: BTreeMap<String, u64>,
}

/// How many different reasons are told apart: this program has fifteen.
const MOST_REASONS: usize = 64;
/// How many characters of what stands there as a reason are looked at.
const LONGEST_REASON: usize = 64;
/// What all others are counted as.
const OTHER: &str = "(other)";

impl Counts {
    /// One more.
    pub(super) fn add(&mut self, reason: &str) {
        self.total += 1;
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        let is_told_apart =
            self.by_reason.contains_key(&reason) || self.by_reason.len() < MOST_REASONS;
        let reason = if is_told_apart { reason } else { OTHER.into() };
        *self.by_reason.entry(reason).or_default() += 1;
    }

    /// The reasons with most letters first.
    pub(super) fn sorted(&self) -> Vec<(&str, u64)> {
        let mut sorted: Vec<_> = self.by_reason.iter().map(|(r, n)| (&**r, *n)).collect();
        sorted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        sorted
    }

    /// As in "3 dead letters: network 2, car 1".
    pub(super) fn text(&self) -> String {
        let letters = match self.total {
            1 => "1 dead letter".to_owned(),
            n => format!("{} dead letters", count(n)),
        };
        let reasons: Vec<_> = self
            .sorted()
            .iter()
            .map(|(reason, n)| format!("{} {}", escaped(reason), count(*n)))
            .collect();
        match reasons.is_empty() {
            true => letters,
            false => format!("{letters}: {}", reasons.join(", ")),
        }
    }

    /// The reasons as an object.
    pub(super) fn json(&self) -> Value {
        let reasons = self.sorted();
        let entries = reasons
            .iter()
            .map(|(r, n)| ((*r).to_owned(), Value::from(*n)));
        Value::Object(entries.collect::<Map<_, _>>())
    }
}

/// Writes lines to standard output.
fn print<S: AsRef<str>>(lines: &[S]) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        out.write_all(line.as_ref().as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .map_err(output_failed)?;
    }
    out.flush().map_err(output_failed)
}

/// What a change has come to, in the form that was asked for, and then what was not `found`. Where that is why it has come to nothing,
/// it is all that is said.
fn report(
    change: &Change,
    verbs: (&str, &str),
    counts: &Counts,
    left: Option<u64>,
    found: Result<(), Failure>,
) -> Result<ExitStatus, Failure> {
    if found.is_ok() || counts.total > 0 || left > Some(0) {
        print(&outcome(change, verbs, counts, left))?;
    }
    found.map(|()| ExitStatus::Done)
}

/// The lines of that.
fn outcome(
    change: &Change,
    (done, would): (&str, &str),
    counts: &Counts,
    left: Option<u64>,
) -> Vec<String> {
    if change.json {
        let mut report = Map::new();
        report.insert(done.to_owned(), counts.total.into());
        if let Some(left) = left {
            report.insert("left".to_owned(), left.into());
        }
        report.insert("dry_run".to_owned(), change.dry_run.into());
        report.insert("by_reason".to_owned(), counts.json());
        return vec![Value::Object(report).to_string()];
    }
    let verb = if change.dry_run { would } else { done };
    let mut lines = vec![format!("{verb} {}", counts.text())];
    if let Some(left @ 1..) = left {
        lines.push(format!(
            "left {} without a field `repo`, which cannot be requeued",
            count(left)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_as_reasons_is_bounded() {
        let mut counts = Counts::default();
        for n in 0..10_000 {
            counts.add(&format!("reason {n}"));
        }
        counts.add(&"x".repeat(1 << 20));
        counts.add("reason 1");
        assert_eq!(counts.total, 10_002);
        assert_eq!(counts.by_reason.len(), MOST_REASONS + 1);
        assert_eq!(counts.by_reason.values().sum::<u64>(), counts.total);
        assert_eq!(counts.by_reason["reason 1"], 2);
    }
}
