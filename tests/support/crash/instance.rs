//! An instance of the program behind a proxy of its own, with the trap in which it is to be caught.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::super::backfiller::Backfiller;
use super::super::fixture_server::FixtureServer;
use super::super::generator::Random;
use super::super::proxy::{Action, Exec, Kind, Outcome, Proxy, Record, Rule};
use super::super::redis_server::RedisServer;
use super::tally::Moment;

/// A full chunk. An instance with this as its high-water mark that has just written one waits for room.
const CHUNK: &str = "501";
/// At most so long after its start does a process die that dies at any time: about as long as it takes to catch one in a trap.
const ANY_TIME_MS: u64 = 1_500;

/// What kills an instance.
pub enum Trap {
    /// Its next fetch but so many.
    Fetching { skip: usize },
    /// The wait for room behind a chunk.
    WaitsForRoom,
    /// The chunk behind which it hears nothing more of Redis than that it is written.
    HearsNothing { rule: Rule },
    /// An EXEC that is held, or its reply.
    Exec { moment: Moment, rule: Rule },
    /// The clock.
    AnyTime { at: Instant },
    /// Nothing.
    None,
}

/// A running instance.
pub struct Instance {
    /// The consumer's name.
    pub name: String,
    /// What its HTTP requests are recognised by: no two processes have the same.
    pub contact: String,
    pub process: Backfiller,
    // Before the trap: an EXEC that is still held when both are dropped never reaches Redis.
    pub proxy: Proxy,
    pub trap: Trap,
}

impl Instance {
    pub fn start(
        redis: &RedisServer,
        server: &FixtureServer,
        name: &str,
        number: usize,
        random: &mut Random,
    ) -> Self {
        let proxy = Proxy::start(redis.port());
        let trap = Trap::set(&proxy, random);
        let contact = format!("https://process-{number}.example");
        let mut program = Backfiller::builder(redis, server)
            .env("REDIS_URL", proxy.url())
            .env("BACKFILLER_CONSUMER", name)
            .env("BACKFILLER_CONTACT", &contact)
            .env("BACKFILLER_LEASE_SECS", "1")
            .env("BACKFILLER_MAX_ATTEMPTS", "1000000")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "50")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "200");
        if matches!(trap, Trap::WaitsForRoom) {
            program = program.env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", CHUNK);
        }
        Self {
            name: name.to_owned(),
            contact,
            process: program.start(),
            proxy,
            trap,
        }
    }

    /// How many chunks of a message it has written, the last one excepted, if it knows of all of them what has become of them.
    pub fn chunks_of(&self, id: &str) -> Option<usize> {
        let of_it = self.proxy.records().into_iter();
        let of_it: Vec<_> = of_it.filter(|it| it.id.as_deref() == Some(id)).collect();
        let is_chunk = |it: &&Record| it.kind == Kind::Chunk && it.outcome == Outcome::Applied;
        let chunks = of_it.iter().filter(is_chunk).count();
        of_it.iter().all(|it| it.handed_on).then_some(chunks)
    }
}

impl Trap {
    fn set(proxy: &Proxy, random: &mut Random) -> Self {
        let mut below = |limit| random.below(limit) as usize;
        match below(13) {
            0..3 => Self::Fetching { skip: below(4) },
            3 => Self::WaitsForRoom,
            4..6 => Self::HearsNothing {
                rule: proxy.once(Action::PauseAfter, behind(below(4), Exec::is_chunk)),
            },
            6..8 => Self::exec(proxy, Moment::ExecApplied, below(8)),
            8 => Self::exec(proxy, Moment::ExecLost, below(8)),
            9..11 => Self::exec(proxy, Moment::ExecLate, below(8)),
            _ => Self::AnyTime {
                at: Instant::now() + Duration::from_millis(below(ANY_TIME_MS) as u64),
            },
        }
    }

    /// Holds the EXEC behind so many others, or its reply. Every other time it is one that is not the first of its message, for
    /// those are fenced by another WATCH.
    fn exec(proxy: &Proxy, moment: Moment, skip: usize) -> Self {
        let action = match moment {
            Moment::ExecApplied => Action::HoldReply,
            _ => Action::Delay,
        };
        let rule = if skip.is_multiple_of(2) {
            let mut begun = HashSet::new();
            let goes_on = move |exec: &Exec| exec.writes_events() && !begun.insert(exec.id());
            proxy.once(action, goes_on)
        } else {
            proxy.once(action, behind(skip, Exec::writes_events))
        };
        Self::Exec { moment, rule }
    }
}

/// Wants the EXECs of that kind, but not the first ones.
fn behind(skip: usize, wanted: impl Fn(&Exec) -> bool + Send) -> impl FnMut(&Exec) -> bool + Send {
    let mut seen = 0;
    move |exec| {
        let wanted = wanted(exec);
        seen += usize::from(wanted);
        wanted && seen > skip
    }
}
