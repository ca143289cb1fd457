//! The operator's side of the program: its HTTP server, asked as any client would, over a plain socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use prometheus_parse::{Sample, Scrape, Value};
use serde_json::Value as Json;

use super::backfiller::{Backfiller, Builder};
use super::fixture_server::FixtureServer;
use super::redis_server::RedisServer;
use super::wait::{LIMIT, eventually};

/// A Redis and a server of repos.
pub fn servers() -> (RedisServer, FixtureServer) {
    (RedisServer::start(), FixtureServer::start())
}

/// A program of these with a server on a free port.
pub fn program(redis: &RedisServer, server: &FixtureServer) -> Builder {
    watched(Backfiller::builder(redis, server))
}

/// Ends it by Ctrl-C.
#[track_caller]
pub fn ends_well(mut backfiller: Backfiller) {
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
}

/// Waits until it says that it works.
#[track_caller]
pub fn wait_until_ready(ops: Ops) {
    eventually("it is ready", || {
        ops.readiness() == (200, "ready".to_owned())
    });
}

/// Where the server of a program listens.
#[derive(Clone, Copy, Debug)]
pub struct Ops(pub SocketAddr);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// The program with a server on a free port.
pub fn watched(program: Builder) -> Builder {
    program.env("BACKFILLER_METRICS_PORT", "0")
}

impl Ops {
    /// Where this program says that it listens, in either form of the log.
    #[track_caller]
    pub fn of(backfiller: &Backfiller) -> Self {
        const SAID: &str = "/ shows the status";
        let line = backfiller.wait_for_line(|line| line.contains(SAID));
        let (until, _) = line.split_once(SAID).expect("what was waited for");
        let (_, address) = until.rsplit_once("http://").expect("a URL");
        Self(address.parse().expect("an address"))
    }

    /// `http://<address>/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.0)
    }

    /// A connection on which nothing has been said.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.0, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// Sends these bytes and reads what comes until the end.
    pub fn send(&self, request: &[u8]) -> io::Result<Reply> {
        let mut stream = self.connect()?;
        stream.write_all(request)?;
        Reply::read(&mut stream)
    }

    /// A request with this method and this `Host`.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, host: &str) -> Reply {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        match self.send(request.as_bytes()) {
            Ok(reply) => reply,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &self.0.to_string())
    }

    /// Status and first line of `/readyz`.
    #[track_caller]
    pub fn readiness(&self) -> (u16, String) {
        let reply = self.get("/readyz");
        (reply.status, reply.body.trim_end().to_owned())
    }

    #[track_caller]
    pub fn status(&self) -> Json {
        let reply = self.get("/status.json");
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str(&reply.body).expect("JSON")
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let reply = self.get("/metrics");
        assert_eq!(reply.status, 200, "{}", reply.body);
        let kind = &reply.headers["content-type"];
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        Metrics::read(reply.body)
    }
}

impl Reply {
    /// Reads an answer until the end of its connection.
    pub fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other(format!("no answer: {text:?}")))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        Ok(Self {
            status: status.ok_or_else(|| io::Error::other("no status"))?,
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        })
    }
}

/// What `/metrics` says, as a scraper understands it.
pub struct Metrics {
    pub text: String,
    pub scrape: Scrape,
}

impl Metrics {
    /// Parses the text, in which each line must be of use: a sample of a metric that was described before, once.
    #[track_caller]
    fn read(text: String) -> Self {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).expect("Prometheus's format");
        let series = Self::series_of(&text);
        let distinct: BTreeSet<_> = series.iter().collect();
        assert_eq!(distinct.len(), series.len(), "a series twice: {text}");
        // Of a histogram the parser makes one sample, with `_sum` and `_count` as samples of their own.
        let buckets = |sample: &Sample| match &sample.value {
            Value::Histogram(buckets) => buckets.len(),
            _ => 1,
        };
        let understood: usize = scrape.samples.iter().map(buckets).sum();
        assert_eq!(
            understood,
            series.len(),
            "lines that are no samples: {text}"
        );
        for sample in &scrape.samples {
            assert!(
                !matches!(sample.value, Value::Untyped(_)) || {
                    let name = &sample.metric;
                    name.ends_with("_sum") || name.ends_with("_count")
                },
                "{} has no type",
                sample.metric
            );
        }
        Self { text, scrape }
    }

    /// The names with their labels.
    pub fn series(&self) -> Vec<String> {
        Self::series_of(&self.text)
    }

    fn series_of(text: &str) -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').expect("a value").0.to_owned())
            .collect()
    }

    /// The value of the one sample of this name.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        self.labelled(name, &[])
    }

    /// The count of this reason.
    #[track_caller]
    pub fn of_reason(&self, name: &str, reason: &str) -> f64 {
        self.labelled(name, &[("reason", reason)])
    }

    #[track_caller]
    fn labelled(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut samples = self.scrape.samples.iter().filter(|sample| {
            sample.metric == name
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(k, v)| sample.labels.get(k) == Some(v))
        });
        let value = match samples.next().map(|sample| &sample.value) {
            Some(Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value)) => *value,
            other => panic!("{name} {labels:?}: {other:?}"),
        };
        assert!(samples.next().is_none(), "{name} {labels:?} twice");
        value
    }

    /// How many observations the histogram has, and their sum; its buckets must agree with them.
    #[track_caller]
    pub fn histogram(&self, name: &str) -> (f64, f64) {
        let mut samples = self.scrape.samples.iter();
        let sample = samples.find(|sample| sample.metric == name);
        let Some(Value::Histogram(buckets)) = sample.map(|sample| &sample.value) else {
            panic!("{name}: {sample:?}");
        };
        let counts: Vec<_> = buckets.iter().map(|bucket| bucket.count).collect();
        assert!(counts.is_sorted(), "{name}: {counts:?}");
        let count = self.value(&format!("{name}_count"));
        let last = buckets.last().expect("a bucket");
        assert_eq!((last.less_than, last.count), (f64::INFINITY, count));
        (count, self.value(&format!("{name}_sum")))
    }
}

/// How many sockets the program has open.
pub fn sockets(backfiller: &Backfiller) -> usize {
    let folder = format!("/proc/{}/fd", backfiller.pid());
    let descriptors = fs::read_dir(folder).expect("the descriptors");
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}
