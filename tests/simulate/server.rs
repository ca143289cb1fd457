//! All hosts of a network, and the directory, behind one listener.
//!
//! The local address of a connection says which host was asked. Plain HTTP/1.1 that keeps connections, one thread each; a request is
//! taken for what its path says. Counters and log see a request when its head has been read; a refusal comes after one way through
//! the network, everything else after the host's own latency.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::answers::Exchange;
use super::limits::{Counter, Spelling};
use super::log::{self, Entry, Log, NOBODY};
use super::network::{DIRECTORY, Manner, Network, address, host_at};
use super::networks;
use super::repos::Repos;
use crate::support::child::{self, Running};

/// Where the hosts are.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub open: u16,
    /// Where nobody listens.
    closed: u16,
}

impl Ports {
    fn new(open: u16) -> Self {
        let closed = TcpListener::bind((DIRECTORY, 0)).expect("a free port");
        let closed = closed.local_addr().expect("an address").port();
        Ports { open, closed }
    }

    /// As messages and redirects name a host.
    pub fn url(&self, network: &Network, host: usize) -> String {
        let port = match network.hosts[host].manner {
            Manner::Refused => self.closed,
            _ => self.open,
        };
        format!("http://{}:{port}", address(host))
    }

    pub fn directory(&self) -> String {
        format!("http://{DIRECTORY}:{}", self.open)
    }
}

/// A server that runs, in this process or in one of its own.
pub enum Server {
    Here(Ports, Arc<Site>),
    Child(Ports, Running, tempfile::TempDir),
}

impl Server {
    /// Threads of this process.
    pub fn start(network: &Network) -> Self {
        let (ports, site) = listen(network);
        Server::Here(ports, site)
    }

    /// A process of its own, of this same executable, whose main function hands `serve` to [`main`].
    pub fn spawn(network: &Network) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("backfiller-simulate-")
            .tempdir()
            .expect("a temporary folder");
        let mut command = Command::new(env::current_exe().expect("the path of this program"));
        command
            .args(["serve", network.name, &network.seed.to_string()])
            .arg(log_file(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Running(child::spawn(command).expect("the server starts"));
        let mut port = String::new();
        let out = child.0.stdout.take().expect("a pipe");
        let mut out = BufReader::new(out);
        out.read_line(&mut port).expect("the server's port");
        let port = port.trim().parse().expect("the server's port");
        Server::Child(Ports::new(port), child, folder)
    }

    pub fn ports(&self) -> Ports {
        match self {
            Server::Here(ports, _) | Server::Child(ports, ..) => *ports,
        }
    }

    /// Ends it; what it has seen.
    pub fn finish(self) -> Vec<Entry> {
        match self {
            Server::Here(_, site) => site.log.entries(),
            Server::Child(_, mut child, folder) => {
                // The end of its input tells it.
                drop(child.0.stdin.take());
                let status = child.0.wait().expect("the end of the server");
                assert!(status.success(), "the server ended with {status}");
                log::read(&log_file(folder.path()))
            }
        }
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// `serve <network> <seed> <file>`: prints its port when it is ready, serves until its input ends, and writes the log into the file.
pub fn main(arguments: &[String]) -> ExitCode {
    let network = match arguments {
        [name, seed, _] => seed
            .parse()
            .ok()
            .and_then(|seed| networks::named(name, seed)),
        _ => None,
    };
    let Some(network) = network else {
        eprintln!("serve: a network, a seed and a file are expected");
        return ExitCode::from(2);
    };
    let (ports, site) = listen(&network);
    println!("{}", ports.open);
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let written = log::write(&site.log.entries(), Path::new(&arguments[2]));
    written.expect("the log is written");
    ExitCode::SUCCESS
}

fn listen(network: &Network) -> (Ports, Arc<Site>) {
    let repos = Repos::new(network);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let ports = Ports::new(listener.local_addr().expect("an address").port());
    let counter = |manner, limit| {
        let spelling = match manner {
            Manner::Large | Manner::Relay => Spelling::Policy,
            Manner::Small(spelling) => spelling,
            Manner::Wordless => Spelling::None,
            _ => return None,
        };
        Some(Mutex::new(Counter::new(limit, spelling)))
    };
    let hosts = network.hosts.iter();
    let site = Arc::new(Site {
        counters: hosts.map(|it| counter(it.manner, it.limit)).collect(),
        network: network.clone(),
        repos,
        ports,
        log: Log::new(),
    });
    let served = Arc::clone(&site);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let site = Arc::clone(&served);
            let serve = move || {
                // The client has gone: so has the reason to serve it.
                let _ = stream.and_then(|stream| connection(&stream, &site));
            };
            let thread = thread::Builder::new().stack_size(128 * 1024).spawn(serve);
            thread.expect("a thread for a connection");
        }
    });
    (ports, site)
}

/// All hosts.
pub struct Site {
    pub network: Network,
    pub repos: Repos,
    pub ports: Ports,
    pub counters: Vec<Option<Mutex<Counter>>>,
    log: Log,
}

/// Answers until either side ends it.
fn connection(stream: &TcpStream, site: &Site) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let SocketAddr::V4(local) = stream.local_addr()? else {
        return Ok(());
    };
    let host = host_at(*local.ip()).filter(|&host| host < site.network.hosts.len());
    if host.is_some_and(|host| site.network.hosts[host].manner == Manner::Closed) {
        let place = site.log.arrived(host, NOBODY, site.log.now());
        site.log.ended(place, 0, None);
        return Ok(());
    }
    let mut reader = BufReader::with_capacity(2048, stream);
    while let Some(did) = request(&mut reader)? {
        let account = site.repos.number(&did).unwrap_or(NOBODY);
        let now = site.log.now();
        let place = site.log.arrived(host, account, now);
        let mut exchange = Exchange {
            stream,
            site,
            account,
            told: None,
            status: 0,
        };
        let result = match host {
            None => exchange.document(),
            Some(host) => exchange.answer(host, now),
        };
        site.log.ended(place, exchange.status, exchange.told);
        result?;
    }
    Ok(())
}

/// The DID that the next request names; `None` when the client has gone.
fn request(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let did = target.rsplit(['/', '=']).next().unwrap_or_default();
    let did = did.replace("%3A", ":");
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(did))
}
