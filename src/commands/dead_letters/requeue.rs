//! `requeue`: letters become messages again.
//!
//! For each page one transaction adds the messages and removes the letters, behind a WATCH of the dead letters and a look at which of
//! them are still there. So two who requeue at the same time never add one message twice, a letter that somebody drops meanwhile is not
//! requeued, and whatever ends this command leaves each letter either as it was or as a message. Letters that the worker adds meanwhile
//! refuse the transaction too, so it is tried again, with fewer letters: that is a matter of milliseconds.

use std::thread;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value, from_redis_value};

use super::letter::Letter;
use super::scan::{Scan, add_by_ids, read_by_ids};
use super::selection::Selection;
use super::{Change, Counts, report};
use crate::backfiller::ExitStatus;
use crate::cli::RedisOptions;
use crate::commands::{Failure, server};
use crate::config::Config;
use crate::connection::{Link, not_connected};
use crate::queue::fence::no_array;
use crate::queue::message::FIELD;
use crate::resp::Pipeline;
use crate::terminal::{count, escaped_bytes};

/// How often in a row a transaction may be refused: then something writes dead letters without any pause.
const TRIES: u32 = 1000;
/// The pause before the next try grows by this, up to twenty of it.
const PAUSE: Duration = Duration::from_millis(1);

/// Requeues what is selected.
pub(super) fn run(
    redis: &RedisOptions,
    selection: &Selection,
    change: &Change,
) -> Result<ExitStatus, Failure> {
    selection.insist(change)?;
    let config = server::config(redis)?;
    let mut link = server::connect(&config)?;
    let mut scan = Scan::begin(&mut link, &config, selection)
        .map_err(|error| server::failed(&config, &error))?;
    let (mut done, mut left) = (Counts::default(), 0);
    let mut page = |link: &mut Link| -> Result<bool, Stop> {
        let Some(letters) = scan.next(link)? else {
            return Ok(false);
        };
        let all = letters.len();
        let letters: Vec<_> = letters
            .into_iter()
            .filter(|letter| letter.requeueable().is_some())
            .collect();
        // Those that cannot be requeued do not keep others from it.
        let unfit = (all - letters.len()) as u64;
        scan.give_back(unfit);
        left += unfit;
        if change.dry_run {
            letters.iter().for_each(|l| done.add(&l.text("reason")));
        } else {
            requeue(link, &config, letters, &mut done)?;
        }
        Ok(true)
    };
    loop {
        match page(&mut link) {
            Ok(true) => {}
            Ok(false) => break,
            Err(stop) => {
                let why = match stop {
                    Stop::Redis(error) => server::away(&config, &error),
                    Stop::Other(text) => text,
                };
                let done = count(done.total);
                return Err(Failure::Failed(format!(
                    "{why} (requeued {done} before that; what `list` shows is still to be done)"
                )));
            }
        }
    }
    let found = selection.found(&scan, done.total + left);
    let verbs = ("requeued", "would requeue");
    report(change, verbs, &done, Some(left), found)
}

/// Why it cannot go on.
enum Stop {
    Redis(RedisError),
    Other(String),
}

impl From<RedisError> for Stop {
    fn from(error: RedisError) -> Self {
        Stop::Redis(error)
    }
}

/// Requeues these letters, as far as they are still there.
fn requeue(
    link: &mut Link,
    config: &Config,
    mut letters: Vec<Letter>,
    done: &mut Counts,
) -> Result<(), Stop> {
    let (mut size, mut tries) = (letters.len(), 0);
    while !letters.is_empty() {
        let ids: Vec<String> = letters[..size.min(letters.len())]
            .iter()
            .map(|letter| letter.id.clone())
            .collect();
        let present = watch(link, config, &ids)?;
        let generation = link.generation();
        if exchange(link, generation, config, &present)? {
            present.iter().for_each(|l| done.add(&l.text("reason")));
            letters.drain(..ids.len());
            tries = 0;
            continue;
        }
        tries += 1;
        if tries == TRIES {
            return Err(Stop::Other(format!(
                "the dead letters ({}) change too fast",
                config.dlq_stream
            )));
        }
        size = (size / 2).max(1);
        thread::sleep(PAUSE * tries.min(20));
    }
    Ok(())
}

/// Watches the dead letters; returns which of these are there.
fn watch(link: &mut Link, config: &Config, ids: &[String]) -> Result<Vec<Letter>, Stop> {
    let mut commands = Pipeline::default();
    commands.add(&[b"WATCH", config.dlq_stream.as_bytes()]);
    // Redis would remove the letters also where it cannot add the messages, so that is looked at before.
    commands.add(&[b"TYPE", config.backfill_stream.as_bytes()]);
    add_by_ids(&mut commands, &config.dlq_stream, ids);
    let mut replies = link.pipeline(&commands)?.into_iter();
    let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
    next()?;
    let kind: String = from_redis_value(next()?).map_err(RedisError::from)?;
    if !matches!(kind.as_str(), "none" | "stream") {
        let key = &config.backfill_stream;
        return Err(Stop::Other(format!(
            "the key {key} holds a {kind}, not a stream"
        )));
    }
    Ok(read_by_ids(replies)?)
}

/// Adds their messages and removes them; `false`: the dead letters have changed since they were watched.
fn exchange(
    link: &mut Link,
    generation: u64,
    config: &Config,
    letters: &[Letter],
) -> Result<bool, Stop> {
    let (input, dead) = (
        config.backfill_stream.as_bytes(),
        config.dlq_stream.as_bytes(),
    );
    let mut commands = Pipeline::default();
    for letter in letters {
        // Looked at before: an entry does not change.
        let value = letter.requeueable().unwrap_or_default();
        commands.add(&[b"XADD", input, b"*", FIELD.as_bytes(), value]);
        commands.add(&[b"XDEL", dead, letter.id.as_bytes()]);
    }
    let transaction = commands.in_transaction();
    // On another connection nothing would be watched.
    if !link.is_connected_as(generation) {
        return Err(not_connected().into());
    }
    link.send_on(generation, &transaction.bytes)?;
    let mut replies = (0..transaction.count)
        .map(|_| link.receive())
        .collect::<RedisResult<Vec<_>>>()?;
    let executed = replies.pop().unwrap_or(Value::Nil);
    // What was refused while it was queued says more than EXEC's own error.
    for reply in replies {
        reply.extract_error()?;
    }
    let replies = match executed {
        Value::Nil => return Ok(false),
        Value::Array(replies) => replies,
        Value::ServerError(error) => return Err(RedisError::from(error).into()),
        _ => return Err(no_array().into()),
    };
    let mut lost = Vec::new();
    let mut why = None;
    for (reply, letter) in replies.into_iter().step_by(2).zip(letters) {
        if let Value::ServerError(error) = reply {
            lost.push(escaped_bytes(letter.requeueable().unwrap_or_default()));
            why = Some(RedisError::from(error));
        }
    }
    match why {
        None => Ok(true),
        // Somebody has replaced the input within the last millisecond.
        Some(why) => Err(Stop::Other(format!(
            "{why}; these messages are in neither stream now: {}",
            lost.join(" ")
        ))),
    }
}
