//! All hosts of a network, and the directory, behind one listener.
//!
//! The local address of a connection says which host was asked. Plain HTTP/1.1 that keeps connections, one thread each; a request is
//! taken for what its path says. Counters and log see a request when its head has been read; a refusal comes after one way through
//! the network, everything else after the host's own latency.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::limits::{Counter, Spelling, Verdict};
use super::log::{self, Entry, Log, NOBODY};
use super::network::{DIRECTORY, DIRECTORY_LATENCY, Manner, Network, address, host_at};
use super::networks;
use super::repos::Repos;
use crate::support::child::{self, Running};
use crate::support::generator::{Random, car, did_document};

/// How long a refusal takes at most: a server refuses before it works.
const REFUSAL: Duration = Duration::from_millis(30);
/// What a host that drips sends at a time: less than 8 KiB in a second by far.
const DRIP: (usize, Duration) = (100, Duration::from_millis(250));
const TERABYTE: u64 = 1_000_000_000_000;
/// A page as proxies send it.
const PAGE: &str = "<html><body><h1>429 Too Many Requests</h1></body></html>";

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
    network: Network,
    repos: Repos,
    ports: Ports,
    counters: Vec<Option<Mutex<Counter>>>,
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

/// One request.
struct Exchange<'e> {
    stream: &'e TcpStream,
    site: &'e Site,
    account: usize,
    /// What the log says at its end.
    told: Option<Duration>,
    status: u16,
}

impl Exchange<'_> {
    /// The directory's answer.
    fn document(&mut self) -> io::Result<()> {
        thread::sleep(DIRECTORY_LATENCY);
        let Site {
            network,
            repos,
            ports,
            ..
        } = self.site;
        let Some(account) = network.accounts.get(self.account) else {
            return self.send(404, "", "application/json", b"{}");
        };
        let pds = ports.url(network, account.host);
        let document = did_document(&account.did, repos.key(self.account), &pds).to_string();
        self.send(200, "", "application/did+ld+json", document.as_bytes())
    }

    /// A host's answer.
    fn answer(&mut self, host: usize, now: Duration) -> io::Result<()> {
        let it = &self.site.network.hosts[host];
        let verdict = self.site.counters[host].as_ref().map(|counter| {
            let mut counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
            counter.count(now)
        });
        let mut headers = String::new();
        if let Some(verdict) = verdict {
            self.told = verdict.told;
            if verdict.is_refused {
                return self.refuse(&verdict, it.latency);
            }
            headers = verdict.headers;
        }
        thread::sleep(it.latency);
        let Some(account) = self.site.network.accounts.get(self.account) else {
            return self.send(400, "", "application/json", br#"{"error":"RepoNotFound"}"#);
        };
        let redirect = |url: String| {
            let did = &account.did;
            format!("Location: {url}/xrpc/com.atproto.sync.getRepo?did={did}\r\n")
        };
        let url = |host| self.site.ports.url(&self.site.network, host);
        match it.manner {
            Manner::Large | Manner::Small(_) | Manner::Wordless => {
                self.repo(self.account, &headers)
            }
            Manner::Forged => self.repo(0, &headers),
            Manner::Relay => {
                let location = headers + &redirect(url(account.host));
                self.send(307, &location, "text/plain", b"")
            }
            Manner::Loop => self.send(302, &redirect(url(host)), "text/plain", b""),
            Manner::Metadata => {
                let location = "Location: http://169.254.169.254/latest/meta-data/\r\n";
                self.send(302, location, "text/plain", b"")
            }
            Manner::Garbage => {
                let mut random = Random::new(self.account as u64);
                let noise: Vec<u8> = (0..256).flat_map(|_| random.bits().to_be_bytes()).collect();
                self.send(200, "", CAR, &noise)
            }
            Manner::Huge => {
                self.status = 200;
                let head = head(200, "", CAR, TERABYTE);
                { self.stream }.write_all(head.as_bytes())?;
                self.until_the_client_goes()
            }
            Manner::Drip => self.drip(),
            // Nobody comes to the first two.
            Manner::Refused | Manner::Closed | Manner::Silent => self.until_the_client_goes(),
        }
    }

    fn refuse(&mut self, verdict: &Verdict, latency: Duration) -> io::Result<()> {
        thread::sleep(latency.min(REFUSAL));
        self.send(429, &verdict.headers, "text/html", PAGE.as_bytes())
    }

    fn repo(&mut self, account: usize, headers: &str) -> io::Result<()> {
        let repo = self.site.repos.get(account);
        let mut answer = head(
            200,
            headers,
            CAR,
            (repo.head.len() + repo.body.frames.len()) as u64,
        )
        .into_bytes();
        answer.extend_from_slice(&repo.head);
        answer.extend_from_slice(&repo.body.frames);
        self.status = 200;
        { self.stream }.write_all(&answer)
    }

    /// A CAR with a commit as it should be, and then a block that never becomes whole.
    fn drip(&mut self) -> io::Result<()> {
        const BLOCK: usize = 1 << 20;
        let repo = self.site.repos.get(self.account);
        let length = repo.head.len() + BLOCK;
        let mut start = head(200, "", CAR, length as u64).into_bytes();
        start.extend_from_slice(&repo.head);
        start.extend(car::frame(&vec![0; BLOCK])[..8].iter());
        self.status = 200;
        { self.stream }.write_all(&start)?;
        loop {
            thread::sleep(DRIP.1);
            { self.stream }.write_all(&[0; DRIP.0])?;
        }
    }

    fn until_the_client_goes(&mut self) -> io::Result<()> {
        while { self.stream }.read(&mut [0; 64])? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn send(&mut self, status: u16, headers: &str, kind: &str, body: &[u8]) -> io::Result<()> {
        self.status = status;
        let mut answer = head(status, headers, kind, body.len() as u64).into_bytes();
        answer.extend_from_slice(body);
        { self.stream }.write_all(&answer)
    }
}

const CAR: &str = "application/vnd.ipld.car";

fn head(status: u16, headers: &str, kind: &str, length: u64) -> String {
    format!(
        "HTTP/1.1 {status} -\r\n{headers}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )
}
