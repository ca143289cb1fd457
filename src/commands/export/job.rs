//! One thing to be exported, on its way.

use std::fmt;

use super::sources::Origin;
use crate::commands::accounts::Name;
use crate::fetch::host::Host;
use crate::hosts::Learnt;
use crate::queue::Message;
use crate::queue::progress::Progress;

/// An account or a CAR, and how far it has come.
pub(super) struct Job {
    pub origin: Origin,
    /// Whom to ask for what, as a message would say it; `None`: a CAR, or a handle that is not resolved yet.
    pub message: Option<Message>,
    /// The DID that a handle leads to, whose document has not said so yet.
    pub claimed: Option<String>,
    /// The host that an attempt before has found to be the one to ask.
    pub learnt: Option<Learnt>,
    /// Whether a worker has had it.
    pub begun: bool,
    /// The number of the attempt, from 1.
    pub attempt: u64,
    /// How often it was refused for now.
    pub put_off: u64,
    /// What the worker keeps in Redis of a message: how the attempt before failed, and which leaves are written.
    pub progress: Progress,
}

impl Job {
    /// Nobody has begun it.
    pub(super) fn new(origin: Origin, host: Option<&Host>) -> Self {
        let message = match &origin {
            Origin::Account(Name::Did(did)) => Some(message(did, host)),
            _ => None,
        };
        Job {
            origin,
            message,
            claimed: None,
            learnt: None,
            begun: false,
            attempt: 1,
            put_off: 0,
            progress: Progress::default(),
        }
    }

    /// The handle was resolved: it is an account now, of which nothing has been tried.
    pub(super) fn becomes(&mut self, message: Message) {
        self.message = Some(message);
        self.claimed = None;
        self.attempt = 1;
        self.put_off = 0;
        self.progress = Progress::default();
    }

    /// Whether it is a handle that is not resolved yet.
    pub(super) fn is_handle(&self) -> bool {
        self.message.is_none() && matches!(self.origin, Origin::Account(Name::Handle(_)))
    }

    /// What its waits are counted by.
    pub(super) fn did(&self) -> &str {
        self.message.as_ref().map_or("", |message| &message.did)
    }
}

impl fmt::Display for Job {
    /// What was asked for, and the DID that it turned out to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, &self.message) {
            (Origin::Account(Name::Handle(handle)), Some(message)) => {
                write!(f, "{handle} ({})", message.did)
            }
            (origin, _) => origin.fmt(f),
        }
    }
}

/// What asks for this account, at this host or at its own.
pub(super) fn message(did: &str, host: Option<&Host>) -> Message {
    Message {
        did: did.to_owned(),
        host: host.cloned(),
        rev: None,
    }
}
