//! Drives async-only APIs from threads that wait for them.
//!
//! On the way of a repo there is one, iroh-car, which reads from an async reader; ours is a blocking one, so its future never
//! waits for a reactor, and is polled to its end by pollster on the thread that reads. No async runtime is started for it.
//!
//! Look-ups in the DNS beside that way (see [`handle`](crate::handle)) need a reactor: [`Io`] lends one. Its runtime runs on one thread
//! of its own, `io`, which is started by the first call and joined when the [`Io`] is dropped.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Runs a future that needs no reactor to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// A reactor, and the thread on which it runs once it is needed.
#[derive(Default)]
pub struct Io {
    running: Mutex<Option<Running>>,
}

struct Running {
    handle: Handle,
    /// Dropped to end the thread.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Io {
    /// Runs a future to its end on this thread, with the reactor of the thread `io`. How long it may take is the future's business.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let handle = self.handle()?;
        let _entered = handle.enter();
        Ok(pollster::block_on(future))
    }

    fn handle(&self) -> io::Result<Handle> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            return Ok(running.handle.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("io".to_owned())
            .spawn(move || {
                // It never gets a value: that its other end is dropped is the sign.
                let _ = runtime.block_on(stopped);
            })?;
        *running = Some(Running {
            handle: handle.clone(),
            stop,
            thread,
        });
        Ok(handle)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let running = self.running.get_mut();
        if let Some(running) = running.unwrap_or_else(PoisonError::into_inner).take() {
            drop(running.stop);
            // Had it panicked, there would be nothing left to end.
            let _ = running.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_future_runs_on_this_thread() {
        let here = thread::current().id();
        assert_eq!(block_on(async { thread::current().id() }), here);
    }

    #[test]
    fn a_future_has_a_reactor_on_the_thread_io_which_ends_with_it() {
        let io = Io::default();
        let here = thread::current().id();
        let (name, ran_on) = mpsc::channel();
        let at = io.block_on(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let spawned = tokio::spawn(async move {
                let thread = thread::current();
                name.send(thread.name().map(str::to_owned)).unwrap();
            });
            spawned.await.unwrap();
            thread::current().id()
        });
        assert_eq!(at.unwrap(), here);
        assert_eq!(ran_on.recv().unwrap().as_deref(), Some("io"));
        // A task that never ends would hold a thread that were not stopped, and the test with it.
        let _ = io.block_on(async {
            tokio::spawn(std::future::pending::<()>());
        });
        drop(io);
    }
}
