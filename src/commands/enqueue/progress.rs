//! What is seen meanwhile, and what is said at the end: all on standard error.
//!
//! On a terminal a bar stands below the lines; elsewhere a line comes now and then. What strangers have written is escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::Failure;
use crate::terminal::{count, escaped};

/// How often a line comes where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Why an account is left out that is none to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skipped {
    /// It was enqueued by this call already.
    Duplicate,
    /// Its server says that it is not active.
    Inactive,
}

impl Skipped {
    fn name(self) -> &'static str {
        match self {
            Skipped::Duplicate => "duplicate",
            Skipped::Inactive => "inactive",
        }
    }
}

/// Counts, and shows them.
pub(super) struct Progress {
    verb: &'static str,
    enqueued: u64,
    skipped: BTreeMap<Skipped, u64>,
    refused: BTreeMap<&'static str, u64>,
    broken: bool,
    bar: Option<ProgressBar>,
    /// What it waits for.
    waits: Option<String>,
    said: Instant,
    /// Lines about refusals that may still come.
    lines: u64,
}

impl Progress {
    /// Nothing is enqueued. A dry run says so.
    pub fn new(dry_run: bool) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar
        });
        Progress {
            verb: if dry_run { "would enqueue" } else { "enqueued" },
            enqueued: 0,
            skipped: BTreeMap::new(),
            refused: BTreeMap::new(),
            broken: false,
            bar,
            waits: None,
            said: Instant::now(),
            lines: u64::MAX,
        }
    }

    /// So many accounts will come.
    pub fn announce(&mut self, accounts: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(accounts as u64);
            bar.set_style(style("{spinner} {bar:30} {pos}/{len} {msg} {elapsed}"));
        }
    }

    /// No more lines than these about what is refused; all of it is counted.
    pub fn show_at_most(&mut self, lines: u64) {
        self.lines = lines;
    }

    /// So many more are enqueued.
    pub fn enqueued(&mut self, accounts: usize) {
        self.enqueued += accounts as u64;
    }

    /// So many more are left out.
    pub fn skipped(&mut self, why: Skipped, accounts: u64) {
        if accounts > 0 {
            *self.skipped.entry(why).or_default() += accounts;
        }
    }

    /// One is refused; `shown` is how it was written.
    pub fn refused(&mut self, shown: &str, reason: &'static str, why: &str) {
        *self.refused.entry(reason).or_default() += 1;
        if self.lines == 0 {
            return;
        }
        self.lines -= 1;
        let why = why.strip_prefix(&format!("{shown}: ")).unwrap_or(why);
        self.say(&format!("refused {shown}: {why}"));
        if self.lines == 0 {
            self.say("further ones are only counted");
        }
    }

    /// An input cannot be read any further; the others are.
    pub fn broken(&mut self, why: &str) {
        self.broken = true;
        self.say(why);
    }

    /// Whether an input could not be read to its end.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether something was refused or not read.
    pub fn has_refused(&self) -> bool {
        self.broken || !self.refused.is_empty()
    }

    /// It waits for this.
    pub fn waits(&mut self, why: &str) {
        // A new reason is said at once, the same one with the next line.
        let is_new = self.waits.is_none();
        self.waits = Some(escaped(why));
        if is_new && self.bar.is_none() {
            self.line();
        }
        self.tick();
    }

    /// It does not wait any more.
    pub fn goes_on(&mut self) {
        self.waits = None;
    }

    /// Shows where it is, if that is due.
    pub fn tick(&mut self) {
        if let Some(bar) = &self.bar {
            let accounts = self.enqueued + total(&self.skipped) + total(&self.refused);
            bar.set_position(accounts);
            bar.set_message(self.state());
            bar.tick();
        } else if self.said.elapsed() >= LINE {
            self.line();
        }
    }

    /// Says something in a line of its own; it is escaped here.
    pub fn say(&self, text: &str) {
        let line = escaped(text);
        let write = || {
            // Whoever has closed standard error does not want to know.
            let _ = writeln!(io::stderr(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Ends the bar, and says what was done.
    pub fn summary(&mut self, interrupted: bool) {
        self.end();
        self.waits = None;
        let how = if interrupted { "interrupted: " } else { "" };
        self.say(&format!("{how}{}", self.state()));
    }

    /// Ends the bar, and adds to a failure what was done before.
    pub fn failed(&mut self, failure: Failure) -> Failure {
        self.end();
        self.waits = None;
        match failure {
            Failure::Failed(text) => {
                Failure::Failed(format!("{text} ({} before that)", self.state()))
            }
            other => other,
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self) {
        self.said = Instant::now();
        self.say(&self.state());
    }

    fn state(&self) -> String {
        let mut text = format!("{} {}", self.verb, count(self.enqueued));
        let skipped = self.skipped.iter().map(|(why, n)| (why.name(), *n));
        add(&mut text, "skipped", skipped.collect());
        let refused = self.refused.iter().map(|(why, n)| (*why, *n));
        add(&mut text, "refused", refused.collect());
        if let Some(waits) = &self.waits {
            let _ = write!(text, "; {waits}");
        }
        text
    }
}

fn total<K>(counts: &BTreeMap<K, u64>) -> u64 {
    counts.values().sum()
}

/// Adds how many, and of which kinds.
fn add(text: &mut String, verb: &str, kinds: Vec<(&str, u64)>) {
    let all: u64 = kinds.iter().map(|(_, n)| n).sum();
    if all == 0 {
        return;
    }
    let kinds: Vec<_> = kinds
        .into_iter()
        .map(|(name, n)| format!("{} {name}", count(n)))
        .collect();
    // Writing to a string does not fail.
    let _ = write!(text, ", {verb} {} ({})", count(all), kinds.join(", "));
}

fn style(template: &str) -> ProgressStyle {
    // A template that could not be read would only look plainer.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
