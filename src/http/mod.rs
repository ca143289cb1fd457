//! The operator's HTTP server (`BACKFILLER_METRICS_PORT`): the status page, `/metrics`, `/status.json`, `/healthz` and `/readyz`.
//!
//! It only shows what other threads have written down already: nothing that is asked here waits for Redis, for a host or for a worker.
//! Two threads: `http` speaks with clients, and `sampler` asks Redis, over a connection of its own, once a second however many
//! ask here. Without a port neither is started and nothing is kept for them.
//!
//! Nobody has to say who he is, so it listens on a loopback address unless it is told otherwise, and answers no request that a page
//! of a stranger could have made a browser send there (see `routes`).
//!
//! Clients can be slow, many or hostile without a cost to the work: one thread serves all `connections` and waits for none of them;
//! each is bounded in time and bytes, and their number is; who is one too many takes the place of the one that has been there
//! longest without having asked for anything. So however many do not say what they want, another is answered, and the end of
//! the process waits for nobody. Each connection is for one request.
//!
//! It begins before Redis is waited for and ends after all threads that work, so it answers through the drain as well. Pinned by
//! `tests/http.rs`, `tests/http_clients.rs`, `tests/metrics.rs` and `tests/status_json.rs`.

mod answer;
mod connection;
mod connections;
mod exposition;
mod history;
mod hosts;
mod page;
mod process;
mod request;
mod routes;
mod sampler;
mod status;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};
use mio::Waker;

use self::connections::Connections;
use self::routes::Desk;
use self::sampler::{Sample, Sampler};
use crate::config::Config;
use crate::dump::Roster;
use crate::hosts::Hosts;
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::queue::waiting::Waiting;
use crate::shutdown::Shutdown;
use crate::status::{Phase, Slot};

/// How long the end of the process waits for the two threads: the sampler may be waiting for Redis.
const END: Duration = Duration::from_secs(3);
/// How often it looks whether they have ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// What all threads write down, and whoever asks is shown.
pub struct Watched {
    /// The configuration.
    pub config: Arc<Config>,
    /// When the process began.
    pub started: SystemTime,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The memory for repos.
    pub memory: Arc<Budget>,
    /// What each worker is at, in the order of their names; there is none before they are started.
    slots: OnceLock<Vec<Arc<Slot>>>,
    /// How much each host may be asked.
    pub hosts: Arc<Hosts>,
    /// What waits for which host; `None` where nobody can ask.
    pub waiting: Option<Arc<Waiting>>,
    /// Whether the process is to end.
    pub shutdown: Shutdown,
    sample: Mutex<Arc<Sample>>,
}

impl Watched {
    /// Nothing has begun yet.
    pub fn new(config: &Arc<Config>, shutdown: &Shutdown) -> Arc<Self> {
        let is_watched = config.http.is_some();
        Arc::new(Watched {
            config: Arc::clone(config),
            started: SystemTime::now(),
            metrics: Arc::new(Metrics::new(is_watched)),
            memory: Budget::new(config.memory_budget),
            slots: OnceLock::new(),
            hosts: Hosts::new(config),
            waiting: is_watched.then(Arc::default),
            shutdown: shutdown.clone(),
            sample: Mutex::default(),
        })
    }

    /// All threads have been started, and these are the workers'.
    pub fn begins_to_work(&self, slots: Vec<Arc<Slot>>) {
        // It begins once.
        let _ = self.slots.set(slots);
    }

    fn is_working(&self) -> bool {
        self.slots.get().is_some()
    }

    fn slots(&self) -> &[Arc<Slot>] {
        self.slots.get().map_or(&[], Vec::as_slice)
    }

    fn sample(&self) -> Arc<Sample> {
        let sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&sample)
    }

    fn set_sample(&self, sample: Sample) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(sample);
    }
}

/// The running server; it ends when this is dropped, whatever the end of the process is for.
pub struct Server {
    threads: Vec<JoinHandle<()>>,
    ends: Arc<AtomicBool>,
    waker: Arc<Waker>,
    /// Dropped to tell the sampler.
    sampler: Option<Sender<Infallible>>,
}

impl Server {
    /// Listens there and serves from now on.
    ///
    /// # Errors
    /// When the address cannot be listened on, in words, or a thread cannot be started.
    pub fn start(address: SocketAddr, watched: &Arc<Watched>, roster: &Roster) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let desk = Desk::new(watched, address.ip(), Instant::now());
        let connections = Connections::listen(address, desk, &ends).map_err(|e| {
            let text = format!("cannot listen on {address} (BACKFILLER_METRICS_PORT): {e}");
            io::Error::new(e.kind(), text)
        })?;
        let waker = connections.waker();
        let (sampler, told) = bounded(0);
        let sample = Sampler::new(watched, told).map_err(io::Error::other)?;
        let url = format!("http://{}/", connections.address());
        log::info!("~url" = url; "{url} shows the status");
        let (serves, samples) = (roster.place("http"), roster.place("sampler"));
        serves.enter(Phase::Wait);
        let mut server = Server {
            threads: Vec::new(),
            ends,
            waker,
            sampler: Some(sampler),
        };
        // Where the second cannot be started, the first ends with the server.
        let http = thread::Builder::new().name("http".to_owned());
        server
            .threads
            .push(http.spawn(move || connections.serve(&serves))?);
        let sampler = thread::Builder::new().name("sampler".to_owned());
        server
            .threads
            .push(sampler.spawn(move || sample.run(&samples))?);
        Ok(server)
    }
}

impl Drop for Server {
    /// Ends both threads. One that waits for a Redis that does not answer is left to the end of the process.
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        // Where it cannot be woken, it looks when it wakes by itself.
        let _ = self.waker.wake();
        self.sampler = None;
        let limit = Instant::now() + END;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < limit {
            thread::sleep(JOIN_POLL);
        }
        for thread in self.threads.drain(..) {
            if thread.is_finished() {
                // A panic has been reported already.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cli::{Cli, RedisOptions};

    #[test]
    fn both_threads_end_with_the_server() {
        let cli = Cli {
            consumer: Some("one".to_owned()),
            // Nobody is there: what is tried ends at once.
            redis: RedisOptions {
                redis_url: Some("redis://127.0.0.1:1".to_owned()),
                ..RedisOptions::default()
            },
            ..Cli::default()
        };
        let config = Arc::new(Config::from_cli(&cli).unwrap());
        let watched = Watched::new(&config, &Shutdown::default());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::start(address, &watched, &Roster::default()).unwrap();
        assert!(Arc::strong_count(&watched) > 1, "they watch");
        drop(server);
        assert_eq!(Arc::strong_count(&watched), 1, "nobody does any more");
    }
}
