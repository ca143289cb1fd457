//! What stands around a measurement: a private Redis and the server of the set, and what each of them has cost.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue, Value};

use crate::data::{self, Account};
use crate::process::{Machine, cpu_time};
use crate::sets::Set;
use crate::support::child;
pub use crate::support::child::Running;
use crate::support::redis_server::RedisServer;

/// The streams, under their default names.
pub const INPUT: &str = "repo_backfill";
pub const OUTPUT: &str = "firehose_backfill";
pub const DEAD_LETTERS: &str = "repo_backfill_dlq";

/// Redis and the server of a set. Both stay for all rounds.
pub struct Stage {
    pub redis: RedisServer,
    pub connection: Connection,
    server: Running,
    /// `http://127.0.0.1:<port>`
    pub url: String,
    pub dids: Vec<String>,
}

/// What the clocks showed at one moment.
pub struct Clocks {
    at: Instant,
    redis: Duration,
    server: Duration,
    machine: Machine,
}

/// What has passed between two moments.
pub struct Passed {
    pub wall: Duration,
    pub redis: Duration,
    pub server: Duration,
    /// Of all processors, whoever used them.
    pub busy: Duration,
}

impl Stage {
    pub fn start(set: &Set) -> Self {
        let redis = RedisServer::start();
        let mut command = this_program();
        command
            .args(["serve", set.name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut server = Running(child::spawn(command).expect("the server starts"));
        let out = server.0.stdout.take().expect("a pipe");
        let mut port = String::new();
        BufReader::new(out)
            .read_line(&mut port)
            .expect("the server's port");
        let port: u16 = port.trim().parse().expect("the server's port");
        let dids = (0..data::count(set)).map(|number| Account::new(number).did);
        Stage {
            connection: redis.connection(),
            redis,
            server,
            url: format!("http://127.0.0.1:{port}"),
            dids: dids.collect(),
        }
    }

    /// Removes everything from Redis, and returns when it is gone.
    pub fn clear(&mut self) {
        let () = self.ask(redis::cmd("FLUSHALL").arg("SYNC"));
    }

    /// One command.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> T {
        command
            .query(&mut self.connection)
            .expect("Redis answers as expected")
    }

    pub fn length(&mut self, stream: &str) -> usize {
        self.ask(redis::cmd("XLEN").arg(stream))
    }

    /// How many entries the output has ever had, and when the last was added, in milliseconds since 1970.
    pub fn output(&mut self) -> (usize, u64) {
        let reply: Vec<Value> = self.ask(redis::cmd("XINFO").arg("STREAM").arg(OUTPUT));
        let field = |name: &str| {
            let pairs = reply.chunks_exact(2);
            let mut found = pairs.filter(|pair| text(&pair[0]) == name);
            found.next().map(|pair| text(&pair[1])).unwrap_or_default()
        };
        let last = field("last-generated-id");
        let (millis, _) = last.split_once('-').expect("the id of an entry");
        (
            field("entries-added").parse().expect("a number of entries"),
            millis.parse().expect("a time in an id"),
        )
    }

    /// Reads all clocks.
    pub fn clocks(&self) -> Clocks {
        Clocks {
            redis: cpu_time(self.redis.pid()),
            server: cpu_time(self.server.pid()),
            machine: Machine::now(),
            at: Instant::now(),
        }
    }

    /// Reads all clocks again.
    pub fn since(&self, before: &Clocks) -> Passed {
        let now = self.clocks();
        Passed {
            wall: now.at - before.at,
            redis: now.redis - before.redis,
            server: now.server - before.server,
            busy: now.machine.busy_since(&before.machine),
        }
    }
}

fn text(value: &Value) -> String {
    redis::from_redis_value_ref(value).unwrap_or_default()
}

/// This executable, for another part of it.
pub fn this_program() -> Command {
    Command::new(env::current_exe().expect("the path of this program"))
}
