//! Kills instances of the program, one after the other, and holds what comes out against what must.
//!
//! Three instances work on the same input, each behind a [`Proxy`](super::proxy::Proxy) of its own. Each is started with a trap
//! ([`instance::Trap`]), is killed (SIGKILL) as soon as it is caught in it, and is started again at once, under the same or another
//! name and with another trap. A seeded generator decides the traps, the names, the repos and where their answers stop.
//!
//! A kill counts for a moment only where that was observed: the state was so right before the kill, and behind it Redis, the
//! fixture server and the proxy still say the same of the message. What is not so counts as missed.
//!
//! - **Fetching.** Each answer of the fixture server stops somewhere in the body until the driver lets it go on. The requests name
//!   the process in their User-Agent.
//! - **Between chunks.** The high-water mark is one chunk, so that the instance waits for room behind each, or the proxy keeps back
//!   what the instance sends behind an EXEC. The progress says that leaves are written, and the proxy that this very process wrote
//!   them and has the answers to all EXECs of the repo.
//! - **EXEC sent and unanswered.** The proxy holds the reply (applied), or the EXEC, which then never reaches Redis (lost), or
//!   reaches it some time after the death of its sender (late), also when another instance has long taken the message over.
//!
//! The output is taken as it comes, and each repo judged as its message leaves the input ([`repos`]), so a run may be as long as
//! it likes.

mod instance;
mod judge;
mod kills;
mod late;
mod logs;
mod message;
mod repos;
mod tally;

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Connection;

use super::events::{DEAD_LETTERS, INPUT, OUTPUT, dead_letters, pending, stream_len};
use super::fixture_server::FixtureServer;
use super::generator::Random;
use super::redis_server::RedisServer;
use super::wait::eventually;
use instance::{Instance, Trap};
use late::Late;
use logs::Logs;
use repos::Repos;
use tally::KILLS;
pub use tally::Tally;

/// How many instances run at a time.
const INSTANCES: usize = 3;
/// How often the progress line is printed.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// A run that is going on.
struct Run {
    seed: u64,
    random: Random,
    began: Instant,
    said: Instant,
    tally: Tally,
    /// Before the servers, so that no process outlives what it talks to.
    instances: Vec<Instance>,
    late: Vec<Late>,
    started: usize,
    repos: Repos,
    server: FixtureServer,
    connection: Connection,
    redis: RedisServer,
    logs: Logs,
}

/// Kills until all has happened often enough, and asserts that nothing is lost, and nothing there twice.
pub fn run(seed: u64) -> Tally {
    let mut run = Run::new(seed);
    while !run.tally.missing().is_empty() {
        let kills = run.tally.kills();
        assert!(kills < 4 * KILLS, "{kills} kills have not been enough");
        eventually("an instance is caught in its trap", || run.tick());
        run.say(false);
    }
    run.finish();
    run.say(true);
    run.tally.clone()
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let redis = RedisServer::start();
        let server = FixtureServer::start();
        let mut run = Self {
            seed,
            began: Instant::now(),
            said: Instant::now(),
            tally: Tally::default(),
            instances: Vec::new(),
            late: Vec::new(),
            started: 0,
            repos: Repos::new(&server, &mut random),
            connection: redis.connection(),
            random,
            server,
            redis,
            logs: Logs::default(),
        };
        for did in run.repos.dids() {
            run.stop_answers(&did);
        }
        for number in 0..INSTANCES {
            let instance = run.start(&format!("name-{number}"));
            run.instances.push(instance);
        }
        run
    }

    fn start(&mut self, name: &str) -> Instance {
        self.started += 1;
        Instance::start(
            &self.redis,
            &self.server,
            name,
            self.started,
            &mut self.random,
        )
    }

    /// Looks at everything once. Returns whether an instance was killed.
    fn tick(&mut self) -> bool {
        let kills = self.tally.kills();
        self.look_after_the_streams();
        let url = self.server.url();
        self.repos
            .enqueue(&mut self.connection, &url, &mut self.random);
        self.look_at_fetches();
        for place in 0..INSTANCES {
            self.look_at_instance(place);
        }
        self.tally.kills() > kills
    }

    /// What goes on also at the end, when nobody is killed any more.
    fn look_after_the_streams(&mut self) {
        for instance in &mut self.instances {
            assert!(
                instance.process.is_running(),
                "{} ended by itself",
                instance.name
            );
        }
        let mut still = Vec::new();
        for late in self.late.drain(..) {
            if late.is_due(&mut self.connection) {
                let goes_on = late.goes_on;
                match late.arrive(&mut self.connection) {
                    true => self.tally.late_applied += 1,
                    false if goes_on => self.tally.late_refused_later += 1,
                    false => self.tally.late_refused_first += 1,
                }
            } else {
                still.push(late);
            }
        }
        self.late = still;
        self.repos.collect(&mut self.connection, &mut self.tally);
    }

    /// Lets the last instances finish what is in flight, and asserts that nothing else is left behind.
    fn finish(&mut self) {
        for instance in &mut self.instances {
            instance.trap = Trap::None;
        }
        eventually("all repos are done", || {
            self.look_after_the_streams();
            self.look_at_fetches();
            self.repos.flights().count() == 0 && self.late.is_empty()
        });
        for instance in &mut self.instances {
            instance.process.signal(Signal::SIGTERM);
        }
        for instance in &mut self.instances {
            assert_eq!(instance.process.wait().code(), Some(0), "{}", instance.name);
        }
        let connection = &mut self.connection;
        assert_eq!(dead_letters(connection), []);
        assert_eq!(stream_len(connection, DEAD_LETTERS), 0);
        assert_eq!(stream_len(connection, INPUT), 0);
        assert_eq!(pending(connection), 0);
        message::assert_no_keys(connection);
        assert_eq!(
            stream_len(connection, OUTPUT),
            0,
            "somebody has written later"
        );
        self.repos.assert_nothing_else(connection, &self.tally);
    }

    fn say(&mut self, now: bool) {
        if now || self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            println!("seed {}, {seconds:.1} s: {}", self.seed, self.tally);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "seed {}: {}; missing {:?}",
                self.seed,
                self.tally,
                self.tally.missing()
            );
        }
    }
}
