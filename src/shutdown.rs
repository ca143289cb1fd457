//! From a signal to every thread: one flag that is set once, and one channel that wakes all who wait.
//!
//! The channel never carries a message. Its only sender is dropped when shutdown is asked for, so every receiver, in whichever
//! select or sleep it waits, sees the disconnection at once; there is no wake-up that could be missed and nothing to drain.
//! SIGINT, SIGTERM and SIGHUP ask for shutdown; a second signal ends the process with [`SECOND_SIGNAL`]
//! (`tests/shutdown.rs`).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// Exit status after a second Ctrl-C: 128 + SIGINT, as shells report it.
pub const SECOND_SIGNAL: i32 = 130;

/// Shared by all threads; clones are the same shutdown.
#[derive(Clone)]
pub struct Shutdown {
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    receiver: Receiver<Infallible>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Shutdown {
            sender: Arc::new(Mutex::new(Some(sender))),
            receiver,
        }
    }
}

impl Shutdown {
    /// Asks for shutdown. Returns whether this was the first to ask.
    pub fn request(&self) -> bool {
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }

    /// Whether shutdown has been asked for.
    pub fn is_requested(&self) -> bool {
        matches!(self.receiver.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// For `select!`: becomes ready (disconnected) when shutdown is asked for.
    pub fn requested(&self) -> &Receiver<Infallible> {
        &self.receiver
    }

    /// Sleeps, but not past the request. Returns whether shutdown has been asked for.
    pub fn sleep(&self, duration: Duration) -> bool {
        matches!(
            self.receiver.recv_timeout(duration),
            Err(RecvTimeoutError::Disconnected)
        )
    }

    /// Lets signals ask for shutdown; the second one ends the process.
    ///
    /// # Errors
    /// When another handler has been installed in this process.
    pub fn on_signals(&self) -> Result<(), ctrlc::Error> {
        self.on_signals_saying(
            "signal: reading stops, repos in flight are finished; a second signal ends at once",
            "second signal: ending at once; what was in flight stays pending",
            || {},
        )
    }

    /// The same, with these words about the first and the second one, and what is done before the second one ends the process; it must
    /// not wait.
    ///
    /// # Errors
    /// When another handler has been installed in this process.
    pub fn on_signals_saying(
        &self,
        first: &'static str,
        second: &'static str,
        at_once: impl Fn() + Send + 'static,
    ) -> Result<(), ctrlc::Error> {
        let shutdown = self.clone();
        ctrlc::set_handler(move || {
            if shutdown.is_requested() {
                // Before what might wait for a terminal that takes nothing.
                at_once();
                log::warn!("{second}");
                std::process::exit(SECOND_SIGNAL);
            }
            // Said before it is asked for: an idle process ends at once.
            log::info!("{first}");
            shutdown.request();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wakes_a_sleeper_and_stays() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.is_requested());
        assert!(!shutdown.sleep(Duration::from_millis(1)));
        let sleeper = std::thread::spawn({
            let shutdown = shutdown.clone();
            // Were the request missed, this would sleep for an hour and the test would not end.
            move || shutdown.sleep(Duration::from_secs(3600))
        });
        assert!(shutdown.request());
        assert!(!shutdown.request(), "only the first request is the first");
        assert!(sleeper.join().unwrap());
        assert!(shutdown.is_requested());
    }
}
