//! Why a job stops before its end: it failed, or it must wait for another host than the one that it was begun for.

use super::Key;
use crate::error::{JobError, Reason};
use crate::fetch::host::Host;

/// The host that turned out to be the one to ask, and how many redirects led there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// The host.
    pub host: Host,
    /// Redirects followed until there.
    pub hops: usize,
}

impl Learnt {
    /// A host that no redirect has led to.
    pub fn at_once(host: Host) -> Self {
        Learnt { host, hops: 0 }
    }
}

/// A host cannot be asked now, and a message waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// The host.
    pub key: Key,
    /// Whether it is the one that has the repo, and how that is known.
    pub learnt: Option<Learnt>,
    /// Why it cannot be asked, for the log.
    pub error: JobError,
    /// Whether it was asked, and has refused; else it had no room.
    pub refused: bool,
}

impl Busy {
    /// The host has no room now.
    pub fn new(key: Key, learnt: Option<Learnt>) -> Self {
        let error = JobError::new(Reason::Deferred, format_args!("{key} has no room now"));
        Busy {
            key,
            learnt,
            error,
            refused: false,
        }
    }

    /// The host was asked, and refuses for now.
    pub fn refused(key: Key, learnt: Option<Learnt>, error: JobError) -> Self {
        Busy {
            key,
            learnt,
            error,
            refused: true,
        }
    }

    /// The host that has the repo has no room now.
    pub fn at(learnt: Learnt) -> Self {
        Busy::new(learnt.host.key(), Some(learnt))
    }
}

/// Why a step does not come to its end.
#[derive(Debug)]
pub enum Stopped {
    /// It failed.
    Failed(JobError),
    /// It must wait for another host than the one that it was begun for.
    Busy(Box<Busy>),
}

impl Stopped {
    /// The error, whichever it is.
    pub fn into_error(self) -> JobError {
        match self {
            Stopped::Failed(error) => error,
            Stopped::Busy(busy) => busy.error,
        }
    }
}

impl From<Busy> for Stopped {
    fn from(busy: Busy) -> Self {
        Stopped::Busy(Box::new(busy))
    }
}

impl From<JobError> for Stopped {
    fn from(error: JobError) -> Self {
        Stopped::Failed(error)
    }
}
