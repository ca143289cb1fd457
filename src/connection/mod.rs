//! A blocking connection to Redis that is opened when needed and given up when in doubt.
//!
//! Rules: connecting, reading and writing have time-outs (but for the resolution of the server's name), and TCP keepalive is
//! on. A connection on which anything went wrong on the way (I/O error, time-out, protocol) is never used again: a late reply
//! would be taken for that of the next command. Connections are numbered, because what is watched on one is not watched on the
//! next: [`Link::send_on`] sends on that very connection or not at all.
//! [`Link::insist`] waits out what passes (Redis away, loading, read-only, out of memory, …) and says so once; what does not pass
//! by waiting (a wrong password, a wrong type of key) it returns.

mod plain;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, Cmd, Connection, ConnectionInfo, FromRedisValue, ProtocolVersion, RedisError,
    RedisResult, Value,
};

use self::plain::Plain;
use crate::logging::rounded;
use crate::resp::Pipeline;
use crate::shutdown::Shutdown;
use crate::status::{Phase, Slot};

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

/// What Redis says to a client that is one too many.
const CROWDED: &str = "max number of clients reached";

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

/// A connection as it is read from: by our own code or, over TLS, by that of the redis crate.
enum Wire {
    Plain(Plain),
    Tls(Box<Connection>),
}

impl Wire {
    fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        match self {
            Wire::Plain(plain) => plain.send(commands),
            Wire::Tls(connection) => connection.send_packed_command(commands),
        }
    }

    fn receive(&mut self) -> RedisResult<Value> {
        match self {
            Wire::Plain(plain) => plain.receive(),
            Wire::Tls(connection) => connection.recv_response(),
        }
    }
}

/// One connection, its time-outs and its rules.
pub struct Link {
    client: Client,
    connection: Option<Wire>,
    /// The database to select: by our own command, because the redis crate's hides why it is refused.
    database: i64,
    /// How many connections there have been.
    generation: u64,
    shutdown: Shutdown,
    reply_timeout: Duration,
    /// Whose it is, where it is shown that he waits.
    slot: Option<Arc<Slot>>,
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
        // Over TCP and over TLS alike.
        let protocol = ProtocolVersion::RESP2;
        let handshake = info
            .redis_settings()
            .clone()
            .set_db(0)
            .set_protocol(protocol);
        let info = info
            .clone()
            .set_tcp_settings(settings)
            .set_redis_settings(handshake);
        Ok(Link {
            client: Client::open(info)?,
            connection: None,
            database,
            generation: 0,
            shutdown: shutdown.clone(),
            reply_timeout: REPLY_TIMEOUT,
            slot: None,
        })
    }

    /// The same, but waits for replies only so long.
    pub fn with_reply_timeout(self, reply_timeout: Duration) -> Self {
        Link {
            reply_timeout,
            ..self
        }
    }

    /// The same, but shows in this slot when it waits for Redis.
    pub fn shown_in(self, slot: &Arc<Slot>) -> Self {
        Link {
            slot: Some(Arc::clone(slot)),
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
            Some(connection) => connection.send(commands),
            None => Err(not_connected()),
        };
        self.keep_if_sound(result)
    }

    /// The same on the connection of this number, and on no other.
    ///
    /// # Errors
    /// Of the way; also where that connection is gone.
    pub fn send_on(&mut self, generation: u64, commands: &[u8]) -> RedisResult<()> {
        if !self.is_connected_as(generation) {
            return Err(not_connected());
        }
        self.send(commands)
    }

    /// Sends commands and reads as many replies; all are read before any is judged, so that the connection stays in step.
    ///
    /// # Errors
    /// Of the way. What Redis refuses is a [`Value::ServerError`] among the replies.
    pub fn pipeline(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        if commands.count == 0 {
            return Ok(Vec::new());
        }
        self.send(&commands.bytes)?;
        (0..commands.count).map(|_| self.receive()).collect()
    }

    /// Reads one reply. An error that Redis replies is a [`Value::ServerError`], also inside of arrays.
    ///
    /// # Errors
    /// Of the way.
    pub fn receive(&mut self) -> RedisResult<Value> {
        let result = match &mut self.connection {
            Some(connection) => connection.receive(),
            None => Err(not_connected()),
        };
        self.keep_if_sound(result)
    }

    /// Reads the reply to a command of a transaction: nothing, or what Redis says instead of queuing it.
    ///
    /// # Errors
    /// Of the way.
    pub fn receive_queued(&mut self) -> RedisResult<Option<Value>> {
        match &mut self.connection {
            Some(Wire::Plain(plain)) => {
                let result = plain.receive_queued();
                self.keep_if_sound(result)
            }
            _ => self.receive().map(Some),
        }
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
        let slot = self.slot.clone();
        let mut waits = None;
        loop {
            let error = match attempt(self) {
                Ok(value) => {
                    if said.is_some() {
                        let seconds = began.elapsed().as_secs_f64();
                        log::info!(
                            "~seconds" = rounded(seconds, 1);
                            "Redis is back after {seconds:.1} s"
                        );
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
                log::warn!("~error":% = error; "Redis cannot be used: {error}; waiting for it");
                said = Some(Instant::now());
            }
            waits = waits.or_else(|| slot.as_ref().map(|slot| slot.visit(Phase::Redis)));
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

    /// The number of the present connection, or of the last one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the connection of this number is there.
    pub fn is_connected_as(&self, generation: u64) -> bool {
        self.connection.is_some() && self.generation == generation
    }

    /// Connects, where there is no connection.
    ///
    /// # Errors
    /// Of the way, or of Redis.
    pub fn open(&mut self) -> RedisResult<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let info = self.client.get_connection_info();
        let mut connection = match Plain::connect(info, self.reply_timeout)? {
            Some(plain) => Wire::Plain(plain),
            None => {
                let connection = self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
                connection.set_read_timeout(Some(self.reply_timeout))?;
                connection.set_write_timeout(Some(self.reply_timeout))?;
                Wire::Tls(Box::new(connection))
            }
        };
        if self.database != 0 {
            let mut select = redis::cmd("SELECT");
            connection.send(&select.arg(self.database).get_packed_command())?;
            connection.receive()?.extract_error()?;
        }
        self.generation += 1;
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

/// The error of a connection that is not there any more: it passes by connecting again.
pub fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}

/// Whether the connection is kept: the server refuses to do more for now. All other errors may mean that another server is to
/// be talked to (a fail-over), which only a new connection finds.
pub fn stays(error: &RedisError) -> bool {
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
        || is_crowded(error)
}

/// Whether Redis has as many clients as it takes: it says so in place of the first reply, without a code of its own.
fn is_crowded(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.contains(CROWDED))
}
