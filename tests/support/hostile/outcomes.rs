//! What became of each account of a run, as the log says it.

use std::net::{SocketAddr, TcpListener, TcpStream};

use nix::sys::signal::Signal;

use super::super::backfiller::Backfiller;
use super::super::wait::eventually;

/// The end of one job.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub did: String,
    /// `done`, or the reason of the failure.
    pub how: String,
    pub host: String,
    /// The whole line.
    pub line: String,
}

impl Outcome {
    fn read(line: &str) -> Option<Self> {
        let text = line.split_once("] ")?.1;
        let (kind, fields) = text.split_once(' ')?;
        let how = match kind {
            "done" => "done",
            "failed" | "deferred" => field(fields, "reason")?,
            _ => return None,
        };
        Some(Self {
            did: field(fields, "did")?.to_owned(),
            how: how.to_owned(),
            host: field(fields, "host")?.to_owned(),
            line: line.to_owned(),
        })
    }

    /// A number that the line names.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = field(&self.line, name);
        match text.and_then(|text| text.parse().ok()) {
            Some(number) => number,
            None => panic!("no number {name} in {:?}", self.line),
        }
    }
}

/// The value of the first `name=value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// All that have been logged so far, in their order.
pub fn so_far(backfiller: &Backfiller) -> Vec<Outcome> {
    let lines = backfiller.lines();
    lines
        .iter()
        .filter_map(|line| Outcome::read(line))
        .collect()
}

/// No attempt has failed or was put off.
#[track_caller]
pub fn assert_none_failed(backfiller: &Backfiller) {
    let ended = so_far(backfiller).into_iter();
    let failed: Vec<_> = ended.filter(|outcome| outcome.how != "done").collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Waits until so many jobs have ended.
#[track_caller]
pub fn wait_for(backfiller: &Backfiller, count: usize) -> Vec<Outcome> {
    eventually(&format!("{count} jobs have ended"), || {
        let outcomes = so_far(backfiller);
        (outcomes.len() >= count).then_some(outcomes)
    })
}

/// Ends the program with Ctrl-C, which must work as it should; returns the summary line.
#[track_caller]
pub fn stop(mut backfiller: Backfiller) -> String {
    assert!(backfiller.is_running());
    backfiller.signal(Signal::SIGINT);
    assert_eq!(backfiller.wait().code(), Some(0));
    backfiller.wait_for_line(|line| line.contains("] summary "))
}

/// How the one job of the account ended.
#[track_caller]
pub fn of<'a>(outcomes: &'a [Outcome], did: &str) -> &'a Outcome {
    let of_it: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.did == did)
        .collect();
    match of_it[..] {
        [outcome] => outcome,
        _ => panic!("not one outcome of {did}, but {of_it:#?}"),
    }
}

/// An address that refuses every connection for as long as this lives: its port is taken by a client.
pub struct DeadEnd {
    _listener: TcpListener,
    client: TcpStream,
}

impl DeadEnd {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("a connection");
        Self {
            _listener: listener,
            client,
        }
    }

    pub fn url(&self) -> String {
        let address: SocketAddr = self.client.local_addr().expect("an address");
        format!("http://{address}")
    }
}
