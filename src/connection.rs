//! A blocking connection to Redis that is opened when needed and given up when in doubt.
//!
//! Rules: connecting, reading and writing have time-outs (but for the resolution of the server's name), and TCP keepalive is
//! on. A connection on which anything went wrong on the way (I/O error, time-out, protocol) is never used again: a late reply
//! would be taken for that of the next command. Each new connection asks who the server is, so that whoever has been promised
//! something knows when another server, or the same after a restart, is there in its place ([`Link::incarnation`]).
//! [`Link::insist`] waits out what passes (Redis away, loading, read-only, out of memory, …) and says so once; what does not pass
//! by waiting (a wrong password, a wrong type of key) it returns.

use std::thread;
use std::time::{Duration, Instant};

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, Cmd, Connection, ConnectionInfo, FromRedisValue, RedisError, RedisResult, Value,
};

use crate::shutdown::Shutdown;

/// How long Redis may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Redis may take for a reply: it may be forking or waiting for its disk.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// After how much silence a connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Pauses between attempts double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How often the log is reminded that Redis is still away.
const REMIND: Duration = Duration::from_secs(30);

/// Error codes of Redis that pass by themselves.
const PASSING: [&str; 13] = [
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "OOM",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "EXECABORT",
    "UNBLOCKED",
    "NOGOODSLAVE",
    "INPROG",
];

/// Until when [`Link::insist`] tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it succeeds or shutdown is asked for.
    UntilShutdown,
    /// Until it succeeds: for work that the drain must finish. The end of the process ends it.
    UntilDone,
}

/// Why [`Link::insist`] stopped without success.
#[derive(Debug)]
pub enum Stop {
    /// Shutdown was asked for.
    Shutdown,
    /// It will not pass.
    Error(RedisError),
}

/// One connection, its time-outs and its rules.
pub struct Link {
    client: Client,
    connection: Option<Connection>,
    /// The database to select: by our own command, because the redis crate's hides why it is refused.
    database: i64,
    /// Who the server of the last connection was.
    server: Option<Server>,
    incarnation: u64,
    shutdown: Shutdown,
    reply_timeout: Duration,
}

impl Link {
    /// Connects at the first use.
    ///
    /// # Errors
    /// When the address cannot be used at all.
    pub fn new(info: &ConnectionInfo, shutdown: &Shutdown) -> RedisResult<Self> {
        let settings = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE));
        let database = info.redis_settings().db();
        let handshake = info.redis_settings().clone().set_db(0);
        let info = info
            .clone()
            .set_tcp_settings(settings)
            .set_redis_settings(handshake);
        Ok(Link {
            client: Client::open(info)?,
            connection: None,
            database,
            server: None,
            incarnation: 0,
            shutdown: shutdown.clone(),
            reply_timeout: REPLY_TIMEOUT,
        })
    }

    /// The same, but waits for replies only so long.
    pub fn with_reply_timeout(self, reply_timeout: Duration) -> Self {
        Link {
            reply_timeout,
            ..self
        }
    }

    /// Sends one command and reads its reply; no second try.
    ///
    /// # Errors
    /// Of the way, of Redis, or of the conversion.
    pub fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.send(&command.get_packed_command())?;
        Ok(T::from_redis_value(self.receive()?.extract_error()?)?)
    }

    /// Sends commands that are already in Redis's protocol, without reading a reply.
    ///
    /// # Errors
    /// Of the way.
    pub fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        self.open()?;
        let result = match &mut self.connection {
            Some(connection) => connection.send_packed_command(commands),
            None => Err(not_connected()),
        };
        self.keep_if_sound(result)
    }

    /// Reads one reply. An error that Redis replies is a [`Value::ServerError`], also inside of arrays.
    ///
    /// # Errors
    /// Of the way.
    pub fn receive(&mut self) -> RedisResult<Value> {
        let result = match &mut self.connection {
            Some(connection) => connection.recv_response(),
            None => Err(not_connected()),
        };
        self.keep_if_sound(result)
    }

    /// Does `attempt` until it succeeds, waiting out what passes.
    ///
    /// `attempt` must be fit to be done again when it failed half-way.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn insist<T>(
        &mut self,
        patience: Patience,
        mut attempt: impl FnMut(&mut Self) -> RedisResult<T>,
    ) -> Result<T, Stop> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut said: Option<Instant> = None;
        loop {
            let error = match attempt(self) {
                Ok(value) => {
                    if said.is_some() {
                        log::info!("Redis is back after {:.1} s", began.elapsed().as_secs_f64());
                    }
                    return Ok(value);
                }
                Err(error) if passes(&error) => error,
                Err(error) => return Err(Stop::Error(error)),
            };
            if !stays(&error) {
                self.connection = None;
            }
            if said.is_none_or(|at| at.elapsed() >= REMIND) {
                log::warn!("Redis cannot be used: {error}; waiting for it");
                said = Some(Instant::now());
            }
            match patience {
                Patience::UntilShutdown => {
                    if self.shutdown.sleep(pause) {
                        return Err(Stop::Shutdown);
                    }
                }
                Patience::UntilDone => thread::sleep(pause),
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Gives the connection up, for its replies are no longer in step with what is asked.
    pub fn give_up(&mut self) {
        self.connection = None;
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Grows whenever a connection meets another server than the one before, or the same after a restart: what the last one
    /// acknowledged may be unknown to this one.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Connects, where there is no connection.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub fn open(&mut self) -> RedisResult<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let mut connection = self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(self.reply_timeout))?;
        connection.set_write_timeout(Some(self.reply_timeout))?;
        if self.database != 0 {
            redis::cmd("SELECT")
                .arg(self.database)
                .exec(&mut connection)?;
        }
        let server = Server::of(&mut connection)?;
        // One that does not say who it is may always be another.
        if server.is_none() || server != self.server {
            self.incarnation += 1;
        }
        self.server = server;
        self.connection = Some(connection);
        Ok(())
    }

    fn keep_if_sound<T>(&mut self, result: RedisResult<T>) -> RedisResult<T> {
        if result.is_err() {
            self.connection = None;
        }
        result
    }
}

fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}

/// What tells one server, and one life of it, from another.
#[derive(PartialEq, Eq)]
struct Server {
    /// Chosen anew at each start.
    run_id: String,
    /// Of the data: a replica that follows another master has other data.
    replication_id: String,
}

impl Server {
    fn of(connection: &mut Connection) -> RedisResult<Option<Self>> {
        let mut info = redis::cmd("INFO");
        info.arg("server").arg("replication");
        let info: redis::InfoDict = info.query(connection)?;
        let (run_id, replication_id) = (info.get("run_id"), info.get("master_replid"));
        Ok(run_id
            .zip(replication_id)
            .map(|(run_id, replication_id)| Server {
                run_id,
                replication_id,
            }))
    }
}

/// Whether the server is still the one to talk to: it refuses to do more for now, and has lost nothing. All other errors may
/// mean that another server has taken its place.
fn stays(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS")
    )
}

/// Whether waiting helps.
pub fn passes(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.code().is_some_and(|code| PASSING.contains(&code))
}
