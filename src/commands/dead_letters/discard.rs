//! `drop`: letters are removed for good, after a question.

use std::io::{self, BufRead, IsTerminal, Write};

use redis::RedisResult;

use super::scan::Scan;
use super::selection::Selection;
use super::{Change, Counts, report};
use crate::backfiller::ExitStatus;
use crate::cli::RedisOptions;
use crate::commands::{Failure, server};
use crate::config::Config;
use crate::connection::Link;
use crate::terminal::{count, escaped};

/// Longest answer that is read, in bytes.
const ANSWER: u64 = 256;

/// Drops what is selected.
pub(super) fn run(
    redis: &RedisOptions,
    selection: &Selection,
    change: &Change,
    yes: bool,
) -> Result<ExitStatus, Failure> {
    selection.insist(change)?;
    let ask = !yes && !change.dry_run;
    if ask && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Usage(
            "without a terminal to ask on, nothing is dropped unless --yes is given".to_owned(),
        ));
    }
    let config = server::config(redis)?;
    let mut link = server::connect(&config)?;
    let failed = |error| server::failed(&config, &error);
    let mut counts = Counts::default();
    // What comes while somebody thinks about the question is not what he was asked about, nor is what a limit would let move up for
    // letters that go meanwhile.
    let start = Scan::begin(&mut link, &config, selection).map_err(failed)?;
    let mut scan = start.clone();
    if change.dry_run || ask {
        while let Some(letters) = scan.next(&mut link).map_err(failed)? {
            letters.iter().for_each(|l| counts.add(&l.text("reason")));
        }
    }
    if ask && counts.total > 0 {
        // Whoever thinks about it may think for longer than Redis keeps a silent connection.
        link.give_up();
        if !confirmed(&counts, &config)? {
            return Err(Failure::Failed("nothing was dropped".to_owned()));
        }
    }
    if !change.dry_run && (yes || counts.total > 0) {
        counts = Counts::default();
        scan = start.no_further_than(&scan);
        drop_all(&mut link, &config, &mut scan, &mut counts).map_err(|error| {
            let (why, done) = (server::away(&config, &error), count(counts.total));
            Failure::Failed(format!("{why} (dropped {done} before that)"))
        })?;
    }
    let found = selection.found(&scan, counts.total);
    report(change, ("dropped", "would drop"), &counts, None, found)
}

fn drop_all(
    link: &mut Link,
    config: &Config,
    scan: &mut Scan,
    counts: &mut Counts,
) -> RedisResult<()> {
    while let Some(letters) = scan.next(link)? {
        let mut commands = crate::resp::Pipeline::default();
        for letter in &letters {
            commands.add(&[b"XDEL", config.dlq_stream.as_bytes(), letter.id.as_bytes()]);
        }
        let replies = link.pipeline(&commands)?;
        for (reply, letter) in replies.into_iter().zip(&letters) {
            // Another one may have been faster.
            let removed: u64 = redis::from_redis_value(reply.extract_error()?)?;
            if removed > 0 {
                counts.add(&letter.text("reason"));
            }
        }
    }
    Ok(())
}

/// Asks on the terminal.
fn confirmed(counts: &Counts, config: &Config) -> Result<bool, Failure> {
    let failed = |error| Failure::Failed(format!("the terminal cannot be used: {error}"));
    let mut question = io::stderr().lock();
    let (counts, stream) = (counts.text(), escaped(&config.dlq_stream));
    write!(question, "Drop {counts} (of {stream}) for good? [y/N] ")
        .and_then(|()| question.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    let mut input = io::Read::take(io::stdin().lock(), ANSWER);
    input.read_line(&mut answer).map_err(failed)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}
