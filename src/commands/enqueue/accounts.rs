//! The accounts that the operator names: read by one thread, looked up by several, enqueued in batches by this one.
//!
//! The channels between them are short, so nothing piles up where one of them waits. On Ctrl-C what has been looked up is enqueued, and
//! nobody is waited for: standard input may never end.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use sha2::{Digest, Sha256};

use super::input::{Input, Wanted};
use super::look_up::{LookUps, Refused};
use super::message::NewMessage;
use super::output::{BATCH, Output};
use super::progress::{Progress, Skipped};
use super::rest::Rest;
use super::{End, Enqueue, Kit, no_thread};
use crate::commands::Failure;
use crate::fetch::host::Host;
use crate::handle::Way;
use crate::shutdown::Shutdown;

/// How long a message waits at most for others of its batch.
const FLUSH: Duration = Duration::from_millis(500);

/// What has become of an account.
enum Found {
    /// The number of an account, and its message.
    Message(u64, NewMessage),
    /// Its number, what was written, and why it is no message.
    Refused(u64, String, Refused),
    /// An input cannot be read any further.
    Broken(String),
}

/// Enqueues all that the inputs name.
pub(super) fn run(
    options: &Enqueue,
    kit: &Kit,
    (way, host, inputs): (Way, Option<Host>, Vec<Input>),
    output: &mut Output,
    progress: &mut Progress,
    rest: &mut Option<Rest>,
) -> Result<End, Failure> {
    if let [Input::Arguments(accounts)] = &inputs[..] {
        progress.announce(accounts.len());
    }
    let look_ups = Arc::new(LookUps::new(options, kit, way, host));
    let (found, threads) = start(options, inputs, &look_ups, &kit.shutdown).map_err(no_thread)?;
    drop(look_ups);
    let mut batch = Batch {
        messages: Vec::new(),
        numbers: Vec::new(),
        rest,
        since: Instant::now(),
        seen: HashSet::new(),
    };
    loop {
        let mut ended = false;
        select! {
            recv(found) -> it => match it {
                Ok(it) => batch.take(it, progress),
                Err(_) => ended = true,
            },
            recv(kit.shutdown.requested()) -> _ => {
                // What is on its way here is enqueued as well; nobody adds to it without end, for the channel is short.
                found.try_iter().take(BATCH).for_each(|it| batch.take(it, progress));
                batch.add(output, progress)?;
                return Ok(End::Interrupted);
            },
            default(FLUSH) => {}
        }
        let is_due = ended || batch.messages.len() >= BATCH || batch.since.elapsed() >= FLUSH;
        if is_due && !batch.messages.is_empty() {
            // What is looked up already is enqueued also by one who is interrupted while he waits.
            if !output.wait_for_room(&kit.shutdown, progress)? {
                found
                    .try_iter()
                    .take(BATCH)
                    .for_each(|it| batch.take(it, progress));
                batch.add(output, progress)?;
                return Ok(End::Interrupted);
            }
            batch.add(output, progress)?;
        }
        progress.tick();
        if ended {
            for thread in threads {
                // One that panicked has left its account out, which must be said.
                let panicked = |_| Failure::Failed("a look-up has panicked".to_owned());
                thread.join().map_err(panicked)?;
            }
            // Look-ups that were interrupted have ended without a word.
            return Ok(match kit.shutdown.is_requested() {
                true => End::Interrupted,
                false => End::Done,
            });
        }
    }
}

/// Messages that are enqueued together.
struct Batch<'r> {
    messages: Vec<String>,
    /// The numbers of their accounts.
    numbers: Vec<u64>,
    /// Knows who is left.
    rest: &'r mut Option<Rest>,
    /// When the first of them came.
    since: Instant,
    /// The accounts that were enqueued, by a hash: there may be many millions.
    seen: HashSet<[u8; 16]>,
}

impl Batch<'_> {
    /// Adds them, a transaction at a time: those before one that fails are enqueued.
    fn add(&mut self, output: &mut Output, progress: &mut Progress) -> Result<(), Failure> {
        let numbers = self.numbers.chunks(BATCH);
        for (messages, numbers) in self.messages.chunks(BATCH).zip(numbers) {
            output.add(messages)?;
            progress.enqueued(messages.len());
            if let Some(rest) = self.rest {
                numbers.iter().for_each(|number| rest.settle(*number));
            }
        }
        self.messages.clear();
        self.numbers.clear();
        Ok(())
    }

    fn settle(&mut self, number: u64) {
        if let Some(rest) = self.rest {
            rest.settle(number);
        }
    }

    fn take(&mut self, found: Found, progress: &mut Progress) {
        match found {
            Found::Message(number, message) => {
                let hash = Sha256::digest(message.did.as_bytes());
                let mut short = [0; 16];
                short.copy_from_slice(&hash[..16]);
                if !self.seen.insert(short) {
                    // The one before it is enqueued, or is left itself.
                    self.settle(number);
                    return progress.skipped(Skipped::Duplicate, 1);
                }
                if self.messages.is_empty() {
                    self.since = Instant::now();
                }
                self.messages.push(message.to_json());
                self.numbers.push(number);
            }
            Found::Refused(number, shown, Refused { reason, text }) => {
                self.settle(number);
                progress.refused(&shown, reason, &text);
            }
            Found::Broken(text) => progress.broken(&text),
        }
    }
}

type Crew = (Receiver<Found>, Vec<JoinHandle<()>>);

/// Starts the threads; the channel ends with the last of them.
fn start(
    options: &Enqueue,
    inputs: Vec<Input>,
    look_ups: &Arc<LookUps>,
    shutdown: &Shutdown,
) -> std::io::Result<Crew> {
    let count = usize::from(options.concurrency);
    let (wanted_by, wanted) = bounded::<(u64, Wanted)>(count);
    let (found_by, found) = bounded::<Found>(BATCH);
    let mut threads = vec![named("input".to_owned(), {
        let found_by = found_by.clone();
        move || read(inputs, &wanted_by, &found_by)
    })?];
    for n in 0..count {
        let (wanted, found_by) = (wanted.clone(), found_by.clone());
        let (look_ups, shutdown) = (Arc::clone(look_ups), shutdown.clone());
        threads.push(named(format!("look-up-{n}"), move || {
            for (number, wanted) in wanted {
                let shown = wanted.to_string();
                let it = match look_ups.find(wanted) {
                    Ok(message) => Found::Message(number, message),
                    // Whoever was interrupted is not refused, but left.
                    Err(_) if shutdown.is_requested() => return,
                    Err(refused) => Found::Refused(number, shown, refused),
                };
                if found_by.send(it).is_err() {
                    // Interrupted.
                    return;
                }
            }
        })?);
    }
    Ok((found, threads))
}

fn named(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(work)
}

fn read(inputs: Vec<Input>, wanted: &Sender<(u64, Wanted)>, found: &Sender<Found>) {
    let mut numbers = 0..;
    for input in inputs {
        let broken = input.read(|shown, it| match (numbers.next().unwrap_or(u64::MAX), it) {
            (number, Ok(it)) => wanted.send((number, it)).is_ok(),
            (number, Err(text)) => {
                let reason = "syntax";
                let refused = Refused { reason, text };
                let shown = shown.to_owned();
                found.send(Found::Refused(number, shown, refused)).is_ok()
            }
        });
        if let Err(text) = broken
            && found.send(Found::Broken(text)).is_err()
        {
            return;
        }
    }
}
