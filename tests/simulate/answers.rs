//! What the hosts answer, each in its manner.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use super::limits::Verdict;
use super::network::{DIRECTORY_LATENCY, Manner};
use super::server::Site;
use crate::support::generator::{Random, car, did_document};

/// How long a refusal takes at most: a server refuses before it works.
const REFUSAL: Duration = Duration::from_millis(30);
/// What a host that drips sends at a time: less than 8 KiB in a second by far.
const DRIP: (usize, Duration) = (100, Duration::from_millis(250));
const TERABYTE: u64 = 1_000_000_000_000;
/// A page as proxies send it.
const PAGE: &str = "<html><body><h1>429 Too Many Requests</h1></body></html>";

/// One request.
pub struct Exchange<'e> {
    pub stream: &'e TcpStream,
    pub site: &'e Site,
    pub account: usize,
    /// What the log says at its end.
    pub told: Option<Duration>,
    pub status: u16,
}

impl Exchange<'_> {
    /// The directory's answer.
    pub fn document(&mut self) -> io::Result<()> {
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
    pub fn answer(&mut self, host: usize, now: Duration) -> io::Result<()> {
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
