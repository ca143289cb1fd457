//! A run: Redis, the server, the messages, and the instances of the real program until nothing is left to do.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::Connection;
use serde_json::json;

use super::ends::{self, Ends};
use super::log::{self, Entry};
use super::network::{INSTANCES, Network};
use super::server::{Ports, Server};
use crate::support::backfiller::binary;
use crate::support::child::{self, Running};
use crate::support::events::{INPUT, pending, stream_len};
use crate::support::redis_server::RedisServer;

/// How often it is looked whether anything is left.
const POLL: Duration = Duration::from_millis(100);
/// How long an instance may take to end when it is told to.
const ENDING: Duration = Duration::from_secs(90);

/// What came of it.
pub struct Run {
    pub network: Network,
    /// What the server saw.
    pub log: Vec<Entry>,
    pub ends: Ends,
    /// From the start of the instances to the end of the last message.
    pub wall: Duration,
    /// What the instances were not to do: other exit statuses, panics.
    pub complaints: Vec<String>,
}

/// Lets the program work on the network.
pub fn run(network: Network, server: Server) -> Run {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    enqueue(&mut connection, &network, server.ports());
    let folder = tempfile::Builder::new()
        .prefix("backfiller-logs-")
        .tempdir()
        .expect("a temporary folder");
    let began = Instant::now();
    let mut instances: Vec<Instance> = (0..INSTANCES)
        .map(|number| Instance::start(&network, &redis, server.ports(), folder.path(), number))
        .collect();
    let mut is_left = true;
    while is_left && began.elapsed() < network.settings.patience {
        thread::sleep(POLL);
        is_left = stream_len(&mut connection, INPUT) > 0 || pending(&mut connection) > 0;
        if instances.iter_mut().any(Instance::has_ended) {
            break;
        }
    }
    let wall = began.elapsed();
    let mut complaints: Vec<String> = Vec::new();
    for instance in &instances {
        instance.signal();
    }
    for instance in &mut instances {
        complaints.extend(instance.finish());
    }
    let log = server.finish();
    if let Some(kept) = env::var_os("SIMULATE_LOGS") {
        let written = log::write(&log, &folder.path().join("server.log"));
        written.expect("the log is written");
        keep(folder.path(), Path::new(&kept), network.name);
    }
    Run {
        log,
        ends: ends::read(&mut connection, &network),
        network,
        wall,
        complaints,
    }
}

/// Copies the logs of the instances to where somebody wants to read them.
fn keep(folder: &Path, kept: &Path, name: &str) {
    for entry in fs::read_dir(folder).expect("the folder of the logs") {
        let entry = entry.expect("an entry of the folder");
        let to = kept.join(format!("{name}-{}", entry.file_name().to_string_lossy()));
        fs::copy(entry.path(), to).expect("SIMULATE_LOGS is a folder");
    }
}

/// Puts all messages into the input, in their order.
fn enqueue(connection: &mut Connection, network: &Network, ports: Ports) {
    for part in network.order.chunks(1000) {
        let mut pipeline = redis::pipe();
        for &account in part {
            let account = &network.accounts[account];
            let host = ports.url(network, account.named);
            let message = json!({ "did": account.did, "host": host }).to_string();
            let add = pipeline.cmd("XADD").arg(INPUT).arg("*");
            add.arg("repo").arg(message).ignore();
        }
        let () = pipeline.query(connection).expect("the messages are taken");
    }
}

/// An instance of the program; its log goes into a file.
struct Instance {
    name: String,
    child: Running,
    log: PathBuf,
}

impl Instance {
    fn start(
        network: &Network,
        redis: &RedisServer,
        ports: Ports,
        folder: &Path,
        number: usize,
    ) -> Self {
        let settings = &network.settings;
        let name = format!("instance-{number}");
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a file for the log");
        let named = env::var_os("SIMULATE_BIN").filter(|named| !named.is_empty());
        let mut command = Command::new(named.map_or_else(binary, PathBuf::from));
        command
            .env_clear()
            .envs(env::vars_os().filter(|(key, _)| key == "PATH" || key == "HOME"))
            .env("REDIS_URL", redis.url())
            .env("BACKFILLER_CONSUMER", &name)
            .env("BACKFILLER_CONCURRENCY", settings.workers.to_string())
            .env("BACKFILLER_HOST_RPS", settings.host_rps.to_string())
            .env(
                "BACKFILLER_HOST_CONCURRENCY",
                settings.host_concurrency.to_string(),
            )
            .env(
                "BACKFILLER_MAX_DEFERRED_SECS",
                settings.max_deferred_secs.to_string(),
            )
            .env(
                "BACKFILLER_HTTP_TIMEOUT_SECS",
                settings.http_timeout_secs.to_string(),
            )
            .env(
                "BACKFILLER_ALLOW_PRIVATE_HOSTS",
                settings.private_hosts.to_string(),
            )
            .env("BACKFILLER_PLC_URL", ports.directory())
            // The directory is not what this is about.
            .env("BACKFILLER_PLC_RPS", "100000")
            .env("BACKFILLER_MAX_ATTEMPTS", "3")
            .env("BACKFILLER_RETRY_INITIAL_BACKOFF_MS", "1000")
            .env("BACKFILLER_RETRY_MAX_BACKOFF_MS", "2000")
            // Nobody reads the output, so it must hold all of it.
            .env("BACKFILLER_FIREHOSE_STREAM_HIGH_WATER_MARK", "1000000000")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the same file again"))
            .stderr(file);
        let child = Running(child::spawn(command).expect("the program starts"));
        Instance { name, child, log }
    }

    fn has_ended(&mut self) -> bool {
        self.child
            .0
            .try_wait()
            .expect("the state of a child")
            .is_some()
    }

    /// Tells it to end.
    fn signal(&self) {
        let pid = Pid::from_raw(self.child.pid().try_into().expect("a process id"));
        // One that has ended cannot be told.
        let _ = kill(pid, Signal::SIGTERM);
    }

    /// Waits for its end; what there is to complain of.
    fn finish(&mut self) -> Vec<String> {
        let deadline = Instant::now() + ENDING;
        while !self.has_ended() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let status = self.child.0.try_wait().expect("the state of a child");
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let mut complaints = Vec::new();
        if !status.is_some_and(|status| status.success()) {
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            let _ = writeln!(std::io::stderr(), "{}:\n{end}", self.name);
            let status = status.map_or("it went on".to_owned(), |status| status.to_string());
            complaints.push(format!("{}: {status}", self.name));
        }
        let errors = text
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("panic"));
        complaints.extend(errors.take(5).map(|line| format!("{}: {line}", self.name)));
        complaints
    }
}
