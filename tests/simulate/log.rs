//! The log of the server: every request of every host, as it came and went.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The number that stands for a connection that was ended before it said whom it is about.
pub const NOBODY: usize = usize::MAX;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// `None` is the directory.
    pub host: Option<usize>,
    /// The number of the account, or [`NOBODY`].
    pub account: usize,
    /// When it had been read.
    pub arrived: Duration,
    /// When the whole answer had been written, or the client had gone.
    pub ended: Duration,
    /// 0: no answer.
    pub status: u16,
    /// How long the client was told to stay away.
    pub told: Option<Duration>,
}

/// A log that is being written. Times are counted from its beginning.
pub struct Log {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl Log {
    pub fn new() -> Self {
        Log {
            began: Instant::now(),
            entries: Mutex::default(),
        }
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A request has come; returns its place.
    pub fn arrived(&self, host: Option<usize>, account: usize, at: Duration) -> usize {
        let mut entries = self.lock();
        entries.push(Entry {
            host,
            account,
            arrived: at,
            ended: Duration::MAX,
            status: 0,
            told: None,
        });
        entries.len() - 1
    }

    /// It was answered, or its client has gone.
    pub fn ended(&self, place: usize, status: u16, told: Option<Duration>) {
        let ended = self.now();
        let entry = &mut self.lock()[place];
        (entry.ended, entry.status, entry.told) = (ended, status, told);
    }

    /// All of it; what is still under way ends now.
    pub fn entries(&self) -> Vec<Entry> {
        let (now, mut entries) = (self.now(), self.lock().clone());
        for entry in &mut entries {
            entry.ended = entry.ended.min(now);
        }
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes entries into a file: a line each, six numbers, -1 for what is not there; times in microseconds.
pub fn write(entries: &[Entry], path: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(fs::File::create(path)?);
    for entry in entries {
        let optional = |value: Option<i64>| value.unwrap_or(-1);
        writeln!(
            file,
            "{} {} {} {} {} {}",
            optional(entry.host.map(|host| host as i64)),
            optional((entry.account != NOBODY).then_some(entry.account as i64)),
            entry.arrived.as_micros(),
            entry.ended.as_micros(),
            entry.status,
            optional(entry.told.map(|told| told.as_micros() as i64)),
        )?;
    }
    file.flush()
}

/// Reads them back.
pub fn read(path: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(path).expect("the log of the server");
    let line = |line: &str| {
        let numbers: Vec<i64> = line
            .split(' ')
            .map(|word| word.parse().expect("a number"))
            .collect();
        let [host, account, arrived, ended, status, told] = numbers[..] else {
            panic!("six numbers a line: {line}");
        };
        let micros = |number: i64| Duration::from_micros(number as u64);
        Entry {
            host: usize::try_from(host).ok(),
            account: usize::try_from(account).unwrap_or(NOBODY),
            arrived: micros(arrived),
            ended: micros(ended),
            status: status as u16,
            told: (told >= 0).then(|| micros(told)),
        }
    };
    text.lines().map(line).collect()
}
