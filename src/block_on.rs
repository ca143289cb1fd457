//! Drives async-only APIs from a worker thread.
//!
//! [`block_on`] is for futures that never wait for a reactor, like iroh-car over a blocking reader: it polls on the calling
//! thread. [`Reactor::block_on`] is for those that do network I/O themselves: the future is still polled on the calling thread,
//! but registers its sockets and timers with a one-thread tokio runtime, whose thread `io` is started by the first call. The
//! runtime only lends its reactor; no work of this program runs on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

/// Runs a future that needs no reactor to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// A lazily started tokio reactor; its thread ends when this is dropped.
#[derive(Default)]
pub struct Reactor {
    io: Mutex<Option<Io>>,
}

struct Io {
    handle: Handle,
    stop: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl Reactor {
    /// Runs a future that does network I/O to its end on this thread.
    ///
    /// # Errors
    /// When the runtime or its thread cannot be started.
    pub fn block_on<F: Future>(&self, future: F) -> std::io::Result<F::Output> {
        let handle = self.handle()?;
        // While the guard lives, sockets and timers made by the future belong to that runtime.
        let _guard = handle.enter();
        Ok(pollster::block_on(future))
    }

    fn handle(&self) -> std::io::Result<Handle> {
        let mut io = self.io.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(io) = io.as_ref() {
            return Ok(io.handle.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let thread = thread::Builder::new().name("io".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || runtime.block_on(stop.notified())
        })?;
        *io = Some(Io {
            handle: handle.clone(),
            stop,
            thread,
        });
        Ok(handle)
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let io = self
            .io
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(io) = io {
            // notify_one leaves a permit behind, so it is not lost if the thread has not begun to wait.
            io.stop.notify_one();
            if io.thread.join().is_err() {
                log::error!("the io thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_without_a_reactor_runs_on_this_thread() {
        let here = thread::current().id();
        assert_eq!(block_on(async { thread::current().id() }), here);
    }

    #[test]
    fn a_future_with_sockets_and_timers_runs_on_this_thread_with_the_io_threads_reactor() {
        let reactor = Reactor::default();
        let here = thread::current().id();
        let there = reactor
            .block_on(async {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let (client, server) =
                    tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
                client.unwrap();
                server.unwrap();
                thread::current().id()
            })
            .unwrap();
        assert_eq!(there, here);
    }
}
