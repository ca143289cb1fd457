//! What is parked for one host, in the order in which it is claimed.
//!
//! There are three kinds, which take turns, each in its own order. So a message that has failed does not wait for the thousands that were
//! read since, thousands that fail again and again do not keep the new ones waiting, and those that redirects have led here, however
//! many, keep neither. Those that must be looked up in the directory stand apart from the others, for it may be closed when their host
//! is not; both take turns where it is open.

use std::collections::VecDeque;

use super::super::EntryId;
use crate::hosts::Learnt;

/// A message that is remembered and not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The id of its entry.
    pub id: EntryId,
    /// Where a redirect or a DID document led, when it was begun before. (Few have one, and all take room.)
    pub learnt: Option<Box<Learnt>>,
    /// Whether its DID must be looked up in the directory.
    pub needs_directory: bool,
}

/// Why a message is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It had its turn, and its host had no room for it after all.
    Returned,
    /// It was read for the first time.
    New,
    /// It is due again.
    Again,
}

/// The parked messages of one host.
#[derive(Default)]
pub struct Parking {
    /// Without and with a look-up.
    queues: [Queue; 2],
    /// The queue that has the next turn, if it may have one.
    next: usize,
}

/// Messages by kind.
#[derive(Default)]
struct Queue {
    kinds: [VecDeque<Parked>; 3],
    /// The kind that has the next turn, if there is one of it.
    next: usize,
}

impl Parking {
    /// The last of its kind.
    pub fn push(&mut self, parked: Parked, kind: Kind) {
        self.queues[usize::from(parked.needs_directory)].kinds[kind as usize].push_back(parked);
    }

    /// The first of the kind whose turn it is; `directory_open`: also of those that must be looked up.
    pub fn pop(&mut self, directory_open: bool) -> Option<Parked> {
        let first = if directory_open { self.next } else { 0 };
        self.next = 1 - first;
        let parked = self.queues[first].pop();
        parked.or_else(|| {
            directory_open
                .then(|| self.queues[1 - first].pop())
                .flatten()
        })
    }

    /// The one that came last: a new one, if there is any, for nothing is known of it that could be lost.
    pub fn pop_last(&mut self) -> Option<Parked> {
        self.queues.iter_mut().rev().find_map(Queue::pop_last)
    }

    /// How many there are; `directory_open`: those included that must be looked up.
    pub fn len(&self, directory_open: bool) -> usize {
        let [without, with] = &self.queues;
        without.len() + if directory_open { with.len() } else { 0 }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len(true) == 0
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Parked> {
        for _ in 0..self.kinds.len() {
            let kind = self.next;
            self.next = (kind + 1) % self.kinds.len();
            if let Some(parked) = self.kinds[kind].pop_front() {
                return Some(parked);
            }
        }
        None
    }

    fn pop_last(&mut self) -> Option<Parked> {
        let kinds = [Kind::New, Kind::Again, Kind::Returned].into_iter();
        kinds
            .filter_map(|kind| self.kinds[kind as usize].pop_back())
            .next()
    }

    fn len(&self) -> usize {
        self.kinds.iter().map(VecDeque::len).sum()
    }
}
