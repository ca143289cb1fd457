//! Drives async-only APIs from a worker thread.
//!
//! The only one on the way of a repo is iroh-car, which reads from an async reader; ours is a blocking one, so its future never
//! waits for a reactor, and is polled to its end by pollster on the thread that reads. No async runtime is started.

/// Runs a future that needs no reactor to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_future_runs_on_this_thread() {
        let here = thread::current().id();
        assert_eq!(block_on(async { thread::current().id() }), here);
    }
}
