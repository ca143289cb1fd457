//! A Redis server of one's own: free port, temporary folder, gone with its owner.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::child;
use super::wait::{LIMIT, within};

/// Names the server program to use instead of the one found in `PATH`.
pub const PROGRAM_VARIABLE: &str = "BACKFILLER_TEST_REDIS_SERVER";

/// Ports are taken from below the range from which the system numbers outgoing connections: so no
/// client of another test can sit on the port of a server that is stopped and about to be
/// restarted.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// The ports of all servers of this process, stopped ones included.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A running (or stopped) private server. Without persistence unless the arguments ask for it.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    args: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments, such as `&["--appendonly", "yes"]`; they win over
    /// the harness's own.
    pub fn start_with(args: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("backfiller-redis-")
            .tempdir()
            .expect("a temporary folder");
        let mut server = Self {
            child: None,
            port: 0,
            args: args.iter().map(ToString::to_string).collect(),
            folder,
        };
        let deadline = Instant::now() + LIMIT;
        loop {
            server.port = reserve_port();
            match server.launch() {
                Ok(()) => return server,
                Err(log) if Instant::now() < deadline && port_was_taken(&log) => {
                    give_back(server.port);
                }
                Err(log) => panic!("the Redis server does not start:\n{log}"),
            }
        }
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port; a restart keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its files; a restart keeps them.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id, for signals such as SIGSTOP.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A new connection.
    pub fn connection(&self) -> redis::Connection {
        let connection = self.try_connection();
        connection.unwrap_or_else(|error| panic!("no connection to {}: {error}", self.url()))
    }

    fn try_connection(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(self.url())?;
        let connection = client.get_connection_with_timeout(LIMIT)?;
        connection.set_read_timeout(Some(LIMIT))?;
        connection.set_write_timeout(Some(LIMIT))?;
        Ok(connection)
    }

    /// Kills the server (SIGKILL). What it had not written to its folder is lost.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the server if it runs and starts it again on the same port and folder with the same
    /// arguments.
    pub fn restart(&mut self) {
        self.stop();
        let deadline = Instant::now() + LIMIT;
        while let Err(log) = self.launch() {
            assert!(
                Instant::now() < deadline && port_was_taken(&log),
                "the Redis server does not start again:\n{log}"
            );
        }
    }

    /// One try on `self.port`; the error is the server's log.
    fn launch(&mut self) -> Result<(), String> {
        let log = self.folder.path().join("redis.log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(program());
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.folder.path())
            .arg("--logfile")
            .arg(&log)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = command.get_program().to_owned();
        let child = child::spawn(command)
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let child = self.child.insert(child);
        let pid = child.id();

        let ended = |child: &mut Option<Child>| {
            let child = child.as_mut().expect("it was started");
            child.try_wait().expect("its state is known").is_some()
        };
        let up = within(LIMIT, || {
            if ended(&mut self.child) {
                return Some(false);
            }
            self.answers_as(pid).then_some(true)
        });
        if up == Some(true) {
            return Ok(());
        }
        self.stop();
        Err(fs::read_to_string(&log).unwrap_or_else(|error| format!("(no log: {error})")))
    }

    /// Whether PING is answered, and by this very process: another one may have been faster to take
    /// the port.
    fn answers_as(&self, pid: u32) -> bool {
        let ask = || -> redis::RedisResult<bool> {
            let client = redis::Client::open(self.url())?;
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
            connection.set_read_timeout(Some(Duration::from_secs(1)))?;
            redis::cmd("PING").exec(&mut connection)?;
            let info: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
            Ok(info
                .lines()
                .any(|line| line.trim_end() == format!("process_id:{pid}")))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        give_back(self.port);
    }
}

/// The server program: the one named by the environment, else the first of the known names in
/// `PATH`.
fn program() -> PathBuf {
    if let Some(named) = env::var_os(PROGRAM_VARIABLE) {
        return named.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "neither redis-server nor valkey-server is in PATH; {PROGRAM_VARIABLE} may name one"
            )
        })
}

/// A port that nobody listens on and no other server of this process has. Each process begins
/// somewhere else.
fn reserve_port() -> u16 {
    let mut taken = TAKEN
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let taken = taken.get_or_insert_default();
    let count = PORTS.end - PORTS.start;
    let first =
        (u64::from(std::process::id()) * 7_919 + 131 * taken.len() as u64) % u64::from(count);
    (0..count)
        .map(|step| PORTS.start + ((first + u64::from(step)) % u64::from(count)) as u16)
        .find(|port| {
            !taken.contains(port)
                && TcpListener::bind(("127.0.0.1", *port)).is_ok()
                && taken.insert(*port)
        })
        .expect("a free port")
}

fn give_back(port: u16) {
    let mut taken = TAKEN
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    taken.get_or_insert_default().remove(&port);
}

fn port_was_taken(log: &str) -> bool {
    log.contains("Address already in use")
}
