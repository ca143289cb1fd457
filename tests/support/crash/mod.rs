//! Kills instances of the program, one after the other, and holds what comes out against what must.
//!
//! Three instances work on the same input, each behind a [`Proxy`](super::proxy::Proxy) of its own. Each is started with a trap
//! ([`instance::Trap`]), is killed (SIGKILL) as soon as it is caught in it, and is started again at once, under the same or another
//! name and with another trap. A seeded generator decides the traps, the names, the repos and where their answers stop.
//!
//! A kill counts for a moment only where that was observed: the state was so right before the kill, and behind it Redis, the
//! fixture server and the proxy still say the same of the message. What is not so counts as a kill at any time.
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
mod late;
mod message;
mod repos;
mod tally;

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::Connection;

use super::events::{
    DEAD_LETTERS, INPUT, OUTPUT, dead_letters, pending, progress_keys, stream_len,
};
use super::fixture_server::{Fault, FixtureServer};
use super::generator::Random;
use super::proxy::Record;
use super::redis_server::RedisServer;
use super::wait::eventually;
use instance::{Instance, Trap};
use late::Late;
use message::Message;
use repos::Repos;
pub use tally::{Moment, Tally};

/// How many instances run at a time.
const INSTANCES: usize = 3;
/// How many names there are: enough for most of those that are free to be free in Redis too.
const NAMES: u64 = 12;
/// How many logs of killed processes are kept, to be shown when the run fails.
const LOGS: usize = 40;
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

    /// The next answers for an account stop within the body; sometimes one is cut off there before.
    fn stop_answers(&mut self, did: &str) {
        let bytes = self.repos.bytes_of(did);
        let hold = Fault::Hold {
            after: self.random.below(bytes) as usize,
        };
        let fault = match self.random.chance(8) {
            true => {
                let after = self.random.below(bytes) as usize;
                Fault::Then(vec![Fault::Truncate { after }, hold])
            }
            false => hold,
        };
        self.server.set_fault(did, fault);
    }

    /// Lets each answer go on that is held, unless it is to be the last of its process.
    fn look_at_fetches(&mut self) {
        let flights = self.repos.flights();
        let flights = flights.map(|flight| (flight.did.clone(), flight.id.clone()));
        let held: Vec<_> = flights
            .filter(|(did, _)| self.server.held(did) > 0)
            .collect();
        if held.is_empty() {
            return;
        }
        let requests = self.server.requests();
        for (did, id) in held {
            let mut latest = requests.iter().rev();
            let latest =
                latest.find(|request| request.is_get_repo() && request.did.as_ref() == Some(&did));
            let agent = latest
                .and_then(|request| request.header("user-agent"))
                .unwrap_or_default();
            let by = self
                .instances
                .iter()
                .position(|it| agent.contains(&format!("{})", it.contact)));
            if let Some(place) = by {
                match &mut self.instances[place].trap {
                    Trap::Fetching { skip: 0 } => self.kill_fetching(place, &did, &id),
                    Trap::Fetching { skip } => *skip -= 1,
                    _ => {}
                }
            }
            self.server.release(&did);
            self.stop_answers(&did);
        }
    }

    fn look_at_instance(&mut self, place: usize) {
        match &self.instances[place].trap {
            Trap::AnyTime { at } if *at <= Instant::now() => {
                self.kill(place);
                self.tally.killed(Moment::AnyTime);
            }
            Trap::WaitsForRoom => self.look_for_room(place),
            Trap::HearsNothing { rule } if rule.count() > 0 => {
                let id = rule.records()[0].id.clone().expect("a chunk of a message");
                self.kill_between_chunks(place, &id);
            }
            Trap::Exec { rule, moment } if rule.count() > 0 => {
                let held = rule.records().remove(0);
                self.kill_in_exec(place, *moment, &held);
            }
            _ => {}
        }
    }

    fn kill_fetching(&mut self, place: usize, did: &str, id: &str) {
        let before = Message::read(&mut self.connection, id);
        let so = before.is_with(&self.instances[place].name);
        self.kill(place);
        let after = Message::read(&mut self.connection, id);
        let so = so && before == after && self.server.held(did) > 0;
        self.count(so, Moment::Fetching, id);
    }

    fn look_for_room(&mut self, place: usize) {
        let instance = &self.instances[place];
        let mut flights = self.repos.flights();
        let found = flights.find(|it| instance.chunks_of(&it.id).is_some_and(|it| it > 0));
        if let Some(id) = found.map(|flight| flight.id.clone()) {
            self.kill_between_chunks(place, &id);
        }
    }

    fn kill_between_chunks(&mut self, place: usize, id: &str) {
        let instance = &self.instances[place];
        let before = Message::read(&mut self.connection, id);
        // Not only what Redis says: those leaves may be of another process, and the message wait here for its turn.
        let chunks = instance.chunks_of(id);
        let so = chunks > Some(0) && before.leaves() > 0 && before.is_with(&instance.name);
        let dead = self.kill(place);
        let after = Message::read(&mut self.connection, id);
        let so = so && before == after && dead.chunks_of(id) == chunks;
        self.count(so, Moment::BetweenChunks, id);
    }

    fn kill_in_exec(&mut self, place: usize, moment: Moment, held: &Record) {
        let id = held.id.as_deref().expect("an EXEC of a message");
        let before = Message::read(&mut self.connection, id);
        let dead = self.kill(place);
        let record = dead.proxy.records().swap_remove(held.number);
        let Instance {
            name, proxy, trap, ..
        } = dead;
        let Trap::Exec { rule, .. } = trap else {
            unreachable!("nobody sets a trap anew")
        };
        let so = match moment {
            Moment::ExecApplied => record.is_applied() && !record.handed_on,
            _ => rule.held() == 1 && before.is_with(&name),
        };
        if moment == Moment::ExecLate && so {
            let late = Late::new(proxy, rule, &before, &mut self.random);
            self.late.push(late);
        } else {
            // In this order: what was held is lost.
            drop(proxy);
            drop(rule);
        }
        let after = Message::read(&mut self.connection, id);
        self.count(so && before == after, moment, id);
    }

    /// Kills an instance and starts its successor; returns the dead one.
    fn kill(&mut self, place: usize) -> Instance {
        let same = self.random.chance(25);
        let name = match same {
            true => self.instances[place].name.clone(),
            false => self.free_name(),
        };
        self.instances[place].process.kill();
        let successor = self.start(&name);
        let dead = std::mem::replace(&mut self.instances[place], successor);
        match same {
            true => self.tally.same_name += 1,
            false => self.tally.other_name += 1,
        }
        self.logs.keep(&dead);
        dead
    }

    /// A name that no running instance has.
    fn free_name(&mut self) -> String {
        loop {
            let name = format!("name-{}", self.random.below(NAMES));
            if self.instances.iter().all(|instance| instance.name != name) {
                return name;
            }
        }
    }

    fn count(&mut self, observed: bool, moment: Moment, id: &str) {
        self.tally
            .killed(if observed { moment } else { Moment::AnyTime });
        if let Some(flight) = self.repos.flight_mut(id) {
            flight.struck = true;
        }
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
        assert_eq!(progress_keys(connection), Vec::<String>::new());
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

/// What the killed processes have said.
#[derive(Default)]
struct Logs(VecDeque<(String, Vec<String>)>);

impl Logs {
    fn keep(&mut self, dead: &Instance) {
        let head = format!("{} (process {})", dead.name, dead.process.pid());
        self.0.push_back((head, dead.process.lines()));
        if self.0.len() > LOGS {
            self.0.pop_front();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if thread::panicking() {
            for (head, lines) in &self.0 {
                eprintln!("--- log of killed {head}");
                lines.iter().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
