//! What is said on standard error: a line for each that failed, a bar while it goes on, and a line at the end.
//!
//! The bar is drawn only where standard error is a terminal and the events are not shown on the same one; it makes room for what is said
//! and for each line of the log. Pinned by `tests/export.rs`.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::job::Job;
use super::output::Totals;
use crate::error::Reason;
use crate::metrics::Metrics;
use crate::terminal::escaped;

/// Speaks to whoever has started the export.
pub(super) struct Teller {
    bar: Option<ProgressBar>,
    began: Instant,
    total: usize,
    done: usize,
    failed: usize,
    /// Whether signatures are not verified.
    unverified: bool,
}

/// The bar for so many things, where one can be seen; `to_stdout`: that is where the events go. Nothing is drawn yet.
pub(super) fn bar(total: usize, to_stdout: bool) -> Option<ProgressBar> {
    let shown = io::stderr().is_terminal() && !(to_stdout && io::stdout().is_terminal());
    shown.then(|| {
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {pos}/{len} [{bar:30}] {elapsed} {msg}")
        {
            bar.set_style(style);
        }
        bar
    })
}

impl Teller {
    /// Of so many things.
    pub(super) fn new(total: usize, bar: Option<ProgressBar>, unverified: bool) -> Self {
        let mut teller = Teller {
            bar,
            began: Instant::now(),
            total,
            done: 0,
            failed: 0,
            unverified,
        };
        if unverified {
            teller.say(
                &"WARNING: --unverified: NO SIGNATURE IS VERIFIED; whoever made the CAR may have made up all that is in it",
            );
        }
        teller
    }

    /// One is written.
    pub(super) fn done(&mut self) {
        self.done += 1;
    }

    /// One is the account of another that was asked for.
    pub(super) fn repeated(&mut self, job: &Job) {
        self.total -= 1;
        if let Some(bar) = &self.bar {
            bar.set_length(self.total as u64);
        }
        log::info!("{job}: asked for more than once");
    }

    /// One has failed for good.
    pub(super) fn failed(&mut self, job: &Job, reason: Reason, text: &str) {
        self.failed += 1;
        self.say(&format_args!("{job}: {reason}: {}", escaped(text)));
    }

    /// One was refused for now, so often of so many times.
    pub(super) fn waits(&mut self, job: &Job, text: &str, (times, most): (u64, u64)) {
        self.say(&format_args!(
            "waiting: {job}: {}; it is tried again ({times} of {most})",
            escaped(text)
        ));
    }

    /// Says how far it is.
    pub(super) fn tick(&mut self, metrics: &Metrics, at_work: usize) {
        let Some(bar) = &self.bar else {
            return;
        };
        bar.set_position((self.done + self.failed) as u64);
        bar.set_message(format!(
            "{at_work} at work, {} records, {}, {} failed",
            HumanCount(metrics.records.get()),
            HumanBytes(metrics.bytes.get()),
            self.failed,
        ));
    }

    /// Says what has become of all; `written`: what the output has, `end`: what else there is to say.
    pub(super) fn sum_up(&mut self, metrics: &Metrics, written: Totals, end: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let unverified = if self.unverified { ", UNVERIFIED" } else { "" };
        let line = format!(
            "{} of {} exported{unverified}, {} failed; records={} skipped={} filtered={} bytes={} spills={} seconds={:.1}{end}",
            written.repos,
            self.total,
            self.failed,
            metrics.records.get(),
            written.skipped,
            written.filtered,
            metrics.bytes.get(),
            metrics.spills.get(),
            self.began.elapsed().as_secs_f64(),
        );
        self.say(&line);
    }

    /// Whether none has failed.
    pub(super) fn is_well(&self) -> bool {
        self.failed == 0
    }

    /// Says a line.
    fn say(&mut self, what: &dyn fmt::Display) {
        let say = || {
            // Where nobody listens, the status says enough.
            let _ = writeln!(io::stderr(), "backfiller: {what}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

impl Drop for Teller {
    /// Nothing stays of the bar, however it ends.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
