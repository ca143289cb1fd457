//! A transaction of the program: its commands, what it is for, and what became of it.

use super::super::events::{DEAD_LETTERS, INPUT, OUTPUT};
use super::rules::Action;

/// A command's name and arguments.
pub type Command = Vec<Vec<u8>>;

/// A MULTI … EXEC block as it came from a client, before it is sent to the server.
#[derive(Debug)]
pub struct Exec {
    /// Its place among all that came through the proxy, from 0.
    pub number: usize,
    /// The connection on which it came, from 0 in the order of their being accepted.
    pub connection: usize,
    /// What is between MULTI and EXEC.
    pub commands: Vec<Command>,
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events of a message, and more are to come.
    Chunk,
    /// The last events of a message, with its acknowledgement.
    LastChunk,
    /// A dead letter, with the acknowledgement of the message.
    DeadLetter,
    /// Anything else, such as a failed attempt.
    Other,
}

impl Exec {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        let acknowledges = self.has(b"XACK", INPUT);
        match (self.has(b"XADD", OUTPUT), acknowledges) {
            (true, true) => Kind::LastChunk,
            (true, false) => Kind::Chunk,
            (false, true) if self.has(b"XADD", DEAD_LETTERS) => Kind::DeadLetter,
            _ => Kind::Other,
        }
    }

    /// Whether it writes events, and is not the last of its message to do so.
    pub fn is_chunk(&self) -> bool {
        self.kind() == Kind::Chunk
    }

    /// Whether it writes the last events of a message, and acknowledges it.
    pub fn is_last_chunk(&self) -> bool {
        self.kind() == Kind::LastChunk
    }

    /// Whether it writes events, be they the last of their message or not.
    pub fn writes_events(&self) -> bool {
        matches!(self.kind(), Kind::Chunk | Kind::LastChunk)
    }

    /// Whether it writes a dead letter, and acknowledges the message.
    pub fn is_dead_letter(&self) -> bool {
        self.kind() == Kind::DeadLetter
    }

    /// The id of the message that it is about: the one that it acknowledges or claims, or whose progress it writes.
    pub fn id(&self) -> Option<String> {
        let acknowledged = self.find(b"XACK", INPUT).and_then(|it| it.get(3));
        let claimed = || self.find(b"XCLAIM", INPUT).and_then(|it| it.get(5));
        let progress = || {
            let key = format!("{OUTPUT}:progress:{INPUT}:");
            let mut commands = self.commands.iter();
            let key = commands.find_map(|it| it.get(1).filter(|it| it.starts_with(key.as_bytes())));
            key.and_then(|key| key.rsplit(|byte| *byte == b':').next())
        };
        let id = acknowledged.or_else(claimed).map(Vec::as_slice);
        let id = id.or_else(progress)?;
        Some(String::from_utf8_lossy(id).into_owned())
    }

    fn has(&self, name: &[u8], key: &str) -> bool {
        self.find(name, key).is_some()
    }

    fn find(&self, name: &[u8], key: &str) -> Option<&Command> {
        let mut commands = self.commands.iter();
        commands.find(|it| {
            it[0].eq_ignore_ascii_case(name) && it.get(1).is_some_and(|it| it == key.as_bytes())
        })
    }
}

/// What the server did with a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not been given its EXEC: that is held, or was cut off.
    NotSent,
    /// It has its EXEC, and has not answered yet.
    Unanswered,
    /// It was executed.
    Applied,
    /// A watched key had changed, so that it was not executed.
    Nil,
    /// Any other answer, such as EXECABORT.
    Refused(String),
}

/// What is kept of each transaction.
#[derive(Clone, Debug)]
pub struct Record {
    /// As [`Exec::number`].
    pub number: usize,
    /// As [`Exec::connection`].
    pub connection: usize,
    /// As [`Exec::kind`].
    pub kind: Kind,
    /// As [`Exec::id`].
    pub id: Option<String>,
    /// What a rule did with it.
    pub action: Option<Action>,
    /// What the server did with it.
    pub outcome: Outcome,
    /// Whether the server's reply was handed on to the client, who may be gone all the same.
    pub handed_on: bool,
}

impl Record {
    /// Whether it was executed.
    pub fn is_applied(&self) -> bool {
        self.outcome == Outcome::Applied
    }

    /// Whether it was answered with nil.
    pub fn is_nil(&self) -> bool {
        self.outcome == Outcome::Nil
    }

    /// Whether it wrote events, or was to.
    pub fn writes_events(&self) -> bool {
        matches!(self.kind, Kind::Chunk | Kind::LastChunk)
    }
}
