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
use super::{End, Enqueue, Kit, no_thread};
use crate::commands::Failure;
use crate::fetch::host::Host;
use crate::handle::Way;

/// How long a message waits at most for others of its batch.
const FLUSH: Duration = Duration::from_millis(500);

/// What has become of an account.
enum Found {
    Message(NewMessage),
    /// What was written, and why it is no message.
    Refused(String, Refused),
    /// An input cannot be read any further.
    Broken(String),
}

/// Enqueues all that the inputs name.
pub(super) fn run(
    options: &Enqueue,
    kit: &Kit,
    way: Way,
    host: Option<Host>,
    inputs: Vec<Input>,
    output: &mut Output,
    progress: &mut Progress,
) -> Result<End, Failure> {
    if let [Input::Arguments(accounts)] = &inputs[..] {
        progress.announce(accounts.len());
    }
    let look_ups = Arc::new(LookUps::new(options, kit, way, host));
    let (found, threads) = start(options, inputs, &look_ups).map_err(no_thread)?;
    drop(look_ups);
    let mut batch = Batch {
        messages: Vec::new(),
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
                output.add(&batch.messages)?;
                progress.enqueued(batch.messages.len());
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
                output.add(&batch.messages)?;
                progress.enqueued(batch.messages.len());
                return Ok(End::Interrupted);
            }
            output.add(&batch.messages)?;
            progress.enqueued(batch.messages.len());
            batch.messages.clear();
        }
        progress.tick();
        if ended {
            for thread in threads {
                // One that panicked has left its account out, which must be said.
                let panicked = |_| Failure::Failed("a look-up has panicked".to_owned());
                thread.join().map_err(panicked)?;
            }
            return Ok(End::Done);
        }
    }
}

/// Messages that are enqueued together.
struct Batch {
    messages: Vec<String>,
    /// When the first of them came.
    since: Instant,
    /// The accounts that were enqueued, by a hash: there may be many millions.
    seen: HashSet<[u8; 16]>,
}

impl Batch {
    fn take(&mut self, found: Found, progress: &mut Progress) {
        match found {
            Found::Message(message) => {
                let hash = Sha256::digest(message.did.as_bytes());
                let mut short = [0; 16];
                short.copy_from_slice(&hash[..16]);
                if !self.seen.insert(short) {
                    return progress.skipped(Skipped::Duplicate, 1);
                }
                if self.messages.is_empty() {
                    self.since = Instant::now();
                }
                self.messages.push(message.to_json());
            }
            Found::Refused(shown, Refused { reason, text }) => {
                progress.refused(&shown, reason, &text);
            }
            Found::Broken(text) => progress.broken(&text),
        }
    }
}

type Crew = (Receiver<Found>, Vec<JoinHandle<()>>);

/// Starts the threads; the channel ends with the last of them.
fn start(options: &Enqueue, inputs: Vec<Input>, look_ups: &Arc<LookUps>) -> std::io::Result<Crew> {
    let count = usize::from(options.concurrency);
    let (wanted_by, wanted) = bounded::<Wanted>(count);
    let (found_by, found) = bounded::<Found>(BATCH);
    let mut threads = vec![named("input".to_owned(), {
        let found_by = found_by.clone();
        move || read(inputs, &wanted_by, &found_by)
    })?];
    for n in 0..count {
        let (wanted, found_by) = (wanted.clone(), found_by.clone());
        let look_ups = Arc::clone(look_ups);
        threads.push(named(format!("look-up-{n}"), move || {
            for wanted in wanted {
                let shown = wanted.to_string();
                let it = match look_ups.find(wanted) {
                    Ok(message) => Found::Message(message),
                    Err(refused) => Found::Refused(shown, refused),
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

fn read(inputs: Vec<Input>, wanted: &Sender<Wanted>, found: &Sender<Found>) {
    for input in inputs {
        let broken = input.read(|it| match it {
            Ok(it) => wanted.send(it).is_ok(),
            Err((shown, text)) => {
                let reason = "syntax";
                let refused = Refused { reason, text };
                found.send(Found::Refused(shown, refused)).is_ok()
            }
        });
        if let Err(text) = broken
            && found.send(Found::Broken(text)).is_err()
        {
            return;
        }
    }
}
