//! The thread dump: SIGUSR1 or SIGQUIT print one line for each thread to standard error, in the form of the log and whatever its
//! filter.
//!
//! It is for the moment in which something seems to stand still, so it waits for nobody and stops nobody. It has a thread of its own,
//! which [glances](Slot::glance) at the others' slots and writes the lines itself, past the lock that the log has on standard
//! error: where that is a pipe that nobody empties, this thread alone waits, until there is room or the process ends. The signals
//! are handled on it as well: on another one they would interrupt what that one waits for. It is there from before Redis is first
//! asked until after the last thread has ended. Pinned by `tests/thread_dump.rs`.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::Level;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGQUIT, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use crate::logging::{Field, Format, line, rounded};
use crate::status::{Glance, Phase, Sight, Slot};

/// The name of the thread.
const NAME: &str = "thread-dump";
/// How often it is looked whether the process ends, while nobody empties the pipe.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How long the end of the process waits for a line that is just being written.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// The threads of this process, in the order in which they were placed; clones are the same roster.
#[derive(Clone, Default)]
pub struct Roster(Arc<Mutex<Vec<Named>>>);

/// A thread's name and where it writes down what it does.
type Named = (String, Arc<Slot>);

impl Roster {
    /// A place for a thread of this name, which is to be dropped at its end.
    pub fn place(&self, name: &str) -> Place {
        let slot = Arc::<Slot>::default();
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((name.to_owned(), Arc::clone(&slot)));
        Place(slot)
    }

    /// A line for each thread that has not ended.
    fn lines(&self, format: Format) -> Vec<Vec<u8>> {
        // This lock is held, by whoever it is, for a push or for this copy.
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = list.clone();
        list.iter()
            .map(|(name, slot)| (name, slot.glance()))
            .filter(|(_, glance)| glance.phase != Phase::Ended)
            .map(|(name, glance)| line(format, Level::Info, "thread", fields(name, glance)))
            .collect()
    }
}

/// The place of a living thread on the roster; a slot.
pub struct Place(Arc<Slot>);

impl Place {
    /// The slot itself, for those who write into it.
    pub fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.0)
    }
}

impl Deref for Place {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

/// What is said of a thread; what it has not got is left out.
fn fields(name: &str, glance: Glance) -> Vec<Field> {
    let mut fields: Vec<Field> = vec![("name", name.into()), ("phase", glance.phase.name().into())];
    match glance.job {
        Sight::None => {}
        Sight::Blurred => fields.push(("job", "?".into())),
        Sight::Clear(view) => {
            let names = [("id", view.id), ("did", view.did), ("host", view.host)];
            let is_repo = !names[1].1.is_empty();
            let known = names.into_iter().filter(|(_, name)| !name.is_empty());
            fields.extend(known.map(|(key, name)| (key, name.into())));
            if is_repo {
                fields.push(("bytes", view.bytes.into()));
                fields.push(("records", view.records.into()));
            }
        }
    }
    let seconds = rounded(glance.in_phase.as_secs_f64(), 1);
    fields.push(("seconds", seconds.into()));
    fields
}

/// The thread that dumps.
pub struct Dumper {
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Dumper {
    /// Starts it; from now on the two signals do not end the process any more.
    ///
    /// # Errors
    /// When the signals cannot be handled, or the thread cannot be started.
    pub fn start(format: Format, roster: &Roster) -> io::Result<Self> {
        // Handled on any other thread, they would interrupt reads from sockets, which end with an error then. Threads inherit this.
        let asked = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGQUIT]);
        asked.thread_block()?;
        let mut signals = Signals::new([SIGUSR1, SIGQUIT])?;
        let (handle, roster) = (signals.handle(), roster.clone());
        let place = roster.place(NAME);
        place.enter(Phase::Wait);
        let ends = handle.clone();
        let thread = thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || {
                // Cannot fail, and if it did: without a thread that takes them the signals do nothing.
                let _ = asked.thread_unblock();
                for _ in signals.forever() {
                    place.enter(Phase::Dump);
                    for line in roster.lines(format) {
                        if write(&line, &ends).is_err() {
                            // There is nobody to say it to.
                            break;
                        }
                    }
                    place.enter(Phase::Wait);
                }
            })?;
        Ok(Dumper {
            signals: handle,
            thread: Some(thread),
        })
    }

    /// Ends it, also in the midst of a dump that nobody reads.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Dumper {
    fn drop(&mut self) {
        self.signals.close();
        let limit = Instant::now() + GRACE;
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && Instant::now() < limit {
                thread::sleep(JOIN_POLL);
            }
            if thread.is_finished() {
                // A panic has been reported already.
                let _ = thread.join();
            }
        }
    }
}

/// Writes a line to standard error when there is room for it; with the lock of no one, and whole where it is a pipe.
fn write(mut line: &[u8], ends: &Handle) -> io::Result<()> {
    let stderr = io::stderr();
    while !line.is_empty() {
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut ready, Some(&LOOK)) {
            Ok(0) if ends.is_closed() => return Err(io::ErrorKind::Interrupted.into()),
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::write(stderr.as_fd(), line) {
            Ok(written) => line = &line[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_living_thread_has_a_line_with_what_it_has() {
        let roster = Roster::default();
        let (worker, resolver, gone) = (
            roster.place("worker-0"),
            roster.place("resolver-0"),
            roster.place("worker-1"),
        );
        drop(gone);
        worker.begin("did:web:example", "1-0");
        worker.asks("https://pds.example");
        worker.enter(Phase::Fetch);
        worker.add_bytes(7);
        resolver.begin("", "");
        resolver.asks("pds.example");
        resolver.enter(Phase::Resolve);
        let lines: Vec<_> = roster
            .lines(Format::Text)
            .into_iter()
            .map(|line| String::from_utf8(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        let wanted = "thread name=worker-0 phase=fetch id=1-0 did=did:web:example host=https://pds.example bytes=7 records=0 seconds=0.";
        assert!(lines[0].contains(wanted), "{}", lines[0]);
        let wanted = "thread name=resolver-0 phase=resolve host=pds.example seconds=0.";
        assert!(lines[1].contains(wanted), "{}", lines[1]);
    }
}
